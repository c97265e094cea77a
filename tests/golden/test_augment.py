"""Augmentations: each operation, recorded sequences, and the distribution of views."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_data
from byol_jax.augment import byol, compose
from byol_jax.runtime import spmd
from experiments import base

Operation = Callable[..., jax.Array]

OPERATIONS: Mapping[str, Operation] = {
    "brightness": byol.adjust_brightness,
    "contrast": byol.adjust_contrast,
    "saturation": byol.adjust_saturation,
    "hue": byol.adjust_hue,
    "blur": byol.gaussian_blur,
    "solarize": byol.solarize,
    "grayscale": byol.to_grayscale,
    "flip": lambda image: image[:, ::-1],
    "rgb_to_hsv": byol.rgb_to_hsv,
    "hsv_to_rgb": lambda image: byol.hsv_to_rgb(byol.rgb_to_hsv(image)),
}


def operation(name: str) -> Callable[[jax.Array], jax.Array]:
    """`contrast/0.61` or `grayscale` as a function of one image."""
    op, *parameters = name.split("/")
    return lambda image: OPERATIONS[op](image, *map(float, parameters))


def names_under(golden: golden_data.Golden, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in golden.arrays if key.startswith(prefix)]


def small_images(golden: golden_data.Golden, runner: str) -> golden_data.Results:
    """The `op32` arrays, on one device or on two."""
    names = names_under(golden, "op32/")

    def apply_all(images: jax.Array) -> dict[str, jax.Array]:
        floats = byol.to_float(images)
        return {f"op32/{name}": jax.vmap(operation(name))(floats) for name in names}

    images = golden.arrays["images32_u8"]
    if runner == "one_device":
        return dict(jax.jit(apply_all)(images))
    assert jax.local_device_count() == 2
    return dict(spmd.map_batches(apply_all, [images], len(images)))


def tables(golden: golden_data.Golden) -> golden_data.Results:
    return {
        "hsv_table/hsv": jax.jit(byol.rgb_to_hsv)(golden.arrays["hsv_table/rgb"]),
        "hsv_table/rgb_out": jax.jit(byol.hsv_to_rgb)(golden.arrays["hsv_table/hsv_in"]),
    }


def large_image(golden: golden_data.Golden) -> golden_data.Results:
    """The `op224` arrays: every eighth pixel, the borders, the moments of each channel."""
    names = sorted(
        {
            name
            for kind in ("strided", "border", "mean", "std")
            for name in names_under(golden, f"op224_{kind}/")
        }
    )
    image = byol.to_float(jnp.asarray(golden.arrays["image224_u8"]))
    outputs = jax.jit(lambda image: {name: operation(name)(image) for name in names})(image)
    results: golden_data.Results = {}
    for name, output in outputs.items():
        pixels = np.asarray(output)
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        results |= {
            f"op224_strided/{name}": pixels[::8, ::8],
            f"op224_border/{name}": np.concatenate([edge[::4] for edge in edges]),
            f"op224_mean/{name}": pixels.mean(axis=(0, 1), dtype=np.float64),
            f"op224_std/{name}": pixels.std(axis=(0, 1), dtype=np.float64),
        }
    return results


def impulses(golden: golden_data.Golden) -> golden_data.Results:
    """The blur's kernel at several image sizes."""
    results: golden_data.Results = {}
    for name in names_under(golden, "blur_impulse/"):
        size = int(name)
        image = np.zeros((size, size, 3), np.float32)
        image[size // 2, size // 2] = 1
        blurred = np.asarray(jax.jit(byol.gaussian_blur)(image, golden.meta["impulse_sigma"]))
        results[f"blur_impulse/{name}"] = blurred[size // 2, :, 0]
    return results


def test_complete() -> None:
    golden_data.check_complete("augment")
    golden_data.check_complete("augment_composite")
    golden_data.check_complete("augment_stats")


def test_operations() -> None:
    golden = golden_data.load("augment")
    results = small_images(golden, "one_device") | tables(golden) | large_image(golden)
    results |= impulses(golden)
    golden_data.check(golden, results, golden_data.compared_keys(golden), "jit")


def test_operations_on_two_devices() -> None:
    golden = golden_data.load("augment")
    results = small_images(golden, "two_devices")
    golden_data.check(golden, results, list(results), "2 devices")


jitted = functools.cache(jax.jit)
COLORS = ("brightness", "contrast", "saturation", "hue")


def apply_sequence(image: jax.Array, operations: list[str]) -> jax.Array:
    """A recorded sequence; the four colour operations go together if all are there."""
    steps = [text.partition("=")[::2] for text in operations]
    colors = [(name, float(value)) for name, value in steps if name in COLORS]
    together = sorted(name for name, _ in colors) == sorted(COLORS)
    for name, value in steps:
        if together and name == colors[0][0]:
            amounts = jnp.asarray([dict(colors)[color] for color in COLORS], jnp.float32)
            order = jnp.asarray([COLORS.index(color) for color, _ in colors])
            image = jitted(byol.color_jitter)(image, amounts, order)
        elif together and name in COLORS:
            continue
        elif name in COLORS:
            image = jnp.clip(jitted(OPERATIONS[name])(image, float(value)), 0, 1)
        else:
            op = OPERATIONS[name.removesuffix("_sigma")]
            image = jitted(op)(image, *([float(value)] if value else []))
    return jnp.clip(image, 0, 1)


def test_recorded_sequences() -> None:
    golden = golden_data.load("augment_composite")
    images = byol.to_float(jnp.asarray(golden.arrays["composite/images_u8"]))
    sequences = golden.meta["sequences"]
    assert len(sequences) == len(images)
    outputs = [
        apply_sequence(image, sequence["ops"])
        for image, sequence in zip(images, sequences, strict=True)
    ]
    results = {"composite/out": np.stack(outputs)}
    golden_data.check(golden, results, golden_data.compared_keys(golden), "jit")


# Views of the fixed image; the limits below are for this many (golden/README.md).
CHUNK, CHUNKS = 512, 32
LARGEST_DISTANCE = 0.024
LARGEST_FRACTION_ERROR = 0.02


def features(view: jax.Array, image: jax.Array) -> dict[str, jax.Array]:
    """The numbers whose distribution is compared (golden/README.md)."""
    luma = byol.to_grayscale(view)[..., 0]
    half = view.shape[1] // 2
    red, green, blue = jnp.mean(view, axis=(0, 1))
    from_mean = jnp.abs(view - jnp.mean(view, axis=-1, keepdims=True))

    def equals(other: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(view - other)) <= 1e-6

    return {
        "mean_r": red,
        "mean_g": green,
        "mean_b": blue,
        "std": jnp.std(view),
        "is_gray": jnp.max(from_mean) <= 1e-5,
        "left_minus_right_luma": jnp.mean(luma[:, :half]) - jnp.mean(luma[:, half:]),
        "mean_abs_dx_luma": jnp.mean(jnp.abs(jnp.diff(luma, axis=1))),
        "mean_abs_dy_luma": jnp.mean(jnp.abs(jnp.diff(luma, axis=0))),
        "min": jnp.min(view),
        "max": jnp.max(view),
        "is_input": equals(image),
        "is_flipped_input": equals(image[:, ::-1]),
    }


@jax.jit
def features_of_views(
    image: jax.Array, keys: jax.Array, params: compose.AugmentParams
) -> dict[str, jax.Array]:
    views = jax.vmap(compose.make_view, (None, 0, None))(image, keys, params)
    return jax.vmap(features, (0, None))(views, image)


@functools.cache
def draws(view: str) -> np.ndarray:
    """Features of our own views of the golden image: `[features, CHUNKS, CHUNK]`."""
    golden = golden_data.load("augment_stats")
    image = byol.to_float(jnp.asarray(golden.arrays["image_u8"]))
    params = compose.from_config(base.get_config().augment[view])
    keys = jax.random.split(jax.random.key(0), (CHUNKS, CHUNK))
    parts = [features_of_views(image, key, params) for key in keys]
    names = golden.arrays["feature_names"]
    assert set(names) == set(parts[0])
    return np.array([[np.float64(part[name]) for part in parts] for name in names])


VIEWS = ("view1", "view2")
# Both are drawn alike; CI draws the second, too.
VIEWS_OF_CI = ["view1", pytest.param("view2", marks=[pytest.mark.slow, pytest.mark.ci])]


@pytest.mark.parametrize("view", VIEWS_OF_CI)
def test_distribution_of_views(view: str) -> None:
    golden = golden_data.load("augment_stats")
    levels = golden.arrays["quantile_levels"]
    samples = draws(view).reshape(len(golden.arrays["feature_names"]), -1)
    distances = {
        str(name): golden_data.distance(sample, quantiles, levels)
        for name, sample, quantiles in zip(
            golden.arrays["feature_names"],
            samples,
            golden.arrays[f"{view}/quantiles"],
            strict=True,
        )
    }
    print(f"{view}: largest distance {max(distances.values()):.3g} of {LARGEST_DISTANCE}")
    off = {name: d for name, d in distances.items() if not d <= LARGEST_DISTANCE}
    assert not off, f"{view} is off the golden distribution: {off}"


@pytest.mark.parametrize("view", VIEWS_OF_CI)
def test_moments_of_views(view: str) -> None:
    golden = golden_data.load("augment_stats")
    names, ours = golden.arrays["feature_names"], draws(view)
    correlated = len(golden.arrays[f"{view}/corr"])

    def moments(samples: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "mean": samples.mean(axis=1),
            "std": samples.std(axis=1),
            "corr": np.corrcoef(samples[:correlated]),
        }

    whole = moments(ours.reshape(len(names), -1))
    chunks = [moments(ours[:, i]) for i in range(CHUNKS)]
    ratio_of_draws = ours[0].size / golden.meta["draws"]
    for kind, array in whole.items():
        # The spread over chunks gives the standard error of ours and, by the number
        # of draws, of the golden one. With seven of them chance fails no test.
        spread = np.std([chunk[kind] for chunk in chunks], axis=0, ddof=1)
        error = spread * np.sqrt((1 + ratio_of_draws) / CHUNKS)
        difference = np.abs(array - golden.arrays[f"{view}/{kind}"])
        ratio = np.max(difference / (7 * error + golden_data.SAME_VALUE))
        print(f"{view}: {kind} within {ratio:.2g} of the limit")
        assert ratio <= 1, f"{view}: {kind} is off the golden distribution"
    for i, name in enumerate(names):
        if str(name).startswith("is_"):
            difference = abs(whole["mean"][i] - golden.meta["views"][view][name])
            assert difference <= LARGEST_FRACTION_ERROR, f"{view}: fraction {name}"
            np.testing.assert_allclose(
                golden.arrays[f"{view}/mean"][i], golden.meta["views"][view][name], atol=1e-9
            )
