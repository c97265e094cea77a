"""The encoder f: ResNet v1 (post-activation), BYOL App. A.

Module and parameter names are those of the checkpoints that the paper's authors published.
Bottlenecks have their stride in the 3x3 convolution, and the first block of every group has a
projection shortcut. All paddings are SAME in TensorFlow's sense, which is asymmetric for stride 2
(docs/deviations.md, 27 and 28). Networks of PyTorch have other paddings, and no projection where
shapes agree; `padding` and `shortcut` are for their weights.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax.errors import UserError, require
from byol_jax.networks import norms


class Architecture(NamedTuple):
    """One row of the table of encoders.

    Attributes:
      name: name of the Haiku module.
      blocks: number of blocks per group.
      channels: output channels per group, at width 1.
      bottleneck: whether blocks are bottlenecks.
    """

    name: str
    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    bottleneck: bool


_WIDE = (256, 512, 1024, 2048)
_BASIC = (64, 128, 256, 512)

ARCHITECTURES: Mapping[str, Architecture] = {
    "tiny": Architecture("tiny_res_net", (1, 1, 1, 1), (8, 8, 8, 8), bottleneck=False),
    "18": Architecture("res_net18", (2, 2, 2, 2), _BASIC, bottleneck=False),
    "34": Architecture("res_net34", (3, 4, 6, 3), _BASIC, bottleneck=False),
    "50": Architecture("res_net50", (3, 4, 6, 3), _WIDE, bottleneck=True),
    "101": Architecture("res_net101", (3, 4, 23, 3), _WIDE, bottleneck=True),
    "152": Architecture("res_net152", (3, 8, 36, 3), _WIDE, bottleneck=True),
    "200": Architecture("res_net200", (3, 24, 36, 3), _WIDE, bottleneck=True),
}
STEMS = ("imagenet", "small")
# same: SAME in TensorFlow's sense. torch: as many rows of zeros on both sides, which differs at
# stride 2. solo-learn: likewise, with two around the small stem.
PADDINGS = ("same", "torch", "solo-learn")
# projection: in the first block of every group. identity: only where shapes differ, so not in the
# first group of ResNet-18 and 34 (torchvision).
SHORTCUTS = ("projection", "identity")
STEM_CHANNELS = 64
GROUP_STRIDES = (1, 2, 2, 2)
# The representation is the mean over positions of this feature map.
LAST_MAP = "group_3"


def last_map_side(stem: str, image_size: int) -> int:
    """Side of the last feature map, without dilation: convolutions and pools round up.

    So they do with every padding but `solo-learn`, which adds two pixels to a small stem.
    """
    side = image_size
    for stride in (*((2, 2) if stem == "imagenet" else ()), *GROUP_STRIDES):
        side = -(-side // stride)
    return side


def architecture(depth: str | int) -> Architecture:
    """The row of the table for `depth`.

    Raises:
      UserError: if there is no such row.
    """
    key = str(depth)
    if key not in ARCHITECTURES:
        raise UserError(
            f"network.depth={depth!r} is not an encoder: choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[key]


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, as an exact integer.

    Raises:
      UserError: if `width` is not a positive multiple of 1/8.
    """
    eighths = 8 * float(width)
    require(
        eighths > 0 and eighths == int(eighths),
        f"network.width={width} must be a positive multiple of 1/8 (the paper uses 1 to 4)",
    )
    return channels * int(eighths) // 8


class Variant(NamedTuple):
    """What may differ in a ResNet of one depth, width and stem.

    Attributes:
      dilation: dilation of every 3x3 convolution of the last group; 1 is none. Above 1 the stride
        of that group becomes 1 (BYOL App. E.4 uses 2). Parameters keep their names and shapes.
      padding: one of `PADDINGS`.
      shortcut: one of `SHORTCUTS`.
    """

    dilation: int = 1
    padding: str = "same"
    shortcut: str = "projection"


PLAIN = Variant()


class BlockSpec(NamedTuple):
    """What the blocks of a group share.

    Attributes:
      channels: output channels.
      bottleneck: whether blocks are bottlenecks.
      bn_config: keyword arguments of every `norms.BatchNorm`.
      last_bn_scale: initial scale of the last BatchNorm of a bottleneck.
      dilation: dilation of the 3x3 convolutions.
      padding: one of `PADDINGS`.
    """

    channels: int
    bottleneck: bool
    bn_config: Mapping[str, Any]
    last_bn_scale: float
    dilation: int
    padding: str


def _sides(kernel: int, dilation: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of zeros that torch puts on both sides of a map."""
    side = dilation * (kernel - 1) // 2
    return ((side, side), (side, side))


def _pads(padding: str, kernel: int, dilation: int = 1) -> Any:
    """The padding of a convolution, as Haiku takes it."""
    return "SAME" if padding == "same" else _sides(kernel, dilation)


class Block(hk.Module):
    """A residual block: basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1)."""

    def __init__(self, spec: BlockSpec, stride: int, use_projection: bool, name: str):
        super().__init__(name=name)
        channels = spec.channels
        inner = channels // 4 if spec.bottleneck else channels
        # (output channels, kernel size, stride) per convolution.
        plan = (
            ((inner, 1, 1), (inner, 3, stride), (channels, 1, 1))
            if spec.bottleneck
            else ((channels, 3, stride), (channels, 3, 1))
        )
        self.shortcut: tuple[hk.Conv2D, norms.BatchNorm] | None = None
        if use_projection:
            self.shortcut = (
                hk.Conv2D(channels, 1, stride=stride, with_bias=False, name="shortcut_conv"),
                norms.BatchNorm(name="shortcut_batchnorm", **spec.bn_config),
            )
        self.layers = []
        for i, (outputs, kernel, conv_stride) in enumerate(plan):
            is_last = i == len(plan) - 1
            scale = hk.initializers.Constant(
                spec.last_bn_scale if is_last and spec.bottleneck else 1.0
            )
            rate = spec.dilation if kernel > 1 else 1
            self.layers.append(
                (
                    hk.Conv2D(
                        outputs,
                        kernel,
                        stride=conv_stride,
                        rate=rate,
                        padding=_pads(spec.padding, kernel, rate),
                        with_bias=False,
                        name=f"conv_{i}",
                    ),
                    norms.BatchNorm(name=f"batchnorm_{i}", scale_init=scale, **spec.bn_config),
                )
            )

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H/stride, W/stride, channels]`."""
        out = shortcut = inputs
        if self.shortcut is not None:
            conv, norm = self.shortcut
            shortcut = norm(conv(shortcut), is_training)
        for i, (conv, norm) in enumerate(self.layers):
            out = norm(conv(out), is_training)
            if i < len(self.layers) - 1:
                out = jax.nn.relu(out)
        return jax.nn.relu(out + shortcut)


class BlockGroup(hk.Module):
    """The blocks that share one resolution."""

    def __init__(
        self,
        spec: BlockSpec,
        num_blocks: int,
        stride: int,
        use_projection: bool,
        remat: bool,
        name: str,
    ):
        super().__init__(name=name)
        self.remat = remat
        self.blocks = [
            Block(spec, stride if i == 0 else 1, use_projection and i == 0, name=f"block_{i}")
            for i in range(num_blocks)
        ]

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H/stride, W/stride, channels]`."""
        out = inputs
        for block in self.blocks:
            run = functools.partial(block, is_training=is_training)
            out = (hk.remat(run) if self.remat else run)(out)
        return out


class ResNet(hk.Module):
    """ResNet v1; its output is the mean over positions of the last feature map.

    Args:
      depth: a key of `ARCHITECTURES`.
      width: multiplier of every channel count, a multiple of 1/8.
      stem: `imagenet` (7x7 with stride 2, then a 3x3 max-pool with stride 2) or `small` (3x3 with
        stride 1, no pool: SimCLR App. B.9).
      bn_config: keyword arguments of every `norms.BatchNorm`.
      last_bn_scale: initial scale of the last BatchNorm of a bottleneck: 1 in the paper's runs, 0
        in the released code (docs/deviations.md, 4).
      remat: whether only the input of each block is kept for the gradient, and the rest computed
        again in the backward pass.
      variant: dilation, padding and shortcuts.
    """

    def __init__(
        self,
        depth: str | int,
        width: float = 1,
        stem: str = "imagenet",
        bn_config: Mapping[str, Any] | None = None,
        last_bn_scale: float = 1.0,
        remat: bool = False,
        variant: Variant = PLAIN,
    ):
        dilation, padding, shortcut = variant
        arch = architecture(depth)
        super().__init__(name=arch.name)
        self.stem = stem
        self.padding = padding
        bn_config = dict(bn_config or {})
        bn_config.setdefault("decay_rate", 0.9)
        bn_config.setdefault("eps", 1e-5)
        bn_config.setdefault("create_scale", True)
        bn_config.setdefault("create_offset", True)
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        is_wide = padding == "solo-learn" and stem == "small"
        self.initial_conv = hk.Conv2D(
            scaled(STEM_CHANNELS, width),
            kernel,
            stride=stride,
            padding=((2, 2), (2, 2)) if is_wide else _pads(padding, kernel),
            with_bias=False,
            name="initial_conv",
        )
        self.initial_batchnorm = norms.BatchNorm(name="initial_batchnorm", **bn_config)
        self.groups = []
        inputs = scaled(STEM_CHANNELS, width)
        for i, blocks in enumerate(arch.blocks):
            spec = BlockSpec(
                channels=scaled(arch.channels[i], width),
                bottleneck=arch.bottleneck,
                bn_config=bn_config,
                last_bn_scale=last_bn_scale,
                dilation=dilation if i == 3 else 1,
                padding=padding,
            )
            stride = 1 if spec.dilation > 1 else GROUP_STRIDES[i]
            needs_projection = stride > 1 or spec.channels != inputs
            group = BlockGroup(
                spec,
                num_blocks=blocks,
                stride=stride,
                use_projection=shortcut == "projection" or needs_projection,
                remat=remat,
                name=f"block_group_{i}",
            )
            self.groups.append(group)
            inputs = spec.channels

    def __call__(
        self, inputs: jax.Array, is_training: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes images.

        Args:
          inputs: normalised images `[B, H, W, 3]`.
          is_training: whether BatchNorm uses and updates batch statistics.

        Returns:
          The representation y `[B, C]`, and all feature maps by name: `stem` and `group_0` to
          `group_3`, each `[B, h, w, c]`. y is the mean over positions of `group_3`.
        """
        out = self.initial_conv(inputs)
        out = jax.nn.relu(self.initial_batchnorm(out, is_training))
        if self.stem == "imagenet":
            if self.padding == "same":
                out = hk.max_pool(out, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
            else:  # behind a ReLU zeros do as well as -inf
                padded = jnp.pad(out, ((0, 0), *_sides(3), (0, 0)))
                out = hk.max_pool(padded, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        feature_maps = {"stem": out}
        for i, group in enumerate(self.groups):
            out = group(out, is_training)
            feature_maps[f"group_{i}"] = out
        # The mean over positions is taken in float32 even where the maps have half precision.
        wide = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        return jnp.mean(wide, axis=(1, 2)), feature_maps
