"""Six steps of SGD with Nesterov momentum: a classifier alone, and with its encoder."""

import functools
from collections.abc import Iterator
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_data
from byol_jax.augment import byol, compose
from byol_jax.evals.sgd import classifiers
from byol_jax.networks import siamese
from byol_jax.optim import schedules
from byol_jax.runtime import spmd

MODES = ("frozen", "finetune")
FLOAT32, FLOAT64 = "", "float64/"


def network_spec(meta: Any, axis: str | None) -> siamese.NetworkSpec:
    return siamese.NetworkSpec(
        depth=golden_data.depth_of(meta["encoder"]),
        bn_decay=meta["bn"]["decay_rate"],
        bn_eps=meta["bn"]["eps"],
        bn_axis=axis,
    )


def encoder(meta: Any, network: hk.TransformedWithState, dtype: type) -> classifiers.Encoder:
    """Parameters and BatchNorm averages by the recipe."""
    init = functools.partial(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), True)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        name = "/".join(entry.key for entry in path)
        array = golden_data.recipe(meta["param_salt"], name, leaf.shape)
        return array if array.dtype == np.int32 else array.astype(dtype)

    params, state = jax.eval_shape(init)
    return tuple(jax.tree_util.tree_map_with_path(fill, tree) for tree in (params, state))


def hyperparameters(meta: Any, rates: list[float]) -> classifiers.Hyperparameters:
    scale = functools.partial(schedules.scaled_learning_rate, batch_size=meta["batch_size"])
    return classifiers.Hyperparameters(
        learning_rates=np.array([scale(rate) for rate in rates]),
        warmup_steps=meta["warmup_steps"],
        total_steps=meta["max_steps"],
        momentum=meta["momentum"],
        weight_decay=0.0,
        label_smoothing=0.0,
        logit_clip=0.0,
        logit_penalty=0.0,
        view=compose.AugmentParams(),
        magnitude=0.0,
    )


def views_of(images: np.ndarray, dtype: type) -> Any:
    # Divided by numpy, exactly as in the golden runs: XLA rounds otherwise.
    return byol.normalize((np.float32(images) / np.float32(255)).astype(dtype))


def run(
    mode: str, prefix: str, devices: int, order: np.ndarray, others: list[float]
) -> golden_data.Results:
    """Repeats one of the two runs; on a frozen encoder with more classifiers beside it."""
    golden = golden_data.load("linear_eval")
    meta, dtype = golden.meta, np.float64 if prefix == FLOAT64 else np.float32
    axis = spmd.AXIS if devices > 1 else None
    network = siamese.encoder(network_spec(meta, axis))
    results: golden_data.Results = {}
    with jax.enable_x64(prefix == FLOAT64):
        given = encoder(meta, network, dtype)
        rates = [*others, meta["base_learning_rate"]]
        heads = {
            leaf: np.stack([golden.arrays[f"init/classifier_{leaf}"].astype(dtype)] * len(rates))
            for leaf in ("w", "b")
        }
        is_frozen = mode == "frozen"
        state = classifiers.init(heads, None if is_frozen else given)
        frozen = given if is_frozen else ({}, {})
        step = functools.partial(classifiers.step, network=network, axis=axis)
        if devices > 1:
            used = jax.local_devices()[:devices]
            mapped = spmd.pmap(step, in_axes=(0, 0, 0, None, None), devices=used)
            state = spmd.replicate(state, used)
        else:
            mapped = jax.jit(step)
        hparams = hyperparameters(meta, rates)
        heads_after, losses = [], []
        for images, labels in zip(golden.arrays["images_u8"], golden.arrays["labels"], strict=True):
            batch = views_of(images[order], dtype), labels[order]
            if devices > 1:
                batch = spmd.shard(jax.tree.map(np.asarray, batch), devices=used)
            state, logs = mapped(state, *batch, hparams, frozen)
            host, logs = jax.device_get((state, logs))
            if devices > 1:
                host, logs = jax.tree.map(lambda x: x[0], (host, logs))
            heads_after.append(jax.tree.map(lambda x: x[-1], host.heads))
            losses.append(logs["loss"][-1])
        assert host.finite and host.step == meta["steps"]
        trained = given if is_frozen else host.encoder
        for leaf in ("w", "b"):
            results[f"{mode}/classifier_{leaf}"] = np.stack([heads[leaf] for heads in heads_after])
        results[f"{mode}/train_loss"] = np.stack(losses)
        if not is_frozen:
            for kind, tree in zip(("params", "state"), trained, strict=True):
                for name, leaf in golden_data.flatten(tree).items():
                    results[f"finetune/final/backbone_{kind}/{name}"] = leaf
        last = jax.tree.map(lambda x: x[None], heads_after[-1])
        eval_network = siamese.encoder(network_spec(meta, None))
        images, labels = golden.arrays["images_u8"][0], golden.arrays["labels"][0]
        outputs, _ = eval_network.apply(*trained, None, views_of(images, dtype), False)
        logits = classifiers.apply_heads(last, outputs["embedding"])[0]
        losses, _ = classifiers.cross_entropy(logits, labels, 0.0)
        ranked = np.argsort(-np.asarray(logits), axis=-1)
        first = f"{mode}/eval_on_step0_batch"
        results[f"{first}/eval_loss"] = losses
        results[f"{first}/top1_accuracy"] = ranked[:, 0] == labels
        results[f"{first}/top5_accuracy"] = (ranked[:, :5] == labels[:, None]).any(axis=1)
    return results


def keys_of(mode: str, prefix: str) -> list[str]:
    golden = golden_data.load("linear_eval")
    keys = golden_data.compared_keys(golden, prefix)
    return [key for key in keys if key.removeprefix(prefix).startswith(f"{mode}/")]


def test_complete() -> None:
    golden_data.check_complete("linear_eval", (FLOAT32, FLOAT64))


@pytest.mark.parametrize(
    ("mode", "devices", "others"),
    [
        ("frozen", 1, [0.8, 25.6]),
        pytest.param("frozen", 2, [], marks=[pytest.mark.slow, pytest.mark.ci]),
        ("finetune", 1, []),
        pytest.param("finetune", 2, [], marks=[pytest.mark.slow, pytest.mark.ci]),
    ],
)
def test_float32(mode: str, devices: int, others: list[float]) -> None:
    golden = golden_data.load("linear_eval")

    def roundings() -> Iterator[golden_data.Results]:
        for order in golden_data.orders(golden.meta["batch_size"]):
            yield run(mode, FLOAT32, devices, order, others)

    golden_data.check_any(
        golden, roundings(), keys_of(mode, FLOAT32), f"{mode}, {devices} device(s)"
    )


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("mode", MODES)
def test_float64(mode: str) -> None:
    golden = golden_data.load("linear_eval")
    results = run(mode, FLOAT64, 1, np.arange(golden.meta["batch_size"]), [])
    results = {f"{FLOAT64}{key}": array for key, array in results.items()}
    golden_data.check(golden, results, keys_of(mode, FLOAT64), f"{mode}, float64")
