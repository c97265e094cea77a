"""Predicts the transformation of a view from h and from g(h): SimCLR section 4.2, Table 3.

An MLP on frozen features of the views of `probes.transformed` predicts which operation was applied.
"""

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.checks import SEED, Rule, above, at_least, check_keys
from byol_jax.data import images, sources, stored
from byol_jax.errors import require
from byol_jax.evals import checkpoint, follow
from byol_jax.evals.probes import logistic, mlp, transformed
from byol_jax.evals.splits import Batches, check_splits, load_split
from byol_jax.results import tables
from byol_jax.results.records import Record

_logger = logging.getLogger(__name__)

# Outputs of the network, and how the paper writes them.
REPRESENTATIONS: Mapping[str, str] = {"embedding": "h", "projection": "g(h)"}
# Views are scored in this epoch and fitted in later ones, so that no two draws are alike.
_SCORED = range(1)

_BETWEEN = Rule(
    lambda value: 0 < value < 1,
    "above 0 and below 1: with a single class there is nothing to predict",
)
RULES = {
    "seed": SEED,
    "image_size": at_least(1),
    "epochs_of_views": at_least(1),
    "eval_batch_size": at_least(1),
    "hidden_size": at_least(1),
    "num_epochs": at_least(1),
    "batch_size": at_least(1),
    "learning_rate": above(0),
}


def check(config: ml_collections.ConfigDict) -> tuple[list[str], list[str], list[str]]:
    """Networks, tasks and representations of a config.

    Raises:
      UserError: for what no run could use; names the key, its value and what is allowed.
    """
    check_keys(config, follow.RULES | RULES)
    check_keys(
        config.probabilities,
        dict.fromkeys(config.probabilities, _BETWEEN),
        "config.probabilities",
    )
    check_splits(config)
    return (
        follow.chosen(config, "network", checkpoint.NETWORKS),
        follow.chosen(config, "tasks", [*transformed.TASKS]),
        follow.chosen(config, "representations", [*REPRESENTATIONS]),
    )


def _pretrained_with(trained: weights.Trained, task: str) -> dict[str, float]:
    """Probabilities of the task's operation in T and T' of the pre-training; empty if unknown."""
    if trained.view2 is None:
        return {}
    operation = transformed.TASKS[task].operation
    return {
        name: float(getattr(view, operation) or 0)
        for name, view in (("T", trained.cropping.view), ("T'", trained.view2))
    }


def format_table(records: Sequence[Record]) -> str:
    """The records in the form of Table 3: one row per task."""
    columns = dict.fromkeys((r.network, r.settings["representation"]) for r in records)
    rows = [["predicted", "in T", "chance", *map(" ".join, columns)]]
    for task in dict.fromkeys(r.settings["task"] for r in records):
        own = [r for r in records if r.settings["task"] == task]
        cells = {(r.network, r.settings["representation"]): r.value for r in own}
        settings = own[0].settings
        in_t = f"{settings['pretrained_with']['T']:g}" if settings["pretrained_with"] else "-"
        numbers = [settings["chance"], *(cells[column] for column in columns)]
        rows.append([transformed.TASKS[task].title, in_t, *(f"{number:.1f}" for number in numbers)])
    return "\n".join(tables.aligned(rows))


def _load(
    dataset: str, split: str, data_dir: str | None, decoding: images.Decoding
) -> images.ImageSet:
    image_set = sources.load(dataset, split, data_dir, decoding=decoding)
    stored.check_readable(image_set)
    return image_set


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `transformations`: reads `config.checkpoint`, writes json, prints tables.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    networks, tasks, outputs = check(config)
    load = functools.cache(_load)  # once for all checkpoints of a run

    def evaluate(trained: weights.Trained) -> list[Record]:
        require(
            trained.has_heads or "projection" not in outputs,
            "config.representations: this checkpoint was trained on labels and has no g, give "
            "--config.representations=embedding",
        )
        checkpoint.check_networks(trained, networks)
        dataset, data_dir = checkpoint.dataset_of(config, trained)
        image_size, cropping = config.image_size or trained.image_size, trained.cropping
        fit, score = (
            transformed.Source(
                load(dataset, split, data_dir, trained.decoding),
                image_size,
                cropping,
            )
            for split in (config.fit_split, config.score_split)
        )
        job = _Job(config, trained, dataset, fit, score, tuple(outputs))
        network = checkpoint.siamese_of(trained)
        shuffled = functools.partial(_shuffled, job, data_dir)
        frozen = {
            name: transformed.Frozen(
                network, *checkpoint.network_of(trained, name, image_size, shuffled)
            )
            for name in networks
        }
        records = [
            record
            for name in networks
            for task in tasks
            for record in _evaluate(job, name, frozen[name], task)
        ]
        print(format_table(records), end="\n\n", flush=True)
        return records

    protocols = [protocol_of(task, output) for task in tasks for output in outputs]
    done = follow.finished(config, protocols, networks, config.score_split)

    def known(trained: weights.Trained, record: Record) -> dict[str, Any] | None:
        is_own = any(follow.has(record, fields) for fields in done)
        return _known_settings(config, trained, record) if is_own else None

    follow.for_each_checkpoint(config, evaluate, workdir, done, known)


def protocol_of(task: str, output: str) -> str:
    """As in `transformation/rotation/g(h)`."""
    return f"transformation/{task}/{REPRESENTATIONS[output]}"


class _Job(NamedTuple):
    """What the tasks of one checkpoint share.

    Attributes:
      config: config of the job.
      trained: the checkpoint.
      dataset: the data set, as in `config.dataset`.
      fit: images whose views are fitted.
      score: images whose views are scored.
      outputs: outputs of the network that are read, some of `REPRESENTATIONS`.
    """

    config: ml_collections.ConfigDict
    trained: weights.Trained
    dataset: str
    fit: transformed.Source
    score: transformed.Source
    outputs: tuple[str, ...]


def _shuffled(job: _Job, data_dir: str | None) -> Batches:
    """Evaluation crops of the fitted images, for BatchNorm averages of an untrained network."""
    return load_split(
        job.dataset,
        job.config.fit_split,
        image_size=job.fit.image_size,
        eval_crop=job.fit.cropping.eval_crop,
        data_dir=data_dir,
        decoding=job.trained.decoding,
        batch_size=job.config.eval_batch_size,
    ).shuffled()


def _evaluate(job: _Job, name: str, frozen: transformed.Frozen, task: str) -> list[Record]:
    """One task on one network: a pass over the views, and an MLP for each representation."""
    _logger.info("%s, %s network", transformed.TASKS[task].title, name)
    config = job.config
    drawing = transformed.Drawing(
        task, config.seed, transformed.shares_of(task, config.probabilities)
    )
    fit_epochs = range(_SCORED.stop, _SCORED.stop + config.epochs_of_views)
    fitted, scored = (
        transformed.extract(frozen, source, drawing, epochs, job.outputs, config.eval_batch_size)
        for source, epochs in ((job.fit, fit_epochs), (job.score, _SCORED))
    )
    examples = follow.Scored(job.dataset, config.score_split, len(scored.labels))
    return [
        follow.record(job.trained, name, _classify(job, drawing, output, fitted, scored), examples)
        for output in job.outputs
    ]


def _classify(
    job: _Job,
    drawing: transformed.Drawing,
    output: str,
    fitted: transformed.Views,
    scored: transformed.Views,
) -> follow.Score:
    """Trains the MLP on one representation, and scores it."""
    config, task = job.config, drawing.task
    size = fitted.values[output].shape[1]
    recipe = mlp.Recipe(
        hidden_size=config.hidden_size or size,
        num_epochs=config.num_epochs,
        batch_size=min(config.batch_size, len(fitted.labels)),
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    prediction = mlp.predict(
        (fitted.values[output], fitted.labels),
        (scored.values[output], scored.labels),
        transformed.TASKS[task].classes,
        recipe,
    )
    settings = _settings(config, job.trained, task, output) | {
        "batch_size": recipe.batch_size,
        "hidden_size": recipe.hidden_size,
        "features": size,
        "largest_share": 100 * float(np.bincount(scored.labels).max() / len(scored.labels)),
        "fit_top1": prediction.fit_top1,
        "fit_views": len(fitted.labels),
    }
    return follow.Score(protocol_of(task, output), "top1", prediction.top1, settings)


def _settings(
    config: ml_collections.ConfigDict, trained: weights.Trained, task: str, output: str
) -> dict[str, Any]:
    """The settings of a record that are known before anything is computed."""
    cropping = trained.cropping
    return {
        "classifier": "MLP with one hidden layer, ReLU",
        "solver": "adam",
        "schedule": "cosine to 0",
        "num_epochs": config.num_epochs,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        **logistic.STANDARDIZED,
        "task": task,
        "representation": REPRESENTATIONS[output],
        "chance": 100 * max(transformed.shares_of(task, config.probabilities)),
        "pretrained_with": _pretrained_with(trained, task) or None,
        "view": _other_operations(cropping.view, task),
        "area_range": list(cropping.area_range),
        "aspect_range": list(cropping.aspect_range),
        "image_size": config.image_size or trained.image_size,
        "fit_split": config.fit_split,
        "epochs_of_views": config.epochs_of_views,
        "reference": "SimCLR section 4.2, Table 3",
    }


def _known_settings(
    config: ml_collections.ConfigDict, trained: weights.Trained, record: Record
) -> dict[str, Any]:
    """What the record of a task and a representation would have, as far as it is known."""
    outputs = {title: name for name, title in REPRESENTATIONS.items()}
    settings = record.settings
    known = _settings(config, trained, settings["task"], outputs[settings["representation"]])
    # A batch is at most all views, and a hidden layer that is left open is as wide as its input.
    batch_size = min(config.batch_size, settings["fit_views"])
    hidden_size = config.hidden_size or settings["features"]
    return known | {"batch_size": batch_size, "hidden_size": hidden_size}


def _other_operations(view: compose.AugmentParams, task: str) -> dict[str, float]:
    """The parameters of T without the task's own operation, which follows the label."""
    return {
        name: float(value)
        for name, value in view._asdict().items()
        if name != transformed.TASKS[task].operation and value is not None
    }
