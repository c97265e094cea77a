"""Pictures inside a page."""

import base64
import io

import jinja2
import numpy as np
import pytest
from PIL import Image

from byol_jax.results import html


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_small_pictures_keep_every_pixel_and_large_ones_are_jpeg():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (32, 8, 3), np.uint8)
    assert html.data_uri(small).startswith("data:image/png")
    assert np.array_equal(pixels_of(html.data_uri(small)), small)
    large = np.full((40, 40, 3), 100, np.uint8)
    assert html.data_uri(large).startswith("data:image/jpeg")
    assert np.abs(pixels_of(html.data_uri(large)).astype(int) - 100).max() <= 2


def test_shrinking_averages_squares_and_keeps_the_shape():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:2, :2] = [[[0], [40]], [[80], [120]]]
    small = html.shrunk(picture, 4)
    assert small.shape == (2, 4, 3) and small[0, 0].tolist() == [60, 60, 60]
    assert html.shrunk(picture, 8) is picture


def test_a_sprite_has_picture_i_at_row_and_column_of_i():
    pictures = [np.full((4, 4, 3), 10 * i, np.uint8) for i in range(7)]
    sheet = html.sprite(pictures, 32)
    assert (sheet.side, sheet.columns, sheet.rows) == (4, 3, 3)
    pixels = pixels_of(sheet.uri)
    for i in range(7):
        top, left = i // 3 * 4, i % 3 * 4
        assert (pixels[top : top + 4, left : left + 4] == 10 * i).all()
    assert not pixels[8:, 4:].any()


def test_a_page_without_its_contents_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        html.render(title="x")
