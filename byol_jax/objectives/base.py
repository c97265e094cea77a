"""The interface of an objective."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

Outputs = dict[str, jax.Array]
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
    logs: dict[str, jax.Array]


class Objective(NamedTuple):
    """A self-supervised objective on the outputs of the online and target network.

    Attributes:
      init: `init(key) -> (params, state)`; the optimiser trains `params`, not `state`.
      loss: `loss(params, online, target, batch, state, key) -> Loss`. `online` and
        `target` hold one dict of named outputs a view; `batch` carries `ids` and
        `labels` (-1 for none). The target's outputs are behind a stop-gradient.
      refresh: `refresh(state, features) -> state`, run between epochs, or None.
      needs: names of outputs beyond `projection` and `prediction`.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    loss: Callable[[PyTree, Sequence[Outputs], Sequence[Outputs], Outputs, PyTree, jax.Array], Loss]
    refresh: Callable[[PyTree, PyTree], PyTree] | None = None
    needs: tuple[str, ...] = ()
