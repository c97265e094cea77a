"""Transfer via linear classification (BYOL App. E.2, SimCLR App. B.8.1): Tables 3 and 13.

A logistic regression on frozen features of another data set. The penalty is chosen on the
validation split, the classifier is fitted again to training and validation images together, and
the test split is scored once.
"""

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.checks import above, at_least, check_keys, each, one_of
from byol_jax.data import crops, table10
from byol_jax.errors import require
from byol_jax.evals import checkpoint, features, follow
from byol_jax.evals.probes import logistic
from byol_jax.evals.sgd.labels import check_metric
from byol_jax.evals.splits import Split, check_splits, load_split
from byol_jax.results import ranked, scores
from byol_jax.results.records import Record

_logger = logging.getLogger(__name__)

PROTOCOL = "transfer/linear"


class Metric(NamedTuple):
    """A measure of BYOL Table 10.

    Attributes:
      loss: the loss that is fitted for it, one of `lbfgs.LOSSES`.
      score: score of a classifier on features `[M, D]` and their labels, in percent.
    """

    loss: str
    score: Callable[[logistic.Model, np.ndarray, np.ndarray], float]


METRICS: Mapping[str, Metric] = {
    "top1": Metric("softmax", lambda m, x, y: scores.top1(logistic.predict(m, x), y)),
    "mean_per_class": Metric(
        "softmax", lambda m, x, y: scores.mean_per_class(logistic.predict(m, x), y)
    ),
    "map_11": Metric("sigmoid", lambda m, x, y: scores.map_11(logistic.decision(m, x), y)),
}


class Transfer(NamedTuple):
    """The result of the protocol.

    Attributes:
      value: the metric on the test split in percent.
      choice: the penalty that was chosen by the same metric.
      ranked: the most likely classes of each test image, best first, int `[M, k]`; None for several
        classes per image.
    """

    value: float
    choice: logistic.Choice
    ranked: np.ndarray | None = None


def transfer(
    train: features.Features,
    valid: features.Features,
    test: features.Features,
    metric: str,
    *,
    l2_grid: Sequence[float] = logistic.L2_GRID,
    standardize: bool = False,
) -> Transfer:
    """The protocol, on features of labelled images.

    Args:
      train: images that a classifier per penalty is fitted to.
      valid: images that choose among them; the chosen penalty is fitted to `train` and `valid`.
      test: images that the last classifier is scored on.
      metric: one of `METRICS`; labels are int `[N]`, for `map_11` int `[N, K]` of 1, 0 and -1.
      l2_grid: penalties.
      standardize: whether features are divided by their standard deviations on the fitted images.
        The paper mentions no such step.

    Raises:
      UserError: the metric is unknown or for other labels, a split has no labelled images, or as in
        `logistic.fit_path`.
    """
    require(metric in METRICS, f"metric={metric!r} must be one of: {', '.join(METRICS)}")
    loss, score = METRICS[metric]
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        require(len(part.labels), f"the {name} split has no labelled images: {PROTOCOL} needs them")
        require(
            part.labels.ndim == (2 if loss == "sigmoid" else 1),
            f"metric={metric} is for {'several classes' if loss == 'sigmoid' else 'one class'} per "
            f"image, and the {name} split has {'one' if part.labels.ndim == 1 else 'several'}",
        )

    def scaled(fitted: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, ...]:
        return logistic.standardize(fitted, other) if standardize else (fitted, other)

    fitted, held_out = scaled(train.values, valid.values)
    models = logistic.fit_path(fitted, train.labels, l2_grid, loss=loss)
    choice = logistic.choose(models, l2_grid, lambda model: score(model, held_out, valid.labels))

    both = np.concatenate([train.values, valid.values])
    labels = np.concatenate([train.labels, valid.labels])
    fitted, scored = scaled(both, test.values)
    model = logistic.fit(fitted, labels, choice.l2, loss=loss)
    predicted = None
    if loss == "softmax":
        predicted = ranked.rank(model.classes, logistic.decision(model, scored))
    return Transfer(score(model, scored, test.labels), choice, predicted)


RULES = {
    "image_size": at_least(1),
    "eval_crop": one_of(crops.EVALUATION_MODES),
    "eval_batch_size": at_least(1),
    "metric": one_of(METRICS),
    "l2_grid": each(above(0)),
}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `transfer`: reads `config.checkpoint`, writes json, prints the table.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    require(config.dataset, "config.dataset is needed: the data set to transfer to")
    check_keys(config, follow.RULES | RULES)
    check_splits(config)
    networks = follow.chosen(config, "network", checkpoint.NETWORKS)
    follow.check_predictions(config, networks)
    metric = _metric_of(config)
    load = functools.cache(load_split)  # once for all checkpoints of a run

    def evaluate(trained: weights.Trained) -> list[Record]:
        checkpoint.check_networks(trained, networks)
        splits = [
            load(
                config.dataset,
                split,
                image_size=config.image_size or trained.image_size,
                eval_crop=config.eval_crop,
                data_dir=config.data_dir,
                benchmark=config.benchmark,
                decoding=trained.decoding,
                batch_size=config.eval_batch_size,
            )
            for split in (config.fit_split, config.valid_split, config.score_split)
        ]
        for split in splits:
            check_metric(metric, split.multi_label)
        template = _record(trained, networks[0], config, metric, 0.0, {}, 0)
        follow.check_predicted(config, workdir, template, splits[0].multi_label)
        return [_evaluate(trained, name, config, splits, workdir) for name in networks]

    done = follow.finished(config, [PROTOCOL], networks, config.score_split)

    def known(trained: weights.Trained, record: Record) -> dict[str, Any] | None:
        is_own = any(follow.has(record, fields) for fields in done)
        return _settings(config, metric, trained) if is_own else None

    follow.for_each_checkpoint(config, evaluate, workdir, done, known)


def _metric_of(config: ml_collections.ConfigDict) -> str:
    """The measure that a config names, or that of its row of Table 10.

    Raises:
      UserError: that is a measure of another task.
    """
    row = table10.find(config.dataset, config.benchmark)
    metric: str = config.metric or (row.metric if row else "top1")
    require(metric in METRICS, f"metric={metric!r} must be one of: {', '.join(METRICS)}")
    return metric


def _settings(
    config: ml_collections.ConfigDict, metric: str, trained: weights.Trained
) -> dict[str, Any]:
    """The settings of a record that are known before anything is computed."""
    settings = dict(logistic.SETTINGS)
    if METRICS[metric].loss == "sigmoid":
        settings["classifier"] = (
            "a logistic regression per class, l2 on the weights, none on the bias"
        )
    settings |= logistic.STANDARDIZED if config.standardize else {"standardize": "no"}
    settings |= {
        "l2_grid": list(config.l2_grid),
        "fit_split": config.fit_split,
        "valid_split": config.valid_split,
        "refit": f"{config.fit_split}+{config.valid_split}",
        "eval_crop": config.eval_crop,
        "image_size": config.image_size or trained.image_size,
        "reference": "BYOL App. E.2, Table 3",
    }
    row = table10.find(config.dataset, config.benchmark)
    if row:
        settings["benchmark"] = row.key
    return settings


def _record(
    trained: weights.Trained,
    name: str,
    config: ml_collections.ConfigDict,
    metric: str,
    value: float,
    settings: dict[str, Any],
    count: int,
) -> Record:
    score = follow.Score(PROTOCOL, metric, value, settings)
    return follow.record(
        trained, name, score, follow.Scored(config.dataset, config.score_split, count)
    )


def _evaluate(
    trained: weights.Trained,
    name: str,
    config: ml_collections.ConfigDict,
    splits: Sequence[Split],
    workdir: pathlib.Path,
) -> Record:
    """The protocol on one network of a checkpoint."""
    _logger.info("features of the %s network", name)
    metric = _metric_of(config)
    image_size = config.image_size or trained.image_size
    network = checkpoint.siamese_of(trained)
    params, state = checkpoint.network_of(trained, name, image_size, splits[0].shuffled)
    train, valid, test = (
        features.embeddings(network, params, state, split, config.eval_batch_size).labelled()
        for split in splits
    )
    _logger.info("%d penalties on %d x %d", len(config.l2_grid), *train.values.shape)
    chosen = transfer(
        *(train, valid, test, metric),
        l2_grid=config.l2_grid,
        standardize=config.standardize,
    )
    choice = {
        "l2": chosen.choice.l2,
        "l2_at_end_of_grid": chosen.choice.l2_at_end_of_grid,
        "valid_score": chosen.choice.score,
    }
    settings = _settings(config, metric, trained) | choice
    record = _record(trained, name, config, metric, chosen.value, settings, len(test.labels))
    if chosen.ranked is not None and test.ids is not None:
        with follow.numbers_first([record], workdir):
            follow.save_predictions(config, workdir, record, test.ids, test.labels, chosen.ranked)
    return record
