"""DenseCL against the authors' code: heads, matches, losses, queues, and a run of a few steps."""

import functools
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
)

import golden_methods_data as golden_methods
from byol_jax import update
from byol_jax.method import method_of
from byol_jax.networks import heads, norms, siamese
from byol_jax.objectives import densecl, moco
from byol_jax.objectives.base import Objective
from byol_jax.objectives.normalize import l2_normalize
from byol_jax.optim.groups import Group, everywhere
from byol_jax.program import Method, Passes, Program, TrainState
from byol_jax.runtime import spmd
from experiments import densecl as page

pytestmark = pytest.mark.golden_methods

Results = dict[str, Any]

COMPARED = (
    r"given/.*/neck_q/(global|dense|dense_pooled)",
    r"given/.*/(q|q_dense|grad_features_q|grad/.*|key_params_after/.*)",
    r"(two_process/)?given/.*/(loss|loss_single|loss_dense|argmax|ptr_after)",
    r"(two_process/)?given/.*/queue(_dense)?_after",
    "trace/logs/(loss_single|loss_dense|argmax)",
    "trace/(after_step0|final)/(params|key_params|momentum)/.*",
    "trace/final/queue(_dense)?",
)


def golden() -> golden_methods.Golden:
    return golden_methods.load("densecl")


def test_every_key_is_compared_or_given() -> None:
    golden_methods.check_keys(golden(), COMPARED)


# ---------------------------------------------------------------- networks

# Names of the files and of this package. A 1x1 convolution is a linear layer at each position.
NAMES = {
    "neck/global/linear": "projector/linear",
    "neck/global/linear_1": "projector/linear_1",
    "neck/dense/conv": "dense/linear",
    "neck/dense/conv_1": "dense/linear_1",
    "encoder/conv": "encoder/linear",
}


def ours(given: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    return {
        NAMES.get(module, module): {
            leaf: x.reshape(x.shape[-2:]) if "conv" in module and leaf == "w" else x
            for leaf, x in leaves.items()
        }
        for module, leaves in given.items()
    }


def theirs(found: Results) -> Results:
    back = {our_name: name for name, our_name in NAMES.items()}
    results = {}
    for key, value in found.items():
        name = next((n for n in sorted(back, key=len)[::-1] if f"/{n}/" in key), None)
        if name:
            key = key.replace(f"/{name}/", f"/{back[name]}/")
            if "conv" in back[name] and key.endswith("/w"):
                value = np.asarray(value)[None, None]
        results[key] = value
    return results


@functools.cache
def network_of(
    hidden: int, dim: int, width: int = 0, axis: str | None = None
) -> hk.TransformedWithState:
    """Both heads of this package, on a map or behind the tiny encoder of the file."""
    spec = heads.HeadSpec(2, hidden, dim, hidden_norm=False)

    def network(x: jax.Array, is_training: bool) -> dict[str, jax.Array]:
        if width:
            count, side = len(x), x.shape[1] // 2
            patches = x.reshape(count, side, 2, side, 2, 3).swapaxes(2, 3)
            with hk.name_scope("encoder"):
                # As rows, so that BatchNorm has the shapes of the file.
                rows = hk.Linear(width, with_bias=False, name="linear")(patches.reshape(-1, 12))
                norm = norms.BatchNorm(name="batch_norm", **bn_config(axis))
                x = jax.nn.relu(norm(rows, is_training)).reshape(count, side, side, width)
        y = jnp.mean(x, axis=(1, 2))
        z = heads.MLP("projector", spec, dim, True, bn_config(axis))(y, is_training)
        dense = heads.MLP("dense", spec, dim, True, bn_config(axis))(x, is_training)
        return {
            "embedding": y,
            "projection": z,
            "prediction": z,
            "dense": dense,
            densecl.FEATURES: x,
        }

    return hk.transform_with_state(network)


# ---------------------------------------------------------------- given feature maps


def given_results(prefix: str, case: list[Any], devices: int) -> Results:
    """A step without an encoder: outputs, losses, gradients and queues."""
    name, _, _, hidden, dim, _, size, temperature, weight = case
    dtype = np.float64 if prefix else np.float32
    where = f"given/{name}"
    arrays = golden().arrays
    params, key_params = (
        ours(golden_methods.tree(golden(), f"{where}/{which}/", dtype))
        for which in ("params", "key_params")
    )
    rate = jnp.asarray(1 - golden().config["m"], dtype)
    key_params = update.exponential_moving_average(key_params, params, rate)
    network = network_of(hidden, dim)
    objective = densecl.densecl(temperature, weight, size, axis=spmd.AXIS)
    state = {
        "queue": arrays[f"{where}/queue"].T.astype(dtype),
        "queue_dense": arrays[f"{where}/queue_dense"].T.astype(dtype),
        "next": np.int32(0),
    }

    def loss(params: Any, features: jax.Array, other: jax.Array) -> Any:
        online = network.apply(params, {}, None, features, True)[0]
        target = network.apply(key_params, {}, None, other, True)[0]
        views = ({1: online}, jax.lax.stop_gradient({2: target}))
        result = objective.loss({}, *views, {}, state, jax.random.key(0), jnp.int32(0))
        matched = densecl.matches(*(densecl.positions(x) for x in (features, other)))
        return jnp.mean(result.per_example), (result, online, matched)

    def step(features: jax.Array, other: jax.Array) -> Any:
        differentiate = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (value, (result, online, matched)), (gradients, by_features) = differentiate(
            params, features, other
        )
        means = spmd.pmean((value, result.logs, gradients), spmd.AXIS)
        return means, by_features, result, online, matched

    used = jax.local_devices()[:devices]
    maps = [arrays[f"{where}/features_{x}"].astype(dtype) for x in "qk"]
    sharded = spmd.shard(maps, devices=used)
    outputs = spmd.pmap(step, devices=used)(*sharded)
    (value, logs, gradients), by_features, result, online, matched = jax.tree.map(
        np.asarray, outputs
    )
    first = jax.tree.map(lambda x: x[0], result)
    whole = where if devices == 1 else f"two_process/{where}"
    results = {
        f"{whole}/loss": value[0],
        f"{whole}/loss_single": (1 - weight) * logs["single_loss"][0],
        f"{whole}/loss_dense": weight * logs["dense_loss"][0],
        f"{whole}/argmax": matched.reshape(-1, matched.shape[-1]),
        f"{whole}/ptr_after": np.repeat(first.state["next"], 2),
    }
    for array in ("queue", "queue_dense"):
        after = state[array].copy()
        after[first.rows[array].at] = first.rows[array].values
        results[f"{whole}/{array}_after"] = after.T
    if devices == 1:
        dense = online["dense"][0].reshape(len(maps[0]), -1, dim)
        unit = {
            "q": l2_normalize(online["projection"][0]),
            "q_dense": densecl.positions(online["dense"][0]),
        }
        results |= {f"{where}/{key}": x for key, x in unit.items()}
        results |= {
            f"{where}/neck_q/global": online["projection"][0],
            f"{where}/neck_q/dense": dense,
            f"{where}/neck_q/dense_pooled": dense.mean(axis=1),
            f"{where}/grad_features_q": by_features[0],
            **flat(jax.tree.map(lambda x: x[0], gradients), f"{where}/grad"),
            **flat(key_params, f"{where}/key_params_after"),
        }
    return theirs(results)


@pytest.mark.parametrize(
    ("prefix", "devices"),
    [
        pytest.param(FLOAT64, 1, id="float64-1"),
        pytest.param(FLOAT64, 2, id="float64-2", marks=SLOW),
        pytest.param(FLOAT32, 1, id="float32-1", marks=SLOW),
        pytest.param(FLOAT32, 2, id="float32-2", marks=SLOWER),
    ],
)
@pytest.mark.parametrize(
    "case", golden_methods.load("densecl").config["given"], ids=lambda case: case[0]
)
def test_given_maps(prefix: str, case: list[Any], devices: int) -> None:
    with jax.enable_x64(bool(prefix)):
        golden_methods.check(golden(), given_results(prefix, case, devices), prefix)


def test_matches_by_hand() -> None:
    """Cosines, not lengths; the first among equals."""
    query = jnp.array([[[[1.0, 0.0], [0.0, 9.0]]]])
    key = jnp.array([[[[0.1, 0.2], [5.0, 1.0]], [[0.3, 0.0], [0.0, 2.0]]]])
    found = densecl.matches(densecl.positions(query), densecl.positions(key))
    assert found.tolist() == [[2, 3]]


def test_one_position_is_moco_twice() -> None:
    """Of a map of one position the dense loss is MoCo's of the dense head."""
    rng = np.random.default_rng(0)

    def outputs() -> dict[str, jax.Array]:
        return {
            "projection": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32),
            "dense": jnp.asarray(rng.normal(size=(4, 1, 1, 6)), jnp.float32),
            densecl.FEATURES: jnp.asarray(rng.normal(size=(4, 1, 1, 3)), jnp.float32),
        }

    online, target = {1: outputs()}, {2: outputs()}
    objective = densecl.densecl(0.2, 1.0, 8)
    state = objective.init(jax.random.key(0), online, 1)[1]
    rest = (jax.random.key(0), jnp.int32(0))
    dense = objective.loss({}, online, target, {}, state, *rest).per_example
    rows = [
        {v: {"projection": x["dense"][:, 0, 0]} for v, x in view.items()}
        for view in (online, target)
    ]
    its_state = {"queue": state["queue_dense"], "next": state["next"]}
    single = moco.moco(0.2, 8).loss({}, *rows, {}, its_state, *rest).per_example
    np.testing.assert_allclose(dense, single, rtol=1e-6)


# ---------------------------------------------------------------- steps

DENSECL = Method(
    objective=densecl.densecl,
    target="ema",
    target_update="before",
    passes=Passes(online=((1,),), target=((2,),)),
    groups=everywhere(Group("sgd", "constant", decayed="all")),
)


def with_matches(objective: Objective) -> Objective:
    """The objective with the matches of all devices among the logs."""

    def loss(params: Any, online: Any, target: Any, *rest: Any) -> Any:
        result = objective.loss(params, online, target, *rest)
        maps = (densecl.positions(x[densecl.FEATURES]) for x in (online[1], target[2]))
        matched = spmd.all_gather(densecl.matches(*maps), spmd.AXIS)
        # As floats, since logs are averaged.
        return result._replace(logs=result.logs | {"argmax": matched.astype(float)})

    return objective._replace(loss=loss)


def trace_results(prefix: str, devices: int, method: Method = DENSECL) -> Results:
    case, dtype = golden().config["trace"], np.float64 if prefix else np.float32
    arrays = golden().arrays
    params = ours(golden_methods.tree(golden(), "trace/init/params/", dtype))
    width = params["encoder/linear"]["w"].shape[1]
    network = functools.partial(network_of, case["hid"], case["dim"], width)
    numbers = {"dense_weight": case["lam"], "queue_size": case["K"], "axis": spmd.AXIS}
    make = method.objective
    logged = method._replace(
        objective=lambda **_: with_matches(make(temperature=case["T"], **numbers))
    )
    program = Program(network(spmd.AXIS), logged, spmd.AXIS)
    images = golden_methods.inputs(arrays["trace/images_u8"], dtype)
    state = state_of(
        program._replace(network=network(None)),
        images[0, :, 0],
        {
            "online_params": params,
            "target_params": jax.tree.map(np.copy, params),
            "objective_state": {
                "queue": arrays["trace/init/queue"].T.astype(dtype),
                "queue_dense": arrays["trace/init/queue_dense"].T.astype(dtype),
                "next": np.zeros((), np.int32),
            },
        },
    )
    hparams = hparams_of(
        tau=case["m"],
        peak_learning_rate=case["lr"],
        weight_decay=case["wd"],
        momentum=case["momentum"],
    )
    views = [{1: step[:, 0], 2: step[:, 1]} for step in images]
    results = run(program, state, views, [hparams] * len(views), devices)
    states: tuple[TrainState, ...]
    states, logs = zip(*results, strict=True)
    last, weight = states[-1], case["lam"]
    return theirs(
        {
            "trace/logs/loss_single": (1 - weight) * np.array([x["single_loss"] for x in logs]),
            "trace/logs/loss_dense": weight * np.array([x["dense_loss"] for x in logs]),
            "trace/logs/argmax": np.stack([x["argmax"] for x in logs]),
            "trace/final/queue": last.objective_state["queue"].T,
            "trace/final/queue_dense": last.objective_state["queue_dense"].T,
            **flat(states[0].online_params, "trace/after_step0/params"),
            **flat(states[0].target_params, "trace/after_step0/key_params"),
            **flat(last.online_params, "trace/final/params"),
            **flat(last.target_params, "trace/final/key_params"),
            **momentum(last),
        }
    )


@RUNS
def test_a_run_repeats_that_of_the_authors(prefix: str, devices: int) -> None:
    with jax.enable_x64(bool(prefix)):
        golden_methods.check(golden(), trace_results(prefix, devices), prefix)


def test_the_page_has_these_dials_and_heads() -> None:
    config = page.get_config()
    method = method_of(config)
    assert method.groups == everywhere(Group("sgd", decayed="all"))
    for name in ("target", "target_update", "passes", "bn_statistics"):
        assert getattr(method, name) == getattr(DENSECL, name), name
    assert config.objective.name == "densecl"
    spec = siamese.make_spec(config.network.to_dict(), 0)
    names, shapes = (
        list(map(str, golden().arrays[f"contract/neck_{x}"])) for x in ("names", "shapes")
    )
    assert dict(zip(names, shapes, strict=True))["neck/dense/conv_1/w"] == "1,1,2048,128"
    assert spec.dense == spec.projector == heads.HeadSpec(2, 2048, 128, hidden_norm=False)
    assert spec.head_bias == "paper" and spec.predictor.kind == "none"


def by_projections(query: Any, key: Any, negatives: Any, temperature: Any) -> jax.Array:
    """Positions matched by the outputs of the dense head."""
    maps = [x | {densecl.FEATURES: x["dense"]} for x in (query, key)]
    return LOGITS(*maps, negatives, temperature)


def of_one_position(dense: jax.Array) -> jax.Array:
    """A queue of positions in place of pooled keys."""
    return l2_normalize(dense[:, 0, 0])


LOGITS = densecl.dense_logits
MISTAKES = {
    "target after the step": DENSECL._replace(target_update="after"),
    "argmax on projections": DENSECL,
    "queue of positions": DENSECL,
    "biases are not decayed": DENSECL._replace(groups=everywhere(Group("sgd", "constant"))),
}


# One by default, one in CI, all others by `make test-slow`.
MARKS = {"argmax": [], "queue": SLOW}


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, marks=MARKS.get(m.split()[0], SLOWER)) for m in MISTAKES],
)
def test_a_mistake_is_off_the_trace(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mistake.startswith("argmax"):
        monkeypatch.setattr(densecl, "dense_logits", by_projections)
    if mistake.startswith("queue"):
        monkeypatch.setattr(densecl, "pooled", of_one_position)
    with jax.enable_x64(True):
        results = trace_results(FLOAT64, 1, MISTAKES[mistake])
    with pytest.raises(AssertionError, match=" of 1e-09"):
        golden_methods.check(golden(), results, FLOAT64)
