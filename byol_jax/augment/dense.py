"""Colours of the images of depth (BYOL App. E.6), on the device; targets are not touched."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from byol_jax import keys
from byol_jax.augment.byol import (
    Scalar,
    adjust_brightness,
    adjust_hue,
    adjust_saturation,
    to_grayscale,
)
from byol_jax.augment.compose import map_examples


class DepthColours(NamedTuple):
    """The colour transformations of BYOL App. E.6; all may be traced.

    Attributes:
      grayscale: probability.
      brightness_max: largest offset of the brightness.
      saturation_max: largest distance of the saturation's factor from 1: the interval [0.5, 1.5].
      hue_max: largest rotation of the hue, in turns: the interval [-0.2, 0.2].
    """

    grayscale: Scalar = 0.3
    brightness_max: Scalar = 0.1255
    saturation_max: Scalar = 0.5
    hue_max: Scalar = 0.2


def recolour(image: jax.Array, key: jax.Array, params: DepthColours) -> jax.Array:
    """Draws the colour transformations and applies them, in the order of BYOL App. E.6.

    Args:
      image: `[H, W, 3]` in [0, 1].
      key: PRNG key of this example.
      params: probability and strengths.

    Returns:
      The image `[H, W, 3]`, clipped to [0, 1] after each transformation as in App. C.
    """

    def uniform(name: str, low: Scalar, high: Scalar) -> jax.Array:
        return jax.random.uniform(keys.named(key, name), dtype=image.dtype, minval=low, maxval=high)

    is_grey = jax.random.uniform(keys.named(key, "grayscale")) < params.grayscale
    image = jnp.where(is_grey, to_grayscale(image), image)
    offset = uniform("brightness", -params.brightness_max, params.brightness_max)
    image = jnp.clip(adjust_brightness(image, offset), 0, 1)
    factor = uniform("saturation", 1 - params.saturation_max, 1 + params.saturation_max)
    image = jnp.clip(adjust_saturation(image, factor), 0, 1)
    turns = uniform("hue", -params.hue_max, params.hue_max)
    return jnp.clip(adjust_hue(image, turns), 0, 1)


def depth_inputs(
    images: jax.Array,
    ids: jax.Array,
    epochs: jax.Array,
    seed_key: jax.Array,
    params: DepthColours = DepthColours(),
) -> jax.Array:
    """`recolour` on a batch, each image with its own key, and normalised.

    Args:
      images: uint8 `[B, H, W, 3]`.
      ids: example ids, int32 `[B]`.
      epochs: epoch of each example, int32 `[B]`.
      seed_key: the run's key for augmentation.
      params: probability and strengths.

    Returns:
      Normalised float32 `[B, H, W, 3]`.
    """
    return map_examples(
        lambda image, key: recolour(image, key, params), images, ids, epochs, seed_key, view=1
    )
