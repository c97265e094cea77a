"""Stored images on their way to crops: order, damage, substitutes, host augmentation."""

import errno
import io
import itertools
import logging
import os
import pathlib
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.data import crops, images, pipeline, reader, sources, stored, tensorflow, tolerance
from byol_jax.data.views import Reading, Request, Stream, View, examples
from byol_jax.errors import GuardError, UserError

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))
SIZE = 6
# Some ten roundings of a hue, which six sextants multiply, then a channel's deviation divides.
ROUNDING = 10 * 6 * 2**-24 / 0.224


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stored_set(count: int, damaged: dict[int, bytes | None] | None = None) -> images.ImageSet:
    """PNGs of a single colour, their number; `damaged` has other bytes, or None for no file."""
    data = [png(np.full((9 + i % 4, 12, 3), i % 256, np.uint8)) for i in range(count)]
    labels = np.arange(count, dtype=np.int32) % 5

    def read(i: int) -> images.Encoded:
        content = (damaged or {}).get(i, data[i])
        if content is None:
            raise FileNotFoundError(f"no file {i}")
        return images.Encoded(content, int(labels[i]))

    records = images.Records(count, read, lambda i: f"image {i}", lambda: labels)
    return images.ImageSet("stored", records, labels, 5)


VIEWS = (View(SIZE), View(SIZE))


def batches(
    image_set: images.ImageSet,
    views: tuple[View, ...] = VIEWS,
    reading: Reading = Reading(),
    **changes,
) -> list[dict[str, np.ndarray]]:
    settings = {"batch_size": 20, "stop": 5, **changes}
    stream = Stream(1, image_set.size, **settings)
    return list(pipeline.train_batches(image_set, stream, views, reading))


def assert_same(actual: list[dict[str, np.ndarray]], expected: list[dict[str, np.ndarray]]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert np.array_equal(a[key], b[key]), key


def substitute(image_set: images.ImageSet, i: int, epoch: int, bad: set[int]) -> int:
    """The rule by hand: the first drawn image that can be read."""
    for attempt in itertools.count():
        (u,) = keys.example_uniforms(1, "substitute", i, epoch, attempt, 1)
        if int(u * image_set.size) not in bad:
            return int(u * image_set.size)


@pytest.fixture
def warnings_seen(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    return caplog


@pytest.fixture(scope="module")
def folder_set(tmp_path_factory) -> images.ImageSet:
    """44 files of several sizes and formats."""
    dataset = tiny_runs.write_folder(tmp_path_factory.mktemp("folder"), train=44)
    return sources.load(dataset, "train+valid")


@pytest.fixture(scope="module")
def tfds_set(tmp_path_factory) -> images.ImageSet:
    root = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        return sources.load(tiny_runs.write_tfds(root, 44), "train+valid", str(root))


@pytest.fixture(params=["folder", "tfds"])
def image_set(request) -> images.ImageSet:
    return request.getfixturevalue(f"{request.param}_set")


@pytest.mark.slow
@pytest.mark.ci
def test_order_for_any_number_of_shards_and_threads_fresh_and_resumed(image_set) -> None:
    """Batches of 20 out of 44 images: the epoch ends within batches 2 and 4."""
    whole = batches(image_set)
    ids, epochs = examples(1, 44, 0, 100)
    assert np.concatenate([batch["ids"] for batch in whole]).tolist() == ids.tolist()
    assert np.concatenate([batch["epochs"] for batch in whole]).tolist() == epochs.tolist()
    for shards, threads, start in [
        (1, 8, 0),
        (1, 1, 3),
        (2, 1, 0),
        (2, 8, 3),
        (4, 8, 3),
        (4, 1, 0),
    ]:
        parts = [
            batches(
                image_set,
                reading=Reading(threads=threads),
                start=start,
                process=(index, shards),
            )
            for index in range(shards)
        ]
        joined = [
            {key: np.concatenate([part[key] for part in step]) for key in step[0]}
            for step in zip(*parts, strict=True)
        ]
        assert_same(joined, whole[start:])


def test_crops_are_those_of_the_whole_image(image_set) -> None:
    """Read through one window around both boxes, PNG for PNG the same bits."""
    (batch,) = batches(image_set, stop=1)
    for row, i in enumerate(batch["ids"].tolist()):
        image = images.prepare(image_set.images.read(i).data)
        if not image.data.startswith(b"\x89PNG"):
            continue
        whole = stored.picture(image_set, i)
        placements = pipeline.random_placements(
            Request(np.array([i]), np.array([0])),
            np.array([image.height]),
            np.array([image.width]),
            1,
            VIEWS,
        )
        for view in (0, 1):
            expected = crops.place(whole, placements[0, view], SIZE)
            assert np.array_equal(batch[f"view{view + 1}"][row], expected)


def test_views_of_jpegs_are_those_of_the_authors_recipe() -> None:
    """Each view decoded and cropped by itself, resized to float32; ours are rounded to uint8."""
    tf = tensorflow.import_tensorflow()
    data = []
    for i in range(6):
        coarse = Image.fromarray(tiny_runs.images(6, 9)[i])
        buffer = io.BytesIO()
        coarse.resize((120 + 20 * i, 160)).save(buffer, "JPEG", quality=90)
        data.append(buffer.getvalue())
    labels = np.zeros(6, np.int32)
    records = images.Records(6, lambda i: images.Encoded(data[i], 0), str, lambda: labels)
    image_set = images.ImageSet("jpegs", records, labels, 1)
    views = (View(64), View(64))
    (batch,) = batches(image_set, views, batch_size=6, stop=1)
    placements = pipeline.random_placements(
        Request(batch["ids"], batch["epochs"]),
        np.full(6, 160),
        120 + 20 * batch["ids"],
        1,
        views,
    )
    for row, i in enumerate(batch["ids"]):
        for view in (0, 1):
            patch = tf.image.decode_and_crop_jpeg(data[i], placements[row, view, :4], channels=3)
            expected = np.clip(tf.image.resize(patch, (64, 64), "bicubic"), 0, 255)
            # A window's border is decoded without its neighbours.
            assert np.abs(batch[f"view{view + 1}"][row] - expected).mean() < 0.5


def test_example_views_are_those_of_the_run(folder_set) -> None:
    whole = batches(folder_set)
    for batch in (whole[0], whole[2]):
        actual = pipeline.example_views(
            folder_set,
            batch["ids"].astype(np.int64),
            batch["epochs"].astype(np.int64),
            1,
            VIEWS,
        )
        assert_same([actual], [batch])


@pytest.mark.parametrize("batch_size", [1, 7, 16, 17, 100])
def test_evaluation_reads_every_image_once_in_order(folder_set, batch_size: int) -> None:
    parts = list(
        pipeline.evaluation_batches(
            folder_set, image_size=8, mode="paper", batch_size=batch_size, num_threads=2
        )
    )
    assert np.concatenate([b["ids"] for b in parts]).tolist() == list(range(44))
    assert all(len(b["images"]) == batch_size for b in parts[:-1])
    assert np.concatenate([b["labels"] for b in parts]).tolist() == folder_set.labels.tolist()
    crop = np.concatenate([b["images"] for b in parts])[7]
    whole = stored.picture(folder_set, 7)
    placement = crops.center_placement(*whole.shape[:2], 8, "paper")
    assert np.array_equal(crop, crops.place(whole, placement, 8))


@pytest.mark.parametrize("size", [8, 10])
@pytest.mark.parametrize("start", [1, 4, 5])
def test_evaluation_may_start_at_any_id(folder_set, size: int, start: int) -> None:
    """Of files, and of arrays that are cropped (8 pixels) or taken as they are (10)."""
    arrays = images.ImageSet("five", tiny_runs.images(5, 10), np.arange(5, dtype=np.int32), 5)
    for image_set in (arrays, images.select(folder_set, np.arange(5))):
        whole, rest = (
            list(
                pipeline.evaluation_batches(
                    image_set, image_size=size, mode="full", batch_size=2, start=first
                )
            )
            for first in (0, start)
        )
        assert [i for b in rest for i in b["ids"].tolist()] == [*range(start, 5)]
        for name in ("images", "labels") if rest else ():
            expected, actual = (np.concatenate([b[name] for b in part]) for part in (whole, rest))
            np.testing.assert_array_equal(actual, expected[start:])


@pytest.mark.parametrize("mode", crops.EVALUATION_MODES)
def test_evaluation_of_arrays(mode: str) -> None:
    pixels = tiny_runs.images(5, 10)
    labels = np.arange(5, dtype=np.int32)
    image_set = images.ImageSet("five", pixels, labels, 5)
    for size in (8, 10):
        parts = list(
            pipeline.evaluation_batches(image_set, image_size=size, mode=mode, batch_size=2)
        )
        assert [b["labels"].tolist() for b in parts] == [[0, 1], [2, 3], [4]]
        actual = np.concatenate([b["images"] for b in parts])
        if mode == "full" and size == 10:
            assert np.shares_memory(parts[0]["images"], pixels)
        placement = crops.center_placement(10, 10, size, mode)
        for image, crop in zip(pixels, actual, strict=True):
            assert np.array_equal(crop, crops.place(image, placement, size))


DAMAGE = {
    "text": b"not an image",
    "empty": b"",
    "missing": None,
    "cut off": png(tiny_runs.images(1, 40)[0])[:-900],
}


@pytest.mark.parametrize(("kind", "shards"), [*((kind, 1) for kind in DAMAGE), ("text", 2)])
def test_a_substitute_fixed_by_the_keys(kind: str, shards: int, warnings_seen) -> None:
    """One of 100 images is within the tolerated 1 %; the others keep their crops."""
    whole, damaged = stored_set(100), stored_set(100, {42: DAMAGE[kind]})
    expected = batches(whole)
    parts = [batches(damaged, process=(i, shards)) for i in range(shards)]
    seen = 0
    for step, batch in enumerate(expected):
        actual = {k: np.concatenate([part[step][k] for part in parts]) for k in batch}
        assert actual["ids"].tolist() == batch["ids"].tolist()
        for row, i in enumerate(batch["ids"].tolist()):
            other = i
            if i == 42:
                other, seen = substitute(whole, 42, int(batch["epochs"][row]), {42}), seen + 1
            for view in ("view1", "view2"):
                assert (actual[view][row] == other).all()
            assert actual["labels"][row] == other % 5
    assert seen == 1
    assert "image 42" in warnings_seen.text


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


OPTIONS = {
    "exif": (Reading(exif=True), {}),
    "scaled": (Reading(scaled=True), {}),
    "on the host": (Reading(on_host=True), {}),
    "one thread": (Reading(threads=1), {}),
    "no prefetch": (Reading(prefetch=0), {}),
    "accumulated": (Reading(), {"micro_batches": 2}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_the_same_substitutes(option: str) -> None:
    """A JPEG that is cut off, of 100 with a grey level of their own that can be halved once."""
    data = [jpeg(np.full((24, 24, 3), 2 * i, np.uint8)) for i in range(100)]
    data[42] = data[42][:-200]
    labels = np.arange(100, dtype=np.int32)
    records = images.Records(100, lambda i: images.Encoded(data[i], i), str, lambda: labels)
    image_set = images.ImageSet("levels", records, labels, 100)
    reading, changes = OPTIONS[option]
    stream = {"batch_size": 20, "stop": 5, **changes}
    plain, made = batches(image_set, **stream), batches(image_set, reading=reading, **stream)
    shown = {i: i for i in range(100)} | {42: substitute(image_set, 42, 0, {42})}
    for batch, expected in zip(made, plain, strict=True):
        assert batch["ids"].tolist() == expected["ids"].tolist()
        assert batch["labels"].tolist() == [shown[i] for i in batch["ids"].tolist()]
        for row, label in enumerate(batch["labels"].tolist()):
            if not reading.on_host:
                assert (np.abs(batch["view1"][row].astype(int) - 2 * label) <= 1).all()


def test_a_resident_set_names_the_damaged_image() -> None:
    with pytest.raises(UserError, match=r"config\.data\.resident=True: image 0 cannot be read"):
        stored.decoded(stored_set(8, {0: DAMAGE["cut off"]}))


@pytest.mark.parametrize("scaled", [False, True])
def test_large_images_are_decoded_by_themselves_to_the_same_pixels(
    monkeypatch, scaled: bool
) -> None:
    """Rows beyond the budget, one of which is damaged, in batches with an incomplete chunk."""
    shapes = np.random.default_rng(3).integers(8, 60, (100, 2))
    encode = (jpeg, png)
    noise = [tiny_runs.images(1, 60, seed=i)[0] for i in range(100)]
    data = [encode[i % 2](noise[i][:h, :w]) for i, (h, w) in enumerate(shapes.tolist())]
    data[42] = data[42][:-100]
    labels = np.zeros(100, np.int32)
    records = images.Records(100, lambda i: images.Encoded(data[i], 0), str, lambda: labels)
    image_set = images.ImageSet("noise", records, labels, 1)
    settings = {"batch_size": 19, "stop": 6, "reading": Reading(scaled=scaled)}
    expected = batches(image_set, **settings)
    monkeypatch.setattr(reader, "_IMAGE_PIXELS", 1500)
    monkeypatch.setattr(reader, "_CHUNK_PIXELS", 4000)
    largest, in_chunks = 0, reader._in_chunks

    def seen(loaded, size):
        nonlocal largest
        inputs = in_chunks(loaded, size)
        for part in inputs["data"]:
            kinds = [images.prepare(x) if x != data[42] else None for x in part]
            areas = [kind.height * kind.width for kind in kinds if kind]
            pngs = [a for a, x in zip(areas, part, strict=False) if x.startswith(b"\x89PNG")]
            largest = max(largest, sum(pngs))
        return inputs

    monkeypatch.setattr(reader, "_in_chunks", seen)
    assert_same(batches(image_set, **settings), expected)
    assert 1500 < largest <= 4000


def test_the_images_that_are_decoded_by_themselves(monkeypatch) -> None:
    """At most 10 pixels per image and 20 per chunk; the last chunk of 4 has two rows."""
    monkeypatch.setattr(reader, "_IMAGE_PIXELS", 10)
    monkeypatch.setattr(reader, "_CHUNK_PIXELS", 20)
    none = np.zeros(0)
    areas = np.array([9, 11, 6, 4, 5, 5, 5, 5, 5, 6])
    loaded = reader._Loaded(Request(none, none), none, {}, none, none, [], areas)
    alone = [sorted(reader._alone(loaded, start, 4)) for start in (0, 4, 8)]
    assert alone == [[1], [], [9]]


def test_substitutes_that_have_several_classes(warnings_seen) -> None:
    """A row of labels for each image; where none stands in, no row."""
    whole = stored_set(100, {42: b"x"})
    rows = (np.arange(100)[:, None] >> np.arange(7) & 1).astype(np.int32)
    records = whole.images._replace(
        read=lambda i: whole.images.read(i)._replace(label=rows[i]), scan_labels=lambda: rows
    )
    image_set = images.ImageSet("several", records, None, 7, multi_label=True)
    (batch,) = batches(image_set, batch_size=100, stop=1)
    other = substitute(image_set, 42, 0, {42})
    ids = np.where(batch["ids"] == 42, other, batch["ids"])
    assert batch["labels"].dtype == np.int32 and np.array_equal(batch["labels"], rows[ids])
    parts = list(pipeline.evaluation_batches(image_set, image_size=8, mode="paper", batch_size=30))
    labels = np.concatenate([part["labels"] for part in parts])
    assert np.array_equal(labels, np.delete(rows, 42, axis=0))


def test_the_crop_of_a_substitute_is_drawn_for_the_missing_image() -> None:
    """Its box comes from the missing image's key and the substitute's size."""
    pixels = tiny_runs.images(100, 12)
    data = [png(image[: 8 + i % 5]) for i, image in enumerate(pixels)]
    labels = np.zeros(100, np.int32)
    records = images.Records(
        100,
        lambda i: images.Encoded(b"" if i == 42 else data[i], 0),
        str,
        lambda: labels,
    )
    image_set = images.ImageSet("noise", records, labels, 1)
    (batch,) = batches(image_set, batch_size=100, stop=1)
    other = substitute(image_set, 42, 0, {42})
    whole = pixels[other][: 8 + other % 5]
    placements = pipeline.random_placements(
        Request(np.array([42]), np.array([0])),
        np.array([len(whole)]),
        np.array([12]),
        1,
        VIEWS,
    )
    row = batch["ids"].tolist().index(42)
    for view in (0, 1):
        expected = crops.place(whole, placements[0, view], SIZE)
        assert np.array_equal(batch[f"view{view + 1}"][row], expected)


def test_more_than_one_percent_ends_the_run() -> None:
    damaged = stored_set(100, {3: b"", 60: b"x"})
    with pytest.raises(UserError, match=r"stored: 2 of 100 images cannot be read, .* 1%"):
        batches(damaged)
    with pytest.raises(UserError, match=r"image 3 \(.+\); image 60 \(.+\)"):
        list(pipeline.evaluation_batches(damaged, image_size=8, mode="paper", batch_size=30))


@pytest.mark.parametrize(("count", "limit"), [(6, 0), (7, 1), (100, 1), (199, 1.99), (700, 7)])
def test_how_many_unreadable_images_are_tolerated(count: int, limit: float) -> None:
    assert int(stored.tolerated(count)) == int(limit)
    stored.check_readable(stored_set(count, dict.fromkeys(range(int(limit)), b"")))
    damaged = stored_set(count, dict.fromkeys(range(int(limit) + 1), b""))
    words = {0: "more than none", 1: "more than 1%" if count >= 100 else "more than one"}
    with pytest.raises(UserError, match=words.get(int(limit), "more than 1%")):
        stored.check_readable(damaged)


def test_images_that_go_away_are_no_mistake_of_the_user() -> None:
    """All can be read at the start; then the files of three are missing, or are no images."""
    whole = stored_set(100)
    stored.check_readable(whole)

    def missing(i: int) -> images.Encoded:
        if i % 40 == 7:
            raise FileNotFoundError(errno.ENOENT, "No such file", f"image {i}")
        return whole.images.read(i)

    seen = threading.Event()
    away = whole._replace(images=whole.images._replace(read=missing, seen=seen))
    with pytest.raises(UserError, match=r"stored: 2 of 100 images cannot be read, more than"):
        batches(away)  # none was read before
    seen.set()
    with pytest.raises(GuardError, match=r"stored: 2 of 100 images cannot be read any more"):
        batches(away)
    with pytest.raises(UserError, match=r"2 of 100 images cannot be read, more than 1%"):
        batches(stored_set(100, {7: b"", 47: b"", 87: b""}))


def test_evaluation_leaves_unreadable_images_out(warnings_seen) -> None:
    damaged = stored_set(100, {42: b"x"})
    parts = list(pipeline.evaluation_batches(damaged, image_size=8, mode="paper", batch_size=1))
    assert [b["ids"].item() for b in parts] == [i for i in range(100) if i != 42]
    assert "image 42" in warnings_seen.text


def test_headers_are_checked_before_a_run() -> None:
    stored.check_readable(stored_set(100, {42: None}))
    cut = DAMAGE["cut off"]
    with pytest.raises(UserError, match="stored: 2 of 100 images"):
        stored.check_readable(stored_set(100, {42: None, 7: cut}))
    stored.check_readable(images.ImageSet("arrays", tiny_runs.images(3), np.zeros(3, np.int32), 1))


def test_a_large_set_is_judged_by_a_sample(monkeypatch) -> None:
    """100 of 4000: 1 is the limit by share, 4 with three standard deviations."""
    monkeypatch.setattr(stored, "_SAMPLE", 100)
    sample = keys.permutation(4000, "check_readable", 0)[:100].tolist()
    few = stored_set(4000, dict.fromkeys(sample[:3], b""))
    stored.check_readable(few)
    with pytest.raises(UserError, match="4 of 100 images"):
        stored.check_readable(stored_set(4000, dict.fromkeys(sample[:4], b"")))


def test_damaged_images_of_many_names_are_counted(monkeypatch, warnings_seen) -> None:
    monkeypatch.setattr(tolerance, "TOLERATED_SHARE", 0.5)
    damaged = stored_set(100, dict.fromkeys(range(25), b""))
    batches(damaged)
    *named, last = [record.getMessage() for record in warnings_seen.records]
    assert len(named) == 20 and all("image " in message for message in named)
    assert "25 of 100 images of stored" in last


@pytest.mark.parametrize("exif", [False, True])
def test_exif_rotation_is_a_switch(exif: bool) -> None:
    """Orientation 6: the stored left half is the upper half of the picture."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6] = 255
    image = Image.fromarray(pixels)
    tags = image.getexif()
    tags[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=tags)
    labels = np.zeros(1, np.int32)
    records = images.Records(1, lambda i: images.Encoded(buffer.getvalue(), 0), str, lambda: labels)
    image_set = images.ImageSet("turned", records, labels, 1)
    assert stored.picture(image_set, 0, exif).shape == ((12, 8, 3) if exif else (8, 12, 3))
    (batch,) = pipeline.evaluation_batches(
        image_set, image_size=8, mode="full", batch_size=1, exif=exif
    )
    # The central 8 of 12 in the picture: white above or white on the left.
    expected = np.zeros((8, 8, 3), np.uint8)
    expected[:4] = 255
    assert np.array_equal(batch["images"][0], expected if exif else expected.swapaxes(0, 1))
    views = pipeline.example_views(image_set, np.array([0]), np.array([3]), 1, VIEWS, exif)
    placement = pipeline.random_placements(
        Request(np.array([0]), np.array([3])),
        np.array([12 if exif else 8]),
        np.array([8 if exif else 12]),
        1,
        VIEWS,
    )[0, 0]
    seen = stored.picture(image_set, 0, exif)
    assert np.array_equal(views["view1"][0], crops.place(seen, placement, SIZE))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2000, 3000)])
def test_tiny_and_huge_images(shape: tuple[int, int]) -> None:
    """A single colour stays that colour, whatever is cut out and however it is stretched."""
    data = png(np.full((*shape, 3), 123, np.uint8))
    labels = np.zeros(3, np.int32)
    records = images.Records(3, lambda i: images.Encoded(data, 0), str, lambda: labels)
    image_set = images.ImageSet("extreme", records, labels, 1)
    (batch,) = batches(image_set, batch_size=3, stop=1)
    assert (batch["view1"] == 123).all() and (batch["view2"] == 123).all()
    for mode in crops.EVALUATION_MODES:
        (batch,) = pipeline.evaluation_batches(image_set, image_size=8, mode=mode, batch_size=3)
        assert (batch["images"] == 123).all()


@pytest.fixture
def oddities() -> images.ImageSet:
    path = SHARED / "data" / "jpeg_oddities"
    if not path.is_dir():
        pytest.skip(f"optional local data: no {path} (set BYOL_SHARED)")
    return sources.load(f"folder:{path}", "train+valid+test")


def test_real_files_that_break_decoders(oddities, monkeypatch) -> None:
    """CMYK, grey, 16-bit tables, EXIF, progressive, a PNG called JPEG; one is cut off."""
    names = [pathlib.Path(oddities.images.describe(i)).name for i in range(oddities.size)]
    cut_off = names.index("truncated_jpeg.jpg")
    monkeypatch.setattr(tolerance, "_TOLERATES_ONE", 16)
    with pytest.raises(UserError, match=r"1 of 15 images .* none.*truncated_jpeg\.jpg"):
        stored.check_readable(oddities)
    with pytest.raises(UserError, match=r"truncated_jpeg.jpg"):
        batches(oddities, batch_size=15, stop=1)
    monkeypatch.setattr(tolerance, "_TOLERATES_ONE", 15)
    stored.check_readable(oddities)
    (batch,) = batches(oddities, batch_size=15, stop=1)
    assert sorted(batch["ids"].tolist()) == list(range(15))
    parts = pipeline.evaluation_batches(oddities, image_size=8, mode="paper", batch_size=4)
    ids = np.concatenate([b["ids"] for b in parts]).tolist()
    assert ids == [i for i in range(15) if i != cut_off]
    for i in ids:
        actual = stored.picture(oddities, i)
        with Image.open(oddities.images.describe(i)) as image:
            expected = np.asarray(image.convert("RGB"))
        assert actual.shape == expected.shape, names[i]
        # Pillow's integer DCT is the accurate one: one grey level on average.
        difference = np.abs(actual.astype(int) - expected).mean()
        assert difference < (1.5 if "png_bytes" not in names[i] else 1e-9), names[i]


def test_real_files_are_turned_upright(oddities) -> None:
    """The eight orientations of one photograph are one picture, but for compression."""
    names = [oddities.images.describe(i) for i in range(oddities.size)]
    turned = [
        stored.picture(oddities, i, exif=True).astype(int)
        for i, name in enumerate(names)
        if "hopper_orientation" in name
    ]
    assert len(turned) == 7
    for picture in turned[1:]:
        assert np.abs(picture - turned[0]).mean() < 6


def columns() -> tuple[compose.AugmentParams, compose.AugmentParams]:
    """T of Table 6, and T' with two of SimCLR's operations."""
    more = {"rotate": 0.5, "cutout": 0.5}
    return compose.AugmentParams(), compose.AugmentParams(blur=0.1, solarize=0.2, **more)


@pytest.mark.slow
def test_augmentation_on_the_host_equals_that_on_the_device() -> None:
    """The same crops through the same operations; two builds of XLA round differently.

    Image 42 is damaged: its substitute is augmented like the others.
    """
    pixels = tiny_runs.images(100, 24)
    data = [png(image) for image in pixels]
    labels = np.zeros(100, np.int32)
    records = images.Records(
        100, lambda i: images.Encoded(b"" if i == 42 else data[i], 0), str, lambda: labels
    )
    image_set = images.ImageSet("noise", records, labels, 1)
    views = tuple(View(24, params=column) for column in columns())
    settings = {"views": views, "batch_size": 50, "stop": 2}
    on_device = batches(image_set, **settings)
    on_host = batches(image_set, **settings, reading=Reading(on_host=True))
    key = keys.named_key(1, "augment")
    augmented = jax.jit(compose.make_views, static_argnames="view")
    for actual, reference in zip(on_host, on_device, strict=True):
        assert actual["ids"].tolist() == reference["ids"].tolist()
        for view, params in enumerate(columns(), start=1):
            expected = augmented(
                reference[f"view{view}"],
                reference["ids"],
                reference["epochs"],
                key,
                view=view,
                params=jax.tree.map(np.float32, params),
            )
            assert actual[f"view{view}"].dtype == np.float32
            error = np.abs(actual[f"view{view}"] - expected)
            # Solarization may take a pixel at its threshold to the other side.
            assert np.mean(error > ROUNDING) < 1e-4


def test_an_error_in_a_reading_thread_is_raised() -> None:
    whole = stored_set(100)

    def read(i: int) -> images.Encoded:
        raise RuntimeError("a bug")

    broken = whole._replace(images=whole.images._replace(read=read))
    with pytest.raises(RuntimeError, match="a bug"):
        batches(broken)


def test_an_abandoned_run_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in range(3):
        started = pipeline.train_batches(stored_set(40), Stream(1, 40, 8), VIEWS)
        next(started)
        started.close()
    assert threading.active_count() <= before


def ramp(height: int, width: int) -> np.ndarray:
    """Red rises downwards, green to the right, from 0 to 255."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = np.linspace(0, 255, height)[:, None]
    pixels[..., 1] = np.linspace(0, 255, width)
    return np.rint(pixels).astype(np.uint8)


def test_scaled_decoding_shows_the_same_crops(monkeypatch) -> None:
    """The colours of a crop of a ramp say where it was cut."""
    sizes = [(400, 600), (90, 70), (401, 333), (640, 480)]
    data = []
    for i, size in enumerate(sizes):
        buffer = io.BytesIO()
        form = "JPEG" if i < 3 else "PNG"
        Image.fromarray(ramp(*size)).save(buffer, form, quality=100, subsampling=0)
        data.append(buffer.getvalue())
    labels = np.zeros(len(sizes), np.int32)
    records = images.Records(4, lambda i: images.Encoded(data[i], 0), str, lambda: labels)
    image_set = images.ImageSet("ramps", records, labels, 1)
    asked: set[int] = set()
    halved = crops.halved

    def seen(placements: np.ndarray, times: np.ndarray) -> np.ndarray:
        asked.update(times.tolist())
        return halved(placements, times)

    monkeypatch.setattr(crops, "halved", seen)
    settings = {"batch_size": 4, "stop": 12, "views": (View(20), View(20))}
    whole = batches(image_set, **settings)
    assert not asked
    scaled = batches(image_set, **settings, reading=Reading(scaled=True))
    assert asked == {0, 1, 2, 3}
    for actual, expected in zip(scaled, whole, strict=True):
        assert actual["ids"].tolist() == expected["ids"].tolist()
        for row, i in enumerate(actual["ids"]):
            # Half a pixel of an image of an eighth for the window and half of one for its border,
            # which is repeated, in levels; 3 of them for two JPEGs and for rounding.
            allowed = 255 * 8 / np.array(sizes[i]) + 3
            for name in ("view1", "view2"):
                difference = np.abs(actual[name][row].astype(int) - expected[name][row]).max((0, 1))
                assert (difference[:2] <= (allowed if i < 3 else 0)).all()
