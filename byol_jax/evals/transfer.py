"""Transfer via linear classification (BYOL App. E.2, SimCLR App. B.8.1): Tables 3 and 13.

A logistic regression on frozen features of another data set, the penalty chosen on the validation
split, fitted again on training and validation images together, scored once on the test split.
"""

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.data import table10
from byol_jax.errors import require
from byol_jax.evals import checkpoint, features, follow
from byol_jax.evals.probes import logistic
from byol_jax.evals.splits import Split, check_disjoint, load_split
from byol_jax.results import scores
from byol_jax.results.records import Record

_logger = logging.getLogger(__name__)

PROTOCOL = "transfer/linear"


class Metric(NamedTuple):
    """A measure of BYOL Table 10.

    Attributes:
      loss: of `lbfgs.LOSSES`, what is fitted for it.
      score: percent, of a classifier on features `[M, D]` and labels.
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
    """The metric on the test split in percent, and how l2 was chosen, by the same metric."""

    value: float
    choice: logistic.Choice


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
      train: what the classifiers are fitted to, one for each penalty.
      valid: what chooses among them; the chosen penalty is fitted to `train` and `valid`.
      test: what the last classifier is scored on.
      metric: one of `METRICS`; labels are int `[N]`, for `map_11` int `[N, K]` of 1, 0 and -1.
      l2_grid: penalties.
      standardize: divides features by their deviations, of what is fitted. The paper does not
        say that it does.

    Raises:
      UserError: a metric that is unknown or of other labels; a split without labelled images;
        and as `logistic.fit_path`.
    """
    require(metric in METRICS, f"metric={metric!r} must be one of: {', '.join(METRICS)}")
    loss, score = METRICS[metric]
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        require(len(part.labels), f"the {name} split has no labelled images: {PROTOCOL} needs them")
        require(
            part.labels.ndim == (2 if loss == "sigmoid" else 1),
            f"metric={metric} is for {'several classes' if loss == 'sigmoid' else 'one class'} an "
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
    return Transfer(score(model, scored, test.labels), choice)


def _settings(
    config: ml_collections.ConfigDict, metric: str, image_size: int, chosen: Transfer
) -> dict[str, Any]:
    """What a record says beside its value."""
    settings = dict(logistic.SETTINGS)
    if METRICS[metric].loss == "sigmoid":
        settings["classifier"] = (
            "a logistic regression a class, l2 on the weights, none on the bias"
        )
    settings |= logistic.STANDARDIZED if config.standardize else {"standardize": "no"}
    settings |= {
        "l2": chosen.choice.l2,
        "l2_at_end_of_grid": chosen.choice.l2_at_end_of_grid,
        "l2_grid": list(config.l2_grid),
        "valid_score": chosen.choice.score,
        "fit_split": config.fit_split,
        "valid_split": config.valid_split,
        "refit": f"{config.fit_split}+{config.valid_split}",
        "eval_crop": config.eval_crop,
        "image_size": image_size,
        "reference": "BYOL App. E.2, Table 3",
    }
    row = table10.find(config.dataset, config.benchmark)
    if row:
        settings["benchmark"] = row.key
    return settings


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `transfer`: reads `config.checkpoint`, writes json, prints the table.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    require(config.dataset, "config.dataset is needed: the data set to transfer to")
    splits = {
        f"config.{name}": config[name] for name in ("fit_split", "valid_split", "score_split")
    }
    check_disjoint(splits)
    networks = config.network.split("+")
    for name in networks:
        require(
            name in checkpoint.NETWORKS,
            f"config.network={config.network!r} must be one of {', '.join(checkpoint.NETWORKS)}, "
            "or several as in random+online",
        )
    row = table10.find(config.dataset, config.benchmark)
    metric = config.metric or (row.metric if row else "top1")
    require(metric in METRICS, f"metric={metric!r} must be one of: {', '.join(METRICS)}")

    @functools.cache  # once, however many checkpoints of a run are followed
    def load(split: str, image_size: int, exif: bool) -> Split:
        return load_split(
            config.dataset,
            split,
            image_size=image_size,
            eval_crop=config.eval_crop,
            data_dir=config.data_dir,
            benchmark=config.benchmark,
            exif=exif,
            batch_size=config.eval_batch_size,
        )

    def evaluate(trained: weights.Trained) -> list[Record]:
        image_size = config.image_size or trained.image_size
        parts = [load(split, image_size, trained.cropping.exif) for split in splits.values()]
        network = checkpoint.siamese_of(trained)
        records = []
        for name in networks:
            _logger.info("features of the %s network", name)
            params, state = checkpoint.network_of(trained, name, image_size, parts[0].shuffled)
            train, valid, test = (
                features.embeddings(network, params, state, part, config.eval_batch_size).labelled()
                for part in parts
            )
            _logger.info("%d penalties on %d x %d", len(config.l2_grid), *train.values.shape)
            chosen = transfer(
                *(train, valid, test, metric),
                l2_grid=config.l2_grid,
                standardize=config.standardize,
            )
            records.append(
                follow.record(
                    trained,
                    name,
                    protocol=PROTOCOL,
                    metric=metric,
                    value=chosen.value,
                    dataset=config.dataset,
                    split=config.score_split,
                    n_examples=len(test.labels),
                    settings=_settings(config, metric, image_size, chosen),
                )
            )
        return records

    # Records are written together: the last one stands for all.
    done = {"protocol": PROTOCOL, "dataset": config.dataset, "split": config.score_split}
    done["network"] = max(networks, key=checkpoint.NETWORKS.index)
    follow.for_each_checkpoint(config, evaluate, workdir, **done)
