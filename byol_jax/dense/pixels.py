"""Sums over the pixels that count, and their mean over all devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from byol_jax.runtime import spmd


class PixelSum(NamedTuple):
    """A loss summed over the pixels of this device that count.

    Images differ in how many pixels count. A mean per device or per image would weigh pixels
    differently, so numerator and denominator stay apart until all pixels are known.

    Attributes:
      total: sum of the loss, scalar.
      number: number of those pixels, scalar of the same type.
    """

    total: jax.Array
    number: jax.Array


def mean(pixels: PixelSum, axis: str | None) -> jax.Array:
    """A scalar whose mean over devices is the mean over the pixels of all devices.

    So the mean of the devices' gradients is the gradient of that mean. It is 0 if no pixel counts.

    Args:
      pixels: the sum of this device.
      axis: mapped axis.
    """
    number = spmd.pmean(pixels.number, axis)
    # One pixel on one device of many has a mean number below 1.
    return jnp.where(number > 0, pixels.total / jnp.where(number > 0, number, 1), 0)
