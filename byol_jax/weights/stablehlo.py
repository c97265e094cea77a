"""An encoder as a compiled-ahead program: StableHLO of `jax.export`, in one file."""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from byol_jax.networks import resnet, siamese
from byol_jax.weights.trained import Tree

# Where the programs run; each is lowered for all of them.
PLATFORMS = ("cpu", "cuda", "tpu")
# The weights are in the file, whose format (a flat buffer) ends at 2 GiB.
LARGEST = 2**31 - 2**24


def side_multiple(stem: str) -> int:
    """The strides of the network, of which the sides of images must be multiples."""
    return (4 if stem == "imagenet" else 1) * 2 ** sum(s > 1 for s in resnet.GROUP_STRIDES)


def symbolic_shape(spec: siamese.NetworkSpec, image_size: int) -> str:
    """The shapes that a program takes, as JAX writes them: `(b, 32*h, 32*w, 3)`.

    The arithmetic of open sizes needs sides that are multiples of the network's strides. If the
    training's own size is none, the program takes that size alone.
    """
    multiple = side_multiple(spec.stem)
    if image_size % multiple:
        return f"(b, {image_size}, {image_size}, 3)"
    return f"(b, {multiple}*h, {multiple}*w, 3)"


def function_of(
    spec: siamese.NetworkSpec,
) -> Callable[[Tree, Tree, jax.Array], jax.Array]:
    """The encoder as a function of parameters, averages and normalised images `[N, H, W, 3]`."""
    network = siamese.encoder(spec)

    def embed(params: Tree, state: Tree, images: jax.Array) -> jax.Array:
        return network.apply(params, state, None, images, False)[0]["embedding"]

    return embed


def write(
    path: pathlib.Path, params: Tree, state: Tree, spec: siamese.NetworkSpec, image_size: int
) -> None:
    """Writes the encoder with its weights as constants, for `jax.export.deserialize`.

    Its argument is float32 `[N, H, W, 3]`, normalised; its result `[N, dim]`.
    """
    embed = function_of(spec)
    shape = export.symbolic_shape(symbolic_shape(spec, image_size))
    program = export.export(
        jax.jit(lambda images: embed(params, state, images)), platforms=PLATFORMS
    )(jax.ShapeDtypeStruct(shape, jnp.float32))
    path.write_bytes(program.serialize())
