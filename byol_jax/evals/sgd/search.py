"""A grid of trainings of the whole network, and the choice of its best cell."""

import contextlib
import json
import logging
import pathlib
import shutil
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import ml_collections

from byol_jax.data import images
from byol_jax.errors import Diverged, GuardError
from byol_jax.evals import grid
from byol_jax.evals.sgd import classifiers, predictions, recipes, training
from byol_jax.evals.sgd.cells import Cell, append_score, check_images, read_scores
from byol_jax.evals.sgd.identity import training_record
from byol_jax.evals.splits import Split
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints, processes, spmd

_logger = logging.getLogger(__name__)

# The one `config.bn_decay` that is a word; others are a number, or empty for the network's own.
TRANSFER = "transfer"


def bn_decay_for_transfer(steps_per_epoch: float) -> float:
    """Decay of BatchNorm's averages, max(1 - 10 / s, 0.9) at s steps per epoch (BYOL App. E.3)."""
    return max(1 - 10 / steps_per_epoch, 0.9)


class Axes(NamedTuple):
    """The values that a grid combines, as the config gives them.

    Attributes:
      learning_rates: peak rates, scaled with the batch.
      epochs: lengths of the training; None alone where the config gives the number of steps.
      weight_decays: weights of the l2 penalty, before they are divided by the rate.
    """

    learning_rates: tuple[float, ...]
    epochs: tuple[float | None, ...]
    weight_decays: tuple[float, ...]


def axes_of(config: ml_collections.ConfigDict) -> Axes:
    """The axes of a config's grid."""
    epochs = (None,) if config.num_steps else config.sweep_epochs or (config.num_epochs,)
    decays = config.sweep_weight_decays or (config.weight_decay,)
    return Axes(recipes.scaled_rates(config), tuple(epochs), tuple(decays))


def cells_of(config: ml_collections.ConfigDict) -> dict[Cell, tuple[float, float | None, float]]:
    """The cells, rates outermost, each with its values on the axes."""
    axes = axes_of(config)
    return {
        Cell(rate, length, decay / rate if config.decay_over_rate else decay): (rate, length, decay)
        for rate in axes.learning_rates
        for length in axes.epochs
        for decay in axes.weight_decays
    }


class Job(NamedTuple):
    """What the cells of a grid share.

    Attributes:
      config: config of the job.
      data: data set, metric and crops.
      encoder: weights that each cell starts from.
      spec: the network.
      folder: folder for the cells.
      identity: values that tell this grid from others in the same folder.
    """

    config: ml_collections.ConfigDict
    data: recipes.Data
    encoder: training.Encoder
    spec: siamese.NetworkSpec
    folder: pathlib.Path
    identity: dict[str, Any]

    def network(self, train_set: images.ImageSet, axis: str | None) -> hk.TransformedWithState:
        """f, with the protocol's decay of BatchNorm's averages on this set."""
        decay, value = self.config.bn_decay, None
        if decay == TRANSFER:
            value = bn_decay_for_transfer(train_set.size / self.config.batch_size)
        elif decay:
            value = float(decay)
        return training.encoder_of(self.spec, value, axis)

    def recipe(self, cell: Cell, num_examples: int) -> recipes.Recipe:
        """The hyperparameters of one cell."""
        config = self.config.copy_and_resolve_references()
        config.weight_decay = cell.weight_decay
        if cell.num_epochs is not None:
            config.num_epochs = float(cell.num_epochs)
        recipe = recipes.recipe_of(config, self.data, num_examples)
        return recipe._replace(learning_rates=(cell.learning_rate,))

    def fingerprint(self, cell: Cell, num_examples: int) -> int:
        """A checksum of everything that decides the score of a cell."""
        recipe = self.recipe(cell, num_examples)
        scored = [self.config.valid_split, self.data.metric, self.data.cropping.eval_crop]
        parts = [training_record(self.identity, recipe, num_examples), scored]
        return zlib.crc32(json.dumps(parts, sort_keys=True).encode())

    def place(self, name: str) -> training.Place:
        """Where a training of the grid is kept."""
        return training.Place(
            directory=self.folder / name,
            identity=self.identity,
            description=f"{self.identity['protocol']}, {name}",
            log_every=self.config.log_every,
            checkpoint_every=self.config.checkpoint_every,
            skip_damaged=self.config.skip_damaged,
        )

    def train(
        self, cell: Cell, train_set: images.ImageSet, name: str
    ) -> tuple[classifiers.State, recipes.Recipe]:
        """Trains one cell, or goes on with it."""
        recipe = self.recipe(cell, train_set.size)
        features = training.feature_size(
            self.network(train_set, None), self.encoder, self.data.image_size
        )
        heads = classifiers.init_heads(self.config.seed, 1, features, train_set.num_classes)
        state = training.fit(
            self.network(train_set, spmd.AXIS),
            train_set,
            classifiers.init(heads, self.encoder),
            ({}, {}),
            recipe,
            self.place(name),
        )
        return state, recipe

    def predict(
        self, state: classifiers.State, train_set: images.ImageSet, split: Split
    ) -> predictions.Predictions:
        """Predictions of a trained cell."""
        network = self.network(train_set, None)
        return predictions.predict(network, state.encoder, state.heads, split, self.data.batch_size)


def refit_name(cell: Cell) -> str:
    """The folder of a cell that is trained again on training and validation images."""
    return f"refit,{cell.name}"


def check_folders(
    job: Job,
    cells: Sequence[Cell],
    fit_set: images.ImageSet,
    refit_set: images.ImageSet | None,
) -> None:
    """Refuses, before any cell is trained, a folder with the training of another grid.

    A cell with a score needs its folder no more, so grids that share a workdir and no open cell
    both go on.

    Args:
      job: the grid.
      cells: its cells.
      fit_set: images that they are trained on.
      refit_set: images that the best cell is trained on again; None if it is not.

    Raises:
      UserError: names the folder and the first value that differs.
    """
    path = job.folder / "cells.jsonl"
    marks = {cell: job.fingerprint(cell, fit_set.size) for cell in cells}
    check_images(path, {*marks.values()}, images.fingerprint(fit_set))
    finished = read_scores(path)
    for cell, mark in marks.items():
        if mark not in finished:
            training.check_place(job.place(cell.name), job.recipe(cell, fit_set.size), fit_set)
        if refit_set is not None:
            recipe = job.recipe(cell, refit_set.size)
            training.check_place(job.place(refit_name(cell)), recipe, refit_set)


def search(job: Job, fit_set: images.ImageSet, valid_split: Split) -> tuple[Cell, dict[str, Any]]:
    """Trains the cells that have no score yet, and chooses the best one by `grid.choose`.

    Returns:
      The best cell, and the settings of a record that say how it was chosen.

    Raises:
      GuardError: every cell diverged.
    """
    path, cells = job.folder / "cells.jsonl", cells_of(job.config)
    data = images.fingerprint(fit_set)
    finished = read_scores(path)
    best: Cell | None = None
    values: dict[Cell, float | None] = {}
    for number, cell in enumerate(cells, start=1):
        mark = job.fingerprint(cell, fit_set.size)
        if mark not in finished:
            _logger.info("cell %d of %d: %s", number, len(cells), cell.name)
            finished[mark] = _score(job, cell, fit_set, valid_split)
            append_score(path, cell, mark, job.data.metric, finished[mark], data)
        values[cell] = finished[mark]
        before, best = best, _best(values)
        for worse in {cell, before} - {best}:
            if worse:
                _forget(job, worse, fit_set.size)
    if best is None:
        raise GuardError(
            f"all {len(cells)} cells of the grid ended with numbers that are not finite: lower "
            "config.learning_rates, or look at the images"
        )
    return best, {
        "valid_split": job.config.valid_split,
        "cells": {cell.name: value for cell, value in values.items()},
        **_ends(axes_of(job.config), cells[best]),
    }


def _best(values: dict[Cell, float | None]) -> Cell | None:
    """The best cell so far; None if all diverged."""
    if all(value is None for value in values.values()):
        return None
    caution = [
        (cell.weight_decay, -cell.learning_rate, -(cell.num_epochs or 0.0)) for cell in values
    ]
    return [*values][grid.choose([*values.values()], caution)]


def _ends(axes: Axes, best: tuple[float, float | None, float]) -> dict[str, str | None]:
    """For each axis that is swept, or has a rate, whether the best cell is at an end of it."""
    names = ("learning_rate", "epochs", "weight_decay")
    return {
        f"{name}_at_end_of_grid": grid.end_of_grid(
            name, [number for number in values if number is not None], value
        )
        for name, values, value in zip(names, axes, best, strict=True)
        if value is not None and (name == "learning_rate" or len(values) > 1)
    }


def _forget(job: Job, cell: Cell, num_examples: int) -> None:
    """Deletes a network of this grid: its score is kept, and dozens of them would fill a disk."""
    directory = job.folder / cell.name / "checkpoints"
    steps = checkpoints.steps(directory)
    if not processes.is_first_process():
        return
    if not steps:  # it diverged in its first step, and nothing was saved
        with contextlib.suppress(OSError):
            directory.rmdir()
        return
    own = training_record(job.identity, job.recipe(cell, num_examples), num_examples)
    with contextlib.suppress(checkpoints.DamagedError):  # then it is not known whose it is
        if own.items() <= checkpoints.read_record(directory, steps[-1]).items():
            shutil.rmtree(directory, ignore_errors=True)


def _score(job: Job, cell: Cell, fit_set: images.ImageSet, valid_split: Split) -> float | None:
    """Trains one cell, or goes on with it; its validation score, None where it diverged."""
    try:
        state, _ = job.train(cell, fit_set, cell.name)
    except Diverged as error:
        _logger.warning("%s", error)
        return None
    valid = job.predict(state, fit_set, valid_split)
    return predictions.score(valid, 0, job.data.metric)[job.data.metric]
