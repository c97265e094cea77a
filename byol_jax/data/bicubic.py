"""Bicubic interpolation of uint8 pixels in one pass (App. C), compiled by numba.

Bit for bit TensorFlow's ResizeBicubic with half-pixel centres, which the authors' `tf.image.resize`
calls, clipped and rounded to uint8, at a fraction of the cost (docs/input.md). Products and sums
are single-precision and in one order everywhere, so that no machine changes a pixel.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Lets one vector instruction handle the three channels of a pixel; off by default.
numba.config.SLP_VECTORIZE = 1  # type: ignore[attr-defined]

# Entries per pixel of the table that TensorFlow takes its weights from.
_ENTRIES = 1024
# Parameter a of Keys' kernel.
_A = -0.5


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Keys' kernel at distances 0 to 1 and 1 to 2, float32 `[1025]` each."""
    near = np.arange(_ENTRIES + 1) / _ENTRIES
    far = near + 1
    return (
        (((_A + 2) * near - (_A + 3)) * near * near + 1).astype(np.float32),
        (((_A * far - 5 * _A) * far + 8 * _A) * far - 4 * _A).astype(np.float32),
    )


_NEAR, _FAR = _table()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call, to run without Python's lock; cached on disk if possible."""
    try:
        kept: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
        return kept
    except RuntimeError:  # no writable cache, beside this file or in the user's folder
        fresh: Callable[..., Any] = numba.njit(nogil=True)(function)
        return fresh


def resize(
    image: np.ndarray,
    out: np.ndarray,
    window: tuple[int, int, int, int] | None = None,
    to: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Resizes a window of an image without antialiasing and keeps a part of the result.

    Pixels outside the window have no influence.

    Args:
      image: uint8 `[H, W, 3]`.
      out: receives the part, `[h, w, 3]`: uint8 values are clipped and rounded, float32 values
        are neither.
      window: (y, x, height, width) in the image; by default the whole image.
      to: height and width that the window is resized to; by default `h, w`.
      corner: y and x of the part in the resized window.
    """
    height, width, _ = image.shape
    # Always read-only, so that numba compiles for a single type of argument.
    pixels = np.ascontiguousarray(image).reshape(height, 3 * width).view()
    pixels.flags.writeable = False
    rows, columns, _ = out.shape
    _resize(
        pixels,
        *(window or (0, 0, height, width)),
        *(to or (rows, columns)),
        *corner,
        out.reshape(rows, 3 * columns, copy=False),
    )


@compiled
def _taps(
    start: int, length: int, to: int, first: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The four neighbours of `count` positions of a resized side, from `first` on, and weights.

    The window begins at `start` and has `length` pixels; `to` is the side after resizing.
    Neighbours outside the window have weight 0; the other weights sum to 1.

    Returns:
      Indices into the image and weights, `[count, 4]` each.
    """
    index = np.empty((count, 4), np.uintp)
    weight = np.empty((count, 4), np.float32)
    scale = np.float32(length) / np.float32(to)
    for i in range(count):
        at = (np.float32(first + i) + np.float32(0.5)) * scale - np.float32(0.5)
        left = int(np.floor(at))
        entry = int(np.rint((at - np.float32(left)) * np.float32(_ENTRIES)))
        weights = (_FAR[entry], _NEAR[entry], _NEAR[_ENTRIES - entry], _FAR[_ENTRIES - entry])
        total = np.float32(0)
        for k in range(4):
            j = left - 1 + k
            inside = min(max(j, 0), length - 1)
            index[i, k] = start + inside
            weight[i, k] = weights[k] if inside == j else np.float32(0)
            total += weight[i, k]
        for k in range(4):
            weight[i, k] *= np.float32(1) / total
    return index, weight


@compiled
def _resize(
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
    """`resize` on rows of interleaved channels, `[H, 3 W]` -> `[h, 3 w]`."""
    rows, columns = out.shape[0], out.shape[1] // 3
    up_down, by_row = _taps(y, height, to_height, from_y, rows)
    across, by_column = _taps(x, width, to_width, from_x, columns)
    # The kept columns need only pixels `low` to `high - 1` of a row.
    low, high = int(across[0, 0]), int(across[columns - 1, 3]) + 1
    across = (across - np.uintp(low)) * np.uintp(3)
    # One value more than three per pixel: four are read and written at a time.
    between = np.zeros(3 * (high - low) + 1, np.float32)
    line = np.empty(3 * columns + 1, np.float32)
    # Unsigned: for signed indices the compiled code would check whether they are negative.
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    for i in range(rows):
        row0 = image[up_down[i, 0]][3 * low : 3 * high]
        row1 = image[up_down[i, 1]][3 * low : 3 * high]
        row2 = image[up_down[i, 2]][3 * low : 3 * high]
        row3 = image[up_down[i, 3]][3 * low : 3 * high]
        a0, a1, a2, a3 = by_row[i, 0], by_row[i, 1], by_row[i, 2], by_row[i, 3]
        for j in range(3 * (high - low)):
            between[j] = (
                a0 * np.float32(row0[j])
                + a1 * np.float32(row1[j])
                + a2 * np.float32(row2[j])
                + a3 * np.float32(row3[j])
            )
        for j in range(columns):
            p, q, r, s = across[j, 0], across[j, 1], across[j, 2], across[j, 3]
            b0, b1, b2, b3 = by_column[j, 0], by_column[j, 1], by_column[j, 2], by_column[j, 3]
            v0 = b0 * between[p] + b1 * between[q] + b2 * between[r] + b3 * between[s]
            p, q, r, s = p + one, q + one, r + one, s + one
            v1 = b0 * between[p] + b1 * between[q] + b2 * between[r] + b3 * between[s]
            p, q, r, s = p + one, q + one, r + one, s + one
            v2 = b0 * between[p] + b1 * between[q] + b2 * between[r] + b3 * between[s]
            p, q, r, s = p + one, q + one, r + one, s + one
            v3 = b0 * between[p] + b1 * between[q] + b2 * between[r] + b3 * between[s]
            k = np.uintp(j) * three
            line[k], line[k + one], line[k + two], line[k + three] = v0, v1, v2, v3
        kept = out[i]
        if out.itemsize == 1:
            for j in range(3 * columns):
                level = np.rint(min(max(line[j], np.float32(0)), np.float32(255)))
                kept[j] = np.uint8(np.int32(level))
        else:
            for j in range(3 * columns):
                kept[j] = line[j]
