"""Cross-entropy of pixels and measures of a confusion matrix: loops and hand-computed numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.dense import pixels, segmentation
from byol_jax.dense.segmentation import VOID


def test_cross_entropy_is_that_of_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 3, 4)).astype(np.uint8)
    labels[0, 1], labels[1, 2, 3] = VOID, VOID
    total, count = 0.0, 0
    for index in np.ndindex(2, 3, 4):
        if labels[index] != VOID:
            shares = np.exp(np.float64(logits[index]))
            total -= math.log(shares[labels[index]] / shares.sum())
            count += 1
    sums = segmentation.pixel_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    # The rounding of 19 float32 terms.
    np.testing.assert_allclose(sums.total, total, rtol=1e-6)
    assert sums.number == count == 19


def test_a_batch_of_void_alone_has_loss_and_gradient_0():
    def loss(logits):
        labels = jnp.full((1, 2, 2), VOID, jnp.uint8)
        return pixels.mean(segmentation.pixel_cross_entropy(logits, labels), None)

    value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 2, 2, 3)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_half_precision_is_summed_in_float32():
    logits = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.bfloat16)
    labels = jax.ShapeDtypeStruct((1, 2, 2), jnp.uint8)
    sums = jax.eval_shape(segmentation.pixel_cross_entropy, logits, labels)
    assert sums.total.dtype == sums.number.dtype == jnp.float32


def test_confusion_has_predictions_in_rows_and_leaves_void_out():
    prediction = np.array([[0, 1, 1], [2, 2, 0]])
    truth = np.array([[0, 0, 1], [VOID, 2, 1]], np.uint8)
    np.testing.assert_array_equal(
        segmentation.confusion(prediction, truth, 3), [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    )


@pytest.mark.parametrize(
    ("prediction", "truth", "words"),
    [
        ([[0, 1]], [[0, 3]], "true class 3 is none of the 3"),
        ([[0, 3]], [[0, 1]], "predicted class 3 is none of the 3"),
        ([[-1, 0]], [[0, 1]], "predicted class -1"),
        ([[0, 1]], [[0], [1]], "the prediction is"),
    ],
)
def test_what_cannot_be_counted_is_refused(prediction, truth, words):
    with pytest.raises(ValueError, match=words):
        segmentation.confusion(np.array(prediction), np.array(truth), 3)


def test_scores_by_hand():
    """Class 2 is predicted once and does not occur; class 3 is neither."""
    confused = np.array([[6, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    scores = segmentation.scores(confused)
    # Class 0: 6 right, 7 predicted, 8 true, a union of 9; class 1: 1, 2, 2 and 3.
    first, second = 100 * 6 / 9, 100 * 1 / 3
    np.testing.assert_allclose(scores.class_iou, [first, second, np.nan, np.nan])
    np.testing.assert_allclose(scores.mean_iou, (first + second) / 2)
    np.testing.assert_allclose(scores.mean_iou_of_predicted, (first + second + 0) / 3)
    np.testing.assert_allclose(scores.weighted_iou, 0.8 * first + 0.2 * second)
    np.testing.assert_allclose(scores.mean_accuracy, 100 * (6 / 8 + 1 / 2) / 2)
    np.testing.assert_allclose(scores.pixel_accuracy, 70)


def test_scores_of_void_alone_are_nan():
    scores = segmentation.scores(np.zeros((3, 3), np.int64))
    assert np.isnan(scores.class_iou).all()
    assert all(math.isnan(value) for value in scores[1:])
