"""Crop boxes against boxes worked out by hand, a naive loop, and a recorded distribution."""

import math
import os
import pathlib

import numpy as np
import pytest

from byol_jax.augment.boxes import random_resized_boxes
from byol_jax.errors import UserError

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))
LARGEST = 1 - 2.0**-53


@pytest.mark.parametrize(
    ("uniforms", "height", "width", "area_range", "aspect_range", "box"),
    [
        # A quarter of 100 x 200 as a square of side sqrt(5000) = 70.7; 30 and 130 positions.
        ((0.3, 0.3, 0.5, 0.5), 100, 200, (0.25, 0.25), (1, 1), (15, 65, 71, 71)),
        # 400 pixels; the middle of the log-uniform range 1/4..4 is 1 (2.125 if it were uniform).
        ((0.0, 0.5, 0.0, 0.0), 50, 50, (0.16, 0.16), (1 / 4, 4), (0, 0, 20, 20)),
        # Three quarters up the log range the aspect is 2: w = 28.3, h = 14.1.
        ((0.0, 0.75, 0.0, 0.0), 50, 50, (0.16, 0.16), (1 / 4, 4), (0, 0, 14, 28)),
        # At its lower end the box is four times as high as wide.
        ((0.0, 0.0, 0.0, 0.0), 50, 50, (0.16, 0.16), (1 / 4, 4), (0, 0, 40, 10)),
        # The area is uniform: half way between 0.04 and 0.28 is 0.16 of 2500.
        ((0.5, 0.0, 0.0, 0.0), 50, 50, (0.04, 0.28), (1, 1), (0, 0, 20, 20)),
        # The whole area at aspect 4 is 20 wide: cut to 10, not drawn again, height 5 stays.
        ((0.7, 0.7, 0.99, 0.99), 10, 10, (1, 1), (4, 4), (5, 0, 5, 10)),
        # 8 % of one pixel rounds to nothing: at least one pixel is left.
        ((0.0, 0.5, 0.9, 0.9), 1, 1, (0.08, 1), (3 / 4, 4 / 3), (0, 0, 1, 1)),
        # The last position, one pixel wide, is reached by the largest uniform and not overshot.
        ((0.0, 0.5, LARGEST, LARGEST), 3, 7, (0.01, 1), (1, 1), (2, 6, 1, 1)),
    ],
)
def test_boxes_by_hand(uniforms, height, width, area_range, aspect_range, box) -> None:
    boxes = random_resized_boxes(
        np.array(uniforms), height, width, area_range=area_range, aspect_range=aspect_range
    )
    assert boxes.dtype == np.int32
    assert boxes.tolist() == list(box)


def naive_box(uniforms, height: int, width: int) -> list[int]:
    u_area, u_aspect, u_y, u_x = uniforms
    area = height * width * (0.08 + 0.92 * u_area)
    aspect = 3 / 4 * (16 / 9) ** u_aspect
    w = max(1, min(width, round(math.sqrt(area * aspect))))
    h = max(1, min(height, round(math.sqrt(area / aspect))))
    return [int(u_y * (height - h + 1)), int(u_x * (width - w + 1)), h, w]


def test_boxes_of_many_sizes_equal_a_naive_loop() -> None:
    uniforms = np.random.default_rng(0).random((5, 40, 4))
    heights = np.array([8, 17, 32, 100, 375])[:, None]
    widths = np.arange(8, 48)
    boxes = random_resized_boxes(uniforms, heights, widths)
    assert boxes.shape == (5, 40, 4)
    for row in range(5):
        for column in range(40):
            expected = naive_box(uniforms[row, column], int(heights[row, 0]), int(widths[column]))
            assert boxes[row, column].tolist() == expected


@pytest.mark.parametrize("area_range", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_bad_area_ranges(area_range) -> None:
    with pytest.raises(UserError, match="area range"):
        random_resized_boxes(np.zeros(4), 8, 8, area_range=area_range)


@pytest.mark.parametrize("aspect_range", [(0.0, 1.0), (2.0, 1.0)])
def test_bad_aspect_ranges(aspect_range) -> None:
    with pytest.raises(UserError, match="aspect range"):
        random_resized_boxes(np.zeros(4), 8, 8, aspect_range=aspect_range)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (64, 64)])
def test_distribution_of_the_authors_code(height: int, width: int) -> None:
    """20,000 windows of the authors' code; 0.024 is the limit stated beside the data."""
    path = SHARED / "golden" / "crop_stats.npz"
    if not path.is_file():
        pytest.skip(f"optional local data: no {path} (set BYOL_SHARED)")
    boxes = random_resized_boxes(np.random.default_rng(1).random((20000, 4)), height, width)
    y, x, h, w = boxes.T.astype(np.float64)
    features = {
        "area_fraction": h * w / (height * width),
        "aspect_w_over_h": w / h,
        "height": h,
        "width": w,
        "offset_y": y,
        "offset_x": x,
    }
    with np.load(path) as golden:
        levels = golden["quantile_levels"]
        for name, values in features.items():
            quantiles = golden[f"{height}x{width}/quantiles/{name}"]
            values = np.sort(values)
            # Where many values are equal, any level between the two sides of the step fits.
            below = np.searchsorted(values, quantiles - 2e-5, "left") / len(values)
            upto = np.searchsorted(values, quantiles + 2e-5, "right") / len(values)
            distance = np.maximum(below - levels, levels - upto).max()
            assert distance <= 0.024, f"{name}: {distance:.3f}"
