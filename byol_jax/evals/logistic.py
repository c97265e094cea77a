"""Transfer via linear classification: l2-regularised logistic regression (BYOL App. E.2)."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from byol_jax import keys
from byol_jax.errors import require

# The paper's range with 12 of its 45 values, one a decade.
L2_GRID: tuple[float, ...] = tuple(float(l2) for l2 in np.logspace(-6, 5, 12))

_STD_FLOOR = 1e-6

# What a record of these functions says beside their arguments.
SETTINGS: dict[str, Any] = {
    "classifier": "multinomial logistic regression, l2 on the weights, none on the bias",
    "solver": "lbfgs",
    "standardize": "mean and std of all training features",
    "std_floor": _STD_FLOOR,
}


class Model(NamedTuple):
    """A linear classifier: classes `[K]`, weights `[D, K]`, bias `[K]`."""

    classes: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


def check_labels(features: np.ndarray, labels: np.ndarray) -> None:
    """Checks that `features` is `[N, D]` and `labels` `[N]`, with N > 0 and no label missing.

    Raises:
        UserError: there is no example.
        ValueError: a label is negative, which means "no label" elsewhere.
    """
    chex.assert_rank([features, labels], [2, 1])
    chex.assert_equal_shape_prefix([features, labels], 1)
    require(labels.size, "a linear classifier needs labelled examples: there is none")
    if labels.min() < 0:
        raise ValueError(
            f"{int((labels < 0).sum())} of {labels.size} examples have no label: drop them first"
        )


def standardize(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Subtracts the mean of `train` and divides by its standard deviation, per dimension.

    Args:
        train: `[N, D]`; its statistics are used, the deviation floored at 1e-6.
        *others: `[M, D]`, transformed likewise.

    Returns:
        `train` and `others` as float64, in order.
    """
    train = np.asarray(train, np.float64)
    mean = train.mean(axis=0)
    std = np.maximum(train.std(axis=0), _STD_FLOOR)
    return tuple((np.asarray(x, np.float64) - mean) / std for x in (train, *others))


def _inverse_strength(l2: float, num_classes: int) -> float:
    """scikit-learn's C of our l2."""
    require(l2 > 0, f"logistic regression with l2={l2}: it must be above 0")
    # scikit-learn minimises C * sum CE + |W|^2 / 2. For two classes it fits the one vector
    # w = w1 - w0; ours has w1 = -w0 = w / 2 at its optimum, hence |W|^2 = |w|^2 / 2.
    return 1 / l2 if num_classes > 2 else 2 / l2


def _count_classes(labels: np.ndarray) -> int:
    count = len(np.unique(labels))
    require(count >= 2, f"a linear classifier needs two classes or more, not {count}")
    return count


def _solve(regression: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> Model:
    with warnings.catch_warnings():
        # Separable features have their optimum at infinity as l2 goes to 0: `max_iter` ends those.
        warnings.simplefilter("ignore", category=ConvergenceWarning)
        regression.fit(features, labels)
    weights, bias = regression.coef_.T, regression.intercept_
    if len(regression.classes_) == 2:
        weights = np.concatenate([-weights, weights], axis=1) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return Model(regression.classes_, weights.copy(), bias.copy())


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    l2: float,
    *,
    max_iter: int = 200,
    tol: float = 1e-4,
) -> Model:
    """Minimises (1/N) sum CE + l2/(2N) |W|^2 with L-BFGS (BYOL App. E.2, SimCLR App. B.8.1).

    Args:
        features: `[N, D]`, standardised.
        labels: int `[N]`, 0 or more, of two classes or more.
        l2: weight of the penalty; the bias has none.
        max_iter: most iterations of L-BFGS.
        tol: largest entry of the gradient at which L-BFGS stops.

    Raises:
        UserError: `l2` is not positive, or there is only one class.
        ValueError: a label is missing.
    """
    check_labels(features, labels)
    strength = _inverse_strength(l2, _count_classes(labels))
    regression = LogisticRegression(C=strength, max_iter=max_iter, tol=tol)
    return _solve(regression, features, labels)


def predict(model: Model, features: np.ndarray) -> np.ndarray:
    """Class of the largest logit: `[M, D]` -> `[M]`."""
    return model.classes[np.argmax(features @ model.weights + model.bias, axis=-1)]


def top1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of right predictions in percent: `[M]`, `[M]` -> scalar."""
    chex.assert_equal_shape([predictions, labels])
    return 100.0 * float(np.mean(predictions == labels))


def validation_cut(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeded class-balanced cut of a training set: rows to fit on, rows to validate on, sorted.

    A class gives `fraction` of its examples, rounded, but at least one and never its last.

    Raises:
        UserError: `fraction` is outside (0, 1), or no class has two examples.
    """
    require(0 < fraction < 1, f"validation fraction {fraction}: it must lie between 0 and 1")
    kept, held_out = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[keys.permutation(len(rows), "validation", seed, int(label))]
        size = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held_out.append(rows[:size])
        kept.append(rows[size:])
    require(
        any(len(rows) for rows in held_out),
        "choosing l2 needs a class with two training examples or more: no class has",
    )
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held_out))


def select_l2(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    l2_grid: Sequence[float] = L2_GRID,
    validation_fraction: float = 0.2,
    seed: int = 0,
    max_iter: int = 200,
    tol: float = 1e-4,
) -> float:
    """The l2 of the grid with the best validation accuracy (BYOL App. E.2), the largest of equals.

    Args:
        features: `[N, D]`, standardised training features.
        labels: int `[N]`.
        l2_grid: candidates, in any order.
        validation_fraction: share of each class held out, see `validation_cut`.
        seed: of the cut.
        max_iter: most iterations of L-BFGS for each candidate.
        tol: as in `fit`.

    Raises:
        UserError: the grid is empty or not positive, or the training set is too small to be cut.
        ValueError: a label is missing.
    """
    require(len(l2_grid) > 0, "the grid of l2 is empty: give it one value or more")
    check_labels(features, labels)
    kept, held_out = validation_cut(labels, validation_fraction, seed)
    num_classes = _count_classes(labels[kept])
    best_l2, best_top1 = 0.0, -1.0
    # From the strongest penalty down, each fit starts at the solution of the one before.
    regression = LogisticRegression(max_iter=max_iter, tol=tol, warm_start=True)
    for l2 in sorted((float(l2) for l2 in l2_grid), reverse=True):
        regression.set_params(C=_inverse_strength(l2, num_classes))
        model = _solve(regression, features[kept], labels[kept])
        score = top1(predict(model, features[held_out]), labels[held_out])
        if score > best_top1:
            best_l2, best_top1 = l2, score
    return best_l2


def linear_top1(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    l2_grid: Sequence[float] = L2_GRID,
    validation_fraction: float = 0.2,
    seed: int = 0,
    max_iter: int = 200,
    tol: float = 1e-4,
) -> tuple[float, float]:
    """Linear evaluation of frozen features (BYOL App. E.2): top-1 in percent, and the chosen l2.

    l2 is chosen on a cut of the training set, the classifier fitted again on all of it, and the
    test set touched once, at the end.

    Args:
        train_features: `[N, D]`, as the network gives them.
        train_labels: int `[N]`.
        test_features: `[M, D]`.
        test_labels: int `[M]`.
        l2_grid: as in `select_l2`, like the arguments after it.

    Raises:
        UserError: as `fit` and `select_l2`.
        ValueError: a label is missing.
    """
    check_labels(test_features, test_labels)
    train, test = standardize(train_features, test_features)
    l2 = select_l2(
        train,
        train_labels,
        l2_grid=l2_grid,
        validation_fraction=validation_fraction,
        seed=seed,
        max_iter=max_iter,
        tol=tol,
    )
    model = fit(train, train_labels, l2, max_iter=max_iter, tol=tol)
    return top1(predict(model, test), test_labels), l2
