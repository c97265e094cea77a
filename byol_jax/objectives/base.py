"""The interface of an objective, and what several of them are made of."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from byol_jax import stats
from byol_jax.runtime import spmd

Outputs = dict[str, jax.Array]
Logs = dict[str, jax.Array]
PyTree = Any

# The rows of BYOL Table 20; the text of App. G.6 mixes up their n (docs/deviations.md).
NORMALIZATIONS = ("l2", "layer", "batch", "none")

# A constant column becomes zeros instead of NaN.
_VARIANCE_FLOOR = 1e-12


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


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a b in full float32: where accelerators round factors, a temperature of 0.01 shows it."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def layer_normalize(x: jax.Array) -> jax.Array:
    """n_LN of BYOL App. G.6: `[B, D]` -> `[B, D]`, in float32 or wider.

    sigma_LN sqrt(D) is the norm of the centred row, so this is its l2 normalisation, with the
    floor 1e-6 of that norm: a constant row becomes zeros.
    """
    chex.assert_rank(x, 2)
    x = stats.at_least_float32(x)
    return stats.l2_normalize(x - jnp.mean(x, axis=1, keepdims=True))


def batch_normalize(x: jax.Array, axis: str | None = None) -> jax.Array:
    """n_BN of BYOL App. G.6, which trains nothing: `[B, D]` -> `[B, D]`, in float32 or wider.

    Mean and variance of each column are those of all devices of `axis`; gradients pass through
    them. The floor of sigma_BN is 1e-6: a constant column becomes zeros.
    """
    chex.assert_rank(x, 2)
    x = stats.at_least_float32(x)
    # Of the centred column, as E[x^2] - mu^2 cancels for the large outputs of Figure 7.
    centred = x - spmd.pmean(jnp.mean(x, axis=0, keepdims=True), axis)
    variance = spmd.pmean(jnp.mean(jnp.square(centred), axis=0, keepdims=True), axis)
    return centred * jax.lax.rsqrt(jnp.maximum(variance, _VARIANCE_FLOOR) * x.shape[1])


def normalize(x: jax.Array, normalization: str, axis: str | None = None) -> jax.Array:
    """n of BYOL App. G.6: `[B, D]` -> `[B, D]`, in float32 or wider.

    Args:
      x: predictions or targets of one view.
      normalization: `l2`, `layer` (both of each row), `batch` (of each column over all
        devices of `axis`) or `none`. Where columns or rows vary, all but `none` give a
        mean squared norm of 1.
      axis: the mapped axis.

    Raises:
      KeyError: for any other `normalization`.
    """
    chex.assert_rank(x, 2)
    functions: dict[str, Callable[[jax.Array], jax.Array]] = {
        "l2": stats.l2_normalize,
        "layer": layer_normalize,
        "batch": lambda x: batch_normalize(x, axis),
        "none": stats.at_least_float32,
    }
    return functions[normalization](x)


def optimal_linear_predictor(
    online_projection: jax.Array, target_projection: jax.Array, axis: str | None = None
) -> jax.Array:
    """Q = argmin |Z Q - Z'|^2 = (Z^T Z)^-1 Z^T Z', on this batch (BYOL App. J.2).

    Q is behind a stop-gradient: gradients reach Z through the product Z Q alone, which is what
    the envelope theorem leaves of them (App. I).

    Z^T Z squares the condition number of Z. Its eigenvalues below 10 F eps of the largest are
    rounding, in float32 for F = 16 those of singular values of Z below 0.0044 of the largest:
    they are cut off, so that Q is then the solution of least norm and a collapsed Z gives no
    NaN. What is kept has a relative error of about eps cond(Z)^2.

    Args:
      online_projection: Z, `[B, F]`, of this device.
      target_projection: Z', `[B, F]`, of this device.
      axis: the mapped axis; the minimum is over the rows of all its devices.

    Returns:
      `[F, F]`, in float32 or wider; the prediction is Z Q.
    """
    chex.assert_rank([online_projection, target_projection], 2)
    chex.assert_equal_shape_prefix([online_projection, target_projection], 1)
    z, target = (
        jax.lax.stop_gradient(stats.at_least_float32(x))
        for x in (online_projection, target_projection)
    )
    # Means over the devices in place of sums: the factor cancels.
    gram, cross = spmd.pmean((_product(z.T, z), _product(z.T, target)), axis)
    cutoff = 10 * z.shape[1] * float(jnp.finfo(z.dtype).eps)
    return _product(jnp.linalg.pinv(gram, rtol=cutoff, hermitian=True), cross)


class Similarities(NamedTuple):
    """S of BYOL Eq. 6, from the B anchors of one view on this device to all N images.

    Attributes:
      other: S(v_i, v'_j), to the other view, `[B, N]`.
      same: S(v_i, v_j), to the same view, `[B, N]`.
      own: whether j is the anchor's own image, bool `[B, N]`.
    """

    other: jax.Array
    same: jax.Array
    own: jax.Array


def similarities(
    online: Sequence[Outputs],
    target: Sequence[Outputs],
    axis: str | None = None,
    l2: bool = True,
) -> tuple[Similarities, Similarities]:
    """S(u1, u2) of BYOL Eq. 6, phi the `prediction` of online, psi the `projection` of target.

    Args:
      online: outputs for view 1 and view 2, with `prediction` `[B, D]`.
      target: outputs for view 1 and view 2, with `projection` `[B, D]`. Gradients pass
        through them, to the device that computed them.
      axis: the mapped axis; candidates are gathered from all its devices.
      l2: cosines; else plain dot products (SimCLR Table 5).

    Returns:
      For the anchors of view 1, and for those of view 2.
    """
    normalization = "l2" if l2 else "none"
    phi1, phi2 = (normalize(outputs["prediction"], normalization) for outputs in online)
    psi1, psi2 = (normalize(outputs["projection"], normalization) for outputs in target)
    chex.assert_equal_shape([phi1, phi2, psi1, psi2])
    all1, all2 = (spmd.all_gather(psi, axis) for psi in (psi1, psi2))
    rows, total = len(phi1), len(all1)
    index = spmd.axis_index(axis) * rows + jnp.arange(rows)
    own = index[:, None] == jnp.arange(total)[None, :]
    return (
        Similarities(_product(phi1, all2.T), _product(phi1, all1.T), own),
        Similarities(_product(phi2, all1.T), _product(phi2, all2.T), own),
    )


def positives(similarity: Similarities) -> jax.Array:
    """S(v_i, v'_i): `[B]`."""
    return jnp.sum(jnp.where(similarity.own, similarity.other, 0.0), axis=1)


def top1(similarity: Similarities) -> jax.Array:
    """Percent of anchors more similar to their positive than to the other view of any other image.

    The `Contrastive acc.` of SimCLR Table 5, whose distribution is over the 4096 images of a
    batch, so over one view. A tie is a miss: a collapsed network scores 0, not 100.

    Returns:
      Scalar; 100 for a batch of one image.
    """
    hardest = jnp.max(similarity.other, axis=1, initial=-jnp.inf, where=~similarity.own)
    return 100 * jnp.mean(positives(similarity) > hardest)
