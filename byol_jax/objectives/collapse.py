"""Collapse statistics: whether projections spread over the sphere or share one point."""

import chex
import jax
import jax.numpy as jnp

from byol_jax.objectives.normalize import l2_normalize


def normalized_moments(projection: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First two moments over the batch of the l2-normalised rows: `[B, D]` -> (`[D]`, `[D]`).

    Moments, unlike standard deviations, can be averaged over equal shares of a batch. So the caller
    averages them over the devices before it calls `std_sqrt_dim`.
    """
    normalized = l2_normalize(projection)
    return jnp.mean(normalized, axis=0), jnp.mean(jnp.square(normalized), axis=0)


def std_sqrt_dim(mean: jax.Array, mean_of_squares: jax.Array) -> jax.Array:
    """Standard deviation of each normalised dimension, averaged, times sqrt(D) (Lecture, Fig. 2).

    SimSiam's monitor of collapse: about 1 when the rows spread over the whole sphere, 0 when all
    rows are one point (up to 1e-3, the rounding of float32 moments).

    Args:
      mean: first moment over the whole batch, `[D]`, from `normalized_moments`.
      mean_of_squares: second moment over the whole batch, `[D]`.
    """
    chex.assert_rank([mean, mean_of_squares], 1)
    chex.assert_equal_shape([mean, mean_of_squares])
    # Rounding can make the difference slightly negative.
    variance = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
    return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(jnp.float32(mean.shape[0]))


def projection_std(projection: jax.Array) -> jax.Array:
    """`std_sqrt_dim` over a whole set of projections: `[N, D]` -> scalar."""
    return std_sqrt_dim(*normalized_moments(projection))
