"""Accuracies of frozen features: kNN, linear, and few-label regression.

No image is augmented and no parameter moves. The rows are the online and the target network, the
same network untrained, and the raw pixels, since an accuracy says little without them
(docs/protocols.md).
"""

import functools
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.checks import at_least, check_keys, one_of
from byol_jax.data import crops
from byol_jax.errors import UserError
from byol_jax.evals import checkpoint, features, follow
from byol_jax.evals.probes import few_label, knn, logistic
from byol_jax.evals.splits import Split, check_splits, load_split
from byol_jax.objectives import collapse
from byol_jax.results import scores
from byol_jax.results.records import NETWORKS, Record

_logger = logging.getLogger(__name__)

# Largest side of the pictures whose pixels are features; larger ones are averaged over squares.
_PIXEL_SIDE = 32
# Largest number of images x features that a regression is fitted to. Close to it a network takes
# minutes on many cores, but more than half an hour on two.
_REGRESSION_NUMBERS = 2**28
# Most images on which a run evaluates itself; with more its devices would wait for an hour.
LARGEST = 200_000
RULES = {
    "image_size": at_least(1),
    "eval_crop": one_of(crops.EVALUATION_MODES),
    "evaluation.batch_size": at_least(1),
}


class Data(NamedTuple):
    """The splits of a data set that are fitted and scored.

    Attributes:
      name: the data set, as in `config.dataset`.
      image_size: side of the crops in pixels.
      num_classes: classes of the data set; 0 without labels.
      fit: split that classifiers and neighbours come from.
      score: split whose accuracy is reported.
    """

    name: str
    image_size: int
    num_classes: int
    fit: Split
    score: Split


def load(
    dataset: str,
    *,
    image_size: int,
    eval_crop: str,
    fit_split: str = "train+valid",
    score_split: str = "test",
    data_dir: str | None = None,
    exif: bool = False,
    batch_size: int = 256,
) -> Data:
    """Two splits of `dataset` as evaluation crops.

    Raises:
      UserError: if they cannot be read, or share images.
    """
    check_splits({"fit_split": fit_split, "score_split": score_split}, "config.evaluation")
    split = functools.partial(
        load_split,
        dataset,
        image_size=image_size,
        eval_crop=eval_crop,
        data_dir=data_dir,
        exif=exif,
        batch_size=batch_size,
    )
    fit, score = split(fit_split), split(score_split)
    return Data(dataset, image_size, fit.num_classes, fit, score)


def pixel_features(crops: np.ndarray) -> np.ndarray:
    """Raw pixels as features: uint8 `[b, S, S, 3]` -> float32 in [0, 1], `[b, D]`.

    A crop of more than 32 pixels is averaged over squares of ceil(S / 32) pixels, without an
    incomplete last row and column of squares: a classifier of 150,000 numbers would take too long.
    """
    square = -(-crops.shape[1] // _PIXEL_SIDE)
    side = crops.shape[1] // square
    used = crops[:, : side * square, : side * square].astype(np.float32) / 255
    squares = used.reshape(len(crops), side, square, side, square, 3)
    return squares.mean(axis=(2, 4), dtype=np.float32).reshape(len(crops), -1)


def _pixels(split: Split) -> features.Features:
    rows, labels = zip(
        *((pixel_features(b["images"]), b["labels"]) for b in split.batches()), strict=True
    )
    return features.Features(np.concatenate(rows), np.concatenate(labels))


def knn_top1(
    fit: features.Features, score: features.Features, num_classes: int, settings: Mapping[str, Any]
) -> float:
    """Weighted kNN accuracy in percent, from labelled features."""
    predictions = knn.knn_predict(
        fit.values,
        fit.labels,
        score.values,
        num_classes=num_classes,
        k=settings["knn_k"],
        temperature=settings["knn_temperature"],
    )
    return scores.top1(predictions, score.labels)


def _scores(
    fit: features.Features, score: features.Features, num_classes: int, settings: Mapping[str, Any]
) -> Iterator[follow.Score]:
    """Every protocol on one network's labelled features."""
    value = knn_top1(fit, score, num_classes, settings)
    knn_settings = {"k": settings["knn_k"], "temperature": settings["knn_temperature"]}
    yield follow.Score(
        "knn", "top1", value, knn_settings | {"weights": "exp(cosine / temperature)"}
    )

    if fit.values.size > _REGRESSION_NUMBERS:
        _logger.info("no regression on %d x %d features: too many", *fit.values.shape)
        return
    train, test = (fit.values, fit.labels), (score.values, score.labels)
    common_settings = logistic.SETTINGS | logistic.STANDARDIZED
    value, choice = logistic.linear_top1(train, test)
    linear_settings = {"l2": choice.l2, "l2_at_end_of_grid": choice.l2_at_end_of_grid}
    yield follow.Score("linear", "top1", value, common_settings | linear_settings)

    per_class = settings["labels_per_class"]
    few = few_label.few_label_top1(train, test, labels_per_class=per_class, draws=settings["draws"])
    few_settings = {
        "standard_error": few.standard_error,
        "split_means": [float(mean) for mean in few.split_means],
        "draws": int(few.top1.size),
        "l2": 1.0,
    }
    protocol = f"linear/{per_class}-per-class"
    yield follow.Score(protocol, "top1", few.mean, common_settings | few_settings)


def evaluate(trained: weights.Trained, data: Data, settings: Mapping[str, Any]) -> list[Record]:
    """All rows and protocols.

    A protocol that the labels do not allow, for instance because a class has too few, is left out
    and named in the log.

    Args:
      trained: the networks.
      data: splits to fit and to score.
      settings: the section `evaluation` of a config.
    """
    multi_label = data.fit.multi_label
    if multi_label:
        _logger.info(
            "%s has several classes per image: kNN and regressions, which are for one class, are "
            "left out; experiments/transfer.py is for such sets",
            data.name,
        )
    left_out = {"pixels"} if multi_label else set()
    if not trained.target_params:
        left_out.add("target")  # the online network was its own target

    def record(name: str, score: follow.Score, count: int) -> Record:
        return follow.record(trained, name, score, follow.Scored(data.name, data.score.name, count))

    records: list[Record] = []
    for name in (name for name in NETWORKS if name not in left_out):
        _logger.info("evaluating %s", name)
        fit, score = _features(trained, name, data, settings["batch_size"])
        if score.projection is not None:
            std = float(collapse.projection_std(jnp.asarray(score.projection)))
            spread = follow.Score("projection", "std_sqrt_dim", std, {"normalized": "l2"}, unit="1")
            records.append(record(name, spread, len(score.labels)))
        if not multi_label:
            fit, score = fit.labelled(), score.labelled()
            accuracies = _accuracies(fit, score, data, settings)
            records += [record(name, accuracy, len(score.labels)) for accuracy in accuracies]
    return records


def _features(
    trained: weights.Trained, name: str, data: Data, batch_size: int
) -> tuple[features.Features, features.Features]:
    """Features of both splits; with projections of the scored one unless they are pixels."""
    if name == "pixels":
        return _pixels(data.fit), _pixels(data.score)
    params, state = checkpoint.network_of(trained, name, data.image_size, data.fit.shuffled)
    embed = functools.partial(
        features.embeddings,
        checkpoint.siamese_of(trained),
        params,
        state,
        batch_size=batch_size,
    )
    return embed(split=data.fit), embed(split=data.score, projection=True)


def _accuracies(
    fit: features.Features, score: features.Features, data: Data, settings: Mapping[str, Any]
) -> list[follow.Score]:
    """The protocols that these labels allow."""
    if not (fit.labels.size and score.labels.size):
        _logger.info("no labels in both splits of %s: no accuracies", data.name)
        return []
    results = []
    try:
        for result in _scores(fit, score, data.num_classes, settings):
            named = result.settings | {"fit_split": data.fit.name}
            results.append(result._replace(settings=named))
    except UserError as error:
        _logger.info("left out: %s", error)
    return results


def monitor(trained: weights.Trained, data: Data, settings: Mapping[str, Any]) -> dict[str, float]:
    """`knn_top1` of the online network in percent: cheap enough to run while training."""
    network, batch_size = checkpoint.siamese_of(trained), settings["batch_size"]
    fit, score = (
        features.embeddings(
            network, trained.online_params, trained.online_state, split, batch_size
        ).labelled()
        for split in (data.fit, data.score)
    )
    return {"knn_top1": knn_top1(fit, score, data.num_classes, settings)}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `evaluate`: reads `config.checkpoint`, writes json, prints the table.

    With `config.follow` it does so for each checkpoint of a run as it comes. The network, the
    crops, and the data set unless the config names another are those of the checkpoint's training.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    check_keys(config, RULES)
    evaluation = config.evaluation.to_dict()
    data_of = functools.cache(load)  # once for all checkpoints of a run

    def evaluate_one(trained: weights.Trained) -> list[Record]:
        dataset, data_dir = checkpoint.dataset_of(config, trained)
        data = data_of(
            dataset,
            image_size=config.image_size or trained.image_size,
            eval_crop=config.eval_crop or trained.cropping.eval_crop,
            fit_split=evaluation["fit_split"],
            score_split=evaluation["score_split"],
            data_dir=data_dir,
            exif=trained.cropping.exif,
            batch_size=evaluation["batch_size"],
        )
        return evaluate(trained, data, evaluation)

    done = follow.finished(config, "projection", ["online"], evaluation["score_split"])
    follow.for_each_checkpoint(config, evaluate_one, workdir, **done)
