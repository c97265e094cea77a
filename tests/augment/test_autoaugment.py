"""AutoAugment against its published policy, and against Pillow with torchvision's magnitudes."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from byol_jax.augment import autoaugment, randaugment

KEY = jax.random.key(7)
GREY = (128, 128, 128)

apply = jax.jit(randaugment.apply_operation)

# AutoAugment's appendix, the sub-policies 0 to 24 for ImageNet; a magnitude that its operation
# does not use is left out.
PUBLISHED = """
Posterize .4 8, Rotate .6 9; Solarize .6 5, AutoContrast .6; Equalize .8, Equalize .6
Posterize .6 7, Posterize .6 6; Equalize .4, Solarize .2 4; Equalize .4, Rotate .8 8
Solarize .6 3, Equalize .6; Posterize .8 5, Equalize 1; Rotate .2 3, Solarize .6 8
Equalize .6, Posterize .4 6; Rotate .8 8, Color .4 0; Rotate .4 9, Equalize .6
Equalize 0, Equalize .8; Invert .6, Equalize 1; Color .6 4, Contrast 1 8
Rotate .8 8, Color 1 2; Color .8 8, Solarize .8 7; Sharpness .4 7, Invert .6
ShearX .6 5, Equalize 1; Color .4 0, Equalize .6; Equalize .4, Solarize .2 4
Solarize .6 5, AutoContrast .6; Invert .6, Equalize 1; Color .6 4, Contrast 1 8
Equalize .8, Equalize .6
"""


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def pillow(levels, name, magnitude, sign):
    """torchvision's operation: its numbers of ten bins, on Pillow."""
    image = Image.fromarray(levels)
    share = sign * magnitude / 9
    enhance = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return enhance[name](image).enhance(1 + 0.9 * share)
    bits = [8, 8, 7, 7, 6, 6, 5, 5, 4, 4][magnitude]
    threshold = np.linspace(255, 0, 10)[magnitude]
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "solarize": lambda: ImageOps.solarize(image, threshold),
        "rotate": lambda: image.rotate(30 * share, fillcolor=GREY),
        "shear_x": lambda: image.transform(
            image.size, Image.Transform.AFFINE, (1, 0.3 * share, 0, 0, 1, 0), fillcolor=GREY
        ),
    }[name]()


def test_the_policy_is_the_published_one():
    pairs = [pair.split(",") for pair in PUBLISHED.strip().replace("\n", ";").split(";")]
    assert len(pairs) == len(autoaugment.POLICY) == 25
    for pair, entry in zip(pairs, autoaugment.POLICY, strict=True):
        assert len(pair) == len(entry) == 2
        for text, (name, probability, magnitude) in zip(pair, entry, strict=True):
            expected, chance, *level = text.split()
            assert name.replace("_", "") == expected.lower()
            assert (probability, magnitude) == (float(chance), int(*level))


def test_each_operation_of_the_policy_is_pillows():
    for name, magnitude in sorted({(n, m) for pair in autoaugment.POLICY for n, _, m in pair}):
        which, base, swing = autoaugment.layer_of(name, magnitude)
        for sign in (1, -1):
            for shape in ((32, 32), (23, 17), (1, 1)):
                levels = noise(shape)
                actual = apply(levels, which, base + sign * swing, float(sign), np.uint8(128))
                expected = np.asarray(pillow(levels, name, magnitude, sign), np.int64)
                # Pillow's cuts of whole numbers are off by one (test_randaugment.py).
                differ = np.abs(np.asarray(actual, np.int64) - expected)
                exact = name not in ("autocontrast", *randaugment.ENHANCEMENTS)
                assert differ.max() <= (0 if exact else 1), (name, magnitude, sign, shape)


def test_weakest_and_strongest():
    """Magnitude 0 does nothing; 9 is the end of the published range."""
    levels = noise((23, 17))
    for name in ("posterize", "color", "contrast", "sharpness", "rotate", "shear_x"):
        which, base, swing = autoaugment.layer_of(name, 0)
        out = apply(levels, which, base + swing, 1.0, np.uint8(0))
        np.testing.assert_array_equal(out, levels, err_msg=name)
    factor = [
        float(randaugment.enhancement_factor(base + sign * swing))
        for _, base, swing in [autoaugment.layer_of("color", 9)]
        for sign in (1, -1)
    ]
    np.testing.assert_allclose(factor, [1.9, 0.1], rtol=1e-6)
    which, base, _ = autoaugment.layer_of("posterize", 9)
    out = apply(levels, which, base, 1.0, np.uint8(0))
    np.testing.assert_array_equal(out, levels & 0b11110000)
    # All but the level 255 are left alone at 0, none at 9.
    for magnitude, expected in ((0, np.where(levels == 255, 0, levels)), (9, 255 - levels)):
        which, base, _ = autoaugment.layer_of("solarize", magnitude)
        out = apply(levels, which, base, 1.0, np.uint8(0))
        np.testing.assert_array_equal(out, expected)


@pytest.mark.slow
def test_an_image_is_its_pair_in_turn():
    augment = jax.jit(autoaugment.autoaugment)
    levels = noise((16, 16))
    changed = 0
    for seed in range(12):
        key = jax.random.key(seed)
        expected = levels
        for which, magnitude, sign in zip(*autoaugment.draw(key), strict=True):
            expected = apply(expected, which, magnitude, sign, np.uint8(128))
        out = augment(levels / np.float32(255), key)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, np.asarray(expected) / np.float32(255), atol=1e-6)
        changed += not np.array_equal(expected, levels)
    assert changed > 6


@pytest.fixture(scope="module")
def draws():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(25_000))
    which, magnitude, sign = jax.jit(jax.vmap(autoaugment.draw))(keys)
    return np.asarray(which), np.asarray(magnitude), np.asarray(sign)


def test_pairs_and_probabilities_are_those_of_the_policy(draws):
    """Frequencies of what the two operations are together, against the policy's."""
    expected = collections.Counter()
    for pair in autoaugment.POLICY:
        (first, p), (second, q) = (
            (autoaugment.layer_of(name, magnitude).which, probability)
            for name, probability, magnitude in pair
        )
        for one, chance in ((first, p), (0, 1 - p)):
            for two, other_chance in ((second, q), (0, 1 - q)):
                expected[one, two] += chance * other_chance / 25
    which = draws[0]
    drawn = collections.Counter(map(tuple, which.tolist()))
    assert drawn.keys() <= {key for key, chance in expected.items() if chance > 0}
    for key, chance in expected.items():
        # Five standard deviations.
        error = 5 * np.sqrt(chance * (1 - chance) / len(which)) + 1e-9
        assert abs(drawn[key] / len(which) - chance) < error, key


def test_signs_are_even_and_swing_enhancements_alone(draws):
    which, magnitude, sign = draws
    assert set(np.unique(sign)) == {-1.0, 1.0}
    assert abs((sign > 0).mean() - 0.5) < 0.02
    contrast = which == randaugment.OPERATIONS.index("contrast")
    # Magnitude 8 of 9: a factor of 1 + 0.8 or 1 - 0.8.
    factor = np.asarray(randaugment.enhancement_factor(magnitude[contrast]))
    np.testing.assert_allclose(factor, 1 + 0.8 * sign[contrast], atol=1e-5)
    assert (sign[contrast] > 0).any() and (sign[contrast] < 0).any()
    rotated = which == randaugment.OPERATIONS.index("rotate")
    assert set(np.round(np.unique(magnitude[rotated]) * 0.9, 4)) == {3, 8, 9}
