"""The objective that joins BYOL and SimCLR: BYOL Eq. 5 and its mirror."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byol_jax.objectives.base import Logs, Objective, Outputs, stateless
from byol_jax.objectives.similarities import Similarities, positives, similarities, top1


def info_nce_loss(
    similarity: Similarities,
    temperature: jax.Array | float,
    beta: jax.Array | float,
    same_view: bool = True,
) -> jax.Array:
    """Minus BYOL Eq. 5 per anchor; the paper states it as an objective to maximise.

    At beta 0 it is -2 S, which is Eq. 2 without its constant 2.

    Args:
      similarity: S of Eq. 6 for the anchors of one view.
      temperature: alpha > 0.
      beta: weight of the negatives, in [0, 1].
      same_view: whether the anchor's own view has negatives, too; without them the last sum of
        Eq. 5 is left out (SimCLR section 5.1: "the negatives from one augmentation view").

    Returns:
      Losses `[B]`; their mean over the global batch is minus Eq. 5.
    """
    # The sum over v'_j includes the positive; the sum over v_j excludes the anchor itself.
    logits = similarity.other / temperature
    if same_view:
        same = jnp.where(similarity.own, -jnp.inf, similarity.same / temperature)
        logits = jnp.concatenate([logits, same], axis=1)
    dispersion = jax.nn.logsumexp(logits, axis=1)
    return -2 * positives(similarity) + 2 * beta * temperature * dispersion


def entropy(similarity: Similarities, temperature: jax.Array | float) -> jax.Array:
    """Entropy of softmax_j S(v_i, v'_j) / alpha, mean over anchors, in nats (SimCLR Table 5).

    Returns:
      A scalar from 0 to ln N for a batch of N images; the table's 8.3 is ln 4096.
    """
    log_probabilities = jax.nn.log_softmax(similarity.other / temperature, axis=1)
    return -jnp.mean(jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=1))


def mutual_information_bound(similarity: Similarities, temperature: jax.Array | float) -> jax.Array:
    """ln N - L, a lower bound on the mutual information of the views, in nats (Lecture, InfoNCE).

    N is the number of images in the global batch. L is the InfoNCE loss of BYOL Eq. 7 with
    f = exp(S / alpha): the cross-entropy of finding v'_i among the N views v'_j. The same-view
    negatives of Eq. 5 are left out: the bound needs independent candidates, and v_j and v'_j come
    from the same image.

    Returns:
      A scalar, at most ln N.
    """
    log_probabilities = jax.nn.log_softmax(similarity.other / temperature, axis=1)
    of_positives = jnp.sum(jnp.where(similarity.own, log_probabilities, 0.0), axis=1)
    return math.log(similarity.other.shape[1]) + jnp.mean(of_positives)


def contrastive_logs(views: Sequence[Similarities], temperature: jax.Array | float) -> Logs:
    """`contrastive_top1` (percent), `contrastive_entropy` and `mi_bound` (nats) over both views."""
    logs = {
        "contrastive_top1": [top1(s) for s in views],
        "contrastive_entropy": [entropy(s, temperature) for s in views],
        "mi_bound": [mutual_information_bound(s, temperature) for s in views],
    }
    return {name: jnp.mean(jnp.stack(values)) for name, values in logs.items()}


def info_nce(
    temperature: jax.Array | float = 0.1,
    beta: jax.Array | float = 1.0,
    axis: str | None = None,
    l2: bool = True,
) -> Objective:
    """Minus Eq. 5 and its mirror, summed as BYOL sums Eq. 2 and its mirror.

    phi is the `prediction` of online, psi the `projection` of target. The caller chooses the
    networks and the predictor, and with them the row of Table 5b or 19. At beta 0 the loss is
    BYOL's minus 4, with the same gradient.

    Args:
      temperature: alpha > 0, may be traced; 0.1 in Table 5b.
      beta: weight of the negatives in [0, 1], may be traced.
      axis: mapped axis; negatives come from all its devices.
      l2: whether S is the cosine of Eq. 6; otherwise it is the dot product (SimCLR Table 5).

    Returns:
      The objective. It logs `contrastive_top1`, `contrastive_entropy` and `mi_bound`.
    """

    def loss(online: Sequence[Outputs], target: Sequence[Outputs]) -> tuple[jax.Array, Logs]:
        first, second = similarities(online, target, axis, l2)
        per_example = info_nce_loss(first, temperature, beta) + info_nce_loss(
            second, temperature, beta
        )
        return per_example, contrastive_logs((first, second), temperature)

    return stateless(loss)
