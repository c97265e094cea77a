"""What frozen features are worth: kNN, linear, and few-label regression.

No image is augmented and no parameter moves. The rows are the online and target
network, the same network untrained, and the raw pixels, because an accuracy says
little without them (docs/protocols.md).
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
from byol_jax.errors import UserError
from byol_jax.evals import checkpoint, features, follow
from byol_jax.evals.probes import few_label, knn, logistic
from byol_jax.evals.splits import Split, check_disjoint, load_split
from byol_jax.objectives import collapse
from byol_jax.results import scores
from byol_jax.results.records import NETWORKS, Record

_logger = logging.getLogger(__name__)

# Raw pixels are those of pictures of at most this side: larger ones are averaged over squares.
_PIXEL_SIDE = 32
# Regressions are fitted to up to this many numbers, images x features. Close to it a network
# takes minutes on many cores, but on two of them more than half an hour.
_REGRESSION_NUMBERS = 2**28
# A run on more images than this does not evaluate itself: its devices would wait for an hour.
LARGEST = 200_000


class Data(NamedTuple):
    """What is fitted and what is scored."""

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
    check_disjoint({"evaluation.fit_split": fit_split, "evaluation.score_split": score_split})
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

    A crop of more than 32 pixels is averaged over squares of ceil(S / 32), an incomplete last row
    and column of squares left out: nobody fits a classifier to 150,000 numbers.
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


class _Score(NamedTuple):
    protocol: str
    metric: str
    value: float
    unit: str
    settings: dict[str, Any]


def _scores(
    fit: features.Features, score: features.Features, num_classes: int, settings: Mapping[str, Any]
) -> Iterator[_Score]:
    """Every protocol on one network's labelled features."""
    value = knn_top1(fit, score, num_classes, settings)
    knn_settings = {"k": settings["knn_k"], "temperature": settings["knn_temperature"]}
    yield _Score(
        "knn", "top1", value, "percent", knn_settings | {"weights": "exp(cosine / temperature)"}
    )

    if fit.values.size > _REGRESSION_NUMBERS:
        _logger.info("no regression on %d x %d features: too many", *fit.values.shape)
        return
    common_settings = logistic.SETTINGS | logistic.STANDARDIZED
    value, choice = logistic.linear_top1(fit.values, fit.labels, score.values, score.labels)
    linear_settings = {"l2": choice.l2, "l2_at_end_of_grid": choice.l2_at_end_of_grid}
    yield _Score("linear", "top1", value, "percent", common_settings | linear_settings)

    per_class = settings["labels_per_class"]
    few = few_label.few_label_top1(
        fit.values,
        fit.labels,
        score.values,
        score.labels,
        labels_per_class=per_class,
        draws=settings["draws"],
    )
    few_settings = {
        "standard_error": few.standard_error,
        "split_means": [float(mean) for mean in few.split_means],
        "draws": int(few.top1.size),
        "l2": 1.0,
    }
    yield _Score(
        f"linear/{per_class}-per-class",
        "top1",
        few.mean,
        "percent",
        common_settings | few_settings,
    )


def evaluate(trained: weights.Trained, data: Data, settings: Mapping[str, Any]) -> list[Record]:
    """All rows and protocols.

    A protocol that the labels cannot carry, such as too few of a class, is left out
    and said so.

    Args:
      trained: the networks, and the config that rebuilds them.
      data: what to evaluate on.
      settings: the `evaluation` section of a config.
    """
    batch_size = settings["batch_size"]
    network = checkpoint.siamese_of(trained)
    records: list[Record] = []

    def add(name: str, score: _Score, count: int) -> None:
        records.append(
            follow.record(
                trained,
                name,
                dataset=data.name,
                split=data.score.name,
                n_examples=count,
                **score._asdict(),
            )
        )

    several = data.fit.multi_label
    if several:
        _logger.info(
            "%s has several classes an image: kNN and regressions, for one class, are left out; "
            "experiments/transfer.py is for such sets",
            data.name,
        )
    for name in NETWORKS:
        if several and name == "pixels":
            continue
        if name == "target" and not trained.target_params:
            continue  # its target was the online network
        if name == "pixels":
            _logger.info("evaluating %s", name)
            fit, score = _pixels(data.fit), _pixels(data.score)
        else:
            _logger.info("evaluating %s", name)
            params, state = checkpoint.network_of(trained, name, data.image_size, data.fit.shuffled)
            embed = functools.partial(
                features.embeddings, network, params, state, batch_size=batch_size
            )
            fit, score = embed(split=data.fit), embed(split=data.score, projection=True)
            std = float(collapse.projection_std(jnp.asarray(score.projection)))
            add(
                name,
                _Score("projection", "std_sqrt_dim", std, "1", {"normalized": "l2"}),
                len(score.labels),
            )
        if several:
            continue
        fit, score = fit.labelled(), score.labelled()
        if not (fit.labels.size and score.labels.size):
            _logger.info("no labels in both splits of %s: no accuracies", data.name)
            continue
        try:
            for result in _scores(fit, score, data.num_classes, settings):
                named = result.settings | {"fit_split": data.fit.name}
                add(name, result._replace(settings=named), len(score.labels))
        except UserError as error:
            _logger.info("left out: %s", error)
    return records


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
    crops, and the data set unless the config names another are those of the checkpoint's own
    config.
    """
    evaluation = config.evaluation.to_dict()

    @functools.cache  # once, however many checkpoints of a run are followed
    def data(dataset: str, **crops: Any) -> Data:
        return load(
            dataset,
            fit_split=evaluation["fit_split"],
            score_split=evaluation["score_split"],
            batch_size=evaluation["batch_size"],
            **crops,
        )

    def one(trained: weights.Trained) -> list[Record]:
        dataset, data_dir = checkpoint.dataset_of(config, trained)
        found = data(
            dataset,
            image_size=config.image_size or trained.image_size,
            eval_crop=config.eval_crop or trained.cropping.eval_crop,
            data_dir=data_dir,
            exif=trained.cropping.exif,
        )
        return evaluate(trained, found, evaluation)

    done = {"protocol": "projection", "network": "online", "split": evaluation["score_split"]}
    if config.dataset:
        done["dataset"] = config.dataset
    follow.for_each_checkpoint(config, one, workdir, **done)
