"""Collapse statistics: is a batch of projections spread over the sphere, or one point?"""

import chex
import jax
import jax.numpy as jnp

from byol_jax.objectives.normalize import l2_normalize


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
