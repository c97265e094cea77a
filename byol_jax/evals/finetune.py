"""Training whole networks on labels, a grid of settings at a time.

Semi-supervised fine-tuning (BYOL App. D.1, Tables 2 and 8), transfer via fine-tuning (App. E.3,
Table 3), both from random initialisation (SimCLR App. B.8), and the supervised baseline (App. D.2,
Table 9) are one procedure with other numbers: each cell of a grid of rates, epochs and weight
decays is trained and scored on the validation split, and the best one is scored once on the test
split, after training again on train and validation images together where the protocol says so.

Each finished cell is a line of `cells.jsonl`, and a cell that was stopped goes on from its own
checkpoint, so the same command goes on with the grid.
"""

import functools
import itertools
import json
import logging
import math
import pathlib
import re
import shutil
import zlib
from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections

from byol_jax import weights
from byol_jax.data import images
from byol_jax.data.splits import class_balanced_subset
from byol_jax.errors import Diverged, GuardError, require
from byol_jax.evals import checkpoint, follow
from byol_jax.evals.grid import end_of_grid
from byol_jax.evals.sgd import classifiers, labels, predictions, recipes, saved, training
from byol_jax.evals.sgd.cells import Cell, append_score, read_scores
from byol_jax.evals.sgd.identity import identity, training_record
from byol_jax.evals.splits import Split, check_splits
from byol_jax.networks import siamese
from byol_jax.networks.siamese import init_network
from byol_jax.results.records import Record
from byol_jax.runtime import checkpoints, metrics, processes, spmd

_logger = logging.getLogger(__name__)

# The one `config.bn_decay` that is a word; others are a number, or empty for the network's own.
_TRANSFER = "transfer"


def bn_decay_for_transfer(steps_per_epoch: float) -> float:
    """Decay of BatchNorm's averages, max(1 - 10 / s, 0.9) at s steps per epoch (BYOL App. E.3)."""
    return max(1 - 10 / steps_per_epoch, 0.9)


def grid(config: ml_collections.ConfigDict) -> list[Cell]:
    """The cells, rates outermost."""
    epochs = [None] if config.num_steps else [*(config.sweep_epochs or (config.num_epochs,))]
    decays = config.sweep_weight_decays or (config.weight_decay,)
    return [
        Cell(rate, length, decay / rate if config.decay_over_rate else decay)
        for rate, length, decay in itertools.product(recipes.scaled_rates(config), epochs, decays)
    ]


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses a config that no grid could use.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    recipes.check(config)
    require(
        config.checkpoint or config.network == "random",
        "config.checkpoint is needed: a workdir or checkpoints/STEP of it "
        "(only config.network=random can do without)",
    )
    decays = tuple(config.sweep_weight_decays or (config.weight_decay,))
    require(min(decays) >= 0, f"weight decays {decays} must all be 0 or more")
    require(
        config.valid_split or len(grid(config)) == 1,
        f"config.valid_split is empty, and the grid has {len(grid(config))} cells: without a "
        "validation split give one rate, one number of epochs and one weight decay",
    )
    require(
        not config.refit or config.valid_split,
        "config.refit trains again on config.fit_split and config.valid_split: give the latter",
    )
    check_splits(config)
    require(
        _is_bn_decay(config.bn_decay),
        f"config.bn_decay={config.bn_decay!r} must be a number in [0, 1), {_TRANSFER}, or empty "
        "for the network's own",
    )


def _is_bn_decay(text: str) -> bool:
    try:
        return text in ("", _TRANSFER) or 0 <= float(text) < 1
    except ValueError:
        return False


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `finetune`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    check(config)
    if config.save_network:
        _check_workdir(workdir)
    evaluate_one = functools.partial(evaluate, config=config, workdir=workdir)
    if config.checkpoint:
        done = follow.finished(
            config, protocol_of(config), [config.network], config.score_split, solver=recipes.SOLVER
        )
        follow.for_each_checkpoint(config, evaluate_one, workdir, **done)
    else:
        records = evaluate_one(None)
        if processes.is_first_process():
            metrics.write_config(workdir, config.to_dict())
        follow.report(records, workdir)


def _check_workdir(workdir: pathlib.Path, mark: int | None = None) -> None:
    """Refuses to put a network beside the checkpoints of another job or grid.

    Args:
      workdir: workdir of the job.
      mark: fingerprint of its grid, as `_save` writes it; None if it is not yet known.
    """
    folder = workdir / "checkpoints"
    for step in checkpoints.steps(folder):
        record = weights.read_record(folder, step)
        require(
            record["config"]["job"] == "finetune",
            f"{workdir} holds checkpoints of another job: give this one another --workdir",
        )
        require(
            mark is None or record["fingerprint"] == mark,
            f"{folder / str(step)} is a network trained with other settings: give this one "
            "another --workdir, or move that folder away",
        )


def protocol_of(config: ml_collections.ConfigDict) -> str:
    """The protocol of the records: the config's, with the share of labels below 100 %."""
    percent = 100 * config.fraction
    return config.protocol if config.fraction == 1 else f"{config.protocol}/{percent:g}%"


def _start(
    trained: weights.Trained | None, config: ml_collections.ConfigDict, image_size: int
) -> training.Encoder:
    """The encoder that training starts from."""
    if trained is not None and config.network != "random":
        params, state = checkpoint.network_of(trained, config.network, image_size, lambda: iter(()))
        return training.encoder_weights(params, state)
    network = training.encoder_of(_spec_of(trained, config))
    return jax.device_get(init_network(config.seed, "online", network, image_size))


def _spec_of(
    trained: weights.Trained | None, config: ml_collections.ConfigDict
) -> siamese.NetworkSpec:
    """The network that is trained: the checkpoint's, or else `config.encoder`."""
    return trained.network if trained else siamese.make_spec(config.encoder.to_dict(), 0)


class _Job(NamedTuple):
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
        if decay == _TRANSFER:
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

    def train(
        self, cell: Cell, train_set: images.ImageSet, name: str
    ) -> tuple[classifiers.State, recipes.Recipe]:
        """Trains one cell, or goes on with it."""
        config = self.config
        recipe = self.recipe(cell, train_set.size)
        features = training.feature_size(
            self.network(train_set, None), self.encoder, self.data.image_size
        )
        heads = classifiers.init_heads(config.seed, 1, features, train_set.num_classes)
        place = training.Place(
            directory=self.folder / name,
            identity=self.identity,
            description=f"{self.identity['protocol']}, {name}",
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
        )
        state = training.fit(
            self.network(train_set, spmd.AXIS),
            train_set,
            classifiers.init(heads, self.encoder),
            ({}, {}),
            recipe,
            place,
        )
        return state, recipe

    def predict(
        self, state: classifiers.State, train_set: images.ImageSet, split: Split
    ) -> predictions.Predictions:
        """Predictions of a trained cell."""
        network = self.network(train_set, None)
        return predictions.predict(network, state.encoder, state.heads, split, self.data.batch_size)


def _network_config(
    trained: weights.Trained | None, config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """The section `network` of the config of what is trained, as it was saved."""
    section = trained.config["network"] if trained else config.encoder.to_dict()
    return dict(section)


def _job_of(
    trained: weights.Trained | None,
    config: ml_collections.ConfigDict,
    data: recipes.Data,
    workdir: pathlib.Path,
) -> _Job:
    protocol = protocol_of(config)
    name = re.sub(r"[^a-zA-Z0-9.%]+", "-", protocol)
    return _Job(
        config=config,
        data=data,
        encoder=_start(trained, config, data.image_size),
        spec=_spec_of(trained, config),
        folder=workdir / "training" / f"{name}-{config.network}-{trained.step if trained else 0}",
        identity={
            **identity(config, trained, protocol),
            "train_dataset": config.train_dataset,
            "subset_seed": config.subset_seed,
            "bn_decay": config.bn_decay,
            "encoder": _network_config(trained, config),
        },
    )


def _fit_set(config: ml_collections.ConfigDict, data: recipes.Data) -> images.ImageSet:
    """The images that the grid learns from: a split, a part of it, or another data set.

    Raises:
      UserError: it cannot be read, or its labels are not those of the data set.
    """
    whole = data.train_set(config.fit_split)
    if config.train_dataset:
        other = labels.labelled_set(config.train_dataset, "train", data.data_dir)
        require(
            other.num_classes == whole.num_classes,
            f"config.train_dataset={config.train_dataset} has {other.num_classes} classes, "
            f"{data.dataset} has {whole.num_classes}",
        )
        return other
    rows = class_balanced_subset(whole, config.fraction, config.subset_seed)
    return images.select(whole, rows) if len(rows) < whole.size else whole


def evaluate(
    trained: weights.Trained | None, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Record]:
    """Trains the grid on one checkpoint, or from scratch; scores the best cell."""
    data = recipes.data_of(config, trained)
    fit_set = _fit_set(config, data)
    score_split = data.split(config.score_split)
    valid_split = data.split(config.valid_split) if config.valid_split else None

    job = _job_of(trained, config, data, workdir)
    cells = grid(config)
    marks = [job.fingerprint(cell, fit_set.size) for cell in cells]
    mark = zlib.crc32(json.dumps([marks, config.refit]).encode())
    if config.save_network:
        _check_workdir(workdir, mark)
    best, choice = cells[0], dict[str, Any]()
    if valid_split:
        best, choice = _search(job, cells, fit_set, valid_split)
    name = best.name
    if config.refit:
        fit_set = data.train_set(f"{config.fit_split}+{config.valid_split}")
        name = f"refit,{name}"
    state, recipe = job.train(best, fit_set, name)
    test = job.predict(state, fit_set, score_split)
    if config.save_network and processes.is_first_process():
        _save(job, best, _network_config(trained, config), state, workdir, mark)
    settings = _settings(job, recipe, fit_set.size) | choice
    return [
        Record(
            metric=metric,
            value=value,
            unit="percent",
            protocol=protocol_of(config),
            network=config.network,
            dataset=data.dataset,
            split=config.score_split,
            n_examples=len(test.labels),
            checkpoint_step=trained.step if trained and config.network != "random" else None,
            seed=config.seed,
            settings=settings,
        )
        for metric, value in predictions.score(test, 0, data.metric).items()
    ]


def _settings(job: _Job, recipe: recipes.Recipe, num_examples: int) -> dict[str, Any]:
    """What a record says of the training beside the choice of its cell."""
    config = job.config
    settings = {
        **recipes.settings_of(recipe),
        "learning_rate": recipe.learning_rates[0],
        "epochs": recipe.total_steps * recipe.batch_size / num_examples,
        "labels": num_examples,
        "refit": config.refit,
        "bn_decay": config.bn_decay or job.spec.bn_decay,
        "fit_split": config.fit_split,
        "eval_crop": job.data.cropping.eval_crop,
    }
    if config.train_dataset:
        settings["subset"] = config.train_dataset
    elif config.fraction < 1:
        settings["subset"] = f"class-balanced, seed {config.subset_seed}"
    return settings


def _search(
    job: _Job, cells: list[Cell], fit_set: images.ImageSet, valid_split: Split
) -> tuple[Cell, dict[str, Any]]:
    """Trains the cells that have no score yet, and chooses the best one, the first of equals.

    Returns:
      The best cell, and the settings of a record that say how it was chosen.

    Raises:
      GuardError: every cell diverged.
    """
    path = job.folder / "cells.jsonl"
    finished = read_scores(path)
    best: Cell | None = None
    highest = -math.inf
    by_cell: dict[str, float | None] = {}
    for number, cell in enumerate(cells, start=1):
        mark = job.fingerprint(cell, fit_set.size)
        if mark not in finished:
            _logger.info("cell %d of %d: %s", number, len(cells), cell.name)
            finished[mark] = _score(job, cell, fit_set, valid_split)
            append_score(path, cell, mark, job.data.metric, finished[mark])
        by_cell[cell.name] = value = finished[mark]
        worse: Cell | None = cell
        if value is not None and value > highest:
            highest, best, worse = value, cell, best
        if worse and worse != best and processes.is_first_process():
            # Its score is kept; dozens of networks would fill a disk.
            shutil.rmtree(job.folder / worse.name / "checkpoints", ignore_errors=True)
    if best is None:
        raise GuardError(
            f"all {len(cells)} cells of the grid ended with numbers that are not finite: lower "
            "config.learning_rates, or look at the images"
        )
    rates = [cell.learning_rate for cell in cells]
    return best, {
        "valid_split": job.config.valid_split,
        "cells": by_cell,
        "learning_rate_at_end_of_grid": end_of_grid("learning_rate", rates, best.learning_rate),
    }


def _score(job: _Job, cell: Cell, fit_set: images.ImageSet, valid_split: Split) -> float | None:
    """Trains one cell, or goes on with it; its validation score, None where it diverged."""
    try:
        state, _ = job.train(cell, fit_set, cell.name)
    except Diverged as error:
        _logger.warning("%s", error)
        return None
    valid = job.predict(state, fit_set, valid_split)
    return predictions.score(valid, 0, job.data.metric)[job.data.metric]


def _save(
    job: _Job,
    cell: Cell,
    network_config: dict[str, Any],
    state: classifiers.State,
    workdir: pathlib.Path,
    mark: int,
) -> None:
    """Writes the network as a checkpoint that every evaluation can read, as its online network."""
    heads = {leaf: values[0] for leaf, values in state.heads.items()}
    tree = {
        "online_params": {**state.encoder[0], "classifier": heads},
        "online_state": state.encoder[1],
    }
    record = {
        "config": {
            **saved.config_of(job.config, cell, job.data.cropping),
            "dataset": job.data.dataset,
            "data_dir": job.data.data_dir,
            "image_size": job.data.image_size,
            "network": network_config,
        },
        "num_classes": int(heads["b"].shape[0]),
        "total_steps": int(state.step),
        "fingerprint": mark,
    }
    folder = workdir / "checkpoints"
    if not checkpoints.steps(folder):
        saver = checkpoints.saver(folder, None)
        checkpoints.save(saver, int(state.step), tree, record)
        checkpoints.close(saver)
