"""BYOL's objective: Eq. 2 and its mirror."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from byol_jax.errors import require
from byol_jax.objectives.base import Logs, Objective, Outputs, stateless
from byol_jax.objectives.normalize import NORMALIZATIONS, normalize


def regression_loss(
    prediction: jax.Array,
    target_projection: jax.Array,
    normalization: str = "l2",
    axis: str | None = None,
) -> jax.Array:
    """|n(q) - n(z')|^2, by default of the l2-normalised vectors = 2 - 2 cos (BYOL Eq. 2).

    Args:
      prediction: q(z), `[B, D]`.
      target_projection: z', `[B, D]`.
      normalization: n of App. G.6, one of `NORMALIZATIONS`.
      axis: mapped axis, for the statistics of `batch`.

    Returns:
      Losses `[B]`, each in [0, 4] for `l2` and `layer`.
    """
    prediction, target_projection = (
        normalize(x, normalization, axis) for x in (prediction, target_projection)
    )
    return jnp.sum((prediction - target_projection) ** 2, axis=-1)


def symmetric_loss(
    online: Sequence[Outputs],
    target: Sequence[Outputs],
    regression_loss: Callable[[jax.Array, jax.Array], jax.Array] = regression_loss,
) -> jax.Array:
    """L + L~: each view predicts the other's target projection (BYOL section 3.1).

    The terms are summed. Their mean would halve the gradient, and under LARS the updates of biases
    and BatchNorm parameters depend on the scale of the gradient (BYOL App. G.5).

    Args:
      online: outputs for view 1 and view 2, with `prediction` `[B, D]`.
      target: outputs for view 1 and view 2, with `projection` `[B, D]`.
      regression_loss: Eq. 2, possibly with another normalisation.

    Returns:
      Losses `[B]`, each in [0, 8] for Eq. 2.
    """
    (online1, online2), (target1, target2) = online, target
    return regression_loss(online1["prediction"], target2["projection"]) + regression_loss(
        online2["prediction"], target1["projection"]
    )


def byol(normalization: str = "l2", axis: str | None = None) -> Objective:
    """BYOL's objective, which has neither parameters nor state.

    Args:
      normalization: n of App. G.6, one of `NORMALIZATIONS`; `l2` is BYOL (Table 20).
      axis: mapped axis, for the statistics of `batch`.

    Raises:
      UserError: for any other `normalization`.
    """
    require(
        normalization in NORMALIZATIONS,
        f"normalization={normalization} must be one of {', '.join(NORMALIZATIONS)}",
    )
    normalized = functools.partial(regression_loss, normalization=normalization, axis=axis)

    def loss(online: Sequence[Outputs], target: Sequence[Outputs]) -> tuple[jax.Array, Logs]:
        return symmetric_loss(online, target, normalized), {}

    return stateless(loss)
