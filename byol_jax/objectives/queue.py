"""A queue of keys of earlier batches (MoCo, DenseCL), the same on all devices.

The queue is an array `[K, D]` of the objective's state, one key of norm 1 per row. The entry `next`
is the row that is written next; it goes round.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Rows
from byol_jax.objectives.normalize import exact_matmul, l2_normalize
from byol_jax.runtime import spmd


def new(key: jax.Array, size: int, dim: int) -> jax.Array:
    """A queue of random keys: `[K, D]`, normal, then of norm 1."""
    return l2_normalize(jax.random.normal(key, (size, dim)))


def enqueue(size: int, start: jax.Array, keys: Sequence[jax.Array], axis: str | None) -> Rows:
    """The rows that new keys replace: the oldest ones.

    Args:
      size: K; a multiple of the keys of a step, so that no key is written in two places.
      start: the row that is written next.
      keys: new keys of this device, each `[B, D]`. Those of all devices come behind each other, in
        the order of the devices; a second array behind the first one.
      axis: mapped axis; keys are gathered from all its devices.
    """
    gathered = [spmd.all_gather(rows, axis) for rows in keys]
    values = gathered[0] if len(gathered) == 1 else jnp.concatenate(gathered)
    return Rows((start + jnp.arange(len(values), dtype=start.dtype)) % size, values)


def behind(rows: Rows, size: int) -> jax.Array:
    """The row behind those that were just written, which is written next."""
    return (rows.at[-1] + 1) % size


def logits(
    query: jax.Array, positive: jax.Array, queue: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """(q k+, q k_1, ..., q k_K) / tau (MoCo Eq. 1, whose sum runs over them).

    Args:
      query: q of norm 1, `[B, D]`.
      positive: k+ of norm 1, `[B, D]`.
      queue: the negatives, `[K, D]`.
      temperature: tau > 0.

    Returns:
      `[B, 1 + K]`, the positive first.
    """
    own = jnp.sum(query * positive, axis=1, keepdims=True)
    return jnp.concatenate([own, exact_matmul(query, queue.T)], axis=1) / temperature


def cross_entropy(logits: jax.Array) -> jax.Array:
    """-log of the softmax's share of the first column (MoCo Eq. 1): `[B, 1 + K]` -> `[B]`."""
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


def top(logits: jax.Array, k: int) -> jax.Array:
    """Percent of rows in which fewer than k negatives reach the positive; a tie is a miss."""
    ahead = jnp.sum(logits[:, 1:] >= logits[:, :1], axis=1)
    return jnp.sum(ahead < k) * (100 / len(logits))
