"""Crops and bicubic resizing in TensorFlow, on the host's CPU (BYOL App. C)."""

import contextlib
import functools
import os
from typing import Any, Protocol

import numpy as np

from byol_jax.errors import require

EVALUATION_MODES = ("paper", "full")


class HasImages(Protocol):
    """What `evaluation_images` needs of a set of images."""

    @property
    def images(self) -> np.ndarray:
        """uint8 `[N, H, W, 3]`."""


@functools.cache
def import_tensorflow() -> Any:
    """Imports TensorFlow, quietly and without its accelerators, which belong to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # oneDNN's results depend on the machine, and its banner ignores the log level.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # A program that has already started TensorFlow is too late to hide them.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


def random_crop_resize(image: Any, box: Any, size: int) -> Any:
    """Cuts the box (y, x, h, w) out of an image and resizes it (BYOL App. C).

    Bicubic with half-pixel centres and no antialiasing; pixels outside the box play no part.
    uint8 `[H, W, 3]`, int32 `[4]` -> uint8 `[size, size, 3]`.
    """
    tf = import_tensorflow()
    y, x, h, w = tf.unstack(box)
    patch = image[y : y + h, x : x + w]
    resized = tf.image.resize(patch, [size, size], method="bicubic", antialias=False)
    return tf.ensure_shape(_to_uint8(tf, resized), [size, size, 3])


def center_crop(image: Any, size: int, mode: str) -> Any:
    """Resizes the short side and keeps the central square, for evaluation.

    The short side becomes round(256 / 224 * size) in mode `paper` (BYOL App. C), and `size`
    in mode `full`, which is what sets of small images use (SimCLR App. B.9, BYOL App. E.2); an
    image of size x size then stays as it is. uint8 `[H, W, 3]` or `[N, H, W, 3]`.

    Raises:
      UserError: unknown mode.
    """
    require(mode in EVALUATION_MODES, f"unknown evaluation crop {mode!r}; use 'paper' or 'full'")
    tf = import_tensorflow()
    short = round(size * 256 / 224) if mode == "paper" else size
    sides = tf.cast(tf.shape(image)[-3:-1], tf.float64)
    sides = tf.cast(tf.round(sides * short / tf.reduce_min(sides)), tf.int32)
    resized = tf.image.resize(image, sides, method="bicubic", antialias=False)
    y, x = tf.unstack((sides - size) // 2)
    return _to_uint8(tf, resized[..., y : y + size, x : x + size, :])


def evaluation_images(image_set: HasImages, size: int, mode: str, chunk: int = 256) -> np.ndarray:
    """Applies `center_crop` to a whole set: uint8 `[N, size, size, 3]`.

    Images that need no resizing come back as they are, without TensorFlow. `chunk` images at a
    time pass through float32.

    Raises:
      UserError: unknown mode.
    """
    images = image_set.images
    if mode == "full" and images.shape[1:3] == (size, size):
        return images
    chunks = [images[start : start + chunk] for start in range(0, len(images), chunk)]
    return np.concatenate([center_crop(images, size, mode).numpy() for images in chunks])


def _to_uint8(tf: Any, values: Any) -> Any:
    # Bicubic interpolation overshoots at edges: a cast alone would wrap around.
    return tf.cast(tf.round(tf.clip_by_value(values, 0, 255)), tf.uint8)
