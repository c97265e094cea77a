"""What an image and its target become together, in training and in evaluation.

Segmentation: BYOL App. E.4. Depth: App. E.6; its colours are changed on the device
(`augment/dense.py`). Each training transform is a function of the sample and of four uniform
numbers, and nothing else.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from byol_jax.augment.byol import IMAGENET_MEAN
from byol_jax.data.dense import resize
from byol_jax.data.dense.sets import VOID, Sample
from byol_jax.errors import require

# Uniform numbers of an example in an epoch: scale, row and column of the crop, flip.
DRAWS = 4
# What pads images: ImageNet's mean colour, which is zero after normalising but for its rounding.
PAD = np.rint(np.array(IMAGENET_MEAN) * 255).astype(np.uint8)

# Makes image and target of one static shape from a sample and `[DRAWS]` uniforms in [0, 1).
Training = Callable[[Sample, np.ndarray], Sample]


class Seen(NamedTuple):
    """What an evaluation sees of a sample.

    Attributes:
      image: uint8 `[h, w, 3]`.
      target: `[H, W]`; `VOID`, or 0 of depth, outside of the image.
      window: (y, x, height, width) of what `image` shows of the stored image.
    """

    image: np.ndarray
    target: np.ndarray
    window: resize.Window


Evaluation = Callable[[Sample], Seen]


class Segmentation(NamedTuple):
    """The training crops of segmentation (BYOL App. E.4).

    Attributes:
      crop: side of the crops in pixels.
      scale_range: range of the ratio by which an image is resized.
      scale_step: step between ratios, counted from the smallest; 0 draws any ratio of the range.
        App. E.4 leaves it open; DeepLab's is 0.25.
      flip: probability of a mirrored crop.
    """

    crop: int = 513
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.0
    flip: float = 0.5


class Depth(NamedTuple):
    """The frames of depth (BYOL App. E.6), heights before widths.

    Attributes:
      frame: size that a frame of 480 x 640 is halved to.
      crop: size of the central crop of that.
      target: size of the network's output, to which the target is resized.
      flip: probability of a mirrored crop in training.
    """

    frame: tuple[int, int] = (240, 320)
    crop: tuple[int, int] = (228, 304)
    target: tuple[int, int] = (128, 160)
    flip: float = 0.5


def check_crop(side: int, stride: int, key: str) -> None:
    """Refuses crops whose logits do not reach their corners (33 logits to 513 pixels).

    Args:
      side: side of the crop in pixels.
      stride: pixels per logit.
      key: the key of the config that gives the side.

    Raises:
      UserError: the side is no multiple of the stride plus one; the message names two that are.
    """
    below = max((side - 1) // stride, 1) * stride + 1
    require(
        side > 0 and (side - 1) % stride == 0 and side > 1,
        f"{key}={side} must be a multiple of the stride {stride} plus 1, so that logits can be "
        f"upsampled with their corners on those of the crop: give {below} or {below + stride}",
    )


def check_segmentation(params: Segmentation, section: str) -> None:
    """Refuses ranges without a ratio, and probabilities that are none.

    Args:
      params: the crops.
      section: the section of the config that has them.

    Raises:
      UserError: naming key and value.
    """
    low, high = params.scale_range
    require(
        0 < low <= high,
        f"{section}.scale_range={params.scale_range} must be two ratios above 0, the smaller first",
    )
    require(
        0 <= params.scale_step <= max(high - low, 0),
        f"{section}.scale_step={params.scale_step} must be from 0 to {high - low:g}, the length of "
        "the range of ratios",
    )
    require(0 <= params.flip <= 1, f"{section}.flip={params.flip} must be from 0 to 1")


def ratio(uniform: float, params: Segmentation) -> float:
    """The ratio by which an image is resized, from a uniform number in [0, 1)."""
    low, high = params.scale_range
    if not params.scale_step:
        return low + (high - low) * uniform
    # The steps that lie in the range; 1e-9 forgives the rounding of their quotient.
    count = int((high - low) / params.scale_step + 1e-9) + 1
    return low + params.scale_step * int(count * uniform)


def segmentation(params: Segmentation) -> Training:
    """Scale, crop and flip (BYOL App. E.4): image and mask of `crop` x `crop` pixels.

    The image is resized bilinearly, the mask to the nearest pixel. A resized image that is smaller
    than the crop lies at the top left, and is padded with the mean colour and `VOID`.
    """
    side = params.crop

    def apply(sample: Sample, uniforms: np.ndarray) -> Sample:
        height, width = sample.target.shape
        scale = ratio(float(uniforms[0]), params)
        to = max(round(height * scale), 1), max(round(width * scale), 1)
        corner = tuple(
            int(uniform * (max(length - side, 0) + 1))
            for uniform, length in zip(uniforms[1:3], to, strict=True)
        )
        kept = min(to[0], side), min(to[1], side)
        window, at = (0, 0, height, width), (corner[0], corner[1])
        image, target = _canvas((side, side))
        resize.bilinear(sample.image, image[: kept[0], : kept[1]], window, to, at)
        target[: kept[0], : kept[1]] = resize.nearest(sample.target, kept, window, to, at)
        return _flipped(Sample(image, target), uniforms[3] < params.flip)

    return apply


def whole(canvas: tuple[int, int]) -> Evaluation:
    """The whole image in its own size at the top left of a canvas, padded (BYOL App. E.4).

    "Inference is performed on the [513, 513] central crop": an image that is larger than the canvas
    is cut around its centre. None of VOC is.

    Args:
      canvas: height and width in pixels.
    """

    def apply(sample: Sample) -> Seen:
        height, width = sample.target.shape
        h, w = min(height, canvas[0]), min(width, canvas[1])
        y, x = (height - h) // 2, (width - w) // 2
        image, target = _canvas(canvas)
        image[:h, :w] = sample.image[y : y + h, x : x + w]
        target[:h, :w] = sample.target[y : y + h, x : x + w]
        return Seen(image, target, (y, x, h, w))

    return apply


def canvas_of(shape: tuple[int, int], stride: int) -> tuple[int, int]:
    """The smallest canvas that holds images up to a shape: multiples of the stride plus one."""
    height, width = (-(-(length - 1) // stride) * stride + 1 for length in shape)
    return height, width


def depth(params: Depth) -> Training:
    """Halve, crop and flip (BYOL App. E.6): the image of `crop`, the target of `target` pixels.

    The target is the same part of the frame, resized to the nearest pixel, so that holes do not
    spread.
    """

    def apply(sample: Sample, uniforms: np.ndarray) -> Sample:
        window = depth_window(sample.target.shape, params)
        image = _depth_image(sample, window, params)
        target = resize.nearest(sample.target, params.target, window, params.target)
        return _flipped(Sample(image, target), uniforms[3] < params.flip)

    return apply


def depth_whole(params: Depth) -> Evaluation:
    """The image as in training, not flipped, and the target of the whole frame in its own size."""

    def apply(sample: Sample) -> Seen:
        window = depth_window(sample.target.shape, params)
        return Seen(_depth_image(sample, window, params), sample.target, window)

    return apply


def depth_window(shape: tuple[int, ...], params: Depth) -> resize.Window:
    """The part (y, x, height, width) of a frame that the network sees.

    Of 480 x 640 it is 456 x 608 around the centre, which halved is the crop of 228 x 304. Frames of
    another size are cut to the same shares of the largest part that has the frame's aspect.
    """
    height, width = shape
    scale = min(height / params.frame[0], width / params.frame[1])
    h, w = (max(round(length * scale), 1) for length in params.crop)
    return (height - h) // 2, (width - w) // 2, h, w


def _depth_image(sample: Sample, window: resize.Window, params: Depth) -> np.ndarray:
    image = np.empty((*params.crop, 3), np.uint8)
    resize.bilinear(sample.image, image, window, params.crop)
    return image


def _canvas(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image and a mask of padding."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = PAD
    return image, np.full(size, VOID, np.uint8)


def _flipped(sample: Sample, is_mirrored: bool) -> Sample:
    if not is_mirrored:
        return sample
    return Sample(sample.image[:, ::-1], sample.target[:, ::-1])
