"""SimSiam's objective (Chen and He 2020): the negative cosine, half for each direction."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Logs, Objective, Outputs, stateless
from byol_jax.objectives.byol import symmetric_loss
from byol_jax.objectives.normalize import l2_normalize


def negative_cosine(prediction: jax.Array, projection: jax.Array) -> jax.Array:
    """D(p, z) = -p/|p| z/|z| (SimSiam Eq. 1).

    BYOL's Eq. 2 is 2 + 2 D. SGD, unlike LARS, is not indifferent to the factor.

    Args:
      prediction: p of one view, `[B, D]`.
      projection: z of the other view, `[B, D]`.

    Returns:
      Losses `[B]`, each in [-1, 1].
    """
    chex.assert_equal_shape((prediction, projection))
    return -jnp.sum(l2_normalize(prediction) * l2_normalize(projection), axis=-1)


def simsiam() -> Objective:
    """L = D(p1, z2) / 2 + D(p2, z1) / 2 (SimSiam Eq. 2), without parameters or state.

    The stop-gradient of Eq. 3 is that of the target: `config.target=stop_gradient`.
    """

    def loss(online: Sequence[Outputs], target: Sequence[Outputs]) -> tuple[jax.Array, Logs]:
        return symmetric_loss(online, target, negative_cosine) / 2, {}

    return stateless(loss)
