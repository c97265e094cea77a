"""Dense contrastive learning (Wang et al. 2021): MoCo, and the same at each position of a map."""

import jax
import jax.numpy as jnp

from byol_jax.networks.resnet import LAST_MAP
from byol_jax.objectives import queue
from byol_jax.objectives.base import Loss, Objective, Outputs, PyTree, State, Views
from byol_jax.objectives.normalize import exact_matmul, l2_normalize

# Output of the network by whose cosines positions are matched: that of the backbone.
FEATURES = f"feature_map/{LAST_MAP}"


def positions(feature_map: jax.Array) -> jax.Array:
    """The vectors at the positions of a map, of norm 1: `[B, h, w, C]` -> `[B, h w, C]`."""
    count, height, width, channels = feature_map.shape
    rows = l2_normalize(feature_map.reshape(-1, channels))
    return rows.reshape(count, height * width, channels)


def matches(query: jax.Array, key: jax.Array) -> jax.Array:
    """c_i = argmax_j of the cosine of f_i and f'_j (DenseCL section 3.4).

    Args:
      query: positions of one view, of norm 1, `[B, P, C]`.
      key: positions of the other view of the same images, `[B, P', C]`.

    Returns:
      Position of the other view for each one of this view, int32 `[B, P]`; the first among equals.
    """
    cosines = jax.vmap(lambda q, k: exact_matmul(q, k.T))(query, key)
    return jnp.argmax(cosines, axis=2).astype(jnp.int32)


def pooled(dense: jax.Array) -> jax.Array:
    """The mean over the positions of the dense head's output, of norm 1: `[B, D]`.

    It is what enters the dense queue, one row per image.
    """
    return l2_normalize(jnp.mean(dense, axis=(1, 2)))


def dense_logits(
    query: Outputs, key: Outputs, negatives: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """The logits of all positions of all images, the positive first: `[B P, 1 + K]`.

    Args:
      query, key: outputs for one view of the online and of the other view of the target network,
        with `dense` `[B, h, w, D]` and the backbone's map.
      negatives: the dense queue, `[K, D]`.
      temperature: tau > 0.
    """
    matched = matches(positions(query[FEATURES]), positions(key[FEATURES]))
    dense = positions(query["dense"])
    positive = jnp.take_along_axis(positions(key["dense"]), matched[:, :, None], axis=1)
    size = dense.shape[-1]
    return queue.logits(dense.reshape(-1, size), positive.reshape(-1, size), negatives, temperature)


def densecl(
    temperature: jax.Array | float = 0.2,
    dense_weight: jax.Array | float = 0.5,
    queue_size: int = 65536,
    axis: str | None = None,
) -> Objective:
    """(1 - lambda) L_q + lambda L_r (DenseCL Eq. 3), of view 1 against view 2.

    L_q is MoCo's loss of the projections. L_r is the same loss for each position of the dense head,
    in the mean; its positive is the position of view 2 that matches best in the backbone's map, its
    negatives are dense keys of other images, each pooled over its positions.

    Args:
      temperature: tau > 0 of both losses, may be traced; 0.2.
      dense_weight: lambda in [0, 1], may be traced; 0.5.
      queue_size: K of both queues, a multiple of the images of a step.
      axis: mapped axis; keys are gathered from all its devices before they enter.

    Returns:
      The objective. It logs `contrastive_top1`, `dense_top1`, and both losses, unweighted.
    """

    def init(key: jax.Array, outputs: Views, num_examples: int) -> tuple[PyTree, State]:
        del num_examples
        first, second = jax.random.split(key)
        return {}, {
            "queue": queue.new(first, queue_size, outputs[1]["projection"].shape[-1]),
            "queue_dense": queue.new(second, queue_size, outputs[1]["dense"].shape[-1]),
            "next": jnp.zeros((), jnp.int32),
        }

    def loss(
        params: PyTree,
        online: Views,
        target: Views,
        batch: Outputs,
        state: State,
        key: jax.Array,
        step: jax.Array,
    ) -> Loss:
        del params, batch, key, step
        keys = l2_normalize(target[2]["projection"])
        query = l2_normalize(online[1]["projection"])
        logits = queue.logits(query, keys, state["queue"], temperature)
        dense = dense_logits(online[1], target[2], state["queue_dense"], temperature)
        single = queue.cross_entropy(logits)
        by_image = jnp.mean(queue.cross_entropy(dense).reshape(len(query), -1), axis=1)
        rows = queue.enqueue(queue_size, state["next"], [keys], axis)
        dense_keys = [pooled(target[2]["dense"])]
        return Loss(
            per_example=(1 - dense_weight) * single + dense_weight * by_image,
            state={"next": queue.behind(rows, queue_size)},
            logs={
                "contrastive_top1": queue.top(logits, 1),
                "dense_top1": queue.top(dense, 1),
                "single_loss": jnp.mean(single),
                "dense_loss": jnp.mean(by_image),
            },
            rows={
                "queue": rows,
                "queue_dense": queue.enqueue(queue_size, state["next"], dense_keys, axis),
            },
        )

    return Objective(init, loss)
