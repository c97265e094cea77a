"""The optimiser of a run, and learning rates of its own for the heads (BYOL App. J.1)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byol_jax.optim import lars

PyTree = Any

OPTIMIZERS = ("lars", "sgd", "adam")


def optimizer(
    name: str,
    learning_rate: jax.Array | float,
    *,
    weight_decay: jax.Array | float,
    trust_coefficient: jax.Array | float,
    momentum: jax.Array | float,
) -> optax.GradientTransformation:
    """The chain of one of `OPTIMIZERS`.

    Its state holds none of the numbers, so that it can be rebuilt with traced ones in every step.

    Args:
      name: `lars`, the papers'; `sgd`, the same without the trust ratio; `adam`, Adam with
        decoupled weight decay, which no table has.
      learning_rate: of this step.
      weight_decay: of the parameters that `lars.is_adapted`; biases and BatchNorm have none.
      trust_coefficient: of LARS.
      momentum: of LARS and SGD; of Adam's first moment.

    Raises:
      ValueError: there is no such optimiser.
    """
    if name == "lars":
        return lars.lars(
            learning_rate,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            momentum=momentum,
        )
    decay = optax.masked(optax.add_decayed_weights(weight_decay), lars.adaptation_mask)
    if name == "sgd":
        return optax.chain(decay, optax.trace(decay=momentum), optax.scale(-learning_rate))
    if name == "adam":
        return optax.chain(optax.scale_by_adam(b1=momentum), decay, optax.scale(-learning_rate))
    raise ValueError(f"optimizer={name!r} must be one of: {', '.join(OPTIMIZERS)}")


def scale_heads(updates: PyTree, factors: Mapping[str, jax.Array | float]) -> PyTree:
    """Multiplies the updates of whole heads, which so have learning rates of their own.

    lambda of BYOL Table 21 is the factor of the predictor, mu of Table 22 that of the projector.
    It comes after the trust ratio, which would cancel it, and after the momentum.

    Args:
      updates: of parameters, by the paths of their modules.
      factors: by the name of the head; parameters of no head keep their updates.
    """

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        modules = lars.path_name(path).split("/")
        found = [factor for name, factor in factors.items() if name in modules]
        return update * jnp.asarray(found[0], update.dtype) if found else update

    return jax.tree_util.tree_map_with_path(scale, updates)
