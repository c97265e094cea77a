"""Images and targets that are files: which target belongs to which image, and how both are read."""

import functools
import io
import logging
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from byol_jax.data import crops, depth
from byol_jax.data.dense import targets
from byol_jax.data.dense.sets import DenseSet, Sample
from byol_jax.data.images import AS_STORED, Decoding, prepare
from byol_jax.data.images import Unreadable as NoImage
from byol_jax.data.patient import patient
from byol_jax.data.stored import error_of, pixels_of
from byol_jax.errors import UserError, require
from byol_jax.runtime import paths

_logger = logging.getLogger(__name__)

# Files named in a message before the rest is abbreviated.
_NAMED = 3


class Pair(NamedTuple):
    """One example: its own name, and the paths of its image and of its target."""

    name: str
    image: str
    target: str


def pixels(data: bytes, decoding: Decoding) -> np.ndarray:
    """The image in the bytes of a file, uint8 `[H, W, 3]`.

    Raises:
      targets.Unreadable: it cannot be decoded.
    """
    decoded: list[np.ndarray] = []
    try:
        image = prepare(data, *decoding)
    except NoImage as error:
        raise targets.Unreadable(str(error)) from error
    if reason := error_of(lambda: decoded.append(pixels_of(image))):
        raise targets.Unreadable(reason)
    return decoded[0]


def shape(data: bytes, decoding: Decoding) -> tuple[int, int]:
    """Height and width of the image in the bytes of a file, from its header.

    Raises:
      targets.Unreadable: it is no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turn = image.getexif().get(0x0112, 1) if decoding.exif else 1
    except Exception as error:  # damaged bytes make Pillow's parsers raise errors of any type
        raise targets.Unreadable(" ".join(str(error).split())) from error
    seen = crops.seen_size(height, width, turn)
    return int(seen[0]), int(seen[1])


def file_set(
    template: DenseSet,
    root: pathlib.Path,
    pairs: Sequence[Pair],
    decode: Callable[[bytes, str], np.ndarray],
    decoding: Decoding = AS_STORED,
) -> DenseSet:
    """`template` with the examples of pairs of files.

    Args:
      template: name, kind and classes of the set.
      root: folder of all files.
      pairs: the examples in their order.
      decode: makes a target `[H, W]` of the bytes of a file and its path.
      decoding: how images are read.
    """
    known = depth.of_files(template.name, [pair.image for pair in pairs], decoding.depth)
    decoding = decoding._replace(depth=known)
    seen = threading.Event()

    def read_bytes(i: int) -> tuple[bytes, bytes]:
        pair = pairs[i]
        return pathlib.Path(pair.image).read_bytes(), pathlib.Path(pair.target).read_bytes()

    fetch = patient(read_bytes, template.name, str(root), seen)

    def read(i: int) -> Sample:
        image_bytes, target_bytes = fetch(i)
        pair, image = pairs[i], pixels(image_bytes, decoding)
        try:
            target = decode(target_bytes, pair.target)
        except targets.Unreadable as error:
            raise targets.Unreadable(f"its target {pair.target}: {error}") from error
        targets.check_same_size(image, target, (pair.image, pair.target))
        return Sample(image, target)

    return template._replace(
        size=len(pairs),
        read=read,
        describe=lambda i: pairs[i].image,
        name_of=lambda i: pairs[i].name,
        shape_of=lambda i: shape(pathlib.Path(pairs[i].image).read_bytes(), decoding),
    )


def template(name: str, kind: str, classes: tuple[str, ...] = (), note: str = "") -> DenseSet:
    """A set without examples."""

    def nothing(i: int) -> Sample:
        raise IndexError(f"{name} has no example {i}")

    def no_shape(i: int) -> tuple[int, int]:
        raise IndexError(f"{name} has no example {i}")

    return DenseSet(name, kind, 0, nothing, str, str, no_shape, classes, note=note)


def matched(
    images: dict[str, str], found: dict[str, str], words: tuple[str, str], title: str
) -> list[Pair]:
    """Pairs of images and targets of one name, sorted by it.

    Args:
      images, found: paths of images and of targets by name.
      words: what messages call a target, and where they were looked for.
      title: what messages call the set.

    Raises:
      UserError: images without targets; the message names some, and says how many there are.
    """
    target, where = words
    bare = sorted(images[name] for name in images.keys() - found.keys())
    require(
        not bare,
        f"{len(bare)} of {len(images)} images have no {target} in {where}: {few(bare)}; add the "
        f"{target}s, with the names of the images, or move the images away",
    )
    if lost := sorted(found[name] for name in found.keys() - images.keys()):
        say(f"{title}: {len(lost)} {target}(s) without an image are left out: {few(lost)}")
    return [Pair(name, images[name], found[name]) for name in sorted(images)]


def by_name(root: pathlib.Path, files: Sequence[str]) -> dict[str, str]:
    """Paths of files by their names without endings.

    Args:
      root: their folder.
      files: paths relative to it.

    Raises:
      UserError: two files have one name.
    """
    names: dict[str, str] = {}
    for file in files:
        name = file.rpartition(".")[0] or file
        require(
            name not in names,
            f"{names.get(name)} and {root / file} have one name: remove one of them",
        )
        names[name] = str(root / file)
    return names


def listed(path: pathlib.Path) -> list[str]:
    """The names in a list of a split, in increasing order.

    A line has a name, or paths whose file names without endings are that name.

    Raises:
      UserError: the file cannot be read, or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): it has a name per line") from error
    names = {pathlib.PurePosixPath(line.split()[0]).name for line in lines if line.strip()}
    require(names, f"{path} names no image: it has a name per line")
    endings = (".jpg", ".jpeg", ".png")
    return sorted(
        name.rpartition(".")[0] if name.lower().endswith(endings) else name for name in names
    )


def folder_of(text: str) -> pathlib.Path:
    """The folder that a user means.

    Raises:
      UserError: there is none.
    """
    root = paths.outside(text)
    require(root.is_dir(), f"there is no folder {text}: if it has moved, give its folder now")
    return root


def few(names: Sequence[str]) -> str:
    """The first of some names, and dots for the rest."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


@functools.cache
def say(message: str, level: int = logging.WARNING) -> None:
    """Logs a message once: a run reads a folder for each of its splits."""
    _logger.log(level, "%s", message)
