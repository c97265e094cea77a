"""RandAugment against Pillow, level by level, and what its draws depend on.

Two things are not left to Pillow, whose numbers depend on how its floats are rounded: where the
exact value of a stretched or blended level is a whole number, Pillow may land below it and cut to
the level before. Those are compared with whole-number arithmetic, and with Pillow up to that.
"""

import collections
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from byol_jax.augment import randaugment
from byol_jax.errors import UserError

KEY = jax.random.key(3)
GREY = (128, 128, 128)
MAGNITUDES = range(11)
# Square; not square with an odd side; thinner than the window of sharpness; a pixel.
SHAPES = ((32, 32), (23, 40), (2, 5), (1, 1))
ENHANCE = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}

jitted = jax.jit(randaugment.apply_operation)


def apply_to(levels, name, magnitude, sign=1, fill=GREY):
    which = randaugment.OPERATIONS.index(name)
    out = jitted(levels, which, float(magnitude), float(sign), np.array(fill, np.uint8))
    assert out.dtype == np.uint8
    return np.asarray(out)


def pillow(levels, name, magnitude, sign=1):
    """What Pillow makes of it, with the released code's meaning of a magnitude."""
    image = Image.fromarray(levels)
    height, width, _ = levels.shape
    strength = sign * magnitude / 10

    def transform(*coefficients):
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=GREY)

    def posterize():
        bits = int(magnitude / 10 * 4)
        # Pillow refuses 0 bits, which leave nothing.
        return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)

    operations = {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(30 * strength, fillcolor=GREY),
        "solarize": lambda: ImageOps.solarize(image, int(magnitude / 10 * 256)),
        "posterize": posterize,
        "shear_x": lambda: transform(1, 0.3 * strength, 0, 0, 1, 0),
        "shear_y": lambda: transform(1, 0, 0, 0.3 * strength, 1, 0),
        "translate_x": lambda: transform(1, 0, strength * width * 100 / 224, 0, 1, 0),
        "translate_y": lambda: transform(1, 0, 0, 0, 1, strength * height * 100 / 224),
    }
    if name in ENHANCE:
        return np.asarray(ENHANCE[name](image).enhance(0.1 + 0.18 * magnitude))
    return np.asarray(operations[name]())


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def dull(shape, seed=0):
    """Levels of a narrow range, another one in each channel."""
    values = np.random.default_rng(seed).normal((60, 120, 200), (15, 25, 8), (*shape, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def pictures(shape):
    return [noise(shape), dull(shape), *(dull(shape, seed) // 3 + 80 for seed in range(1, 4))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name",
    [
        *("identity", "equalize", "solarize", "posterize"),
        *("shear_x", "shear_y", "translate_x", "translate_y"),
    ],
)
def test_operations_equal_those_of_pillow(name, shape):
    for levels in pictures(shape)[:2]:
        for magnitude in MAGNITUDES:
            for sign in (1, -1):
                np.testing.assert_array_equal(
                    apply_to(levels, name, magnitude, sign), pillow(levels, name, magnitude, sign)
                )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ENHANCE)
def test_enhancements_are_exact_and_pillows_up_to_whole_numbers(name, shape):
    for levels in pictures(shape)[:2]:
        start = np.asarray(ENHANCE[name](Image.fromarray(levels)).degenerate, np.int64)
        for magnitude in MAGNITUDES:
            out = apply_to(levels, name, magnitude).astype(np.int64)
            # The factor is a whole number of hundredths.
            hundredths = 100 * start + (10 + 18 * magnitude) * (levels - start)
            np.testing.assert_array_equal(out, np.clip(hundredths // 100, 0, 255))
            above = out - pillow(levels, name, magnitude)
            assert np.isin(above, (0, 1)).all()
            assert (hundredths[above == 1] % 100 == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_autocontrast_is_exact_and_pillows_up_to_whole_numbers(shape):
    for levels in pictures(shape):
        whole = levels.astype(np.int64)
        low, high = whole.min((0, 1)), whole.max((0, 1))
        spread = np.where(high > low, high - low, 1)
        expected = np.where(high > low, 255 * (whole - low) // spread, whole)
        for magnitude in (0, 7):
            out = apply_to(levels, "autocontrast", magnitude).astype(np.int64)
            np.testing.assert_array_equal(out, expected)
        above = out - pillow(levels, "autocontrast", 0)
        assert np.isin(above, (0, 1)).all()
        assert ((255 * (whole - low) % spread)[above == 1] == 0).all()


def test_rotation_is_pillows_up_to_single_pixels():
    # A picture of its own coordinates, with blue for "inside".
    rows, columns = np.mgrid[:224, :224]
    levels = np.stack([columns, rows, np.full_like(rows, 255)], -1).astype(np.uint8)
    for magnitude in MAGNITUDES:
        for sign in (1, -1):
            out = apply_to(levels, "rotate", magnitude, sign).astype(np.int64)
            expected = pillow(levels, "rotate", magnitude, sign).astype(np.int64)
            # Sines in float32 move the fixed-point positions by a few 1/65536 of a pixel: a
            # position on the line between two pixels may fall to the other one.
            differ = (out != expected).any(-1)
            assert differ.mean() < 1e-4
            inside = differ & (out[..., 2] == 255) & (expected[..., 2] == 255)
            assert (np.abs(out - expected)[inside] <= 1).all()


@pytest.mark.parametrize("shape", [(23, 40), (2, 5), (1, 1)])
def test_rotation_of_small_images_is_pillows(shape):
    for magnitude in MAGNITUDES:
        for sign in (1, -1):
            levels = noise(shape)
            out = apply_to(levels, "rotate", magnitude, sign)
            np.testing.assert_array_equal(out, pillow(levels, "rotate", magnitude, sign))


def test_what_magnitude_9_means_at_224_pixels():
    levels = noise((224, 224))
    image = Image.fromarray(levels)

    def check(name, expected, sign=1):
        np.testing.assert_array_equal(apply_to(levels, name, 9, sign), np.asarray(expected))

    def affine(*coefficients):
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=GREY)

    check("rotate", image.rotate(27, fillcolor=GREY))
    check("rotate", image.rotate(-27, fillcolor=GREY), -1)
    check("shear_x", affine(1, 0.27, 0, 0, 1, 0))
    check("shear_y", affine(1, 0, 0, -0.27, 1, 0), -1)
    grey = np.full((224, 90, 3), 128, np.uint8)
    check("translate_x", np.concatenate([levels[:, 90:], grey], 1))
    check("translate_x", np.concatenate([grey, levels[:, :-90]], 1), -1)
    check("translate_y", np.concatenate([levels[90:], grey.swapaxes(0, 1)]))
    check("posterize", levels & 0b11100000)
    check("solarize", np.where(levels < 230, levels, 255 - levels))
    check("brightness", np.minimum(levels.astype(int) * 172 // 100, 255))
    for name in ENHANCE:
        # Without a random sign.
        np.testing.assert_array_equal(apply_to(levels, name, 9, -1), apply_to(levels, name, 9))


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [
        *(("identity", m) for m in (0, 9)),
        *((name, 0) for name in randaugment.GEOMETRIC),
        *((name, 5) for name in ENHANCE),
        *(("solarize", m) for m in (10, 28)),
        *(("posterize", m) for m in (20, 28)),
    ],
)
def test_magnitudes_that_change_nothing(name, magnitude):
    for shape in SHAPES:
        for sign in (1, -1):
            np.testing.assert_array_equal(
                apply_to(noise(shape), name, magnitude, sign), noise(shape)
            )


def test_magnitude_0_of_the_others():
    levels = noise((23, 40))
    np.testing.assert_array_equal(apply_to(levels, "posterize", 0), 0 * levels)
    np.testing.assert_array_equal(apply_to(levels, "solarize", 0), 255 - levels)
    np.testing.assert_array_equal(apply_to(levels, "brightness", 0), levels // 10)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_one_level_stays(name):
    for level in (0, 77, 255):
        levels = np.full((32, 32, 3), level, np.uint8)
        np.testing.assert_array_equal(apply_to(levels, name, 9), levels)
        # One channel does not care about the others.
        levels = noise((32, 32))
        levels[..., 1] = level
        out = apply_to(levels, name, 9)
        np.testing.assert_array_equal(out, pillow(levels, name, 9))
        np.testing.assert_array_equal(out[..., 1], level)


def test_two_levels_become_black_and_white():
    levels = np.full((32, 32, 3), 90, np.uint8)
    levels[3, 4] = 93
    expected = np.where(levels == 93, 255, 0)
    np.testing.assert_array_equal(apply_to(levels, "autocontrast", 9), expected)
    np.testing.assert_array_equal(apply_to(levels, "equalize", 9), expected)


def test_equalize_by_hand():
    # 255 pixels below the highest level: a step is one pixel, and half a step none.
    counts = [100, 55, 100, 769]
    channel = np.repeat([10, 20, 30, 40], counts).astype(np.uint8)
    out = apply_to(np.stack([channel.reshape(32, 32)] * 3, -1), "equalize", 9)
    np.testing.assert_array_equal(out[..., 2].ravel(), np.repeat([0, 100, 155, 255], counts))
    # With 254 a step is no pixel, and nothing is done.
    channel[0] = 40
    levels = np.stack([channel.reshape(32, 32)] * 3, -1)
    np.testing.assert_array_equal(apply_to(levels, "equalize", 9), levels)


def test_outside_is_the_fill():
    levels = noise((23, 40))
    out = apply_to(levels, "translate_x", 10, 1, (7, 8, 9))
    # 40 * 100 / 224 = 17.9 pixels to the left.
    np.testing.assert_array_equal(out[:, 22:], np.broadcast_to([7, 8, 9], (23, 18, 3)))
    np.testing.assert_array_equal(out[:, :22], levels[:, 18:])


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


def test_a_layer_reads_the_image_a_bounded_number_of_times():
    """A batch evaluates all that is there: no branches, one warp, one histogram, one look-up."""
    batch = jnp.zeros((2, 16, 20, 3), jnp.uint8)
    which = jnp.zeros(2, jnp.int32)
    mapped = jax.vmap(randaugment.apply_operation, (0, 0, None, None, None))
    jaxpr = jax.make_jaxpr(mapped)(batch, which, 9.0, 1.0, jnp.uint8(128))
    traced = list(equations(jaxpr.jaxpr))
    large = [e for e in traced if e.outvars[0].aval.size >= batch.size]
    count = collections.Counter(e.primitive.name for e in large)
    assert count["gather"] == 2
    names = collections.Counter(e.primitive.name for e in traced)
    assert names["scatter-add"] == 1
    assert names["cond"] == names["sort"] == names["while"] == 0


def test_operations_are_uniform_and_independent_of_layer_and_sign():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(19600))
    draw = jax.jit(jax.vmap(jax.vmap(randaugment.draw_operation, (None, 0)), (0, None)))
    which, sign = (np.asarray(x) for x in draw(keys, jnp.arange(2)))
    assert set(np.unique(sign)) == {-1.0, 1.0}
    # Cells of (first, second) and of (operation, sign) against equal frequencies: chi-square
    # with 195 and 27 degrees of freedom, beyond 263 and 56 once in 1000.
    for cells, number, limit in (
        (which[:, 0] * 14 + which[:, 1], 196, 263),
        (which[:, 1] * 2 + (sign[:, 1] > 0), 28, 56),
        (which[:, 0] * 2 + (sign[:, 1] > 0), 28, 56),
    ):
        counts = np.bincount(cells.astype(int), minlength=number)
        assert counts.size == number
        mean = keys.size / number
        assert ((counts - mean) ** 2 / mean).sum() < limit


@pytest.fixture(scope="module")
def augment():
    jitted_image = jax.jit(randaugment.randaugment, static_argnums=3)

    def augment(image, key, magnitude=9, number=2, fill=128 / 255):
        return jitted_image(image, key, float(magnitude), number, fill)

    augment.compiled = jitted_image._cache_size
    return augment


@pytest.mark.parametrize(("number", "magnitude"), [(2, 9), (4, 4)])
def test_an_image_is_its_layers_in_turn(augment, number, magnitude):
    levels = noise((32, 32))
    for seed in range(8):
        key = jax.random.key(seed)
        expected = levels
        for layer in range(number):
            which, sign = randaugment.draw_operation(key, layer)
            name = randaugment.OPERATIONS[int(which)]
            expected = apply_to(expected, name, magnitude, int(sign))
        out = augment(levels / np.float32(255), key, magnitude, number)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, expected / 255, atol=1e-7)


def test_defaults_are_those_of_resnet_50_on_grey():
    parameters = inspect.signature(randaugment.randaugment).parameters
    defaults = {name: parameters[name].default for name in ("magnitude", "num_layers", "fill")}
    assert defaults == {"magnitude": 9, "num_layers": 2, "fill": 128 / 255}


def test_images_are_rounded_to_levels(augment):
    image = np.full((32, 32, 3), 100.4 / 255, np.float32)
    np.testing.assert_allclose(augment(image, KEY, number=0), 100 / 255, rtol=1e-6)
    np.testing.assert_allclose(augment(image + 0.2 / 255, KEY, number=0), 101 / 255, rtol=1e-6)


def test_magnitude_and_fill_are_traced(augment):
    image = noise((32, 32)) / np.float32(255)
    first = augment(image, KEY)
    compiled = augment.compiled()
    assert not np.array_equal(augment(image, KEY, 3, fill=0.0), first)
    assert augment.compiled() == compiled


def test_a_negative_number_of_layers_is_refused():
    with pytest.raises(UserError, match="num_layers=-1"):
        randaugment.randaugment(jnp.zeros((4, 4, 3)), KEY, 9.0, -1)
