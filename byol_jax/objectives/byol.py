"""BYOL's objective: Eq. 2 and its mirror."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Loss, Objective, Outputs, PyTree
from byol_jax.stats import l2_normalize


def regression_loss(prediction: jax.Array, target_projection: jax.Array) -> jax.Array:
    """|q - z'|^2 of the l2-normalised vectors = 2 - 2 cos (BYOL Eq. 2).

    Args:
      prediction: q(z), `[B, D]`.
      target_projection: z', `[B, D]`.

    Returns:
      `[B]`, each in [0, 4].
    """
    return jnp.sum((l2_normalize(prediction) - l2_normalize(target_projection)) ** 2, axis=-1)


def symmetric_loss(online: Sequence[Outputs], target: Sequence[Outputs]) -> jax.Array:
    """L + L~: each view predicts the other's target projection (BYOL section 3.1).

    The terms are summed: their mean would halve the gradient, to which the biases and
    BatchNorm parameters are not invariant under LARS (BYOL App. G.5).

    Args:
      online: outputs for view 1 and view 2, with `prediction` `[B, D]`.
      target: outputs for view 1 and view 2, with `projection` `[B, D]`.

    Returns:
      `[B]`, each in [0, 8].
    """
    (online1, online2), (target1, target2) = online, target
    return regression_loss(online1["prediction"], target2["projection"]) + regression_loss(
        online2["prediction"], target1["projection"]
    )


def byol() -> Objective:
    """The objective, which has neither parameters nor state of its own."""

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
        return Loss(symmetric_loss(online, target), state, {})

    return Objective(init, loss)
