"""MoCo's objective (He et al. 2019, Chen et al. 2020): query, key, and a queue of negatives."""

import jax
import jax.numpy as jnp

from byol_jax.objectives import queue
from byol_jax.objectives.base import Loss, Objective, Outputs, PyTree, State, Views
from byol_jax.objectives.normalize import l2_normalize


def moco(
    temperature: jax.Array | float = 0.2,
    queue_size: int = 65536,
    symmetric: bool = False,
    axis: str | None = None,
) -> Objective:
    """InfoNCE with the key of the other view against a queue of keys (MoCo Eq. 1).

    Queries are projections of online, keys those of target, whose passes come behind the momentum
    update. Negatives are the queue before this batch; the keys of the batch replace the oldest.

    Args:
      temperature: tau > 0, may be traced; 0.07 in MoCo v1, 0.2 in v2.
      queue_size: K, a multiple of the keys of a step.
      symmetric: whether view 2 asks for view 1, too. Both losses are added and the keys of both
        views enter, those of view 1 first, as in the authors' notebook. Otherwise view 1 asks for
        view 2 alone.
      axis: mapped axis; keys are gathered from all its devices before they enter.

    Returns:
      The objective. It logs `contrastive_top1` and `contrastive_top5`, among the 1 + K candidates.
    """
    directions = ((1, 2), (2, 1)) if symmetric else ((1, 2),)

    def init(key: jax.Array, outputs: Views, num_examples: int) -> tuple[PyTree, State]:
        del num_examples
        keys = queue.new(key, queue_size, outputs[1]["projection"].shape[-1])
        return {}, {"queue": keys, "next": jnp.zeros((), jnp.int32)}

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
        keys = {view: l2_normalize(target[view]["projection"]) for _, view in directions}
        logits = [
            queue.logits(
                l2_normalize(online[asking]["projection"]), keys[asked], state["queue"], temperature
            )
            for asking, asked in directions
        ]
        rows = queue.enqueue(queue_size, state["next"], [keys[v] for v in sorted(keys)], axis)
        both = jnp.concatenate(logits)
        return Loss(
            per_example=jnp.sum(jnp.stack([queue.cross_entropy(one) for one in logits]), axis=0),
            state={"next": queue.behind(rows, queue_size)},
            logs={"contrastive_top1": queue.top(both, 1), "contrastive_top5": queue.top(both, 5)},
            rows={"queue": rows},
        )

    return Objective(init, loss)
