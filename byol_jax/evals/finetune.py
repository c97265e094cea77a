"""Training whole networks on labels, a grid of settings at a time.

Semi-supervised fine-tuning (BYOL App. D.1, Tables 2 and 8), transfer via fine-tuning (App. E.3,
Table 3), both from random initialisation (SimCLR App. B.8), and the supervised baseline (App. D.2,
Table 9) are one procedure with other numbers: each cell of a grid of rates, epochs and weight
decays is trained and scored on the validation split, and the best one is scored once on the test
split, after training again on train and validation images together where the protocol says so.

Each finished cell is a line of `cells.jsonl`, and a cell that was stopped goes on from its own
checkpoint: the same command goes on with the grid.
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
from byol_jax.evals.sgd import classifiers, recipes, training
from byol_jax.evals.splits import Split, check_disjoint
from byol_jax.networks import siamese
from byol_jax.networks.siamese import init_network
from byol_jax.results.records import Record
from byol_jax.runtime import checkpoints, metrics, processes, spmd

_logger = logging.getLogger(__name__)

# Values of `config.bn_decay` beside numbers and nothing.
_TRANSFER = "transfer"


class Cell(NamedTuple):
    """One setting of the grid; `num_epochs` None where the number of steps is given."""

    learning_rate: float
    num_epochs: float | None
    weight_decay: float

    @property
    def name(self) -> str:
        """As in `cells.jsonl`, and the name of its folder."""
        epochs = "" if self.num_epochs is None else f"epochs={self.num_epochs:g},"
        return f"rate={self.learning_rate:.6g},{epochs}decay={self.weight_decay:.6g}"


def bn_decay_for_transfer(steps_per_epoch: float) -> float:
    """Decay of BatchNorm's averages, max(1 - 10 / s, 0.9) for s steps an epoch (BYOL App. E.3)."""
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
    """Refuses what no grid could use.

    Raises:
      UserError: naming the key, its value and what would be right.
    """
    recipes.check(config)
    require(
        config.network in checkpoint.NETWORKS,
        f"config.network={config.network!r} must be one of: {', '.join(checkpoint.NETWORKS)}",
    )
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
    splits = {"fit_split": config.fit_split, "score_split": config.score_split}
    if config.valid_split:
        splits["valid_split"] = config.valid_split
    check_disjoint({f"config.{key}": split for key, split in splits.items()})
    if config.bn_decay not in ("", _TRANSFER):
        try:
            decay = float(config.bn_decay)
        except ValueError:
            decay = -1.0
        require(
            0 <= decay < 1,
            f"config.bn_decay={config.bn_decay!r} must be a number in [0, 1), {_TRANSFER}, or "
            "empty for the network's own",
        )


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `finetune`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    check(config)
    if config.save_network:
        _check_workdir(workdir)
    one = functools.partial(evaluate, config=config, workdir=workdir)
    if config.checkpoint:
        done = recipes.finished(config, protocol_of(config))
        follow.for_each_checkpoint(config, one, workdir, **done)
    else:
        records = one(None)
        # In the workdir of a run, it is that run's.
        if processes.is_first_process() and not (workdir / "config.json").exists():
            metrics.write_json(workdir / "config.json", config.to_dict())
        follow.report(records, workdir)


def _check_workdir(workdir: pathlib.Path, mark: int | None = None) -> None:
    """Refuses to put a network beside the checkpoints of something else.

    Args:
      workdir: of the job.
      mark: the fingerprint of its trainings, as `_save` writes it; None if not yet known.
    """
    folder = workdir / "checkpoints"
    for step in checkpoints.steps(folder):
        record = checkpoints.read_record(folder, step)
        require(
            record["config"]["job"] == "finetune",
            f"{workdir} holds checkpoints of another job: give this one another --workdir",
        )
        require(
            mark is None or record.get("fingerprint") == mark,
            f"{folder / str(step)} is a network trained with other settings: give this one "
            "another --workdir, or move that folder away",
        )


def protocol_of(config: ml_collections.ConfigDict) -> str:
    """The records' protocol: the config's, with the share of labels where that is not all."""
    percent = 100 * config.fraction
    return config.protocol if config.fraction == 1 else f"{config.protocol}/{percent:g}%"


def _start(
    trained: weights.Weights | None, config: ml_collections.ConfigDict, image_size: int
) -> training.Encoder:
    """The encoder that training starts from."""
    if trained is not None and config.network != "random":
        params, state = checkpoint.network_of(trained, config.network, image_size, lambda: iter(()))
        return training.encoder_weights(params, state)
    network_config = trained.config["network"] if trained else config.encoder.to_dict()
    network = siamese.encoder(siamese.make_spec(network_config, 0))
    return jax.device_get(init_network(config.seed, "online", network, image_size))


class _Job(NamedTuple):
    """What the cells of a grid share."""

    config: ml_collections.ConfigDict
    data: recipes.Data
    encoder: training.Encoder
    network_config: dict[str, Any]
    folder: pathlib.Path
    record: dict[str, Any]

    def network(self, train_set: images.ImageSet, axis: str | None) -> hk.TransformedWithState:
        """f, with the decay of BatchNorm's averages that the protocol has on this set."""
        decay, value = self.config.bn_decay, None
        if decay == _TRANSFER:
            value = bn_decay_for_transfer(train_set.size / self.config.batch_size)
        elif decay:
            value = float(decay)
        return training.encoder_of(self.network_config, value, axis)

    def recipe(self, cell: Cell, num_examples: int) -> training.Recipe:
        """That of one cell."""
        config = self.config.copy_and_resolve_references()
        config.weight_decay = cell.weight_decay
        if cell.num_epochs is not None:
            config.num_epochs = float(cell.num_epochs)
        recipe = recipes.recipe_of(config, self.data, num_examples)
        return recipe._replace(learning_rates=(cell.learning_rate,))

    def fingerprint(self, cell: Cell, num_examples: int) -> int:
        """Of everything that decides a cell's score."""
        recipe = self.recipe(cell, num_examples)
        scored = [self.config.valid_split, self.data.metric, self.data.eval_crop]
        parts = [training.training_record(self.record, recipe, num_examples), scored]
        return zlib.crc32(json.dumps(parts, sort_keys=True).encode())

    def train(
        self, cell: Cell, train_set: images.ImageSet, name: str
    ) -> tuple[classifiers.State, training.Recipe]:
        """Trains one cell, or goes on with it."""
        config = self.config
        recipe = self.recipe(cell, train_set.size)
        network = self.network(train_set, spmd.AXIS)
        heads = classifiers.init_heads(
            config.seed,
            1,
            training.feature_size(
                self.network(train_set, None), self.encoder, self.data.image_size
            ),
            train_set.num_classes,
        )
        state = training.fit(
            network,
            train_set,
            classifiers.init(heads, self.encoder),
            ({}, {}),
            recipe,
            description=f"{self.record['protocol']}, {name}",
            directory=self.folder / name,
            record=self.record,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
        )
        return state, recipe


def evaluate(
    trained: weights.Weights | None, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Record]:
    """Trains the grid on one checkpoint, or from scratch; scores the best cell."""
    protocol = protocol_of(config)
    data = recipes.data_of(config, trained.config if trained else {"image_size": None})
    require(data.image_size, "config.image_size is needed: there is no checkpoint to take it from")
    whole = data.train_set(config.fit_split)
    fit_set = whole
    if config.train_dataset:
        other = recipes.labelled_set(config.train_dataset, "train", data.data_dir)
        require(
            other.num_classes == whole.num_classes,
            f"config.train_dataset={config.train_dataset} has {other.num_classes} classes, "
            f"{data.dataset} has {whole.num_classes}",
        )
        fit_set = other
    else:
        rows = class_balanced_subset(whole, config.fraction, config.subset_seed)
        if len(rows) < whole.size:
            fit_set = images.select(whole, rows)
    score_split = data.split(config.score_split)
    valid_split = data.split(config.valid_split) if config.valid_split else None

    name = re.sub(r"[^a-zA-Z0-9.%]+", "-", protocol)
    step = trained.step if trained else 0
    job = _Job(
        config=config,
        data=data,
        encoder=_start(trained, config, data.image_size),
        network_config=trained.config["network"] if trained else config.encoder.to_dict(),
        folder=workdir / "training" / f"{name}-{config.network}-{step}",
        record={
            **recipes.identity(config, trained, protocol),
            "train_dataset": config.train_dataset,
            "subset_seed": config.subset_seed,
            "bn_decay": config.bn_decay,
            "encoder": trained.config["network"] if trained else config.encoder.to_dict(),
        },
    )
    cells = grid(config)
    marks = [job.fingerprint(cell, fit_set.size) for cell in cells]
    mark = zlib.crc32(json.dumps([marks, config.refit]).encode())
    if config.save_network:
        _check_workdir(workdir, mark)
    settings: dict[str, Any] = {"fit_split": config.fit_split, "eval_crop": data.eval_crop}
    if valid_split:
        best, by_cell = _search(job, cells, fit_set, valid_split)
        settings |= {"valid_split": config.valid_split, "cells": by_cell}
        settings["learning_rate_at_end_of_grid"] = end_of_grid(
            "learning_rate", [cell.learning_rate for cell in cells], best.learning_rate
        )
    else:
        (best,) = cells
    if config.refit:
        fit_set = data.train_set(f"{config.fit_split}+{config.valid_split}")
        state, recipe = job.train(best, fit_set, f"refit,{best.name}")
    else:
        state, recipe = job.train(best, fit_set, best.name)

    network = job.network(fit_set, None)
    test = training.predict(network, state.encoder, state.heads, score_split, data.batch_size)
    settings = {
        **training.settings_of(recipe),
        "learning_rate": best.learning_rate,
        "epochs": recipe.total_steps * recipe.batch_size / fit_set.size,
        "labels": fit_set.size,
        "subset": config.train_dataset or f"class-balanced, seed {config.subset_seed}",
        "refit": config.refit,
        "bn_decay": config.bn_decay or job.network_config["bn_decay"],
        **settings,
    }
    if config.fraction == 1 and not config.train_dataset:
        del settings["subset"]
    if config.save_network and processes.is_first_process():
        _save(workdir, config, data, job.network_config, state, mark)
    return [
        Record(
            metric=metric,
            value=value,
            unit="percent",
            protocol=protocol,
            network=config.network,
            dataset=data.dataset,
            split=config.score_split,
            n_examples=len(test.labels),
            checkpoint_step=trained.step if trained and config.network != "random" else None,
            seed=config.seed,
            settings=settings,
        )
        for metric, value in training.score(test, 0, data.metric).items()
    ]


def _search(
    job: _Job, cells: list[Cell], fit_set: images.ImageSet, valid_split: Split
) -> tuple[Cell, dict[str, float | None]]:
    """Trains what is left of the grid; the best cell, the first of equals, and all scores.

    Raises:
      GuardError: every cell diverged.
    """
    path = job.folder / "cells.jsonl"
    finished = _finished(path)
    metric = job.data.metric
    best: Cell | None = None
    highest = -math.inf
    by_cell: dict[str, float | None] = {}
    for number, cell in enumerate(cells, start=1):
        mark = job.fingerprint(cell, fit_set.size)
        if mark not in finished:
            _logger.info("cell %d of %d: %s", number, len(cells), cell.name)
            finished[mark] = value = _score(job, cell, fit_set, valid_split)
            if processes.is_first_process():
                line = {"cell": cell.name, "fingerprint": mark, "metric": metric, "value": value}
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            said = "diverged" if value is None else f"validation {metric} {value:.2f}"
            _logger.info("cell %d of %d: %s", number, len(cells), said)
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
    return best, by_cell


def _score(job: _Job, cell: Cell, fit_set: images.ImageSet, valid_split: Split) -> float | None:
    """Trains one cell, or goes on with it; its validation score, None where it diverged."""
    try:
        state, _ = job.train(cell, fit_set, cell.name)
    except Diverged as error:
        _logger.warning("%s", error)
        return None
    network = job.network(fit_set, None)
    valid = training.predict(network, state.encoder, state.heads, valid_split, job.data.batch_size)
    return training.score(valid, 0, job.data.metric)[job.data.metric]


def _finished(path: pathlib.Path) -> dict[int, float | None]:
    """Scores by fingerprint; a torn last line is a cell to be scored again."""
    found: dict[int, float | None] = {}
    if not path.exists():
        return found
    # Without its end the next line would be lost with it.
    *lines, torn = path.read_text().split("\n")
    if torn and processes.is_first_process():
        with path.open("a") as file:
            file.write("\n")
    for line in lines:
        try:
            values = json.loads(line)
            found[values["fingerprint"]] = values["value"]
        except (KeyError, TypeError, ValueError):
            continue
    return found


def _save(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    data: recipes.Data,
    network_config: dict[str, Any],
    state: classifiers.State,
    mark: int,
) -> None:
    """Writes the network as a checkpoint that every evaluation can read, called online."""
    heads = {leaf: values[0] for leaf, values in state.heads.items()}
    tree = {
        "online_params": {**state.encoder[0], "classifier": heads},
        "online_state": state.encoder[1],
    }
    record = {
        "config": {
            "job": "finetune",
            "seed": config.seed,
            "dataset": data.dataset,
            "data_dir": data.data_dir,
            "image_size": data.image_size,
            "network": network_config,
            "data": {"eval_crop": data.eval_crop, "exif": data.exif},
        },
        "num_classes": int(heads["b"].shape[0]),
        "total_steps": int(state.step),
        "fingerprint": mark,
    }
    folder = workdir / "checkpoints"
    if not checkpoints.steps(folder):
        manager = checkpoints.manager(folder, None)
        checkpoints.save(manager, int(state.step), tree, record)
        checkpoints.close(manager)
