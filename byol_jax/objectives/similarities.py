"""Similarities between the images of a batch over all devices: S of BYOL Eq. 6."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Outputs
from byol_jax.objectives.normalize import exact_matmul, normalize
from byol_jax.runtime import spmd


class Similarities(NamedTuple):
    """S of BYOL Eq. 6 between the B anchors of one view on this device and all N images.

    Attributes:
      other: similarities S(v_i, v'_j) to the other view, `[B, N]`.
      same: similarities S(v_i, v_j) to the same view, `[B, N]`.
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
    """S(u1, u2) of BYOL Eq. 6: phi is the `prediction` of online, psi the `projection` of target.

    Args:
      online: outputs for view 1 and view 2, with `prediction` `[B, D]`.
      target: outputs for view 1 and view 2, with `projection` `[B, D]`. Gradients pass through
        them, back to the device that computed them.
      axis: mapped axis; candidates are gathered from all its devices.
      l2: whether S is the cosine; otherwise it is the dot product (SimCLR Table 5).

    Returns:
      Similarities for the anchors of view 1, and for the anchors of view 2.
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
        Similarities(exact_matmul(phi1, all2.T), exact_matmul(phi1, all1.T), own),
        Similarities(exact_matmul(phi2, all1.T), exact_matmul(phi2, all2.T), own),
    )


def positives(similarity: Similarities) -> jax.Array:
    """S(v_i, v'_i), the similarities to the positives: `[B]`."""
    return jnp.sum(jnp.where(similarity.own, similarity.other, 0.0), axis=1)


def top1(similarity: Similarities) -> jax.Array:
    """Percent of anchors more similar to their positive than to the other view of any other image.

    This is the `Contrastive acc.` of SimCLR Table 5. The distribution there is over the 4096 images
    of a batch, so candidates come from one view. A tie is a miss: a collapsed network scores 0, not
    100.

    Returns:
      A scalar; 100 for a batch of one image.
    """
    hardest = jnp.max(similarity.other, axis=1, initial=-jnp.inf, where=~similarity.own)
    return 100 * jnp.mean(positives(similarity) > hardest)
