"""Pixels of more than 8 bits: the levels of a set, and the same ones wherever it is read."""

import json
import logging
import pathlib
import struct

import numpy as np
import pytest
from PIL import Image

from byol_jax.data import crops, depth, folder, images, pipeline, sources, stored
from byol_jax.data.views import Stream, View
from byol_jax.errors import UserError
from byol_jax.evals.splits import load_split
from byol_jax.jobs import pictures


@pytest.fixture(autouse=True)
def heard(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")


def write(root: pathlib.Path, high: float, kind: str = "png", count: int = 4) -> list[np.ndarray]:
    """Ramps from 0 to `high`, squares of 16 pixels; the last one reaches it."""
    root.mkdir(parents=True, exist_ok=True)
    ramps = []
    for i in range(count):
        top = high * (i + 1) / count
        values = np.linspace(0, top, 256).reshape(16, 16)
        values = values.astype(np.float32) if isinstance(high, float) else values.astype(np.uint16)
        Image.fromarray(values).save(root / f"{i}.{kind}")
        ramps.append(values)
    return ramps


def shown(dataset: str) -> list[np.ndarray]:
    """Whole images, as every evaluation crop of their own size shows them."""
    image_set = sources.load(dataset, "train+valid+test")
    (batch,) = pipeline.evaluation_batches(image_set, image_size=16, mode="full", batch_size=9)
    for i, pixels in enumerate(batch["images"]):
        assert np.array_equal(stored.picture(image_set, i), pixels)
        assert (pixels == pixels[..., :1]).all()
    return [*batch["images"][..., 0]]


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize(("high", "bits"), [(4095, 12), (1000, 10), (16383, 14), (255, 8)])
def test_known_depths_are_scaled_with_a_warning(tmp_path, caplog, kind, high, bits) -> None:
    ramps = write(tmp_path, high, kind)
    for actual, values in zip(shown(f"folder:{tmp_path}"), ramps, strict=True):
        assert np.array_equal(actual, values // 2 ** (bits - 8))
    message = caplog.messages[0]
    assert f"from 0 to {high}" in message and f"{bits} bits" in message
    assert f"{2 ** (bits - 8)} values to a level" in message


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_keep_their_high_byte_without_a_word(tmp_path, caplog, kind) -> None:
    ramps = write(tmp_path, 40000, kind)
    for actual, values in zip(shown(f"folder:{tmp_path}"), ramps, strict=True):
        assert np.array_equal(actual, values >> 8)
    assert not caplog.messages


@pytest.mark.parametrize(("high", "white"), [(1.0, 1), (0.3, 1), (255.0, 255), (40.0, 255)])
def test_floats(tmp_path, caplog, high, white) -> None:
    ramps = write(tmp_path, high, "tif")
    for actual, values in zip(shown(f"folder:{tmp_path}"), ramps, strict=True):
        assert np.abs(actual - values.astype(float) * 255 / white).max() <= 0.5001
    assert f"{white} becomes 255" in caplog.messages[0]


@pytest.mark.parametrize("values", [np.float32([[0, 300]]), np.float32([[-1, 1]])])
def test_other_floats_are_refused_by_name(tmp_path, values) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(UserError) as error:
        sources.load(f"folder:{tmp_path}", "train+valid+test")
    low, high = values.min(), values.max()
    assert f"{tmp_path / 'x.tif'} has floats from {low:g} to {high:g}" in str(error.value)


def test_integers_beyond_sixteen_bits_are_refused_by_name(tmp_path) -> None:
    Image.fromarray(np.int32([[-1024, 3071]])).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif has integers from -1024 to 3071"):
        sources.load(f"folder:{tmp_path}", "train+valid+test")


def test_all_splits_have_one_depth(tmp_path) -> None:
    """The training images alone would be taken as 8 bits."""
    write(tmp_path / "train", 200)
    write(tmp_path / "test", 4095)
    found = {split: part.depth.bits for split, part in folder.read(str(tmp_path)).items()}
    assert found == {"train": 12, "test": 12}


def test_colour_of_twelve_bits(tmp_path) -> None:
    """A PNG of 16 bits and three channels, which Pillow alone would cut to its high bytes."""
    from byol_jax.data.tensorflow import import_tensorflow

    tf = import_tensorflow()
    values = np.random.default_rng(0).integers(0, 4096, (16, 16, 3), np.uint16)
    (tmp_path / "x.png").write_bytes(tf.io.encode_png(values).numpy())
    image_set = sources.load(f"folder:{tmp_path}", "train+valid+test")
    assert np.array_equal(stored.picture(image_set, 0), values >> 4)


def test_images_of_eight_bits_among_them_stay(tmp_path) -> None:
    write(tmp_path, 4095)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "9.png")
    assert np.array_equal(shown(f"folder:{tmp_path}")[-1], pixels)


def test_an_image_beyond_the_depth_of_its_set_is_unreadable() -> None:
    values = np.uint16([[0, 4096, 4096]])
    with pytest.raises(ValueError, match="from 0 to 4096, not of 12 bits"):
        depth.levels(values, depth.Depth(bits=12))


def test_the_same_pixels_wherever_they_are_read(tmp_path) -> None:
    """Training, evaluation, the encoder's list of files, and the job `operations`."""
    ramps = write(tmp_path, 4095, "png", count=1)
    expected = ramps[0] >> 4
    paths = [str(tmp_path / "0.png")]
    assert np.array_equal(shown(f"folder:{tmp_path}")[0], expected)
    assert np.array_equal(stored.picture(folder.files_set("list", paths), 0)[..., 0], expected)
    assert np.array_equal(pictures.center_crop(paths[0], 16)[..., 0], expected)
    image_set = sources.load(f"folder:{tmp_path}", "train+valid+test")
    whole = View(16, area_range=(1.0, 1.0), aspect_range=(1.0, 1.0))
    (batch,) = pipeline.train_batches(image_set, Stream(0, 1, 1, stop=1), (whole,))
    assert np.array_equal(batch["view1"][0, ..., 0], expected)
    made = images.prepare((tmp_path / "0.png").read_bytes(), depth=image_set.depth)
    assert np.array_equal(crops.decode(made.data, [0, 0, 16, 16]).numpy()[..., 0], expected)


def scatter(root: pathlib.Path, count: int, **values: int) -> None:
    """Images of 32 x 32 pixels, all 3000 but the first pixel; and further ones of one value."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.full((32, 32), 3000, np.uint16)
        pixels[0, 0] = 65535
        Image.fromarray(pixels).save(root / f"{i}.png")
    for name, value in values.items():
        Image.fromarray(np.full((32, 32), value, np.uint16)).save(root / f"{name}.png")


def test_a_faulty_pixel_does_not_hide_the_depth(tmp_path, caplog) -> None:
    """Taken as 16 bits, 3000 would be level 11."""
    scatter(tmp_path, 4)
    image_set = folder.files_set("list", [str(tmp_path / f"{i}.png") for i in range(4)])
    assert image_set.depth.bits == 12
    pixels = stored.picture(image_set, 2)
    assert pixels is not None
    assert (pixels[0, 0] == 255).all() and (pixels[1:] == 3000 >> 4).all()
    assert "from 3000 to 65535" in caplog.messages[0] and "12 bits" in caplog.messages[0]


def test_most_images_far_below_the_depth_are_a_warning(tmp_path, caplog) -> None:
    scatter(tmp_path, 4, bright=60000)
    assert sources.load(f"folder:{tmp_path}", "train+valid+test").depth.bits == 16
    (message,) = [m for m in caplog.messages if "bits" in m]
    assert "from 3000 to 65535" in message and "half of these images stay below 16384" in message


@pytest.mark.parametrize(
    "values", [np.int32([[-1, 70000]]), np.float32([[np.nan, 1]]), np.float32([[0, 300]])]
)
def test_one_odd_image_counts_as_unreadable(tmp_path, values) -> None:
    for i in range(99):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i:02}.jpg")
    Image.fromarray(values).save(tmp_path / "mask.tif")
    image_set = sources.load(f"folder:{tmp_path}", "train+valid+test")
    stored.check_readable(image_set)
    reasons = [stored.read_example(image_set, i, exif=False).reason for i in range(100)]
    assert [bool(reason) for reason in reasons] == [False] * 99 + [True]


def test_more_odd_images_than_tolerated_are_refused(tmp_path) -> None:
    for i in range(48):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i:02}.jpg")
    for i in range(2):
        Image.fromarray(np.int32([[-1, 5]])).save(tmp_path / f"mask{i}.tif")
    with pytest.raises(UserError, match=r"mask0\.tif has integers from -1 to 5 .* 1 others of 2"):
        sources.load(f"folder:{tmp_path}", "train+valid+test")


def colour_tiff(values: np.ndarray) -> bytes:
    """An uncompressed little-endian TIFF of 16 bits and three channels."""
    height, width, _ = values.shape
    pixels = values.astype("<u2").tobytes()
    bits_at = 8 + len(pixels)
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 3, bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 3, 1, height),
        (279, 4, 1, len(pixels)),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    table = struct.pack("<H", len(tags)) + entries + bytes(4)
    header = b"II*\0" + struct.pack("<I", bits_at + 6)
    return header + pixels + struct.pack("<HHH", 16, 16, 16) + table


def test_colour_tiff_of_sixteen_bits_is_a_warning(tmp_path, caplog) -> None:
    for i in range(3):
        (tmp_path / f"{i}.tif").write_bytes(colour_tiff(np.full((4, 4, 3), 3000)))
    image_set = sources.load(f"folder:{tmp_path}", "train+valid+test")
    (message,) = [m for m in caplog.messages if "TIFF" in m]
    assert "3 colour TIFFs of 16 bits" in message and "0.tif" in message
    assert "high byte" in message
    pixels = stored.picture(image_set, 0)
    assert pixels is not None and (pixels == 3000 >> 8).all()


def test_replaced_files_are_looked_at_again(tmp_path) -> None:
    for high, bits in ((4095, 12), (1000, 10)):
        write(tmp_path, high)
        assert folder.read(str(tmp_path))["train"].depth.bits == bits


def test_a_darker_set_has_the_depth_of_the_training(tmp_path, caplog) -> None:
    ramps = write(tmp_path, 200)
    known = depth.Depth(bits=12)
    image_set = sources.load(
        f"folder:{tmp_path}", "train+valid+test", decoding=images.Decoding(depth=known)
    )
    assert image_set.depth == known
    pixels = stored.picture(image_set, 3)
    assert pixels is not None and np.array_equal(pixels[..., 0], ramps[3] >> 4)
    assert "12 bits" in caplog.messages[0] and "as in the training" in caplog.messages[0]


def test_a_brighter_set_has_its_own_depth_with_a_warning(tmp_path, caplog) -> None:
    write(tmp_path, 4095)
    image_set = sources.load(
        *(f"folder:{tmp_path}", "train+valid+test"),
        decoding=images.Decoding(depth=depth.Depth(bits=10, white=1.0)),
    )
    assert image_set.depth == depth.Depth(bits=12, white=1.0)
    assert "though the training has 10" in caplog.messages[0]


def test_a_record_keeps_what_images_told() -> None:
    for found in (depth.Depth(12), depth.Depth(16, 255.0), depth.Depth(white=1.0), depth.UNSEEN):
        record = json.loads(json.dumps({"config": {}, **depth.to_record(found)}))
        assert depth.of_record(record) == found
    assert "depth" not in depth.to_record(depth.UNSEEN)


def test_evaluation_crops_have_the_depth_of_the_training(tmp_path) -> None:
    ramps = write(tmp_path, 200)
    split = load_split(
        *(f"folder:{tmp_path}", "train+valid+test"),
        image_size=16,
        eval_crop="full",
        decoding=images.Decoding(depth=depth.Depth(bits=12)),
    )
    (batch,) = split.batches()
    assert np.array_equal(batch["images"][3][..., 0], ramps[3] >> 4)
