"""Whole training runs: ten steps of Algorithm 1 from given weights on given views."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_data
from byol_jax import update
from byol_jax.augment.byol import normalize
from byol_jax.networks.siamese import HeadSpec, NetworkSpec, siamese
from byol_jax.objectives import probe
from byol_jax.optim import groups, schedules
from byol_jax.program import Hyperparameters, Program, Trainable, TrainState
from byol_jax.runtime import spmd

FLOAT32, FLOAT64, TWO_DEVICES = "", "float64/", "two_device/"
ROLES = ("online", "target")
VIEWS = ("view1", "view2")


def network_spec(meta: Mapping[str, Any]) -> NetworkSpec:
    bn = meta["bn"]
    output_size = meta["projector_output_size"]
    return NetworkSpec(
        depth=golden_data.depth_of(meta["encoder"]),
        num_classes=meta["num_classes"],
        projector=HeadSpec(2, meta["projector_hidden_size"], output_size),
        predictor=HeadSpec(2, meta["predictor_hidden_size"], output_size),
        head_bias="released",
        bn_decay=bn["decay_rate"],
        bn_eps=bn["eps"],
        bn_axis=spmd.AXIS if bn["cross_replica"] else None,
    )


def hyperparameters(meta: Mapping[str, Any]) -> Hyperparameters:
    numbers = groups.Numbers(
        peak_learning_rate=schedules.scaled_learning_rate(
            meta["base_learning_rate"], meta["batch_size"]
        ),
        warmup_steps=meta["warmup_steps"],
        total_steps=meta["max_steps"],
        weight_decay=meta["weight_decay"],
        trust_coefficient=meta["eta"],
        momentum=meta["momentum"],
    )
    return Hyperparameters(
        groups=groups.everywhere(numbers),
        total_steps=meta["max_steps"],
        tau_base=meta["base_target_ema"],
        views=(),  # they are given
    )


def make_views(batch: update.Batch) -> Mapping[int, jax.Array]:
    """The given float images, normalised."""
    return {number: normalize(batch[view]) for number, view in enumerate(VIEWS, start=1)}


@functools.cache
def mapped_step(spec: NetworkSpec, devices: int) -> Callable[..., Any]:
    """One compiled step serves every trace, as all its numbers are traced."""
    program = Program(siamese(spec), axis=spmd.AXIS)
    step = functools.partial(update.step, make_views=make_views, program=program)
    used = jax.local_devices()[:devices]
    assert len(used) == devices
    return spmd.pmap(step, in_axes=(0, 0, None, None), devices=used)


def initial_state(golden: golden_data.Golden, dtype: type) -> TrainState:
    def given(kind: str) -> Any:
        leaves = golden_data.tree(golden, f"init/{kind}/")
        return jax.tree.map(lambda x: x if x.dtype == np.int32 else x.astype(dtype), leaves)

    online_params = given("online_params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        online_params=online_params,
        online_state=given("online_state"),
        target_params=given("target_params"),
        target_state=given("target_state"),
        objective_params={},
        objective_state={},
        slots=groups.init(groups.LARS, Trainable(online_params, {})),
        finite=jnp.ones((), bool),
    )


def momentum_of(state: TrainState) -> dict[str, np.ndarray]:
    """By parameter, as the golden files name them."""
    momentum = state.slots["momentum"]
    return {name.removeprefix("online_params/"): value for name, value in momentum.items()}


class Inputs(NamedTuple):
    """What the steps and the evaluation are given."""

    views: Mapping[str, np.ndarray]
    labels: np.ndarray
    eval_images: np.ndarray
    eval_labels: np.ndarray


def inputs_of(golden: golden_data.Golden) -> Inputs:
    """The inputs, which one trace holds for all."""
    arrays = golden_data.load(golden.meta["inputs_in"].removesuffix(".npz")).arrays
    return Inputs(
        views={view: arrays[f"inputs/{view}_u8"] for view in VIEWS},
        labels=arrays["inputs/labels"],
        eval_images=arrays["inputs/eval_u8"],
        eval_labels=arrays["inputs/eval_labels"],
    )


def float_images(images: np.ndarray, dtype: type) -> np.ndarray:
    """The input of the golden runs, exactly: XLA rounds a division by 255 otherwise."""
    return (np.float32(images) / np.float32(255)).astype(dtype)


def norms(leaves: Mapping[str, np.ndarray]) -> list[np.floating]:
    return [np.linalg.norm(np.float64(array)) for array in leaves.values()]


def evaluate(golden: golden_data.Golden, state: TrainState, inputs: Inputs) -> golden_data.Results:
    """The final online network on the evaluation images, with moving averages."""
    network = siamese(network_spec(golden.meta)._replace(bn_axis=None))

    @jax.jit
    def run(params: Any, bn_state: Any, images: jax.Array, labels: jax.Array) -> Any:
        outputs, _ = network.apply(params, bn_state, None, normalize(images), False)
        one = jax.vmap(lambda logits, label: probe.probe_loss(logits[None], label[None], None))
        return outputs, one(outputs["logits"], labels)

    labels = inputs.eval_labels.astype(np.int32)
    images = float_images(inputs.eval_images, np.float32)
    outputs, (losses, logs) = run(state.online_params, state.online_state, images, labels)
    return {
        "eval/eval_loss": losses,
        # Percentages of one image.
        "eval/top1_accuracy": logs["probe_top1"] == 100,
        "eval/top5_accuracy": logs["probe_top5"] == 100,
        **{f"eval/{name}": outputs[name] for name in ("projection", "prediction", "logits")},
    }


def run_trace(
    name: str, devices: int, prefix: str, order: np.ndarray | None = None
) -> golden_data.Results:
    """Repeats a trace and returns everything that its file holds, without a prefix.

    Args:
      name: the file.
      devices: over which the batch is split.
      prefix: `float64/` for a 64-bit run.
      order: of every batch.
    """
    golden = golden_data.load(name)
    meta, inputs = golden.meta, inputs_of(golden)
    order = np.arange(meta["batch_size"]) if order is None else order
    dtype = np.float64 if prefix == FLOAT64 else np.float32
    used = jax.local_devices()[:devices]
    stages = {re.match(r"after_step(\d+)/", key) for key in golden.arrays}
    snapshots = {int(match[1]) for match in stages if match}

    results: golden_data.Results = {}
    logs: list[dict[str, Any]] = []
    with jax.enable_x64(prefix == FLOAT64):
        step = mapped_step(network_spec(meta), devices)
        hparams = hyperparameters(meta)
        replicas = spmd.replicate(initial_state(golden, dtype), used)
        per_step: dict[str, list[Any]] = {}
        for t in range(meta["steps"]):
            views = {view: float_images(inputs.views[view][t][order], dtype) for view in VIEWS}
            labels = inputs.labels[t][order].astype(np.int32)
            batch = {**views, "labels": labels, "ids": np.arange(len(labels), dtype=np.int32)}
            sharded = spmd.shard(batch, devices=used)
            # One micro-batch.
            sharded = jax.tree.map(lambda x: x[:, None], sharded)
            replicas, step_logs = step(replicas, sharded, 0, hparams)
            step_logs = {k: v for k, v in step_logs.items() if k not in update.EMBEDDINGS}

            for leaf in map(np.asarray, jax.tree.leaves((replicas, step_logs))):
                assert (leaf == leaf[0]).all(), f"{name}: the replicas differ after step {t}"
            state, step_logs = jax.tree.map(lambda x: np.asarray(x[0]), (replicas, step_logs))
            logs.append(step_logs)
            moving = {f"{role}_params": getattr(state, f"{role}_params") for role in ROLES}
            trees = {kind: golden_data.flatten(tree) for kind, tree in moving.items()}
            trees["momentum"] = momentum_of(state)
            for kind, leaves in trees.items():
                label = kind.replace("params", "param")
                per_step.setdefault(f"per_step/{label}_l2", []).append(norms(leaves))
                if t in snapshots:
                    results |= {f"after_step{t}/{kind}/{k}": x for k, x in leaves.items()}
        assert state.finite and state.step == meta["steps"]

        trees |= {
            f"{role}_state": golden_data.flatten(getattr(state, f"{role}_state")) for role in ROLES
        }
        for kind, leaves in trees.items():
            results |= {f"final/{kind}/{k}": x for k, x in leaves.items()}
        if prefix == FLOAT32:
            results |= evaluate(golden, state, inputs)

    series = {key: np.array([entry[key] for entry in logs]) for key in logs[0]}
    return results | {
        **per_step,
        "param_names": list(trees["online_params"]),
        "logs/repr_loss": series["loss"],
        "logs/classif_loss": series["probe_loss"],
        "logs/loss": series["loss"] + series["probe_loss"],
        "logs/tau": series["tau"],
        "logs/learning_rate": series["learning_rate"],
        "logs/top1_accuracy": series["probe_top1"] / 100,
        "logs/top5_accuracy": series["probe_top5"] / 100,
    }


@pytest.mark.parametrize("name", golden_data.TRACES)
def test_complete(name: str) -> None:
    golden_data.check_complete(name, (FLOAT32, FLOAT64, TWO_DEVICES))


def check_on(devices: int, name: str, prefixes: tuple[str, ...]) -> None:
    golden = golden_data.load(name)
    keys = [key for prefix in prefixes for key in golden_data.compared_keys(golden, prefix)]

    def roundings() -> Iterator[golden_data.Results]:
        for order in golden_data.orders(golden.meta["batch_size"]):
            results = run_trace(name, devices, FLOAT32, order)
            yield results | {f"{TWO_DEVICES}{key}": array for key, array in results.items()}

    golden_data.check_any(golden, roundings(), keys, f"{devices} device(s)")


@pytest.mark.parametrize(
    "name", ["trace_a", pytest.param("trace_b", marks=[pytest.mark.slow, pytest.mark.ci])]
)
def test_one_device(name: str) -> None:
    check_on(1, name, (FLOAT32,))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", golden_data.TRACES)
def test_two_devices(name: str) -> None:
    check_on(2, name, (FLOAT32, TWO_DEVICES))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", golden_data.TRACES)
def test_float64(name: str) -> None:
    golden = golden_data.load(name)
    results = run_trace(name, devices=1, prefix=FLOAT64)
    results = {f"{FLOAT64}{key}": array for key, array in results.items()}
    golden_data.check(golden, results, golden_data.compared_keys(golden, FLOAT64), "1 device")
