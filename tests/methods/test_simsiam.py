"""SimSiam against the authors' code: loss, heads, rates, and a run of a few steps."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_steps import (
    FLOAT32,
    FLOAT64,
    RUNS,
    SLOW,
    SLOWER,
    bn_config,
    flat,
    hparams_of,
    momentum,
    run,
    state_of,
    tiny_encoder,
)

import golden_data
import golden_methods_data as golden_methods
from byol_jax.method import method_of
from byol_jax.networks import heads, siamese
from byol_jax.objectives import collapse, simsiam
from byol_jax.objectives.base import Objective
from byol_jax.optim import groups, schedules
from byol_jax.optim.groups import Group, everywhere
from byol_jax.program import Method, Program, TrainState
from byol_jax.runtime import spmd
from experiments import simsiam as page

pytestmark = pytest.mark.golden_methods

PREFIXES = pytest.mark.parametrize("prefix", [FLOAT32, FLOAT64], ids=["float32", "float64"])
Results = dict[str, Any]

# Why a key is not compared; all others are (`test_every_key_is_compared_given_or_left_out`).
LEFT_OUT = {
    "heads/(bn_running|eval)/.*": "torch's averages: 0.9 old + 0.1 new, unbiased, from 0 and 1",
    "trace/(after_step0|final)/params/projector/linear_2/b": "the bias that BatchNorm takes away "
    "again: the authors freeze it, here there is none",
}
COMPARED = (
    r"loss/(loss|cosine_.*|grad_p[12])",
    r"heads/(loss|[pz][12]|grad/.*|grad_features[12])",
    r"heads_full/(loss|param_(sum|first)|[pz][12]_(row_l2|row_proj|first16)|grad_(l2|proj))",
    "lr/.*",
    "trace/logs/.*",
    "trace/(after_step0|final)/params/(?!projector/linear_2/b).*",
    "trace/final/momentum/.*",
)


def golden() -> golden_methods.Golden:
    return golden_methods.load("simsiam")


def test_every_key_is_compared_given_or_left_out() -> None:
    golden_methods.check_keys(golden(), COMPARED, LEFT_OUT)


# ---------------------------------------------------------------- loss


@PREFIXES
def test_loss(prefix: str) -> None:
    dtype = np.float64 if prefix else np.float32
    p1, p2, z1, z2 = (golden().arrays[f"loss/{x}"].astype(dtype) for x in ("p1", "p2", "z1", "z2"))

    def loss(p1: jax.Array, p2: jax.Array) -> jax.Array:
        return jnp.mean(per_example(simsiam.simsiam(), ({"prediction": p1}, {"prediction": p2}), z))

    z = ({"projection": z1}, {"projection": z2})
    with jax.enable_x64(bool(prefix)):
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(p1, p2)
        results = {
            "loss/loss": value,
            "loss/grad_p1": gradients[0],
            "loss/grad_p2": gradients[1],
            "loss/cosine_p1_z2": -simsiam.negative_cosine(jnp.asarray(p1), jnp.asarray(z2)),
            "loss/cosine_p2_z1": -simsiam.negative_cosine(jnp.asarray(p2), jnp.asarray(z1)),
        }
    golden_methods.check(golden(), results, prefix)


def per_example(objective: Objective, online: Any, target: Any) -> jax.Array:
    views = ({1: online[0], 2: online[1]}, {1: target[0], 2: target[1]})
    return objective.loss(
        {}, *views, {}, {}, jax.random.key(0), jnp.zeros((), jnp.int32)
    ).per_example


# ---------------------------------------------------------------- heads


def head_specs(sizes: Mapping[str, int], width: int) -> tuple[heads.HeadSpec, heads.HeadSpec]:
    projector = heads.HeadSpec(3, width, sizes["dim"], output_norm="plain")
    return projector, heads.HeadSpec(2, sizes["pred"], sizes["dim"])


def network_of(
    sizes: Mapping[str, int], width: int, axis: str | None, has_encoder: bool
) -> hk.TransformedWithState:
    """g and q of this package, perhaps behind the tiny encoder of the files."""
    bn = bn_config(axis)
    projector, predictor = head_specs(sizes, width)

    def network(x: jax.Array, is_training: bool) -> dict[str, jax.Array]:
        if has_encoder:
            x = tiny_encoder(x, is_training, width, axis)
        z = heads.MLP("projector", projector, sizes["dim"], False, bn)(x, is_training)
        p = heads.MLP("predictor", predictor, sizes["dim"], True, bn)(z, is_training)
        return {"embedding": x, "projection": z, "prediction": p}

    return hk.transform_with_state(network)


def ours(given: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """The authors' parameters here: hidden layers with a bias of zero, no bias before BatchNorm."""
    params = {module: dict(leaves) for module, leaves in given.items()}
    del params["projector/linear_2"]["b"]
    for module in ("projector/linear", "projector/linear_1", "predictor/linear"):
        w = params[module]["w"]
        params[module]["b"] = np.zeros(w.shape[1], w.dtype)
    return params


def theirs(found: Results) -> Results:
    """Results without the biases that the authors do not have."""
    hidden = r".*/(projector/linear|projector/linear_1|predictor/linear)/b"
    return {key: value for key, value in found.items() if not re.fullmatch(hidden, key)}


def heads_results(
    network: hk.TransformedWithState, params: Any, features: tuple[np.ndarray, np.ndarray]
) -> tuple[Any, Any, Any]:
    """Outputs by view, loss, and the gradients by parameters and features."""
    state = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(lambda: network.init(jax.random.key(0), features[0], True)[1]),
    )

    def loss(params: Any, features: Any) -> tuple[jax.Array, Any]:
        outputs = [network.apply(params, state, None, x, True)[0] for x in features]
        target = jax.lax.stop_gradient(outputs)
        return jnp.mean(per_example(simsiam.simsiam(), outputs, target)), outputs

    differentiate = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (value, outputs), gradients = differentiate(params, features)
    return outputs, value, gradients


@PREFIXES
def test_heads(prefix: str) -> None:
    dtype = np.float64 if prefix else np.float32
    sizes = golden().config["heads"]
    network = network_of(sizes, sizes["width"], None, has_encoder=False)
    features = tuple(golden().arrays[f"heads/features{v}"].astype(dtype) for v in (1, 2))
    with jax.enable_x64(bool(prefix)):
        params = ours(golden_methods.tree(golden(), "heads/params/", dtype))
        outputs, value, (by_params, by_features) = heads_results(network, params, features)
    results: Results = {"heads/loss": value, **flat(by_params, "heads/grad")}
    for v in (1, 2):
        results[f"heads/p{v}"] = outputs[v - 1]["prediction"]
        results[f"heads/z{v}"] = outputs[v - 1]["projection"]
        results[f"heads/grad_features{v}"] = by_features[v - 1]
    golden_methods.check(golden(), theirs(results), prefix)


@pytest.mark.slow
@PREFIXES
def test_heads_of_full_size(prefix: str) -> None:
    dtype = np.float64 if prefix else np.float32
    arrays, sizes, salt = golden().arrays, golden().config["full"], golden().salt
    names = [str(name) for name in arrays["heads_full/param_names"]]
    given: dict[str, dict[str, np.ndarray]] = {}
    weights = {}
    for name, shape in zip(names, arrays["heads_full/param_shapes"], strict=True):
        module, _, leaf = name.rpartition("/")
        array = golden_data.recipe(salt, name, tuple(map(int, str(shape).split(","))))
        weights[name] = array
        is_norm = leaf in ("scale", "offset")
        given.setdefault(module, {})[leaf] = array.astype(dtype)[None if is_norm else ...]
    results: Results = {
        "heads_full/param_sum": [np.sum(np.float64(weights[name])) for name in names],
        "heads_full/param_first": [weights[name].ravel()[0] for name in names],
    }
    network = network_of(sizes, sizes["width"], None, has_encoder=False)
    features = tuple(arrays[f"heads_full/features{v}"].astype(dtype) for v in (1, 2))
    with jax.enable_x64(bool(prefix)):
        outputs, value, (by_params, _) = heads_results(network, ours(given), features)
    gradients = theirs(flat(by_params, "grad"))
    by_name = [gradients[f"grad/{name}"] for name in map(str, arrays["heads_full/grad_names"])]
    names = [str(name) for name in arrays["heads_full/grad_names"]]
    results |= {
        "heads_full/loss": value,
        "heads_full/grad_l2": [np.linalg.norm(np.float64(x)) for x in by_name],
        "heads_full/grad_proj": [
            golden_data.projection(salt, name, np.reshape(x, np.shape(weights[name])))
            for name, x in zip(names, by_name, strict=True)
        ],
    }
    for v in (1, 2):
        for short, name in (("p", "prediction"), ("z", "projection")):
            rows = np.float64(outputs[v - 1][name])
            key = f"heads_full/{short}{v}"
            directions = golden_data.direction(salt, f"{short}{v}", rows.shape)
            results[f"{key}_row_l2"] = np.linalg.norm(rows, axis=1)
            results[f"{key}_row_proj"] = np.sum(rows * directions, axis=1)
            results[f"{key}_first16"] = rows[:, :16]
    golden_methods.check(golden(), results, prefix)


# ---------------------------------------------------------------- rates


@PREFIXES
def test_rates(prefix: str) -> None:
    """Theirs change once per epoch; here a step takes the place of an epoch."""
    case = golden().config["lr"]
    with jax.enable_x64(bool(prefix)):
        numbers = {
            "peak": schedules.scaled_learning_rate(case["base_lr"], case["batch_size"]),
            "warmup_steps": 0,
            "total_steps": case["epochs"],
        }
        epochs = jnp.arange(case["epochs"])
        results = {
            "lr/encoder": schedules.RATES["cosine"](epochs, **numbers),
            "lr/predictor": schedules.RATES["constant"](epochs, **numbers),
        }
    golden_methods.check(golden(), results, prefix)


# ---------------------------------------------------------------- steps

SIMSIAM = Method(
    objective=simsiam.simsiam,
    target="stop_gradient",
    groups=everywhere(Group("sgd", decayed="all"))._replace(
        predictor=Group("sgd", "constant", decayed="all")
    ),
)


def with_logs(objective: Objective) -> Objective:
    """The objective, with what the files have of its outputs among the logs."""

    def loss(params: Any, online: Any, *rest: Any) -> Any:
        result = objective.loss(params, online, *rest)
        z1 = online[1]["projection"]
        std = collapse.projection_std(z1) / jnp.sqrt(z1.shape[1])
        return result._replace(logs={"p1": online[1]["prediction"], "z_std": std})

    return objective._replace(loss=loss)


def trace_results(prefix: str, devices: int, method: Method = SIMSIAM) -> Results:
    case, dtype = golden().config["trace"], np.float64 if prefix else np.float32
    params = ours(golden_methods.tree(golden(), "trace/init/params/", dtype))
    width = params["encoder/linear"]["w"].shape[1]
    network = functools.partial(network_of, case, width, has_encoder=True)
    logged = method._replace(objective=lambda **_: with_logs(method.objective()))
    program = Program(network(axis=spmd.AXIS), logged, spmd.AXIS)
    images = golden_methods.inputs(golden().arrays["trace/images_u8"], dtype)
    state = state_of(
        program._replace(network=network(axis=None)),
        images[0, :, 0],
        {"online_params": params, "objective_state": {}},
    )
    peak = schedules.scaled_learning_rate(case["base_lr"], case["batch_for_lr"])
    hparams = hparams_of(
        peak_learning_rate=peak,
        total_steps=case["epochs"],
        weight_decay=case["wd"],
        momentum=case["momentum"],
    )
    views = [{1: step[:, 0], 2: step[:, 1]} for step in images]
    results = run(program, state, views, [hparams] * len(views), devices)
    states: tuple[TrainState, ...]
    states, logs = zip(*results, strict=True)
    rates = [groups.rates(method.groups, hparams.groups, jnp.int32(k)) for k in range(len(views))]
    found: Results = {
        "trace/logs/lr_predictor": np.array([rate.predictor for rate in rates]),
        "trace/logs/loss": np.array([entry["loss"] for entry in logs]),
        "trace/logs/lr_encoder": np.array([entry["learning_rate"] for entry in logs]),
        **flat(states[0].online_params, "trace/after_step0/params"),
        **flat(states[-1].online_params, "trace/final/params"),
        **momentum(states[-1]),
    }
    if devices == 1:
        found["trace/logs/p1"] = np.stack([entry["p1"] for entry in logs])
        found["trace/logs/z_std"] = np.array([entry["z_std"] for entry in logs])
    return theirs(found)


@RUNS
def test_a_run_repeats_that_of_the_authors(prefix: str, devices: int) -> None:
    with jax.enable_x64(bool(prefix)):
        golden_methods.check(golden(), trace_results(prefix, devices), prefix)


def test_the_page_has_these_dials_and_heads() -> None:
    config = page.get_config()
    method = method_of(config)
    for name in ("target", "target_update", "passes", "groups"):
        assert getattr(method, name) == getattr(SIMSIAM, name), name
    assert config.objective.name == "simsiam"
    spec = siamese.make_spec(config.network.to_dict(), 0)
    expected = head_specs({"dim": 2048, "pred": 512}, 2048)
    assert (spec.projector, spec.predictor._replace(output_size=2048)) == expected
    assert spec.head_bias == "paper" and spec.last_bn_scale == "released"


def halved(objective: Objective) -> Objective:
    def loss(*arguments: Any) -> Any:
        result = objective.loss(*arguments)
        return result._replace(per_example=result.per_example / 2)

    return objective._replace(loss=loss)


MISTAKES = {
    "no stop-gradient": SIMSIAM._replace(target="online"),
    "rate of the predictor decays": SIMSIAM._replace(groups=everywhere(SIMSIAM.groups.trunk)),
    "biases are not decayed": SIMSIAM._replace(
        groups=everywhere(Group("sgd"))._replace(predictor=Group("sgd", "constant"))
    ),
    "half the loss": SIMSIAM._replace(objective=lambda: halved(simsiam.simsiam())),
}


# One by default, one in CI, all others by `make test-slow`.
MARKS = {"rate": [], "no": SLOW}


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, marks=MARKS.get(m.split()[0], SLOWER)) for m in MISTAKES],
)
def test_a_mistake_is_off_the_trace(mistake: str) -> None:
    with pytest.raises(AssertionError, match=" of 1e-09"), jax.enable_x64(True):
        golden_methods.check(golden(), trace_results(FLOAT64, 1, MISTAKES[mistake]), FLOAT64)
