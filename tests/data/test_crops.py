"""Crops against a naive bicubic loop and against slices where no resizing is needed."""

import math
import os
import pathlib
import sys
import types

import numpy as np
import pytest

from byol_jax.data import crops, sources
from byol_jax.errors import UserError

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))
IMAGE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def keys_kernel(distance: float) -> float:
    """Keys' cubic kernel with a = -1/2."""
    d = abs(distance)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def naive_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, no antialiasing, taps outside the image dropped; not rounded."""

    def along_first(values: np.ndarray, size: int) -> np.ndarray:
        rows = []
        for i in range(size):
            centre = (i + 0.5) * len(values) / size - 0.5
            taps = range(math.floor(centre) - 1, math.floor(centre) + 3)
            weights = {k: keys_kernel(centre - k) for k in taps if 0 <= k < len(values)}
            total = sum(weights.values())
            rows.append(sum(weight / total * values[k] for k, weight in weights.items()))
        return np.stack(rows)

    wide = along_first(image.astype(np.float64), height)
    return np.swapaxes(along_first(np.swapaxes(wide, 0, 1), width), 0, 1)


def assert_rounded(ours: np.ndarray, values: np.ndarray) -> None:
    """`ours` is `values`, cut to 0..255 and rounded; TensorFlow's kernel comes from a table."""
    assert ours.dtype == np.uint8
    assert ours.shape == values.shape
    assert np.abs(ours - np.clip(values, 0, 255)).max() <= 0.5 + 0.05


def random_crop(image: np.ndarray, box: list[int], size: int) -> np.ndarray:
    return crops.random_crop_resize(image, np.array(box, np.int32), size).numpy()


@pytest.mark.parametrize("box", [[0, 0, 12, 17], [3, 2, 7, 11], [11, 16, 1, 1], [0, 5, 12, 2]])
@pytest.mark.parametrize("size", [4, 16])
def test_random_crop_is_a_naive_bicubic_resize_of_the_box(box: list[int], size: int) -> None:
    y, x, h, w = box
    expected = naive_bicubic(IMAGE[y : y + h, x : x + w], size, size)
    assert_rounded(random_crop(IMAGE, box, size), expected)


def test_random_crop_without_resizing_is_a_slice() -> None:
    assert np.array_equal(random_crop(IMAGE, [4, 6, 5, 5], 5), IMAGE[4:9, 6:11])


def test_random_crop_does_not_wrap_around_at_edges() -> None:
    """Beside a step from 0 to 255 the cubic overshoots to -17 and 272."""
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    expected = naive_bicubic(step, 16, 16)
    assert expected.min() < -10 and expected.max() > 265
    assert_rounded(random_crop(step, [0, 0, 8, 8], 16), expected)


def test_paper_crop_takes_224_of_256() -> None:
    """Short side 256 already: only the central square is cut, at 16 and (300 - 224) / 2 = 38."""
    image = np.random.default_rng(1).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    assert np.array_equal(crops.center_crop(image, 224, "paper"), image[16:240, 38:262])


def test_paper_crop_resizes_the_short_side() -> None:
    """Size 14: the short side becomes 16, 12 x 17 becomes 16 x 23 (22.7), 14 x 14 are cut."""
    expected = naive_bicubic(IMAGE, 16, 23)[1:15, 4:18]
    assert_rounded(crops.center_crop(IMAGE, 14, "paper").numpy(), expected)
    upright = np.swapaxes(IMAGE, 0, 1)
    ours = crops.center_crop(upright, 14, "paper").numpy()
    assert_rounded(ours, np.swapaxes(expected, 0, 1))


def test_full_crop_resizes_the_short_side_to_the_size() -> None:
    """Size 6: 12 x 17 becomes 6 x 8 (8.5 to the even neighbour), columns 1..6 are kept."""
    expected = naive_bicubic(IMAGE, 6, 8)[:, 1:7]
    assert_rounded(crops.center_crop(IMAGE, 6, "full").numpy(), expected)


def test_full_crop_without_resizing_is_a_slice() -> None:
    assert np.array_equal(crops.center_crop(IMAGE, 12, "full"), IMAGE[:, 2:14])


@pytest.mark.parametrize("mode", crops.EVALUATION_MODES)
def test_evaluation_images_are_the_center_crops(mode: str) -> None:
    images = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1], 255 - IMAGE, IMAGE // 2])
    image_set = sources.ImageSet("five", images, np.zeros(5, np.int32), 1)
    ours = crops.evaluation_images(image_set, 8, mode, chunk=2)
    expected = np.stack([crops.center_crop(image, 8, mode) for image in images])
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, expected)


def test_evaluation_images_of_the_right_size_are_not_touched() -> None:
    images = np.stack([IMAGE[:, :12], IMAGE[:, 5:]])
    image_set = sources.ImageSet("two", images, np.zeros(2, np.int32), 1)
    assert crops.evaluation_images(image_set, 12, "full") is images


def test_unknown_mode() -> None:
    with pytest.raises(UserError, match="unknown evaluation crop 'centre'; use 'paper' or 'full'"):
        crops.center_crop(IMAGE, 8, "centre")


@pytest.mark.parametrize("started", [False, True])
def test_tensorflow_gets_no_accelerator(monkeypatch, started: bool) -> None:
    hidden = []

    def set_visible_devices(devices: list, kind: str) -> None:
        hidden.append((devices, kind))
        if started:
            raise RuntimeError("cannot be modified after being initialized")

    fake = types.ModuleType("tensorflow")
    fake.config = types.SimpleNamespace(set_visible_devices=set_visible_devices)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert crops.import_tensorflow.__wrapped__() is fake
    assert hidden == [([], "GPU"), ([], "TPU")]
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_resizing_of_the_authors_code() -> None:
    path = SHARED / "golden" / "crop.npz"
    if not path.is_file():
        pytest.skip(f"optional local data: no {path} (set BYOL_SHARED)")
    with np.load(path) as golden:
        for case in range(4):
            image, values = golden[f"resize/{case}/in_u8"], golden[f"resize/{case}/out"]
            ours = random_crop(image, [0, 0, *image.shape[:2]], len(values))
            assert np.abs(ours - np.clip(values, 0, 255)).max() <= 0.5 + 1e-3
