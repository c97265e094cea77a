"""Views with one known transformation, and their frozen features: SimCLR section 4.2, Table 3.

Views are drawn by the crop and T of the pre-training, except for one operation. Whether it is
applied, or how far it turns the view, is drawn separately and is the label. The operation keeps its
place in T, so the classes differ in it alone.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys, weights
from byol_jax.augment import byol, compose, simclr
from byol_jax.data import images, pipeline
from byol_jax.data.views import Reading, Stream, View
from byol_jax.runtime import spmd


class Task(NamedTuple):
    """A row of Table 3.

    Attributes:
      title: the classes in words.
      operation: the probability in `compose.AugmentParams` that the label replaces.
      classes: number of classes.
    """

    title: str
    operation: str
    classes: int


TASKS: Mapping[str, Task] = {
    "grayscale": Task("colour or grayscale", "grayscale", 2),
    "rotation": Task("rotation", "rotate", 4),
    "noise": Task("original or corrupted", "noise", 2),
    "sobel": Task("original or Sobel filtered", "sobel", 2),
}


def draw_labels(
    task: str,
    ids: jax.Array,
    epochs: jax.Array,
    seed: jax.Array | int,
    shares: jax.Array | Sequence[float],
) -> jax.Array:
    """The label of each view: a function of seed, example and epoch, on any device.

    Args:
      task: one of `TASKS`.
      ids, epochs: int32 `[B]`.
      seed: seed of the job.
      shares: probabilities of the classes `[K]`.

    Returns:
      int32 `[B]`: quarters of a turn for `rotation`, else 1 where the operation is applied.
    """
    key = keys.named_key(seed, f"transformation/{task}")
    drawn = jax.vmap(compose.example_key, (None, 0, 0, None))(key, ids, epochs, 1)
    uniforms = jax.vmap(jax.random.uniform)(drawn)
    bounds = jnp.cumsum(jnp.asarray(shares))[:-1]
    return jnp.sum(uniforms[:, None] >= bounds, axis=1, dtype=jnp.int32)


def make_view(
    task: str, image: jax.Array, key: jax.Array, label: jax.Array, params: compose.AugmentParams
) -> jax.Array:
    """`compose.make_view` with the task's operation applied according to the label.

    Args:
      task: one of `TASKS`.
      image: `[S, S, 3]` in [0, 1].
      key: a PRNG key of this view alone.
      label: as in `draw_labels`.
      params: T; its probability of the operation is not read.

    Returns:
      The view `[S, S, 3]` in [0, 1], not yet normalised.
    """
    operation = TASKS[task].operation
    if task != "rotation":
        return compose.make_view(image, key, params._replace(**{operation: label}))
    # T draws its turns itself, so it is made in two parts here. Draws are keyed on the names of the
    # operations: both parts together draw what the whole T draws.
    moves = compose.AugmentParams(
        crop=params.crop, flip=params.flip, color_jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0
    )
    turned = simclr.rotate_quarters(compose.make_view(image, key, moves), label)
    return compose.make_view(turned, key, params._replace(crop=None, flip=0.0, rotate=None))


def make_views(
    task: str,
    crops: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    epochs: jax.Array,
    seed: jax.Array | int,
    params: compose.AugmentParams,
) -> jax.Array:
    """`make_view` of a batch: uint8 `[B, S, S, 3]` -> normalised float32 `[B, S, S, 3]`."""
    drawn = jax.vmap(compose.example_key, (None, 0, 0, None))(
        keys.named_key(seed, "augment"), ids, epochs, 1
    )
    make = jax.vmap(functools.partial(make_view, task, params=params))
    return byol.normalize(make(byol.to_float(crops), drawn, labels))


class Views(NamedTuple):
    """Frozen features of views.

    Attributes:
      values: features `[N, D]` by the name of the output.
      labels: int32 `[N]`.
    """

    values: dict[str, np.ndarray]
    labels: np.ndarray


@functools.lru_cache(maxsize=16)
def _forward(
    network: hk.TransformedWithState, task: str, outputs: tuple[str, ...]
) -> Callable[..., Any]:
    """One function for all passes of a task, so that it is compiled once."""

    def forward(
        batch: dict[str, jax.Array],
        seed: jax.Array,
        shares: jax.Array,
        view: compose.AugmentParams,
        params: weights.Tree,
        state: weights.Tree,
    ) -> dict[str, jax.Array]:
        ids, epochs = batch["ids"], batch["epochs"]
        labels = draw_labels(task, ids, epochs, seed, shares)
        views = make_views(task, batch["view1"], labels, ids, epochs, seed, view)
        named, _ = network.apply(params, state, None, views, False)
        return {**{name: named[name] for name in outputs}, "label": labels}

    return spmd.pmap(forward, devices=jax.local_devices())


class Frozen(NamedTuple):
    """A network that is evaluated: its function, its parameters and its BatchNorm averages."""

    network: hk.TransformedWithState
    params: weights.Tree
    state: weights.Tree


class Source(NamedTuple):
    """Images, and how the pre-training crops and augments them.

    Attributes:
      image_set: images of a split.
      image_size: side of the crops in pixels.
      cropping: T, and the random crops before it.
    """

    image_set: images.ImageSet
    image_size: int
    cropping: weights.Cropping


class Drawing(NamedTuple):
    """How views get their labels.

    Attributes:
      task: one of `TASKS`.
      seed: seed of crops, labels and augmentations.
      shares: probabilities of the classes.
    """

    task: str
    seed: int
    shares: Sequence[float]


def extract(
    frozen: Frozen,
    source: Source,
    drawing: Drawing,
    epochs: range,
    outputs: Sequence[str],
    batch_size: int,
) -> Views:
    """Features of a view of every image in each epoch, BatchNorm on its averages.

    Args:
      frozen: `siamese(spec)` or the encoder alone, with its weights.
      source: the images, and T.
      drawing: how views get their labels.
      epochs: each draws all images anew.
      outputs: names among the outputs of the network.
      batch_size: views per call over all local devices, at most one per image.

    Raises:
      UserError: there are fewer images than devices, or too many that cannot be read.
    """
    size, devices = source.image_set.size, len(jax.local_devices())
    batch_size = max(min(batch_size, size) // devices, 1) * devices
    # Batches do not end where epochs do: views before and after the epochs are dropped again.
    first, count = epochs.start * size // batch_size, len(epochs) * size
    stop, cropping = -(-epochs.stop * size // batch_size), source.cropping
    batches = pipeline.train_batches(
        source.image_set,
        Stream(drawing.seed, size, batch_size, start=first, stop=stop),
        (View(source.image_size, cropping.area_range, cropping.aspect_range),),
        Reading(exif=cropping.exif),
    )
    forward = _forward(frozen.network, drawing.task, tuple(outputs))
    numbers = jax.tree.map(np.float32, (np.asarray(drawing.shares), source.cropping.view))
    shared = spmd.replicate((np.int32(drawing.seed), *numbers, frozen.params, frozen.state))
    parts = []
    with contextlib.closing(batches):
        for batch in spmd.prefetch(batches, 1):
            out = forward(batch, *shared)
            parts.append(jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), out))
    start = epochs.start * size - first * batch_size
    values = {
        name: np.concatenate([rows[name] for rows in parts])[start : start + count]
        for name in (*outputs, "label")
    }
    labels = values.pop("label")
    return Views(values, labels)


def shares_of(task: str, probabilities: Mapping[str, float]) -> tuple[float, ...]:
    """Probabilities of a task's classes; the largest one is the accuracy by chance."""
    if task == "rotation":
        return (0.25,) * 4
    return (1 - probabilities[task], probabilities[task])
