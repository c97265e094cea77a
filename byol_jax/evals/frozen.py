"""What frozen features are worth: kNN, linear, and few-label regression.

No image is augmented and no parameter moves. The rows are the online and target
network, the same network untrained, and the raw pixels, because an accuracy says
little without them (docs/protocols.md).
"""

import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import features, metrics, stats, update, weights
from byol_jax.data import crops, sources
from byol_jax.errors import UserError, require
from byol_jax.evals import few_label, knn, logistic, results
from byol_jax.networks import siamese

_logger = logging.getLogger(__name__)


class Images(NamedTuple):
    """A split as the networks see it: crops, and labels (-1 for none)."""

    crops: np.ndarray  # uint8 [N, S, S, 3]
    labels: np.ndarray  # int32 [N]


class Data(NamedTuple):
    """Both splits of a data set, ready to evaluate."""

    name: str
    num_classes: int
    train: Images
    test: Images


def load(dataset: str, image_size: int, eval_crop: str) -> Data:
    """Both splits of `dataset` as evaluation crops.

    Raises:
      UserError: if it cannot be read.
    """
    splits = {}
    for split in ("train", "test"):
        image_set = sources.load(dataset, split)
        splits[split] = Images(
            crops.evaluation_images(image_set, image_size, eval_crop), image_set.labels
        )
    return Data(dataset, image_set.num_classes, **splits)


def knn_top1(train: np.ndarray, data: Data, test: np.ndarray, settings: Mapping[str, Any]) -> float:
    """Weighted kNN accuracy in percent; features `[N, D]` of the labelled images."""
    predictions = knn.knn_predict(
        train,
        _labelled(data.train),
        test,
        num_classes=data.num_classes,
        k=settings["knn_k"],
        temperature=settings["knn_temperature"],
    )
    return logistic.top1(np.asarray(predictions), _labelled(data.test))


def _labelled(images: Images) -> np.ndarray:
    return images.labels[images.labels >= 0]


class _Score(NamedTuple):
    protocol: str
    metric: str
    value: float
    unit: str
    settings: dict[str, Any]


def _scores(
    train: np.ndarray, test: np.ndarray, data: Data, settings: Mapping[str, Any]
) -> Iterator[_Score]:
    """Every protocol on one network's features of the labelled images."""
    value = knn_top1(train, data, test, settings)
    knn_settings = {"k": settings["knn_k"], "temperature": settings["knn_temperature"]}
    yield _Score(
        "knn", "top1", value, "percent", knn_settings | {"weights": "exp(cosine / temperature)"}
    )

    value, l2 = logistic.linear_top1(train, _labelled(data.train), test, _labelled(data.test))
    yield _Score("linear", "top1", value, "percent", logistic.SETTINGS | {"l2": l2})

    per_class = settings["labels_per_class"]
    few = few_label.few_label_top1(
        train,
        _labelled(data.train),
        test,
        _labelled(data.test),
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
    seed = trained.config["seed"]
    spec = siamese.make_spec(trained.config["network"], trained.num_classes)
    network = siamese.siamese(spec)
    batch_size = settings["batch_size"]
    params, state = update.init_network(seed, "online", network, data.train.crops.shape[1])
    state = features.calibrate(network, params, state, data.train.crops, batch_size=batch_size)
    networks = {
        "random": (params, state),
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
                split="test",
                n_examples=count,
                checkpoint_step=trained.step if name in ("online", "target") else None,
                seed=seed,
                settings=score.settings,
            )
        )

    train_labelled, test_labelled = data.train.labels >= 0, data.test.labels >= 0
    has_labels = np.any(train_labelled) and np.any(test_labelled)
    if not has_labels:
        _logger.info("%s has no labels in both splits: no accuracies", data.name)
    for name in results.NETWORKS:
        _logger.info("evaluating %s", name)
        if name == "pixels":
            train, test = (
                split.crops.reshape(len(split.crops), -1).astype(np.float32) / 255
                for split in (data.train, data.test)
            )
        else:
            outputs = {
                split: features.extract(
                    network,
                    *networks[name],
                    getattr(data, split).crops,
                    outputs=("embedding", "projection"),
                    batch_size=batch_size,
                )
                for split in ("train", "test")
            }
            train, test = outputs["train"]["embedding"], outputs["test"]["embedding"]
            std = float(stats.projection_std(jnp.asarray(outputs["test"]["projection"])))
            add(
                name,
                _Score("projection", "std_sqrt_dim", std, "1", {"normalized": "l2"}),
                len(data.test.crops),
            )
        if has_labels:
            try:
                for score in _scores(train[train_labelled], test[test_labelled], data, settings):
                    add(name, score, int(np.sum(test_labelled)))
            except UserError as error:
                _logger.info("left out: %s", error)
    return records


def monitor(trained: weights.Weights, data: Data, settings: Mapping[str, Any]) -> dict[str, float]:
    """`knn_top1` of the online network in percent: cheap enough to run while training."""
    spec = siamese.make_spec(trained.config["network"], trained.num_classes)
    train, test = (
        features.extract(
            siamese.siamese(spec),
            trained.online_params,
            trained.online_state,
            split.crops[split.labels >= 0],
            batch_size=settings["batch_size"],
        )["embedding"]
        for split in (data.train, data.test)
    )
    return {"knn_top1": knn_top1(train, data, test, settings)}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `evaluate`: reads `config.checkpoint`, writes results.json, prints the table.

    The network, and the data set unless the config names another, are those of the
    checkpoint's own config.
    """
    require(config.checkpoint, "config.checkpoint is needed: a workdir or checkpoints/STEP of it")
    trained = weights.load(config.checkpoint)
    dataset = config.dataset or trained.config["dataset"]
    data = load(
        dataset,
        config.image_size or trained.config["image_size"],
        trained.config["data"]["eval_crop"],
    )
    records = evaluate(trained, data, config.evaluation.to_dict())
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():  # in the workdir of a run, it is that run's
        metrics.write_json(workdir / "config.json", config.to_dict())
    report(records, workdir)


def report(records: list[results.Record], workdir: pathlib.Path) -> None:
    """Writes results.json and prints the table."""
    results.write_results(workdir / "results.json", records)
    print(results.format_table(records), flush=True)
    print(f"written: {workdir / 'results.json'}", flush=True)
