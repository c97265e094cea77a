"""Collapse statistics: is a batch of projections spread over the sphere, or one point?"""

import chex
import jax
import jax.numpy as jnp

# A zero row stays zero instead of becoming NaN.
_SQUARED_NORM_FLOOR = 1e-12


def at_least_float32(x: jax.Array) -> jax.Array:
    """Widens half precision: losses and statistics are sums over many numbers."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def l2_norm(x: jax.Array) -> jax.Array:
    """Euclidean norm of each row: `[B, D]` -> `[B]`."""
    chex.assert_rank(x, 2)
    return jnp.sqrt(jnp.sum(jnp.square(at_least_float32(x)), axis=-1))


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / |x| for each row: `[B, D]` -> `[B, D]`, in float32 or wider.

    The floor of |x| is 1e-6, as in the authors' code (docs/deviations.md, 5).
    """
    chex.assert_rank(x, 2)
    x = at_least_float32(x)
    squared_norm = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared_norm, _SQUARED_NORM_FLOOR))


def normalized_moments(projection: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First two moments over the batch of the l2-normalised rows: `[B, D]` -> (`[D]`, `[D]`).

    Moments, unlike standard deviations, may be averaged over equal shares of a batch, so the caller
    takes their mean over the devices before `std_sqrt_dim`.
    """
    normalized = l2_normalize(projection)
    return jnp.mean(normalized, axis=0), jnp.mean(jnp.square(normalized), axis=0)


def std_sqrt_dim(mean: jax.Array, mean_of_squares: jax.Array) -> jax.Array:
    """Standard deviation of each normalised dimension, averaged, times sqrt(D) (Lecture, Fig. 2).

    SimSiam's monitor of collapse: about 1 when the rows spread over the whole sphere, 0 when all
    rows are one point (up to 1e-3, the rounding of float32 moments).

    Args:
        mean: `[D]`, from `normalized_moments`, over the whole batch.
        mean_of_squares: `[D]`, likewise.
    """
    chex.assert_rank([mean, mean_of_squares], 1)
    chex.assert_equal_shape([mean, mean_of_squares])
    # Rounding can leave a difference just below zero.
    variance = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
    return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(jnp.float32(mean.shape[0]))


def projection_std(projection: jax.Array) -> jax.Array:
    """`std_sqrt_dim` of a whole set of projections: `[N, D]` -> scalar."""
    return std_sqrt_dim(*normalized_moments(projection))
