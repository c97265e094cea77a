"""The step of a training as a pre-flight compiles and describes it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any
Devices = tuple[jax.Device, ...]


class Step(NamedTuple):
    """A training at one batch size.

    Attributes:
      recipe: the recipe in words.
      data: the images in words.
      batch_size: images per step, over all devices and micro-batches.
      accumulate: micro-batches per step.
      image_bytes: bytes per image in a batch on a device.
      views: views per image in a batch.
      prefetch: batches that wait on the devices.
      num_steps: steps of the training; None if that is unknown.
      lower: from the devices of a pod to the mapped update, traced and not yet compiled.
      can_split: whether `config.accumulate` splits the batch.
    """

    recipe: str
    data: str
    batch_size: int
    accumulate: int
    image_bytes: int
    views: int
    prefetch: int
    num_steps: int | None
    lower: Callable[[Devices], Any]
    can_split: bool = True


# From a batch size to the step; all that does not depend on it is known.
StepOf = Callable[[int], Step]


class Kind(NamedTuple):
    """How the steps of one kind of job are made.

    Attributes:
      check: from config and number of devices: refuses what the pod cannot run; raises UserError.
      step_of: from config and number of devices to the step by batch size.
    """

    check: Callable[[Any, int], None]
    step_of: Callable[[Any, int], StepOf]


def on_all(tree: PyTree, devices: int) -> PyTree:
    """Shapes and types of a replicated tree: a leading axis of devices for each leaf."""

    def leaf_of(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        return jax.ShapeDtypeStruct(
            (devices, *leaf.shape), jax.dtypes.canonicalize_dtype(leaf.dtype)
        )

    return jax.tree.map(leaf_of, tree)


def rows_of(batch_size: int, accumulate: int, devices: int) -> tuple[int, ...]:
    """The leading axes of a batch: devices, micro-batches if there are several, images."""
    size = batch_size // (accumulate * devices)
    return (devices, size) if accumulate == 1 else (devices, accumulate, size)
