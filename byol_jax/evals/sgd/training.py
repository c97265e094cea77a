"""Training of classifiers on labelled images, and their scores: what linear and finetune share."""

import contextlib
import functools
import json
import pathlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.augment import compose
from byol_jax.data import images, pipeline
from byol_jax.data.views import Reading, Stream, View
from byol_jax.errors import Diverged, Stopped, UserError, require
from byol_jax.evals import features
from byol_jax.evals.sgd import classifiers
from byol_jax.evals.splits import Split
from byol_jax.networks import siamese
from byol_jax.results import scores
from byol_jax.runtime import checkpoints, interrupts, metrics, processes, spmd

Encoder = classifiers.Encoder
# What a record calls this way of fitting.
SOLVER = "sgd"
# Rows of logits that a metric looks at.
_TOP = 5


class Recipe(NamedTuple):
    """How classifiers are trained.

    Attributes:
      seed: of the order, crops and augmentations of the images.
      image_size: side of the crops in pixels.
      batch_size: over all devices and processes.
      total_steps, warmup_steps: of the schedule.
      learning_rates: peak rate of each classifier.
      momentum, weight_decay, label_smoothing, logit_clip, logit_penalty: as in
        `classifiers.Hyperparameters`.
      augmentation: a key of `classifiers.AUGMENTATIONS`.
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
    view: compose.AugmentParams = compose.AugmentParams()
    magnitude: float = 0.0
    exif: bool = False
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)
    threads: int = 0
    prefetch: int = 2


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What a record says of a recipe."""
    unused = {"threads", "prefetch", "exif", "learning_rates"}
    unused |= {"view"} if recipe.augmentation != "pretrain" else set()
    unused |= {"magnitude"} if recipe.augmentation != "randaugment" else set()
    said: dict[str, Any] = {k: v for k, v in recipe._asdict().items() if k not in unused}
    if "view" in said:
        said["view"] = _named_numbers(recipe.view)
    else:
        said["flip"] = float(recipe.view.flip)
    return {"solver": SOLVER, "nesterov": True, "schedule": "cosine to 0", **said}


def _named_numbers(view: compose.AugmentParams) -> dict[str, float]:
    return {name: float(value) for name, value in view._asdict().items() if value is not None}


def training_record(identity: Mapping[str, Any], recipe: Recipe, num_images: int) -> dict[str, Any]:
    """All that decides what a training gives, as JSON has it: lists for tuples."""
    said = {**identity, **recipe._asdict(), "num_images": num_images}
    for name in ("threads", "prefetch"):  # change no bit
        del said[name]
    # A list, as trainings that were begun without the extras have it.
    view = _named_numbers(recipe.view)
    extras = {name: view.pop(name) for name in compose.EXTRAS if name in view}
    said["view"] = [*view.values()]
    if extras:
        said["extras"] = extras
    return json.loads(json.dumps(said))


def encoder_of(
    spec: siamese.NetworkSpec, bn_decay: float | None = None, axis: str | None = None
) -> hk.TransformedWithState:
    """f of a network.

    Args:
      spec: spec of the whole network.
      bn_decay: decay of the BatchNorm averages; None keeps that of `spec`.
      axis: mapped axis that shares batch statistics.
    """
    decay = spec.bn_decay if bn_decay is None else bn_decay
    return siamese.encoder(spec._replace(num_classes=0, bn_decay=decay, bn_axis=axis))


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


def hyperparameters(recipe: Recipe) -> classifiers.Hyperparameters:
    """The traced numbers of a recipe."""
    return classifiers.Hyperparameters(
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
        classifiers.train_step,
        network=network,
        augmentation=augmentation,
        axis=spmd.AXIS,
    )
    return spmd.pmap(step, donate_argnums=(0,))


def _restore(
    directory: pathlib.Path, state: classifiers.State, record: dict[str, Any]
) -> classifiers.State:
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
    state: classifiers.State,
    frozen: Encoder,
    recipe: Recipe,
    *,
    description: str,
    directory: pathlib.Path,
    record: Mapping[str, Any],
    checkpoint_every: int = 1000,
    log_every: int = 50,
) -> classifiers.State:
    """Trains to the end of the recipe's schedule.

    Args:
      network: `siamese.encoder`, its batch statistics shared over `spmd.AXIS`.
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
    record = training_record(record, recipe, train_set.size)
    host = _restore(directory / "checkpoints", jax.device_get(state), record)
    start, end = int(host.step), recipe.total_steps
    processes.require_same(
        {f"the newest checkpoint in {directory}": start, "training images": train_set.size}
    )
    if start == end:
        return host
    batches = pipeline.train_batches(
        train_set,
        Stream(
            recipe.seed,
            train_set.size,
            recipe.batch_size,
            start=start,
            stop=end,
            process=(jax.process_index(), jax.process_count()),
        ),
        [View(recipe.image_size, recipe.area_range, recipe.aspect_range)],
        Reading(exif=recipe.exif, threads=recipe.threads, prefetch=recipe.prefetch),
    )
    classes = host.heads["w"].shape[-1]
    step = _mapped_step(network, recipe.augmentation)
    replicas = spmd.replicate(host)
    shared = spmd.replicate((np.int32(recipe.seed), hyperparameters(recipe), frozen))

    with contextlib.ExitStack() as stack:
        signal_number = stack.enter_context(interrupts.signals())
        stack.enter_context(contextlib.closing(batches))
        manager = checkpoints.saver(directory / "checkpoints", 1)
        stack.callback(checkpoints.close, manager)
        writer = progress = None
        if processes.is_first_process():
            writer = stack.enter_context(contextlib.closing(metrics.Writer(directory, start)))
            progress = metrics.Progress(end * recipe.batch_size, description)
            stack.enter_context(contextlib.closing(progress))

        done, late, stopping = start, None, False
        limit = spmd.limit_ahead()
        for batch in spmd.prefetch(_checked(batches, classes), 1, recipe.prefetch):
            replicas, logs = step(replicas, batch, *shared)
            limit(logs)
            done += 1
            # Logs are fetched one step late, while the next step is already running.
            if late:
                stopping = not _show(*late, recipe.batch_size, progress, writer)
            is_logged = done % log_every == 0 or done in (start + 1, end)
            late = (done, logs) if is_logged else None
            if jax.process_count() == 1 or is_logged:
                stopping = processes.any_process(bool(signal_number()) or stopping)
            if stopping:
                break
            if done % checkpoint_every == 0 and done < end:
                host = spmd.to_host(replicas)
                if not host.finite:
                    break
                checkpoints.save(manager, done, host, record)
        if late:
            _show(*late, recipe.batch_size, progress, writer)
        host = spmd.to_host(replicas)
        if not host.finite:
            raise Diverged(
                f"{description}: a loss or an update of step {int(host.step) + 1} is not finite: "
                f"lower the learning rate {max(recipe.learning_rates):g}, or look at the images"
            )
        checkpoints.save(manager, int(host.step), host, record)
        checkpoints.finish(manager)
        processes.wait_for_all()
        if int(host.step) < end:
            number = signal_number() or signal.SIGTERM
            raise Stopped(
                number,
                f"stopped by {signal.Signals(number).name}: saved in {directory}; "
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
    values = spmd.to_host(logs)
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

    def outputs(batch: jax.Array, encoder: Encoder, heads: classifiers.Heads) -> jax.Array:
        logits = classifiers.predict(batch, encoder, heads, network=network)
        return logits if several else jax.lax.top_k(logits, min(_TOP, logits.shape[-1]))[1]

    return outputs


def predict(
    network: hk.TransformedWithState,
    encoder: Encoder,
    heads: classifiers.Heads,
    split: Split,
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
    found = spmd.map_batches(outputs, pixels(), batch_size, (encoder, heads))
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


def check_metric(metric: str, several: bool) -> None:
    """Refuses a metric that does not go with the labels: `several` an image, or one.

    Raises:
      UserError: naming those that do.
    """
    right = ("map_11",) if several else ("top1", "mean_per_class")
    what = "several labels an image" if several else "one label an image"
    require(metric in right, f"metric={metric!r} must be {' or '.join(right)} for {what}")


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
