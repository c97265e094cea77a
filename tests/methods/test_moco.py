"""MoCo against the authors' code: loss, queue, momentum, rates, and runs of a few steps."""

import functools
from collections.abc import Callable
from typing import Any

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
    flat,
    head_network,
    hparams_of,
    momentum,
    ours,
    run,
    state_of,
    theirs,
)

import golden_methods_data as golden_methods
from byol_jax import keys, update
from byol_jax.method import method_of
from byol_jax.networks import siamese
from byol_jax.objectives import moco, queue
from byol_jax.objectives.base import Objective
from byol_jax.objectives.normalize import l2_normalize
from byol_jax.optim import schedules
from byol_jax.optim.groups import Group, everywhere
from byol_jax.program import Method, Passes, Program, TrainState
from byol_jax.runtime import spmd
from experiments import moco as page

pytestmark = pytest.mark.golden_methods

PREFIXES = pytest.mark.parametrize("prefix", [FLOAT32, FLOAT64], ids=["float32", "float64"])
Results = dict[str, Any]

# Why a key is not compared; all others are (`test_every_key_is_compared_given_or_left_out`).
LEFT_OUT = {
    "trace/final/bn_running/.*": "torch's averages: 0.9 old + 0.1 new, unbiased, from 0 and 1",
}
COMPARED = (
    r"infonce/.*/(logits|loss|grad_query|grad_q_normalised|acc1|acc5|queue_after|ptr_after)",
    r"(two_process/)?queue/(queue|ptr)_after",
    "momentum/key_params_after/.*",
    "lr/.*",
    "trace/logs/.*",
    "trace/(after_step0|final)/(query_params|key_params|momentum|queue).*",
    "shuffle_bn/(logits|loss|ptr|queue_final|final/query_params/.*)",
)


def golden() -> golden_methods.Golden:
    return golden_methods.load("moco")


def test_every_key_is_compared_given_or_left_out() -> None:
    golden_methods.check_keys(golden(), COMPARED, LEFT_OUT)


# ---------------------------------------------------------------- loss and queue


@PREFIXES
def test_loss_and_gradients(prefix: str) -> None:
    dtype = np.float64 if prefix else np.float32
    results: Results = {}
    with jax.enable_x64(bool(prefix)):
        for name, _, dim, size, temperature in golden().config["info"]:
            given = {
                key: golden().arrays[f"infonce/{name}/{key}"].astype(dtype)
                for key in ("query", "key", "queue")
            }
            assert given["queue"].shape == (dim, size)
            objective = moco.moco(temperature, size)

            def loss(
                query: jax.Array,
                objective: Objective = objective,
                given: dict[str, np.ndarray] = given,
            ) -> Any:
                state = {"queue": jnp.asarray(given["queue"].T), "next": jnp.int32(0)}
                online, target = {1: {"projection": query}}, {2: {"projection": given["key"]}}
                result = objective.loss({}, online, target, {}, state, jax.random.key(0), 0)
                return jnp.mean(result.per_example), result

            def of_unit(
                query: jax.Array,
                given: dict[str, np.ndarray] = given,
                temperature: float = temperature,
            ) -> Any:
                logits = queue.logits(
                    query, l2_normalize(given["key"]), given["queue"].T, temperature
                )
                return jnp.mean(queue.cross_entropy(logits)), logits

            (value, result), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
                given["query"]
            )
            unit = l2_normalize(jnp.asarray(given["query"]))
            (_, logits), unit_gradient = jax.jit(jax.value_and_grad(of_unit, has_aux=True))(unit)
            rows = result.rows["queue"]
            results |= {
                f"infonce/{name}/loss": value,
                f"infonce/{name}/logits": logits,
                f"infonce/{name}/grad_query": gradient,
                f"infonce/{name}/grad_q_normalised": unit_gradient,
                f"infonce/{name}/acc1": result.logs["contrastive_top1"],
                f"infonce/{name}/acc5": result.logs["contrastive_top5"],
                f"infonce/{name}/queue_after": jnp.asarray(given["queue"].T)
                .at[rows.at]
                .set(rows.values)
                .T,
                f"infonce/{name}/ptr_after": result.state["next"],
            }
    golden_methods.check(golden(), results, prefix)


@PREFIXES
@pytest.mark.parametrize("devices", [1, 2])
def test_queue(prefix: str, devices: int) -> None:
    """Their two processes hold the first and the second half of each batch of keys."""
    case, dtype = golden().config["queue"], np.float64 if prefix else np.float32
    axis = spmd.AXIS

    def enqueue(state: Any, rows: jax.Array) -> Any:
        written = queue.enqueue(case["K"], state["next"], [rows], axis)
        array = state["queue"].at[written.at].set(written.values)
        return {"queue": array, "next": queue.behind(written, case["K"])}

    used = jax.local_devices()[:devices]
    with jax.enable_x64(bool(prefix)):
        mapped = spmd.pmap(enqueue, devices=used)
        start = {"queue": golden().arrays["queue/init"].T.astype(dtype), "next": np.int32(0)}
        state, states = spmd.replicate(start, used), []
        for rows in golden().arrays["queue/keys"].astype(dtype):
            state = mapped(state, spmd.shard(rows, devices=used))
            assert all((np.asarray(x) == np.asarray(x)[0]).all() for x in state.values())
            states.append(spmd.to_host(state))
    where = "queue" if devices == 1 else "two_process/queue"
    results = {
        f"{where}/queue_after": np.stack([state["queue"].T for state in states]),
        f"{where}/ptr_after": np.array([state["next"] for state in states]),
    }
    golden_methods.check(golden(), results, prefix)


@PREFIXES
def test_momentum(prefix: str) -> None:
    dtype = np.float64 if prefix else np.float32
    key, query = (
        golden_methods.tree(golden(), f"momentum/{name}_params/", dtype)
        for name in ("key", "query")
    )
    with jax.enable_x64(bool(prefix)):
        rate = jnp.asarray(1 - golden().config["mom"], dtype)
        moved = jax.jit(update.exponential_moving_average)(key, query, rate)
    golden_methods.check(golden(), flat(moved, "momentum/key_params_after"), prefix)


# ---------------------------------------------------------------- rates


@PREFIXES
def test_rates(prefix: str) -> None:
    """Theirs change once per epoch; here a step takes the place of an epoch."""
    case, trace = golden().config["lr"], golden().config["trace"]
    with jax.enable_x64(bool(prefix)):
        numbers = {"peak": case["lr"], "warmup_steps": 0, "total_steps": case["epochs"]}
        epochs = jnp.arange(case["epochs"])
        milestones = [at / case["epochs"] for at in case["schedule"]]
        results = {
            "lr/cosine": schedules.learning_rate(epochs, **numbers),
            "lr/step": schedules.step_rate(epochs, **numbers, milestones=milestones),
            "trace/logs/lr": schedules.learning_rate(
                jnp.arange(trace["S"]),
                peak=trace["lr"],
                warmup_steps=0,
                total_steps=trace["epochs"],
            ),
        }
    golden_methods.check(golden(), results, prefix)


# ---------------------------------------------------------------- steps

MOCO = Method(
    objective=moco.moco,
    target="ema",
    target_update="before",
    passes=Passes(online=((1,),), target=((2,),)),
    groups=everywhere(Group("sgd", "constant", decayed="all")),
)


def with_logits(make: Callable[..., Objective], temperature: float) -> Callable[..., Objective]:
    """The objective with its logits among the logs, as their mean over devices is not needed."""

    def made(**numbers: Any) -> Objective:
        objective = make(**numbers)

        def loss(params: Any, online: Any, target: Any, batch: Any, state: Any, *rest: Any) -> Any:
            result = objective.loss(params, online, target, batch, state, *rest)
            unit = [l2_normalize(x["projection"]) for x in (online[1], target[2])]
            # All rows, so that the mean over the devices leaves them as they are.
            rows = spmd.all_gather(queue.logits(*unit, state["queue"], temperature), spmd.AXIS)
            return result._replace(logs=result.logs | {"logits": rows})

        return objective._replace(loss=loss)

    return made


def steps_of(
    prefix: str,
    devices: int,
    method: Method = MOCO,
    micro_batches: int = 1,
    rows: slice = slice(None),
) -> tuple[list[TrainState], list[dict[str, Any]]]:
    """States and logs of the trace's run, or of one on some rows of its batches."""
    case, dtype = golden().config["trace"], np.float64 if prefix else np.float32
    arrays = golden().arrays
    params = ours(golden_methods.tree(golden(), "trace/init/params/", dtype))
    width, hidden = (params[f"{name}/linear"]["w"].shape[1] for name in ("encoder", "projector"))
    numbers = {"temperature": case["T"], "queue_size": case["K"], "axis": spmd.AXIS}
    make = functools.partial(method.objective, **numbers)
    axis = spmd.AXIS if method.bn_statistics == "global" else None
    program = Program(
        head_network(width, hidden, case["dim"], axis),
        method._replace(objective=with_logits(make, case["T"])),
        spmd.AXIS,
    )
    images = golden_methods.inputs(arrays["trace/images_u8"], dtype)
    state = state_of(
        program._replace(network=head_network(width, hidden, case["dim"], None)),
        images[0, :, 0],
        {
            "online_params": params,
            "target_params": jax.tree.map(np.copy, params),
            "objective_state": {
                "queue": arrays["trace/init/queue"].T.astype(dtype),
                "next": np.zeros((), np.int32),
            },
        },
    )
    rates = arrays.get(f"{prefix}trace/logs/lr", arrays["trace/logs/lr"]).astype(dtype)
    hparams = [
        hparams_of(
            tau=case["m"],
            peak_learning_rate=rate,
            weight_decay=case["wd"],
            momentum=case["momentum"],
        )
        for rate in rates
    ]
    views = [{1: step[rows, 0], 2: step[rows, 1]} for step in images]
    results = run(program, state, views, hparams, devices, micro_batches=micro_batches)
    states, logs = zip(*results, strict=True)
    return list(states), list(logs)


def trace_results(prefix: str, devices: int, method: Method = MOCO) -> Results:
    states, logs = steps_of(prefix, devices, method)
    last = states[-1]
    return theirs(
        {
            "trace/logs/loss": np.array([entry["loss"] for entry in logs]),
            "trace/logs/logits": np.stack([entry["logits"] for entry in logs]),
            "trace/logs/acc1": np.array([entry["contrastive_top1"] for entry in logs]),
            "trace/logs/acc5": np.array([entry["contrastive_top5"] for entry in logs]),
            "trace/logs/ptr": np.array([state.objective_state["next"] for state in states]),
            "trace/final/queue": last.objective_state["queue"].T,
            **flat(states[0].online_params, "trace/after_step0/query_params"),
            **flat(states[0].target_params, "trace/after_step0/key_params"),
            **flat(last.online_params, "trace/final/query_params"),
            **flat(last.target_params, "trace/final/key_params"),
            **momentum(last),
        }
    )


@RUNS
def test_a_run_repeats_that_of_the_authors(prefix: str, devices: int) -> None:
    with jax.enable_x64(bool(prefix)):
        golden_methods.check(golden(), trace_results(prefix, devices), prefix)


@pytest.mark.parametrize("devices", [pytest.param(4, marks=SLOW), pytest.param(2, marks=SLOWER)])
def test_micro_batches_read_one_queue_and_enter_it_in_order(devices: int) -> None:
    half = golden().config["trace"]["B"] // 2
    with jax.enable_x64(True):
        states, logs = steps_of(FLOAT64, 1, micro_batches=2)
        halves = [steps_of(FLOAT64, 1, rows=rows) for rows in (slice(half), slice(half, None))]
        shared = steps_of(FLOAT64, devices, micro_batches=2)
    losses = [logs[0]["loss"] for _, logs in halves]
    np.testing.assert_allclose(logs[0]["loss"], np.mean(losses), rtol=1e-12)
    keys_of_halves = [states[0].objective_state["queue"][:half] for states, _ in halves]
    np.testing.assert_allclose(
        states[0].objective_state["queue"][: 2 * half], np.concatenate(keys_of_halves), rtol=1e-12
    )
    size = golden().config["trace"]["K"]
    expected = [2 * half % size, 4 * half % size]
    assert [state.objective_state["next"] for state in states[:2]] == expected
    compared = [
        (states[-1].online_params, states[-1].target_params, states[-1].objective_state)
        for states in (states, shared[0])
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), *compared)


# ---------------------------------------------------------------- statistics of one device


def shuffled_results(prefix: str, statistics: str, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Two devices in the place of their two processes, with their permutations."""
    orders = golden().arrays["shuffle_bn/permutation"]
    start = keys.named_key(0, "objective")
    of_steps = [
        jax.random.split(jax.random.fold_in(start, step), 1)[0] for step in range(len(orders))
    ]
    known = jnp.stack([jax.random.key_data(key) for key in of_steps])

    def order(key: jax.Array, count: int) -> jax.Array:
        assert count == orders.shape[1]
        step = jnp.argmax(jnp.all(known == jax.random.key_data(key), axis=1))
        return jnp.asarray(orders)[step]

    monkeypatch.setattr(update, "_order", order)
    states, logs = steps_of(prefix, 2, MOCO._replace(bn_statistics=statistics))
    return theirs(
        {
            "shuffle_bn/logits": np.stack([entry["logits"] for entry in logs]),
            "shuffle_bn/loss": np.array([entry["loss"] for entry in logs]),
            "shuffle_bn/ptr": np.array([state.objective_state["next"] for state in states]),
            "shuffle_bn/queue_final": states[-1].objective_state["queue"].T,
            **flat(states[-1].online_params, "shuffle_bn/final/query_params"),
        }
    )


@pytest.mark.parametrize(
    "prefix",
    [pytest.param(FLOAT64, id="float64"), pytest.param(FLOAT32, id="float32", marks=SLOW)],
)
def test_shuffled_statistics(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64(bool(prefix)):
        results = shuffled_results(prefix, "shuffled", monkeypatch)
    golden_methods.check(golden(), results, prefix)


@pytest.mark.parametrize(
    "statistics", [pytest.param("local", marks=SLOW), pytest.param("global", marks=SLOWER)]
)
def test_other_statistics_are_off_the_shuffled_trace(
    statistics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with jax.enable_x64(True):
        results = shuffled_results(FLOAT64, statistics, monkeypatch)
    with pytest.raises(AssertionError, match=" of 1e-09"):
        golden_methods.check(golden(), results, FLOAT64)


# ---------------------------------------------------------------- the page, and mistakes


def test_the_page_has_these_dials_and_heads() -> None:
    config = page.get_config()
    method = method_of(config)
    cosine = everywhere(Group("sgd", decayed="all"))
    assert method.groups == cosine
    for name in ("target", "target_update", "passes", "bn_statistics"):
        assert getattr(method, name) == getattr(MOCO, name), name
    assert config.objective.name == "moco"
    spec = siamese.make_spec(config.network.to_dict(), 0)
    head, arrays = spec.projector, golden().arrays
    shapes = ["2048,2048", "2048", f"2048,{head.output_size}", str(head.output_size)]
    assert list(map(str, arrays["contract/head_shapes"])) == shapes
    assert (head.depth, head.hidden_size, head.hidden_norm) == (2, 2048, False)
    assert spec.head_bias == "paper" and spec.predictor.kind == "none"
    size = config.objective.moco.queue_size
    assert tuple(arrays["contract/queue_shape"]) == (head.output_size, size)
    rows = queue.new(jax.random.key(0), 1000, 128)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    spread = np.std(rows) * np.sqrt(128)
    np.testing.assert_allclose(spread, arrays["contract/queue_init_std_times_sqrt_dim"], rtol=0.01)


def late(**numbers: Any) -> Objective:
    """The queue after the batch: its own keys are among the negatives."""
    objective = moco.moco(**numbers)

    def loss(params: Any, online: Any, target: Any, batch: Any, state: Any, *rest: Any) -> Any:
        rows = objective.loss(params, online, target, batch, state, *rest).rows["queue"]
        after = state["queue"].at[rows.at].set(rows.values)
        return objective.loss(params, online, target, batch, state | {"queue": after}, *rest)

    return objective._replace(loss=loss)


def warmer(**numbers: Any) -> Objective:
    return moco.moco(**(numbers | {"temperature": 1.05 * numbers["temperature"]}))


MISTAKES = {
    "target after the step": MOCO._replace(target_update="after"),
    "queue after the batch": MOCO._replace(objective=late),
    "temperature": MOCO._replace(objective=warmer),
    "both ways": MOCO._replace(
        objective=functools.partial(moco.moco, symmetric=True), passes=Passes()
    ),
    "biases are not decayed": MOCO._replace(groups=everywhere(Group("sgd", "constant"))),
    "no moving average": MOCO._replace(target="constant"),
}


# One by default, one in CI, all others by `make test-slow`.
MARKS = {"target": [], "queue": SLOW}


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, marks=MARKS.get(m.split()[0], SLOWER)) for m in MISTAKES],
)
def test_a_mistake_is_off_the_trace(mistake: str) -> None:
    with jax.enable_x64(True):
        results = trace_results(FLOAT64, 1, MISTAKES[mistake])
    with pytest.raises(AssertionError, match=r"of 1e-09|/ptr: "):
        golden_methods.check(golden(), results, FLOAT64)


def test_the_moment_of_the_momentum_shows_in_the_keys() -> None:
    """After the first step the key encoder is still where it started."""
    with jax.enable_x64(True):
        results = trace_results(FLOAT64, 1, MISTAKES["target after the step"])
    of_keys = {k: v for k, v in results.items() if k.startswith("trace/after_step0/key_params")}
    assert of_keys
    with pytest.raises(AssertionError, match="key_params"):
        golden_methods.check(golden(), of_keys, FLOAT64)
