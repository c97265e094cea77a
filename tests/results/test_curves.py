"""Curves of metrics.jsonl: what is read, thinned and drawn."""

import json
import re

import numpy as np

from byol_jax.objectives import collapse
from byol_jax.results import curves
from byol_jax.results.curves import Series


def test_the_last_line_of_a_step_counts_and_half_a_line_is_left_out(tmp_path):
    rows = [
        {"step": 1, "split": "train", "loss": 4.0, "tau": None},
        {"step": 3, "split": "train", "loss": 2.0},
        {"step": 2, "split": "train", "loss": 3.0, "word": "x"},
        {"step": 3, "split": "train", "loss": 2.5},
        {"step": 3, "split": "test", "knn_top1": 50.0},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "spl')
    metrics = curves.read(path)
    assert {*metrics} == {("train", "loss"), ("test", "knn_top1")}
    assert metrics["train", "loss"].steps.tolist() == [1, 2, 3]
    assert metrics["train", "loss"].values.tolist() == [4.0, 3.0, 2.5]


def test_bytes_of_no_text_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "split": "train", "loss": 2.0}\n\xff\xfe\n\0\0\n')
    read = curves.read(path)
    assert read["train", "loss"].steps.tolist() == [1]


def test_values_behind_a_step_are_left_out():
    metrics = {("train", "a"): Series(np.array([1, 5, 9]), np.array([1.0, 2.0, 3.0]))}
    assert curves.until(metrics, 5)["train", "a"].values.tolist() == [1.0, 2.0]
    assert not curves.until(metrics, 0)


def test_thinning_takes_means_of_neighbouring_steps():
    series = Series(np.arange(10, 110, 10), np.arange(10.0))
    thin = curves.thinned(series, points=5)
    assert thin.steps.tolist() == [15, 35, 55, 75, 95]
    assert thin.values.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert curves.thinned(series, points=10) is series


def test_a_curve_is_drawn_where_the_run_has_its_values():
    metrics = {("train", "probe_top1"): Series(np.arange(3), np.array([1.0, 2.0, 4.0]))}
    by_title = {curve.title: curves.draw(curve, metrics) for curve in curves.curves_of("byol")}
    (drawn,) = (svg for svg in by_title.values() if svg)
    assert by_title["online probe: top-1 (%)"] == drawn
    assert drawn.startswith("<svg") and drawn.rstrip().endswith("</svg>")
    # Text stays text, and the line has its three points.
    assert ">step<" in drawn
    paths = re.findall(r'<path d="([^"]+)" clip-path="[^"]+" style="[^"]*#1b6ca8', drawn)
    assert [len(re.findall(r"[ML]", path)) for path in paths] == [3]
    assert curves.draw(curves.curves_of("byol")[5], metrics) == drawn, "the same in every run"


def test_each_objective_has_words_for_its_loss():
    # Eq. 2 and its mirror are 2 - 2 cos each.
    assert "From 0 to 8: 4 minus four times the mean cosine" in curves.curves_of("byol")[0].healthy
    assert "-1" in curves.curves_of("simsiam")[0].healthy
    assert "temperature" in curves.curves_of("moco")[0].healthy


def test_every_health_value_has_a_curve():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    drawn = {name for curve in curves.curves_of("byol") for name in curve.names}
    assert {*collapse.health(rows, rows)} <= drawn
