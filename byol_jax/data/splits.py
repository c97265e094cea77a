"""Cuts of a set's training images: splits that the source lacks (BYOL App. E.1), and subsets.

Every draw is keyed by a name and a seed. Published numbers depend on which images are drawn, so
neither the names nor the orders may change.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.data.images import ImageSet, all_labels, select
from byol_jax.data.table10 import Benchmark
from byol_jax.errors import UserError, require

# Seed of all splits that are cut out of training images: everybody gets the same ones.
CUT_SEED = 200607733
# Share of each class that becomes a test or a validation split where the source has none. It is
# taken of the training images that are left. For the validation splits of BYOL Table 10 the rules
# of App. E.1 hold instead.
CUT_FRACTION = 0.2

# For each split that the source itself has, a function that reads it.
Readers = Mapping[str, Callable[[], ImageSet]]


def draw_by_class(labels: np.ndarray, count: Callable[[int, int], int], seed: int) -> np.ndarray:
    """Draws `count(class, its size)` examples of each class, from one order of all examples.

    Args:
      labels: int `[N]`; -1, no label, counts as one more class. If an image may have several
        classes, int `[N, K]`, all images count as unlabelled: the draw is uniform.
      count: number of examples to draw from a class of a given size.
      seed: seed of the order.

    Returns:
      Sorted positions, int64.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = np.full(len(labels), -1)
    order = keys.permutation(len(labels), "class_balanced_cut", seed)
    drawn = [np.zeros(0, np.int64)]
    for label in np.unique(labels):
        members = order[labels[order] == label]
        drawn.append(members[: count(int(label), len(members))])
    return np.sort(np.concatenate(drawn))


def shuffled_classes(labels: np.ndarray, name: str, seed: int) -> list[np.ndarray]:
    """The rows of each class in increasing order of classes, each class in an order of its own.

    Args:
      labels: int `[N]`.
      name: purpose of the draw, part of its key.
      seed: seed of the orders.
    """
    shuffled = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shuffled.append(rows[keys.permutation(len(rows), name, seed, int(label))])
    return shuffled


def class_balanced_cut(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draws `fraction` of each class, at random but fixed by `seed`: sorted positions, int64.

    A class of n examples gives round(fraction * n). Unlabelled examples (-1) count as one more
    class, so that the cut is uniform when there are no labels.
    """
    return draw_by_class(labels, lambda _, size: round(fraction * size), seed)


def class_balanced_subset(image_set: ImageSet, fraction: float, seed: int) -> np.ndarray:
    """Positions of `fraction` of each class, int64, sorted: the balanced selection of App. D.1.

    Raises:
      UserError: that would leave a class without an example, or images have several labels.
    """
    require(0 < fraction <= 1, f"config.fraction={fraction} must be above 0 and at most 1")
    if fraction == 1:
        return np.arange(image_set.size)
    labels = all_labels(image_set)
    require(
        labels.ndim == 1,
        f"config.fraction={fraction:g}: images of {image_set.name} have several labels, so no "
        "class-balanced fraction exists; give 1",
    )
    chosen = class_balanced_cut(labels, fraction, seed)
    chosen = chosen[labels[chosen] >= 0]
    before, after = (
        np.bincount(labelled[labelled >= 0], minlength=image_set.num_classes)
        for labelled in (labels, labels[chosen])
    )
    lost = np.flatnonzero((before > 0) & (after == 0))
    if lost.size:
        # round(x) is 1 or more for x above 0.5. One more digit than the smallest class size has
        # makes a fraction that is little above 0.5 / size.
        fewest = int(before[before > 0].min())
        scale = 10 ** (1 + len(str(fewest)))
        enough = (int(0.5 / fewest * scale) + 1) / scale
        raise UserError(
            f"config.fraction={fraction:g} of {image_set.name} gives class {lost[0]} no example "
            f"(it has {before[lost[0]]}): fraction={enough:g} or more gives every class one"
        )
    return chosen


def validation_rows(
    labels: np.ndarray,
    benchmark: Benchmark,
    test_labels: np.ndarray | None = None,
    seed: int = CUT_SEED,
) -> np.ndarray:
    """Positions of the training images that become the validation split (BYOL App. E.1).

    Args:
      labels: labels of the training images, int `[N]`, -1 for none; `[N, K]` if an image may have
        several classes. The rule `last` reads only their number.
      benchmark: row of Table 10 whose `rule` applies.
      test_labels: labels of the test images, which the rule `as_test` needs.
      seed: seed of random draws.

    Returns:
      Sorted positions, int64; none for the rule `none`.

    Raises:
      UserError: the source should have had a validation split, or a class would lose all its
        images.
    """
    kind, amount = benchmark.rule
    require(
        kind != "given",
        f"the validation split of benchmark {benchmark.key} is its creators': give it in "
        "folder:DIR as valid/, or take a TFDS set that has it",
    )
    if kind == "none":
        return np.zeros(0, np.int64)
    if kind == "last":
        return np.arange(len(labels))[-int(amount) :]
    test_counts: dict[int, int] = {}
    if kind == "as_test":
        require(
            test_labels is not None,
            f"the validation split of benchmark {benchmark.key} has as many images of each class "
            "as its test split: add a test split to the data set",
        )
        classes, counts = np.unique(np.asarray(test_labels), return_counts=True)
        test_counts = dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def count(label: int, size: int) -> int:
        if kind == "share":
            return round(amount * size)
        if label < 0:
            return 0  # unlabelled images stay training images
        number = int(amount) if kind == "per_class" else test_counts.get(label, 0)
        require(
            number < size,
            f"benchmark {benchmark.key} takes {number} training images of each class for "
            f"validation, but class {label} has {size}; {number + 1} or more are needed",
        )
        return number

    return draw_by_class(labels, count, seed)


class Share(NamedTuple):
    """Training images of a source.

    Attributes:
      images: those that belong to the wanted splits.
      set_aside: numbers of the others, by the split that they were cut out for.
    """

    images: ImageSet
    set_aside: Mapping[str, int]


def share_of_train(readers: Readers, wanted: set[str], row: Benchmark | None) -> Share | None:
    """The training images of the source that belong to the wanted splits.

    A split that the source lacks is cut out of the training images: first test, then validation.

    Args:
      readers: splits that the source has.
      wanted: names of splits.
      row: row of Table 10 whose rule makes the validation split, if any.

    Returns:
      The images and what was set aside; None if the wanted splits are all the source's own.
    """
    missing = [split for split in ("test", "valid") if split not in readers]
    if not wanted & {"train", *missing}:
        return None
    train = readers["train"]()
    if wanted >= {"train", *missing}:
        return Share(train, {})  # the cuts decide nothing, so no label has to be read
    owner = np.full(train.size, "train")
    for split in missing:
        rest = np.flatnonzero(owner == "train")
        if split == "valid" and row:
            test_labels = None
            if row.rule.kind == "as_test" and "test" in readers:
                test_labels = all_labels(readers["test"]())
            labels = _labels_to_cut(train, row.rule.kind not in ("last", "none"))[rest]
            cut = validation_rows(labels, row, test_labels)
        else:
            cut = class_balanced_cut(_labels_to_cut(train)[rest], CUT_FRACTION, CUT_SEED)
        owner[rest[cut]] = split
    chosen = np.flatnonzero(np.isin(owner, list(wanted)))
    set_aside = {split: int(np.sum(owner == split)) for split in missing if split not in wanted}
    return Share(select(train, chosen), set_aside)


def _labels_to_cut(train: ImageSet, by_class: bool = True) -> np.ndarray:
    """The labels, int32 `[N]`; all -1, and none is read, if the cut does not depend on classes."""
    if train.multi_label or not by_class:
        return np.full(train.size, -1, np.int32)
    return all_labels(train)
