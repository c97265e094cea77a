"""Training of classifiers on labelled images, and their scores: what linear and finetune share."""

import contextlib
import functools
import json
import logging
import math
import pathlib
import signal
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import (
    augment,
    checkpoints,
    classification,
    distributed,
    features,
    interrupts,
    metrics,
    randaugment,
    weights,
)
from byol_jax.data import benchmarks, crops, images, pipeline, reader, sources
from byol_jax.errors import GuardError, Stopped, UserError, require
from byol_jax.evals import common, scores
from byol_jax.networks import siamese

_logger = logging.getLogger(__name__)

Encoder = classification.Encoder
# Rows of logits that a metric looks at.
_TOP = 5


class Diverged(GuardError):
    """A training whose numbers are not finite; a grid goes on without it."""


class Recipe(NamedTuple):
    """How classifiers are trained.

    Attributes:
      seed: of the order, crops and augmentations of the images.
      image_size: side of the crops in pixels.
      batch_size: over all devices and processes.
      total_steps, warmup_steps: of the schedule.
      learning_rates: peak rate of each classifier.
      momentum, weight_decay, label_smoothing, logit_clip, logit_penalty: as in
        `classification.Hyperparameters`.
      augmentation: a key of `classification.AUGMENTATIONS`.
      view: T, for the pre-train augmentations.
      magnitude: of RandAugment.
      exif: whether images are turned as EXIF says.
      area_range, aspect_range: of the random crops (`boxes`).
      threads, prefetch: of the input pipeline.
    """

    seed: int
    image_size: int
    batch_size: int
    total_steps: int
    warmup_steps: int
    learning_rates: tuple[float, ...]
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    logit_clip: float = 0.0
    logit_penalty: float = 0.0
    augmentation: str = "spatial"
    view: augment.AugmentParams = augment.AugmentParams()
    magnitude: float = 0.0
    exif: bool = False
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)
    threads: int = 0
    prefetch: int = 2


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What a record says of a recipe."""
    unused = {"threads", "prefetch", "exif", "seed", "learning_rates"}
    unused |= {"view"} if recipe.augmentation != "pretrain" else set()
    unused |= {"magnitude"} if recipe.augmentation != "randaugment" else set()
    said: dict[str, Any] = {k: v for k, v in recipe._asdict().items() if k not in unused}
    if "view" in said:
        said["view"] = {k: float(v) for k, v in recipe.view._asdict().items()}
    else:
        said["flip"] = float(recipe.view.flip)
    return {"solver": "sgd", "nesterov": True, "schedule": "cosine to 0", **said}


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses what no training could use.

    Raises:
      UserError: naming the key, its value and what would be right.
    """
    for name in ("batch_size", "eval_batch_size", "log_every", "checkpoint_every"):
        require(config[name] >= 1, f"config.{name}={config[name]} must be at least 1")
    require(
        config.num_steps is None or config.num_steps >= 1,
        f"config.num_steps={config.num_steps} must be at least 1",
    )
    require(config.num_epochs > 0, f"config.num_epochs={config.num_epochs} must be above 0")
    for name in ("warmup_epochs", "weight_decay", "logit_clip", "logit_penalty"):
        require(config[name] >= 0, f"config.{name}={config[name]} must be 0 or more")
    require(
        0 <= config.magnitude <= randaugment.MAX_MAGNITUDE,
        f"config.magnitude={config.magnitude} must be from 0 to {randaugment.MAX_MAGNITUDE}",
    )
    require(0 <= config.seed < 2**31, f"config.seed={config.seed} must be from 0 to 2**31 - 1")
    require(
        config.augmentation in classification.AUGMENTATIONS,
        f"config.augmentation={config.augmentation!r} must be one of: "
        f"{', '.join(classification.AUGMENTATIONS)}",
    )
    rates = tuple(config.learning_rates)
    require(rates, "config.learning_rates is empty: give one or more")
    require(
        all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in rates),
        f"config.learning_rates={rates} must all be numbers above 0",
    )
    for name in ("momentum", "label_smoothing"):
        require(0 <= config[name] < 1, f"config.{name}={config[name]} must be in [0, 1)")
    distributed.check_batch(config.batch_size, 1)


def scaled_rates(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The sweep's rates: as they are given, or times batch size / 256 (docs/deviations.md)."""
    require(
        config.rate_scaling in ("none", "linear"),
        f"config.rate_scaling={config.rate_scaling!r} must be none or linear",
    )
    scale = config.batch_size / 256 if config.rate_scaling == "linear" else 1.0
    return tuple(float(rate) * scale for rate in config.learning_rates)


def at_an_end(name: str, values: Sequence[float], best: int) -> dict[str, str]:
    """Says whether the best of several values is the lowest or highest, so that more may help."""
    if len(set(values)) < 2 or values[best] not in (min(values), max(values)):
        return {}
    end = "lowest" if values[best] == min(values) else "highest"
    _logger.warning("the best %s, %g, is the %s of those tried", name, values[best], end)
    return {f"{name}_at_end_of_grid": end}


class Data(NamedTuple):
    """What an evaluation reads: the data set, its metric, and how images are cropped.

    `view` is T of the pre-training, and the ranges are those of its random crops.
    """

    dataset: str
    data_dir: str | None
    benchmark: str | None
    metric: str
    image_size: int
    eval_crop: str
    exif: bool
    batch_size: int
    view: augment.AugmentParams
    area_range: tuple[float, float]
    aspect_range: tuple[float, float]

    def train_set(self, split: str) -> images.ImageSet:
        """A split to learn labels from, whose metric goes with them; see `labelled_set`."""
        found = labelled_set(self.dataset, split, self.data_dir, self.benchmark)
        check_metric(self.metric, found.multi_label)
        return found

    def split(self, name: str) -> common.Split:
        """A split as evaluation crops."""
        return common.load_split(
            self.dataset,
            name,
            image_size=self.image_size,
            eval_crop=self.eval_crop,
            data_dir=self.data_dir,
            benchmark=self.benchmark,
            exif=self.exif,
            batch_size=self.batch_size,
        )


def check_metric(metric: str, several: bool) -> None:
    """Refuses a metric that does not go with the labels: `several` an image, or one.

    Raises:
      UserError: naming those that do.
    """
    right = ("map_11",) if several else ("top1", "mean_per_class")
    what = "several labels an image" if several else "one label an image"
    require(metric in right, f"metric={metric!r} must be {' or '.join(right)} for {what}")


def data_of(config: ml_collections.ConfigDict, trained: Mapping[str, Any]) -> Data:
    """What the config names; what it leaves open is as in the run's own config.

    Raises:
      UserError: there is no data set, or no such benchmark or crop.
    """
    dataset: str = config.dataset or trained.get("dataset") or ""
    require(dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    row = (
        benchmarks.by_name(config.benchmark) if config.benchmark else benchmarks.of_dataset(dataset)
    )
    theirs = trained.get("data", {})
    given = {name: value for name, value in config.view.items() if value is not None}
    view = augment.AugmentParams(**{**trained.get("augment", {}).get("view1", {}), **given})
    flip = view.flip if config.flip is None else config.flip
    require(0 <= flip <= 1, f"config.flip={flip} is a probability: from 0 to 1")
    area_min = theirs.get("area_min", 0.08) if config.area_min is None else config.area_min
    eval_crop = config.eval_crop or theirs.get("eval_crop", "paper")
    require(
        eval_crop in crops.EVALUATION_MODES,
        f"config.eval_crop={eval_crop!r} must be one of: {', '.join(crops.EVALUATION_MODES)}",
    )
    require(
        config.image_size is None or config.image_size >= 1,
        f"config.image_size={config.image_size} must be at least 1",
    )
    return Data(
        dataset=dataset,
        data_dir=config.data_dir or (None if config.dataset else trained.get("data_dir")),
        benchmark=config.benchmark,
        metric=config.metric or (row.metric if row else "top1"),
        image_size=config.image_size or trained["image_size"],
        eval_crop=eval_crop,
        exif=theirs.get("exif", False),
        batch_size=config.eval_batch_size,
        view=view._replace(flip=flip),
        area_range=(area_min, theirs.get("area_max", 1.0)),
        aspect_range=(theirs.get("aspect_min", 3 / 4), theirs.get("aspect_max", 4 / 3)),
    )


def recipe_of(config: ml_collections.ConfigDict, data: Data, num_examples: int) -> Recipe:
    """The recipe of a config on `num_examples` images.

    Raises:
      UserError: they do not make a single batch.
    """
    total_steps = config.num_steps or pipeline.steps_for(
        config.num_epochs, num_examples, config.batch_size
    )
    require(
        total_steps,
        f"{config.num_epochs:g} epochs of {num_examples} images are less than one batch of "
        f"{config.batch_size}: lower config.batch_size",
    )
    return Recipe(
        seed=config.seed,
        image_size=data.image_size,
        batch_size=config.batch_size,
        total_steps=total_steps,
        warmup_steps=pipeline.steps_for(config.warmup_epochs, num_examples, config.batch_size),
        learning_rates=scaled_rates(config),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        logit_clip=config.logit_clip,
        logit_penalty=config.logit_penalty,
        augmentation=config.augmentation,
        magnitude=config.magnitude,
        view=data.view,
        exif=data.exif,
        area_range=data.area_range,
        aspect_range=data.aspect_range,
        threads=config.threads,
        prefetch=config.prefetch,
    )


def identity(
    config: ml_collections.ConfigDict, trained: weights.Weights | None, protocol: str
) -> dict[str, Any]:
    """What tells the training of one job from that of another in the same workdir."""
    return {
        "protocol": protocol,
        "network": config.network,
        "checkpoint": config.checkpoint,
        "checkpoint_step": trained.step if trained else None,
        # The same path and step may by now hold another run.
        "weights": _checksum(trained) if trained else None,
        "dataset": config.dataset or (trained.config["dataset"] if trained else None),
        "benchmark": config.benchmark,
        "fit_split": config.fit_split,
    }


def _checksum(trained: weights.Weights) -> int:
    arrays = checkpoints.flatten(
        {
            name: tree
            for name, tree in trained._asdict().items()
            if name.endswith(("_params", "_state"))
        }
    )
    checksum = 0
    for name, leaf in sorted(arrays.items()):
        checksum = zlib.crc32(leaf.tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum


def training_record(identity: Mapping[str, Any], recipe: Recipe, num_images: int) -> dict[str, Any]:
    """All that decides what a training gives, as JSON has it: lists for tuples."""
    said = {**identity, **recipe._asdict(), "num_images": num_images}
    for name in ("threads", "prefetch"):  # change no bit
        del said[name]
    return json.loads(json.dumps(said))


def labelled_set(
    dataset: str, split: str, data_dir: str | None, benchmark: str | None = None
) -> images.ImageSet:
    """A split to learn labels from.

    Raises:
      UserError: it cannot be read, or has no labels.
    """
    image_set = sources.load(dataset, split, data_dir, benchmark)
    reader.check_readable(image_set)
    require(
        image_set.num_classes > 1,
        f"{dataset} has {image_set.num_classes} classes: a classifier needs two or more, as "
        "sub-folders or labels",
    )
    return image_set


def class_balanced_subset(image_set: images.ImageSet, fraction: float, seed: int) -> np.ndarray:
    """Positions of `fraction` of each class, int64, sorted: the balanced selection of App. D.1.

    Raises:
      UserError: that would leave a class without an example; several labels an image.
    """
    require(0 < fraction <= 1, f"fraction={fraction} must be above 0 and at most 1")
    if fraction == 1:
        return np.arange(image_set.size)
    labels = images.all_labels(image_set)
    require(
        labels.ndim == 1,
        f"{image_set.name} has several labels an image: no class-balanced fraction of it exists",
    )
    chosen = sources.class_balanced_cut(np.where(labels >= 0, labels, -1), fraction, seed)
    chosen = chosen[labels[chosen] >= 0]
    before, after = (
        np.bincount(found[found >= 0], minlength=image_set.num_classes)
        for found in (labels, labels[chosen])
    )
    lost = np.flatnonzero((before > 0) & (after == 0))
    if lost.size:
        # round(x) is 1 or more for x above 0.5: two digits more than that needs.
        fewest = int(before[before > 0].min())
        scale = 10 ** (1 + len(str(fewest)))
        enough = (int(0.5 / fewest * scale) + 1) / scale
        raise UserError(
            f"fraction={fraction:g} of {image_set.name} gives class {lost[0]} no example (it has "
            f"{before[lost[0]]}): fraction={enough:g} or more gives every class one"
        )
    return chosen


def encoder_of(
    trained_config: dict[str, Any], bn_decay: float | None = None, axis: str | None = None
) -> hk.TransformedWithState:
    """f as a checkpoint's config describes it.

    Args:
      trained_config: the config of the run.
      bn_decay: of the moving averages; None keeps the run's.
      axis: mapped axis that shares batch statistics.
    """
    spec = siamese.make_spec(trained_config["network"], 0, axis)
    if bn_decay is not None:
        spec = spec._replace(bn_decay=bn_decay)
    return siamese.encoder(spec)


def encoder_weights(params: features.Tree, state: features.Tree) -> Encoder:
    """Those of f among the parameters and BatchNorm averages of a whole network."""
    return siamese.encoder_params(params), siamese.encoder_params(state)


def feature_size(network: hk.TransformedWithState, encoder: Encoder, image_size: int) -> int:
    """C, the length of the representation."""
    shape = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    outputs, _ = jax.eval_shape(
        lambda encoder, views: network.apply(*encoder, None, views, False), encoder, shape
    )
    return int(outputs["embedding"].shape[-1])


def hyperparameters(recipe: Recipe) -> classification.Hyperparameters:
    """The traced numbers of a recipe."""
    return classification.Hyperparameters(
        learning_rates=jnp.asarray(recipe.learning_rates, jnp.float32),
        warmup_steps=recipe.warmup_steps,
        total_steps=recipe.total_steps,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        label_smoothing=recipe.label_smoothing,
        logit_clip=recipe.logit_clip,
        logit_penalty=recipe.logit_penalty,
        view=recipe.view,
        magnitude=recipe.magnitude,
    )


@functools.lru_cache(maxsize=4)
def _mapped_step(network: hk.TransformedWithState, augmentation: str) -> Any:
    """One compiled step for all cells of a grid: their numbers are traced."""
    step = functools.partial(
        classification.train_step,
        network=network,
        augmentation=augmentation,
        axis=distributed.AXIS,
    )
    return distributed.pmap(step, donate_argnums=(0,))


def _restore(
    directory: pathlib.Path, state: classification.State, record: dict[str, Any]
) -> classification.State:
    """The newest state in a folder, or the given one.

    Raises:
      UserError: the folder holds another training.
    """
    found = checkpoints.steps(directory)
    if not found:
        return state
    flat, theirs = checkpoints.read(directory, found[-1])
    different = [key for key in record if theirs.get(key) != record[key]]
    if different:
        key = different[0]
        raise UserError(
            f"{directory} holds a training with {key}={theirs.get(key)}, this one has "
            f"{key}={record[key]}: give another --workdir, or move that folder away"
        )
    return checkpoints.fill(state, flat, f"checkpoint {directory / str(found[-1])}")


def _checked(batches: Iterator[dict[str, np.ndarray]], classes: int) -> Iterator[Any]:
    for batch in batches:
        largest = batch["labels"].max(initial=-1)
        require(
            batch["labels"].ndim == 2 or largest < classes,
            f"a label is {largest}, outside of the {classes} classes 0 to {classes - 1}",
        )
        yield batch


def fit(
    network: hk.TransformedWithState,
    train_set: images.ImageSet,
    state: classification.State,
    frozen: Encoder,
    recipe: Recipe,
    *,
    description: str,
    directory: pathlib.Path | None = None,
    record: dict[str, Any] | None = None,
    checkpoint_every: int = 1000,
    log_every: int = 50,
) -> classification.State:
    """Trains to the end of the recipe's schedule.

    Args:
      network: `siamese.encoder`, its batch statistics shared over `distributed.AXIS`.
      train_set: labelled images.
      state: where to start.
      frozen: the encoder, if `state` has none.
      recipe: the numbers.
      description: of the progress line.
      directory: for `checkpoints/`, from which the training goes on by itself, and for
        `metrics.jsonl`.
      record: what distinguishes this training from others that must not be mixed with it.
      checkpoint_every, log_every: steps.

    Returns:
      The final state on the host.

    Raises:
      UserError: what the pipeline refuses; a folder that holds another training.
      Diverged: numbers that are not finite.
      Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    record = training_record(record or {}, recipe, train_set.size)
    host = jax.device_get(state)
    if directory is not None:
        host = _restore(directory / "checkpoints", host, record)
    start, end = int(host.step), recipe.total_steps
    if start == end:
        return host
    batches = pipeline.train_batches(
        train_set,
        seed=recipe.seed,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        num_views=1,
        start_step=start,
        num_steps=end,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        area_range=recipe.area_range,
        aspect_range=recipe.aspect_range,
        exif=recipe.exif,
        num_threads=recipe.threads,
        prefetch=recipe.prefetch,
    )
    classes = host.heads["w"].shape[-1]
    step = _mapped_step(network, recipe.augmentation)
    replicas = distributed.replicate(host)
    shared = distributed.replicate((np.int32(recipe.seed), hyperparameters(recipe), frozen))

    with contextlib.ExitStack() as stack:
        signal_number = stack.enter_context(interrupts.signals())
        stack.enter_context(contextlib.closing(batches))
        manager = writer = progress = None
        is_first = distributed.is_first_process()
        if directory is not None:
            manager = checkpoints.manager(directory / "checkpoints", 1)
            stack.callback(checkpoints.close, manager)
            if is_first:
                writer = stack.enter_context(contextlib.closing(metrics.Writer(directory, start)))
        if is_first:
            progress = metrics.Progress(end * recipe.batch_size, description)
            stack.enter_context(contextlib.closing(progress))

        done, late, stopping = start, None, False
        limit = distributed.limit_ahead()
        for batch in distributed.prefetch(_checked(batches, classes), 1, recipe.prefetch):
            replicas, logs = step(replicas, batch, *shared)
            limit(logs)
            done += 1
            # Logs are fetched one step late, while the next step is already running.
            if late:
                stopping = not _show(*late, recipe.batch_size, progress, writer)
            is_logged = done % log_every == 0 or done in (start + 1, end)
            late = (done, logs) if is_logged else None
            if jax.process_count() == 1 or is_logged:
                stopping = distributed.any_process(bool(signal_number()) or stopping)
            if stopping:
                break
            if manager and done % checkpoint_every == 0 and done < end:
                checkpoints.save(manager, done, distributed.to_host(replicas), record)
        if late:
            _show(*late, recipe.batch_size, progress, writer)
        host = distributed.to_host(replicas)
        if not host.finite:
            raise Diverged(
                f"{description}: a loss or an update of step {int(host.step) + 1} is not finite: "
                f"lower the learning rate {max(recipe.learning_rates):g}, or look at the images"
            )
        if manager:
            checkpoints.save(manager, int(host.step), host, record)
            checkpoints.finish(manager)
        if int(host.step) < end:
            number = signal_number() or signal.SIGTERM
            where = f"saved in {directory}" if manager else "nothing of it is saved"
            raise Stopped(
                number,
                f"stopped by {signal.Signals(number).name}: {where}; "
                "the same command goes on from there",
            )
    return host


def _show(
    done: int,
    logs: dict[str, Any],
    batch_size: int,
    progress: metrics.Progress | None,
    writer: metrics.Writer | None,
) -> bool:
    """Fetches and shows the logs of update number `done`; returns whether it was finite."""
    values = distributed.to_host(logs)
    if progress:
        best = int(np.argmin(values["loss"]))
        accuracy = f" top1 {values['top1'][best]:.1f}" if "top1" in values else ""
        progress.advance(
            done * batch_size, f"step {done} loss {values['loss'][best]:.3f}{accuracy}"
        )
    if writer:
        flat = {"learning_rate": float(values["learning_rate"])}
        for name in ("loss", "top1"):
            for i, value in enumerate(values.get(name, ())):
                flat[name if len(values[name]) == 1 else f"{name}_{i}"] = float(value)
        writer.write(done, "train", flat)
    return bool(values["finite"])


class Predictions(NamedTuple):
    """What R classifiers say of the labelled images of a split.

    `ranked` int `[N, R, k]`: the k most likely classes, best first; or, of several labels
    an image, `logits` `[N, R, K]`. `labels` as in the split.
    """

    ranked: np.ndarray | None
    logits: np.ndarray | None
    labels: np.ndarray


@functools.lru_cache(maxsize=8)
def _outputs(network: hk.TransformedWithState, several: bool) -> Any:
    """One function for all cells of a grid, so that it is compiled once."""

    def outputs(batch: jax.Array, encoder: Encoder, heads: classification.Heads) -> jax.Array:
        logits = classification.predict(batch, encoder, heads, network=network)
        return logits if several else jax.lax.top_k(logits, min(_TOP, logits.shape[-1]))[1]

    return outputs


def predict(
    network: hk.TransformedWithState,
    encoder: Encoder,
    heads: classification.Heads,
    split: common.Split,
    batch_size: int,
) -> Predictions:
    """One pass over the evaluation crops of a split, BatchNorm on its averages.

    Raises:
      UserError: no image has a label, or a label is no class of the classifiers.
    """
    labels: list[np.ndarray] = []

    def pixels() -> Iterator[np.ndarray]:
        for batch in split.batches():
            labels.append(batch["labels"])
            yield batch["images"]

    outputs = _outputs(network, split.multi_label)
    found = distributed.map_batches(outputs, pixels(), batch_size, (encoder, heads))
    known = np.concatenate(labels)
    chosen = known.reshape(len(known), -1).max(axis=1) >= 0
    require(chosen.any(), f"no image of the {split.name} split has a label")
    found, known = found[chosen], known[chosen]
    if split.multi_label:
        return Predictions(None, found, known)
    classes = heads["w"].shape[-1]
    require(
        known.max() < classes,
        f"the {split.name} split has the label {known.max()}, outside of the {classes} classes "
        "that were learnt",
    )
    return Predictions(found, None, known)


def score(predictions: Predictions, head: int, metric: str) -> dict[str, float]:
    """The data set's own metric, then what else is usual, in percent.

    Args:
      predictions: of `predict`.
      head: which of the R classifiers.
      metric: `top1`, `mean_per_class` or `map_11`.

    Raises:
      UserError: that metric does not go with these labels.
    """
    labels = predictions.labels
    check_metric(metric, predictions.logits is not None)
    if predictions.logits is not None:
        return {"map_11": scores.map_11(predictions.logits[:, head], labels)}
    assert predictions.ranked is not None
    ranked = predictions.ranked[:, head]
    found = {"top1": scores.top1(ranked[:, 0], labels)}
    if metric == "mean_per_class":
        found = {metric: scores.mean_per_class(ranked[:, 0], labels), **found}
    if ranked.shape[1] == _TOP:
        found["top5"] = scores.top_k(ranked, labels)
    return found
