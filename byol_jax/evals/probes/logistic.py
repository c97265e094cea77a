"""Transfer via linear classification: l2-regularised logistic regression (BYOL App. E.2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.data.splits import shuffled_classes
from byol_jax.errors import require
from byol_jax.evals import grid
from byol_jax.evals.probes import lbfgs
from byol_jax.results import scores

# 45 log-spaced values from 1e-6 to 1e5 (BYOL App. E.2, SimCLR App. B.8.1), and one per decade.
L2_GRID: tuple[float, ...] = tuple(float(l2) for l2 in np.logspace(-6, 5, 45))
SHORT_GRID: tuple[float, ...] = tuple(float(l2) for l2 in np.logspace(-6, 5, 12))

_STD_FLOOR = 1e-6
_MAX_ITER = 1000
# Length of the objective's gradient at which a problem is solved. In float32 most problems end
# above it, once no step changes the objective any more.
_TOL = 1e-7

# Limits on problems that are solved together: numbers in their logits and memories (512 MiB in
# float32, and as much again for temporary arrays), and their count, so that fast-converging strong
# penalties do not wait for weak ones.
_GROUP_NUMBERS = 2**27
_GROUP_PROBLEMS = 9
# Settings of a record beside the arguments of these functions.
SETTINGS: dict[str, Any] = {
    "classifier": "multinomial logistic regression, l2 on the weights, none on the bias",
    "solver": "lbfgs",
    "tolerance": _TOL,
    "max_iter": _MAX_ITER,
}
STANDARDIZED: dict[str, Any] = {
    "standardize": "mean and std of all training features",
    "std_floor": _STD_FLOOR,
}


class Model(NamedTuple):
    """A linear classifier: classes `[K]`, weights `[D, K]`, bias `[K]`."""

    classes: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


# Features `[N, D]` and their labels int `[N]`.
Labelled = tuple[np.ndarray, np.ndarray]


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


def check_targets(features: np.ndarray, targets: np.ndarray) -> None:
    """Checks that `features` is `[N, D]` and `targets` `[N, K]` of 1, 0 and -1, with N > 0.

    Raises:
      UserError: there is no example.
      ValueError: a target is something else.
    """
    chex.assert_rank([features, targets], [2, 2])
    chex.assert_equal_shape_prefix([features, targets], 1)
    require(targets.size, "a linear classifier needs labelled examples: there is none")
    if not np.isin(targets, (-1, 0, 1)).all():
        raise ValueError("targets of several classes per example must be 1, 0 or -1 (unknown)")


def standardize(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Subtracts the mean of `train` and divides by its standard deviation, per dimension.

    Args:
      train: `[N, D]`; its statistics are used, in float64, the deviation floored at 1e-6.
      *others: `[M, D]`, transformed likewise.

    Returns:
      `train` and `others` in the precision of each, in order.
    """
    mean = train.mean(axis=0, dtype=np.float64)
    std = np.maximum(train.std(axis=0, dtype=np.float64, mean=mean[None]), _STD_FLOOR)
    return tuple(((x - mean) / std).astype(x.dtype) for x in (train, *others))


def _targets(labels: np.ndarray, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes `[K]` and targets `[N, K]` of 1, 0 and -1."""
    if loss == "sigmoid":
        return np.arange(labels.shape[-1]), labels
    classes, places = np.unique(labels, return_inverse=True)
    require(len(classes) >= 2, f"a linear classifier needs two classes or more, not {len(classes)}")
    return classes, np.eye(len(classes), dtype=np.int8)[places]


def _check_l2(l2_grid: Sequence[float]) -> None:
    require(len(l2_grid) > 0, "the grid of l2 is empty: give it one value or more")
    for l2 in l2_grid:
        require(l2 > 0, f"logistic regression with l2={l2}: it must be above 0")


def _check_finite(scale: jax.Array) -> None:
    require(
        np.isfinite(np.asarray(scale)).all(),
        "some features are not finite: no classifier can be fitted to them",
    )


def _groups(order: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of one size, `most` or less, and for each which entries are not padding."""
    number = -(-len(order) // max(most, 1))
    width = -(-len(order) // number)
    missing = number * width - len(order)
    counts = np.arange(number * width) < len(order)
    filled = np.pad(order, (0, missing), mode="edge")
    yield from zip(filled.reshape(number, width), counts.reshape(number, width), strict=True)


def _dtype(features: np.ndarray) -> Any:
    """float64 where JAX has it and the features are float64, else float32."""
    dtype = jax.dtypes.canonicalize_dtype(features.dtype)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32


def fit_path(
    features: np.ndarray,
    labels: np.ndarray,
    l2_grid: Sequence[float],
    *,
    loss: str = "softmax",
    max_iter: int = _MAX_ITER,
    tol: float = _TOL,
) -> list[Model]:
    """A classifier per penalty: minimises (1/N) sum loss + l2/(2N) |W|^2 (BYOL App. E.2).

    Penalties are solved in groups from the strongest down. A group starts at the solution of the
    previous one. The features go to the device once.

    Args:
      features: `[N, D]`; float64 is kept where JAX has it (`jax_enable_x64`).
      labels: int `[N]`, 0 or more, of at least two classes, for `softmax`; int `[N, K]` of 1, 0 and
        -1 = unknown for `sigmoid`, whose loss is summed over classes.
      l2_grid: weights of the penalty, in any order; the bias has no penalty.
      loss: one of `lbfgs.LOSSES`.
      max_iter: largest number of L-BFGS iterations.
      tol: length of the gradient at which a penalty is solved.

    Returns:
      Models in the order of `l2_grid`.

    Raises:
      UserError: the grid is empty or not positive, or there is only one class.
      ValueError: a label is missing or not allowed, or the loss is unknown.
    """
    if loss not in lbfgs.LOSSES:
        raise ValueError(f"loss={loss!r} must be one of: {', '.join(lbfgs.LOSSES)}")
    check_labels(features, labels) if loss == "softmax" else check_targets(features, labels)
    _check_l2(l2_grid)
    classes, targets = _targets(labels, loss)
    turned, scale, basis, mean = lbfgs.turn(jnp.asarray(features, _dtype(features)))
    _check_finite(scale)
    examples = lbfgs.Examples(turned, scale, jnp.asarray(targets, turned.dtype))

    (count, size), num_classes = turned.shape, len(classes)
    numbers = num_classes * (4 * count + 2 * lbfgs.MEMORY * size)
    order = np.argsort([-l2 for l2 in l2_grid], kind="stable")
    models: dict[int, Model] = {}
    w = jnp.zeros((size, num_classes), turned.dtype)
    for group, counts in _groups(order, min(_GROUP_NUMBERS // numbers, _GROUP_PROBLEMS)):
        solved, _, _ = lbfgs.solve(
            examples,
            jnp.asarray([l2_grid[i] / count for i in group], turned.dtype),
            jnp.broadcast_to(w, (len(group), *w.shape)),
            jnp.asarray(counts),
            tol,
            max_iter,
            loss=loss,
        )
        for i, w in zip(group[counts], solved, strict=False):
            models[int(i)] = Model(classes, *map(np.asarray, lbfgs.turn_back(w, basis, mean)))
    return [models[i] for i in range(len(l2_grid))]


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    l2: float,
    *,
    loss: str = "softmax",
    max_iter: int = _MAX_ITER,
    tol: float = _TOL,
) -> Model:
    """`fit_path` for one penalty."""
    (model,) = fit_path(features, labels, [l2], loss=loss, max_iter=max_iter, tol=tol)
    return model


def fit_draws(
    features: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    l2: float,
    *,
    max_iter: int = _MAX_ITER,
    tol: float = _TOL,
) -> list[Model]:
    """Classifiers fitted to B draws of n rows, all at once, with one penalty.

    Args:
      features: `[N, D]`.
      labels: int `[N]`.
      rows: int `[B, n]`; all draws have the same classes.
      l2: weight of the penalty; like `max_iter` and `tol` as in `fit_path`, for n examples.

    Raises:
      UserError: `l2` is not positive, or there is only one class.
      ValueError: a label is missing, or the classes differ from draw to draw.
    """
    check_labels(features, labels)
    _check_l2([l2])
    drawn = [_targets(labels[draw], "softmax") for draw in rows]
    classes = drawn[0][0]
    if any(not np.array_equal(classes, other) for other, _ in drawn):
        raise ValueError("draws with different classes cannot be fitted side by side")
    dtype, (count, num_classes) = _dtype(features), drawn[0][1].shape
    size = min(features.shape[1], count)
    numbers = num_classes * (4 * count + 2 * lbfgs.MEMORY * size) + 2 * count * features.shape[1]
    models: list[Model] = []
    for group, counts in _groups(np.arange(len(rows)), _GROUP_NUMBERS // numbers):
        turned, scale, basis, mean = jax.vmap(lbfgs.turn)(jnp.asarray(features[rows[group]], dtype))
        _check_finite(scale)
        targets = jnp.asarray(np.stack([drawn[i][1] for i in group]), dtype)
        w, _, _ = lbfgs.solve(
            lbfgs.Examples(turned, scale, targets),
            jnp.full(len(group), l2 / count, dtype),
            jnp.zeros((len(group), turned.shape[-1], num_classes), dtype),
            jnp.asarray(counts),
            tol,
            max_iter,
            loss="softmax",
        )
        weights, bias = map(np.asarray, jax.vmap(lbfgs.turn_back)(w, basis, mean))
        models += [Model(classes, weights[i], bias[i]) for i in np.flatnonzero(counts)]
    return models


def decision(model: Model, features: np.ndarray) -> np.ndarray:
    """Logits: `[M, D]` -> `[M, K]`."""
    return features @ model.weights + model.bias


def predict(model: Model, features: np.ndarray) -> np.ndarray:
    """Class of the largest logit: `[M, D]` -> `[M]`."""
    return model.classes[np.argmax(decision(model, features), axis=-1)]


def validation_cut(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeded class-balanced cut of a training set: rows to fit on, rows to validate on, sorted.

    Each class gives the rounded `fraction` of its examples: at least one, but never its last.

    Raises:
      UserError: `fraction` is outside (0, 1), or no class has two examples.
    """
    require(0 < fraction < 1, f"validation_fraction={fraction} must be above 0 and below 1")
    kept, held_out = [], []
    for rows in shuffled_classes(labels, "validation", seed):
        size = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held_out.append(rows[:size])
        kept.append(rows[size:])
    require(
        any(len(rows) for rows in held_out),
        "choosing l2 needs a class with at least two training examples: there is none",
    )
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held_out))


class Choice(NamedTuple):
    """The choice among several penalties.

    Attributes:
      l2: the chosen penalty.
      score: its validation score.
      l2_at_end_of_grid: `low` or `high` where it is an end of the grid, else None.
    """

    l2: float
    score: float
    l2_at_end_of_grid: str | None


def choose(
    models: Sequence[Model], l2_grid: Sequence[float], score: Callable[[Model], float]
) -> Choice:
    """The l2 with the best score (BYOL App. E.2), of equals by the rule of `grid.choose`.

    A choice at an end of the grid is logged as a warning, since a better one may lie outside.

    Args:
      models: models from `fit_path`.
      l2_grid: their penalties.
      score: score of a model on validation examples.
    """
    scores_of = [score(model) for model in models]
    best = grid.choose(scores_of, [(l2,) for l2 in l2_grid])
    l2 = float(l2_grid[best])
    return Choice(l2, scores_of[best], grid.end_of_grid("l2", l2_grid, l2))


def select_l2(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    l2_grid: Sequence[float] = SHORT_GRID,
    validation_fraction: float = 0.2,
    seed: int = 0,
    max_iter: int = _MAX_ITER,
    tol: float = _TOL,
) -> Choice:
    """Chooses l2 by top-1 on a held-out part of the training set; see `choose`.

    Args:
      features: `[N, D]`, standardised training features.
      labels: int `[N]`.
      l2_grid: candidates, in any order.
      validation_fraction: share of each class that is held out; see `validation_cut`.
      seed: seed of the cut.
      max_iter, tol: as in `fit_path`.

    Raises:
      UserError: the grid is empty or not positive, or the training set is too small to be cut.
      ValueError: a label is missing.
    """
    check_labels(features, labels)
    kept, held_out = validation_cut(labels, validation_fraction, seed)
    models = fit_path(features[kept], labels[kept], l2_grid, max_iter=max_iter, tol=tol)

    def top1(model: Model) -> float:
        return scores.top1(predict(model, features[held_out]), labels[held_out])

    return choose(models, l2_grid, top1)


class Linear(NamedTuple):
    """Top-1 in percent on the test set, and how l2 was chosen."""

    top1: float
    choice: Choice


def linear_top1(
    train: Labelled,
    test: Labelled,
    *,
    l2_grid: Sequence[float] = SHORT_GRID,
    validation_fraction: float = 0.2,
    seed: int = 0,
    max_iter: int = _MAX_ITER,
    tol: float = _TOL,
) -> Linear:
    """Linear evaluation of frozen features, standardised (BYOL App. E.2).

    l2 is chosen on a cut of the training set, the classifier is fitted again to all of it, and the
    test set is read once, at the end.

    Args:
      train: training features as the network gives them, and their labels.
      test: test features and labels.
      l2_grid, validation_fraction, seed, max_iter, tol: as in `select_l2`.

    Raises:
      UserError: as `fit` and `select_l2`.
      ValueError: a label is missing.
    """
    check_labels(*test)
    train_features, test_features = standardize(train[0], test[0])
    choice = select_l2(
        train_features,
        train[1],
        l2_grid=l2_grid,
        validation_fraction=validation_fraction,
        seed=seed,
        max_iter=max_iter,
        tol=tol,
    )
    model = fit(train_features, train[1], choice.l2, max_iter=max_iter, tol=tol)
    return Linear(scores.top1(predict(model, test_features), test[1]), choice)
