"""What the evaluation jobs share: checkpoints, networks, splits, features, and records."""

import contextlib
import functools
import itertools
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np

from byol_jax import features, keys, update, weights
from byol_jax.augment import compose
from byol_jax.data import images, pipeline, sources
from byol_jax.errors import UserError, require
from byol_jax.evals import results
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints, metrics, processes

_logger = logging.getLogger(__name__)

# What a checkpoint gives: `random` is its network as it was drawn, with calibrated BatchNorm.
NETWORKS = ("random", "target", "online")
# Evaluation crops of a split are kept in memory up to this many bytes, else made anew each time.
_KEPT_BYTES = 2**30
# From this many images on, a pass over a split shows its progress.
_LONG = 20_000

# `images` uint8 `[b, S, S, 3]`, `labels` int32 `[b]` (`[b, K]` of several classes an image), `ids`
# int32 `[b]`.
Batches = Iterator[dict[str, np.ndarray]]


class Split(NamedTuple):
    """A split as the networks see it.

    Attributes:
      name: of the split, as in `train+valid`.
      size: images in it, unreadable ones included.
      num_classes: of the data set; 0 without labels.
      multi_label: whether an image has several classes.
      batches: one pass over its evaluation crops, in order.
      shuffled: likewise, over as many as `features.calibrate` uses, in random order.
    """

    name: str
    size: int
    num_classes: int
    multi_label: bool
    batches: Callable[[], Batches]
    shuffled: Callable[[], Batches]


class Features(NamedTuple):
    """Features `[N, D]` of the images of a split that could be read, and their labels."""

    values: np.ndarray
    labels: np.ndarray
    projection: np.ndarray | None = None

    def labelled(self) -> "Features":
        """Those of the images that have a label, without the projection."""
        chosen = self.labels.reshape(len(self.labels), -1).max(axis=1, initial=-1) >= 0
        return Features(self.values[chosen], self.labels[chosen])


def load_split(
    dataset: str,
    name: str,
    *,
    image_size: int,
    eval_crop: str,
    data_dir: str | None = None,
    benchmark: str | None = None,
    exif: bool = False,
    batch_size: int = 256,
) -> Split:
    """A split of `dataset` as evaluation crops; `benchmark` as in `sources.load`.

    Raises:
      UserError: if it cannot be read.
    """
    image_set = sources.load(dataset, name, data_dir, benchmark)
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
    return Split(
        name=name,
        size=image_set.size,
        num_classes=image_set.num_classes,
        multi_label=image_set.multi_label,
        batches=batches,
        shuffled=functools.partial(crop, some),
    )


def _kept(batches: Callable[[], Batches]) -> Callable[[], Batches]:
    @functools.cache
    def everything() -> list[dict[str, np.ndarray]]:
        return list(batches())

    return lambda: iter(everything())


def check_disjoint(splits: Mapping[str, str]) -> None:
    """Refuses splits, by the keys that name them, of which two share images."""
    for (key, mine), (other, theirs) in itertools.combinations(splits.items(), 2):
        shared = {*mine.split("+")} & {*theirs.split("+")}
        require(
            not shared,
            f"{key}={mine} and {other}={theirs} share {', '.join(sorted(shared))}: "
            "what is scored must not be fitted",
        )


class Cropping(NamedTuple):
    """How a run made views of images.

    Attributes:
      view: T.
      area_range, aspect_range: of the random crops (`boxes`).
      eval_crop: one of `crops.EVALUATION_MODES`.
      exif: whether images are turned as EXIF says.
    """

    view: compose.AugmentParams
    area_range: tuple[float, float]
    aspect_range: tuple[float, float]
    eval_crop: str
    exif: bool


def cropping_of(config: Mapping[str, Any], **view: Any) -> Cropping:
    """The cropping of a run, from its config; what that lacks is App. C's.

    Args:
      config: of a checkpoint: early ones lack keys, released ones all of them.
      **view: entries of T that stand in place of the run's own.
    """
    data = config.get("data", {})
    return Cropping(
        compose.from_config({**config.get("augment", {}).get("view1", {}), **view}),
        (data.get("area_min", 0.08), data.get("area_max", 1.0)),
        (data.get("aspect_min", 3 / 4), data.get("aspect_max", 4 / 3)),
        data.get("eval_crop", "paper"),
        data.get("exif", False),
    )


def load_weights(config: ml_collections.ConfigDict) -> weights.Weights:
    """What `config.checkpoint` holds.

    Raises:
      UserError: it is not given, or is no checkpoint with an encoder.
    """
    require(config.checkpoint, "config.checkpoint is needed: a workdir or checkpoints/STEP of it")
    return _with_encoder(weights.load(config.checkpoint), config.checkpoint)


def _with_encoder(trained: weights.Weights, source: str | pathlib.Path) -> weights.Weights:
    require(
        siamese.encoder_params(trained.online_params),
        f"checkpoint={source} holds no encoder: give one of a pre-training or supervised run",
    )
    return trained


def siamese_of(trained: weights.Weights) -> hk.TransformedWithState:
    """The function of both networks of a checkpoint, or of its encoder if it has no heads."""
    spec = siamese.make_spec(trained.config["network"], trained.num_classes)
    # A network trained on labels has neither g nor q.
    is_supervised = trained.config.get("job") == "finetune"
    return siamese.encoder(spec) if is_supervised else siamese.siamese(spec)


def network_of(
    trained: weights.Weights, name: str, image_size: int, shuffled: Callable[[], Batches]
) -> tuple[features.Tree, features.Tree]:
    """Parameters and BatchNorm state of one of `NETWORKS`.

    Args:
      trained: the checkpoint.
      name: `online`, `target`, or `random`: as the run's own seed draws the online network,
        its BatchNorm averages from `features.calibrate`.
      image_size: side of the crops in pixels.
      shuffled: `Split.shuffled` of the images that are fitted; read for `random` alone.

    Raises:
      UserError: there is no such network.
    """
    require(name in NETWORKS, f"network={name!r} must be one of: {', '.join(NETWORKS)}")
    if name == "online":
        return trained.online_params, trained.online_state
    if name == "target":
        require(
            trained.target_params,
            "network=target: this checkpoint has no network of that name; its only one is online",
        )
        return trained.target_params, trained.target_state
    network = siamese_of(trained)
    params, state = update.init_network(trained.config["seed"], "online", network, image_size)
    crops = (batch["images"] for batch in shuffled())
    return params, features.calibrate(network, params, state, crops)


def embeddings(
    network: hk.TransformedWithState,
    params: features.Tree,
    state: features.Tree,
    split: Split,
    batch_size: int,
    projection: bool = False,
) -> Features:
    """Frozen features of a split: one pass over its crops."""
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
    return Features(found["embedding"], np.concatenate(labels), found.get("projection"))


def record(
    trained: weights.Weights,
    network: str,
    *,
    protocol: str,
    metric: str,
    value: float,
    dataset: str,
    split: str,
    n_examples: int,
    settings: dict[str, Any],
    unit: str = "percent",
) -> results.Record:
    """A record of one of the checkpoint's networks, or of what stands beside them."""
    return results.Record(
        metric=metric,
        value=value,
        unit=unit,
        protocol=protocol,
        network=network,
        dataset=dataset,
        split=split,
        n_examples=n_examples,
        checkpoint_step=trained.step if network in ("online", "target") else None,
        seed=trained.config["seed"],
        settings=settings,
    )


def report(records: list[results.Record], workdir: pathlib.Path) -> None:
    """Writes results.json and prints the table, on the first process."""
    if not processes.is_first_process():
        return
    results.write_results(workdir / "results.json", records)
    print(results.format_table(records), flush=True)
    print(f"written: {workdir / 'results.json'}", flush=True)


def for_each_checkpoint(
    config: ml_collections.ConfigDict,
    evaluate: Callable[[weights.Weights], list[results.Record]],
    workdir: pathlib.Path,
    **done: Any,
) -> None:
    """Evaluates `config.checkpoint`, or with `config.follow` each checkpoint of a run as it comes.

    A followed workdir may still be empty. Its complete steps are evaluated in order, but not those
    that `workdir` has the results of; a step that was deleted meanwhile (`keep_checkpoints`) is
    left out. It ends with the run's last step, or when `config.follow_hours` have brought no new
    one. Table and results.json are brought up to date after each.

    Args:
      config: `checkpoint`, `follow`, `follow_seconds` between two looks, `follow_hours`.
      evaluate: the protocol.
      workdir: where the results go.
      **done: fields, or settings, of the records that a step has once it was evaluated, as
        in `protocol="knn"`.

    Raises:
      UserError: there is no checkpoint, or it is damaged; `follow` of something else than a
        workdir, or in several processes; and what `evaluate` refuses.
    """
    if not config.follow:
        _write(evaluate(load_weights(config)), config, workdir)
        return
    require(config.checkpoint, "config.checkpoint is needed: the workdir to follow")
    count = jax.process_count()
    require(
        count == 1,
        f"config.follow is for one process, and these are {count}: each would find checkpoints at "
        "another time",
    )
    require(
        config.get("network") != "random",
        "config.follow with config.network=random: the same number at every checkpoint",
    )
    directory = pathlib.Path(config.checkpoint)
    if directory.name != "checkpoints":
        directory /= "checkpoints"
    require(
        not directory.parent.name.isdigit() or directory.parent.parent.name != "checkpoints",
        f"config.follow needs a workdir, not one step of it: checkpoint={config.checkpoint}",
    )
    seen = _steps_with(workdir / "results.json", done)
    last_news = time.monotonic()
    while True:
        found = checkpoints.steps(directory)
        for step in [step for step in found if step not in seen]:
            trained = _read_or_none(directory, step, config.follow_seconds)
            if trained:
                _write(evaluate(trained), config, workdir)
            seen.add(step)
            last_news = time.monotonic()
        # New ones may have come in the meantime: they are found before the end is.
        found = checkpoints.steps(directory)
        if not seen.issuperset(found):
            continue
        if found and _is_last(directory, found[-1]):
            return
        if time.monotonic() - last_news > config.follow_hours * 3600:
            hours = config.follow_hours
            _logger.info("no new checkpoint in %s for %g hours: ended", directory, hours)
            return
        time.sleep(config.follow_seconds)


def _steps_with(path: pathlib.Path, fields: dict[str, Any]) -> set[int]:
    """Checkpoint steps of a results file that have a record with these fields or settings."""
    records = results.read_results(path) if path.exists() else []
    return {
        record.checkpoint_step
        for record in records
        if record.checkpoint_step is not None
        and fields.items() <= {**record.settings, **record._asdict()}.items()
    }


def _is_last(directory: pathlib.Path, step: int) -> bool:
    """Whether a step ends its run, as far as its record knows."""
    try:
        total_steps = checkpoints.read_record(directory, step).get("total_steps")
    except UserError:
        return False  # deleted just now, as there is a newer one
    return total_steps is not None and step >= total_steps


def _read_or_none(directory: pathlib.Path, step: int, seconds: float) -> weights.Weights | None:
    """The weights of a step, or None when it has gone."""
    path = directory / str(step)
    try:
        return _with_encoder(weights.load(path), path)
    except UserError:
        # It may be half deleted: then it is gone at the next look.
        time.sleep(seconds if path.exists() else 0)
        if path.exists():
            raise
    _logger.info("checkpoint %s is gone: left out", path)
    return None


def _write(
    records: list[results.Record], config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
    if processes.is_first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():  # in the workdir of a run, it is that run's
            metrics.write_json(workdir / "config.json", config.to_dict())
    report(records, workdir)
