"""The interface of an objective."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byol_jax.runtime import spmd

Outputs = dict[str, jax.Array]
Logs = dict[str, jax.Array]
PyTree = Any


class Loss(NamedTuple):
    """What an objective returns for a batch.

    Attributes:
      per_example: the loss of each example, `[B]`.
      state: the objective's next state, equal on all replicas.
      logs: scalars to log.
    """

    per_example: jax.Array
    state: PyTree
    logs: Logs


class Objective(NamedTuple):
    """A self-supervised objective on the outputs of the online and target network.

    Attributes:
      init: `init(key) -> (params, state)`; the optimiser trains `params`, not `state`.
      loss: `loss(params, online, target, batch, state, key) -> Loss`. `online` and
        `target` hold one dict of named outputs a view; `batch` carries `ids` and
        `labels` (-1 for none). Where the target is a network of its own its outputs are
        behind a stop-gradient; the update step decides, an objective stops nothing.
      refresh: `refresh(state, features) -> state`, run between epochs, or None.
      needs: names of outputs beyond `projection` and `prediction`.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    loss: Callable[[PyTree, Sequence[Outputs], Sequence[Outputs], Outputs, PyTree, jax.Array], Loss]
    refresh: Callable[[PyTree, PyTree], PyTree] | None = None
    needs: tuple[str, ...] = ()


def stateless(
    function: Callable[[Sequence[Outputs], Sequence[Outputs]], tuple[jax.Array, Logs]],
) -> Objective:
    """An objective with neither parameters nor state of its own.

    Args:
      function: `function(online, target) -> (per_example [B], logs)`.
    """

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        del key
        return {}, {}

    def loss(
        params: PyTree,
        online: Sequence[Outputs],
        target: Sequence[Outputs],
        batch: Outputs,
        state: PyTree,
        key: jax.Array,
    ) -> Loss:
        del params, batch, key
        per_example, logs = function(online, target)
        return Loss(per_example, state, logs)

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
