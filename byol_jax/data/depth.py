"""Pixels of more than 8 bits: which values a set of images has, and the levels 0..255 of them.

A rule per image would change the contrast between images, so that one is chosen for a whole set.
"""

import functools
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.data.tolerance import tolerated
from byol_jax.errors import UserError

_logger = logging.getLogger(__name__)

Item = TypeVar("Item")

# Endings of formats that have 8 bits only.
_SHALLOW = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif")
# Images of a set that are looked at.
_LOOKED_AT = 64
# Depths that cameras and scanners have.
_BITS = (8, 10, 12, 14, 16)
_PNG, _PNG_DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24
_TIFF, _BITS_PER_SAMPLE = (b"II", b"MM"), 258
# Pixels per faulty one, such as a dead pixel of the camera.
_PIXELS_PER_FAULTY = 1000


class Depth(NamedTuple):
    """How values of more than 8 bits become levels; None where no image told.

    Attributes:
      bits: of integers, as many lowest bits count, and the highest 8 of those are the level. None
        is as 16, which is how TensorFlow decodes a PNG.
      white: floats from 0 to this value become 0 to 255. None is as 1.
    """

    bits: int | None = None
    white: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether TensorFlow's own decoding gives these levels."""
        return self.bits in (None, _BITS[-1]) and self.white in (None, 1)


# Of a set in which nothing else is seen.
UNSEEN = Depth()


def of_record(record: Mapping[str, Any]) -> Depth:
    """The depth of the training images, from the record of a checkpoint."""
    return Depth(**{key: record.get("depth", {}).get(key) for key in Depth._fields})


def to_record(depth: Depth) -> dict[str, Any]:
    """The entry `depth` of a record, or nothing if no image told."""
    seen = {key: value for key, value in depth._asdict().items() if value is not None}
    return {"depth": seen} if seen else {}


def may_be_deep(name: str) -> bool:
    """Whether a file by its ending may have more than 8 bits."""
    return not name.lower().endswith(_SHALLOW)


def of_files(title: str, paths: Sequence[str], known: Depth = UNSEEN) -> Depth:
    """The depth of a set of files, from an even sample of those that may be deep.

    Args:
      title: what messages call the set.
      paths: its files in a fixed order.
      known: see `of_images`.

    Raises:
      UserError: see `of_images`.
    """
    deep = [path for path in paths if may_be_deep(path)]
    # A file that was replaced is looked at again.
    stamped = tuple((path, _stamp(path)) for path in _sample(deep))
    return _of_sample(title, stamped, len(deep), len(paths), known)


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of the last change of a file."""
    try:
        found = os.stat(path)
    except OSError:
        return (-1, -1)
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _of_sample(
    title: str,
    stamped: tuple[tuple[str, tuple[int, int]], ...],
    count: int,
    size: int,
    known: Depth,
) -> Depth:
    paths = [path for path, _ in stamped]

    def read(i: int) -> bytes:
        with open(paths[i], "rb") as file:
            return file.read()

    seen = _look(title, len(paths), read, paths.__getitem__)
    return _chosen(title, seen, len(paths), (count, size), known)


def of_images(
    title: str,
    count: int,
    read: Callable[[int], bytes],
    name_of: Callable[[int], str],
    known: Depth = UNSEEN,
) -> Depth:
    """The depth of images by position, from an even sample.

    An image with values that are neither integers of up to 16 bits nor floats from 0 to 1 or 255
    does not count: it is unreadable. In an image the brightest pixels, one in 1000, do not count.

    Args:
      title: what messages call the set.
      count: number of images.
      read: gives the bytes of an image, or raises OSError.
      name_of: what messages call an image.
      known: the depth of the images that the network was trained on. It is taken unless the images
        go beyond it.

    Raises:
      UserError: more images than `tolerance.tolerated` have other values.
    """
    sample = _sample(range(count))
    seen = _look(title, len(sample), lambda i: read(sample[i]), lambda i: name_of(sample[i]))
    return _chosen(title, seen, len(sample), (count, count), known)


class _Seen(NamedTuple):
    """What a sample shows.

    Attributes:
      integers, floats: smallest value, `_bulk` and largest value of each image that has such.
      odd: what is wrong with images that have other values.
    """

    integers: list[tuple[float, float, float]]
    floats: list[tuple[float, float, float]]
    odd: list[str]


def _look(
    title: str, count: int, read: Callable[[int], bytes], name_of: Callable[[int], str]
) -> _Seen:
    seen = _Seen([], [], [])
    cut = []
    for i in range(count):
        try:
            data = read(i)
            values = deep_values(data)
            if values is None and _is_cut(data):
                cut.append(name_of(i))
        except Exception:  # damaged: the reader reports it
            continue
        if values is None or not values.size:
            continue
        is_float = np.issubdtype(values.dtype, np.floating)
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= (255 if is_float else 2 ** _BITS[-1] - 1):
            kind = "floats" if is_float else "integers"
            seen.odd.append(f"{name_of(i)} has {kind} from {low:g} to {high:g}")
            continue
        (seen.floats if is_float else seen.integers).append((low, float(_bulk(values)), high))
    if cut:
        _logger.warning(
            "%s: %d colour TIFFs of 16 bits among %d images that were looked at, such as %s: the "
            "high byte of each value is taken, so that values of 12 bits become 0..15; if they use "
            "fewer bits than 16, convert them to PNG of 16 bits",
            *(title, len(cut), count, cut[0]),
        )
    return seen


def _chosen(title: str, seen: _Seen, looked_at: int, sizes: tuple[int, int], known: Depth) -> Depth:
    """The depth of a set; `sizes` are the number of images that may be deep, and of all."""
    deep, size = sizes
    odd = len(seen.odd)
    if odd > tolerated(looked_at) and odd * deep / looked_at > tolerated(size):
        others = f", and {odd - 1} others of {looked_at} have such" if odd > 1 else ""
        raise UserError(
            f"{seen.odd[0]} as pixels{others}, which may be integers from 0 to 65535, or floats "
            "from 0 to 1 or 255: convert the images, best to PNG of 8 bits"
        )
    depth = known
    if seen.integers:
        depth = depth._replace(bits=_of_integers(title, seen.integers, known.bits))
    if seen.floats:
        low, high = min(low for low, _, _ in seen.floats), max(high for *_, high in seen.floats)
        own = 1.0 if high <= 1 else 255.0
        depth = depth._replace(white=max(own, known.white or 0))
        _logger.warning(
            "%s: pixels are floats, from %g to %g in %d images that were looked at: %g becomes 255",
            *(title, low, high, len(seen.floats), depth.white),
        )
    return depth


def _of_integers(
    title: str, ranges: Sequence[tuple[float, float, float]], known: int | None
) -> int | None:
    bulks = [bulk for _, bulk, _ in ranges]
    bright = max(bulks)
    own = next(bits for bits in _BITS if bright < 2**bits or bits == _BITS[-1])
    bits = max(own, known or 0)
    if bright == 0:
        return known
    # Two bits below the depth.
    low = 2 ** (bits - 2)
    is_dark = float(np.median(bulks)) < low
    if bits == _BITS[-1] and not is_dark:
        return bits
    words = [f"taken as {bits} bits, {2 ** (bits - 8)} values to a level of 0..255"]
    if known:
        where = "as in the training" if bits == known else f"though the training has {known}"
        words.append(where)
    if is_dark:
        words.append(f"though half of these images stay below {low}")
    _logger.warning(
        "%s: pixels are integers of 16 bits, from %d to %d in %d images that were looked at: %s",
        *(title, min(low for low, _, _ in ranges), max(high for *_, high in ranges)),
        *(len(ranges), ", ".join(words)),
    )
    return bits


def _bulk(values: np.ndarray) -> Any:
    """The value that few pixels exceed: one in 1000, rounded up, which may be faulty ones."""
    pixels = (values.max(axis=-1) if values.ndim == 3 else values).ravel()
    place = max(pixels.size - 1 - -(-pixels.size // _PIXELS_PER_FAULTY), 0)
    return np.partition(pixels, place)[place]


def _is_cut(data: bytes) -> bool:
    """Whether bytes are a TIFF of more than 8 bits that Pillow cuts to its high bytes."""
    if not data.startswith(_TIFF):
        return False
    with Image.open(io.BytesIO(data)) as image:
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        return max(bits if isinstance(bits, tuple) else (bits,), default=8) > 8


def _sample(items: Iterable[Item]) -> list[Item]:
    """At most `_LOOKED_AT` of them, at even distances."""
    listed = list(items)
    places = np.linspace(0, len(listed) - 1, min(len(listed), _LOOKED_AT)).astype(int)
    return [listed[place] for place in places.tolist()]


def is_deep_png(data: bytes) -> bool:
    """Whether bytes are a PNG of 16 bits per value."""
    return data.startswith(_PNG) and data[_PNG_DEPTH_AT : _PNG_DEPTH_AT + 1] == b"\x10"


def deep_values(data: bytes) -> np.ndarray | None:
    """The values of an image of more than 8 bits, `[H, W]` or `[H, W, 3]`; None for 8 bits."""
    if data.startswith(_PNG):
        return of_png(data) if is_deep_png(data) else None
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image) if image.mode[0] in "IF" else None


def of_png(data: bytes) -> np.ndarray:
    """The values of a PNG of 16 bits, uint16 `[H, W, 3]`, without transparency."""
    tf = import_tensorflow()
    values: np.ndarray = tf.io.decode_png(data, channels=3, dtype=tf.uint16).numpy()
    return values


def levels(values: np.ndarray, depth: Depth) -> np.ndarray:
    """Levels of values, uint8 of the same shape.

    Integers beyond the depth become white if they are few (`_bulk`).

    Raises:
      ValueError: values that are outside of the depth.
    """
    low, high = values.min(), values.max()
    bits, white = depth.bits or _BITS[-1], depth.white or 1.0
    if np.issubdtype(values.dtype, np.floating):
        if not 0 <= low <= high <= white or not math.isfinite(high):
            raise ValueError(f"floats from {low:g} to {high:g}, not from 0 to {white:g}")
        return np.rint(values * np.float32(255 / white)).astype(np.uint8)
    if low < 0 or _bulk(values) >= 2**bits:
        raise ValueError(f"values from {low} to {high}, not of {bits} bits as in other images")
    return (np.minimum(values, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
