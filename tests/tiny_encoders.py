"""Encoders with random weights and BatchNorm that is not the identity, for tests of exports."""

import functools
from typing import Any

import jax
import numpy as np

from byol_jax.networks import siamese
from byol_jax.weights import exported, layout, trained

# One of each structure, narrow: blocks, stems, paddings, shortcuts.
SPECS = {
    "basic": siamese.NetworkSpec(depth="18", width=1 / 8),
    "bottleneck": siamese.NetworkSpec(depth="50", width=1 / 8),
    "small": siamese.NetworkSpec(depth="18", width=1 / 8, stem="small"),
    "identity": siamese.NetworkSpec(depth="18", width=1 / 8, padding="torch", shortcut="identity"),
    "solo-learn": siamese.NetworkSpec(depth="tiny", stem="small", padding="solo-learn"),
}
# Rounding differs between programs by 2e-7 to 7e-7; a row of padding on the wrong side is 1e-2 and
# more. A cosine would tell neither from the other.
TOLERANCE = 2e-6


@functools.cache
def draw(spec: siamese.NetworkSpec, seed: int = 0) -> Any:
    """Parameters and BatchNorm averages; scale, offset, mean and variance are random."""
    rng = np.random.default_rng(seed)

    def leaf_of(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        module, name = (entry.key for entry in path)
        if name == "counter":
            return np.array(7, np.int32)
        if name == "w":
            fan_in = int(np.prod(leaf.shape[:-1]))
            return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(np.float32)
        if name == "scale" or "var" in module:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, 0.2, leaf.shape).astype(np.float32)

    shapes = layout.shapes_of(spec)
    return tuple(jax.tree_util.tree_map_with_path(leaf_of, tree) for tree in shapes)


def torch_arrays(spec: siamese.NetworkSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """The same arrays under the names of PyTorch."""
    return layout.to_torch(*draw(spec, seed))


def foreign(spec: siamese.NetworkSpec, **changes: Any) -> trained.Trained:
    """The same weights as a file that does not say how they were trained."""
    params, state = draw(spec)
    weights = trained.of_weights(
        network=spec,
        section=exported.spec_section(spec),
        trees={"online_params": params, "online_state": state},
        image_size=64,
        step=7,
        method="simsiam",
        origin="its authors",
        licence=trained.NON_COMMERCIAL,
    )
    return weights._replace(**changes)


@functools.cache
def embedded(spec: siamese.NetworkSpec, size: int, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images `[count, size, size, 3]`, and what the Haiku encoder makes of them."""
    images = np.random.default_rng(size).normal(size=(count, size, size, 3)).astype(np.float32)

    @jax.jit
    def encode(params: Any, state: Any, images: jax.Array) -> jax.Array:
        return siamese.encoder(spec).apply(params, state, None, images, False)[0]["embedding"]

    return images, np.asarray(encode(*draw(spec), images))


def channels_first(images: np.ndarray) -> np.ndarray:
    """`[N, H, W, 3]` to `[N, 3, H, W]`."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def distance(values: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference, relative to the expected values' own."""
    return float(np.linalg.norm(values - expected) / np.linalg.norm(expected))
