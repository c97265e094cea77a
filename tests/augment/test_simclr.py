"""SimCLR's further operations against naive loops, Pillow, and images worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from byol_jax.augment import boxes, simclr
from byol_jax.data import crops
from byol_jax.errors import UserError

KEY = jax.random.key(3)
# Odd and not square; small; a pixel.
SHAPES = ((13, 9), (8, 8), (1, 1))

sobel = jax.jit(simclr.sobel)


def picture(shape, seed=0):
    return np.random.default_rng(seed).random((*shape, 3)).astype(np.float32)


def keys_kernel(distance):
    """Cubic interpolation of Keys, a = -1/2, written from its definition."""
    a, x = -0.5, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resized(values, size):
    """One axis of a box `[n, ...]`, stretched to `size`: no pixel outside of it plays a part."""
    count = len(values)
    out = []
    for i in range(size):
        place = (i + 0.5) * count / size - 0.5
        weights = np.array([keys_kernel(place - j) for j in range(count)])
        out.append(np.tensordot(weights / weights.sum(), values, 1))
    return np.stack(out)


@pytest.fixture(scope="module")
def crop():
    return jax.jit(simclr.random_resized_crop)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_the_box_resized(crop, shape):
    height, width = shape
    image = picture(shape)
    for uniforms in np.random.default_rng(1).random((6, 4)).astype(np.float32):
        y, x, h, w = boxes.random_resized_boxes(uniforms, height, width)
        rows = resized(image[y : y + h, x : x + w].astype(np.float64), height)
        expected = resized(rows.swapaxes(0, 1), width).swapaxes(0, 1)
        np.testing.assert_allclose(crop(image, uniforms), np.clip(expected, 0, 1), atol=2e-6)


@pytest.mark.slow
def test_crop_is_that_of_the_input_pipeline(crop):
    levels = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    for uniforms in np.random.default_rng(3).random((4, 4)).astype(np.float32):
        box = boxes.random_resized_boxes(uniforms, 32, 32)
        expected = crops.place(levels, crops.box_placement(box, 32), 32, dtype=np.float32)
        actual = crop(levels / np.float32(255), uniforms)
        # Its weights come from a table of 1024.
        np.testing.assert_allclose(actual, np.clip(expected, 0, 255) / 255, atol=4e-3)


def test_ranges_of_the_crop_are_traced(crop):
    image = picture((12, 12))
    whole = crop(image, np.full(4, 0.3, np.float32), (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(whole, image, atol=1e-6)
    compiled = crop._cache_size()
    # A quarter of the area at aspect 1: 6 x 6 pixels, at the 4th of 7 positions.
    quarter = crop(image, np.full(4, 0.5, np.float32), (0.25, 0.25), (1.0, 1.0))
    assert crop._cache_size() == compiled
    rows = resized(image[3:9, 3:9].astype(np.float64), 12)
    expected = resized(rows.swapaxes(0, 1), 12).swapaxes(0, 1)
    np.testing.assert_allclose(quarter, np.clip(expected, 0, 1), atol=2e-6)


def test_boxes_on_the_device_follow_the_rule_of_the_host():
    uniforms = np.random.default_rng(4).random((3000, 4)).astype(np.float32)
    actual = jax.jit(lambda u: boxes.box_rule(jnp, u, 48, 40))(uniforms)
    assert actual.dtype == jnp.int32
    differ = (np.asarray(actual) != boxes.random_resized_boxes(uniforms, 48, 40)).any(-1)
    # A side on the line between two whole numbers may be rounded to the other one.
    assert differ.mean() < 1e-3
    # The largest uniform reaches the last position, and not the one behind it.
    for size in range(1, 300):
        last = boxes.box_rule(jnp, jnp.full(4, 1 - 2.0**-24), size, size, (1e-6, 1e-6), (1.0, 1.0))
        assert last.tolist() == [size - 1, size - 1, 1, 1]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_quarters(size):
    image = picture((size, size))
    rotate = jax.jit(simclr.rotate_quarters)
    for turns in range(4):
        expected = np.empty_like(image)
        for i in range(size):
            for j in range(size):
                # A quarter counterclockwise takes the last column to the first row.
                row, column = i, j
                for _ in range(turns):
                    row, column = size - 1 - column, row
                expected[row, column] = image[i, j]
        np.testing.assert_array_equal(rotate(image, turns), expected)


def test_quarters_need_a_square():
    with pytest.raises(UserError, match="4x5"):
        simclr.rotate_quarters(jnp.zeros((4, 5, 3)), jnp.int32(1))


@pytest.mark.parametrize("shape", [(32, 32), (17, 40), (8, 8), (1, 1)])
def test_equalize_is_pillows(shape):
    dull = np.random.default_rng(0).normal((60, 120, 200), (15, 25, 8), (*shape, 3))
    levels = np.clip(dull, 0, 255).astype(np.uint8)
    out = jax.jit(simclr.equalize)(levels / np.float32(255))
    expected = np.asarray(ImageOps.equalize(Image.fromarray(levels)))
    np.testing.assert_allclose(np.asarray(out) * 255, expected, atol=1e-4)
    if math.prod(shape) > 255:
        assert not np.array_equal(expected, levels)


@pytest.mark.parametrize(("shape", "radius"), [((13, 9), 2), ((8, 8), 3), ((1, 1), 1), ((5, 5), 0)])
def test_motion_blur_is_a_mean_along_a_line(shape, radius):
    height, width = shape
    image = picture(shape)
    blur = jax.jit(simclr.motion_blur, static_argnums=2)
    for degrees in (0, 20, 90, 115):
        angle = np.deg2rad(degrees)
        expected = np.zeros(image.shape)
        for i in range(height):
            for j in range(width):
                for step in range(-radius, radius + 1):
                    row, column = (
                        i - round(step * math.sin(angle)),
                        j + round(step * math.cos(angle)),
                    )
                    if 0 <= row < height and 0 <= column < width:
                        expected[i, j] += image[row, column] / (2 * radius + 1)
        np.testing.assert_allclose(blur(image, np.float32(angle), radius), expected, atol=1e-6)


def test_motion_blur_of_a_point_by_hand():
    image = np.zeros((5, 5, 3), np.float32)
    image[2, 2] = 0.9
    level = np.asarray(simclr.motion_blur(image, 0.0, 1))[..., 0]
    np.testing.assert_allclose(level[2], [0, 0.3, 0.3, 0.3, 0], atol=1e-6)
    assert level[[0, 1, 3, 4]].max() == 0
    # 45 degrees counterclockwise: from the lower left to the upper right.
    slanted = np.asarray(simclr.motion_blur(image, np.pi / 4, 1))[..., 1]
    np.testing.assert_allclose(slanted, 0.3 * np.diag([0, 1, 1, 1, 0])[::-1], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_sobel_is_a_naive_loop(shape):
    image = picture(shape)
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    height, width = shape
    expected = np.empty(image.shape)
    for i in range(height):
        for j in range(width):
            rows = np.clip([i - 1, i, i + 1], 0, height - 1)
            columns = np.clip([j - 1, j, j + 1], 0, width - 1)
            patch = image[np.ix_(rows, columns)].astype(np.float64)
            gradients = [np.tensordot(mask, patch) for mask in (across, across.T)]
            expected[i, j] = np.minimum(np.hypot(*gradients) / 4, 1)
    np.testing.assert_allclose(sobel(image), expected, atol=1e-6)


def test_sobel_of_edges_by_hand():
    step = np.zeros((4, 6, 3), np.float32)
    step[:, 3:, 1] = 1
    # A step from black to white is 1 on both of its sides; other channels see nothing.
    out = np.asarray(sobel(step))
    np.testing.assert_array_equal(out[..., 1], [[0, 0, 1, 1, 0, 0]] * 4)
    assert out[..., [0, 2]].max() == 0
    # On a slanted edge the gradient is (3, 3) of 4: cut at 1.
    slanted = np.tri(6, dtype=np.float32)[..., None] * np.ones(3, np.float32)
    assert np.asarray(sobel(slanted)).max() == 1


def test_noise_is_added_and_cut():
    image = np.array([0.1, 0.5, 0.9], np.float32) * np.ones((2, 2, 1), np.float32)
    noise = np.array([-2.0, 1.0, 2.0], np.float32) * np.ones((2, 2, 1), np.float32)
    out = jax.jit(simclr.gaussian_noise)(image, noise)
    np.testing.assert_allclose(out, np.broadcast_to([0, 0.6, 1], (2, 2, 3)), atol=1e-6)
    weaker = jax.jit(simclr.gaussian_noise)(image, noise, 0.01)
    np.testing.assert_allclose(weaker, np.broadcast_to([0.08, 0.51, 0.92], (2, 2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "uniforms", "share", "rows", "columns"),
    [
        # Half of 8 pixels, around the pixel (4, 4): two before it, itself, one behind.
        ((8, 8), (0.5, 0.5), 0.5, (2, 6), (2, 6)),
        # In the corners it sticks out.
        ((8, 8), (0.0, 0.99), 0.5, (0, 2), (5, 8)),
        # The shorter side counts: 4 of 9, around row 6 of 13 and column 0.
        ((13, 9), (0.5, 0.0), 4 / 9, (4, 8), (0, 2)),
        # An odd side has its pixel in the middle.
        ((9, 9), (0.5, 0.5), 1 / 3, (3, 6), (3, 6)),
        ((9, 9), (0.5, 0.5), 0.0, (0, 0), (0, 0)),
        ((1, 1), (0.9, 0.1), 1.0, (0, 1), (0, 1)),
        # Half a pixel is rounded to none.
        ((1, 1), (0.9, 0.1), 0.5, (0, 0), (0, 0)),
    ],
)
def test_cutout_by_hand(shape, uniforms, share, rows, columns):
    image, fill = picture(shape), np.array([0.2, 0.4, 0.6], np.float32)
    expected = image.copy()
    expected[rows[0] : rows[1], columns[0] : columns[1]] = fill
    actual = jax.jit(simclr.cutout)(image, np.array(uniforms, np.float32), fill, share)
    np.testing.assert_array_equal(actual, expected)


def test_cutout_covers_half_the_side_by_default():
    image = np.zeros((8, 8, 3), np.float32)
    out = np.asarray(simclr.cutout(image, jnp.array([0.5, 0.5]), jnp.ones(3)))
    assert out[..., 0].sum() == 16
