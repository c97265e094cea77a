"""SimCLR's objective, Eq. 1, and the other objectives of its Table 2.

In SimCLR anchors and candidates are projections of one network, without a predictor. Here anchors
are the `prediction` of online and candidates the `projection` of target. The caller chooses
networks and heads such that both are projections of one network.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Logs, Objective, Outputs, stateless
from byol_jax.objectives.info_nce import contrastive_logs, info_nce_loss
from byol_jax.objectives.similarities import Similarities, positives, similarities, top1


def nt_xent_loss(
    similarity: Similarities, temperature: jax.Array | float, same_view: bool = True
) -> jax.Array:
    """l(i, j) of SimCLR Eq. 1 per anchor of one view: `[B]`, each at least 0.

    Minus BYOL Eq. 5 at beta 1, divided by 2 alpha (BYOL App. G.4). Without `same_view` the
    anchor's own view has no negatives (SimCLR Table 4).
    """
    return info_nce_loss(similarity, temperature, 1.0, same_view) / (2 * temperature)


def _mean_of_views(
    one_view: Callable[[Similarities], jax.Array],
    logs: Callable[[Sequence[Similarities]], Logs],
    axis: str | None,
    l2: bool,
) -> Objective:
    """An objective for the anchors of one view, averaged over both views as in Algorithm 1."""

    def loss(online: Sequence[Outputs], target: Sequence[Outputs]) -> tuple[jax.Array, Logs]:
        first, second = similarities(online, target, axis, l2)
        return (one_view(first) + one_view(second)) / 2, logs((first, second))

    return stateless(loss)


def nt_xent(
    temperature: jax.Array | float = 0.1,
    axis: str | None = None,
    l2: bool = True,
    same_view: bool = True,
) -> Objective:
    """NT-Xent: SimCLR Eq. 1, averaged over the 2N anchors as in Algorithm 1.

    Args:
      temperature: tau > 0, may be traced; 0.1 is the best of Table 5.
      axis: mapped axis; negatives come from all its devices.
      l2: whether similarities are cosines; otherwise dot products (SimCLR Table 5).
      same_view: whether the other images of the anchor's own view are negatives, too, as in Eq. 1;
        in Table 4 they are not.

    Returns:
      The objective. It logs `contrastive_top1`, `contrastive_entropy` and `mi_bound`.
    """
    return _mean_of_views(
        lambda similarity: nt_xent_loss(similarity, temperature, same_view),
        lambda views: contrastive_logs(views, temperature),
        axis,
        l2,
    )


def semi_hard_negatives(similarity: Similarities, margin: jax.Array | float) -> jax.Array:
    """The semi-hard negative of each anchor (SimCLR section 5.1): bool `[B, N]`.

    It is the closest negative that is farther than the positive and within the margin: the greatest
    S_j with S+ - margin < S_j < S+, and the first one among equals. A row without any True has no
    such negative.
    """
    positive = positives(similarity)[:, None]
    fits = (similarity.other < positive) & (similarity.other > positive - margin) & ~similarity.own
    closest = jnp.argmax(jnp.where(fits, similarity.other, -jnp.inf), axis=1)
    index = jnp.arange(similarity.other.shape[1])
    return fits & (index[None, :] == closest[:, None])


def mean_over(chosen: jax.Array, terms: jax.Array) -> jax.Array:
    """Mean of the chosen terms per row, 0 where none is chosen.

    Args:
      chosen: which terms count, bool `[B, N]`.
      terms: the terms, `[B, N]`.

    Returns:
      Means `[B]`.
    """
    count = jnp.maximum(jnp.sum(chosen, axis=1), 1)
    return jnp.sum(jnp.where(chosen, terms, 0.0), axis=1) / count


def nt_logistic_loss(
    similarity: Similarities, chosen: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """Minus NT-Logistic of SimCLR Table 2: -ln sigma(S+ / tau) - mean_j ln sigma(-S_j / tau).

    Args:
      similarity: similarities for the anchors of one view.
      chosen: which negatives j count, bool `[B, N]`; where none does, the first term remains.
      temperature: tau > 0.

    Returns:
      Losses `[B]`, each above 0.
    """
    # softplus(x) = -ln sigma(-x)
    attraction = jax.nn.softplus(-positives(similarity) / temperature)
    return attraction + mean_over(chosen, jax.nn.softplus(similarity.other / temperature))


def margin_triplet_loss(
    similarity: Similarities, chosen: jax.Array, margin: jax.Array | float
) -> jax.Array:
    """Minus Margin Triplet of SimCLR Table 2: mean_j max(S_j - S+ + m, 0).

    Args:
      similarity: similarities for the anchors of one view.
      chosen: which negatives j count, bool `[B, N]`; where none does, the loss is 0.
      margin: m >= 0.

    Returns:
      Losses `[B]`, each at least 0.
    """
    # At 0 the gradient of relu is 0, as in the table; that of `maximum` would be a half.
    return mean_over(
        chosen, jax.nn.relu(similarity.other - positives(similarity)[:, None] + margin)
    )


def top1_log(views: Sequence[Similarities]) -> Logs:
    """`contrastive_top1` (percent) over both views."""
    return {"contrastive_top1": jnp.mean(jnp.stack([top1(s) for s in views]))}


def nt_logistic(
    temperature: jax.Array | float = 0.1,
    axis: str | None = None,
    l2: bool = True,
    semi_hard: bool = False,
) -> Objective:
    """NT-Logistic of SimCLR Table 2, averaged over both views.

    Negatives are the other view of the other images only (App. B.10). Their terms are averaged,
    since Table 2 has one negative per positive. The scale of the loss, to which LARS is sensitive
    (BYOL App. G.5), therefore depends neither on the batch size nor on `semi_hard`.

    Args:
      temperature: tau > 0, may be traced; App. B.10 tries 0.1, 0.2, 0.5, 1.
      axis: mapped axis; negatives come from all its devices.
      l2: whether similarities are cosines; otherwise dot products (SimCLR Table 5).
      semi_hard: whether only the closest negative counts that is farther than the positive; there
        is no margin here. An anchor without such a negative keeps the term of its positive.

    Returns:
      The objective. It logs `contrastive_top1`.
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

    Negatives, and the mean over them, are those of `nt_logistic`.

    Args:
      margin: m >= 0, may be traced; App. B.10 tries 0, 0.4, 0.8, 1.6.
      axis: mapped axis; negatives come from all its devices.
      l2: whether similarities are cosines; otherwise dot products (SimCLR Table 5).
      semi_hard: whether only the closest negative counts that is farther than the positive and
        within the margin. An anchor without such a negative has loss and gradient 0; at margin 0
        that is every anchor.

    Returns:
      The objective. It logs `contrastive_top1`.
    """

    def one_view(similarity: Similarities) -> jax.Array:
        chosen = semi_hard_negatives(similarity, margin) if semi_hard else ~similarity.own
        return margin_triplet_loss(similarity, chosen, margin)

    return _mean_of_views(one_view, top1_log, axis, l2)
