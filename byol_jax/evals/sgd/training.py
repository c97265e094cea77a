"""Training of classifiers on labelled images: what linear evaluation and fine-tuning share."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import loop, weights
from byol_jax.data import background, images, pipeline
from byol_jax.data.views import Reading, Stream, View
from byol_jax.errors import require
from byol_jax.evals import features
from byol_jax.evals.sgd import classifiers
from byol_jax.evals.sgd.identity import training_record
from byol_jax.evals.sgd.recipes import Recipe
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints, metrics, newest, processes, spmd

Encoder = classifiers.Encoder

# Checkpoints of a training: the newest, and one to go back to where that is damaged.
_KEPT = 2


class Place(NamedTuple):
    """Where a training is kept, and what it is called.

    Attributes:
      directory: folder for `checkpoints/`, from which the training goes on by itself, and for
        `metrics.jsonl`.
      identity: values that tell this training from others in the same folder.
      description: text in front of the progress line.
      log_every: steps from one line of `metrics.jsonl` to the next.
      checkpoint_every: steps from one checkpoint to the next.
      skip_damaged: whether a damaged checkpoint is passed over for an earlier one.
    """

    directory: pathlib.Path
    identity: Mapping[str, Any]
    description: str
    log_every: int = 50
    checkpoint_every: int = 1000
    skip_damaged: bool = False


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
    """The weights of f among the parameters and BatchNorm averages of a whole network."""
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
    directory: pathlib.Path, state: classifiers.State, record: dict[str, Any], skip_damaged: bool
) -> classifiers.State:
    """The newest state in a folder, or the given one, on the host.

    Raises:
      UserError: the folder holds another training.
    """
    step = newest.to_continue(directory, skip_damaged)
    if not step:
        return state
    flat, saved = checkpoints.read(directory, step)
    _require_same(directory, saved, record)
    flat = weights.upgrade_classifiers(flat)
    return checkpoints.fill(state, flat, f"checkpoint {directory / str(step)}")


def _require_same(
    directory: pathlib.Path, saved: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    # A setting says more than the images that it leads to.
    for key in record:
        require(
            key == "data" or saved.get(key) == record[key],
            f"{directory} holds a training with {key}={saved.get(key)}, this one has "
            f"{key}={record[key]}: give another --workdir, or move that folder away",
        )
    # Records of earlier versions do not say which images they are of.
    other = images.difference(saved["data"], record["data"]) if "data" in saved else ""
    require(
        not other,
        f"{directory} holds a training on other images, these are {other}: give another "
        "--workdir, or move that folder away",
    )


def record_of(place: Place, recipe: Recipe, train_set: images.ImageSet) -> dict[str, Any]:
    """What is saved beside the arrays of a training: all that decides its result."""
    record = training_record(place.identity, recipe, train_set.size)
    return {**record, "data": images.fingerprint(train_set)}


def check_place(place: Place, recipe: Recipe, train_set: images.ImageSet) -> None:
    """Refuses a folder that holds another training than that of a recipe; reads no array.

    Raises:
      UserError: names the first value that differs.
    """
    directory = place.directory / "checkpoints"
    step = newest.to_continue(directory, place.skip_damaged)
    if step:
        saved = checkpoints.read_record(directory, step)
        _require_same(directory, saved, record_of(place, recipe, train_set))


def _batches(train_set: images.ImageSet, recipe: Recipe, start: int) -> background.Batches:
    """This process's batches from step `start` to the end of the schedule."""
    stream = Stream(
        recipe.seed,
        train_set.size,
        recipe.batch_size,
        start=start,
        stop=recipe.total_steps,
        process=(jax.process_index(), jax.process_count()),
    )
    view = View(recipe.image_size, recipe.area_range, recipe.aspect_range)
    reading = Reading(exif=recipe.exif, threads=recipe.threads, prefetch=recipe.prefetch)
    return pipeline.train_batches(train_set, stream, (view,), reading)


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
    place: Place,
) -> classifiers.State:
    """Trains to the end of the recipe's schedule, from the newest checkpoint if there is one.

    Args:
      network: `siamese.encoder`, its batch statistics shared over `spmd.AXIS`.
      train_set: labelled images.
      state: the state before the first step.
      frozen: the encoder if `state` has none, else empty trees.
      recipe: the numbers.
      place: where the training is kept.

    Returns:
      The final state on the host.

    Raises:
      UserError: what the pipeline refuses; a folder that holds another training.
      Diverged: numbers that are not finite, with the last good state saved.
      Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    record = record_of(place, recipe, train_set)
    directory = place.directory / "checkpoints"
    # On the host from here on: the devices hold the replicas alone.
    state = _restore(directory, jax.device_get(state), record, place.skip_damaged)
    start, end = int(state.step), recipe.total_steps
    processes.require_same(
        {f"the newest checkpoint in {place.directory}": start}
        | {f"{name} of the training images": value for name, value in record["data"].items()}
    )
    if start == end:
        return state
    batches = _batches(train_set, recipe, start)
    mapped = _mapped_step(network, recipe.augmentation)
    shared = spmd.replicate((np.int32(recipe.seed), hyperparameters(recipe), frozen))
    hint = f"lower the learning rate {max(recipe.learning_rates):g}, or look at its images"
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(batches))
        saver = checkpoints.saver(directory, _KEPT, start)
        stack.callback(checkpoints.close, saver)
        show = None
        if processes.is_first_process():
            writer = stack.enter_context(contextlib.closing(metrics.Writer(place.directory, start)))
            progress = metrics.Progress(end * recipe.batch_size, place.description)
            stack.enter_context(contextlib.closing(progress))
            show = _display(writer, progress, recipe.batch_size)
        replicas = loop.run(
            lambda state, batch: mapped(state, batch, *shared),
            spmd.replicate(state),
            spmd.prefetch(_checked(batches, state.heads["w"].shape[-1]), 1, recipe.prefetch),
            loop.Span(start, end, place.log_every, place.checkpoint_every),
            saving=loop.Saving(saver, record, str(directory), lambda *_: hint),
            show=show,
        )
        return spmd.to_host(replicas)


def _display(
    writer: metrics.Writer, progress: metrics.Progress, batch_size: int
) -> Callable[[int, Mapping[str, np.ndarray]], None]:
    """Writes the logs of a step, and shows those of the classifier with the lowest loss."""

    def show(done: int, logs: Mapping[str, np.ndarray]) -> None:
        best = int(np.argmin(np.nan_to_num(logs["loss"], nan=np.inf)))
        accuracy = f" top1 {logs['top1'][best]:.1f}" if "top1" in logs else ""
        progress.advance(done * batch_size, f"step {done} loss {logs['loss'][best]:.3f}{accuracy}")
        values = {"learning_rate": float(logs["learning_rate"])}
        for name in ("loss", "top1"):
            for i, value in enumerate(logs.get(name, ())):
                values[name if len(logs[name]) == 1 else f"{name}_{i}"] = float(value)
        writer.write(done, "train", values)

    return show
