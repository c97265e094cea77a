"""What a run that diverged is said to have diverged of, by what was not finite."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import tiny_runs
from byol_jax import diverged, train
from byol_jax.errors import Diverged
from byol_jax.runtime import checkpoints

CONFIG = {
    "objective.name": "nt_xent",
    "objective.nt_xent.temperature": 0.1,
    "optimizer.base_learning_rate": 0.2,
    "optimizer.weight_decay": 1e-6,
    "network.init_scale": 1.0,
    "augment.view1.brightness_max": 0.4,
    "precision": "float32",
}
WEIGHTS = {
    "online_params/net/~/block_group_0/conv/w": 0.1,
    "online_params/net/~/block_group_1/conv/w": 0.1,
    "online_params/projector/linear_0/w": 0.1,
    "online_params/projector/linear_1/w": 0.1,
}


def seen(config=(), weights=(), **changes):
    """A step with nothing wrong, but for the changes."""
    facts = diverged.Facts(
        step=14,
        logs={"loss": 3.0, "probe_loss": 2.0, "embedding_norm": 5.0, "projection_norm": 6.0},
        gradients=dict.fromkeys(WEIGHTS, 1.0),
        weights=WEIGHTS | dict(weights),
        rates={"trunk": 0.2, "projector": 0.2},
        numbers={"groups/trunk/weight_decay": 1e-6},
        config=CONFIG | dict(config),
        rows={},
    )
    return facts._replace(**changes)


def logs(**changes):
    return seen().logs | changes


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("facts", "what", "hint"),
    [
        (
            seen(numbers={"groups/trunk/weight_decay": INF}),
            "groups/trunk/weight_decay, a number of the config",
            "give a finite one",
        ),
        (
            seen(rates={"trunk": 0.2, "projector": 3e20}, config={"network.init_scale": 1.0}),
            "the update: the learning rate of the projector is 3e+20",
            "lower config.optimizer.base_learning_rate=0.2",
        ),
        (
            seen(weights={"online_params/projector/linear_0/w": NAN}),
            "the update of step 13, in online_params/projector/linear_0/w",
            "config.optimizer.base_learning_rate=0.2",
        ),
        (
            seen(
                logs=logs(projection_norm=INF, loss=NAN),
                weights={"online_params/projector/linear_1/w": 1e20},
                config={"optimizer.weight_decay": 1e4},
            ),
            "the projection",
            "linear_1/w has a root mean square of 1.0e+20: "
            "lower config.optimizer.weight_decay=10000",
        ),
        (
            seen(
                logs=logs(loss=NAN),
                weights={"online_params/projector/linear_1/w": 1e20},
                config={"network.init_scale": 1e21},
            ),
            "the loss",
            "lower config.network.init_scale=1e+21",
        ),
        (
            seen(
                logs=logs(embedding_norm=NAN, projection_norm=NAN, loss=NAN),
                config={"augment.view1.brightness_max": 1e39},
            ),
            "the representation",
            "the weights are not large, so look at the views: "
            "config.augment.view1.brightness_max=1e+39",
        ),
        (
            seen(logs=logs(loss=INF), config={"objective.nt_xent.temperature": 1e-39}),
            "the loss",
            "config.objective.nt_xent.temperature=1e-39",
        ),
        (seen(logs=logs(probe_loss=NAN)), "the probe's loss", "look at the labels"),
        (
            # A gradient that is lost at one layer is lost below it, too: the nearest to the loss.
            seen(gradients=dict.fromkeys(WEIGHTS, INF), logs=logs(loss=1e20)),
            "the gradient of online_params/projector/linear_1/w, and 3 more of 4",
            "the loss is finite, but steep: look at config.objective.nt_xent.temperature=0.1",
        ),
        (
            seen(gradients={**dict.fromkeys(WEIGHTS, 1.0), [*WEIGHTS][1]: NAN}),
            "the gradient of online_params/net/~/block_group_1/conv/w",
            "the loss is finite and the weights are not large",
        ),
        (seen(), "the objective's state", "the loss is finite"),
    ],
)
def test_what_was_not_finite_and_why(facts, what, hint):
    assert diverged.what(facts) == what
    assert hint in diverged.hint(facts)


def test_a_step_is_found_among_the_last_ones():
    recent = diverged.Recent(10, log_every=1)
    for step in range(11, 22):
        rows = {"ids": jnp.full((1, 2), step), "epochs": jnp.zeros((1, 2), int), "view1": None}
        recent.keep(rows, {"loss": jnp.full(1, float(step)), "large": jnp.ones(1)}, ("large",))
    found, rows = recent.of(20)
    assert found == {"loss": 20.0}
    assert rows == {"ids": [20, 20], "epochs": [0, 0]}
    # The last log, the steps that the host is ahead, and those of its answer.
    assert recent.of(15)[0] and recent.of(14) == ({}, {})
    rare = diverged.Recent(0, log_every=10**6)
    assert rare._kept.maxlen is not None and rare._kept.maxlen < 300


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("change", "words", "saved"),
    [
        (
            {"optimizer__base_learning_rate": 1e18},
            r"lower config\.optimizer\.base_learning_rate=1e.*takes --config\.resume_changed",
            True,
        ),
        # In its first step: what is drawn again is not saved.
        (
            {"network__init_scale": 1e25},
            r"nothing is saved; .*lower config\.network\.init_scale=1e\+25; the same workdir",
            False,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_run_says_it_and_leaves_what_repeats_the_step(tmp_path, change, words, saved):
    data = tiny_runs.write_npz(tmp_path / "images.npz")
    # The step that diverges is not logged.
    config = tiny_runs.tiny_config(data, log_every=100, **change)
    with pytest.raises(Diverged, match=words) as caught:
        train.pretrain(config, tmp_path / "run")
    steps = checkpoints.steps(tmp_path / "run" / "checkpoints")
    assert bool(steps) == saved
    step = steps[0] if saved else 0
    file = tmp_path / "run" / f"diverged-{step + 1}.json"
    assert f"numbers in {file}" in str(caught.value)
    left = json.loads(file.read_text())
    assert left["checkpoint"] == (f"checkpoints/{step}" if saved else None)
    assert left["not_finite"] in str(caught.value)
    assert (left["seed"], left["rows_of"]) == (1337, "process 0 of 1")
    # Batch k has positions 8 k to 8 k + 7 of the stream of 24 images.
    assert len(set(left["ids"])) == 8 and set(left["ids"]) <= set(range(24))
    assert left["epochs"] == [step * 8 // 24] * 8
    assert left["gradient_norms"].keys() == left["weight_rms"].keys()
    if saved:
        flat, _ = checkpoints.read(tmp_path / "run" / "checkpoints", step)
        assert all(np.isfinite(value).all() for value in flat.values())
        trained = {name for name in flat if name.startswith("online_params/")}
        assert left["weight_rms"].keys() == trained
    for key, value in change.items():
        assert left["config"][key.replace("__", ".")] == value
