"""LARS as a chain of optax transforms (BYOL App. A, pseudo-code J.1).

`optax.lars` scales by the learning rate before the momentum; the paper's code does
after it, which differs as soon as the rate is scheduled. Hence this chain.
"""

from typing import Any

import jax
import optax

PyTree = Any


def path_name(path: tuple[Any, ...]) -> str:
    """`a/b/c` for the key path of a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_adapted(path: tuple[Any, ...]) -> bool:
    """Whether a parameter is subject to LARS adaptation and weight decay.

    Biases and BatchNorm parameters are not (BYOL App. A): leaves called `b`, and
    whatever lives in a module whose path contains `norm`.
    """
    module, _, leaf = path_name(path).rpartition("/")
    return leaf != "b" and "norm" not in module


def adaptation_mask(params: PyTree) -> PyTree:
    """`is_adapted` for every leaf of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_adapted(path), params)


def lars(
    learning_rate: jax.Array | float,
    *,
    weight_decay: jax.Array | float,
    trust_coefficient: jax.Array | float,
    momentum: jax.Array | float,
) -> optax.GradientTransformation:
    """Layer-wise adaptive rate scaling with heavy-ball momentum.

    For an adapted parameter p with gradient g: u = g + weight_decay p, scaled by
    trust_coefficient |p| / |u| (by 1 if a norm is 0); for the others u = g. Then
    m <- momentum m + u and p <- p - learning_rate m.

    All four arguments may be traced values: the state holds the momentum alone, so
    the chain can be rebuilt inside every step.
    """
    return optax.chain(
        optax.masked(optax.add_decayed_weights(weight_decay), adaptation_mask),
        optax.masked(
            optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), adaptation_mask
        ),
        optax.trace(decay=momentum),
        optax.scale(-learning_rate),
    )


def momentum_of(opt_state: PyTree) -> PyTree:
    """The momentum tree m inside the state of `lars`, shaped like the parameters."""
    return optax.tree_utils.tree_get(opt_state, "trace")
