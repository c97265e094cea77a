"""Cells of a grid of trainings, and the file of their scores."""

import json
import logging
import pathlib
from typing import NamedTuple

from byol_jax.runtime import processes

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
    path: pathlib.Path, cell: Cell, fingerprint: int, metric: str, value: float | None
) -> None:
    """Writes down the score of a cell, None where it diverged."""
    score = "diverged" if value is None else f"validation {metric} {value:.2f}"
    _logger.info("%s: %s", cell.name, score)
    if processes.is_first_process():
        line = {"cell": cell.name, "fingerprint": fingerprint, "metric": metric, "value": value}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_scores(path: pathlib.Path) -> dict[int, float | None]:
    """Scores of cells by fingerprint; a cell whose line is torn is scored again."""
    scores: dict[int, float | None] = {}
    if not path.exists():
        return scores
    *lines, torn = path.read_text().split("\n")
    if torn and processes.is_first_process():
        # The next line would be lost if it went on from here.
        with path.open("a") as file:
            file.write("\n")
    for line in lines:
        try:
            values = json.loads(line)
            scores[values["fingerprint"]] = values["value"]
        except (KeyError, TypeError, ValueError):
            continue
    return scores
