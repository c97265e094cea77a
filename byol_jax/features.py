"""Frozen features of a whole set of images: once, in order, padded and masked."""

from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import numpy as np

from byol_jax import augment, distributed

# BatchNorm averages of a network that was never trained come from this many batches.
CALIBRATION_BATCHES = 10


Tree = Mapping[str, Mapping[str, Any]]


def extract(
    network: hk.TransformedWithState,
    params: Tree,
    state: Tree,
    images: np.ndarray,
    *,
    outputs: Sequence[str] = ("embedding",),
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """Named outputs of the network for every image, BatchNorm on its moving averages.

    Args:
      network: `siamese(spec)`.
      params, state: of the online or target network.
      images: uint8 evaluation crops `[N, H, W, 3]`.
      outputs: names among those of `siamese`.
      batch_size: images per call, over all local devices.

    Returns:
      float32 arrays `[N, ...]` in the order of `images`.
    """

    def forward(batch: jax.Array) -> dict[str, jax.Array]:
        views = augment.normalize(augment.to_float(batch))
        named, _ = network.apply(params, state, None, views, False)
        return {name: named[name] for name in outputs}

    return distributed.map_batches(forward, images, batch_size)


def calibrate(
    network: hk.TransformedWithState,
    params: hk.Params,
    state: hk.State,
    images: np.ndarray,
    *,
    batch_size: int = 256,
) -> hk.State:
    """Fills the BatchNorm averages of an untrained network; no parameter moves.

    At initialisation the averages are zero, with which a deep network overflows.

    Args:
      network: `siamese(spec)` without a mapped axis.
      params, state: as initialised.
      images: uint8 `[N, H, W, 3]`, the first batches of which are used.
      batch_size: images per batch.
    """

    @jax.jit
    def forward(state: hk.State, batch: jax.Array) -> hk.State:
        views = augment.normalize(augment.to_float(batch))
        return network.apply(params, state, None, views, True)[1]

    batch_size = min(batch_size, len(images))
    for i in range(min(CALIBRATION_BATCHES, len(images) // batch_size)):
        state = forward(state, images[i * batch_size : (i + 1) * batch_size])
    return state
