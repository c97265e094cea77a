"""Crops against a naive bicubic loop and against slices where no resizing is needed."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageOps

from byol_jax.data import crops
from byol_jax.errors import UserError

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


def assert_rounded(actual: np.ndarray, values: np.ndarray) -> None:
    """`actual` is `values`, cut to 0..255 and rounded; its weights come from a table."""
    assert actual.dtype == np.uint8
    assert actual.shape == values.shape
    assert np.abs(actual - np.clip(values, 0, 255)).max() <= 0.5 + 0.05


def random_crop(image: np.ndarray, box: list[int], size: int) -> np.ndarray:
    placement = crops.box_placement(np.array(box, np.int32), size)
    return crops.place(image, placement, size)


def center_crop(image: np.ndarray, size: int, mode: str) -> np.ndarray:
    placement = crops.center_placement(*image.shape[:2], size, mode)
    return crops.place(image, placement, size)


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
    assert np.array_equal(center_crop(image, 224, "paper"), image[16:240, 38:262])


def test_paper_crop_resizes_the_short_side() -> None:
    """Size 14: the short side becomes 16, 12 x 17 becomes 16 x 23 (22.7), 14 x 14 are cut."""
    expected = naive_bicubic(IMAGE, 16, 23)[1:15, 4:18]
    assert_rounded(center_crop(IMAGE, 14, "paper"), expected)
    upright = np.swapaxes(IMAGE, 0, 1)
    actual = center_crop(upright, 14, "paper")
    assert_rounded(actual, np.swapaxes(expected, 0, 1))


def test_full_crop_resizes_the_short_side_to_the_size() -> None:
    """Size 6: 12 x 17 becomes 6 x 8 (8.5 to the even neighbour), columns 1..6 are kept."""
    expected = naive_bicubic(IMAGE, 6, 8)[:, 1:7]
    assert_rounded(center_crop(IMAGE, 6, "full"), expected)


def test_full_crop_without_resizing_is_a_slice() -> None:
    assert np.array_equal(center_crop(IMAGE, 12, "full"), IMAGE[:, 2:14])


def test_unknown_mode() -> None:
    with pytest.raises(UserError, match=r"'centre'.*'paper', 'released', 'full'"):
        center_crop(IMAGE, 8, "centre")


def test_released_crop_is_the_central_share() -> None:
    """20 x 31: side 17 (17.5), corner (2, 7): half of 3 and of 14, rounded up."""
    image = np.random.default_rng(2).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    assert np.array_equal(center_crop(image, 17, "released"), image[2:19, 7:24])


@pytest.mark.parametrize("mode", crops.EVALUATION_MODES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (2, 3), (90, 4000)])
def test_extreme_shapes_have_a_crop(mode: str, height: int, width: int) -> None:
    """A strip is not blown up whole: 1 x 5000 at 256 pixels would be 4 GB."""
    placement = crops.center_placement(height, width, 32, mode)
    y, x, h, w, to_height, to_width, from_y, from_x = placement.tolist()
    assert y >= 0 and y + h <= height and h >= 1 and x >= 0 and x + w <= width and w >= 1
    assert from_y >= 0 and from_y + 32 <= to_height and from_x >= 0 and from_x + 32 <= to_width
    assert to_height * to_width <= 8 * 37**2
    image = np.full((height, width, 3), 77, np.uint8)
    assert (center_crop(image, 32, mode) == 77).all()


def test_the_middle_of_a_strip_is_kept() -> None:
    """8 x 200 is longer than 8 times its height: columns 68..131 are resized, 96..103 seen."""
    strip = np.random.default_rng(3).integers(0, 256, (8, 200, 3), dtype=np.uint8)
    assert np.array_equal(center_crop(strip, 8, "full"), strip[:, 96:104])


def pillow_turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow makes of pixels with this EXIF orientation."""
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_windows(orientation: int) -> None:
    """Cutting a box out of the turned picture, or its window out of the stored one: the same."""
    seen = pillow_turned(IMAGE, orientation)
    assert np.array_equal(crops.orient(IMAGE, orientation), seen)
    heights, widths = crops.seen_size(*IMAGE.shape[:2], orientation)
    assert (heights, widths) == seen.shape[:2]
    box = np.array([2, 3, 7, 5], np.int32)
    placement = crops.turn(crops.box_placement(box, 4), *IMAGE.shape[:2], orientation)
    assert placement[4:].tolist() == [4, 4, 0, 0]
    actual = crops.place(IMAGE, placement, 4, orientation)
    assert np.array_equal(actual, random_crop(seen, box.tolist(), 4))


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_window_of_a_png() -> None:
    assert np.array_equal(crops.decode(encoded(IMAGE, "PNG"), [3, 2, 7, 11]), IMAGE[3:10, 2:13])


def test_a_window_of_a_jpeg_is_that_of_the_whole() -> None:
    """On the grid of 16 x 16 blocks of the format, where no neighbour is needed."""
    smooth = np.add.outer(np.arange(48), 2 * np.arange(64))[..., None].repeat(3, 2).astype(np.uint8)
    data = encoded(smooth, "JPEG", quality=95, subsampling=0)
    whole = crops.decode(data, [0, 0, 48, 64]).numpy()
    assert np.abs(whole.astype(int) - smooth).mean() < 2
    assert np.array_equal(crops.decode(data, [16, 16, 16, 32]), whole[16:32, 16:48])


def test_images_are_halved_while_every_window_is_larger_than_its_view():
    """Views of 224 pixels: of a window of 447 none, of 448 one halving, of 8 x 224 three."""
    windows = [
        [(448, 900)],
        [(447, 900)],
        [(1792, 1792)],
        [(9000, 9000)],
        [(3000, 500), (900, 900)],
    ]
    for sides, expected in zip(windows, (1, 0, 3, 3, 1), strict=True):
        boxes = np.array([[(5, 6, *side) for side in sides]])
        assert crops.halvings(crops.box_placement(boxes, 224)).tolist() == [expected]


def test_windows_in_halved_images():
    """3 .. 103 and 5 .. 47 of 120, by hand: a quarter of it is 0.75 .. 25.75 and 1.25 .. 11.75."""
    placements = crops.box_placement(np.array([[[3, 5, 100, 42]], [[3, 5, 100, 42]]]), 8)
    actual = crops.halved(placements, np.array([2, 0], np.int32))
    assert actual.tolist() == [[[1, 1, 25, 11, 8, 8, 0, 0]], [[3, 5, 100, 42, 8, 8, 0, 0]]]
    assert actual.dtype == np.int32
