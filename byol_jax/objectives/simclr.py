"""SimCLR's objective, Eq. 1, and those that its Table 2 sets beside it.

In SimCLR anchors and candidates are projections of one network, without a predictor; here they
are the `prediction` of online and the `projection` of target, and the caller makes them so.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Logs, Objective, Outputs, stateless
from byol_jax.objectives.info_nce import contrastive_logs, info_nce_loss
from byol_jax.objectives.similarities import Similarities, positives, similarities, top1


def nt_xent_loss(similarity: Similarities, temperature: jax.Array | float) -> jax.Array:
    """l(i, j) of SimCLR Eq. 1 for the anchors of one view: `[B]`, each at least 0.

    Minus BYOL Eq. 5 at beta 1, divided by 2 alpha (BYOL App. G.4).
    """
    return info_nce_loss(similarity, temperature, 1.0) / (2 * temperature)


def _mean_of_views(
    one_view: Callable[[Similarities], jax.Array],
    logs: Callable[[Sequence[Similarities]], Logs],
    axis: str | None,
    l2: bool,
) -> Objective:
    """An objective of the anchors of one view, averaged over both as in Algorithm 1."""

    def loss(online: Sequence[Outputs], target: Sequence[Outputs]) -> tuple[jax.Array, Logs]:
        first, second = similarities(online, target, axis, l2)
        return (one_view(first) + one_view(second)) / 2, logs((first, second))

    return stateless(loss)


def nt_xent(
    temperature: jax.Array | float = 0.1, axis: str | None = None, l2: bool = True
) -> Objective:
    """NT-Xent: SimCLR Eq. 1, averaged over the 2N anchors as in Algorithm 1.

    Args:
      temperature: tau > 0, perhaps traced; 0.1 is the best of Table 5.
      axis: the mapped axis; negatives come from all its devices.
      l2: cosines; else plain dot products (SimCLR Table 5).

    Returns:
      The objective; logs `contrastive_top1`, `contrastive_entropy` and `mi_bound`.
    """
    return _mean_of_views(
        lambda similarity: nt_xent_loss(similarity, temperature),
        lambda both: contrastive_logs(both, temperature),
        axis,
        l2,
    )


def semi_hard_negatives(similarity: Similarities, margin: jax.Array | float) -> jax.Array:
    """The semi-hard negative of each anchor (SimCLR section 5.1): bool `[B, N]`.

    Farther than the positive, within the margin, and of those the closest: the greatest S_j with
    S+ - margin < S_j < S+, the first of equals. A row without any True has no such negative.
    """
    positive = positives(similarity)[:, None]
    fits = (similarity.other < positive) & (similarity.other > positive - margin) & ~similarity.own
    closest = jnp.argmax(jnp.where(fits, similarity.other, -jnp.inf), axis=1)
    index = jnp.arange(similarity.other.shape[1])
    return fits & (index[None, :] == closest[:, None])


def mean_over(chosen: jax.Array, terms: jax.Array) -> jax.Array:
    """Mean of the chosen terms of each row, 0 where none is chosen.

    Args:
      chosen: bool `[B, N]`.
      terms: `[B, N]`.

    Returns:
      `[B]`.
    """
    count = jnp.maximum(jnp.sum(chosen, axis=1), 1)
    return jnp.sum(jnp.where(chosen, terms, 0.0), axis=1) / count


def nt_logistic_loss(
    similarity: Similarities, chosen: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """Minus NT-Logistic of SimCLR Table 2: -ln sigma(S+ / tau) - mean_j ln sigma(-S_j / tau).

    Args:
      similarity: for the anchors of one view.
      chosen: which negatives j count, bool `[B, N]`; where none does, the first term remains.
      temperature: tau > 0.

    Returns:
      `[B]`, each above 0.
    """
    # softplus(x) = -ln sigma(-x)
    attraction = jax.nn.softplus(-positives(similarity) / temperature)
    return attraction + mean_over(chosen, jax.nn.softplus(similarity.other / temperature))


def margin_triplet_loss(
    similarity: Similarities, chosen: jax.Array, margin: jax.Array | float
) -> jax.Array:
    """Minus Margin Triplet of SimCLR Table 2: mean_j max(S_j - S+ + m, 0).

    Args:
      similarity: for the anchors of one view.
      chosen: which negatives j count, bool `[B, N]`; where none does, the loss is 0.
      margin: m >= 0.

    Returns:
      `[B]`, each at least 0.
    """
    # The gradient of relu at 0 is the table's 0, that of maximum would be a half.
    return mean_over(
        chosen, jax.nn.relu(similarity.other - positives(similarity)[:, None] + margin)
    )


def top1_log(both: Sequence[Similarities]) -> Logs:
    """`contrastive_top1` (percent), of both views."""
    return {"contrastive_top1": jnp.mean(jnp.stack([top1(s) for s in both]))}


def nt_logistic(
    temperature: jax.Array | float = 0.1,
    axis: str | None = None,
    l2: bool = True,
    semi_hard: bool = False,
) -> Objective:
    """NT-Logistic of SimCLR Table 2, averaged over both views.

    Negatives are the other view of the other images alone (App. B.10). Their terms are averaged:
    Table 2 has one negative to a positive, and so the scale, to which LARS is sensitive (BYOL
    App. G.5), depends neither on the size of the batch nor on `semi_hard`.

    Args:
      temperature: tau > 0, perhaps traced; App. B.10 tries 0.1, 0.2, 0.5, 1.
      axis: the mapped axis; negatives come from all its devices.
      l2: cosines; else plain dot products (SimCLR Table 5).
      semi_hard: only the closest negative farther than the positive: without a margin every
        distance is within it. An anchor that has none keeps its positive's term alone.

    Returns:
      The objective; logs `contrastive_top1`.
    """

    def one_view(similarity: Similarities) -> jax.Array:
        chosen = semi_hard_negatives(similarity, jnp.inf) if semi_hard else ~similarity.own
        return nt_logistic_loss(similarity, chosen, temperature)

    return _mean_of_views(one_view, top1_log, axis, l2)


def margin_triplet(
    margin: jax.Array | float = 0.4,
    axis: str | None = None,
    l2: bool = True,
    semi_hard: bool = False,
) -> Objective:
    """Margin Triplet of SimCLR Table 2, averaged over both views.

    Negatives and their mean are as for `nt_logistic`.

    Args:
      margin: m >= 0, perhaps traced; App. B.10 tries 0, 0.4, 0.8, 1.6.
      axis: the mapped axis; negatives come from all its devices.
      l2: cosines; else plain dot products (SimCLR Table 5).
      semi_hard: only the closest negative farther than the positive and within the margin. An
        anchor that has none has loss and gradient 0; at margin 0 no anchor has one.

    Returns:
      The objective; logs `contrastive_top1`.
    """

    def one_view(similarity: Similarities) -> jax.Array:
        chosen = semi_hard_negatives(similarity, margin) if semi_hard else ~similarity.own
        return margin_triplet_loss(similarity, chosen, margin)

    return _mean_of_views(one_view, top1_log, axis, l2)
