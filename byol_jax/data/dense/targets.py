"""Targets from bytes: masks as class indices, depth in metres; and what is wrong with them."""

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from byol_jax.data.dense.sets import VOID
from byol_jax.errors import UserError, require

# Modes of Pillow with one number per pixel.
_INTEGERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
_DEEP = tuple(mode for mode in _INTEGERS if mode.startswith("I"))
# Of depth in integers of 16 bits these mean that a pixel has none.
_NO_DEPTH = (0, 65535)
_NPY = b"\x93NUMPY"


class Unreadable(OSError):
    """Bytes that are no image or no array; it has no error number, as the disk is not at fault."""


class Classes(NamedTuple):
    """What the indices of a mask mean.

    Attributes:
      num_classes: K; indices from 0 to K - 1 are classes.
      void: the index, besides 255, of pixels that belong to no class; None for no other.
      title: what messages call the set.
    """

    num_classes: int
    void: int | None
    title: str


def indices(data: bytes, where: str) -> np.ndarray:
    """The numbers in a mask's file, `[H, W]`: of a palette its indices, not its colours.

    Args:
      data: bytes of a PNG or another lossless format.
      where: what messages call the file.

    Raises:
      Unreadable: it is no image, or damaged.
      UserError: it has colours, or is a JPEG, which changes indices.
    """
    image = _opened(data)
    lossless = "save masks as PNG with a palette or as grey PNG, a class index per pixel"
    require(
        image.format not in ("JPEG", "MPO"), f"{where} is a JPEG, which blurs classes: {lossless}"
    )
    require(
        image.mode in _INTEGERS,
        f"{where} has colours (mode {image.mode}), not class indices: {lossless}",
    )
    return _values(image)


def mask(data: bytes, where: str, classes: Classes) -> np.ndarray:
    """The class of each pixel, uint8 `[H, W]`; `VOID` where there is none.

    Raises:
      Unreadable, UserError: as `indices`; or UserError if an index is no class of the set.
    """
    found = indices(data, where)
    return checked(found, where, classes)


def checked(found: np.ndarray, where: str, classes: Classes) -> np.ndarray:
    """Class indices `[H, W]` as `mask` returns them.

    Raises:
      UserError: an index is no class of the set.
    """
    is_void = found == VOID
    if classes.void is not None:
        is_void |= found == classes.void
    outside = ~is_void & ((found >= classes.num_classes) | (found < 0))
    if outside.any():
        y, x = (int(axis[0]) for axis in np.nonzero(outside))
        count = classes.num_classes
        raise UserError(
            f"{where} has the index {int(found[y, x])} in row {y}, column {x}, but {classes.title} "
            f"has {count} classes, 0 to {count - 1}, and {VOID} for void: mend the mask, or give "
            "the classes of the set"
        )
    return np.where(is_void, VOID, found).astype(np.uint8)


def depth(data: bytes, where: str, per_metre: float) -> np.ndarray:
    """Depth in metres, float32 `[H, W]`; 0 where there is none.

    Args:
      data: an image of 16 bits whose values are `per_metre` to a metre and whose 0 and 65535 mean
        no depth; a TIFF of floats or an npy file, in metres.
      where: what messages call the file.
      per_metre: 1000 for millimetres.

    Raises:
      Unreadable: it is neither, or damaged.
      UserError: it has 8 bits or colours, or no pixel has a depth.
    """
    if data.startswith(_NPY):
        values, is_integer = _array(data), False
        require(
            values.ndim == 2 and np.issubdtype(values.dtype, np.floating),
            f"{where} has {values.dtype} {list(values.shape)}, not floats [height, width]: give "
            "metres as floats",
        )
    else:
        image = _opened(data)
        require(
            image.mode in (*_DEEP, "F"),
            f"{where} has pixels of mode {image.mode}, not of 16 bits: save depth as PNG of 16 "
            "bits in millimetres",
        )
        values, is_integer = _values(image), image.mode != "F"
    if is_integer:
        has_none = np.isin(values, _NO_DEPTH)
        values = np.where(has_none, 0, values).astype(np.float32) / np.float32(per_metre)
    return metres(values, where)


def metres(values: Any, where: str) -> np.ndarray:
    """Metres as float32 with 0 where they are not finite or not above 0.

    Raises:
      UserError: no pixel has a depth.
    """
    found = np.asarray(values, np.float32)
    found = np.where(np.isfinite(found) & (found > 0), found, np.float32(0))
    require(
        found.any(), f"{where} has no pixel with a valid depth: mend it, or remove it and its image"
    )
    return found


def check_same_size(image: np.ndarray, target: np.ndarray, names: tuple[str, str]) -> None:
    """Refuses a target of another size than its image.

    Args:
      image: uint8 `[H, W, 3]`.
      target: `[H, W]`.
      names: what messages call the image and the target.

    Raises:
      UserError: naming both with their sizes.
    """
    (h, w), (to_h, to_w) = image.shape[:2], target.shape
    is_turned = (h, w) == (to_w, to_h) and h != w
    hint = " (config.exif=True turns images as EXIF says)" if is_turned else ""
    require(
        (h, w) == (to_h, to_w),
        f"{names[1]} has {to_w} x {to_h} pixels, but its image {names[0]} has {w} x {h}{hint}: "
        "give both one size",
    )


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # damaged bytes make Pillow's parsers raise errors of any type
        words = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(words if data else "no bytes") from error
    return image


def _values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return values.astype(np.int32) if values.dtype == bool or image.mode in _DEEP else values


def _array(data: bytes) -> np.ndarray:
    try:
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # cut off, or objects of Python
        raise Unreadable(f"a damaged npy file ({error})") from error
    return array
