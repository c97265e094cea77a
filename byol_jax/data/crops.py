"""Crops: where they are cut from an image, how it is decoded, how they are resized (App. C).

A placement, int32 `[8]`, has three parts: the window (y, x, height, width) that is read from the
picture, the size (height, width) that it is resized to, and the corner (y, x) of the square that is
kept of that. Random crops and evaluation crops differ in these numbers only.
"""

import functools
from typing import Any

import numpy as np

from byol_jax.data import bicubic
from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.errors import require

EVALUATION_MODES = ("paper", "released", "full")
# Random crops and flips of classifiers: those of BYOL App. D.1 and E.3, or those of the run's T.
CLASSIFIER_CROPS = ("paper", "own")
# The authors' code keeps this share of the short side (docs/deviations.md, 18).
RELEASED_SHARE = np.float32(0.875)
# Of a picture whose long side is more than this many times the short side only the middle is
# resized. The ends are never seen, and resizing a strip of 10,000 pixels could exhaust the memory.
_LONGEST = 8


def box_placement(boxes: np.ndarray, size: int) -> np.ndarray:
    """Placements of boxes (y, x, h, w) that become squares: int32 `[..., 4]` -> `[..., 8]`."""
    rest = np.broadcast_to(np.array([size, size, 0, 0], np.int32), boxes.shape)
    return np.concatenate([boxes, rest], axis=-1, dtype=np.int32)


def released_window(height: int, width: int) -> tuple[int, int, int, int]:
    """The authors' central square (y, x, h, w), rounded as they round it."""
    side = int(RELEASED_SHARE * np.float32(min(height, width)))
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def center_placement(height: int, width: int, size: int, mode: str) -> np.ndarray:
    """The evaluation crop of an image of height x width pixels, int32 `[8]`.

    `paper`: the short side becomes round(256 / 224 * size), then the central square is kept (BYOL
    App. C). `full`: the short side becomes `size`; what sets of small images use (SimCLR App. B.9,
    BYOL App. E.2), and an image of size x size stays as it is. `released`: the central square of
    87.5 % of the short side, resized (the authors' code).

    Raises:
      UserError: unknown mode.
    """
    require(
        mode in EVALUATION_MODES,
        f"unknown evaluation crop {mode!r}; use {', '.join(map(repr, EVALUATION_MODES))}",
    )
    short = min(height, width)
    if mode == "released":
        # The authors' window of a single pixel is empty; the pixel is kept instead.
        window = released_window(height, width) if short > 1 else [0, 0, height, width]
        return box_placement(np.array(window), size)
    target = round(size * 256 / 224) if mode == "paper" else size
    sides = np.minimum([height, width], short * _LONGEST)
    corner = (np.array([height, width]) - sides) // 2
    to = np.rint(sides * target / short).astype(np.int64)
    return np.concatenate([corner, sides, to, (to - size) // 2], dtype=np.int32)


def is_identity(placement: np.ndarray, height: int, width: int) -> bool:
    """Whether a placement leaves an image of this size as it is."""
    return placement.tolist() == [0, 0, height, width, height, width, 0, 0]


def seen_size(heights: Any, widths: Any, orientations: Any) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths of pictures after they are turned as EXIF says."""
    swaps = _orientation_flags(np.asarray(orientations))[0]
    return np.where(swaps, widths, heights), np.where(swaps, heights, widths)


def turn(placements: np.ndarray, heights: Any, widths: Any, orientations: Any) -> np.ndarray:
    """Moves windows from turned pictures to the stored pixels.

    Args:
      placements: int32 `[..., 8]`; only the windows change.
      heights, widths: size of the stored pixels, broadcast against `[...]`.
      orientations: EXIF orientation, 1 to 8, broadcast likewise.
    """
    swaps, flips_y, flips_x = _orientation_flags(np.asarray(orientations))
    y, x, h, w, *rest = np.moveaxis(placements, -1, 0)
    y, x = np.where(swaps, x, y), np.where(swaps, y, x)
    h, w = np.where(swaps, w, h), np.where(swaps, h, w)
    y = np.where(flips_y, heights - y - h, y)
    x = np.where(flips_x, widths - x - w, x)
    return np.stack([y, x, h, w, *rest], axis=-1).astype(np.int32)


def _orientation_flags(orientation: Any) -> tuple[Any, Any, Any]:
    """EXIF's orientation as flags: mirror y, mirror x, and then swap the axes."""
    swaps = orientation >= 5
    flips_y = ((orientation >= 3) & (orientation <= 4)) | ((orientation >= 6) & (orientation <= 7))
    flips_x = ((orientation >= 2) & (orientation <= 3)) | (orientation >= 7)
    return swaps, flips_y, flips_x


def halvings(placements: np.ndarray) -> np.ndarray:
    """How many times an image can be halved while no window gets smaller than its resized size.

    Args:
      placements: int32 `[b, V, 8]`.

    Returns:
      int32 `[b]`, 0 to 3, which is what a JPEG's blocks of 8 x 8 pixels allow.
    """
    spare = (placements[..., 2:4] / placements[..., 4:6]).min(axis=(1, 2))
    return np.clip(np.floor(np.log2(np.maximum(spare, 1))), 0, 3).astype(np.int32)


def halved(placements: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Moves windows `[b, V, 8]` to the nearest pixels of images halved `times` times, `[b]`."""
    factor = 2 ** times[:, None, None]
    start = np.rint(placements[..., :2] / factor)
    end = np.rint((placements[..., :2] + placements[..., 2:4]) / factor)
    sides = np.maximum(end - start, 1)
    return np.concatenate([start, sides, placements[..., 4:]], axis=-1).astype(np.int32)


def decode(data: Any, window: Any, times: Any = None) -> Any:
    """Decodes a window (y, x, h, w) of a JPEG or PNG: uint8 `[h, w, 3]`.

    Grey, CMYK, palette and 16-bit pixels become RGB of 8 bits; transparency is dropped. A JPEG's
    rows below the window and columns beside it are skipped.

    With `times`, 0 to 3, a JPEG is halved that many times while it is decoded, from fewer
    coefficients per block. The window is then one in the smaller image.

    Raises:
      tf.errors.InvalidArgumentError: when the graph runs, if the image is damaged.
    """
    tf = import_tensorflow()
    y, x, h, w = tf.unstack(window)

    def jpeg(ratio: int) -> Any:
        return tf.image.decode_and_crop_jpeg(data, window, channels=3, ratio=ratio)

    def of_jpeg() -> Any:
        if times is None:
            return jpeg(1)
        index = tf.convert_to_tensor(times, tf.int32)  # outside of a graph it is a number of numpy
        return tf.switch_case(index, [functools.partial(jpeg, ratio) for ratio in (1, 2, 4, 8)])

    return tf.cond(
        tf.io.is_jpeg(data),
        of_jpeg,
        lambda: tf.io.decode_png(data, channels=3)[y : y + h, x : x + w],
    )


def orient(patch: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels as EXIF says: `[h, w, 3]`, orientation 1 to 8."""
    swaps, flips_y, flips_x = _orientation_flags(orientation)
    patch = patch[:: -1 if flips_y else 1, :: -1 if flips_x else 1]
    return patch.swapaxes(0, 1) if swaps else patch


def place(
    patch: np.ndarray,
    placement: np.ndarray,
    size: int,
    orientation: int = 1,
    dtype: type[np.generic] = np.uint8,
) -> np.ndarray:
    """Cuts and resizes a placement whose window is relative to `patch`: `[size, size, 3]`.

    Pixels outside the window have no influence.

    Args:
      patch: uint8 `[H, W, 3]`.
      placement: int32 `[8]`.
      orientation: EXIF orientation of the window, 1 (upright) to 8.
      dtype: uint8 values are clipped and rounded (bicubic interpolation overshoots at edges),
        float32 values are neither.
    """
    y, x, h, w, to_h, to_w, from_y, from_x = placement.tolist()
    if orientation != 1:
        patch = orient(patch[y : y + h, x : x + w], orientation)
        y, x, (h, w) = 0, 0, patch.shape[:2]
    kept = np.empty((size, size, 3), dtype)
    bicubic.resize(patch, kept, (y, x, h, w), (to_h, to_w), (from_y, from_x))
    return kept
