"""The layers of an encoder one after the other, for formats that spell out each of them."""

from collections.abc import Callable, Container
from typing import Any, NamedTuple

from byol_jax.networks import resnet, siamese


class Ops(NamedTuple):
    """How a format writes a layer. Each takes the layer's name and gives what it puts out.

    Attributes:
      conv_bn: a convolution and its BatchNorm: (conv, norm, inputs, stride, zeros). PyTorch would
        put `zeros` rows of zeros on each side.
      relu: (name, inputs).
      add: (name, inputs, others).
      pool: the maximum over 3x3 with stride 2: (name, inputs).
      mean: over all positions: (name, inputs).
    """

    conv_bn: Callable[[str, str, Any, int, int], Any]
    relu: Callable[[str, Any], Any]
    add: Callable[[str, Any, Any], Any]
    pool: Callable[[str, Any], Any]
    mean: Callable[[str, Any], Any]


def build(ops: Ops, spec: siamese.NetworkSpec, names: Container[str], images: Any) -> Any:
    """Writes the encoder `spec`.

    Args:
      ops: the format.
      spec: the encoder.
      names: PyTorch's names of its arrays, which tell the blocks with a projection.
      images: what stands for the images.
    """
    arch, has_pool = resnet.architecture(spec.depth), spec.stem == "imagenet"
    if has_pool:
        out = ops.conv_bn("conv1", "bn1", images, 2, 3)
    else:
        out = ops.conv_bn("conv1", "bn1", images, 1, 2 if spec.padding == "solo-learn" else 1)
    out = ops.relu("relu", out)
    if has_pool:
        out = ops.pool("maxpool", out)
    for group, count in enumerate(arch.blocks):
        for number in range(count):
            block = f"layer{group + 1}.{number}"
            stride = 1 if number else resnet.GROUP_STRIDES[group]
            projects = f"{block}.downsample.0.weight" in names
            out = _block(ops, block, out, stride, arch.bottleneck, projects)
    return ops.mean("avgpool", out)


def _block(ops: Ops, block: str, inputs: Any, stride: int, bottleneck: bool, projects: bool) -> Any:
    """A residual block, `layerG.B`."""
    # (stride, zeros) per convolution.
    plan = ((1, 0), (stride, 1), (1, 0)) if bottleneck else ((stride, 1), (1, 1))
    out = shortcut = inputs
    if projects:
        names = f"{block}.downsample.0", f"{block}.downsample.1"
        shortcut = ops.conv_bn(*names, inputs, stride, 0)
    for number, (step, zeros) in enumerate(plan, start=1):
        out = ops.conv_bn(f"{block}.conv{number}", f"{block}.bn{number}", out, step, zeros)
        if number < len(plan):
            out = ops.relu(f"{block}.relu{number}", out)
    return ops.relu(f"{block}.relu", ops.add(f"{block}.add", out, shortcut))
