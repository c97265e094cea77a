"""The step on a guest: SwAV from given weights on given images, against its own code."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from golden_steps import FLOAT64, RUNS, SLOW, SLOWER, flat, hparams_of, run, state_of

import golden_methods_data as golden_methods
import guests
from byol_jax.objectives.base import Objective
from byol_jax.optim import groups
from byol_jax.program import Method, Program, TrainState
from byol_jax.runtime import spmd

Change = Callable[[Method], Method]


def unchanged(method: Method) -> Method:
    return method


def swav_results(prefix: str, devices: int, change: Change = unchanged) -> dict[str, np.ndarray]:
    golden = golden_methods.load("swav")
    case, dtype = golden.config["trace"], np.float64 if prefix else np.float32
    params = golden_methods.tree(golden, "trace/init/params/", dtype)
    prototypes = params.pop("prototypes")
    axis = spmd.AXIS
    width = params["encoder/linear"]["w"].shape[1]
    objective = functools.partial(
        guests.swav,
        temperature=case["T"],
        eps=case["eps"],
        iterations=case["it"],
        prototypes=case["K"],
        large=case["large"],
        queue=case["queue"],
        queue_from=case["queue_start"] * case["I"],
        axis=axis,
    )
    method = change(guests.swav_method(case["large"], case["small"], objective))
    program = Program(guests.swav_network(width, case["hidden"], case["dim"], axis), method, axis)
    large, small = (
        golden_methods.inputs(golden.arrays[f"trace/images_{size}_u8"], dtype)
        for size in ("large", "small")
    )
    local = program._replace(network=guests.swav_network(width, case["hidden"], case["dim"]))
    queue = np.zeros((case["queue"], case["dim"]), dtype)
    state = state_of(
        local,
        (large[0, 0], small[0, 0]),
        {
            "online_params": params,
            "objective_params": {"prototypes": prototypes},
            "objective_state": {
                **{f"queue{v}": queue for v in range(1, case["large"] + 1)},
                "next": np.zeros((), np.int32),
                "filled": np.zeros((), np.int32),
            },
        },
    )
    rates = golden.arrays.get(f"{prefix}trace/logs/lr", golden.arrays["trace/logs/lr"])
    hparams = [
        hparams_of(
            roles={"objective": {"frozen_until": case["freeze"]}},
            peak_learning_rate=rate,
            weight_decay=case["wd"],
            momentum=0.9,
        )
        for rate in rates.astype(dtype)
    ]
    views = [
        dict(enumerate([*first, *second], start=1))
        for first, second in zip(large, small, strict=True)
    ]
    results = run(program, state, views, hparams, devices)
    states, logs = zip(*results, strict=True)
    last = states[-1]

    def rolled(v: int) -> np.ndarray:
        return np.roll(last.objective_state[f"queue{v}"], -int(last.objective_state["next"]), 0)

    def parameters(state: TrainState, stage: str) -> dict[str, np.ndarray]:
        found = flat(state.online_params, f"trace/{stage}/params")
        found |= flat(state.objective_params, f"trace/{stage}/params")
        del found[f"trace/{stage}/params/projector/linear/b"]  # rounding alone
        return found

    momentum = {
        name.removeprefix("online_params/").removeprefix("objective_params/"): value
        for name, value in last.slots["momentum"].items()
    }
    del momentum["projector/linear/b"]
    found = {
        "trace/logs/loss": np.array([entry["loss"] for entry in logs]),
        "trace/logs/n_sinkhorn_rows": np.array([entry["n_sinkhorn_rows"] for entry in logs]),
        "trace/per_step/prototypes_w": np.stack(
            [state.objective_params["prototypes"]["w"] for state in states]
        ),
        "trace/final/queue": np.stack([rolled(v) for v in range(1, case["large"] + 1)]),
        **parameters(states[0], "after_step0"),
        **parameters(last, "final"),
        **{f"trace/final/momentum/{name}": value for name, value in momentum.items()},
    }
    if devices == 1:
        found["trace/logs/q"] = np.stack([entry["q"] for entry in logs])
    return found


@RUNS
def test_a_guest_repeats_the_trace_of_its_authors(prefix: str, devices: int) -> None:
    with jax.enable_x64(prefix == FLOAT64):
        results = swav_results(prefix, devices)
    golden_methods.check(golden_methods.load("swav"), results, prefix)


def with_objective(**changes: Any) -> Change:
    """The method with other functions in its objective."""

    def change(method: Method) -> Method:
        def make(**numbers: Any) -> Objective:
            return method.objective(**numbers)._replace(**changes)

        return method._replace(objective=make)

    return change


def with_groups(**changes: Any) -> Change:
    def change(method: Method) -> Method:
        return method._replace(groups=groups.everywhere(method.groups.trunk._replace(**changes)))

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m._replace(passes=m.passes._replace(head="group")), marks=SLOW),
        *(
            pytest.param(change, marks=SLOWER)
            for change in (
                with_objective(prepare=lambda params: params),
                with_groups(adapted="weights"),
                with_groups(kind="lars", adapted="all", decayed="all"),
            )
        ),
    ],
    ids=["head per group", "prototypes not prepared", "biases not adapted", "LARS for LARC"],
)
def test_a_mistake_is_off_the_trace(change: Change) -> None:
    with jax.enable_x64(True):
        results = swav_results(FLOAT64, 1, change)
    with pytest.raises(AssertionError, match=" of 1e-09"):
        golden_methods.check(golden_methods.load("swav"), results, FLOAT64)
