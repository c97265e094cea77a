"""Transfers with an output per pixel: what segmentation and depth share (BYOL App. E.4, E.6).

Each rate of a sweep trains a network, and the validation split chooses among them. The chosen rate
is then trained with each of several seeds, on training and validation images together where the
protocol says so, and each network is scored on the test split. A number is the mean of the seeds.

Each finished cell of the sweep is a line of `cells.jsonl`, and each training goes on from its own
checkpoint, so the same command goes on with the whole.
"""

import functools
import json
import pathlib
import re
import statistics
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np

from byol_jax import keys, weights
from byol_jax.augment.dense import DepthColours
from byol_jax.checks import check_keys
from byol_jax.data.dense import batches, sets, transforms
from byol_jax.data.depth import to_record
from byol_jax.errors import require
from byol_jax.evals import cells, checkpoint, follow, grid, trainings
from byol_jax.evals.cells import Cell
from byol_jax.evals.dense import measure, recipes, saved, steps, training
from byol_jax.evals.splits import CALIBRATION_BATCHES, check_splits
from byol_jax.networks import siamese
from byol_jax.networks.siamese import encoder_params, init_network
from byol_jax.results.records import Record
from byol_jax.runtime import checkpoints, lock, metrics, processes

# How records name this way of fitting.
SOLVER = "sgd"
# Images in the picture of a run.
PICTURED = 8
# Side of the images with which f is drawn: its shapes do not depend on it.
_DRAWN = 64


class Task(NamedTuple):
    """What is different between segmentation and depth.

    Attributes:
      name: that of the job.
      kind: what its images have a target of, `sets.MASKS` or `sets.DEPTH`.
      metric: the measure by which rates are chosen.
      dilation: dilation of the last group of f.
      check: refuses values of the job's own keys; raises UserError.
      protocol: the protocol of the records.
      program: from config, f and the training images to the network.
      transform: from config and network to the crops.
      colours: from config to the colour transformations.
      score: from config, network, outputs of a network and a split to its measures.
      settings: from config and network to what records say of the job's own keys.
      about: from config, network and training images to what is saved with the network.
      picture: draws `PICTURED` images of a split beside truth and prediction; arguments as for
        `score`, and the file.
    """

    name: str
    kind: str
    metric: str
    dilation: int
    check: Callable[[ml_collections.ConfigDict], None]
    protocol: Callable[[ml_collections.ConfigDict], str]
    program: Callable[[ml_collections.ConfigDict, Any, sets.DenseSet], steps.Program]
    transform: Callable[[ml_collections.ConfigDict, steps.Program], recipes.Transform]
    colours: Callable[[ml_collections.ConfigDict], DepthColours]
    score: Callable[
        [ml_collections.ConfigDict, steps.Program, measure.Predict, sets.DenseSet], measure.Result
    ]
    settings: Callable[[ml_collections.ConfigDict, steps.Program], dict[str, Any]]
    about: Callable[[ml_collections.ConfigDict, recipes.Recipe, sets.DenseSet], dict[str, Any]]
    picture: Callable[
        [
            ml_collections.ConfigDict,
            steps.Program,
            measure.Predict,
            sets.DenseSet,
            pathlib.Path,
        ],
        None,
    ]


class Job(NamedTuple):
    """What the trainings of one checkpoint share.

    Attributes:
      task, config: which job.
      trained: the checkpoint; None for a network from scratch.
      data: the set.
      fit_set: images that rates are tried on.
      last_set: images that the chosen rate is trained on.
      recipe: the hyperparameters, with the first rate and the first seed.
      encoder: f before the trainings.
      folder: folder of the trainings.
      identity: values that tell these trainings from others in the same folder.
    """

    task: Task
    config: ml_collections.ConfigDict
    trained: weights.Trained | None
    data: recipes.Data
    fit_set: sets.DenseSet
    last_set: sets.DenseSet
    recipe: recipes.Recipe
    encoder: training.Encoder
    folder: pathlib.Path
    identity: dict[str, Any]

    @property
    def cells(self) -> list[Cell]:
        """The rates of the sweep."""
        decay = self.config.weight_decay
        return [Cell(rate, None, decay) for rate in recipes.scaled_rates(self.config)]

    def recipe_of(self, cell: Cell, seed: int, train_set: sets.DenseSet) -> recipes.Recipe:
        """The hyperparameters of one training."""
        steps_of = _recipe(self.task, self.config, self.recipe.program, train_set)
        return steps_of._replace(learning_rate=cell.learning_rate, seed=seed)

    def place(self, name: str) -> trainings.Place:
        """Where a training is kept."""
        return trainings.Place(
            directory=self.folder / name,
            identity=self.identity,
            description=f"{self.identity['protocol']}, {name}",
            log_every=self.config.log_every,
            checkpoint_every=self.config.checkpoint_every,
            skip_damaged=self.config.skip_damaged,
        )

    def last_name(self, cell: Cell, seed: int) -> str:
        """The folder of the chosen rate with a seed.

        With the first seed it is that of the sweep, unless there are other images.
        """
        if self.config.refit:
            return f"refit,{cell.name},seed={seed}"
        return cell.name if seed == self.config.seeds[0] else f"{cell.name},seed={seed}"

    def fingerprint(self, cell: Cell) -> int:
        """A checksum of everything that decides the validation score of a cell."""
        own = self.task.settings(self.config, self.recipe.program)
        return _checksum([self._decides(cell), self.config.valid_split, self.task.metric, own])

    @property
    def mark(self) -> int:
        """A checksum of everything that decides the network that is saved."""
        config = self.config
        return _checksum([[*map(self._decides, self.cells)], [*config.seeds], config.refit])

    def _decides(self, cell: Cell) -> dict[str, Any]:
        """Everything that decides the training of a cell."""
        recipe = self.recipe_of(cell, self.config.seeds[0], self.fit_set)
        record = training.record_of(self.place(cell.name), recipe, self.fit_set)
        del record["data"]
        return record

    def train(
        self, cell: Cell, seed: int, train_set: sets.DenseSet, name: str
    ) -> tuple[hk.Params, hk.State]:
        """Trains a network, or goes on with it: all parameters, and the BatchNorm averages."""
        recipe = self.recipe_of(cell, seed, train_set)
        return training.fit(train_set, self.encoder, recipe, self.place(name))

    def predictor(self, params: hk.Params, bn_state: hk.State) -> measure.Predict:
        """The outputs of a trained network."""
        size = self.config.eval_batch_size
        predict: measure.Predict = training.predictor(self.recipe.program, params, bn_state, size)
        return predict

    def score(
        self, network: tuple[hk.Params, hk.State], dense_set: sets.DenseSet
    ) -> measure.Result:
        """The measures of a trained network on a split."""
        predict = self.predictor(*network)
        return self.task.score(self.config, self.recipe.program, predict, dense_set)


def _checksum(values: Any) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def check(task: Task, config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses a config that the job could not use.

    Args:
      task: the job.
      config: its config.
      devices: number of devices; by default those of the run.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    check_keys(config, follow.RULES)
    recipes.check(config, devices)
    task.check(config)
    checkpoint.require_start(config)
    rates = len(config.learning_rates)
    require(
        config.valid_split or rates == 1,
        f"config.valid_split is empty, and config.learning_rates has {rates} rates: without a "
        "validation split give one",
    )
    require(
        not config.refit or config.valid_split,
        "config.refit trains again on config.fit_split and config.valid_split: give the latter",
    )
    check_splits(config)
    require(
        not (config.follow and config.save_network),
        "config.save_network=True keeps one network, and config.follow=True evaluates many "
        "checkpoints: set one of the two to False",
    )


def run(task: Task, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """A job of this kind.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    check(task, config)
    if config.save_network:
        _check_workdir(task, workdir)
    evaluate_one = functools.partial(evaluate, task=task, config=config, workdir=workdir)
    if not config.checkpoint:
        records = evaluate_one(None)
        follow.report(records, workdir)
        if processes.is_first_process():
            metrics.write_config(workdir, config.to_dict())
        return
    done = follow.finished(
        config, [task.protocol(config)], [config.network], config.score_split, solver=SOLVER
    )

    def known(trained: weights.Trained, record: Record) -> dict[str, Any] | None:
        if not follow.has(record, done[0]):
            return None
        return _settings(_job_of(task, trained, config, workdir))

    follow.for_each_checkpoint(config, evaluate_one, workdir, done, known)


def _check_workdir(task: Task, workdir: pathlib.Path, mark: int | None = None) -> None:
    """Refuses to put a network beside the checkpoints of another job, or of other settings.

    Args:
      task: the job.
      workdir: its workdir.
      mark: fingerprint of its trainings; None if it is not yet known.
    """
    folder = workdir / "checkpoints"
    for step in checkpoints.steps(folder):
        record = weights.read_record(folder, step)
        require(
            record["config"].get("job") == task.name,
            f"{workdir} holds checkpoints of another job: give this one another --workdir",
        )
        require(
            mark is None or record.get("fingerprint") == mark,
            f"{folder / str(step)} is a network trained with other settings: give this one "
            "another --workdir, or move that folder away",
        )


def _folder(
    task: Task,
    trained: weights.Trained | None,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
) -> pathlib.Path:
    """The folder of the trainings."""
    name = re.sub(r"[^a-zA-Z0-9.%]+", "-", _trained_as(config))
    return workdir / "training" / f"{name}-{config.network}-{trained.step if trained else 0}"


def _trained_as(config: ml_collections.ConfigDict) -> str:
    """The protocol without how networks are scored: trainings serve several ways of that."""
    own = "" if config.backbone == "finetune" else f"/{config.backbone}"
    return f"{config.protocol}{own}"


# Looked at once, not for each checkpoint of a run.
@functools.lru_cache(maxsize=8)
def _readable(data: recipes.Data, split: str) -> sets.DenseSet:
    """A split whose images and targets were looked at."""
    dense_set = data.split(split)
    sets.check_readable(dense_set)
    return dense_set


def _recipe(
    task: Task,
    config: ml_collections.ConfigDict,
    program: steps.Program,
    train_set: sets.DenseSet,
) -> recipes.Recipe:
    transform = task.transform(config, program)
    return recipes.recipe_of(config, program, transform, train_set.size, task.colours(config))


def _job_of(
    task: Task,
    trained: weights.Trained | None,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
) -> Job:
    """What is known before anything is computed."""
    data = recipes.data_of(config, trained, task.kind)
    fit_set = _readable(data, config.fit_split)
    last = f"{config.fit_split}+{config.valid_split}" if config.refit else config.fit_split
    last_set = data.split(last)
    spec = recipes.spec_of(config, trained, task.dilation)
    program = task.program(config, spec, fit_set)
    recipe = _recipe(task, config, program, fit_set)
    return Job(
        task=task,
        config=config,
        trained=trained,
        data=data,
        fit_set=fit_set,
        last_set=last_set,
        recipe=recipe,
        encoder=_start(trained, config, program, fit_set),
        folder=_folder(task, trained, config, workdir),
        identity={
            "protocol": _trained_as(config),
            "network": config.network,
            "checkpoint": config.checkpoint,
            "checkpoint_step": trained.step if trained else None,
            # The same path and step may by now hold another run.
            "weights": checkpoint.checksum(trained) if trained else None,
            "dataset": config.dataset,
            "fit_split": config.fit_split,
            "start_seed": config.seed,
        },
    )


def _start(
    trained: weights.Trained | None,
    config: ml_collections.ConfigDict,
    program: steps.Program,
    fit_set: sets.DenseSet,
) -> training.Encoder:
    """f before the trainings."""
    if trained and (config.network != "random" or config.backbone != "finetune"):
        # An untrained network whose BatchNorm keeps its averages needs some.
        shuffled = functools.partial(_shuffled, config, program, fit_set)
        params, state = checkpoint.network_of(trained, config.network, _DRAWN, shuffled)
        return encoder_params(params), encoder_params(state)
    require(
        config.backbone == "finetune",
        f"config.backbone={config.backbone} keeps BatchNorm's averages, and an untrained network "
        "without a checkpoint has none: give config.backbone=finetune, or a config.checkpoint",
    )
    network = siamese.encoder(program.spec)
    params, state = jax.device_get(init_network(config.seed, "online", network, _DRAWN))
    return params, state


def _shuffled(
    config: ml_collections.ConfigDict, program: steps.Program, fit_set: sets.DenseSet
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of training images as they are seen in an evaluation, in random order."""
    count = CALIBRATION_BATCHES * config.eval_batch_size
    some = sets.select(fit_set, keys.permutation(fit_set.size, "calibrate", 0)[:count])
    canvas = transforms.canvas_of(sets.largest_shape(some), 32)
    for batch in batches.evaluation_batches(
        some, transforms.whole(canvas), config.eval_batch_size, threads=config.threads
    ):
        yield {"images": batch["image"][batch["ids"] >= 0]}


def evaluate(
    trained: weights.Trained | None,
    task: Task,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
) -> list[Record]:
    """Trains and scores the networks of one checkpoint, or from scratch."""
    with lock.held(_folder(task, trained, config, workdir)):
        if not config.save_network:
            return _evaluate(_job_of(task, trained, config, workdir), workdir)
        # Beside its trainings it writes a checkpoint, as a pre-training does.
        with lock.held(workdir):
            return _evaluate(_job_of(task, trained, config, workdir), workdir)


def _evaluate(job: Job, workdir: pathlib.Path) -> list[Record]:
    config = job.config
    score_set = _readable(job.data, config.score_split)
    valid_set = _readable(job.data, config.valid_split) if config.valid_split else None
    if config.save_network:
        _check_workdir(job.task, workdir, job.mark)
    _check_folders(job)
    best, choice = job.cells[0], dict[str, Any]()
    if valid_set and len(job.cells) > 1:
        best, choice = _search(job, valid_set)
    first, results = None, []
    for seed in config.seeds:
        network = job.train(best, seed, job.last_set, job.last_name(best, seed))
        first = first or network
        results.append(job.score(network, score_set))
    assert first
    settings = _settings(job) | choice | {"learning_rate": best.learning_rate}
    records = _records(job, results, settings, valid_set)
    with follow.numbers_first(records, workdir):
        _write(job, first, records, score_set, workdir)
    return records


def _check_folders(job: Job) -> None:
    """Refuses, before anything is trained, folders with other trainings.

    Raises:
      UserError: names the folder and the first value that differs.
    """
    path = job.folder / "cells.jsonl"
    marks = {cell: job.fingerprint(cell) for cell in job.cells}
    cells.check_images(path, {*marks.values()}, sets.fingerprint(job.fit_set))
    finished = cells.read_scores(path)
    for cell, mark in marks.items():
        if mark not in finished:
            _check_place(job, cell, job.config.seeds[0], job.fit_set, cell.name)
        for seed in job.config.seeds:
            _check_place(job, cell, seed, job.last_set, job.last_name(cell, seed))


def _check_place(job: Job, cell: Cell, seed: int, train_set: sets.DenseSet, name: str) -> None:
    place = job.place(name)
    record = training.record_of(place, job.recipe_of(cell, seed, train_set), train_set)
    trainings.check_place(place, record)


def _search(job: Job, valid_set: sets.DenseSet) -> tuple[Cell, dict[str, Any]]:
    """The rate that is best on the validation split, and what records say of the choice."""
    config, seed, metric = job.config, job.config.seeds[0], job.task.metric

    def score(cell: Cell) -> float:
        network = job.train(cell, seed, job.fit_set, cell.name)
        return job.score(network, valid_set).values[metric].value

    def record(cell: Cell) -> dict[str, Any]:
        recipe = job.recipe_of(cell, seed, job.fit_set)
        return training.record_of(job.place(cell.name), recipe, job.fit_set)

    best, values = cells.search(
        cells.Grid(
            folder=job.folder,
            cells=job.cells,
            metric=metric,
            data=sets.fingerprint(job.fit_set),
            mark=job.fingerprint,
            record=record,
            score=score,
        )
    )
    rates = recipes.scaled_rates(config)
    return best, {
        "valid_split": config.valid_split,
        "cells": {cell.name: value for cell, value in values.items()},
        "learning_rate_at_end_of_grid": grid.end_of_grid(
            "learning_rate", rates, best.learning_rate
        ),
    }


def _settings(job: Job) -> dict[str, Any]:
    """What a record says of the trainings beside the choice of the rate."""
    config, program = job.config, job.recipe.program
    recipe = _recipe(job.task, config, program, job.last_set)
    numbers = recipes.plain(recipe)
    del numbers["seed"], numbers["learning_rate"], numbers["program"]
    return {
        "solver": SOLVER,
        "schedule": "the rate divided by 10 at each milestone",
        **numbers,
        "rate_scaling": config.rate_scaling,
        "learning_rates": [*recipes.scaled_rates(config)],
        "epochs": recipe.total_steps * recipe.batch_size / job.last_set.size,
        "labels": job.last_set.size,
        "backbone": program.backbone,
        "decay": program.decay,
        "accumulate": program.accumulate,
        "precision": program.spec.precision,
        "dilation": program.spec.dilation,
        "bn_decay": program.spec.bn_decay,
        "head": recipes.named(program.head),
        "fit_split": config.fit_split,
        "refit": config.refit,
        "seeds": [*config.seeds],
        **({"data": job.fit_set.note} if job.fit_set.note else {}),
        **job.task.settings(config, program),
    }


def _records(
    job: Job,
    results: Sequence[measure.Result],
    settings: Mapping[str, Any],
    valid_set: sets.DenseSet | None,
) -> list[Record]:
    """The means over seeds."""
    config, trained = job.config, job.trained
    records = []
    for metric, (_, unit) in results[0].values.items():
        values = [result.values[metric].value for result in results]
        own: dict[str, Any] = dict(zip(map(str, config.seeds), values, strict=True))
        spread: dict[str, Any] = {"by_seed": own}
        if len(values) > 1:
            spread["standard_error"] = statistics.stdev(values) / len(values) ** 0.5
            spread["standard_error_of"] = f"{len(values)} seeds"
        if metric == job.task.metric:
            spread |= _details(results)
            # Which images were held out is nowhere printed.
            spread |= {"valid_names": valid_set.names} if valid_set else {}
        records.append(
            Record(
                metric=metric,
                value=statistics.fmean(values),
                unit=unit,
                protocol=job.task.protocol(config),
                network=config.network,
                dataset=job.data.dataset,
                split=config.score_split,
                n_examples=results[0].images,
                checkpoint_step=trained.step if trained and config.network != "random" else None,
                seed=config.seed,
                settings={**settings, **spread},
            )
        )
    return records


def _details(results: Sequence[measure.Result]) -> dict[str, Any]:
    """Further numbers of the first seed."""
    details = {f"{name}_of_first_seed": value for name, value in results[0].details.items()}
    return details


def _write(
    job: Job,
    network: tuple[hk.Params, hk.State],
    records: Sequence[Record],
    score_set: sets.DenseSet,
    workdir: pathlib.Path,
) -> None:
    """The picture, and the network of the first seed as a checkpoint."""
    if not processes.is_first_process():
        return
    config, trained = job.config, job.trained
    step = f"-{trained.step}" if trained and config.follow else ""
    path = workdir / f"predictions{step}.png"
    predict = job.predictor(*network)
    job.task.picture(config, job.recipe.program, predict, score_set, path)
    if not config.save_network:
        return
    recipe = _recipe(job.task, config, job.recipe.program, job.last_set)
    terms = weights.terms_of(trained) if trained and config.network != "random" else {}
    scores = {record.metric: record.value for record in records}
    settings = {"dataset": config.dataset, "test": scores, **_settings(job)}
    about = saved.About(
        program=job.recipe.program,
        decoding=job.data.decoding,
        settings=settings,
        **job.task.about(config, recipe, job.fit_set),
    )
    record = {
        "config": _config_of(job),
        "num_classes": 0,
        "total_steps": recipe.total_steps,
        "fingerprint": job.mark,
        **terms,
        **to_record(job.data.decoding.depth),
    }
    saved.save(workdir, *network, about, record, recipe.total_steps)


# Of the page, but not of the training.
_APART = frozenset(("encoder", "follow", "follow_seconds", "follow_hours", "network", "exif"))


def _config_of(job: Job) -> dict[str, Any]:
    """The section `config` of the record of a saved network, as `weights.trained_of` reads it."""
    config, trained = job.config, job.trained
    network = dict(trained.config["network"] if trained else config.encoder.to_dict())
    cropping = trained.cropping if trained else weights.Cropping()
    decoding = job.data.decoding
    plain = {name: value for name, value in config.to_dict().items() if name not in _APART}
    return {
        **plain,
        "start": config.network,
        "image_size": trained.image_size if trained else _DRAWN,
        "network": {**network, "dilation": job.task.dilation},
        "augment": {},
        "data": {
            "area_min": cropping.area_range[0],
            "area_max": cropping.area_range[1],
            "aspect_min": cropping.aspect_range[0],
            "aspect_max": cropping.aspect_range[1],
            "eval_crop": cropping.eval_crop,
            "exif": decoding.exif,
            "largest_image": decoding.largest,
        },
    }
