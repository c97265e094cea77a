"""Depth: the reverse Huber loss, and the measures of Table 4b (BYOL App. E.6)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.dense import bilinear
from byol_jax.dense.pixels import PixelSum
from byol_jax.objectives.normalize import at_least_float32
from byol_jax.runtime import spmd

# c is this share of the largest error of a batch (Laina et al. 2016).
_THRESHOLD_SHARE = 0.2


def _errors(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """prediction - target `[B, H, W]`, and 0 where there is no depth."""
    chex.assert_rank([prediction, target, valid], 3)
    chex.assert_equal_shape([prediction, target, valid])
    return jnp.where(valid, at_least_float32(prediction) - at_least_float32(target), 0)


def berhu_threshold(
    prediction: jax.Array, target: jax.Array, valid: jax.Array, axis: str | None
) -> jax.Array:
    """c = max |e| / 5 over the valid pixels of the batch of all devices (Laina et al. 2016).

    Args:
      prediction, target: depths `[B, H, W]` of this device, in metres.
      valid: where the target has a depth, bool `[B, H, W]`.
      axis: mapped axis.

    Returns:
      c in metres, without a gradient; 0 without a valid pixel.
    """
    errors = jax.lax.stop_gradient(_errors(prediction, target, valid))
    return _THRESHOLD_SHARE * spmd.pmax(jnp.max(jnp.abs(errors)), axis)


def berhu(
    prediction: jax.Array, target: jax.Array, valid: jax.Array, threshold: jax.Array
) -> PixelSum:
    """The reverse Huber loss B(e) summed over valid pixels (Laina et al. 2016).

    B(e) = |e| if |e| <= c, else (e^2 + c^2) / 2c. Value and slope are continuous at c.

    Args:
      prediction, target: depths `[B, H, W]` in metres. The target may be anything, nan too, where
        it is not valid.
      valid: where the target has a depth, bool `[B, H, W]`.
      threshold: c in metres, at least 0.

    Returns:
      The sum in metres, and the number of pixels, in float32 or wider.
    """
    errors = _errors(prediction, target, valid)
    # Without an error c is 0, too, and the branch that is not taken must not be 0 / 0.
    c = jnp.maximum(threshold, jnp.finfo(errors.dtype).tiny)
    # JAX gives |e| the slope 1 at 0; a pixel without an error is not to be moved.
    size = errors * jnp.sign(errors)
    losses = jnp.where(size <= c, size, (jnp.square(errors) + jnp.square(c)) / (2 * c))
    return PixelSum(jnp.sum(losses), jnp.sum(valid, dtype=errors.dtype))


# Ratios of depths and their logarithms take predictions as at least this deep, in metres: a ReLU
# gives exact zeros, whose logarithm is not finite.
_SHALLOWEST = 1e-3
# Limits of the ratio of two depths (BYOL Table 4b).
_RATIOS = (1.25, 1.25**2, 1.25**3)


class DepthSums(NamedTuple):
    """Sums over valid pixels, from which the measures are made; those of several images add up.

    Attributes:
      pixels: number of valid pixels.
      within: number of pixels whose ratio max(d/d', d'/d) is below 1.25, 1.25^2, 1.25^3, `[3]`.
      squared: sum of (d - d')^2, in square metres.
      relative: sum of |d - d'| / d, d the true depth.
      log10: sum of |log10 d - log10 d'|.
    """

    pixels: float
    within: np.ndarray
    squared: float
    relative: float
    log10: float


def depth_sums(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> DepthSums:
    """The sums of one or more images, in float64 (BYOL section 4).

    Args:
      prediction, target: depths in metres, of one shape. Valid targets are above 0.
      valid: where the target has a depth, bool of that shape.

    Raises:
      ValueError: shapes differ, or a valid target is not above 0.
    """
    if not prediction.shape == target.shape == valid.shape:
        raise ValueError(
            f"the prediction is {prediction.shape}, the target {target.shape}, its mask "
            f"{valid.shape}"
        )
    predicted, true = prediction[valid].astype(np.float64), target[valid].astype(np.float64)
    if not np.all(true > 0):
        raise ValueError("a valid depth is not above 0: the mask has to leave it out")
    floored = np.maximum(predicted, _SHALLOWEST)
    ratio = np.maximum(floored / true, true / floored)
    return DepthSums(
        pixels=float(true.size),
        within=np.array([np.sum(ratio < limit) for limit in _RATIOS], np.float64),
        squared=float(np.sum(np.square(predicted - true))),
        relative=float(np.sum(np.abs(predicted - true) / true)),
        log10=float(np.sum(np.abs(np.log10(floored) - np.log10(true)))),
    )


def add(first: DepthSums, second: DepthSums) -> DepthSums:
    """The sums of the pixels of both."""
    return DepthSums(
        pixels=first.pixels + second.pixels,
        within=first.within + second.within,
        squared=first.squared + second.squared,
        relative=first.relative + second.relative,
        log10=first.log10 + second.log10,
    )


class DepthScores(NamedTuple):
    """Measures of BYOL Table 4b, pooled over the pixels of all images; nan without a pixel.

    Attributes:
      within: pct.<1.25^n for n = 1, 2, 3, in percent; higher is better.
      rms: root mean squared error in metres; lower is better, as for the others.
      rel: mean of |d - d'| / d, d the true depth; a fraction.
      log10: mean of |log10 d - log10 d'|.
    """

    within: tuple[float, float, float]
    rms: float
    rel: float
    log10: float


def depth_scores(sums: DepthSums) -> DepthScores:
    """The measures of the pixels of some sums (BYOL section 4)."""
    if not sums.pixels:
        return DepthScores((np.nan,) * 3, *[np.nan] * 3)
    first, second, third = (100.0 * float(count) / sums.pixels for count in sums.within)
    return DepthScores(
        within=(first, second, third),
        rms=(sums.squared / sums.pixels) ** 0.5,
        rel=sums.relative / sums.pixels,
        log10=sums.log10 / sums.pixels,
    )


class Box(NamedTuple):
    """A rectangle of whole pixels: the rows from `top`, the columns from `left`."""

    top: int
    left: int
    height: int
    width: int


# stretch: the prediction of the crop is stretched over the whole frame, and all of the frame
# counts, as in the code of FCRN's authors. crop: it stays where the crop was, and only that counts.
EVAL_CROPS = ("stretch", "crop")


def compared(
    prediction: np.ndarray, target: np.ndarray, valid: np.ndarray, box: Box, eval_crop: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, target and mask at one size, as `depth_sums` takes them.

    Args:
      prediction: depths of a crop `[..., h, w]`, resized by half-pixel bilinear interpolation.
      target, valid: depths and mask of the whole frame, `[..., H, W]`.
      box: the part of the frame that the crop shows, a row of `windows` of its batch.
      eval_crop: one of `EVAL_CROPS`.

    Returns:
      Three arrays `[..., H, W]` for `stretch`; of the size of the box for `crop`.

    Raises:
      KeyError: for any other `eval_crop`.
    """
    whole = Box(0, 0, *target.shape[-2:])
    top, left, height, width = {"stretch": whole, "crop": box}[eval_crop]
    rows, columns = slice(top, top + height), slice(left, left + width)
    return (
        bilinear.resize_on_host(prediction, (height, width)),
        target[..., rows, columns],
        valid[..., rows, columns],
    )
