"""Transfer via linear classification: l2-regularised logistic regression (BYOL App. E.2).

One solver for a grid of penalties on the same examples, and for many small problems of different
examples. It is an L-BFGS of our own instead of `optax.lbfgs` under `vmap`, for three reasons.
There, one problem whose line search goes on makes all others repeat theirs, and float32 lets the
search run out its steps once values no longer differ. Logits are linear along a line, so that
here a step of the search costs no product with the features. And the problem has a good inverse
Hessian to start from, which shortens the worst of the grid from a thousand iterations to tens.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys
from byol_jax.errors import require
from byol_jax.evals import scores

_logger = logging.getLogger(__name__)

# 45 log-spaced values from 1e-6 to 1e5 (BYOL App. E.2, SimCLR App. B.8.1), and one a decade.
L2_GRID: tuple[float, ...] = tuple(float(l2) for l2 in np.logspace(-6, 5, 45))
SHORT_GRID: tuple[float, ...] = tuple(float(l2) for l2 in np.logspace(-6, 5, 12))

# softmax: one class an example; sigmoid: each class by itself (one versus rest).
LOSSES = ("softmax", "sigmoid")

_STD_FLOOR = 1e-6
_MAX_ITER = 1000
# Largest length of the objective's gradient, and so of any entry. float32 mostly ends above it,
# where no step changes the objective any more.
_TOL = 1e-7

# Pairs of steps and gradient differences that L-BFGS remembers.
_MEMORY = 10
# Problems solved side by side: at most so many numbers in their logits and memories (1 GiB in
# float32, with as much again for temporary arrays), and no more than so many, so that those which
# converge fast, the strong penalties, do not wait for the weak ones.
_GROUP_NUMBERS = 2**27
_GROUP_PROBLEMS = 9
# Steps of a line search, and the share of the initial slope at which it ends.
_SEARCH_STEPS = 20
_SLOPE_LEFT = 0.25
# Logits follow the steps by addition; after so many of them they are made anew.
_REFRESH = 32
# Steps in a row that bring nothing in the arithmetic at hand before a problem is given up.
_PATIENCE = 3

# What a record of these functions says beside their arguments.
SETTINGS: dict[str, Any] = {
    "classifier": "multinomial logistic regression, l2 on the weights, none on the bias",
    "solver": "lbfgs (jax)",
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


class _Examples(NamedTuple):
    """What P problems are fitted to; a leading axis P is left out where they share it.

    Attributes:
      features: `[P, N, d]`, uncorrelated columns of mean zero, then one of ones for the bias.
      scale: `[P, d]`, mean squares of the columns.
      targets: `[P, N, K]`, 1 and 0; -1 = not known (sigmoid only).
    """

    features: jax.Array
    scale: jax.Array
    targets: jax.Array


class _State(NamedTuple):
    """Of P problems, after `done` iterations; w = weights over bias."""

    done: jax.Array
    active: jax.Array  # [P]
    idle: jax.Array  # [P], steps in a row that brought nothing
    w: jax.Array  # [P, d, K]
    logits: jax.Array  # [P, N, K]
    gradient: jax.Array  # [P, d, K]
    curvature: jax.Array  # [P, 1, K]
    steps: jax.Array  # [memory, P, d, K]
    changes: jax.Array  # [memory, P, d, K], of the gradient along `steps`
    inverse: jax.Array  # [memory, P], 1 / <step, change>; 0 = none


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of each problem: `[P, d, K]`, `[P, d, K]` -> `[P]`."""
    return jnp.sum(a * b, axis=(-2, -1))


def _each(values: jax.Array) -> jax.Array:
    """`[P]` -> `[P, 1, 1]`."""
    return values[:, None, None]


def _product(equation: str, features: jax.Array, other: jax.Array) -> jax.Array:
    """`nd,pdk->pnk` and the like, `features` with or without an axis p, in full precision."""
    if features.ndim == 3:
        equation = f"p{equation}"
    return jnp.einsum(equation, features, other, precision=jax.lax.Precision.HIGHEST)


def _probabilities(loss: str, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """`[P, N, K]`; 0 where the target is not known, so that it has neither loss nor curvature."""
    if loss == "softmax":
        return jax.nn.softmax(logits)
    return jnp.where(targets >= 0, jax.nn.sigmoid(logits), 0)


def _slopes(
    loss: str, logits: jax.Array, targets: jax.Array, change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the mean loss along `change` of the logits, each `[P]`."""
    p = _probabilities(loss, logits, targets)
    first = jnp.sum((p - jnp.maximum(targets, 0)) * change, axis=(-2, -1))
    if loss == "softmax":
        mean = jnp.sum(p * change, axis=-1, keepdims=True)
        second = jnp.sum(p * (change - mean) ** 2, axis=(-2, -1))
    else:
        second = jnp.sum(p * (1 - p) * change**2, axis=(-2, -1))
    return first / logits.shape[-2], second / logits.shape[-2]


def _gradient(
    loss: str, examples: _Examples, penalty: jax.Array, w: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradient `[P, d, K]` of the objective, and mean curvature of the loss in each logit."""
    count, classes = logits.shape[-2:]
    p = _probabilities(loss, logits, examples.targets)
    residual = p - jnp.maximum(examples.targets, 0)
    gradient = _product("nd,pnk->pdk", examples.features, residual) / count + penalty * w
    curvature = jnp.mean(p * (1 - p), axis=-2, keepdims=True)
    if loss == "softmax":  # 1 / K where all are equal: exact, as directions that matter sum to 0
        curvature *= classes / (classes - 1)
    return gradient, curvature


class _Search(NamedTuple):
    """Of P line searches, after `done` steps: at length t next, between low and high, all `[P]`."""

    done: jax.Array
    active: jax.Array
    t: jax.Array
    low: jax.Array
    high: jax.Array


def _search(
    slopes: Callable[[jax.Array], tuple[jax.Array, jax.Array]], active: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Step lengths at which convex functions of one number are nearly flat, by Newton's method.

    It looks at slopes alone: they still have a sign where values in float32 are all the same.

    Args:
      slopes: first and second derivative at `[P]` lengths, the first negative at 0.
      active: `[P]`; others get 0.
      dtype: of the lengths.

    Returns:
      Lengths `[P]`, 0 where there is none, and slopes at 0.
    """
    zeros = jnp.zeros(active.shape, dtype)
    start, second = slopes(zeros)

    def newton(t: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return t - first / jnp.where(second > 0, second, jnp.nan)

    def go_on(state: _Search) -> jax.Array:
        return (state.done < _SEARCH_STEPS) & jnp.any(state.active)

    def look(state: _Search) -> _Search:
        t = state.t
        first, second = slopes(t)
        found = jnp.abs(first) <= _SLOPE_LEFT * jnp.abs(start)
        down = first < 0  # not so where it is not a number: then the step was too long
        low = jnp.where(state.active & (down | found), t, state.low)
        high = jnp.where(state.active & ~down, t, state.high)
        better = newton(t, first, second)
        inside = (better > low) & (better < high) & (better < 16 * t)
        beyond = jnp.where(jnp.isinf(high), 4 * t, (low + high) / 2)
        t = jnp.where(inside, better, beyond)
        return _Search(state.done + 1, state.active & ~found, t, low, high)

    t = newton(zeros, start, second)
    t = jnp.where(t > 0, t, 1)
    state = _Search(jnp.int32(0), active & (start < 0), t, zeros, jnp.full_like(zeros, jnp.inf))
    return jax.lax.while_loop(go_on, look, state).low, start


def _direction(state: _State, inverse_hessian: jax.Array) -> jax.Array:
    """The two loops of L-BFGS, for all problems at once: `[P, d, K]`.

    Args:
      state: with its memory, the latest pair at (done - 1) % memory.
      inverse_hessian: `[P, d, K]`, the diagonal one that the memory improves upon.
    """

    def place(age: jax.Array) -> jax.Array:
        return (state.done - 1 - age) % _MEMORY

    def first(age: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, shares = carry
        i = place(age)
        share = state.inverse[i] * _dot(state.steps[i], q)
        return q - _each(share) * state.changes[i], shares.at[i].set(share)

    def second(age: jax.Array, r: jax.Array) -> jax.Array:
        i = place(_MEMORY - 1 - age)
        share = state.inverse[i] * _dot(state.changes[i], r)
        return r + _each(shares[i] - share) * state.steps[i]

    shares = jnp.zeros_like(state.inverse)
    q, shares = jax.lax.fori_loop(0, _MEMORY, first, (state.gradient, shares))
    last = place(jnp.int32(0))
    change = state.changes[last]
    size = _dot(change, inverse_hessian * change) * state.inverse[last]
    r = inverse_hessian * q / _each(jnp.where(size > 0, size, 1))
    return -jax.lax.fori_loop(0, _MEMORY, second, r)


@functools.partial(jax.jit, static_argnames="loss")
def _solve(
    examples: _Examples,
    penalty: jax.Array,
    start: jax.Array,
    active: jax.Array,
    tol: jax.Array,
    max_iter: jax.Array,
    *,
    loss: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """P problems at once.

    A problem rests once its gradient is at most `tol`, or when nothing more is to be had in its
    precision: its step is 0 from then on, whatever the others do.

    Args:
      examples: see `_Examples`.
      penalty: `[P]`, l2 / N.
      start: `[P, d, K]`.
      active: `[P]`, False for those that only fill up the group.
      tol: largest norm of the gradient.
      max_iter: most iterations.
      loss: one of `LOSSES`.

    Returns:
      w `[P, d, K]`, norms of the gradients `[P]`, iterations.
    """
    dtype = start.dtype
    bias = jnp.arange(start.shape[-2]) == start.shape[-2] - 1
    penalty = jnp.where(bias[:, None], 0, _each(penalty)).astype(dtype)  # [P, d, 1]
    nothing = jnp.finfo(dtype).eps / 16
    smallest = jnp.finfo(dtype).tiny ** 0.5

    def norm(gradient: jax.Array) -> jax.Array:
        return jnp.sqrt(_dot(gradient, gradient))

    def go_on(state: _State) -> jax.Array:
        return (state.done < max_iter) & jnp.any(state.active)

    def iterate(state: _State) -> _State:
        hessian = state.curvature * examples.scale[..., :, None] + penalty
        inverse_hessian = 1 / jnp.maximum(hessian, smallest)
        step = _direction(state, inverse_hessian)
        uphill = ~(_dot(step, state.gradient) < 0)  # by rounding alone
        step = jnp.where(_each(uphill), -inverse_hessian * state.gradient, step)
        step = jnp.where(_each(state.active), step, 0)
        change = _product("nd,pdk->pnk", examples.features, step)
        of_penalty = _dot(penalty * state.w, step), _dot(penalty * step, step)

        def slopes(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = state.logits + _each(t) * change
            first, second = _slopes(loss, logits, examples.targets, change)
            return first + of_penalty[0] + t * of_penalty[1], second + of_penalty[1]

        t, slope = _search(slopes, state.active, dtype)
        step = _each(t) * step
        w = state.w + step
        logits = jax.lax.cond(
            state.done % _REFRESH == _REFRESH - 1,
            lambda: _product("nd,pdk->pnk", examples.features, w),
            lambda: state.logits + _each(t) * change,
        )
        gradient, curvature = _gradient(loss, examples, penalty, w, logits)
        difference = gradient - state.gradient
        product = _dot(step, difference)
        i = state.done % _MEMORY
        idle = jnp.where(-slope * t / 2 > nothing, 0, state.idle + 1)
        return _State(
            done=state.done + 1,
            active=state.active & (norm(gradient) > tol) & (t > 0) & (idle < _PATIENCE),
            idle=idle,
            w=w,
            logits=logits,
            gradient=gradient,
            curvature=curvature,
            steps=state.steps.at[i].set(step),
            changes=state.changes.at[i].set(difference),
            inverse=state.inverse.at[i].set(
                jnp.where(product > 0, 1 / jnp.where(product > 0, product, 1), 0)
            ),
        )

    logits = _product("nd,pdk->pnk", examples.features, start)
    gradient, curvature = _gradient(loss, examples, penalty, start, logits)
    memory = jnp.zeros((_MEMORY, *start.shape), dtype)
    state = _State(
        done=jnp.int32(0),
        active=active & (norm(gradient) > tol),
        idle=jnp.zeros(len(start), jnp.int32),
        w=start,
        logits=logits,
        gradient=gradient,
        curvature=curvature,
        steps=memory,
        changes=memory,
        inverse=jnp.zeros((_MEMORY, len(start)), dtype),
    )
    state = jax.lax.while_loop(go_on, iterate, state)
    return state.w, norm(state.gradient), state.done


@jax.jit
def _turn(features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Coordinates in which the curvature of the loss is close to a diagonal matrix.

    Centring moves the free bias alone, and turning leaves |W| as it is: the problem is the same.

    Args:
      features: `[N, D]`.

    Returns:
      Turned features `[N, d + 1]`, d = min(N, D), the last column of ones; mean squares of the
      columns `[d + 1]`; basis `[D, d]`; mean `[D]`.
    """
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    count, size = features.shape
    mean = jnp.mean(features, axis=0)
    centred, basis = features - mean, None
    if count < size:  # the solution is a combination of the examples
        basis, triangle = jnp.linalg.qr(centred.T)
        centred = triangle.T
    squares, axes = jnp.linalg.eigh(product(centred.T, centred) / count)
    ones = jnp.ones((count, 1), features.dtype)
    turned = jnp.concatenate([product(centred, axes), ones], axis=1)
    scale = jnp.concatenate([jnp.maximum(squares, 0), ones[0]])
    return turned, scale, axes if basis is None else product(basis, axes), mean


@jax.jit
def _turn_back(w: jax.Array, basis: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights `[D, K]` and bias `[K]` of the features as they were, from w `[d + 1, K]`."""
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    weights = product(basis, w[:-1])
    return weights, w[-1] - product(mean, weights)


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
        raise ValueError("targets of several classes an example must be 1, 0 or -1 (not known)")


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
    """Groups of one size, `most` or less; the last is filled up. And which of them count."""
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
    """A classifier for each penalty: minimises (1/N) sum loss + l2/(2N) |W|^2 (BYOL App. E.2).

    The penalties are solved side by side, in groups from the strongest down, each group from the
    end of the one before. The features go to the device once.

    Args:
        features: `[N, D]`; float64 is kept where JAX has it (`jax_enable_x64`).
        labels: of `softmax`, int `[N]`, 0 or more, of two classes or more; of `sigmoid`, where the
            loss is summed over classes, int `[N, K]` of 1, 0 and -1 = not known.
        l2_grid: weights of the penalty, in any order; the bias has none.
        loss: one of `LOSSES`.
        max_iter: most iterations of L-BFGS.
        tol: length of the gradient at which a penalty is done.

    Returns:
        Models in the order of `l2_grid`.

    Raises:
        UserError: the grid is empty or not positive, or there is only one class.
        ValueError: a label is missing or not allowed, or the loss is unknown.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} must be one of: {', '.join(LOSSES)}")
    check_labels(features, labels) if loss == "softmax" else check_targets(features, labels)
    _check_l2(l2_grid)
    classes, targets = _targets(labels, loss)
    turned, scale, basis, mean = _turn(jnp.asarray(features, _dtype(features)))
    _check_finite(scale)
    examples = _Examples(turned, scale, jnp.asarray(targets, turned.dtype))

    (count, size), num_classes = turned.shape, len(classes)
    numbers = num_classes * (4 * count + 2 * _MEMORY * size)
    order = np.argsort([-l2 for l2 in l2_grid], kind="stable")
    models: dict[int, Model] = {}
    w = jnp.zeros((size, num_classes), turned.dtype)
    for group, counts in _groups(order, min(_GROUP_NUMBERS // numbers, _GROUP_PROBLEMS)):
        solved, _, _ = _solve(
            examples,
            jnp.asarray([l2_grid[i] / count for i in group], turned.dtype),
            jnp.broadcast_to(w, (len(group), *w.shape)),
            jnp.asarray(counts),
            tol,
            max_iter,
            loss=loss,
        )
        for i, w in zip(group[counts], solved, strict=False):
            models[int(i)] = Model(classes, *map(np.asarray, _turn_back(w, basis, mean)))
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
    """A classifier from each of B draws of n rows, all at once, with one penalty.

    Args:
        features: `[N, D]`.
        labels: int `[N]`.
        rows: int `[B, n]`; all draws have the same classes.
        l2: as in `fit_path` for n examples, like the arguments after it.

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
    numbers = num_classes * (4 * count + 2 * _MEMORY * size) + 2 * count * features.shape[1]
    models: list[Model] = []
    for group, counts in _groups(np.arange(len(rows)), _GROUP_NUMBERS // numbers):
        turned, scale, basis, mean = jax.vmap(_turn)(jnp.asarray(features[rows[group]], dtype))
        _check_finite(scale)
        targets = jnp.asarray(np.stack([drawn[i][1] for i in group]), dtype)
        w, _, _ = _solve(
            _Examples(turned, scale, targets),
            jnp.full(len(group), l2 / count, dtype),
            jnp.zeros((len(group), turned.shape[-1], num_classes), dtype),
            jnp.asarray(counts),
            tol,
            max_iter,
            loss="softmax",
        )
        weights, bias = map(np.asarray, jax.vmap(_turn_back)(w, basis, mean))
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


class Choice(NamedTuple):
    """The chosen penalty, its validation score, and the end of the grid it lies at, if it does."""

    l2: float
    score: float
    l2_at_end_of_grid: str | None


def choose(
    models: Sequence[Model], l2_grid: Sequence[float], score: Callable[[Model], float]
) -> Choice:
    """The l2 with the best score (BYOL App. E.2), of equal ones the largest.

    A choice at the end of a grid is also logged as a warning: the best may lie outside.

    Args:
        models: of `fit_path`.
        l2_grid: as it had it.
        score: of a model on validation examples.
    """
    best, l2 = max((score(model), float(l2)) for model, l2 in zip(models, l2_grid, strict=True))
    end = None
    if min(l2_grid) < max(l2_grid):
        end = {min(l2_grid): "low", max(l2_grid): "high"}.get(l2)
    if end:
        _logger.warning(
            "the best l2, %g, is at the %s end of the grid %g .. %g",
            *(l2, end, min(l2_grid), max(l2_grid)),
        )
    return Choice(l2, best, end)


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
    """The l2 of the grid with the best top-1 on a part of the training set, see `choose`.

    Args:
        features: `[N, D]`, standardised training features.
        labels: int `[N]`.
        l2_grid: candidates, in any order.
        validation_fraction: share of each class held out, see `validation_cut`.
        seed: of the cut.
        max_iter: as in `fit_path`.
        tol: likewise.

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
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    l2_grid: Sequence[float] = SHORT_GRID,
    validation_fraction: float = 0.2,
    seed: int = 0,
    max_iter: int = _MAX_ITER,
    tol: float = _TOL,
) -> Linear:
    """Linear evaluation of frozen features, standardised (BYOL App. E.2).

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
    choice = select_l2(
        train,
        train_labels,
        l2_grid=l2_grid,
        validation_fraction=validation_fraction,
        seed=seed,
        max_iter=max_iter,
        tol=tol,
    )
    model = fit(train, train_labels, choice.l2, max_iter=max_iter, tol=tol)
    return Linear(scores.top1(predict(model, test), test_labels), choice)
