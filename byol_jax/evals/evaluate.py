"""Accuracies of frozen features: kNN, linear, and few-label regression.

No image is augmented and no parameter moves. The rows are the online and the target network, the
same network untrained, and the raw pixels, since an accuracy says little without them
(docs/protocols.md).
"""

import functools
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.checks import above, at_least, check_keys, one_of
from byol_jax.data import crops, images
from byol_jax.errors import UserError, require
from byol_jax.evals import checkpoint, features, follow
from byol_jax.evals.probes import few_label, knn, logistic
from byol_jax.evals.splits import Split, check_splits, load_split
from byol_jax.objectives import collapse
from byol_jax.results import scores
from byol_jax.results.records import NETWORKS, Record, read_results

_logger = logging.getLogger(__name__)

# Largest side of the pictures whose pixels are features; larger ones are averaged over squares.
_PIXEL_SIDE = 32
# Largest number of images x features that a regression is fitted to. Close to it a network takes
# minutes on many cores, but more than half an hour on two.
_REGRESSION_NUMBERS = 2**28
# Most images on which a run evaluates itself; with more its devices would wait for an hour.
LARGEST = 200_000
# The section `evaluation` of a config, of this job and of pre-trainings.
SECTION = {
    "knn_every": at_least(0),
    "batch_size": at_least(1),
    "knn_k": at_least(1),
    "knn_temperature": above(0),
    "labels_per_class": at_least(1),
    "draws": at_least(1),
}
RULES = {"image_size": at_least(1), "eval_crop": one_of(crops.EVALUATION_MODES)}


def check_section(config: ml_collections.ConfigDict) -> None:
    """Refuses a section `evaluation` that no protocol could use.

    Args:
      config: of this job, or of a pre-training.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    check_keys(config.evaluation, SECTION, "config.evaluation")
    check_splits(config.evaluation, "config.evaluation")


class Data(NamedTuple):
    """The splits of a data set that are fitted and scored.

    Attributes:
      name: the data set, as in `config.dataset`.
      image_size: side of the crops in pixels.
      eval_crop: one of `crops.EVALUATION_MODES`.
      num_classes: classes of the data set; 0 without labels.
      fit: split that classifiers and neighbours come from.
      score: split whose accuracy is reported.
    """

    name: str
    image_size: int
    eval_crop: str
    num_classes: int
    fit: Split
    score: Split

    @property
    def settings(self) -> dict[str, Any]:
        """What records say of the images."""
        names = {"image_size": self.image_size, "eval_crop": self.eval_crop}
        return names | {"fit_split": self.fit.name}


def load(
    dataset: str,
    *,
    image_size: int,
    eval_crop: str,
    fit_split: str = "train+valid",
    score_split: str = "test",
    data_dir: str | None = None,
    decoding: images.Decoding = images.AS_STORED,
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
        decoding=decoding,
        batch_size=batch_size,
    )
    fit, score = split(fit_split), split(score_split)
    return Data(dataset, image_size, eval_crop, fit.num_classes, fit, score)


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


class _Labelled(NamedTuple):
    """What the protocols on labelled features share.

    Attributes:
      fit: features that are fitted.
      score: features that are scored.
      num_classes: classes of the data set.
      settings: the section `evaluation` of a config.
    """

    fit: features.Features
    score: features.Features
    num_classes: int
    settings: Mapping[str, Any]


def _knn(part: _Labelled) -> follow.Score:
    value = knn_top1(part.fit, part.score, part.num_classes, part.settings)
    # There are no more neighbours than fitted images.
    k = min(part.settings["knn_k"], len(part.fit.labels))
    return follow.Score("knn", "top1", value, _knn_settings(part.settings) | {"k": k})


def _knn_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "k": settings["knn_k"],
        "temperature": settings["knn_temperature"],
        "weights": "exp(cosine / temperature)",
    }


def _check_size(part: _Labelled) -> None:
    """Raises: UserError: a regression would take too long."""
    count, size = part.fit.values.shape
    require(
        part.fit.values.size <= _REGRESSION_NUMBERS,
        f"no regression on {count} x {size} features: too many",
    )


def _linear(part: _Labelled) -> follow.Score:
    _check_size(part)
    train, test = (part.fit.values, part.fit.labels), (part.score.values, part.score.labels)
    value, choice = logistic.linear_top1(train, test)
    chosen = {"l2": choice.l2, "l2_at_end_of_grid": choice.l2_at_end_of_grid}
    settings = logistic.SETTINGS | logistic.STANDARDIZED | chosen
    return follow.Score("linear", "top1", value, settings)


def _few_label(part: _Labelled) -> follow.Score:
    _check_size(part)
    train, test = (part.fit.values, part.fit.labels), (part.score.values, part.score.labels)
    per_class = part.settings["labels_per_class"]
    few = few_label.few_label_top1(
        train, test, labels_per_class=per_class, draws=part.settings["draws"]
    )
    settings = {
        "standard_error": few.standard_error,
        "standard_error_of": f"{few.top1.size} draws of the labels",
        "split_means": [float(mean) for mean in few.split_means],
        "labels_per_class": per_class,
        "draws": int(few.top1.size),
        "l2": 1.0,
    }
    protocol = f"linear/{per_class}-per-class"
    common = logistic.SETTINGS | logistic.STANDARDIZED
    return follow.Score(protocol, "top1", few.mean, common | settings)


# In the order of a table's columns.
_PROTOCOLS = (_knn, _linear, _few_label)


def evaluate(trained: weights.Trained, data: Data, settings: Mapping[str, Any]) -> list[Record]:
    """All rows and protocols.

    A protocol that the labels do not allow, for instance because a class has too few, is left out
    and named in the log.

    Args:
      trained: the networks.
      data: splits to fit and to score.
      settings: the section `evaluation` of a config.
    """
    has_accuracies = bool(data.num_classes) and not data.fit.multi_label
    if not has_accuracies:
        _logger.info("%s", _without_accuracies(trained, data))
    left_out = set() if has_accuracies else {"pixels"}
    if not trained.target_params:
        left_out.add("target")  # the online network was its own target

    def record(name: str, score: follow.Score, count: int) -> Record:
        made = score._replace(settings=score.settings | data.settings)
        return follow.record(trained, name, made, follow.Scored(data.name, data.score.name, count))

    records: list[Record] = []
    reasons: list[str] = []
    for name in (name for name in NETWORKS if name not in left_out):
        _logger.info("evaluating %s", name)
        fit, score = _features(trained, name, data, settings["batch_size"], has_accuracies)
        spread = _spread(score)
        if spread is not None:
            records.append(record(name, spread, len(score.labels)))
        if fit is not None:
            fit, score = fit.labelled(), score.labelled()
            accuracies, why_not = _accuracies(fit, score, data, settings)
            records += [record(name, accuracy, len(score.labels)) for accuracy in accuracies]
            for reason in (reason for reason in why_not if reason not in reasons):
                _logger.info("left out: %s", reason)
                reasons.append(reason)
    return records


def _without_accuracies(trained: weights.Trained, data: Data) -> str:
    """Why there is no accuracy, and what is measured, in words."""
    if data.fit.multi_label:
        why = (
            f"{data.name} has several classes per image: kNN and regressions, which are for one "
            "class, are left out; experiments/transfer.py is for such sets"
        )
    else:
        why = f"no labels in {data.name}: accuracies are left out"
    if not trained.has_heads:
        return f"{why}; without a projector there is nothing else to measure"
    return (
        f"{why}; the spread of the projections is measured, which shows a collapse, and "
        "embedding_rank, alignment and uniformity in a run's metrics.jsonl need no labels either "
        "(docs/protocols.md)"
    )


def _features(
    trained: weights.Trained, name: str, data: Data, batch_size: int, is_fitted: bool
) -> tuple[features.Features | None, features.Features]:
    """Features of both splits; with projections of the scored one if there is a projector.

    Where nothing is fitted there are none of the fitted split.
    """
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
    fit = embed(split=data.fit) if is_fitted else None
    return fit, embed(split=data.score, projection=trained.has_heads)


def _spread(score: features.Features) -> follow.Score | None:
    """The spread of the projections, where there are any."""
    if score.projection is None:
        return None
    std = float(collapse.projection_std(jnp.asarray(score.projection)))
    if not math.isfinite(std):
        _logger.info("left out: some projections are not finite")
        return None
    return follow.Score("projection", "std_sqrt_dim", std, {"normalized": "l2"}, unit="1")


def _accuracies(
    fit: features.Features, score: features.Features, data: Data, settings: Mapping[str, Any]
) -> tuple[list[follow.Score], list[str]]:
    """The protocols that these labels allow, and why others are left out."""
    if not (fit.labels.size and score.labels.size):
        split = data.score.name if fit.labels.size else data.fit.name
        return [], [f"accuracies, as the {split} split of {data.name} has no labels"]
    if not all(np.isfinite(part.values).all() for part in (fit, score)):
        return [], ["accuracies, as some features are not finite"]
    part = _Labelled(fit, score, data.num_classes, settings)
    results, reasons = [], []
    for protocol in _PROTOCOLS:
        try:
            results.append(protocol(part))
        except UserError as error:
            reasons.append(str(error))
    return results, reasons


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
    check_keys(config, follow.RULES | RULES)
    check_section(config)
    evaluation = config.evaluation.to_dict()
    load_once = functools.cache(load)  # once for all checkpoints of a run

    def data_of(trained: weights.Trained) -> Data:
        dataset, data_dir = checkpoint.dataset_of(config, trained)
        return load_once(
            dataset,
            image_size=config.image_size or trained.image_size,
            eval_crop=config.eval_crop or trained.cropping.eval_crop,
            fit_split=evaluation["fit_split"],
            score_split=evaluation["score_split"],
            data_dir=data_dir,
            decoding=trained.decoding,
            batch_size=evaluation["batch_size"],
        )

    def known(trained: weights.Trained, record: Record) -> dict[str, Any] | None:
        data = data_of(trained)
        if (record.dataset, record.split) != (data.name, data.score.name):
            return None
        return _known_settings(record, data, evaluation)

    def evaluate_one(trained: weights.Trained) -> list[Record]:
        return evaluate(trained, data_of(trained), evaluation)

    done = follow.finished(config, ["projection"], ["online"], evaluation["score_split"])
    follow.for_each_checkpoint(config, evaluate_one, workdir, done, known)


def has_records(path: pathlib.Path, step: int, data: Data, settings: Mapping[str, Any]) -> bool:
    """Whether a results file has what `evaluate` would write of the online network at a step.

    Records of other settings do not count.

    Raises:
      UserError: the file holds something other than records.
    """
    known = [
        (record, _known_settings(record, data, settings))
        for record in (read_results(path) if path.exists() else [])
        if (record.network, record.checkpoint_step) == ("online", step)
        and (record.dataset, record.split) == (data.name, data.score.name)
    ]
    own = [(record, of_record) for record, of_record in known if of_record is not None]
    return bool(own) and not any(follow.differing(*pair) for pair in own)


def _known_settings(
    record: Record, data: Data, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The settings of a record that are known before anything is computed."""
    own: dict[str, dict[str, Any]] = {
        "projection": {},
        "knn": _knn_settings(settings),
        "linear": logistic.SETTINGS,
        "few": {
            "labels_per_class": settings["labels_per_class"],
            "draws": few_label.SPLITS * settings["draws"],
        },
    }
    if settings["knn_k"] > data.fit.size:
        del own["knn"]["k"]  # the record has the number of images
    protocol = "few" if record.protocol.endswith("-per-class") else record.protocol
    if protocol not in own or record.settings.get("solver") == "sgd":
        return None
    return own[protocol] | data.settings
