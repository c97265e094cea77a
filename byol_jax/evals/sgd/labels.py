"""Labelled images to learn from: whole splits, and class-balanced parts of them."""

import numpy as np

from byol_jax.data import images, sources, stored
from byol_jax.errors import UserError, require


def labelled_set(
    dataset: str, split: str, data_dir: str | None, benchmark: str | None = None
) -> images.ImageSet:
    """A split to learn labels from; `benchmark` as in `sources.load`.

    Raises:
      UserError: it cannot be read, or has no labels.
    """
    image_set = sources.load(dataset, split, data_dir, benchmark)
    stored.check_readable(image_set)
    require(
        image_set.num_classes > 1,
        f"{dataset} has {image_set.num_classes} classes: a classifier needs two or more, as "
        "sub-folders or labels",
    )
    return image_set


def check_metric(metric: str, multi_label: bool) -> None:
    """Refuses a metric that does not go with the number of labels per image.

    Raises:
      UserError: names the metrics that do.
    """
    allowed = ("map_11",) if multi_label else ("top1", "mean_per_class")
    labels = "several labels per image" if multi_label else "one label per image"
    require(metric in allowed, f"metric={metric!r} must be {' or '.join(allowed)} for {labels}")


def class_balanced_subset(image_set: images.ImageSet, fraction: float, seed: int) -> np.ndarray:
    """Positions of `fraction` of each class, int64, sorted: the balanced selection of App. D.1.

    Raises:
      UserError: a class would be left without an example, or images have several labels.
    """
    require(0 < fraction <= 1, f"fraction={fraction} must be above 0 and at most 1")
    if fraction == 1:
        return np.arange(image_set.size)
    labels = images.all_labels(image_set)
    require(
        labels.ndim == 1,
        f"{image_set.name} has several labels per image: it has no class-balanced fraction",
    )
    chosen = sources.class_balanced_cut(labels, fraction, seed)
    chosen = chosen[labels[chosen] >= 0]
    before, after = (
        np.bincount(values[values >= 0], minlength=image_set.num_classes)
        for values in (labels, labels[chosen])
    )
    lost = np.flatnonzero((before > 0) & (after == 0))
    if lost.size:
        raise UserError(
            f"fraction={fraction:g} of {image_set.name} gives class {lost[0]} no example (it has "
            f"{before[lost[0]]}): fraction={_enough(before):g} or more gives every class one"
        )
    return chosen


def _enough(counts: np.ndarray) -> float:
    """A fraction, short in print, that leaves every class with examples at least one."""
    # round(x) is 1 or more for x above 0.5. Two more digits than the smallest class has show that.
    fewest = int(counts[counts > 0].min())
    scale = 10 ** (1 + len(str(fewest)))
    return (int(0.5 / fewest * scale) + 1) / scale
