"""Frozen features of whole sets of images, in order."""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np

from byol_jax.augment import byol
from byol_jax.evals.splits import CALIBRATION_BATCHES, Split
from byol_jax.runtime import metrics, spmd

Tree = Mapping[str, Mapping[str, Any]]


def extract(
    network: hk.TransformedWithState,
    params: Tree,
    state: Tree,
    batches: Iterable[np.ndarray],
    *,
    outputs: Sequence[str] = ("embedding",),
    batch_size: int = 256,
    most: int | None = None,
) -> dict[str, np.ndarray]:
    """Named outputs of the network for every image, BatchNorm on its moving averages.

    Args:
      network: `siamese(spec)`.
      params, state: weights of the online or the target network.
      batches: uint8 evaluation crops `[b, H, W, 3]`, N images in all.
      outputs: names of outputs of `siamese`.
      batch_size: images per call, over all local devices; no batch is larger.
      most: N or more, where it is known; see `spmd.map_batches`.

    Returns:
      float32 arrays `[N, ...]` in the order of the images.
    """
    forward = _forward(network, tuple(outputs))
    return spmd.map_batches(forward, batches, batch_size, (params, state), most)


@functools.lru_cache(maxsize=16)
def _forward(network: hk.TransformedWithState, outputs: tuple[str, ...]) -> Any:
    """One function for all passes of a network, so that it is compiled once."""

    def forward(batch: jax.Array, params: Tree, state: Tree) -> dict[str, jax.Array]:
        views = byol.evaluation_views(batch)
        named, _ = network.apply(params, state, None, views, False)
        return {name: named[name] for name in outputs}

    return forward


def calibrate(
    network: hk.TransformedWithState,
    params: hk.Params,
    state: hk.State,
    batches: Iterable[np.ndarray],
) -> hk.State:
    """Fills the BatchNorm averages of an untrained network; no parameter moves.

    At initialisation the averages are zero, and a deep network would overflow with them.

    Args:
      network: `siamese(spec)` without a mapped axis.
      params, state: weights at initialisation.
      batches: uint8 `[b, H, W, 3]` in random order, of which the first `CALIBRATION_BATCHES` are
        used; a last batch of another size is not.
    """
    size = None
    for batch in itertools.islice(batches, CALIBRATION_BATCHES):
        size = size or len(batch)
        if len(batch) == size:
            state = _averages(network, params, state, batch)
    return state


@functools.partial(jax.jit, static_argnames="network")
def _averages(
    network: hk.TransformedWithState, params: hk.Params, state: hk.State, batch: jax.Array
) -> hk.State:
    views = byol.evaluation_views(batch)
    return network.apply(params, state, None, views, True)[1]


# Number of images from which on a pass over a split shows its progress.
_LONG = 20_000


class Features(NamedTuple):
    """Features of the images of a split that could be read.

    Attributes:
      values: features `[N, D]`.
      labels: int `[N]`, or `[N, K]` for several classes per image; -1 = none.
      projection: projections `[N, d]`, where they were asked for.
      ids: places of the images in the split, `[N]`, where they are known.
    """

    values: np.ndarray
    labels: np.ndarray
    projection: np.ndarray | None = None
    ids: np.ndarray | None = None

    def labelled(self) -> "Features":
        """Features of the images that have a label, without the projections."""
        chosen = self.labels.reshape(len(self.labels), -1).max(axis=1, initial=-1) >= 0
        if chosen.all():
            return self._replace(projection=None)
        ids = None if self.ids is None else self.ids[chosen]
        return Features(self.values[chosen], self.labels[chosen], ids=ids)


def embeddings(
    network: hk.TransformedWithState,
    params: Tree,
    state: Tree,
    split: Split,
    batch_size: int,
    projection: bool = False,
) -> Features:
    """Frozen features of a split: one pass over its crops."""
    labels: list[np.ndarray] = []
    ids: list[np.ndarray] = []

    def crops() -> Iterator[np.ndarray]:
        with contextlib.ExitStack() as stack:
            progress = None
            if split.size >= _LONG:
                progress = metrics.Progress(split.size, f"features of {split.name}")
                stack.enter_context(contextlib.closing(progress))
            for batch in split.batches():
                labels.append(batch["labels"])
                ids.append(batch["ids"])
                yield batch["images"]
                if progress:
                    progress.advance(int(batch["ids"][-1]) + 1, "")

    outputs = ("embedding", "projection") if projection else ("embedding",)
    named = extract(
        *(network, params, state, crops()), outputs=outputs, batch_size=batch_size, most=split.size
    )
    return Features(
        named["embedding"], np.concatenate(labels), named.get("projection"), np.concatenate(ids)
    )
