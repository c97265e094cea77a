"""Supervised contrastive learning (Khosla et al. 2020): all images of a class are positives."""

import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Loss, Objective, Outputs, PyTree, State, Views
from byol_jax.objectives.normalize import exact_matmul, l2_normalize
from byol_jax.runtime import spmd

# Which vectors are anchors: those of all views, or those of view 1.
ANCHORS = ("all", "one")


def supcon_loss(
    similarity: jax.Array,
    is_self: jax.Array,
    is_positive: jax.Array,
    temperature: jax.Array | float,
    base_temperature: jax.Array | float,
) -> jax.Array:
    """L_out of SupCon (Eq. 2 there) per anchor, times T / T_base, as in the authors' code.

    -(T / T_base) mean over the positives p of log(exp(s_p / T) / sum over all others a of
    exp(s_a / T)). The mean is over logarithms, outside of them.

    Args:
      similarity: s, dot products of A anchors and N candidates, `[A, N]`.
      is_self: whether a candidate is the anchor itself, bool `[A, N]`.
      is_positive: whether it is a positive, bool `[A, N]`; the anchor itself never counts.
      temperature: T > 0.
      base_temperature: T_base > 0.

    Returns:
      Losses `[A]`. An anchor without positives has loss 0.
    """
    logits = similarity / temperature
    others = jax.nn.logsumexp(jnp.where(is_self, -jnp.inf, logits), axis=1, keepdims=True)
    is_positive = is_positive & ~is_self
    count = jnp.maximum(jnp.sum(is_positive, axis=1), 1)
    mean = jnp.sum(jnp.where(is_positive, logits - others, 0.0), axis=1) / count
    return -(temperature / base_temperature) * mean


def positives(
    labels: jax.Array, all_labels: jax.Array, index: jax.Array, all_index: jax.Array
) -> jax.Array:
    """Whether two images are one, or of one class: bool `[A, N]`.

    Args:
      labels, all_labels: classes of anchors `[A]` and candidates `[N]`; -1 for an image without a
        label, which has the views of its own image alone.
      index, all_index: which images they are, `[A]` and `[N]`.
    """
    same_class = (labels[:, None] == all_labels[None, :]) & (labels >= 0)[:, None]
    return same_class | (index[:, None] == all_index[None, :])


def supcon(
    temperature: jax.Array | float = 0.1,
    base_temperature: jax.Array | float = 0.07,
    anchors: str = "all",
    axis: str | None = None,
) -> Objective:
    """The supervised contrastive loss of the projections of online, over all views.

    The loss is over the global batch: features and labels are gathered, and gradients pass through
    the gathered features. Without labels it is SimCLR's NT-Xent times T / T_base.

    Args:
      temperature: T > 0, may be traced; 0.1.
      base_temperature: T_base > 0, may be traced. The authors' code always has 0.07, so that the
        loss is T / 0.07 times that of the paper, 1.4 at T = 0.1 and 7.1 at T = 0.5, and the rates
        fit that. Equal to T it is the paper's Eq. 2.
      anchors: one of `ANCHORS`.
      axis: mapped axis of the devices.

    Returns:
      The objective. It logs `positives`, positives per anchor, in the mean.

    Raises:
      ValueError: no such anchors.
    """
    if anchors not in ANCHORS:
        raise ValueError(f"anchors={anchors!r} must be one of: {', '.join(ANCHORS)}")

    def init(key: jax.Array, outputs: Views, num_examples: int) -> tuple[PyTree, State]:
        del key, outputs, num_examples
        return {}, {}

    def loss(
        params: PyTree,
        online: Views,
        target: Views,
        batch: Outputs,
        state: State,
        key: jax.Array,
        step: jax.Array,
    ) -> Loss:
        del params, target, state, key, step
        views = {v: l2_normalize(outputs["projection"]) for v, outputs in sorted(online.items())}
        asking = list(views) if anchors == "all" else [min(views)]
        candidates = {v: spmd.all_gather(rows, axis) for v, rows in views.items()}
        labels = batch["labels"]
        all_labels = spmd.all_gather(labels, axis)
        count, total = len(labels), len(all_labels)
        index = spmd.axis_index(axis) * count + jnp.arange(count)
        related = positives(labels, all_labels, index, jnp.arange(total))
        is_own = index[:, None] == jnp.arange(total)[None, :]
        everything = jnp.concatenate(list(candidates.values()))
        is_positive = jnp.concatenate([related] * len(views), axis=1)
        losses, counts = [], []
        for view in asking:
            is_self = jnp.concatenate([is_own & (v == view) for v in views], axis=1)
            similarity = exact_matmul(views[view], everything.T)
            losses.append(
                supcon_loss(similarity, is_self, is_positive, temperature, base_temperature)
            )
            counts.append(jnp.mean(jnp.sum(is_positive & ~is_self, axis=1)))
        per_example = jnp.mean(jnp.stack(losses), axis=0)
        return Loss(per_example, {}, {"positives": jnp.mean(jnp.stack(counts))})

    return Objective(init, loss)
