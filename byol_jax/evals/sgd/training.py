"""Training of classifiers on labelled images: what linear evaluation and fine-tuning share."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import loop, weights
from byol_jax.data import background, images, pipeline
from byol_jax.data.views import Reading, Stream, View
from byol_jax.errors import require
from byol_jax.evals import features, trainings
from byol_jax.evals.sgd import classifiers
from byol_jax.evals.sgd.identity import training_record
from byol_jax.evals.sgd.recipes import Recipe
from byol_jax.evals.trainings import Place
from byol_jax.networks import siamese
from byol_jax.runtime import spmd

Encoder = classifiers.Encoder


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
def mapped_step(
    network: hk.TransformedWithState, augmentation: str, devices: Sequence[jax.Device] | None = None
) -> Any:
    """One compiled step for all cells of a grid: their numbers are traced.

    It maps a state, a batch, seed, hyperparameters and the frozen encoder, each with a leading
    device axis (`classifiers.train_step`); the state is donated.

    Args:
      network: f, its batch statistics shared over `spmd.AXIS`.
      augmentation: a key of `classifiers.AUGMENTATIONS`.
      devices: a tuple; by default the local ones.
    """
    step = functools.partial(
        classifiers.train_step,
        network=network,
        augmentation=augmentation,
        axis=spmd.AXIS,
    )
    return spmd.pmap(step, donate_argnums=(0,), devices=devices)


def record_of(place: Place, recipe: Recipe, train_set: images.ImageSet) -> dict[str, Any]:
    """What is saved beside the arrays of a training: all that decides its result."""
    record = training_record(place.identity, recipe, train_set.size)
    return {**record, "data": images.fingerprint(train_set)}


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
      UserError, Diverged, Stopped: see `trainings.run`; UserError for a label outside of the
        classes, too.
    """
    classes = state.heads["w"].shape[-1]

    def check(batch: Mapping[str, np.ndarray]) -> None:
        largest = batch["labels"].max(initial=-1)
        require(
            batch["labels"].ndim == 2 or largest < classes,
            f"a label is {largest}, outside of the {classes} classes 0 to {classes - 1}",
        )

    def begin(start: int) -> tuple[loop.Step[classifiers.State], background.Batches]:
        mapped = mapped_step(network, recipe.augmentation)
        shared = spmd.replicate((np.int32(recipe.seed), hyperparameters(recipe), frozen))
        batches = trainings.checked(_batches(train_set, recipe, start), check)
        return lambda state, batch: mapped(state, batch, *shared), batches

    training = trainings.Training(
        end=recipe.total_steps,
        batch_size=recipe.batch_size,
        record=record_of(place, recipe, train_set),
        begin=begin,
        line=_line,
        hint=f"lower the learning rate {max(recipe.learning_rates):g}, or look at its images",
        prefetch=recipe.prefetch,
        upgrade=weights.upgrade_classifiers,
    )
    return trainings.run(state, training, place)


def _line(logs: Mapping[str, np.ndarray]) -> tuple[str, dict[str, float]]:
    """The logs of the classifier with the lowest loss in words, and those of all."""
    best = int(np.argmin(np.nan_to_num(logs["loss"], nan=np.inf)))
    accuracy = f" top1 {logs['top1'][best]:.1f}" if "top1" in logs else ""
    values = {"learning_rate": float(logs["learning_rate"])}
    for name in ("loss", "top1"):
        for i, value in enumerate(logs.get(name, ())):
            values[name if len(logs[name]) == 1 else f"{name}_{i}"] = float(value)
    return f"loss {logs['loss'][best]:.3f}{accuracy}", values
