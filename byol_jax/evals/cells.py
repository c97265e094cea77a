"""A grid of trainings: its cells, the file of their scores, and the choice of the best one."""

import contextlib
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from byol_jax.checks import is_finite
from byol_jax.data import images
from byol_jax.errors import Diverged, GuardError, require
from byol_jax.evals import grid
from byol_jax.optim import schedules
from byol_jax.results import measures
from byol_jax.runtime import checkpoints, disk, processes

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


def scaled_rates(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The rates of a sweep: as they are given, or scaled with the batch (docs/deviations.md, 26).

    Args:
      config: of a job with `learning_rates`, `batch_size` and `rate_scaling`.
    """
    return tuple(
        float(schedules.scaled_learning_rate(rate, config.batch_size, config.rate_scaling))
        for rate in config.learning_rates
    )


def check_rates(config: ml_collections.ConfigDict) -> None:
    """Refuses rates that float32 does not hold.

    Raises:
      UserError: names the key, its value and what to do.
    """
    require(
        all(is_finite(rate) for rate in scaled_rates(config)),
        f"config.learning_rates={config.learning_rates} are more than float32 holds at config."
        f"batch_size={config.batch_size}: lower them",
    )


class Grid(NamedTuple):
    """Trainings with different settings, of which one is to be chosen.

    Attributes:
      folder: folder of `cells.jsonl`, with a folder per cell.
      cells: the settings.
      metric: name of the score.
      data: fingerprint of the images that are learnt from (`images.fingerprint`).
      mark: a checksum of everything that decides the score of a cell.
      record: what tells the training of a cell from others, as it is saved with it.
      score: trains a cell, or goes on with it; its validation score. It raises Diverged.
    """

    folder: pathlib.Path
    cells: Sequence[Cell]
    metric: str
    data: Mapping[str, int]
    mark: Callable[[Cell], int]
    record: Callable[[Cell], dict[str, Any]]
    score: Callable[[Cell], float]


def search(of: Grid) -> tuple[Cell, dict[Cell, float | None]]:
    """Trains the cells that have no score yet, and chooses the best one by `grid.choose`.

    Returns:
      The best cell, and the validation score of each, None where it diverged.

    Raises:
      GuardError: every cell diverged.
    """
    path = of.folder / "cells.jsonl"
    finished = read_scores(path)
    best: Cell | None = None
    values: dict[Cell, float | None] = {}
    for number, cell in enumerate(of.cells, start=1):
        mark = of.mark(cell)
        if mark not in finished:
            _logger.info("cell %d of %d: %s", number, len(of.cells), cell.name)
            finished[mark] = _score(of, cell)
            append_score(path, cell, mark, of.metric, finished[mark], of.data)
        values[cell] = finished[mark]
        before, best = best, best_of(values, measures.of(of.metric).lower_is_better)
        for worse in {cell, before} - {best}:
            if worse:
                _forget(of, worse)
    if best is None:
        raise GuardError(
            f"all {len(of.cells)} cells of the grid ended with numbers that are not finite: lower "
            "config.learning_rates, or look at the images"
        )
    return best, values


def best_of(values: Mapping[Cell, float | None], lower_is_better: bool = False) -> Cell | None:
    """The best cell by its score (`grid.choose`); None if all diverged."""
    if all(value is None for value in values.values()):
        return None
    caution = [
        (cell.weight_decay, -cell.learning_rate, -(cell.num_epochs or 0.0)) for cell in values
    ]
    return [*values][grid.choose([*values.values()], caution, lower_is_better)]


def _score(of: Grid, cell: Cell) -> float | None:
    """The validation score of one cell, None where it diverged."""
    try:
        return of.score(cell)
    except Diverged as error:
        _logger.warning("%s", error)
        return None


def _forget(of: Grid, cell: Cell) -> None:
    """Deletes a network of this grid: its score is kept, and dozens of them would fill a disk."""
    directory = of.folder / cell.name / "checkpoints"
    steps = checkpoints.steps(directory)
    if not processes.is_first_process():
        return
    if not steps:  # it diverged in its first step, and nothing was saved
        with contextlib.suppress(OSError):
            directory.rmdir()
        return
    with contextlib.suppress(checkpoints.DamagedError):  # then it is not known whose it is
        saved = checkpoints.read_record(directory, steps[-1])
        if of.record(cell).items() <= saved.items():
            shutil.rmtree(directory, ignore_errors=True)
