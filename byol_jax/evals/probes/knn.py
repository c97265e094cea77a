"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, section 3.4).

A quick monitor of progress that is usual in the field (SimSiam, Figure 2); BYOL has no such
protocol.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.errors import require
from byol_jax.objectives.normalize import l2_normalize

# Most rows, and most numbers, of the training set on a device at once.
_PIECE_ROWS, _PIECE_NUMBERS = 2**16, 2**23


_l2_normalize = jax.jit(l2_normalize)


class _Nearest(NamedTuple):
    """The nearest training rows so far, nearest first.

    Attributes:
      similarity: cosines `[B, k]`; -inf where there are fewer rows so far.
      rows: places in the training set `[B, k]`.
    """

    similarity: jax.Array
    rows: jax.Array


@jax.jit
def _nearer(
    nearest: _Nearest, piece: jax.Array, start: jax.Array, count: jax.Array, test: jax.Array
) -> _Nearest:
    """The nearest rows, a further piece of the training set included.

    Args:
      nearest: among the rows before the piece.
      piece: rows of length 1 `[P, D]`.
      start: place of its first row in the training set.
      count: how many of its rows are real.
      test: rows of length 1 `[B, D]`.
    """
    # Accelerators would round the products to 10 bits of mantissa and reorder the neighbours.
    similarity = jnp.matmul(test, piece.T, precision=jax.lax.Precision.HIGHEST)
    places = jnp.arange(len(piece))
    similarity = jnp.where(places < count, similarity, -jnp.inf)
    # Of equal ones top_k takes the first: earlier rows come first.
    both = jnp.concatenate([nearest.similarity, similarity], axis=1)
    best, chosen = jax.lax.top_k(both, nearest.rows.shape[1])
    rows = jnp.concatenate(
        [nearest.rows, jnp.broadcast_to(start + places, similarity.shape)], axis=1
    )
    return _Nearest(best, jnp.take_along_axis(rows, chosen, axis=1))


@functools.partial(jax.jit, static_argnames="num_classes")
def _vote(
    nearest: _Nearest, train_labels: jax.Array, temperature: jax.Array, num_classes: int
) -> jax.Array:
    """Class with the largest vote, `[B]`; labels `[N]`."""
    # Relative to the nearest one: the same argmax as exp(sim / temperature), without overflow.
    similarity = nearest.similarity
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
    labels = train_labels[nearest.rows]

    def add(votes: jax.Array, neighbour: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, label = neighbour
        return votes + weight[:, None] * jax.nn.one_hot(label, num_classes), None

    # One neighbour after the other: all at once would take B x k x classes numbers.
    none = jnp.zeros((len(labels), num_classes))
    votes, _ = jax.lax.scan(add, none, (weights.T, labels.T))
    return jnp.argmax(votes, axis=-1)


def _check_examples(
    train_features: chex.Array, labels: np.ndarray, test_features: chex.Array, num_classes: int
) -> None:
    chex.assert_rank([train_features, test_features, labels], [2, 2, 1])
    chex.assert_equal_shape_prefix([train_features, labels], 1)
    chex.assert_equal_shape_suffix([train_features, test_features], 1)
    require(labels.size, "kNN needs labelled training examples: there is none")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"kNN labels lie in {labels.min()} .. {labels.max()}, not in 0 .. {num_classes - 1}"
        )


def knn_predict(
    train_features: chex.Array,
    train_labels: chex.Array,
    test_features: chex.Array,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    batch_size: int = 256,
) -> np.ndarray:
    """Exact weighted kNN prediction: cosine similarity, weights exp(sim / temperature).

    Among equally near neighbours at rank k the first in the training set counts; among equal votes
    the lowest class wins. A device gets the training set in pieces: beside the features it takes
    some tens of megabytes, however many there are.

    Args:
      train_features: `[N, D]`; `k` is cut to N.
      train_labels: `[N]`, in `0 .. num_classes - 1`.
      test_features: `[M, D]`.
      num_classes: number of classes.
      k: number of neighbours that vote.
      temperature: divisor of the cosines in the weights.
      batch_size: test rows compared at once.

    Returns:
      Predicted classes, int `[M]`.

    Raises:
      UserError: `k`, `temperature` or `batch_size` is not positive, or nothing is labelled.
      ValueError: a label is not a class.
    """
    require(k >= 1, f"kNN: k={k} must be 1 or more")
    require(temperature > 0, f"kNN: temperature={temperature} must be above 0")
    require(batch_size >= 1, f"kNN: batch_size={batch_size} must be 1 or more")
    labels = np.asarray(train_labels)
    _check_examples(train_features, labels, test_features, num_classes)
    batch_size = min(batch_size, max(len(test_features), 1))
    tests = range(0, len(test_features), batch_size)
    k = min(k, len(labels))
    nearest = [
        _Nearest(jnp.full((batch_size, k), -jnp.inf), jnp.zeros((batch_size, k), jnp.int32))
    ] * len(tests)
    width = max(train_features.shape[1], 1)
    size = min(len(labels), _PIECE_ROWS, max(_PIECE_NUMBERS // width, 1))
    for start in range(0, len(labels), size):
        rows = train_features[start : start + size]
        piece = _normalized(rows, size)
        for i, begin in enumerate(tests):
            test = _normalized(test_features[begin : begin + batch_size], batch_size)
            nearest[i] = _nearer(nearest[i], piece, start, len(rows), test)
        jax.block_until_ready(nearest)  # or all pieces would wait in memory
    on_device = jnp.asarray(labels, jnp.int32)
    votes = [_vote(near, on_device, jnp.float32(temperature), num_classes) for near in nearest]
    predictions = [np.zeros(0, np.int32), *map(np.asarray, votes)]
    return np.concatenate(predictions)[: len(test_features)]


def _normalized(rows: chex.Array, count: int) -> jax.Array:
    """Rows of length 1 on the device, float32; rows of zeros up to `count`, to compile once."""
    host = np.asarray(rows, np.float32)
    if len(host) < count:
        host = np.pad(host, ((0, count - len(host)), (0, 0)))
    return _l2_normalize(jnp.asarray(host))
