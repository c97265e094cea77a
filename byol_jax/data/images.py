"""Sets of labelled images, in memory or stored one by one, and their headers."""

import contextlib
import io
import logging
import os
import pathlib
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from byol_jax.data.depth import UNSEEN, Depth, is_deep_png, levels, of_png
from byol_jax.errors import require

_logger = logging.getLogger(__name__)

# Formats that TensorFlow decodes the same way for every file; an MPO is a JPEG with further images
# appended.
_TENSORFLOW_FORMATS = ("JPEG", "MPO", "PNG")
_EXIF_ORIENTATION = 0x0112
# Most megapixels of an image: Pillow itself refuses more.
LARGEST = 178.0
# Larger images are converted one at a time, in pixels.
_LARGE = 2**26
_one_at_a_time = threading.Lock()
# Images whose mean size estimates that of a whole set.
_MEASURED = 200

# A class, or -1 for none. In a multi-label set int32 `[K]`: 1 if the image shows the class, 0 if it
# does not, -1 if the class is ignored.
Label = int | np.ndarray


class Encoded(NamedTuple):
    """One stored image: the bytes of its file, and its label."""

    data: bytes
    label: Label


class Decoding(NamedTuple):
    """How stored images are read.

    Attributes:
      exif: whether images are turned as EXIF says.
      largest: megapixels above which an image counts as unreadable.
      depth: how values of more than 8 bits become levels; `UNSEEN` looks at the images.
    """

    exif: bool = False
    largest: float = LARGEST
    depth: Depth = UNSEEN


AS_STORED = Decoding()


class Files(NamedTuple):
    """Where stored images are, for a program that cannot call `Records.read`.

    Attributes:
      paths: paths of the files.
      path_of: index into `paths` for each image, int32 `[size]`.
      offset_of: byte at which the TFRecord of each image starts, int64 `[size]`; None if each file
        is an image.
      image, label: names of the features of a record; `label` is empty if records have no label.
    """

    paths: list[str]
    path_of: np.ndarray
    offset_of: np.ndarray | None = None
    image: str = ""
    label: str = ""


class Records(NamedTuple):
    """Stored images by position; all functions may be called from any thread.

    Attributes:
      size: number of images.
      read: function from a position to the image; raises OSError if it cannot be read.
      describe: function from a position to the image's name in messages.
      scan_labels: function that returns all labels, int32 `[size]` (multi-label: `[size, K]`); it
        may have to read every record.
      files: where other programs find the same images; None if they cannot.
      seen: is set once an image has been read; None if nobody keeps a record of it.
    """

    size: int
    read: Callable[[int], Encoded]
    describe: Callable[[int], str]
    scan_labels: Callable[[], np.ndarray]
    files: Files | None = None
    seen: threading.Event | None = None


class ImageSet(NamedTuple):
    """One split of a data set; an example's id is its position.

    Attributes:
      name: the user's name for the data set.
      images: uint8 `[N, H, W, 3]` in memory, or stored images.
      labels: int32 `[N]`, -1 for no label; None if they are in the records only.
      num_classes: K; 0 if there are no labels.
      multi_label: whether an image may have several classes; labels are then int32 `[N, K]`, see
        `Label`.
      classes: names of the K classes, where the source has them.
      key: the key of the config whose value is the name; empty if there is none.
      summary: how many images there are, and what of their source was set aside, in words; empty
        where it is unknown.
      largest: megapixels above which an image counts as unreadable.
      depth: how values of more than 8 bits become levels.
      note: what its source says of itself, in words.
    """

    name: str
    images: np.ndarray | Records
    labels: np.ndarray | None
    num_classes: int
    multi_label: bool = False
    classes: tuple[str, ...] = ()
    key: str = ""
    summary: str = ""
    largest: float = LARGEST
    depth: Depth = UNSEEN
    note: str = ""

    @property
    def title(self) -> str:
        """What errors call the set."""
        return f"{self.key}={self.name}" if self.key else self.name

    @property
    def size(self) -> int:
        """The number of images."""
        return self.images.size if isinstance(self.images, Records) else len(self.images)


def no_label(image_set: ImageSet) -> Label:
    """The label of an image whose label is unknown."""
    return np.full(image_set.num_classes, -1, np.int32) if image_set.multi_label else -1


def all_labels(image_set: ImageSet) -> np.ndarray:
    """The labels, int32 `[N]` or `[N, K]`, read from the records if they are nowhere else."""
    if image_set.labels is None:
        assert isinstance(image_set.images, Records)
        return image_set.images.scan_labels()
    return image_set.labels


def fingerprint(image_set: ImageSet) -> dict[str, int]:
    """What tells two sets of images apart, without reading stored images.

    `count`, the number of images, and checksums: `names_crc32` of the names of stored images in
    their order, which a move of the whole set does not change; `pixels_crc32` of images in memory;
    `labels_crc32` of labels that are in memory.
    """
    images, labels = image_set.images, image_set.labels
    print_of = {"count": image_set.size}
    if isinstance(images, Records):
        print_of["names_crc32"] = crc_of(_names(images))
    else:
        print_of["pixels_crc32"] = zlib.crc32(np.ascontiguousarray(images).data)
    if labels is not None:
        print_of["labels_crc32"] = zlib.crc32(np.ascontiguousarray(labels, "<i4").data)
    return print_of


# What other checksums of a fingerprint mean.
_OTHER = {"names_crc32": "names", "pixels_crc32": "pixels", "labels_crc32": "labels"}


def difference(old: Mapping[str, int], new: Mapping[str, int]) -> str:
    """What tells two fingerprints apart, in words; empty if nothing does that both have."""
    if old["count"] != new["count"]:
        return f"{new['count']} images (was {old['count']})"
    others = [
        word for key, word in _OTHER.items() if key in old and key in new and old[key] != new[key]
    ]
    return f"{new['count']} images of other {' and '.join(others)}" if others else ""


def _names(records: Records) -> Iterator[str]:
    """Names of stored images, which a move of the whole set does not change."""
    files = records.files
    if files is None:
        return (records.describe(i) for i in range(records.size))
    if files.offset_of is None:
        # Relative to the folder that holds them all.
        start = len(os.path.commonpath({os.path.dirname(path) for path in files.paths} or {"."}))
        return (files.paths[path][start:] for path in files.path_of.tolist())
    # A shard is named together with its folder, which is the version of its set.
    shards = ["/".join(path.split("/")[-2:]) for path in files.paths]
    places = zip(files.path_of.tolist(), files.offset_of.tolist(), strict=True)
    return (f"{shards[path]} {offset}" for path, offset in places)


def crc_of(names: Iterable[str]) -> int:
    """A checksum of names in their order."""
    crc = 0
    for name in names:
        crc = zlib.crc32(os.fsencode(f"{name}\n"), crc)
    return crc


def select(image_set: ImageSet, positions: np.ndarray) -> ImageSet:
    """The images at `positions`, in that order; records are not copied."""
    images = image_set.images
    labels = None if image_set.labels is None else image_set.labels[positions]
    if not isinstance(images, Records):
        return image_set._replace(images=images[positions], labels=labels)
    chosen = Records(
        size=len(positions),
        read=lambda i: images.read(int(positions[i])),
        describe=lambda i: images.describe(int(positions[i])),
        scan_labels=lambda: images.scan_labels()[positions],
        files=images.files and _selected(images.files, positions),
        seen=images.seen,
    )
    return image_set._replace(images=chosen, labels=labels)


def _selected(files: Files, positions: np.ndarray) -> Files:
    offset_of = None if files.offset_of is None else files.offset_of[positions]
    return files._replace(path_of=files.path_of[positions], offset_of=offset_of)


def unlabelled(image_set: ImageSet) -> ImageSet:
    """The same images without labels."""
    images = image_set.images
    labels = np.full(image_set.size, -1, np.int32)
    if isinstance(images, Records):
        read = images.read
        images = images._replace(
            read=lambda i: read(i)._replace(label=-1), scan_labels=lambda: labels
        )
    return image_set._replace(
        images=images, labels=labels, num_classes=0, multi_label=False, classes=()
    )


def cached(image_set: ImageSet, processes: int = 1) -> ImageSet:
    """The same images; encoded bytes stay in memory once they have been read.

    Args:
      image_set: the images.
      processes: number of processes on this host; each keeps its own copy.

    Raises:
      UserError: this machine has too little memory for all of them.
    """
    images = image_set.images
    if not isinstance(images, Records):
        return image_set
    kept: dict[int, Encoded] = {}

    def read(i: int) -> Encoded:
        if i not in kept:
            kept[i] = images.read(i)
        return kept[i]

    sizes = []
    for i in np.unique(np.linspace(0, images.size - 1, _MEASURED).astype(int)).tolist():
        try:
            sizes.append(len(read(i).data))
        except OSError:  # the run itself reports images that it cannot read
            continue
    needed = images.size * sum(sizes) / max(len(sizes), 1) / 2**30
    memory = free_memory() / 2**30
    each = f" in each of {processes} processes" * (processes > 1)
    require(
        processes * needed < memory,
        f"config.data.cache=True would keep about {needed:.1f} GiB of {image_set.name} in memory"
        f"{each}, but this machine has {memory:.1f} GiB to give; give False, or copy the set to a "
        "local disk",
    )
    _logger.info(
        "%s will take about %.1f GiB%s, of %.1f GiB of memory (config.data.cache)",
        *(image_set.name, needed, each, memory),
    )
    return image_set._replace(images=images._replace(read=read))


def free_memory(root: str = "/") -> int:
    """Bytes that programs on this machine, or in this container, may still take.

    Args:
      root: folder of `proc` and `sys`.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if root == "/" else []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = pathlib.Path(root, "proc/meminfo").read_text().splitlines()
        entries = dict(line.split(":", 1) for line in lines)
        found.append(int(entries["MemAvailable"].split()[0]) * 1024)
    own = ""
    with contextlib.suppress(OSError):
        groups = pathlib.Path(root, "proc/self/cgroup").read_text().splitlines()
        own = next((line[4:] for line in groups if line.startswith("0::/")), "")
    for limit in (
        f"sys/fs/cgroup/{own}/memory.max",
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        with contextlib.suppress(OSError, ValueError):  # no such limit, or the word "max"
            found.append(int(pathlib.Path(root, limit).read_text()))
    return min(found)


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """Joins sets in the given order.

    Raises:
      UserError: images in memory differ in size.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    joined = np.concatenate(labels) if len(labels) == len(parts) else None
    arrays = [part.images for part in parts if not isinstance(part.images, Records)]
    if arrays:
        shapes = sorted({array.shape[1:3] for array in arrays})
        require(
            len(shapes) == 1,
            f"its splits have images of {shapes[0]} and {shapes[-1]} pixels: they "
            "can only be joined if all have one size; resize them, or give one split",
        )
        return first._replace(images=np.concatenate(arrays), labels=joined)
    records = [part.images for part in parts if isinstance(part.images, Records)]
    starts = np.cumsum([0, *(r.size for r in records)])

    def locate(i: int) -> tuple[Records, int]:
        which = int(np.searchsorted(starts, i, side="right")) - 1
        return records[which], i - int(starts[which])

    def read(i: int) -> Encoded:
        part, position = locate(i)
        return part.read(position)

    def describe(i: int) -> str:
        part, position = locate(i)
        return part.describe(position)

    whole = Records(
        size=int(starts[-1]),
        read=read,
        describe=describe,
        scan_labels=lambda: np.concatenate([r.scan_labels() for r in records]),
        files=_joined([r.files for r in records]),
    )
    return first._replace(images=whole, labels=joined)


def _joined(parts: list[Files | None]) -> Files | None:
    files = [part for part in parts if part]
    if len(files) < len(parts):
        return None
    starts = np.cumsum([0, *(len(part.paths) for part in files)])
    offsets = [part.offset_of for part in files if part.offset_of is not None]
    return files[0]._replace(
        paths=[path for part in files for path in part.paths],
        path_of=np.concatenate(
            [part.path_of + start for part, start in zip(files, starts, strict=False)]
        ),
        offset_of=np.concatenate(offsets) if offsets else None,
    )


class Prepared(NamedTuple):
    """A stored image that TensorFlow can decode.

    Attributes:
      data: bytes of a JPEG or a PNG.
      height, width: size of the stored pixels.
      orientation: EXIF orientation, 1 (upright) to 8.
    """

    data: bytes
    height: int
    width: int
    orientation: int


class Unreadable(Exception):
    """Bytes that are not an image; the message says why."""


def prepare(
    data: bytes, exif: bool = False, largest: float = LARGEST, depth: Depth = UNSEEN
) -> Prepared:
    """Reads the header; turns formats other than JPEG and PNG into PNG.

    Args:
      data: bytes of an image file in any format that Pillow reads.
      exif: whether to report the orientation; the usual ImageNet pipelines ignore it.
      largest: most megapixels.
      depth: how values of more than 8 bits become levels; of 16 bits TensorFlow takes the high
        byte of a PNG itself.

    Raises:
      Unreadable: not an image, an unknown format, too many pixels, or values of another depth.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > largest * 1e6:
                raise Unreadable(
                    f"{width} x {height} pixels, {width * height / 1e6:.3g} megapixels: more than "
                    f"config.data.largest_image={largest:g}"
                )
            is_other = image.format not in _TENSORFLOW_FORMATS
            if is_other or (not depth.is_plain and is_deep_png(data)):
                with _one_at_a_time if width * height > _LARGE else contextlib.nullcontext():
                    other = image if is_other else Image.fromarray(levels(of_png(data), depth))
                    data = _as_png(other, depth)
            # After decoding, because Pillow itself turns a TIFF when it decodes it.
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1) if exif else 1
    except UnidentifiedImageError as error:
        raise Unreadable("not an image, or in an unknown format" if data else "no bytes") from error
    except Unreadable:
        raise
    except Exception as error:  # damaged bytes make Pillow's parsers raise errors of any type
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error
    if orientation not in range(1, 9):
        orientation = 1
    return Prepared(data, height, width, orientation)


def _as_png(image: Image.Image, depth: Depth) -> bytes:
    if image.mode[0] in "IF":  # Pillow would clip at 255
        image = Image.fromarray(levels(np.asarray(image), depth))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
