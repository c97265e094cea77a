"""Bilinear resizing of images and nearest resizing of targets, of the part that is kept alone.

Both take pixels at the same places, those of half-pixel centres: pixel i of a side resized from n
to m is at (i + 1/2) n / m - 1/2. Targets are never mixed: between classes 0 and 20 there is no
class 10, and between a depth and a hole none either.
"""

import numpy as np

from byol_jax.data.bicubic import compiled

Window = tuple[int, int, int, int]


def bilinear(
    image: np.ndarray,
    out: np.ndarray,
    window: Window,
    to: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Resizes a window of an image without antialiasing and keeps a part of the result.

    Pixels outside the window have no influence. Halving takes the mean of 2 x 2 pixels.

    Args:
      image: uint8 `[H, W, 3]`.
      out: receives the part, uint8 `[h, w, 3]`, rounded.
      window: (y, x, height, width) in the image.
      to: height and width that the window is resized to.
      corner: y and x of the part in the resized window.
    """
    pixels = np.ascontiguousarray(image).view()
    # Always read-only, so that numba compiles for a single type of argument.
    pixels.flags.writeable = False
    _bilinear(pixels, *window, *to, *corner, out)


@compiled
def _neighbours(
    start: int, length: int, to: int, first: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The two neighbours of `count` positions of a resized side, and the share of the second."""
    index = np.empty((count, 2), np.int64)
    share = np.empty(count, np.float32)
    for i in range(count):
        at = (first + i + 0.5) * length / to - 0.5
        left = int(np.floor(at))
        share[i] = np.float32(at - left)
        index[i, 0] = start + min(max(left, 0), length - 1)
        index[i, 1] = start + min(max(left + 1, 0), length - 1)
    return index, share


@compiled
def _bilinear(
    image: np.ndarray,
    y: int,
    x: int,
    height: int,
    width: int,
    to_height: int,
    to_width: int,
    from_y: int,
    from_x: int,
    out: np.ndarray,
) -> None:
    rows, columns = out.shape[0], out.shape[1]
    up_down, lower = _neighbours(y, height, to_height, from_y, rows)
    across, right = _neighbours(x, width, to_width, from_x, columns)
    one = np.float32(1)
    for i in range(rows):
        above, below = image[up_down[i, 0]], image[up_down[i, 1]]
        a = lower[i]
        for j in range(columns):
            p, q, b = across[j, 0], across[j, 1], right[j]
            for c in range(3):
                top = (one - b) * np.float32(above[p, c]) + b * np.float32(above[q, c])
                bottom = (one - b) * np.float32(below[p, c]) + b * np.float32(below[q, c])
                out[i, j, c] = np.uint8(np.rint((one - a) * top + a * bottom))


def nearest(
    target: np.ndarray,
    size: tuple[int, int],
    window: Window,
    to: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Resizes a window of a target to the nearest pixel and keeps a part of the result.

    Args:
      target: `[H, W]` of any type.
      size: height and width of the part.
      window, to, corner: as in `bilinear`.

    Returns:
      The part, `[h, w]`: each of its values is one of the target's.
    """
    rows, columns = (
        start + (2 * (first + np.arange(count)) + 1) * length // (2 * side)
        for start, length, side, first, count in zip(
            window[:2], window[2:], to, corner, size, strict=True
        )
    )
    return target[rows[:, None], columns]
