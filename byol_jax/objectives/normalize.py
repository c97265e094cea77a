"""Normalisations of projections and predictions: l2 (Eq. 2) and those of BYOL App. G.6."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from byol_jax.runtime import spmd

# A zero row stays zero instead of becoming NaN.
_SQUARED_NORM_FLOOR = 1e-12


def at_least_float32(x: jax.Array) -> jax.Array:
    """Widens half precision, since losses and statistics are sums over many numbers."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def exact_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """a b in full float32. Rounded factors would be visible at a temperature of 0.01."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def l2_norm(x: jax.Array) -> jax.Array:
    """Euclidean norm of each row: `[B, D]` -> `[B]`."""
    chex.assert_rank(x, 2)
    return jnp.sqrt(jnp.sum(jnp.square(at_least_float32(x)), axis=-1))


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / |x| for each row: `[B, D]` -> `[B, D]`, in float32 or wider.

    |x| is at least 1e-6, as in the authors' code (docs/deviations.md, 5).
    """
    chex.assert_rank(x, 2)
    x = at_least_float32(x)
    squared_norm = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared_norm, _SQUARED_NORM_FLOOR))


# The rows of BYOL Table 20; the text of App. G.6 mixes up their n (docs/deviations.md).
NORMALIZATIONS = ("l2", "layer", "batch", "none")

# A constant column becomes zeros instead of NaN.
_VARIANCE_FLOOR = 1e-12


def layer_normalize(x: jax.Array) -> jax.Array:
    """n_LN of BYOL App. G.6: `[B, D]` -> `[B, D]`, in float32 or wider.

    sigma_LN sqrt(D) is the norm of the centred row, so this is the l2 normalisation of that row.
    The norm is at least 1e-6: a constant row becomes zeros.
    """
    chex.assert_rank(x, 2)
    x = at_least_float32(x)
    return l2_normalize(x - jnp.mean(x, axis=1, keepdims=True))


def batch_normalize(x: jax.Array, axis: str | None = None) -> jax.Array:
    """n_BN of BYOL App. G.6, without parameters: `[B, D]` -> `[B, D]`, in float32 or wider.

    Mean and variance per column are taken over all devices of `axis`, and gradients pass through
    them. sigma_BN is at least 1e-6: a constant column becomes zeros.
    """
    chex.assert_rank(x, 2)
    x = at_least_float32(x)
    # The variance is taken of the centred column: E[x^2] - mu^2 cancels for the large outputs of
    # Figure 7.
    centred = x - spmd.pmean(jnp.mean(x, axis=0, keepdims=True), axis)
    variance = spmd.pmean(jnp.mean(jnp.square(centred), axis=0, keepdims=True), axis)
    return centred * jax.lax.rsqrt(jnp.maximum(variance, _VARIANCE_FLOOR) * x.shape[1])


def normalize(x: jax.Array, normalization: str, axis: str | None = None) -> jax.Array:
    """n of BYOL App. G.6: `[B, D]` -> `[B, D]`, in float32 or wider.

    Args:
      x: predictions or targets of one view.
      normalization: `l2` or `layer` (per row), `batch` (per column over all devices of `axis`), or
        `none`. All but `none` give a mean squared norm of 1 where rows or columns vary.
      axis: mapped axis.

    Raises:
      KeyError: for any other `normalization`.
    """
    chex.assert_rank(x, 2)
    functions: dict[str, Callable[[jax.Array], jax.Array]] = {
        "l2": l2_normalize,
        "layer": layer_normalize,
        "batch": lambda x: batch_normalize(x, axis),
        "none": at_least_float32,
    }
    return functions[normalization](x)
