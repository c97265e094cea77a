"""SupCon against the authors' code: loss, rates, and a run of a few steps."""

import functools
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
from byol_jax.method import method_of
from byol_jax.networks import siamese
from byol_jax.objectives import supcon
from byol_jax.objectives.base import Objective
from byol_jax.optim import schedules
from byol_jax.optim.groups import Group, everywhere
from byol_jax.program import Method, Passes, Program, TrainState
from byol_jax.runtime import spmd
from experiments import supcon as page

pytestmark = pytest.mark.golden_methods

PREFIXES = pytest.mark.parametrize("prefix", [FLOAT32, FLOAT64], ids=["float32", "float64"])
Results = dict[str, Any]

COMPARED = (
    r"loss/.*/(loss|grad_features)",
    "lr/.*/value",
    "trace/logs/.*",
    "trace/(after_step0|final)/(params|momentum)/.*",
)


def golden() -> golden_methods.Golden:
    return golden_methods.load("supcon")


def test_every_key_is_compared_or_given() -> None:
    golden_methods.check_keys(golden(), COMPARED)


# ---------------------------------------------------------------- loss


def loss_of_case(features: jax.Array, case: list[Any]) -> jax.Array:
    """The loss of all anchors of a case of the file."""
    name, count, views, _, temperature, base, mode, kind = case
    arrays = golden().arrays
    stacked = features.swapaxes(0, 1).reshape(views * count, -1)  # view by view
    index = jnp.arange(count)
    if kind == "mask":
        related = jnp.asarray(arrays[f"loss/{name}/mask"]) > 0
    else:
        labels = jnp.asarray(arrays.get(f"loss/{name}/labels", np.full(count, -1, np.int32)))
        related = supcon.positives(labels, labels, index, index)
    anchors = count * (views if mode == "all" else 1)
    return jnp.mean(
        supcon.supcon_loss(
            (stacked @ stacked.T)[:anchors],
            jnp.eye(views * count, dtype=bool)[:anchors],
            jnp.tile(related, (views, views))[:anchors],
            temperature,
            base,
        )
    )


@pytest.mark.slow
@pytest.mark.ci
@PREFIXES
def test_losses(prefix: str) -> None:
    dtype = np.float64 if prefix else np.float32
    results: Results = {}
    with jax.enable_x64(bool(prefix)):
        for case in golden().config["cases"]:
            features = golden().arrays[f"loss/{case[0]}/features"].astype(dtype)
            function = jax.jit(jax.value_and_grad(functools.partial(loss_of_case, case=case)))
            value, gradient = function(features)
            results[f"loss/{case[0]}/loss"] = value
            results[f"loss/{case[0]}/grad_features"] = gradient
    golden_methods.check(golden(), results, prefix)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [case for case in golden_methods.load("supcon").config["cases"] if case[-1] != "mask"],
    ids=lambda case: case[0],
)
def test_the_objective_is_that_loss(case: list[Any]) -> None:
    """Of views of its own; its features are of norm 1 already, like those of the file."""
    name, count, views, _, temperature, base, mode, _ = case
    features = golden().arrays[f"loss/{name}/features"].astype(np.float64)
    labels = golden().arrays.get(f"loss/{name}/labels", np.full(count, -1, np.int32))
    with jax.enable_x64(True):
        online = {v + 1: {"projection": jnp.asarray(features[:, v])} for v in range(views)}
        objective = supcon.supcon(temperature, base, mode)
        rest = ({}, jax.random.key(0), jnp.int32(0))
        loss = objective.loss({}, online, {}, {"labels": jnp.asarray(labels)}, *rest)
        assert loss.per_example.shape == (count,)
        # The features of the file have norm 1 in float32 only.
        expected = golden().arrays[f"float64/loss/{name}/loss"]
        np.testing.assert_allclose(jnp.mean(loss.per_example), expected, rtol=1e-6)


# ---------------------------------------------------------------- rates


@PREFIXES
def test_rates(prefix: str) -> None:
    """Theirs change once per epoch, counted from 1; here a step takes the place of an epoch."""
    results: Results = {}
    with jax.enable_x64(bool(prefix)):
        for name, case, batches in golden().config["lr"]:
            arrays = golden().arrays
            epoch, batch = (jnp.asarray(arrays[f"lr/{name}/{x}"]) for x in ("epoch", "batch"))
            assert int(arrays[f"lr/{name}/batches_per_epoch"]) == batches
            results[f"lr/{name}/value"] = rates_of_case(case, epoch, batch, batches)
        trace = golden().config["trace"]
        results["trace/logs/lr"] = schedules.whole_cosine_rate(
            1 + jnp.arange(trace["S"]),
            peak=trace["lr"],
            warmup_steps=0,
            total_steps=trace["epochs"],
            start=0.0,
            end=0.1**3,
        )
    golden_methods.check(golden(), results, prefix)


def rates_of_case(
    case: dict[str, Any], epoch: jax.Array, batch: jax.Array, batches: int
) -> jax.Array:
    peak, epochs = case["learning_rate"], case["epochs"]
    if not case["cosine"]:
        assert not case["warm"] and case["lr_decay_rate"] == 0.1, "no such schedule is here"
        return schedules.step_rate(
            epoch - 1,
            peak=peak,
            warmup_steps=0,
            total_steps=epochs,
            milestones=[at / epochs for at in case["lr_decay_epochs"]],
        )
    numbers = {
        "peak": peak,
        "start": case.get("warmup_from", 0.0) / peak,
        "end": case["lr_decay_rate"] ** 3,
    }
    warmup = case["warm_epochs"] if case["warm"] else 0
    # By batch in the warm-up, by epoch behind it.
    warming = schedules.whole_cosine_rate(
        (epoch - 1) * batches + batch,
        warmup_steps=warmup * batches,
        total_steps=epochs * batches,
        **numbers,
    )
    cosine = schedules.whole_cosine_rate(epoch, warmup_steps=0, total_steps=epochs, **numbers)
    return jnp.where(epoch <= warmup, warming, cosine)


# ---------------------------------------------------------------- steps

SUPCON = Method(
    objective=supcon.supcon,
    target="online",
    passes=Passes(online=((1, 2),), target=()),
    groups=everywhere(Group("sgd", "constant", decayed="all")),
)


def trace_results(prefix: str, devices: int, method: Method = SUPCON) -> Results:
    case, dtype = golden().config["trace"], np.float64 if prefix else np.float32
    arrays = golden().arrays
    params = ours(golden_methods.tree(golden(), "trace/init/params/", dtype))
    width, hidden = (params[f"{name}/linear"]["w"].shape[1] for name in ("encoder", "projector"))
    make = method.objective
    logged = method._replace(objective=lambda **_: make(temperature=case["temp"], axis=spmd.AXIS))
    program = Program(head_network(width, hidden, case["dim"], spmd.AXIS), logged, spmd.AXIS)
    images = golden_methods.inputs(arrays["trace/images_u8"], dtype)
    state = state_of(
        program._replace(network=head_network(width, hidden, case["dim"], None)),
        images[0, :, 0],
        {"online_params": params, "objective_state": {}},
    )
    rates = arrays.get(f"{prefix}trace/logs/lr", arrays["trace/logs/lr"]).astype(dtype)
    hparams = [
        hparams_of(peak_learning_rate=rate, weight_decay=case["wd"], momentum=case["momentum"])
        for rate in rates
    ]
    views = [{1: step[:, 0], 2: step[:, 1]} for step in images]
    results = run(program, state, views, hparams, devices, labels=list(arrays["trace/labels"]))
    states: tuple[TrainState, ...]
    states, logs = zip(*results, strict=True)
    return theirs(
        {
            "trace/logs/loss": np.array([entry["loss"] for entry in logs]),
            **flat(states[0].online_params, "trace/after_step0/params"),
            **flat(states[-1].online_params, "trace/final/params"),
            **momentum(states[-1]),
        }
    )


@RUNS
def test_a_run_repeats_that_of_the_authors(prefix: str, devices: int) -> None:
    with jax.enable_x64(bool(prefix)):
        golden_methods.check(golden(), trace_results(prefix, devices), prefix)


def test_the_page_has_these_dials_and_heads() -> None:
    config = page.get_config()
    method = method_of(config)
    whole_cosine = everywhere(Group("sgd", "whole_cosine", decayed="all"))
    assert method.groups._replace(predictor=whole_cosine.trunk) == whole_cosine
    for name in ("target", "target_update", "passes", "bn_statistics"):
        assert getattr(method, name) == getattr(SUPCON, name), name
    assert config.objective.name == "supcon"
    spec = siamese.make_spec(config.network.to_dict(), 0)
    head, shapes = spec.projector, list(map(str, golden().arrays["contract/head_shapes"]))
    assert shapes == ["2048,2048", "2048", f"2048,{head.output_size}", str(head.output_size)]
    assert (head.depth, head.hidden_size, head.hidden_norm) == (2, 2048, False)
    assert spec.head_bias == "paper" and spec.predictor.kind == "none"


def changed(**keywords: Any) -> Method:
    def make(**given: Any) -> Objective:
        return supcon.supcon(**(given | keywords))

    return SUPCON._replace(objective=make)


def warmer(**given: Any) -> Objective:
    return supcon.supcon(**(given | {"temperature": 1.05 * given["temperature"]}))


def without_base(**given: Any) -> Objective:
    """The paper's Eq. 2, which has no T / T_base; a T of 0.07 would hide it."""
    base = given["temperature"] if given["temperature"] != 0.07 else 0.1
    return supcon.supcon(**(given | {"base_temperature": base}))


def unlabelled(**given: Any) -> Objective:
    objective = supcon.supcon(**given)

    def loss(params: Any, online: Any, target: Any, batch: Any, *rest: Any) -> Any:
        batch = batch | {"labels": jnp.full_like(batch["labels"], -1)}
        return objective.loss(params, online, target, batch, *rest)

    return objective._replace(loss=loss)


def among_its_positives(*arguments: Any) -> jax.Array:
    """The loss of an anchor that counts as its own positive, and stands among the others."""
    similarity, is_self, is_positive, *numbers = arguments
    nothing = jnp.zeros_like(is_self)
    return LOSS(similarity, nothing, is_positive | is_self, *numbers)


LOSS = supcon.supcon_loss
MISTAKES = {
    "T_base forgotten": SUPCON._replace(objective=without_base),
    "temperature": SUPCON._replace(objective=warmer),
    "view 1 alone asks": changed(anchors="one"),
    "labels forgotten": SUPCON._replace(objective=unlabelled),
    "one view per pass": SUPCON._replace(passes=Passes(online=((1,), (2,)), target=())),
    "anchor among its positives": SUPCON,
}


# One by default, one in CI, all others by `make test-slow`.
MARKS = {"anchor": [], "T_base": SLOW}


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, marks=MARKS.get(m.split()[0], SLOWER)) for m in MISTAKES],
)
def test_a_mistake_is_off_the_trace(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mistake.startswith("anchor"):
        monkeypatch.setattr(supcon, "supcon_loss", among_its_positives)
    with pytest.raises(AssertionError, match=" of 1e-09"), jax.enable_x64(True):
        golden_methods.check(golden(), trace_results(FLOAT64, 1, MISTAKES[mistake]), FLOAT64)
