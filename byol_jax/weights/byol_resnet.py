"""The ResNet of an exported folder in plain PyTorch: `byol_resnet.load(FOLDER)`.

Part of byol_jax (Apache-2.0), which copies this file into each folder that it exports and never
imports it. It needs torch, and safetensors to read the weights; `prepare` also numpy and Pillow.

TensorFlow's SAME padding puts the odd row of zeros at the bottom and on the right, which a stride
of 2 meets at every even size. PyTorch's `padding=` cannot say that, so the padding is computed from
the size of each input.
"""

import json
import os
import pathlib
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

# Blocks per group and output channels per group at width 1; deeper than 34 are bottlenecks.
_BASIC, _WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)
ARCHITECTURES = {
    "tiny": ((1, 1, 1, 1), (8, 8, 8, 8)),
    "18": ((2, 2, 2, 2), _BASIC),
    "34": ((3, 4, 6, 3), _BASIC),
    "50": ((3, 4, 6, 3), _WIDE),
    "101": ((3, 4, 23, 3), _WIDE),
    "152": ((3, 8, 36, 3), _WIDE),
    "200": ((3, 24, 36, 3), _WIDE),
}


def pad_same(maps: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zeros around `[N, C, H, W]` so that a convolution gives sides of ceil(side / stride)."""
    pads = []
    for side in (maps.shape[3], maps.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(maps, pads)


class Conv(nn.Conv2d):
    """A convolution without bias; `padding` is `same`, or a number of zeros on each side."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, padding: int | str
    ) -> None:
        zeros = 0 if isinstance(padding, str) else padding
        super().__init__(inputs, outputs, kernel, stride, zeros, bias=False)
        self.is_same = padding == "same"

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` to `[N, outputs, h, w]`."""
        if self.is_same:
            maps = pad_same(maps, self.kernel_size[0], self.stride[0])
        return super().forward(maps)


class Block(nn.Module):
    """A residual block: basic (3x3, 3x3), or a bottleneck with its stride in the 3x3."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, bottleneck: bool, projects: bool, same: bool
    ) -> None:
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        plan = (
            ((inner, 1, 1), (inner, 3, stride), (outputs, 1, 1))
            if bottleneck
            else ((outputs, 3, stride), (outputs, 3, 1))
        )
        self.depth = len(plan)
        channels = inputs
        for number, (width, kernel, step) in enumerate(plan, start=1):
            padding = "same" if same else kernel // 2
            setattr(self, f"conv{number}", Conv(channels, width, kernel, step, padding))
            setattr(self, f"bn{number}", nn.BatchNorm2d(width))
            channels = width
        shortcut = (Conv(inputs, outputs, 1, stride, 0), nn.BatchNorm2d(outputs))
        self.downsample = nn.Sequential(*shortcut) if projects else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`[N, inputs, H, W]` to `[N, outputs, H / stride, W / stride]`."""
        out = maps
        for number in range(1, self.depth + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            out = functional.relu(out) if number < self.depth else out
        return functional.relu(out + self.downsample(maps))


class ResNet(nn.Module):
    """ResNet v1; its output is the mean over positions of the last feature map.

    Args:
      depth: a key of `ARCHITECTURES`.
      width: multiplier of every channel count.
      stem: `imagenet` (7x7 with stride 2, then a 3x3 max-pool with stride 2) or `small` (3x3).
      padding: `same`, as TensorFlow; `torch`; `solo-learn`, as torch with 2 around the small stem.
      shortcut: `projection` in the first block of every group, or `identity` where shapes agree.
      bn_eps: constant added to the variance in BatchNorm.
    """

    def __init__(
        self,
        depth: str = "50",
        width: float = 1,
        stem: str = "imagenet",
        padding: str = "same",
        shortcut: str = "projection",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        blocks, channels = ARCHITECTURES[depth]
        self.is_same, self.has_pool = padding == "same", stem == "imagenet"
        inputs = int(64 * width)
        kernel, stride = (7, 2) if self.has_pool else (3, 1)
        zeros = 2 if padding == "solo-learn" and not self.has_pool else kernel // 2
        self.conv1 = Conv(3, inputs, kernel, stride, "same" if self.is_same else zeros)
        self.bn1 = nn.BatchNorm2d(inputs)
        for group, (count, wide) in enumerate(zip(blocks, channels, strict=True)):
            outputs, layer = int(wide * width), nn.Sequential()
            for number in range(count):
                stride = 2 if group and not number else 1
                differs = stride > 1 or outputs != inputs
                projects = not number and (shortcut == "projection" or differs)
                is_bottleneck = channels is _WIDE
                block = Block(inputs, outputs, stride, is_bottleneck, projects, self.is_same)
                layer.append(block)
                inputs = outputs
            setattr(self, f"layer{group + 1}", layer)
        self.dim = inputs
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = bn_eps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Representations `[N, dim]` of normalised images `[N, 3, H, W]`."""
        out = functional.relu(self.bn1(self.conv1(images)))
        if self.has_pool:
            # Behind a ReLU zeros do as well as -inf.
            padded = pad_same(out, 3, 2) if self.is_same else functional.pad(out, (1, 1, 1, 1))
            out = functional.max_pool2d(padded, 3, 2)
        for group in range(1, 5):
            out = getattr(self, f"layer{group}")(out)
        return out.mean((2, 3))


def _about(folder: str | os.PathLike[str]) -> dict:
    text = (pathlib.Path(folder) / "config.json").read_text(encoding="utf-8")
    section: dict = json.loads(text)["byol_jax"]
    return section


def load(folder: str | os.PathLike[str]) -> ResNet:
    """The encoder of an exported folder, in evaluation mode.

    It takes float images `[N, 3, H, W]`, normalised by the `mean` and `std` of config.json.
    """
    from safetensors.torch import load_file

    root = pathlib.Path(folder)
    sizes = {k: v for k, v in _about(root)["encoder"].items() if k != "bn_decay"}
    network = ResNet(**sizes)
    network.load_state_dict(load_file(root / "model.safetensors"), strict=True)
    return network.eval()


def prepare(
    folder: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]]
) -> torch.Tensor:
    """Image files as the encoder saw them: float32 `[N, 3, S, S]`, cropped and normalised.

    The resizing is TensorFlow's bicubic one, without antialiasing. Pillow's and torchvision's
    antialias where they shrink an image: another picture, and other features.
    """
    import numpy as np
    from PIL import Image

    about = _about(folder)
    crops = []
    for file in files:
        with Image.open(file) as image:
            whole: Image.Image = image
            if image.mode.startswith("I;16"):  # the high byte: Pillow would clip at 255
                whole = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = torch.from_numpy(np.array(whole.convert("RGB"), np.float32))
        crops.append(_crop(pixels, about["image_size"], about["eval_crop"]))
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (torch.stack(crops).permute(0, 3, 1, 2) / 255 - mean) / std


def _crop(pixels: torch.Tensor, size: int, mode: str) -> torch.Tensor:
    """The evaluation crop of `[H, W, 3]`: whole grey levels, `[size, size, 3]`."""
    height, width, _ = pixels.shape
    short = min(height, width)
    if mode == "released":  # the central 87.5 % of the short side, resized
        side = max(int(0.875 * short), 1)
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        pixels = pixels[top : top + side, left : left + side]
        sides, corner = [size, size], [0, 0]
    else:  # the short side is resized, and the centre is kept
        target = round(size * 256 / 224) if mode == "paper" else size
        sides = [round(side * target / short) for side in (height, width)]
        corner = [(side - size) // 2 for side in sides]
    rows = _bicubic(pixels.shape[0], sides[0], corner[0], size)
    columns = _bicubic(pixels.shape[1], sides[1], corner[1], size)
    resized = torch.einsum("yh,hwc,xw->yxc", rows, pixels, columns)
    return resized.clamp(0, 255).round()


def _bicubic(length: int, to: int, first: int, count: int) -> torch.Tensor:
    """Weights `[count, length]` of positions `first`, ... of a side that is resized to `to`.

    Keys' kernel with a = -1/2 at half-pixel centres; taps outside the image have no weight.
    """
    at = (torch.arange(first, first + count) + 0.5) * (length / to) - 0.5
    left = at.floor()
    near = ((at - left) * 1024).round() / 1024
    weights = torch.zeros(count, length)
    for tap, distance in ((-1, near + 1), (0, near), (1, 1 - near), (2, 2 - near)):
        inner = (1.5 * distance - 2.5) * distance**2 + 1
        outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        index = (left + tap).long()
        value = torch.where(distance <= 1, inner, outer)
        value = value * ((index >= 0) & (index < length))
        weights[torch.arange(count), index.clamp(0, length - 1)] += value
    return weights / weights.sum(1, keepdim=True)
