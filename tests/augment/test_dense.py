"""The colours of depth (BYOL App. E.6): their draws, order and ranges."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys
from byol_jax.augment import compose, dense
from byol_jax.augment.byol import IMAGENET_MEAN, IMAGENET_STD

NONE = dense.DepthColours(0.0, 0.0, 0.0, 0.0)


def picture() -> np.ndarray:
    return np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)


def drawn(key: jax.Array, name: str, low: float, high: float) -> float:
    return float(jax.random.uniform(keys.named(key, name), minval=low, maxval=high))


def naive(image: np.ndarray, key: jax.Array, params: dense.DepthColours) -> np.ndarray:
    """The transformations in the order of App. E.6, pixel by pixel with Python's colour model."""
    out = image.astype(float)
    if drawn(key, "grayscale", 0, 1) < params.grayscale:
        out = np.repeat(out @ [[0.2989], [0.5870], [0.1140]], 3, axis=-1)
    offset = drawn(key, "brightness", -params.brightness_max, params.brightness_max)
    out = np.clip(out + offset, 0, 1)
    factor = drawn(key, "saturation", 1 - params.saturation_max, 1 + params.saturation_max)
    turns = drawn(key, "hue", -params.hue_max, params.hue_max)
    for pixel in out.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixel[:] = colorsys.hsv_to_rgb((hue + turns) % 1, min(saturation * factor, 1), value)
    return out


def test_colours_are_changed_in_the_order_of_the_paper() -> None:
    recolour, params = jax.jit(dense.recolour), dense.DepthColours()
    greys = 0
    for seed in range(12):
        key = jax.random.key(seed)
        found = np.asarray(recolour(picture(), key, params))
        # 1 of 255 levels is 4e-3; single precision through hue and back is well below.
        np.testing.assert_allclose(found, naive(picture(), key, params), atol=1e-5)
        greys += bool(np.ptp(found, axis=-1).max() < 1e-6)
    assert 0 < greys < 12


def test_without_strength_nothing_changes() -> None:
    found = dense.recolour(jnp.asarray(picture()), jax.random.key(0), NONE)
    np.testing.assert_allclose(found, picture(), atol=1e-6)


def test_each_image_has_its_own_key_and_is_normalised() -> None:
    images = np.broadcast_to(np.rint(picture() * 255).astype(np.uint8), (3, 5, 7, 3))
    ids, epochs = np.array([4, 4, 9], np.int32), np.array([0, 1, 0], np.int32)
    seed_key = keys.named_key(3, "augment")
    found = np.asarray(jax.jit(dense.depth_inputs)(images, ids, epochs, seed_key))
    for row in range(3):
        key = compose.example_key(seed_key, ids[row], epochs[row], 1)
        wanted = naive(images[row] / 255, key, dense.DepthColours())
        wanted = (wanted - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        np.testing.assert_allclose(found[row], wanted, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.01
