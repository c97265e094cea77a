"""The composition of App. C: what each probability does, and what a key depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.augment import byol, compose
from byol_jax.augment.compose import AugmentParams

NONE = AugmentParams(flip=0.0, color_jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(np.random.default_rng(0).random((20, 20, 3)), jnp.float32)


@pytest.fixture(scope="module")
def make_view():
    return jax.jit(compose.make_view)


def test_nothing_applied_is_the_image(image, make_view):
    np.testing.assert_array_equal(make_view(image, KEY, NONE), image)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip": 1.0}, lambda x: x[:, ::-1]),
        ({"grayscale": 1.0}, lambda x: (x @ np.array([0.2989, 0.5870, 0.1140]))[..., None]),
        ({"solarize": 1.0}, lambda x: np.where(x < 0.5, x, 1 - x)),
        ({"solarize": 1.0, "solarize_threshold": 0.2}, lambda x: np.where(x < 0.2, x, 1 - x)),
        # Jitter of strength 0 goes to HSV and back.
        (
            {
                "color_jitter": 1.0,
                "brightness_max": 0.0,
                "contrast_max": 0.0,
                "saturation_max": 0.0,
                "hue_max": 0.0,
            },
            lambda x: x,
        ),
    ],
)
def test_each_operation_alone(image, make_view, change, expected):
    view = make_view(image, KEY, NONE._replace(**change))
    value = np.broadcast_to(expected(np.asarray(image, np.float64)), view.shape)
    np.testing.assert_allclose(view, value, atol=2e-6)


def test_blur_is_a_normalised_gaussian_with_zeros_outside(image, make_view):
    sigma = 1.3
    view = make_view(
        image, KEY, NONE._replace(blur=1.0, blur_sigma_min=sigma, blur_sigma_max=sigma)
    )
    x = np.asarray(image, np.float64)  # 20 pixels: radius 1, three taps
    weights = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = np.zeros_like(x)
    for i in range(20):
        for j in range(20):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < 20 and 0 <= j + dj < 20:
                        weight = weights[di + 1] * weights[dj + 1]
                        expected[i, j] += weight * x[i + di, j + dj]
    np.testing.assert_allclose(view, expected, atol=2e-6)


def test_jitter_clips_after_each_operation():
    image = jnp.full((4, 4, 3), 0.8)
    amounts = jnp.array([0.4, 1.0, 1.0, 0.0])
    # Brightness first is cut at 1. (Uncut, grey 1.2 would stay 1.2 up to the end.)
    out = byol.color_jitter(image, amounts, jnp.array([0, 1, 2, 3]))
    np.testing.assert_allclose(out, 1.0, atol=1e-6)
    # Two opposite brightness steps show the order: cut, then darker.
    out = byol.color_jitter(out, amounts.at[0].set(-0.3), jnp.array([3, 2, 1, 0]))
    np.testing.assert_allclose(out, 0.7, atol=1e-6)


def test_a_view_depends_on_its_own_key_alone():
    images = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), np.uint8)
    ids, epochs = np.arange(6, dtype=np.int32), np.zeros(6, np.int32)
    views = jax.jit(compose.make_views, static_argnums=4)(
        images, ids, epochs, KEY, 1, AugmentParams()
    )
    order = np.array([4, 1, 5])
    some = compose.make_views(images[order], ids[order], epochs[order], KEY, 1, AugmentParams())
    np.testing.assert_allclose(some, views[order], atol=1e-5)
    for changed in (
        compose.make_views(images, ids, epochs, KEY, 2, AugmentParams()),
        compose.make_views(images, ids, epochs + 1, KEY, 1, AugmentParams()),
        compose.make_views(images, ids + 6, epochs, KEY, 1, AugmentParams()),
    ):
        assert float(jnp.abs(changed - views).max()) > 0.1


def test_normalisation_of_imagenet():
    out = byol.normalize(byol.to_float(np.full((1, 2, 2, 3), 255, np.uint8)))
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(out[0, 0, 0], expected, rtol=1e-6)
