"""An encoder's arrays under torchvision's names, both ways, and the encoder that fits them.

    initial_conv, initial_batchnorm          conv1, bn1
    block_group_G/block_B/conv_I             layer{G+1}.B.conv{I+1}
    block_group_G/block_B/batchnorm_I        layer{G+1}.B.bn{I+1}
    shortcut_conv, shortcut_batchnorm        downsample.0, downsample.1

Kernels are HWIO here and OIHW there. BatchNorm's running averages there are the bias-corrected ones
here.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.errors import require
from byol_jax.networks import resnet, siamese
from byol_jax.weights.trained import Tree

# Arrays by torchvision's names.
Flat = Mapping[str, np.ndarray]
# First words of the names of an encoder's arrays.
ROOTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")

_BATCH_NORM = {"scale": "weight", "offset": "bias"}
_AVERAGES = {"mean_ema": "running_mean", "var_ema": "running_var"}
COUNTER = "num_batches_tracked"
# Number of BatchNorm updates where a file does not give one: high enough that the first values no
# longer count.
_MANY = 10_000


def _module(path: str) -> str:
    """Torchvision's name of a module of the encoder, as in `layer1.0.conv1`."""
    *groups, name = [part for part in path.split("/")[1:] if part != "~"]
    if name == "initial_conv":
        return "conv1"
    if name == "initial_batchnorm":
        return "bn1"
    group, block = (int(part.rpartition("_")[2]) for part in groups)
    kind, _, number = name.rpartition("_")
    own = {"shortcut_conv": "downsample.0", "shortcut_batchnorm": "downsample.1"}.get(name)
    if own is None:
        own = f"{'conv' if kind == 'conv' else 'bn'}{int(number) + 1}"
    return f"layer{group + 1}.{block}.{own}"


def to_torch(params: Tree, state: Tree) -> dict[str, np.ndarray]:
    """The arrays of an encoder for PyTorch.

    Args:
      params: parameters of f alone (`siamese.encoder_params`).
      state: its BatchNorm averages.

    Returns:
      float32 arrays, contiguous, by torchvision's names; `num_batches_tracked` is an int64 scalar.
    """
    arrays: dict[str, np.ndarray] = {}
    for path, leaves in params.items():
        name = _module(path)
        for leaf, value in leaves.items():
            if leaf == "w":
                arrays[f"{name}.weight"] = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
            else:
                arrays[f"{name}.{_BATCH_NORM[leaf]}"] = np.ravel(value)
    for path, leaves in state.items():
        batch_norm, _, average = path.rpartition("/~/")
        name = _module(batch_norm)
        arrays[f"{name}.{_AVERAGES[average]}"] = np.ravel(leaves["average"])
        arrays[f"{name}.{COUNTER}"] = np.asarray(leaves["counter"], np.int64)
    return arrays


def from_torch(arrays: Flat, spec: siamese.NetworkSpec, untold: int = _MANY) -> tuple[Tree, Tree]:
    """Parameters and BatchNorm averages of the encoder `spec`; the inverse of `to_torch`.

    Args:
      arrays: as `to_torch` returns them; `num_batches_tracked` may be missing.
      spec: the encoder, with whose shapes they were compared (`require_fit`).
      untold: the number of updates of a BatchNorm whose `num_batches_tracked` is 0 or missing.
    """
    param_shapes, state_shapes = shapes_of(spec)
    params: dict[str, dict[str, np.ndarray]] = {}
    for path, leaves in param_shapes.items():
        name = _module(path)
        params[path] = {}
        for leaf, like in leaves.items():
            value = arrays[f"{name}.{_BATCH_NORM.get(leaf, 'weight')}"]
            value = value.transpose(2, 3, 1, 0) if leaf == "w" else value.reshape(like.shape)
            params[path][leaf] = np.ascontiguousarray(value, np.float32)
    state: dict[str, dict[str, np.ndarray]] = {}
    for path, leaves in state_shapes.items():
        batch_norm, _, average = path.rpartition("/~/")
        name = _module(batch_norm)
        value = arrays[f"{name}.{_AVERAGES[average]}"].astype(np.float32)
        value = value.reshape(leaves["average"].shape)
        count = int(arrays.get(f"{name}.{COUNTER}", 0)) or untold
        count = min(count, np.iinfo(np.int32).max)
        # Haiku divides by this factor, PyTorch does not: so training goes on from the average.
        hidden = value * np.float32(1 - spec.bn_decay**count)
        state[path] = {"average": value, "counter": np.array(count, np.int32), "hidden": hidden}
    return params, state


def side_of(stem: str) -> int:
    """Side in pixels of the images that a stem is for, where a file does not say it."""
    return 224 if stem == "imagenet" else 32


def shapes_of(
    spec: siamese.NetworkSpec,
    network_of: Callable[[siamese.NetworkSpec], hk.TransformedWithState] = siamese.encoder,
) -> tuple[Tree, Tree]:
    """Shapes of parameters and BatchNorm averages of a network, by default of the encoder."""
    network = network_of(spec)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params, state = jax.eval_shape(
        lambda batch: network.init(jax.random.key(0), batch, True), images
    )
    return params, state


def expected(spec: siamese.NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Shapes by torchvision's names of the arrays of the encoder `spec`, without counters."""
    params, state = shapes_of(spec)

    def zeros(tree: Tree) -> Tree:
        # A view of one number: names and shapes alone are needed.
        return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)

    flat = to_torch(zeros(params), zeros(state))
    return {name: value.shape for name, value in flat.items() if not name.endswith(COUNTER)}


def spec_of(arrays: Flat) -> siamese.NetworkSpec:
    """The encoder that has arrays of these names and shapes, with PyTorch's padding.

    Raises:
      UserError: none of this project has, as far as its blocks and its first convolution tell.
    """
    stem = arrays.get("conv1.weight")
    require(
        stem is not None and stem.ndim == 4 and stem.shape[1] == 3,
        "it has no convolution conv1.weight of [channels, 3, k, k]",
    )
    assert stem is not None
    channels, _, *kernel = stem.shape
    require(
        kernel in ([7, 7], [3, 3]),
        f"conv1.weight has a kernel of {kernel[0]}x{kernel[1]}: 7x7 and 3x3 are known",
    )
    blocks = [_blocks(arrays, f"layer{group}") for group in range(1, 5)]
    is_bottleneck = "layer1.0.conv3.weight" in arrays
    depth = next(
        (
            depth
            for depth, row in resnet.ARCHITECTURES.items()
            if [*row.blocks] == blocks and row.bottleneck == is_bottleneck
        ),
        None,
    )
    kind = "bottleneck" if is_bottleneck else "basic"
    depths = ", ".join(resnet.ARCHITECTURES)
    require(depth, f"it has {blocks} {kind} blocks, which is no ResNet of depth {depths}")
    assert depth is not None
    require(
        8 * channels % resnet.STEM_CHANNELS == 0,
        f"conv1.weight has {channels} channels: a width of {channels}/{resnet.STEM_CHANNELS} is no "
        "multiple of 1/8",
    )
    has_projection = "layer1.0.downsample.0.weight" in arrays
    return siamese.NetworkSpec(
        depth=depth,
        width=channels / resnet.STEM_CHANNELS,
        stem="imagenet" if kernel == [7, 7] else "small",
        padding="torch",
        shortcut="projection" if has_projection or is_bottleneck else "identity",
    )


def _blocks(names: Iterable[str], layer: str) -> int:
    matches = (re.match(rf"{layer}\.(\d+)\.conv1\.weight$", name) for name in names)
    return len({match[1] for match in matches if match})


def require_fit(arrays: Flat, spec: siamese.NetworkSpec) -> None:
    """Compares names and shapes with those of the encoder `spec`.

    Raises:
      UserError: names the first difference.
    """
    shapes = expected(spec)
    size = f"ResNet-{spec.depth} of width {spec.width:g}"
    for name, shape in shapes.items():
        require(name in arrays, f"it has no {name}, which a {size} has")
        require(
            tuple(arrays[name].shape) == shape,
            f"{name} is {[*arrays[name].shape]}, and a {size} has {[*shape]}{_hint(name)}",
        )
    for name in arrays:
        known = name in shapes or name.endswith(COUNTER)
        require(known, f"it has {name}, which a {size} does not have")


def _hint(name: str) -> str:
    """What a kernel of another shape usually means."""
    return ": grouped and wider 3x3 convolutions are not known" if ".conv2." in name else ""
