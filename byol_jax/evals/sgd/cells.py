"""Cells of a grid of trainings, and the file of their scores."""

import json
import logging
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from byol_jax.data import images
from byol_jax.errors import require
from byol_jax.runtime import disk, processes

_logger = logging.getLogger(__name__)


class Cell(NamedTuple):
    """One setting of the grid.

    Attributes:
      learning_rate: peak rate, scaled with the batch.
      num_epochs: length of the training; None where the config gives the number of steps.
      weight_decay: weight of the l2 penalty.
    """

    learning_rate: float
    num_epochs: float | None
    weight_decay: float

    @property
    def name(self) -> str:
        """Its name in `cells.jsonl`, which is also that of its folder."""
        epochs = "" if self.num_epochs is None else f"epochs={self.num_epochs:g},"
        return f"rate={self.learning_rate:.6g},{epochs}decay={self.weight_decay:.6g}"


def append_score(
    path: pathlib.Path,
    cell: Cell,
    fingerprint: int,
    metric: str,
    value: float | None,
    data: Mapping[str, int],
) -> None:
    """Writes down the score of a cell, None where it diverged.

    `fingerprint` is that of its settings, and `data` that of its images (`images.fingerprint`).
    """
    score = "diverged" if value is None else f"validation {metric} {value:.2f}"
    _logger.info("%s: %s", cell.name, score)
    if processes.is_first_process():
        line = {"cell": cell.name, "fingerprint": fingerprint, "metric": metric, "value": value}
        with disk.writing(path), path.open("a") as file:
            file.write(json.dumps({**line, "data": dict(data)}) + "\n")


def read_scores(path: pathlib.Path) -> dict[int, float | None]:
    """Scores of cells by fingerprint; a cell whose line cannot be read is scored again."""
    scores: dict[int, float | None] = {}
    for line in _lines(path):
        scores[line["fingerprint"]] = line["value"]
    return scores


def check_images(
    path: pathlib.Path, fingerprints: Collection[int], data: Mapping[str, int]
) -> None:
    """Refuses scores of the same cells on other images.

    Lines of earlier versions do not say which images they are of.

    Raises:
      UserError: names the first of these cells.
    """
    for line in _lines(path):
        if line["fingerprint"] in fingerprints and line.get("data"):
            other = images.difference(line["data"], data)
            require(
                not other,
                f"{path} has the score of {line['cell']} on other images, these are {other}: give "
                "another --workdir, or move that folder away",
            )


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines that are whole; the next one is written below one that is torn."""
    if not path.exists():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    if torn and processes.is_first_process():
        # The next line would be lost if it went on from here.
        with disk.writing(path), path.open("a") as file:
            file.write("\n")
    found = []
    for line in lines:
        try:
            values = json.loads(line)
            found += [values] if {"fingerprint", "value"} <= {*values} else []
        except (TypeError, ValueError, RecursionError):
            continue
    return found
