"""A classifier with one hidden layer on frozen features: SimCLR Table 3's "additional MLP"."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import keys
from byol_jax.evals.probes import logistic
from byol_jax.optim import schedules
from byol_jax.results import scores
from byol_jax.runtime import spmd

# Number of rows that a trained MLP classifies at once.
_ROWS = 1024


class _State(NamedTuple):
    """What the training of an MLP carries from one step to the next."""

    step: jax.Array
    params: hk.Params
    opt_state: optax.OptState


@functools.lru_cache(maxsize=16)
def _mlp(hidden_size: int, classes: int) -> hk.Transformed:
    """One hidden layer with a ReLU."""
    return hk.without_apply_rng(
        hk.transform(lambda values: hk.nets.MLP((hidden_size, classes))(values))
    )


@functools.partial(jax.jit, static_argnames="mlp")
def _epoch(
    state: _State,
    values: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    learning_rate: jax.Array,
    total_steps: jax.Array,
    *,
    mlp: hk.Transformed,
) -> _State:
    """One step of Adam per row of `order`, int `[steps, B]`."""

    def loss(params: hk.Params, rows: jax.Array) -> jax.Array:
        logits = mlp.apply(params, values[rows])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.mean(losses)

    def step(state: _State, rows: jax.Array) -> tuple[_State, None]:
        updates, opt_state = optax.scale_by_adam().update(
            jax.grad(loss)(state.params, rows), state.opt_state
        )
        rate = schedules.learning_rate(
            state.step, peak=learning_rate, warmup_steps=0, total_steps=total_steps
        )
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        return _State(state.step + 1, params, opt_state), None

    return jax.lax.scan(step, state, order)[0]


@functools.lru_cache(maxsize=16)
def _classify(mlp: hk.Transformed) -> Callable[..., jax.Array]:
    """One function for all uses of an MLP, so that it is compiled once."""
    return lambda values, params: jnp.argmax(mlp.apply(params, values), axis=-1)


class Prediction(NamedTuple):
    """Accuracies in percent.

    Attributes:
      top1: accuracy on the scored examples.
      fit_top1: accuracy on the fitted ones.
    """

    top1: float
    fit_top1: float


class Recipe(NamedTuple):
    """How an MLP is trained.

    Attributes:
      hidden_size: width of the hidden layer.
      num_epochs: passes over the fitted examples; an incomplete last batch is left out of each.
      batch_size: examples per step, at most all of them.
      learning_rate: peak rate of Adam.
      seed: seed of the weights and of the order.
    """

    hidden_size: int
    num_epochs: int
    batch_size: int
    learning_rate: float
    seed: int


def predict(
    fit: logistic.Labelled, score: logistic.Labelled, classes: int, recipe: Recipe
) -> Prediction:
    """Trains an MLP with one hidden layer, by Adam with a cosine schedule, and scores it.

    Args:
      fit: features `[N, D]` and labels to train on; their mean and deviation standardise both.
      score: features `[M, D]` and labels.
      classes: K.
      recipe: how the MLP is trained.
    """
    fitted, scored = logistic.standardize(fit[0], score[0])
    count = len(fitted)
    batch_size = min(recipe.batch_size, count)
    steps = count // batch_size
    mlp = _mlp(recipe.hidden_size, classes)
    params = jax.jit(mlp.init)(keys.named_key(recipe.seed, "transformation_mlp"), fitted[:1])
    state = _State(jnp.zeros((), jnp.int32), params, optax.scale_by_adam().init(params))
    values, labels = jnp.asarray(fitted), jnp.asarray(fit[1])
    for epoch in range(recipe.num_epochs):
        order = keys.permutation(count, "transformation_mlp", recipe.seed, epoch)
        order = order[: steps * batch_size].reshape(steps, batch_size)
        state = _epoch(
            state,
            values,
            labels,
            order.astype(np.int32),
            jnp.float32(recipe.learning_rate),
            jnp.int32(recipe.num_epochs * steps),
            mlp=mlp,
        )

    def top1(rows: np.ndarray, labels: np.ndarray) -> float:
        parts = [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]
        predictions = spmd.map_batches(_classify(mlp), parts, _ROWS, (state.params,))
        return scores.top1(predictions, labels)

    return Prediction(top1(scored, score[1]), top1(fitted, fit[1]))
