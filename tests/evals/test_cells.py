"""The file of the scores of a grid."""

import pytest

from byol_jax.errors import UserError
from byol_jax.evals.cells import Cell, append_score, check_images, read_scores

CELL, DATA = Cell(0.1, 30.0, 0.0), {"count": 8, "names_crc32": 1}


def test_scores_are_read_by_fingerprint(tmp_path):
    path = tmp_path / "cells.jsonl"
    assert read_scores(path) == {}
    append_score(path, CELL, 5, "top1", 71.5, DATA)
    append_score(path, CELL, 6, "top1", None, DATA)
    with path.open("a") as file:
        file.write('{"cell": "x", "fing')
    assert read_scores(path) == {5: 71.5, 6: None}
    append_score(path, CELL, 7, "top1", 1.0, DATA)
    assert read_scores(path) == {5: 71.5, 6: None, 7: 1.0}


def test_scores_on_other_images_are_refused(tmp_path):
    path = tmp_path / "cells.jsonl"
    append_score(path, CELL, 5, "top1", 71.5, DATA)
    check_images(path, {5, 6}, DATA)
    other = {"count": 8, "names_crc32": 2}
    with pytest.raises(
        UserError, match=r"has the score of rate=0.1,.* 8 images of other names: give"
    ):
        check_images(path, {5, 6}, other)
    check_images(path, {6}, other)  # of another grid in the same folder
    # A line of an earlier version.
    path.write_text('{"cell": "x", "fingerprint": 5, "metric": "top1", "value": 1.0}\n')
    check_images(path, {5}, other)
    assert read_scores(path) == {5: 1.0}
