"""The interface of an objective: what it trains, what it carries, and what a loss of it is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byol_jax.runtime import spmd

# Named outputs of the network for one view: `projection` `[B, D]`, ...
Outputs = dict[str, jax.Array]
# By view number, from 1.
Views = Mapping[int, Outputs]
Logs = dict[str, jax.Array]
PyTree = Any
# An objective's state: arrays by name, equal on all replicas.
State = dict[str, jax.Array]


class Rows(NamedTuple):
    """Rows of an array of the state that a step replaces.

    A queue of keys or a memory of features may be far larger than what a step changes in it. So its
    rows are scattered once the step is known to be finite, and never selected as a whole.

    Attributes:
      at: int32 `[n]`, which rows; one that is out of range is dropped. Equal on all replicas.
      values: `[n, ...]`, gathered over the devices. Equal on all replicas.
    """

    at: jax.Array
    values: jax.Array


class Loss(NamedTuple):
    """What an objective returns for a micro-batch.

    Attributes:
      per_example: the loss of each example, `[B]`.
      state: the entries of the state that change, by name; small ones, since a step that is not
        finite is undone by selecting between old and new.
      logs: scalars to log.
      rows: rows of large entries of the state that change, by name. They are written after the
        last micro-batch of the step, so every micro-batch sees the state before the step.
    """

    per_example: jax.Array
    state: State
    logs: Logs
    rows: Mapping[str, Rows] = {}


def _unchanged(params: PyTree) -> PyTree:
    return params


def _never(step: int, num_examples: int, batch_size: int) -> str | None:
    del step, num_examples, batch_size
    return None


# What `refresh` gets: no features; those of evaluation crops with BatchNorm on its averages; those
# of the views of the first epoch with BatchNorm on the statistics of each batch.
FEATURES = ("none", "eval", "train")


class Objective(NamedTuple):
    """A self-supervised objective on the outputs of the online and the target network.

    Attributes:
      init: `init(key, outputs, num_examples) -> (params, state)`. `outputs` are shapes by view
        number, of a batch of one, since queues and prototypes need D. The optimiser trains
        `params`, not `state`.
      loss: `loss(params, online, target, batch, state, key, step) -> Loss`. `online` and `target`
        hold named outputs by view number; `batch` carries `ids` and `labels` (-1 for none). Where
        the target is a network of its own its outputs are behind a stop-gradient; the update step
        decides, an objective stops nothing.
      prepare: `prepare(params) -> params`, at the start of a step and outside of the gradient.
      refresh: `refresh(key, params, state, features, ids) -> (params, state)`, between two steps,
        on all processes alike. `features` are float32 arrays `[N, ...]` by name of the output, or
        None; `ids` int32 `[N]` say of which images.
      when: `when(step, num_examples, batch_size)`, one of `FEATURES` if `refresh` is due before
        update number `step` + 1 (0 too), else None.
    """

    init: Callable[[jax.Array, Views, int], tuple[PyTree, State]]
    loss: Callable[[PyTree, Views, Views, Outputs, State, jax.Array, jax.Array], Loss]
    prepare: Callable[[PyTree], PyTree] = _unchanged
    refresh: Callable[..., tuple[PyTree, State]] | None = None
    when: Callable[[int, int, int], str | None] = _never


def stateless(
    function: Callable[[tuple[Outputs, Outputs], tuple[Outputs, Outputs]], tuple[jax.Array, Logs]],
) -> Objective:
    """An objective of two views with neither parameters nor state of its own.

    Args:
      function: `function(online, target) -> (per_example [B], logs)`, of the outputs for view 1
        and view 2.
    """

    def init(key: jax.Array, outputs: Views, num_examples: int) -> tuple[PyTree, State]:
        del key, outputs, num_examples
        return {}, {}

    def loss(
        params: PyTree,
        online: Views,
        target: Views,
        batch: Outputs,
        state: State,
        key: jax.Array,
        step: jax.Array,
    ) -> Loss:
        del params, batch, state, key, step
        per_example, logs = function((online[1], online[2]), (target[1], target[2]))
        return Loss(per_example, {}, logs)

    return Objective(init, loss)


def label_weights(labelled: jax.Array, dtype: Any, axis: str | None) -> jax.Array:
    """Weights whose mean over a batch is that over its labelled examples alone.

    Args:
      labelled: bool `[B]`.
      dtype: of the weights.
      axis: mapped axis; the share of labelled examples is that of all devices.

    Returns:
      `[B]`, 0 for the others.
    """
    labelled = labelled.astype(dtype)
    share = spmd.pmean(jnp.mean(labelled), axis)
    return labelled / jnp.maximum(share, jnp.finfo(dtype).tiny)
