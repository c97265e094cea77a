"""The file of predictions: round trips, and what it refuses."""

import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.results import ranked
from tiny_records import make_record

PART = ranked.Ranked(
    ids=np.array([0, 2, 3]),
    labels=np.array([1, 0, 1]),
    ranked=np.array([[1, 0], [0, 1], [0, 1]]),
    about=ranked.about_of(make_record()),
)


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "predictions.npz"
    ranked.write(path, PART)
    read = ranked.read(path)
    for field in ("ids", "labels", "ranked"):
        np.testing.assert_array_equal(getattr(read, field), getattr(PART, field))
    assert read.about == PART.about
    assert [file.name for file in path.parent.iterdir()] == ["predictions.npz"]
    with np.load(path) as arrays:  # as other programs read it
        assert {"ids", "labels", "ranked"} < {*arrays}


def test_the_best_classes_come_first():
    logits = np.array([[0.0, 2.0, 1.0], [3.0, -1.0, 3.0]])
    assert ranked.rank(np.array([5, 6, 9]), logits).tolist() == [[6, 9, 5], [5, 9, 6]]
    assert ranked.rank(np.arange(9), np.arange(9.0)[None]).tolist() == [[8, 7, 6, 5, 4]]


def test_predictions_of_something_else_are_not_replaced(tmp_path):
    path = tmp_path / "predictions.npz"
    ranked.require_free(path, PART.about)
    ranked.write(path, PART)
    ranked.require_free(path, PART.about)
    with pytest.raises(UserError, match=r"network=online.*network=target") as caught:
        ranked.require_free(path, {**PART.about, "network": "target"})
    assert "\n" not in str(caught.value)
