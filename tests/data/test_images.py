"""Sets of images, chosen and joined; and every kind of file that becomes a JPEG or a PNG."""

import io
import logging
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from byol_jax.data import images
from byol_jax.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
RGBA = np.random.default_rng(1).integers(0, 256, (6, 9, 4), np.uint8)
# 16 bits: the high bytes are what is left of them.
DEEP = np.random.default_rng(2).integers(0, 2**16, (6, 9), np.uint16)
ORIENTATION = 0x0112


def saved(image: np.ndarray | Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def opened(data: bytes, file_format: str) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == file_format
        return np.asarray(image)


def in_memory(count: int, height: int = 2, first: int = 0) -> images.ImageSet:
    labels = np.arange(first, first + count, dtype=np.int32)
    pixels = labels[:, None, None, None] * np.ones((height, 3, 3), np.uint8)
    return images.ImageSet("array", pixels.astype(np.uint8), labels, 100)


def stored(count: int, first: int = 0, with_labels: bool = True) -> images.ImageSet:
    """Records with labels first, first + 1, ... which only they know unless `with_labels`."""
    labels = np.arange(first, first + count, dtype=np.int32)
    records = images.Records(
        count,
        lambda i: images.Encoded(f"bytes {labels[i]}".encode(), int(labels[i])),
        lambda i: f"name {labels[i]}",
        lambda: labels,
    )
    return images.ImageSet("records", records, labels if with_labels else None, 100)


def labels_of_records(image_set: images.ImageSet) -> list[int]:
    """The labels of all records, which must agree with whatever else says them."""
    records = image_set.images
    numbers = [records.read(i).label for i in range(records.size)]
    assert [records.read(i).data.decode() for i in range(records.size)] == [
        f"bytes {label}" for label in numbers
    ]
    assert [records.describe(i) for i in range(records.size)] == [f"name {i}" for i in numbers]
    assert images.all_labels(image_set).tolist() == records.scan_labels().tolist() == numbers
    assert image_set.size == len(numbers)
    return numbers


def test_select_from_memory() -> None:
    chosen = images.select(in_memory(6), np.array([4, 1, 1]))
    assert chosen.labels.tolist() == [4, 1, 1]
    assert chosen.images[:, 0, 0, 0].tolist() == [4, 1, 1]
    assert (chosen.name, chosen.num_classes, chosen.size) == ("array", 100, 3)


@pytest.mark.parametrize("with_labels", [True, False])
def test_select_from_records(with_labels: bool) -> None:
    chosen = images.select(stored(6, with_labels=with_labels), np.array([4, 1, 1]))
    assert (chosen.labels is not None) == with_labels
    assert labels_of_records(chosen) == [4, 1, 1]
    assert labels_of_records(images.select(chosen, np.array([2, 0]))) == [1, 4]
    assert (chosen.name, chosen.num_classes) == ("records", 100)


def test_concatenate_arrays() -> None:
    whole = images.concatenate([in_memory(2), in_memory(1, first=7), in_memory(3, first=4)])
    assert whole.labels.tolist() == whole.images[:, 0, 0, 0].tolist() == [0, 1, 7, 4, 5, 6]
    assert (whole.name, whole.num_classes, whole.size) == ("array", 100, 6)


def test_concatenate_one() -> None:
    only = stored(2)
    assert images.concatenate([only]) is only


@pytest.mark.parametrize("with_labels", [[True, True, True], [True, False, True], [False] * 3])
def test_concatenate_records(with_labels: list[bool]) -> None:
    """An empty part in the middle takes no position."""
    parts = [
        stored(2, 0, with_labels[0]),
        stored(0, 0, with_labels[1]),
        stored(3, 5, with_labels[2]),
    ]
    whole = images.concatenate(parts)
    assert (whole.labels is not None) == all(with_labels)
    assert labels_of_records(whole) == [0, 1, 5, 6, 7]
    assert labels_of_records(images.select(whole, np.array([4, 2, 0]))) == [7, 5, 0]


def several(count: int, with_labels: bool = True) -> images.ImageSet:
    """Records of three classes each, of which number i shows class i % 3, and i % 2 of the last."""
    labels = np.eye(3, dtype=np.int32)[np.arange(count) % 3]
    labels[:, 2] -= np.arange(count, dtype=np.int32) % 2
    records = images.Records(
        count, lambda i: images.Encoded(b"%d" % i, labels[i]), str, lambda: labels
    )
    return images.ImageSet("several", records, labels if with_labels else None, 3, multi_label=True)


@pytest.mark.parametrize("with_labels", [True, False])
def test_several_classes_are_chosen_and_joined(with_labels: bool) -> None:
    whole = images.concatenate([several(4, with_labels), several(2, with_labels)])
    expected = [[1, 0, 0], [0, 1, -1], [0, 0, 1], [1, 0, -1], [1, 0, 0], [0, 1, -1]]
    assert images.all_labels(whole).tolist() == expected
    chosen = images.select(whole, np.array([5, 0, 3]))
    assert images.all_labels(chosen).tolist() == [expected[5], expected[0], expected[3]]
    assert [chosen.images.read(i).label.tolist() for i in range(3)] == [
        expected[5],
        expected[0],
        expected[3],
    ]
    assert chosen.multi_label and chosen.num_classes == 3


def test_unknown_labels() -> None:
    assert images.no_label(stored(1)) == -1
    unknown = images.no_label(several(1))
    assert unknown.tolist() == [-1, -1, -1] and unknown.dtype == np.int32


def test_without_labels() -> None:
    for image_set in (in_memory(3), stored(3), stored(3, with_labels=False), several(3)):
        bare = images.unlabelled(image_set)
        assert (bare.name, bare.size) == (image_set.name, 3)
        assert (bare.num_classes, bare.multi_label) == (0, False)
        assert images.all_labels(bare).tolist() == [-1, -1, -1]
        assert images.all_labels(bare).dtype == np.int32
        if isinstance(bare.images, images.Records):
            assert bare.images.scan_labels().tolist() == [-1, -1, -1]
            assert bare.images.read(2) == images.Encoded(image_set.images.read(2).data, -1)
            assert bare.images.describe(2) == image_set.images.describe(2)


def test_the_fingerprint_of_images_in_memory() -> None:
    found = images.fingerprint(in_memory(3))
    assert found["count"] == 3
    pixels = bytes([0] * 18 + [1] * 18 + [2] * 18)
    assert found["pixels_crc32"] == zlib.crc32(pixels)
    assert found["labels_crc32"] == zlib.crc32(struct.pack("<3i", 0, 1, 2))
    assert images.fingerprint(images.select(in_memory(3), np.array([1, 0, 2]))) != found


def test_the_fingerprint_of_records_reads_no_image() -> None:
    found = images.fingerprint(stored(2, first=5, with_labels=False))
    assert found == {"count": 2, "names_crc32": zlib.crc32(b"name 5\nname 6\n")}


def files_at(root: str, *names: str, offsets: list[int] | None = None) -> images.ImageSet:
    """Files that need not exist."""
    files = images.Files(
        [f"{root}/{name}" for name in names],
        np.arange(len(names)),
        np.array(offsets) if offsets else None,
    )
    records = stored(len(names)).images
    assert isinstance(records, images.Records)
    return images.ImageSet("folder:x", records._replace(files=files), None, 0)


def test_the_fingerprint_of_a_folder_moves_with_it() -> None:
    here = images.fingerprint(files_at("/here/x", "a/1.jpg", "b/2\udcff.jpg"))
    assert here == {"count": 2, "names_crc32": zlib.crc32(b"/a/1.jpg\n/b/2\xff.jpg\n")}
    assert here == images.fingerprint(files_at("/there", "a/1.jpg", "b/2\udcff.jpg"))
    assert here != images.fingerprint(files_at("/here/x", "a/1.jpg", "b/3.jpg"))
    assert here != images.fingerprint(files_at("/here/x", "a/1.jpg"))


def test_the_fingerprint_of_record_files_has_their_version() -> None:
    found = images.fingerprint(files_at("/data/cifar10/1.0.0", "t-0", "t-1", offsets=[0, 80]))
    assert found["names_crc32"] == zlib.crc32(b"1.0.0/t-0 0\n1.0.0/t-1 80\n")


def counted(count: int, missing: int = -1) -> tuple[images.ImageSet, list[int]]:
    """Records of 16 bytes, and the list of what has been read; one may have no file."""
    seen: list[int] = []

    def read(i: int) -> images.Encoded:
        seen.append(i)
        if i == missing:
            raise FileNotFoundError(f"no file {i}")
        return images.Encoded(b"%16d" % i, i % 100)

    labels = np.zeros(1, np.int32)
    records = images.Records(count, read, str, lambda: labels)
    return images.ImageSet("counted", records, labels, 100), seen


def test_a_cached_image_is_read_once() -> None:
    image_set, seen = counted(500, missing=499)
    kept = images.cached(image_set)
    measured = len(seen)
    assert measured == 200 and len(set(seen)) == measured
    for _ in range(3):
        for i in range(499):
            assert kept.images.read(i) == images.Encoded(b"%16d" % i, i % 100)
    assert sorted(seen) == list(range(500))
    # What could not be read is tried again.
    with pytest.raises(FileNotFoundError, match="no file 499"):
        kept.images.read(499)
    assert seen.count(499) == 2
    assert kept._replace(images=None) == image_set._replace(images=None)
    assert kept.images[2:] == image_set.images[2:] and kept.size == 500


def test_arrays_need_no_cache() -> None:
    only = in_memory(2)
    assert images.cached(only) is only


def test_a_cache_larger_than_the_memory_is_refused(monkeypatch, caplog) -> None:
    """2**26 images of 16 bytes are a GiB."""
    image_set, _ = counted(2**26)
    monkeypatch.setattr(images, "free_memory", lambda: 2**30)
    with pytest.raises(UserError) as error:
        images.cached(image_set)
    message = str(error.value)
    assert all(part in message for part in ("config.data.cache", "counted", "1.0 GiB"))
    monkeypatch.setattr(images, "free_memory", lambda: 2**30 + 1)
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    images.cached(image_set)
    assert "1.0 GiB" in caplog.text and "config.data.cache" in caplog.text


def test_a_cache_is_counted_for_all_processes_of_a_machine(monkeypatch) -> None:
    """Eight processes that would each keep an eighth of the memory: 200 images of 16 bytes."""
    image_set, _ = counted(200)
    monkeypatch.setattr(images, "free_memory", lambda: 8 * 200 * 16)
    with pytest.raises(UserError, match="in each of 8 processes"):
        images.cached(image_set, 8)
    images.cached(image_set, 7)


def test_the_memory_of_this_machine() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**28 < images.free_memory() <= physical


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 7000 * 1024),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "3000"}, 3000),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 7000 * 1024),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "1000"}, 1000),
        ({"sys/fs/cgroup/memory.max": str(2**40)}, 7000 * 1024),
    ],
)
def test_the_memory_of_a_container(tmp_path, files, free) -> None:
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:   7000 kB\n", **files}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert images.free_memory(str(tmp_path)) == free


def test_concatenate_sizes_that_differ() -> None:
    with pytest.raises(UserError) as error:
        images.concatenate([in_memory(2), in_memory(2, height=5)])
    assert all(part in str(error.value) for part in ("(2, 3)", "(5, 3)"))


PALETTE = Image.fromarray(RGB).quantize(8)
AS_THEY_ARE = {
    "jpeg": (saved(RGB, "JPEG"), "JPEG"),
    "progressive jpeg": (saved(RGB, "JPEG", progressive=True), "JPEG"),
    "grey jpeg": (saved(RGB[..., 0], "JPEG"), "JPEG"),
    "cmyk jpeg": (saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "JPEG"),
    # Two pictures in one file, as some cameras write them.
    "mpo": (saved(RGB, "MPO", save_all=True, append_images=[Image.fromarray(RGB)]), "MPO"),
    "png": (saved(RGB, "PNG"), "PNG"),
    "grey png": (saved(RGB[..., 0], "PNG"), "PNG"),
    "rgba png": (saved(RGBA, "PNG"), "PNG"),
    "16-bit png": (saved(DEEP, "PNG"), "PNG"),
    "palette png": (saved(PALETTE, "PNG"), "PNG"),
}


@pytest.mark.parametrize("case", AS_THEY_ARE)
@pytest.mark.parametrize("exif", [False, True])
def test_formats_that_tensorflow_decodes_stay_unchanged(case: str, exif: bool) -> None:
    data, file_format = AS_THEY_ARE[case]
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == file_format
    assert images.prepare(data, exif) == images.Prepared(data, 6, 9, 1)


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (saved(RGB, "WEBP", lossless=True), RGB),
        # `exact`: else the encoder forgets the colours of what cannot be seen.
        (saved(RGBA, "WEBP", lossless=True, exact=True), RGBA[..., :3]),
        (saved(RGB, "BMP"), RGB),
        (saved(RGB[..., 0], "BMP"), np.stack([RGB[..., 0]] * 3, axis=-1)),
        (saved(PALETTE, "BMP"), np.asarray(PALETTE.convert("RGB"))),
        (saved(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
        (saved(PALETTE, "GIF", transparency=0), np.asarray(PALETTE.convert("RGB"))),
        # The first picture of several.
        (
            saved(RGB[..., 0], "GIF", save_all=True, append_images=[Image.fromarray(RGB[..., 1])]),
            np.stack([RGB[..., 0]] * 3, axis=-1),
        ),
        (saved(RGB, "TIFF"), RGB),
        (saved(DEEP, "TIFF"), np.stack([DEEP >> 8] * 3, axis=-1)),
        (
            saved(Image.frombytes("I;16B", (9, 6), DEEP.astype(">u2").tobytes()), "TIFF"),
            np.stack([DEEP >> 8] * 3, axis=-1),
        ),
    ],
    ids=[
        *("webp", "webp with alpha", "bmp", "grey bmp", "palette bmp", "gif", "transparent gif"),
        *("animated gif", "tiff", "16-bit tiff", "big-endian 16-bit tiff"),
    ],
)
def test_other_formats_become_png(data: bytes, pixels: np.ndarray) -> None:
    prepared = images.prepare(data)
    actual = opened(prepared.data, "PNG")
    assert actual.dtype == np.uint8
    assert np.array_equal(actual, pixels)
    assert prepared[1:] == (6, 9, 1)


@pytest.mark.parametrize("file_format", ["JPEG", "MPO", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_reported_only_when_asked(file_format: str, value: int) -> None:
    """Sizes are those of the stored pixels, which nobody turns here."""
    data = saved(RGB, file_format, exif=oriented(value))
    assert images.prepare(data)[1:] == (6, 9, 1)
    assert images.prepare(data, exif=True)[1:] == (6, 9, value)


@pytest.mark.parametrize("exif", [False, True])
def test_a_tiff_is_turned_once(exif: bool) -> None:
    """Pillow does it itself: 6 is a quarter of a turn clockwise."""
    prepared = images.prepare(saved(RGB, "TIFF", exif=oriented(6)), exif)
    assert prepared[1:] == (9, 6, 1)
    assert np.array_equal(opened(prepared.data, "PNG"), np.rot90(RGB, -1))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_unknown_orientation_counts_as_none(value: int) -> None:
    data = saved(RGB, "JPEG", exif=oriented(value))
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[ORIENTATION] == value
    assert images.prepare(data, exif=True)[1:] == (6, 9, 1)


def test_an_orientation_that_is_no_number_counts_as_none() -> None:
    """An EXIF of one entry: the tag, type 2 (text), 2 bytes, "A"."""
    entry = struct.pack("<HHI4s", ORIENTATION, 2, 2, b"A\0\0\0")
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    data = saved(RGB, "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[ORIENTATION] == "A"
    assert images.prepare(data, exif=True)[1:] == (6, 9, 1)


def reason(data: bytes) -> str:
    with pytest.raises(images.Unreadable) as error:
        images.prepare(data)
    assert str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no bytes"),
        (b"<html>not found</html>", "unknown format"),
        (saved(RGB, "JPEG")[:20], "unknown format"),
        (saved(RGB, "PNG")[:20], ""),
        (saved(RGB, "GIF")[:10], ""),
        (saved(RGB, "WEBP", lossless=True)[:40], ""),
        # These are decoded here, so that a missing end is found here.
        (saved(RGB, "BMP")[:-40], "truncated"),
        (saved(PALETTE, "GIF")[:-20], "truncated"),
    ],
    ids=["empty", "text", "jpeg", "png", "gif", "webp", "end of bmp", "end of gif"],
)
def test_unreadable(data: bytes, expected: str) -> None:
    assert expected in reason(data)


def test_too_many_pixels_are_unreadable() -> None:
    """200 million in a file of 24 KB; the header alone decides."""
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10_000 * (1 + 20_000 // 8)))

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    parts = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    assert len(data) < 50_000
    assert "200000000 pixels" in reason(data)


def test_the_largest_image_is_the_users() -> None:
    """300 x 200 pixels are 0.06 megapixels."""
    data = saved(np.zeros((200, 300, 3), np.uint8), "PNG")
    assert images.prepare(data, largest=0.06).width == 300
    with pytest.raises(images.Unreadable) as error:
        images.prepare(data, largest=0.0599)
    assert all(
        part in str(error.value) for part in ("300 x 200", "0.06 mega", "largest_image=0.0599")
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"count": 9}, "9 images (was 8)"),
        ({"count": 9, "names_crc32": 0}, "9 images (was 8)"),
        ({"names_crc32": 0}, "8 images of other names"),
        ({"names_crc32": 0, "labels_crc32": 0}, "8 images of other names and labels"),
        # Of a set that was in files, and is in memory now.
        ({"pixels_crc32": 0}, ""),
    ],
)
def test_what_tells_two_fingerprints_apart(changes, words):
    old = {"count": 8, "names_crc32": 1, "labels_crc32": 2}
    assert images.difference(old, {**old, **changes}) == words
