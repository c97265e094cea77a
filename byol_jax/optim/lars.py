"""LARS as a chain of optax transforms (BYOL App. A, pseudo-code J.1), and LARC.

`optax.lars` applies the learning rate before the momentum. The paper's code applies it after the
momentum, which differs as soon as the rate follows a schedule. Hence this chain.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any

# Added to the denominator of LARC's ratio, as in NVIDIA's code.
_LARC_EPS = 1e-8


def path_name(path: tuple[Any, ...]) -> str:
    """`a/b/c` for the key path of a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_adapted(path: tuple[Any, ...]) -> bool:
    """Whether a parameter is subject to LARS adaptation and weight decay.

    Biases and BatchNorm parameters are not (BYOL App. A). These are the leaves called `b`, and all
    leaves of modules whose path contains `norm`.
    """
    module, _, leaf = path_name(path).rpartition("/")
    return leaf != "b" and "norm" not in module


def adaptation_mask(params: PyTree) -> PyTree:
    """`is_adapted` for every leaf of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_adapted(path), params)


def everything(params: PyTree) -> PyTree:
    """True for every leaf of `params`."""
    return jax.tree.map(lambda _: True, params)


def _norm(x: jax.Array) -> jax.Array:
    """Euclidean norm of an array, in one pass, which fuses with other reads of the array.

    The norm in `optax.scale_by_trust_ratio` takes two passes, for the sake of a gradient that is
    not needed here.
    """
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def scale_by_trust_ratio(trust_coefficient: jax.Array | float) -> optax.GradientTransformation:
    """u <- trust_coefficient |p| / |u| u per array; u stays as it is where a norm is 0."""

    def scale(update: jax.Array, param: jax.Array) -> jax.Array:
        param_norm, update_norm = _norm(param), _norm(update)
        is_zero = (param_norm == 0) | (update_norm == 0)
        ratio = trust_coefficient * param_norm / jnp.where(is_zero, 1, update_norm)
        return update * jnp.where(is_zero, 1, ratio).astype(update.dtype)

    return optax.stateless_with_tree_map(scale)


def scale_by_larc(
    weight_decay: jax.Array | float, trust_coefficient: jax.Array | float
) -> optax.GradientTransformation:
    """LARC without clipping, with its own decay, as SwAV uses it (NVIDIA apex, `LARC`).

    u <- (g + weight_decay p) trust_coefficient |p| / (|g| + weight_decay |p| + 1e-8) per array.
    Where a norm is 0, u is g, without decay. LARS divides by |g + weight_decay p| instead.
    """

    def scale(gradient: jax.Array, param: jax.Array) -> jax.Array:
        param_norm, gradient_norm = _norm(param), _norm(gradient)
        is_zero = (param_norm == 0) | (gradient_norm == 0)
        denominator = gradient_norm + weight_decay * param_norm + _LARC_EPS
        ratio = (trust_coefficient * param_norm / denominator).astype(gradient.dtype)
        return jnp.where(is_zero, gradient, (gradient + weight_decay * param) * ratio)

    return optax.stateless_with_tree_map(scale)


def lars(
    learning_rate: jax.Array | float,
    *,
    weight_decay: jax.Array | float,
    trust_coefficient: jax.Array | float,
    momentum: jax.Array | float,
    adapted: Callable[[PyTree], PyTree] = adaptation_mask,
    decayed: Callable[[PyTree], PyTree] = adaptation_mask,
) -> optax.GradientTransformation:
    """Layer-wise adaptive rate scaling with heavy-ball momentum.

    For a parameter p with gradient g: u = g + weight_decay p if p is decayed, else u = g. If p is
    adapted, u is scaled by trust_coefficient |p| / |u| (by 1 if a norm is 0). Then
    m <- momentum m + u and p <- p - learning_rate m.

    The first four arguments may be traced values: the state holds the momentum alone, so each step
    can build the chain again. `adapted` and `decayed` are masks, by default those of the paper:
    which parameters have a trust ratio, and which have weight decay.
    """
    return optax.chain(
        optax.masked(optax.add_decayed_weights(weight_decay), decayed),
        optax.masked(scale_by_trust_ratio(trust_coefficient), adapted),
        optax.trace(decay=momentum),
        optax.scale(-learning_rate),
    )
