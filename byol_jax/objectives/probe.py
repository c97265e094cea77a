"""The online probe: a classifier that is trained along, on frozen features (deviations, 6)."""

import jax
import jax.numpy as jnp
import optax

from byol_jax.objectives.base import Logs, label_weights


def probe_loss(logits: jax.Array, labels: jax.Array, axis: str | None) -> tuple[jax.Array, Logs]:
    """Cross-entropy and accuracies of the online probe over the labelled examples.

    Args:
      logits: `[B, num_classes]`.
      labels: int32 `[B]`, -1 for none.
      axis: the mapped axis; the mean is over the labelled examples of all devices.

    Returns:
      The loss, and logs `probe_loss`, `probe_top1`, `probe_top5` (percent).
    """
    weights = label_weights(labels >= 0, logits.dtype, axis)
    targets = jnp.maximum(labels, 0)
    loss = jnp.mean(
        weights * optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    )
    _, ranked = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = ranked == targets[:, None]
    logs = {"probe_loss": loss}
    for name, top in (("probe_top1", hits[:, :1]), ("probe_top5", hits)):
        logs[name] = 100 * jnp.mean(weights * jnp.any(top, axis=-1))
    return loss, logs
