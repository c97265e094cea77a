"""Masks and depths as files: what is read back, and what is drawn."""

import numpy as np
import pytest
from PIL import Image

from byol_jax.errors import GuardError
from byol_jax.results import dense_pictures
from byol_jax.results.dense_pictures import Example


def test_the_palette_is_that_of_voc():
    """By hand: bits 0, 3, 6 are red, 1, 4, 7 green, 2, 5 blue."""
    palette = dense_pictures.palette()
    assert palette.shape == (256, 3)
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        5: (128, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for index, colour in expected.items():
        assert tuple(palette[index]) == colour


def test_a_mask_is_read_back_as_its_classes(tmp_path):
    mask = np.array([[0, 1, 20], [255, 3, 0]], np.uint8)
    dense_pictures.write_mask(tmp_path / "sub/mask.png", mask)
    with Image.open(tmp_path / "sub/mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), mask)
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)


def test_depth_is_read_back_in_millimetres(tmp_path):
    metres = np.array([[0, 1.2344, 65.535], [0.0004, 0.0006, 70]], np.float32)
    assert dense_pictures.write_depth(tmp_path / "depth.png", metres) == 1
    with Image.open(tmp_path / "depth.png") as image:
        assert image.mode.startswith("I")
        np.testing.assert_array_equal(np.asarray(image), [[0, 1234, 65535], [0, 1, 65535]])


def test_a_depth_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(GuardError, match="depth is not finite"):
        dense_pictures.write_depth(tmp_path / "depth.png", np.array([[1.0, np.nan]]))
    assert not (tmp_path / "depth.png").exists()


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def has(picture, colour):
    return bool(np.all(picture == np.array(colour, np.uint8), axis=-1).any())


@pytest.mark.parametrize("with_truth", [True, False])
def test_a_picture_of_masks(with_truth, tmp_path):
    image = np.full((10, 14, 3), 7, np.uint8)
    truth = np.full((10, 14), 2, np.uint8)
    rows = [
        Example(image, np.full((10, 14), 1, np.uint8), truth if with_truth else None),
        Example(image[:5], np.full((5, 14), 15, np.uint8), None),
    ]
    dense_pictures.draw_masks(tmp_path / "a.png", rows, ("ground", "a", "b"))
    picture = pixels(tmp_path / "a.png")
    assert has(picture, (128, 0, 0))
    assert has(picture, (192, 128, 128))
    assert has(picture, (0, 128, 0)) == with_truth
    assert picture.shape[1] == (900 if with_truth else 600)


def test_a_picture_of_depths(tmp_path):
    """The scale is that of the truth: viridis ends in (68, 1, 84) and (253, 231, 37)."""
    image = np.zeros((6, 8, 3), np.uint8)
    truth = np.full((6, 8), 1, np.float32)
    truth[:, 4:] = 3
    truth[0] = 0
    rows = [Example(image, np.full((3, 4), 9, np.float32), truth)]
    dense_pictures.draw_depths(tmp_path / "a.png", rows)
    picture = pixels(tmp_path / "a.png")
    assert has(picture, (68, 1, 84))
    assert has(picture, (253, 231, 36)) or has(picture, (253, 231, 37))
    assert has(picture, (211, 211, 211))  # without a depth
    empty = [Example(image, np.zeros((3, 4), np.float32))]
    dense_pictures.draw_depths(tmp_path / "b.png", empty)
