"""The watchdog, on logs of runs of the digits: 600 updates, seed 1337, a log every 20 steps."""

import logging

import numpy as np
import pytest

from byol_jax import watch
from byol_jax.results import healthy

SIZES = healthy.Sizes(classes=10, images=64, largest_rank=0)
NAMES = ("projection_std", "embedding_rank", "uniformity", "alignment", "probe_top1")
# By run: the logs of these steps.
STEPS = (20, 60, 100, 140, 200, 300, 400, 500, 600)
RUNS = {
    "healthy": [
        (0.799, 19.1, -2.42, 1.19, 6.3),
        (0.732, 10.4, -1.67, 0.93, 15.6),
        (0.868, 11.8, -1.80, 0.66, 23.4),
        (0.863, 9.3, -1.47, 0.28, 37.5),
        (0.860, 8.7, -1.42, 0.17, 37.5),
        (0.856, 8.7, -1.32, 0.19, 56.3),
        (0.857, 8.3, -1.32, 0.14, 50.0),
        (0.866, 8.7, -1.34, 0.11, 65.6),
        (0.865, 8.8, -1.30, 0.12, 59.4),
    ],
    "predictor none": [
        (0.516, 19.4, -2.42, 1.10, 17.2),
        (0.095, 13.2, -2.11, 1.00, 14.1),
        (0.071, 9.7, -1.91, 0.71, 37.5),
        (0.059, 7.6, -1.91, 0.49, 48.4),
        (0.059, 6.2, -1.85, 0.35, 54.7),
        (0.047, 5.8, -1.86, 0.52, 46.9),
        (0.052, 5.3, -1.46, 0.25, 54.7),
        (0.046, 5.6, -1.66, 0.26, 56.3),
        (0.044, 5.5, -1.49, 0.22, 50.0),
    ],
    "target online": [
        (0.578, 19.0, -2.38, 1.17, 7.8),
        (0.026, 4.3, -0.39, 0.59, 9.4),
        (0.009, 2.0, -0.16, 0.32, 12.5),
        (0.005, 2.1, -0.22, 0.34, 9.4),
        (0.005, 1.9, -0.16, 0.46, 7.8),
        (0.003, 2.0, -0.21, 0.27, 10.9),
        (0.001, 1.6, -0.09, 0.20, 9.4),
        (0.001, 1.7, -0.12, 0.21, 14.1),
        (0.001, 1.5, -0.07, 0.25, 17.2),
    ],
    # tau 1: the target is a constant, of which the papers and these logs see no collapse.
    "target constant": [
        (0.800, 19.2, -2.44, 1.18, 6.3),
        (0.705, 10.2, -1.26, 0.94, 10.9),
        (0.811, 10.9, -1.74, 0.74, 26.6),
        (0.855, 12.2, -1.88, 0.74, 40.6),
        (0.868, 12.8, -1.96, 0.46, 59.4),
        (0.899, 13.0, -1.98, 0.42, 64.1),
        (0.902, 13.6, -1.97, 0.36, 71.9),
        (0.896, 14.1, -1.96, 0.31, 75.0),
        (0.893, 14.1, -1.93, 0.33, 67.2),
    ],
}


def watched(rows, caplog, sizes=SIZES, end=600, every=20, largest_rank=24):
    """What is said of logs between which all others are interpolated; and the collapse."""
    dog = watch.Watchdog(end, sizes, "the cause")
    with caplog.at_level(logging.WARNING, "byol_jax"):
        for step in range(every, end + 1, every):
            values = (np.interp(step, STEPS, column) for column in zip(*rows, strict=True))
            dog.see(step, dict(zip(NAMES, map(float, values), strict=True)), largest_rank)
    return [record.getMessage() for record in caplog.records], dog.collapse


@pytest.mark.parametrize("name", ["healthy", "target constant"])
def test_a_healthy_run_is_not_warned_of(name, caplog):
    assert watched(RUNS[name], caplog) == ([], "")


def test_without_a_predictor_the_projections_collapse(caplog):
    (line,), collapse = watched(RUNS["predictor none"], caplog)
    # Logs of 80 to 160: the first tenth does not count.
    assert line.startswith("the run has collapsed: step 160: the spread of the projections")
    assert line.endswith(": the cause")
    assert collapse.startswith("collapsed: step 160: the spread")


def test_with_the_online_network_as_target_everything_collapses_once_per_kind(caplog):
    said, _ = watched(RUNS["target online"], caplog)
    assert [line.split(" (")[0] for line in said[:2]] == [
        "the run has collapsed: step 160: the spread of the projections",
        "the run has collapsed: step 160: representations spread in 2.3 of 24 directions, in "
        "effect: the cause",
    ]
    assert len(said) == 3 and "the online probe is right for 9.9 %" in said[2]


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        # A short run, and one that resumes near its end.
        ("target online", {"end": 40, "every": 1}),
        # Nobody's representation of four numbers has more than four directions.
        ("healthy", {"largest_rank": 4}),
    ],
)
def test_what_is_too_short_or_too_small_is_not_judged(rows, changes, caplog):
    assert watched(RUNS[rows], caplog, **changes) == ([], "")


def test_images_of_a_class_may_share_a_point_where_labels_are_learnt(caplog):
    rows = [(0.8, 1.5, -0.01, 0.01, 90.0)] * len(STEPS)
    said, _ = watched(rows, caplog)
    assert len(said) == 2
    caplog.clear()
    assert watched(rows, caplog, SIZES._replace(is_supervised=True)) == ([], "")


def test_a_probe_of_few_images_says_nothing(caplog):
    rows = [(0.8, 20.0, -2.0, 0.1, 10.0)] * len(STEPS)
    # 900 images tell a guess of ten classes: 15 logs of 64, behind step 60.
    (line,), collapse = watched(rows, caplog)
    assert "right for 10.0 % of the images" in line
    assert collapse == ""  # no collapse by itself
    caplog.clear()
    assert watched(rows, caplog, SIZES._replace(images=8)) == ([], "")
    assert watched(rows, caplog, SIZES._replace(classes=0)) == ([], "")


DIALS = {
    "objective.name": "byol",
    "target": "ema",
    "network.predictor.kind": "mlp",
    "network.projector.hidden_norm": True,
    "tau_base": 0.996,
    "optimizer.weight_decay": 1e-6,
    "optimizer.base_learning_rate": 0.2,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "online"}, "config.target=online"),
        ({"target": "stop_gradient"}, "Table 5a"),
        ({"network.predictor.kind": "none"}, "Table 5b"),
        ({"tau_base": 0.0}, "config.tau_base=0: the target follows too fast (BYOL Table 5a"),
        ({"network.projector.hidden_norm": False}, "hidden_norm=False"),
        ({"optimizer.weight_decay": 0.5}, "weight_decay=0.5"),
        ({}, "no dial of this run is known for it"),
        # With negatives neither a predictor nor a target network is needed.
        (
            {"objective.name": "nt_xent", "target": "online", "network.predictor.kind": "none"},
            "no dial of this run is known for it",
        ),
    ],
)
def test_the_likely_cause_is_named_with_its_table(changes, words):
    assert words in watch.causes(DIALS | changes)
