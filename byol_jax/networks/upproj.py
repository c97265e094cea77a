"""The up-projection decoder for depth (BYOL App. E.6; FCRN: Laina et al. 2016).

An up-convolution puts zeros between the pixels of a map and convolves with a 5x5 kernel. Of the
kernel each output pixel meets only every second row and column, so four small kernels on the map
itself give the same, without the zeros: FCRN's "fast" version. Output pixel (2i + r, 2j + s) comes
from the kernel of phase (r, s): `a` (0, 0), `b` (1, 0), `c` (0, 1), `d` (1, 1).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax.networks import norms

# Where the kernels of two rows or columns lie. unpool5x5: rows i and i + 1 for output row 2i + 1,
# which is what the 5x5 kernel meets. authors: rows i - 1 and i, as in the code of FCRN's authors,
# which displaces odd rows and columns by two; their weights need it (docs/deviations.md, 85).
PADDINGS = ("unpool5x5", "authors")
_KERNELS: Mapping[str, tuple[int, int]] = {"a": (3, 3), "b": (2, 3), "c": (3, 2), "d": (2, 2)}


class UpProjection(NamedTuple):
    """The layers of the decoder; the defaults are those of BYOL App. E.6 and of FCRN.

    Attributes:
      channels: output channels of each up-projection block. A block doubles height and width.
      entry_channels: output channels of the 1x1 convolution in front of the blocks.
      padding: one of `PADDINGS`.
    """

    channels: tuple[int, ...] = (512, 256, 128, 64)
    entry_channels: int = 1024
    padding: str = "unpool5x5"


def _sides(size: int, padding: str) -> tuple[int, int]:
    """Rows of zeros before and behind a map, for a kernel of `size` rows."""
    if size == 3:
        return (1, 1)
    return {"unpool5x5": (0, 1), "authors": (1, 0)}[padding]


def interleave(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """The four phases, each `[B, h, w, C]`, as one map `[B, 2h, 2w, C]`."""
    batch, height, width, channels = a.shape
    even = jnp.stack([a, c], axis=3)  # even rows, [B, h, w, 2, C]
    odd = jnp.stack([b, d], axis=3)
    return jnp.stack([even, odd], axis=2).reshape(batch, 2 * height, 2 * width, channels)


class UpProjectionBlock(hk.Module):
    """Two up-convolutions of one map, the first with a further 3x3 convolution; sum and ReLU.

    Every convolution has a bias, as in the authors' code: the phases have different ones, so
    BatchNorm does not take them away again.

    Args:
      channels: output channels.
      padding: one of `PADDINGS`.
      bn_config: keyword arguments of every `norms.BatchNorm`.
    """

    def __init__(self, channels: int, padding: str, bn_config: Mapping[str, Any], name: str):
        super().__init__(name=name)
        self.channels, self.padding, self.bn_config = channels, padding, dict(bn_config)

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps `[B, h, w, C]` to `[B, 2h, 2w, channels]`."""

        # A method would put its own name into those of the parameters.
        def up_convolution(branch: str) -> jax.Array:
            phases = []
            for phase, kernel in _KERNELS.items():
                sides = [_sides(size, self.padding) for size in kernel]
                name = f"{branch}_conv_{phase}"
                phases.append(hk.Conv2D(self.channels, kernel, padding=sides, name=name)(inputs))
            norm = norms.BatchNorm(name=f"{branch}_batchnorm", **self.bn_config)
            return norm(interleave(*phases), is_training)

        out = jax.nn.relu(up_convolution("branch1"))
        out = hk.Conv2D(self.channels, 3, name="conv")(out)
        out = norms.BatchNorm(name="batchnorm", **self.bn_config)(out, is_training)
        return jax.nn.relu(out + up_convolution("branch2"))


class DepthHead(hk.Module):
    """A 1x1 convolution with BatchNorm, the blocks, and a 3x3 convolution to one channel with ReLU.

    Args:
      spec: the layers.
      bn_config: keyword arguments of every `norms.BatchNorm`.
    """

    def __init__(self, spec: UpProjection, bn_config: Mapping[str, Any], name: str = "depth_head"):
        super().__init__(name=name)
        self.spec, self.bn_config = spec, dict(bn_config)

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps features `[B, h, w, C]` to depths `[B, 2^n h, 2^n w]` of n blocks, at least 0."""
        out = hk.Conv2D(self.spec.entry_channels, 1, name="entry_conv")(inputs)
        out = norms.BatchNorm(name="entry_batchnorm", **self.bn_config)(out, is_training)
        for i, channels in enumerate(self.spec.channels):
            block = UpProjectionBlock(channels, self.spec.padding, self.bn_config, f"block_{i}")
            out = block(out, is_training)
        return jax.nn.relu(hk.Conv2D(1, 3, name="depth")(out))[..., 0]
