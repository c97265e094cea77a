"""What a network with an output per pixel sees of an image of any size, and back to that size."""

from typing import NamedTuple

import numpy as np

from byol_jax.data.dense import resize, transforms
from byol_jax.data.dense.sets import Sample
from byol_jax.dense import depth

# Canvases of images of several sizes have sides of a multiple of this, plus one: few of them are
# compiled, and they suit the strides of all networks.
_STEP = 128


class Seen(NamedTuple):
    """What the network sees of an image.

    Attributes:
      pixels: uint8 `[h, w, 3]`.
      size: height and width of the image.
      shown: height and width of the image in `pixels`, at the top left; of depth those of `box`.
      box: the part of the image that the network sees, for depth.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    shown: tuple[int, int]
    box: depth.Box


def for_segmentation(image: np.ndarray, largest: int) -> Seen:
    """The whole image on a canvas, smaller where a side has more than `largest` pixels.

    Args:
      image: uint8 `[H, W, 3]`.
      largest: most pixels of a side.
    """
    height, width = image.shape[:2]
    scale = min(1.0, largest / max(height, width))
    shown = max(round(height * scale), 1), max(round(width * scale), 1)
    canvas = transforms.canvas_of(shown, _STEP)
    pixels = np.empty((*canvas, 3), np.uint8)
    pixels[:] = transforms.PAD
    whole = (0, 0, height, width)
    if shown == (height, width):
        pixels[:height, :width] = image
    else:
        resize.bilinear(image, pixels[: shown[0], : shown[1]], whole, shown)
    return Seen(pixels, (height, width), shown, depth.Box(*whole))


def classes_of(predicted: np.ndarray, seen: Seen) -> np.ndarray:
    """The classes of an image's pixels, uint8 `[H, W]`, from those of its canvas."""
    found = np.ascontiguousarray(predicted[: seen.shown[0], : seen.shown[1]])
    if seen.shown == seen.size:
        return found
    return resize.nearest(found, seen.size, (0, 0, *seen.shown), seen.size)


def for_depth(image: np.ndarray, frames: transforms.Depth) -> Seen:
    """The centre of the image, as in an evaluation of depth.

    Args:
      image: uint8 `[H, W, 3]`.
      frames: the sizes of the training.
    """
    height, width = image.shape[:2]
    blank = np.zeros((height, width), np.float32)
    part = transforms.depth_whole(frames)(Sample(image, blank))
    box = depth.Box(*part.window)
    return Seen(part.image, (height, width), (box.height, box.width), box)


def depths_of(predicted: np.ndarray, seen: Seen, eval_crop: str) -> np.ndarray:
    """The depths of an image's pixels in metres, float32 `[H, W]`, from those of its centre.

    Args:
      predicted: depths `[h, w]`.
      seen: what the network saw.
      eval_crop: `stretch` stretches them over the whole image; with `crop` pixels outside of the
        centre have none, which is 0.
    """
    blank = np.zeros(seen.size, np.float32)
    resized, _, _ = depth.compared(predicted, blank, blank > 0, seen.box, eval_crop)
    if eval_crop == "stretch":
        return resized.astype(np.float32)
    top, left, height, width = seen.box
    blank[top : top + height, left : left + width] = resized
    return blank
