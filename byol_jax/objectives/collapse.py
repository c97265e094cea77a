"""Collapse statistics: whether projections and embeddings spread, or share a point or a line."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

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


def effective_rank(embeddings: np.ndarray) -> float:
    """RankMe (Garrido et al. 2023, Eq. 1): in how many directions embeddings spread, in effect.

    The exponential of the entropy of the singular values, divided by their sum: 1 if all rows are
    multiples of one, min(N, D) if all singular values are equal.

    Args:
      embeddings: `[N, D]`; not centred, as in the paper.
    """
    values = embeddings.astype(np.float64)
    short = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(short), 0))
    shares = singular / max(singular.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of two views of an image (Wang and Isola 2020, section 4.1.1).

    Args:
      first, second: embeddings `[N, D]` of the same images; l2-normalised here. 0 if both views of
        each image agree, 2 if they are unrelated.
    """
    return float(np.mean(np.sum(np.square(_directions(first) - _directions(second)), axis=1)))


def uniformity(embeddings: np.ndarray) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of images (Wang and Isola 2020, 4.1.2).

    Args:
      embeddings: `[N, D]`, N >= 2; l2-normalised here. 0 if all are one point, about -4 if they
        spread over the whole sphere of many dimensions.
    """
    directions = _directions(embeddings)
    distances = 2 - 2 * directions @ directions.T
    pairs = distances[np.triu_indices(len(directions), 1)]
    return float(np.log(np.mean(np.exp(-2 * pairs))))


def _directions(embeddings: np.ndarray) -> np.ndarray:
    values = embeddings.astype(np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def health(first: np.ndarray, second: np.ndarray | None) -> dict[str, float]:
    """What needs no label: `embedding_rank`, `uniformity`, and with two views `alignment`.

    Nothing of a single image, and of numbers that are not finite.

    Args:
      first, second: embeddings `[N, D]` of the same images in two views.
    """
    if len(first) < 2 or not all(np.isfinite(x).all() for x in (first, second) if x is not None):
        return {}
    values = {"embedding_rank": effective_rank(first), "uniformity": uniformity(first)}
    return values if second is None else values | {"alignment": alignment(first, second)}
