"""The measures of Table 4 on a split: mIoU (BYOL App. E.4), depth errors (App. E.6)."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from byol_jax.data.dense import batches, sets, transforms
from byol_jax.data.dense.sets import DenseSet
from byol_jax.dense import depth, segmentation
from byol_jax.errors import require
from byol_jax.runtime import metrics

# From uint8 images `[b, h, w, 3]` to the outputs of the network, `[b, ...]`, on the host.
Predict = Callable[[np.ndarray], np.ndarray]
Scored = Mapping[str, "Value"]

# Images from which on a pass shows its progress.
_LONG = 200


class Value(NamedTuple):
    """A measure of a split, and its unit as in records."""

    value: float
    unit: str


class Result(NamedTuple):
    """The measures of a split.

    Attributes:
      values: by metric, the main one first.
      images: number of images that were scored.
      details: further numbers, for the settings of a record.
    """

    values: Scored
    images: int
    details: Mapping[str, Any] = {}


class Reading(NamedTuple):
    """How a split is read: images per call, and threads, as in `batches.evaluation_batches`."""

    batch_size: int
    threads: int = 0
    prefetch: int = 2


def _outputs(
    predict: Predict, dense_set: DenseSet, transform: transforms.Evaluation, reading: Reading
) -> Iterator[tuple[Mapping[str, np.ndarray], np.ndarray]]:
    """The batches of a split, and what the network says of them."""
    stored = batches.evaluation_batches(
        dense_set,
        transform,
        reading.batch_size,
        threads=reading.threads,
        prefetch=reading.prefetch,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(stored))
        progress = None
        if dense_set.size >= _LONG:
            progress = metrics.Progress(dense_set.size, f"measuring {dense_set.name}")
            stack.enter_context(contextlib.closing(progress))
        for batch in stored:
            yield batch, predict(batch["image"])
            if progress:
                progress.advance(int(batch["ids"].max(initial=-1)) + 1, "")


def segmentation_scores(
    predict: Predict, dense_set: DenseSet, transform: transforms.Evaluation, reading: Reading
) -> Result:
    """mIoU and others from one confusion matrix of all images (BYOL App. E.4), in percent.

    Raises:
      UserError: no pixel of the split has a class.
    """
    classes = len(dense_set.classes)
    confused, count = np.zeros((classes, classes), np.int64), 0
    for batch, predicted in _outputs(predict, dense_set, transform, reading):
        confused += segmentation.confusion(predicted, batch["target"], classes)
        count += int(np.sum(batch["ids"] >= 0))
    require(confused.any(), f"{dense_set.title}: no pixel that is scored has a class")
    scores = segmentation.scores(confused)
    values = {
        "mIoU": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "weighted_iou": scores.weighted_iou,
    }
    iou = [None if math.isnan(value) else float(value) for value in scores.class_iou]
    details = {
        "class_iou": dict(zip(dense_set.classes, iou, strict=True)),
        "mean_iou_of_predicted": scores.mean_iou_of_predicted,
    }
    return Result({name: Value(v, "percent") for name, v in values.items()}, count, details)


def depth_scores(
    predict: Predict,
    dense_set: DenseSet,
    transform: transforms.Evaluation,
    reading: Reading,
    eval_crop: str,
) -> Result:
    """The measures of Table 4b, pooled over the pixels of all images (BYOL App. E.6).

    Args:
      predict, dense_set, transform, reading: the split, and what the network says of it.
      eval_crop: one of `depth.EVAL_CROPS`.

    Raises:
      UserError: no pixel that is compared has a depth.
    """
    sums: depth.DepthSums | None = None
    count = 0
    for batch, predicted in _outputs(predict, dense_set, transform, reading):
        for row in np.flatnonzero(batch["ids"] >= 0):
            target = batch["target"][row]
            box = depth.Box(*map(int, batch["windows"][row]))
            parts = depth.compared(predicted[row], target, target > 0, box, eval_crop)
            one = depth.depth_sums(*parts)
            sums = one if sums is None else depth.add(sums, one)
            count += 1
    require(sums and sums.pixels, f"{dense_set.title}: no pixel that is scored has a depth")
    assert sums
    scores = depth.depth_scores(sums)
    values = {
        "rms": Value(scores.rms, "m"),
        "rel": Value(scores.rel, "1"),
        **{
            f"pct1.25{power}": Value(value, "percent")
            for power, value in zip(("", "^2", "^3"), scores.within, strict=True)
        },
        "log10": Value(scores.log10, "1"),
    }
    return Result(values, count, {"pixels": int(sums.pixels)})


def examples(
    predict: Predict,
    dense_set: DenseSet,
    transform: transforms.Evaluation,
    reading: Reading,
    count: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int, int, int]]]:
    """Images all over a split, in order, with their targets and what the network says of them.

    Args:
      predict, dense_set, transform, reading: as for the measures.
      count: number of images.

    Yields:
      Image, target, outputs, and the window of the stored image that the image shows.
    """
    chosen = np.unique(np.linspace(0, dense_set.size - 1, min(count, dense_set.size)).astype(int))
    few = sets.select(dense_set, chosen)
    for batch, predicted in _outputs(predict, few, transform, reading):
        for row in np.flatnonzero(batch["ids"] >= 0):
            y, x, height, width = map(int, batch["windows"][row])
            window = y, x, height, width
            yield batch["image"][row], batch["target"][row], predicted[row], window
