"""What frozen features are worth: kNN, linear, and few-label regression.

No image is augmented and no parameter moves. The rows are the online and target
network, the same network untrained, and the raw pixels, because an accuracy says
little without them (docs/protocols.md).
"""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import features, keys, metrics, stats, update, weights
from byol_jax.data import images, pipeline, sources
from byol_jax.errors import UserError, require
from byol_jax.evals import few_label, knn, logistic, results
from byol_jax.networks import siamese

_logger = logging.getLogger(__name__)

# Evaluation crops of a split are kept in memory up to this many bytes, else made anew each time.
_KEPT_BYTES = 2**30
# Raw pixels are those of pictures of at most this side: larger ones are averaged over squares.
_PIXEL_SIDE = 32
# Regressions are fitted to up to this many numbers, images x features. Close to it a network
# takes minutes on many cores, but on two of them more than half an hour.
_REGRESSION_NUMBERS = 2**28
# A run on more images than this does not evaluate itself: its devices would wait for an hour.
LARGEST = 200_000
# From this many images on, a pass over a split shows its progress.
_LONG = 20_000

# `images` uint8 `[b, S, S, 3]`, `labels` and `ids` int32 `[b]`.
Batches = Iterator[dict[str, np.ndarray]]


class Split(NamedTuple):
    """A split as the networks see it.

    Attributes:
      name: of the split, as in `train+valid`.
      size: images in it, unreadable ones included.
      batches: one pass over its evaluation crops, in order.
      shuffled: likewise, over as many as `features.calibrate` uses, in random order.
    """

    name: str
    size: int
    batches: Callable[[], Batches]
    shuffled: Callable[[], Batches]


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
    shared = {*fit_split.split("+")} & {*score_split.split("+")}
    require(
        not shared,
        f"evaluation.fit_split={fit_split} and evaluation.score_split={score_split} share "
        f"{', '.join(sorted(shared))}: what is scored must not be fitted",
    )

    def split(name: str) -> tuple[Split, int]:
        image_set = sources.load(dataset, name, data_dir)
        crop = functools.partial(
            pipeline.evaluation_batches,
            image_size=image_size,
            mode=eval_crop,
            batch_size=batch_size,
            exif=exif,
        )
        order = keys.permutation(image_set.size, "calibrate", 0)
        some = images.select(image_set, order[: features.CALIBRATION_BATCHES * batch_size])
        batches: Callable[[], Batches] = functools.partial(crop, image_set)
        if image_set.size * image_size**2 * 3 <= _KEPT_BYTES:
            batches = _kept(batches)
        found = Split(name, image_set.size, batches, functools.partial(crop, some))
        return found, image_set.num_classes

    (fit, num_classes), (score, _) = split(fit_split), split(score_split)
    return Data(dataset, image_size, num_classes, fit, score)


def _kept(batches: Callable[[], Batches]) -> Callable[[], Batches]:
    @functools.cache
    def everything() -> list[dict[str, np.ndarray]]:
        return list(batches())

    return lambda: iter(everything())


class _Features(NamedTuple):
    """Features `[N, D]` of the images of a split that could be read, and their labels `[N]`."""

    values: np.ndarray
    labels: np.ndarray
    projection: np.ndarray | None = None

    def labelled(self) -> "_Features":
        chosen = self.labels >= 0
        return _Features(self.values[chosen], self.labels[chosen])


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


def _pixels(split: Split) -> _Features:
    rows, labels = zip(
        *((pixel_features(b["images"]), b["labels"]) for b in split.batches()), strict=True
    )
    return _Features(np.concatenate(rows), np.concatenate(labels))


def _embeddings(
    network: hk.TransformedWithState,
    params: features.Tree,
    state: features.Tree,
    split: Split,
    batch_size: int,
    projection: bool = False,
) -> _Features:
    labels: list[np.ndarray] = []

    def crops() -> Iterator[np.ndarray]:
        with contextlib.ExitStack() as stack:
            progress = None
            if split.size >= _LONG:
                progress = metrics.Progress(split.size, f"features of {split.name}")
                stack.enter_context(contextlib.closing(progress))
            for batch in split.batches():
                labels.append(batch["labels"])
                yield batch["images"]
                if progress:
                    progress.advance(int(batch["ids"][-1]) + 1, "")

    outputs = ("embedding", "projection") if projection else ("embedding",)
    found = features.extract(
        network, params, state, crops(), outputs=outputs, batch_size=batch_size
    )
    return _Features(found["embedding"], np.concatenate(labels), found.get("projection"))


def knn_top1(
    fit: _Features, score: _Features, num_classes: int, settings: Mapping[str, Any]
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
    return logistic.top1(np.asarray(predictions), score.labels)


class _Score(NamedTuple):
    protocol: str
    metric: str
    value: float
    unit: str
    settings: dict[str, Any]


def _scores(
    fit: _Features, score: _Features, num_classes: int, settings: Mapping[str, Any]
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
    value, l2 = logistic.linear_top1(fit.values, fit.labels, score.values, score.labels)
    yield _Score("linear", "top1", value, "percent", logistic.SETTINGS | {"l2": l2})

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
        logistic.SETTINGS | few_settings,
    )


def evaluate(
    trained: weights.Weights, data: Data, settings: Mapping[str, Any]
) -> list[results.Record]:
    """All rows and protocols.

    A protocol that the labels cannot carry, such as too few of a class, is left out
    and said so.

    Args:
      trained: the networks, and the config that rebuilds them.
      data: what to evaluate on.
      settings: the `evaluation` section of a config.
    """
    seed, batch_size = trained.config["seed"], settings["batch_size"]
    spec = siamese.make_spec(trained.config["network"], trained.num_classes)
    network = siamese.siamese(spec)
    params, state = update.init_network(seed, "online", network, data.image_size)
    shuffled = (batch["images"] for batch in data.fit.shuffled())
    networks = {
        "random": (params, features.calibrate(network, params, state, shuffled)),
        "target": (trained.target_params, trained.target_state),
        "online": (trained.online_params, trained.online_state),
    }
    records: list[results.Record] = []

    def add(name: str, score: _Score, count: int) -> None:
        records.append(
            results.Record(
                metric=score.metric,
                value=score.value,
                unit=score.unit,
                protocol=score.protocol,
                network=name,
                dataset=data.name,
                split=data.score.name,
                n_examples=count,
                checkpoint_step=trained.step if name in ("online", "target") else None,
                seed=seed,
                settings=score.settings,
            )
        )

    for name in results.NETWORKS:
        if name == "pixels":
            _logger.info("evaluating %s", name)
            fit, score = _pixels(data.fit), _pixels(data.score)
        else:
            _logger.info("evaluating %s", name)
            embed = functools.partial(_embeddings, network, *networks[name], batch_size=batch_size)
            fit, score = embed(split=data.fit), embed(split=data.score, projection=True)
            std = float(stats.projection_std(jnp.asarray(score.projection)))
            add(
                name,
                _Score("projection", "std_sqrt_dim", std, "1", {"normalized": "l2"}),
                len(score.labels),
            )
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


def monitor(trained: weights.Weights, data: Data, settings: Mapping[str, Any]) -> dict[str, float]:
    """`knn_top1` of the online network in percent: cheap enough to run while training."""
    spec = siamese.make_spec(trained.config["network"], trained.num_classes)
    network, batch_size = siamese.siamese(spec), settings["batch_size"]
    fit, score = (
        _embeddings(
            network, trained.online_params, trained.online_state, split, batch_size
        ).labelled()
        for split in (data.fit, data.score)
    )
    return {"knn_top1": knn_top1(fit, score, data.num_classes, settings)}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `evaluate`: reads `config.checkpoint`, writes results.json, prints the table.

    The network, the crops, and the data set unless the config names another are those of
    the checkpoint's own config.
    """
    require(config.checkpoint, "config.checkpoint is needed: a workdir or checkpoints/STEP of it")
    trained = weights.load(config.checkpoint)
    dataset = config.dataset or trained.config["dataset"]
    # Checkpoints of the first version know neither `data_dir` nor `exif`.
    data_dir = None if config.dataset else trained.config.get("data_dir")
    evaluation = config.evaluation.to_dict()
    data = load(
        dataset,
        image_size=config.image_size or trained.config["image_size"],
        eval_crop=config.eval_crop or trained.config["data"]["eval_crop"],
        fit_split=evaluation["fit_split"],
        score_split=evaluation["score_split"],
        data_dir=config.data_dir or data_dir,
        exif=trained.config["data"].get("exif", False),
        batch_size=evaluation["batch_size"],
    )
    records = evaluate(trained, data, evaluation)
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():  # in the workdir of a run, it is that run's
        metrics.write_json(workdir / "config.json", config.to_dict())
    report(records, workdir)


def report(records: list[results.Record], workdir: pathlib.Path) -> None:
    """Writes results.json and prints the table."""
    results.write_results(workdir / "results.json", records)
    print(results.format_table(records), flush=True)
    print(f"written: {workdir / 'results.json'}", flush=True)
