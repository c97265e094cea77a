"""The compiled resize against TensorFlow's; tests/data/test_crops.py has the naive loop."""

import numba
import numpy as np
import pytest

from byol_jax.data import bicubic, tensorflow

# A value near 300 is rounded to 2**-15 after each of some ten operations.
ROUNDING = 10 * 2**-15


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def resized(image: np.ndarray, *shape: int, dtype=np.float32, **settings) -> np.ndarray:
    out = np.empty((*shape, 3), dtype)
    bicubic.resize(image, out, **settings)
    return out


def tensorflow_resize(image: np.ndarray, *shape: int) -> np.ndarray:
    """What the authors' `tf.image.resize(..., "bicubic")` computes."""
    tf = tensorflow.import_tensorflow()
    return tf.image.resize(image, shape, "bicubic").numpy()


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        *(((1, 1), (5, 3)), ((1, 9), (4, 4)), ((2, 3), (31, 7)), ((3, 2), (1, 1))),
        *(((97, 130), (224, 224)), ((375, 500), (224, 224)), ((224, 224), (224, 224))),
    ],
)
def test_resize_equals_tensorflow(shape, to):
    image = pixels(*shape)
    expected = tensorflow_resize(image, *to)
    np.testing.assert_allclose(resized(image, *to), expected, rtol=0, atol=ROUNDING)
    levels = resized(image, *to, dtype=np.uint8)
    assert np.abs(levels - np.clip(expected, 0, 255)).max() <= 0.5 + ROUNDING


def test_uint8_is_clipped_and_rounded_to_even():
    """Between 0 and 1, in the middle: 0.5; beside a step, -16.7 and 271.7."""
    ramp = np.arange(4, dtype=np.uint8)[:, None, None].repeat(3, 2)
    (value,) = resized(ramp, 1, 1, window=(0, 0, 2, 1), to=(1, 1))[0, 0, :1]
    assert value == 0.5
    assert resized(ramp, 1, 1, dtype=np.uint8, window=(0, 0, 2, 1), to=(1, 1))[0, 0, 0] == 0
    assert resized(ramp, 1, 1, dtype=np.uint8, window=(1, 0, 2, 1), to=(1, 1))[0, 0, 0] == 2
    step = np.repeat(np.array([0, 255], np.uint8), 4)[:, None, None].repeat(3, 2)
    values, levels = resized(step, 16, 1), resized(step, 16, 1, dtype=np.uint8)
    assert values.min() < -10 and values.max() > 265
    assert np.array_equal(levels, np.rint(np.clip(values, 0, 255)).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_window_and_a_part_of_it(dtype):
    """As if the window were cut out first and the part last."""
    image = pixels(40, 50)
    whole = resized(image[7:29, 11:42], 30, 37, dtype=dtype)
    settings = {"window": (7, 11, 22, 31), "to": (30, 37)}
    assert np.array_equal(resized(image, 30, 37, dtype=dtype, **settings), whole)
    part = resized(image, 12, 9, dtype=dtype, **settings, corner=(17, 28))
    assert np.array_equal(part, whole[17:29, 28:37])


def test_any_layout_of_memory():
    image = pixels(20, 31)
    expected = resized(image, 16, 16)
    frozen = image.copy()
    frozen.flags.writeable = False
    turned = np.ascontiguousarray(image.swapaxes(0, 1)).swapaxes(0, 1)
    for other in (frozen, turned, np.pad(image, ((1, 2), (3, 1), (0, 0)))[1:-2, 3:-1]):
        assert np.array_equal(resized(other, 16, 16), expected)


def test_one_type_of_argument_is_compiled_for_each_result():
    for dtype in (np.uint8, np.float32):
        resized(pixels(5, 5), 3, 3, dtype=dtype)
    assert len(bicubic._resize.signatures) == 2


def test_without_a_writable_cache(monkeypatch):
    """numba refuses to decorate when it finds no folder for its cache."""
    compile_ = numba.njit

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert bicubic.compiled(lambda x: x + 1)(2) == 3
