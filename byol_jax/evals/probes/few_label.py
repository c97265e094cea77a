"""Few-label regression: a linear classifier from a handful of labels, averaged over many draws.

Even a collapsed network can keep a high linear accuracy on all labels. This accuracy shows whether
few directions of the representation tell the classes apart.
"""

from typing import NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.data.splits import shuffled_classes
from byol_jax.errors import require
from byol_jax.evals.probes import logistic
from byol_jax.results import scores

# "Fixed stratified thirds" of the training labels.
SPLITS = 3


class FewLabelResult(NamedTuple):
    """Top-1 accuracies in percent.

    Attributes:
      mean: mean over all draws.
      standard_error: standard error of `mean`.
      split_means: means over the draws of each split, `[splits]`.
      top1: accuracy of each draw, `[splits, draws]`.
    """

    mean: float
    standard_error: float
    split_means: np.ndarray
    top1: np.ndarray


def label_splits(labels: np.ndarray, splits: int, seed: int) -> list[list[np.ndarray]]:
    """Cuts the rows of each class into `splits` disjoint parts of equal size, up to one row.

    Args:
      labels: int `[N]`.
      splits: number of parts; three give the "fixed stratified thirds".
      seed: seed of the cut.

    Returns:
      For each split, for each class in increasing order, its rows.
    """
    classes = shuffled_classes(labels, "few_label/split", seed)
    by_class = [np.array_split(rows, splits) for rows in classes]
    return [[parts[split] for parts in by_class] for split in range(splits)]


def draw_rows(
    labels: np.ndarray,
    *,
    labels_per_class: int = 2,
    draws: int = 20,
    splits: int = SPLITS,
    seed: int = 0,
) -> np.ndarray:
    """Rows of the labelled examples of each draw, keyed on the seed alone.

    Draws of one split may share rows; draws of different splits share none.

    Args:
      labels: int `[N]`, with K classes.
      labels_per_class: labelled examples per class in each draw.
      draws: number of draws per split.
      splits: number of splits, see `label_splits`.
      seed: seed of splits and draws; all networks evaluated with one seed see the same draws.

    Returns:
      int `[splits, draws, K * labels_per_class]`.

    Raises:
      UserError: a number is not positive, or a class has fewer than `labels_per_class * splits`
        examples.
    """
    for name, number in (
        ("labels_per_class", labels_per_class),
        ("draws", draws),
        ("splits", splits),
    ):
        require(number >= 1, f"few-label regression: {name}={number} must be 1 or more")
    classes, counts = np.unique(labels, return_counts=True)
    needed = labels_per_class * splits
    require(
        np.all(counts >= needed),
        f"few-label regression draws {labels_per_class} labels per class from each of {splits} "
        f"splits: every class needs at least {needed} training examples, "
        f"class {classes[np.argmin(counts)]} has {counts.min()}",
    )
    drawn = np.empty((splits, draws, len(classes) * labels_per_class), np.int64)
    for split, by_class in enumerate(label_splits(labels, splits, seed)):
        for draw in range(draws):
            drawn[split, draw] = np.concatenate(
                [
                    rows[
                        keys.permutation(
                            len(rows), "few_label/draw", seed, split, draw, int(label)
                        )[:labels_per_class]
                    ]
                    for label, rows in zip(classes, by_class, strict=True)
                ]
            )
    return drawn


def mean_and_standard_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, std (ddof 1) / sqrt(n), of two or more values."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(np.size(values)))


def few_label_top1(
    train: logistic.Labelled,
    test: logistic.Labelled,
    *,
    labels_per_class: int = 2,
    draws: int = 20,
    splits: int = SPLITS,
    l2: float = 1.0,
    seed: int = 0,
) -> FewLabelResult:
    """Accuracy on the whole test set of classifiers fitted to a few labels per class.

    Features are standardised with all training features, which need no labels. The draws are
    fitted with a fixed l2, since so few labels leave none to choose it with.

    Args:
      train: training features as the network gives them, and their labels.
      test: test features and labels.
      labels_per_class, draws, splits, seed: as in `draw_rows`.
      l2: as in `logistic.fit_draws`.

    Raises:
      UserError: as in `draw_rows` and `logistic.fit_draws`, or there is a single draw, which has no
        standard error.
      ValueError: a label is missing.
    """
    logistic.check_labels(*train)
    logistic.check_labels(*test)
    require(splits * draws != 1, "few-label regression: one draw has no error bar, draw twice")
    drawn = draw_rows(
        train[1], labels_per_class=labels_per_class, draws=draws, splits=splits, seed=seed
    )
    train_features, test_features = logistic.standardize(train[0], test[0])
    models = logistic.fit_draws(train_features, train[1], drawn.reshape(splits * draws, -1), l2)
    top1 = np.reshape(
        [scores.top1(logistic.predict(model, test_features), test[1]) for model in models],
        (splits, draws),
    )
    return FewLabelResult(*mean_and_standard_error(top1), top1.mean(axis=1), top1)
