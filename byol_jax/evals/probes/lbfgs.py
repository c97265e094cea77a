"""L-BFGS for many logistic regressions at once (BYOL App. E.2).

One solver for a grid of penalties on the same examples, and for many small problems with different
examples. It replaces `optax.lbfgs` under `vmap` for three reasons:
- Under `vmap` one problem whose line search goes on makes all others repeat theirs, and in float32
  a search uses up its steps once values no longer differ.
- Logits are linear along a line, so here a step of the search needs no product with the features.
- The problem has a good inverse Hessian to start from, which shortens the slowest penalties from a
  thousand iterations to tens.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# softmax: one class per example; sigmoid: each class by itself (one versus rest).
LOSSES = ("softmax", "sigmoid")

# Number of pairs of steps and gradient differences that L-BFGS remembers.
MEMORY = 10
# Largest number of steps of a line search, and the share of the initial slope at which it ends.
_SEARCH_STEPS = 20
_SLOPE_LEFT = 0.25
# Logits follow the steps by addition. After this number of steps they are computed anew.
_REFRESH = 32
# Consecutive steps without measurable progress after which a problem rests.
_PATIENCE = 3


class Examples(NamedTuple):
    """Examples of P problems; the leading axis P is missing where all problems share them.

    Attributes:
      features: `[P, N, d]`, uncorrelated columns of mean zero, then one of ones for the bias.
      scale: `[P, d]`, mean squares of the columns.
      targets: `[P, N, K]`, 1 and 0; -1 = unknown (sigmoid only).
    """

    features: jax.Array
    scale: jax.Array
    targets: jax.Array


class _State(NamedTuple):
    """P problems after `done` iterations; w is the weights over the bias."""

    done: jax.Array
    active: jax.Array  # [P]
    idle: jax.Array  # [P], consecutive steps without progress
    w: jax.Array  # [P, d, K]
    logits: jax.Array  # [P, N, K]
    gradient: jax.Array  # [P, d, K]
    curvature: jax.Array  # [P, 1, K]
    steps: jax.Array  # [memory, P, d, K]
    changes: jax.Array  # [memory, P, d, K], changes of the gradient along `steps`
    inverse: jax.Array  # [memory, P], 1 / <step, change>; 0 = none


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner product per problem: `[P, d, K]`, `[P, d, K]` -> `[P]`."""
    return jnp.sum(a * b, axis=(-2, -1))


def _each(values: jax.Array) -> jax.Array:
    """`[P]` -> `[P, 1, 1]`."""
    return values[:, None, None]


def _product(equation: str, features: jax.Array, other: jax.Array) -> jax.Array:
    """An einsum such as `nd,pdk->pnk` in full precision; `features` may have an axis p."""
    if features.ndim == 3:
        equation = f"p{equation}"
    return jnp.einsum(equation, features, other, precision=jax.lax.Precision.HIGHEST)


def _probabilities(loss: str, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Probabilities `[P, N, K]`; 0 for unknown targets, which so have no loss and no curvature."""
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
    loss: str, examples: Examples, penalty: jax.Array, w: jax.Array, logits: jax.Array
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
    """P line searches after `done` steps; the next length t is between low and high, all `[P]`."""

    done: jax.Array
    active: jax.Array
    t: jax.Array
    low: jax.Array
    high: jax.Array


def _search(
    slopes: Callable[[jax.Array], tuple[jax.Array, jax.Array]], active: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Step lengths at which convex functions of one number are nearly flat, by Newton's method.

    It reads slopes alone: they still have a sign where float32 values no longer differ.

    Args:
      slopes: first and second derivative at `[P]` lengths, the first negative at 0.
      active: `[P]`; a search that is not active returns 0.
      dtype: type of the lengths.

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
        is_flat = jnp.abs(first) <= _SLOPE_LEFT * jnp.abs(start)
        down = first < 0  # False for NaN, where the step was too long
        low = jnp.where(state.active & (down | is_flat), t, state.low)
        high = jnp.where(state.active & ~down, t, state.high)
        better = newton(t, first, second)
        inside = (better > low) & (better < high) & (better < 16 * t)
        beyond = jnp.where(jnp.isinf(high), 4 * t, (low + high) / 2)
        t = jnp.where(inside, better, beyond)
        return _Search(state.done + 1, state.active & ~is_flat, t, low, high)

    t = newton(zeros, start, second)
    t = jnp.where(t > 0, t, 1)
    state = _Search(jnp.int32(0), active & (start < 0), t, zeros, jnp.full_like(zeros, jnp.inf))
    return jax.lax.while_loop(go_on, look, state).low, start


def _direction(state: _State, inverse_hessian: jax.Array) -> jax.Array:
    """The two loops of L-BFGS, for all problems at once: `[P, d, K]`.

    Args:
      state: the problems; the latest pair of the memory is at (done - 1) % memory.
      inverse_hessian: `[P, d, K]`, the diagonal that the memory improves upon.
    """

    def place(age: jax.Array) -> jax.Array:
        return (state.done - 1 - age) % MEMORY

    def first(age: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, shares = carry
        i = place(age)
        share = state.inverse[i] * _dot(state.steps[i], q)
        return q - _each(share) * state.changes[i], shares.at[i].set(share)

    def second(age: jax.Array, r: jax.Array) -> jax.Array:
        i = place(MEMORY - 1 - age)
        share = state.inverse[i] * _dot(state.changes[i], r)
        return r + _each(shares[i] - share) * state.steps[i]

    shares = jnp.zeros_like(state.inverse)
    q, shares = jax.lax.fori_loop(0, MEMORY, first, (state.gradient, shares))
    last = place(jnp.int32(0))
    change = state.changes[last]
    size = _dot(change, inverse_hessian * change) * state.inverse[last]
    r = inverse_hessian * q / _each(jnp.where(size > 0, size, 1))
    return -jax.lax.fori_loop(0, MEMORY, second, r)


class _Problems(NamedTuple):
    """P objectives: the mean loss of the examples plus penalty / 2 |w|^2 without the bias.

    Attributes:
      loss: one of `LOSSES`; part of the program.
      examples: examples that the problems are fitted to.
      penalty: `[P, d, 1]`, 0 for the bias.
    """

    loss: str
    examples: Examples
    penalty: jax.Array


def _norm(gradient: jax.Array) -> jax.Array:
    """Lengths of the problems' gradients: `[P, d, K]` -> `[P]`."""
    return jnp.sqrt(_dot(gradient, gradient))


def _descent(problems: _Problems, state: _State) -> jax.Array:
    """The direction of the next step, downhill, and 0 for problems at rest: `[P, d, K]`."""
    smallest = jnp.finfo(state.w.dtype).tiny ** 0.5
    hessian = state.curvature * problems.examples.scale[..., :, None] + problems.penalty
    inverse_hessian = 1 / jnp.maximum(hessian, smallest)
    step = _direction(state, inverse_hessian)
    uphill = ~(_dot(step, state.gradient) < 0)  # by rounding alone
    step = jnp.where(_each(uphill), -inverse_hessian * state.gradient, step)
    return jnp.where(_each(state.active), step, 0)


def _iterate(problems: _Problems, tol: jax.Array, state: _State) -> _State:
    """One iteration of L-BFGS: a direction, a line search along it, and the memory of both."""
    loss, examples, penalty = problems
    nothing = jnp.finfo(state.w.dtype).eps / 16
    step = _descent(problems, state)
    change = _product("nd,pdk->pnk", examples.features, step)
    of_penalty = _dot(penalty * state.w, step), _dot(penalty * step, step)

    def slopes(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = state.logits + _each(t) * change
        first, second = _slopes(loss, logits, examples.targets, change)
        return first + of_penalty[0] + t * of_penalty[1], second + of_penalty[1]

    t, slope = _search(slopes, state.active, state.w.dtype)
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
    i = state.done % MEMORY
    idle = jnp.where(-slope * t / 2 > nothing, 0, state.idle + 1)
    return _State(
        done=state.done + 1,
        active=state.active & (_norm(gradient) > tol) & (t > 0) & (idle < _PATIENCE),
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


@functools.partial(jax.jit, static_argnames="loss")
def solve(
    examples: Examples,
    penalty: jax.Array,
    start: jax.Array,
    active: jax.Array,
    tol: jax.Array,
    max_iter: jax.Array,
    *,
    loss: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Solves P problems at once.

    A problem rests once its gradient is at most `tol`, or once its precision allows no further
    progress: from then on its step is 0, and the others go on.

    Args:
      examples: examples that the problems are fitted to.
      penalty: `[P]`, l2 / N.
      start: weights over bias, `[P, d, K]`.
      active: `[P]`, False for problems that only pad the group.
      tol: largest length of the gradient of a solved problem.
      max_iter: largest number of iterations.
      loss: one of `LOSSES`.

    Returns:
      w `[P, d, K]`, lengths of the gradients `[P]`, number of iterations.
    """
    dtype = start.dtype
    bias = jnp.arange(start.shape[-2]) == start.shape[-2] - 1
    penalty = jnp.where(bias[:, None], 0, _each(penalty)).astype(dtype)
    logits = _product("nd,pdk->pnk", examples.features, start)
    gradient, curvature = _gradient(loss, examples, penalty, start, logits)
    memory = jnp.zeros((MEMORY, *start.shape), dtype)
    state = _State(
        done=jnp.int32(0),
        active=active & (_norm(gradient) > tol),
        idle=jnp.zeros(len(start), jnp.int32),
        w=start,
        logits=logits,
        gradient=gradient,
        curvature=curvature,
        steps=memory,
        changes=memory,
        inverse=jnp.zeros((MEMORY, len(start)), dtype),
    )
    state = jax.lax.while_loop(
        lambda state: (state.done < max_iter) & jnp.any(state.active),
        functools.partial(_iterate, _Problems(loss, examples, penalty), tol),
        state,
    )
    return state.w, _norm(state.gradient), state.done


@jax.jit
def turn(features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Coordinates in which the curvature of the loss is close to a diagonal matrix.

    The problem stays the same: centring only moves the bias, and rotating keeps |W|.

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
def turn_back(w: jax.Array, basis: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights `[D, K]` and bias `[K]` of the features as they were, from w `[d + 1, K]`."""
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    weights = product(basis, w[:-1])
    return weights, w[-1] - product(mean, weights)
