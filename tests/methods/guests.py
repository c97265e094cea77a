"""Methods that live in the tests alone: what the interfaces of the package must hold.

Their formulas are those of the authors' code as golden_methods/README.md tells them, on networks of
a few layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax.method import Entry
from byol_jax.objectives.base import Loss, Objective, Rows
from byol_jax.optim.groups import Group, Groups, everywhere
from byol_jax.program import Method, Passes
from byol_jax.runtime import spmd


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """x / max(|x|, 1e-12)."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)


def _norm(axis: str | None) -> Callable[..., hk.BatchNorm]:
    return functools.partial(
        hk.BatchNorm,
        create_scale=True,
        create_offset=True,
        decay_rate=0.9,
        eps=1e-5,
        cross_replica_axis=axis,
    )


class _Encoder(hk.Module):
    """Linear without bias, BatchNorm, ReLU."""

    def __init__(self, width: int, axis: str | None):
        super().__init__("encoder")
        self.width, self.axis = width, axis

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        x = hk.Linear(self.width, with_bias=False, name="linear")(x)
        return jax.nn.relu(_norm(self.axis)(name="batch_norm")(x, is_training))


class _Projector(hk.Module):
    """Linear, BatchNorm, ReLU, linear."""

    def __init__(self, sizes: tuple[int, int], axis: str | None):
        super().__init__("projector")
        self.sizes, self.axis = sizes, axis

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        x = hk.Linear(self.sizes[0], name="linear")(x)
        x = jax.nn.relu(_norm(self.axis)(name="batch_norm")(x, is_training))
        return hk.Linear(self.sizes[1], name="linear_1")(x)


def _blocks(x: jax.Array) -> jax.Array:
    """Means over equal blocks, 4 x 4 of them."""
    count, side = len(x), x.shape[1] // 4
    return x.reshape(count, 4, side, 4, side, 3).mean(axis=(2, 4)).reshape(count, -1)


@functools.cache
def swav_network(
    width: int, hidden: int, dim: int, axis: str | None = None
) -> hk.TransformedWithState:
    """An encoder of any image size and a head, with the interface of `siamese`."""

    def network(images: Any, is_training: bool) -> Any:
        groups = images if isinstance(images, tuple) else (images,)
        encoder = _Encoder(width, axis)
        embeddings = [encoder(_blocks(group), is_training) for group in groups]
        projections = _Projector((hidden, dim), axis)(jnp.concatenate(embeddings), is_training)
        bounds = [sum(map(len, embeddings[:i])) for i in range(1, len(embeddings))]
        outputs = [
            {"embedding": y, "projection": z, "prediction": z}
            for y, z in zip(embeddings, jnp.split(projections, bounds), strict=True)
        ]
        return tuple(outputs) if isinstance(images, tuple) else outputs[0]

    return hk.transform_with_state(network)


def sinkhorn(
    scores: jax.Array, counted: jax.Array, eps: float, iterations: int, axis: str | None
) -> jax.Array:
    """Assignments `[N, K]` of the global batch; rows that are not `counted` take no part."""
    weights = jnp.exp(scores / eps) * counted[:, None]
    weights /= jnp.sum(weights)
    count = jnp.sum(counted)
    for _ in range(iterations):
        columns = jnp.sum(weights, axis=0, keepdims=True)
        weights /= columns * scores.shape[1]
        rows = jnp.sum(weights, axis=1, keepdims=True)
        weights /= jnp.where(rows > 0, rows, 1) * count
    del axis  # all rows are here, on every device
    return weights * count


def swav(
    temperature: float = 0.1,
    eps: float = 0.05,
    iterations: int = 3,
    prototypes: int = 10,
    large: int = 2,
    queue: int = 16,
    queue_from: int = 3,
    axis: str | None = None,
) -> Objective:
    """Swapped predictions over all crops, with a late queue for each large crop.

    `queue1`, ... `[queue, D]` are rings: what was written last starts at row `next`. The queue is
    written from step `queue_from` on, and used once it is full.
    """

    def init(key: jax.Array, outputs: Any, num_examples: int) -> tuple[Any, Any]:
        del num_examples
        dim = outputs[1]["projection"].shape[-1]
        state: dict[str, jax.Array] = {f"queue{v}": jnp.zeros((queue, dim)) for v in _crops()}
        state |= {"next": jnp.zeros((), jnp.int32), "filled": jnp.zeros((), jnp.int32)}
        return {"prototypes": {"w": jax.random.normal(key, (dim, prototypes))}}, state

    def _crops() -> range:
        return range(1, large + 1)

    def loss(
        params: Any, online: Any, target: Any, batch: Any, state: Any, key: Any, step: Any
    ) -> Loss:
        del target, batch, key
        w = params["prototypes"]["w"]
        embeddings = {v: unit(outputs["projection"]) for v, outputs in online.items()}
        scores = {v: z @ w for v, z in embeddings.items()}
        local = len(scores[1])
        start = spmd.axis_index(axis) * local
        is_used = state["filled"] >= queue
        terms, codes, rows = [], [], {}
        gathered = {v: spmd.all_gather(embeddings[v], axis) for v in _crops()}
        count = len(gathered[1])
        is_filling = step >= queue_from
        at = (state["next"] - count) % queue
        for v in _crops():
            waiting = jax.lax.stop_gradient(state[f"queue{v}"] @ w)
            whole = jax.lax.stop_gradient(spmd.all_gather(scores[v], axis))
            counted = jnp.concatenate([jnp.full(queue, is_used), jnp.ones(count, bool)])
            q = sinkhorn(jnp.concatenate([waiting, whole]), counted, eps, iterations, axis)
            q = jax.lax.dynamic_slice_in_dim(q[-count:], start, local)
            codes.append(q)
            others = [
                -jnp.sum(q * jax.nn.log_softmax(scores[u] / temperature), axis=1)
                for u in scores
                if u != v
            ]
            terms.append(sum(others) / len(others))
            place = (at + jnp.arange(count)) % queue
            # A row behind the last one is not written.
            rows[f"queue{v}"] = Rows(jnp.where(is_filling, place, queue), gathered[v])
        changed = {
            "next": jnp.where(is_filling, at, state["next"]).astype(jnp.int32),
            "filled": state["filled"] + jnp.where(is_filling, count, 0).astype(jnp.int32),
        }
        used = jnp.where(is_used, queue, 0) + count
        logs = {"q": jnp.stack(codes), "n_sinkhorn_rows": used}
        return Loss(sum(terms) / len(terms), changed, logs, rows)

    def prepare(params: Any) -> Any:
        return {"prototypes": {"w": unit(params["prototypes"]["w"], axis=0)}}

    return Objective(init, loss, prepare)


def swav_method(large: int, small: int, objective: Callable[..., Objective] = swav) -> Method:
    """Large crops pass f together, then the small ones; the head takes all at once."""
    views = tuple(range(1, large + small + 1))
    larc: Groups[Group] = everywhere(Group("larc", "constant", adapted="all"))
    return Method(
        objective=objective,
        target="online",
        passes=Passes(online=(views[:large], views[large:]), target=(), head="all"),
        groups=larc,
    )


def _three_views(axis: str | None = None) -> Objective:
    """Every view predicts the targets of the two large ones, the small one too."""
    del axis

    def init(key: jax.Array, outputs: Any, num_examples: int) -> tuple[Any, Any]:
        del key
        assert sorted(outputs) == [1, 2, 3]
        return {}, {"seen": jnp.zeros(num_examples, jnp.int32)}

    def loss(
        params: Any, online: Any, target: Any, batch: Any, state: Any, key: Any, step: Any
    ) -> Loss:
        del params, state, key, step
        assert sorted(online) == [1, 2, 3] and sorted(target) == [1, 2]
        terms = [
            jnp.sum((unit(q["prediction"]) - unit(z["projection"])) ** 2, axis=1)
            for v, q in online.items()
            for u, z in target.items()
            if u != v
        ]
        ids = spmd.all_gather(batch["ids"], spmd.AXIS)
        return Loss(sum(terms), {}, {}, {"seen": Rows(ids, jnp.ones_like(ids))})

    return Objective(init, loss)


# Both large views in one pass, the small one by itself.
THREE_VIEWS = Entry(
    _three_views,
    passes=lambda count, switches: Passes(online=((1, 2), (3,)), target=((1,), (2,))),
    has_negatives=False,
)


def _clusters(which: str = "eval", every: int = 2, axis: str | None = None) -> Objective:
    """Images are told apart by which side of a plane they lie on; the plane is made anew.

    State: `side` `[N]`, by id. What `refresh` got is kept in it too, for tests to look at.
    """
    del axis

    def init(key: jax.Array, outputs: Any, num_examples: int) -> tuple[Any, Any]:
        dim = outputs[1]["projection"].shape[-1]
        state = {"side": jnp.zeros(num_examples), "rows": jnp.zeros((), jnp.int32)}
        return {"plane": {"w": jax.random.normal(key, (dim,))}}, state

    def loss(
        params: Any, online: Any, target: Any, batch: Any, state: Any, key: Any, step: Any
    ) -> Loss:
        del target, key, step
        sides = state["side"][batch["ids"]]
        errors = [
            (unit(x["prediction"]) @ params["plane"]["w"] - sides) ** 2 for x in online.values()
        ]
        return Loss(sum(errors), {}, {"sides": jnp.mean(sides)})

    def refresh(key: Any, params: Any, state: Any, features: Any, ids: Any) -> tuple[Any, Any]:
        name = "projection" if which == "eval" else "view1/projection"
        rows = unit(jnp.asarray(features[name]))
        plane = unit(jax.random.normal(key, params["plane"]["w"].shape))
        side = jnp.asarray(state["side"]).at[ids].set(jnp.sign((rows - rows.mean(axis=0)) @ plane))
        return {"plane": {"w": plane}}, {"side": side, "rows": jnp.int32(len(rows))}

    def when(step: int, num_examples: int, batch_size: int) -> str | None:
        assert (num_examples, batch_size) == (24, 8)
        return which if step % every == 0 else None

    return Objective(init, loss, refresh=refresh, when=when)


CLUSTERS = Entry(_clusters, has_negatives=False)
