"""A grid of trainings of the whole network, and the choice of its best cell."""

import json
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import ml_collections

from byol_jax.data import images
from byol_jax.evals import cells, grid, trainings
from byol_jax.evals.cells import Cell, check_images, read_scores
from byol_jax.evals.sgd import classifiers, predictions, recipes, training
from byol_jax.evals.sgd.identity import training_record
from byol_jax.evals.splits import Split
from byol_jax.evals.trainings import Place
from byol_jax.networks import siamese
from byol_jax.runtime import spmd

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

    def place(self, name: str) -> Place:
        """Where a training of the grid is kept."""
        return Place(
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
    of_grid: Sequence[Cell],
    fit_set: images.ImageSet,
    refit_set: images.ImageSet | None,
) -> None:
    """Refuses, before any cell is trained, a folder with the training of another grid.

    A cell with a score needs its folder no more, so grids that share a workdir and no open cell
    both go on.

    Args:
      job: the grid.
      of_grid: its cells.
      fit_set: images that they are trained on.
      refit_set: images that the best cell is trained on again; None if it is not.

    Raises:
      UserError: names the folder and the first value that differs.
    """
    path = job.folder / "cells.jsonl"
    marks = {cell: job.fingerprint(cell, fit_set.size) for cell in of_grid}
    check_images(path, {*marks.values()}, images.fingerprint(fit_set))
    finished = read_scores(path)
    for cell, mark in marks.items():
        if mark not in finished:
            _check_place(job.place(cell.name), job.recipe(cell, fit_set.size), fit_set)
        if refit_set is not None:
            recipe = job.recipe(cell, refit_set.size)
            _check_place(job.place(refit_name(cell)), recipe, refit_set)


def _check_place(place: Place, recipe: recipes.Recipe, train_set: images.ImageSet) -> None:
    trainings.check_place(place, training.record_of(place, recipe, train_set))


def search(job: Job, fit_set: images.ImageSet, valid_split: Split) -> tuple[Cell, dict[str, Any]]:
    """Trains the cells that have no score yet, and chooses the best one; see `cells.search`.

    Returns:
      The best cell, and the settings of a record that say how it was chosen.

    Raises:
      GuardError: every cell diverged.
    """

    def score(cell: Cell) -> float:
        state, _ = job.train(cell, fit_set, cell.name)
        valid = job.predict(state, fit_set, valid_split)
        return predictions.score(valid, 0, job.data.metric)[job.data.metric]

    def record(cell: Cell) -> dict[str, Any]:
        return training_record(job.identity, job.recipe(cell, fit_set.size), fit_set.size)

    by_cell = cells_of(job.config)
    found = cells.Grid(
        folder=job.folder,
        cells=[*by_cell],
        metric=job.data.metric,
        data=images.fingerprint(fit_set),
        mark=lambda cell: job.fingerprint(cell, fit_set.size),
        record=record,
        score=score,
    )
    best, values = cells.search(found)
    return best, {
        "valid_split": job.config.valid_split,
        "cells": {cell.name: value for cell, value in values.items()},
        **_ends(axes_of(job.config), by_cell[best]),
    }


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
