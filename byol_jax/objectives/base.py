"""The interface of an objective: its parameters, its state and its loss."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byol_jax.runtime import spmd

# Named outputs of the network for one view: `projection` `[B, D]`, ...
Outputs = dict[str, jax.Array]
# Outputs by view number, from 1.
Views = Mapping[int, Outputs]
Logs = dict[str, jax.Array]
PyTree = Any
# An objective's state: arrays by name, equal on all replicas.
State = dict[str, jax.Array]


class Rows(NamedTuple):
    """Rows that a step replaces in an array of the state.

    A queue of keys or a memory of features may be far larger than the part that a step changes. So
    its rows are scattered once the step is known to be finite, and the whole array is never copied.

    Attributes:
      at: indices of the rows, int32 `[n]`. An index out of range is dropped. Equal on all replicas.
      values: new rows `[n, ...]`, gathered over the devices. Equal on all replicas.
    """

    at: jax.Array
    values: jax.Array


class Loss(NamedTuple):
    """The result of an objective for a micro-batch.

    Attributes:
      per_example: loss per example, `[B]`.
      state: entries of the state that change, by name. They should be small: to undo a step that
        is not finite, the update selects between the old and the new array.
      logs: scalars to log.
      rows: rows that change in large entries of the state, by name of the entry. They are written
        after the last micro-batch of the step, so every micro-batch reads the state as it was
        before the step.
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


# Features for `refresh`: none; those of evaluation crops, with BatchNorm on its moving averages;
# those of the views of the current epoch, with BatchNorm on the statistics of each batch.
FEATURES = ("none", "eval", "train")


class Objective(NamedTuple):
    """A self-supervised objective on the outputs of the online and the target network.

    Attributes:
      init: `init(key, outputs, num_examples) -> (params, state)`. `outputs` are the shapes of the
        outputs for a batch of one, by view number: queues and prototypes need D. The optimiser
        trains `params`, not `state`.
      loss: `loss(params, online, target, batch, state, key, step) -> Loss`. `online` and `target`
        hold named outputs by view number. `batch` has `ids` and `labels` (-1 without a label). The
        update step puts the target's outputs behind a stop-gradient if the target is a separate
        network; an objective stops no gradients.
      prepare: `prepare(params) -> params`, called at the start of a step, outside the gradient.
      refresh: `refresh(key, params, state, features, ids) -> (params, state)`, called between two
        steps, in the same way on all processes. `features` are float32 arrays `[N, ...]` by name of
        the output, or None; `ids` are the ids of their images, int32 `[N]`.
      when: `when(step, num_examples, batch_size)` returns one of `FEATURES` if `refresh` is due
        before update number `step` + 1 (also at step 0), else None.
    """

    init: Callable[[jax.Array, Views, int], tuple[PyTree, State]]
    loss: Callable[[PyTree, Views, Views, Outputs, State, jax.Array, jax.Array], Loss]
    prepare: Callable[[PyTree], PyTree] = _unchanged
    refresh: Callable[..., tuple[PyTree, State]] | None = None
    when: Callable[[int, int, int], str | None] = _never


def stateless(
    function: Callable[[tuple[Outputs, Outputs], tuple[Outputs, Outputs]], tuple[jax.Array, Logs]],
) -> Objective:
    """An objective on two views, without parameters or state.

    Args:
      function: `function(online, target) -> (per_example [B], logs)`. Both arguments are pairs of
        the outputs for view 1 and view 2.
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
    """Weights that turn a mean over a batch into a mean over its labelled examples.

    Args:
      labelled: whether each example has a label, bool `[B]`.
      dtype: number format of the weights.
      axis: mapped axis; the share of labelled examples is taken over all its devices.

    Returns:
      Weights `[B]`, 0 for examples without a label.
    """
    labelled = labelled.astype(dtype)
    share = spmd.pmean(jnp.mean(labelled), axis)
    return labelled / jnp.maximum(share, jnp.finfo(dtype).tiny)
