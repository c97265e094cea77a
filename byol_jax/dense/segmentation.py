"""Segmentation: the loss of a pixel, and the measures of Table 4a (BYOL App. E.4)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.dense.pixels import PixelSum
from byol_jax.objectives.normalize import at_least_float32

# Label of pixels that neither train nor count: borders of objects, and padding.
VOID = 255


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> PixelSum:
    """Softmax cross-entropy per pixel, summed over the pixels that are not void (BYOL App. E.4).

    Args:
      logits: `[B, H, W, K]`, at the size of the labels (`bilinear.resize`).
      labels: classes from 0 to K - 1 or `VOID`, integers `[B, H, W]`.

    Returns:
      The sum in nats, and the number of pixels, in float32 or wider.
    """
    chex.assert_rank([logits, labels], [4, 3])
    chex.assert_equal_shape_prefix([logits, labels], 3)
    logits = at_least_float32(logits)
    counts = labels != VOID
    # A comparison with all classes, since a gather and the scatter of its gradient are slow on TPU.
    is_true = labels[..., None] == jnp.arange(logits.shape[-1])
    true_logit = jnp.sum(jnp.where(is_true, logits, 0), axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - true_logit
    return PixelSum(jnp.sum(jnp.where(counts, losses, 0)), jnp.sum(counts, dtype=logits.dtype))


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts of pixels by predicted and true class; those of several images add up.

    Args:
      prediction: classes from 0 to K - 1, integers of any shape.
      truth: classes from 0 to K - 1 or `VOID`, integers of the same shape. Void pixels do not
        count, and their predictions are not checked.
      classes: K.

    Returns:
      int64 `[K, K]`, row: prediction, column: truth.

    Raises:
      ValueError: shapes differ, or a class is out of range.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    counts = truth != VOID
    predicted, true = prediction[counts].astype(np.int64), truth[counts].astype(np.int64)
    for name, values in (("predicted", predicted), ("true", true)):
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            raise ValueError(f"{name} class {wrong[0]} is none of the {classes}, nor void ({VOID})")
    return np.bincount(predicted * classes + true, minlength=classes**2).reshape(classes, classes)


class Scores(NamedTuple):
    """Measures of a segmentation, in percent.

    A class occurs if a pixel of the truth has it. Where no class occurs, all are nan.

    Attributes:
      class_iou: intersection over union per class, `[K]`; nan for classes that do not occur.
      mean_iou: mIoU, the mean of the former over the classes that occur, even if others are
        predicted (BYOL Table 4a).
      mean_iou_of_predicted: mIoU over the classes that occur or are predicted. Classes that are
        predicted and do not occur have 0. It differs on small sets alone.
      weighted_iou: the IoU of a class weighted by its share of the truth.
      mean_accuracy: mean of the classes' recalls over the classes that occur.
      pixel_accuracy: share of pixels whose class is right.
    """

    class_iou: np.ndarray
    mean_iou: float
    mean_iou_of_predicted: float
    weighted_iou: float
    mean_accuracy: float
    pixel_accuracy: float


def scores(confused: np.ndarray) -> Scores:
    """The measures of one matrix of all images (BYOL App. E.4), not averaged over images.

    Args:
      confused: sum of `confusion` over the images, `[K, K]`.
    """
    chex.assert_shape(confused, (len(confused), len(confused)))
    right, predicted, true = np.diag(confused), confused.sum(axis=1), confused.sum(axis=0)
    union = predicted + true - right
    if not true.any():
        return Scores(np.full(len(confused), np.nan), *[np.nan] * 5)
    occurs = true > 0
    iou = np.full(len(confused), np.nan)
    iou[occurs] = 100.0 * right[occurs] / union[occurs]
    return Scores(
        class_iou=iou,
        mean_iou=float(np.mean(iou[occurs])),
        mean_iou_of_predicted=float(np.sum(iou[occurs]) / np.count_nonzero(union)),
        weighted_iou=float(np.sum(iou[occurs] * true[occurs]) / true.sum()),
        mean_accuracy=100.0 * float(np.mean(right[occurs] / true[occurs])),
        pixel_accuracy=100.0 * float(right.sum() / true.sum()),
    )
