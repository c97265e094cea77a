"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, section 3.4).

A quick monitor of progress that is usual in the field (SimSiam, Figure 2); BYOL has no such
protocol.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.errors import require
from byol_jax.objectives.normalize import l2_normalize


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def _predict_batch(
    train: jax.Array,
    train_labels: jax.Array,
    test: jax.Array,
    temperature: jax.Array,
    *,
    num_classes: int,
    k: int,
) -> jax.Array:
    """Class with the largest vote, for rows of length 1: `[N, D]`, `[N]`, `[B, D]` -> `[B]`."""
    # Accelerators would round the products to 10 bits of mantissa and reorder the neighbours.
    similarity = jnp.matmul(test, train.T, precision=jax.lax.Precision.HIGHEST)
    nearest, rows = jax.lax.top_k(similarity, k)
    # Relative to the nearest one: the same argmax as exp(sim / temperature), without overflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    votes = jnp.sum(weights[:, :, None] * jax.nn.one_hot(train_labels[rows], num_classes), axis=1)
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
    the lowest class wins.

    Args:
      train_features: `[N, D]`; `k` is cut to N.
      train_labels: `[N]`, in `0 .. num_classes - 1`.
      test_features: `[M, D]`.
      num_classes: number of classes.
      k: number of neighbours that vote.
      temperature: divisor of the cosines in the weights.
      batch_size: test rows compared at once; memory grows with `batch_size * N`.

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
    predict = functools.partial(
        _predict_batch,
        l2_normalize(jnp.asarray(train_features)),
        jnp.asarray(labels, jnp.int32),
        temperature=jnp.float32(temperature),
        num_classes=num_classes,
        k=min(k, len(labels)),
    )
    count = len(test_features)
    batch_size = min(batch_size, max(count, 1))
    predictions = np.zeros(count, np.int32)
    for start in range(0, count, batch_size):
        batch = np.asarray(test_features[start : start + batch_size], np.float32)
        # One shape, one compilation: the last batch is padded with rows that are not read.
        padded = np.pad(batch, ((0, batch_size - len(batch)), (0, 0)))
        predicted = np.asarray(predict(test=l2_normalize(jnp.asarray(padded))))
        predictions[start : start + len(batch)] = predicted[: len(batch)]
    return predictions
