"""T and T': the columns of BYOL Table 6, composed of App. C's operations and SimCLR's.

`make_view` composes the operations with one key, and its caller maps it over the batch. Every
probability and strength is a traced value, so that varying them (Table 17) compiles nothing.
SimCLR's operations that BYOL leaves out (`EXTRAS`) are part of a program only if they have a
probability.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byol_jax import keys
from byol_jax.augment import autoaugment, randaugment, simclr
from byol_jax.augment.byol import (
    COLOR_OPS,
    IMAGENET_MEAN,
    Scalar,
    blur_radius,
    color_jitter,
    gaussian_blur,
    normalize,
    random_flip,
    solarize,
    to_float,
    to_grayscale,
)


class AugmentParams(NamedTuple):
    """A column of BYOL Table 6, and the constants of App. C. Defaults are those of T.

    Probabilities are in [0, 1]. The `max` values are the largest offset (brightness, hue) or the
    largest distance of the factor from 1 (contrast, saturation). `blur_sigma_*` are in pixels.
    """

    flip: Scalar = 0.5
    color_jitter: Scalar = 0.8
    brightness_max: Scalar = 0.4
    contrast_max: Scalar = 0.4
    saturation_max: Scalar = 0.2
    hue_max: Scalar = 0.1
    grayscale: Scalar = 0.2
    blur: Scalar = 1.0
    blur_sigma_min: Scalar = 0.1
    blur_sigma_max: Scalar = 2.0
    solarize: Scalar = 0.0
    solarize_threshold: Scalar = 0.5
    # 1 for the colour jitter of SimCLR App. A: brightness, contrast, saturation, hue, clipped once.
    # 0 for that of BYOL App. C: in random order, clipped after each.
    simclr_jitter: Scalar = 0.0
    # Probabilities of SimCLR's further operations, see `make_view`; None leaves one uncompiled.
    crop: Scalar | None = None
    rotate: Scalar | None = None
    randaugment: Scalar | None = None
    autoaugment: Scalar | None = None
    equalize: Scalar | None = None
    motion_blur: Scalar | None = None
    sobel: Scalar | None = None
    noise: Scalar | None = None
    cutout: Scalar | None = None


def example_key(
    seed_key: jax.Array, example_id: jax.Array, epoch: jax.Array, view: int
) -> jax.Array:
    """The key of one view of one example in one epoch, the same on every device."""
    for value in (example_id, epoch, view):
        seed_key = jax.random.fold_in(seed_key, value)
    return seed_key


def _crop(image: jax.Array, key: jax.Array) -> jax.Array:
    return simclr.random_resized_crop(image, jax.random.uniform(keys.named(key, "crop_box"), (4,)))


def _rotate(image: jax.Array, key: jax.Array) -> jax.Array:
    turns = jax.random.randint(keys.named(key, "rotate_turns"), (), 0, 4)
    return simclr.rotate_quarters(image, turns)


def _randaugment(image: jax.Array, key: jax.Array) -> jax.Array:
    return randaugment.randaugment(image, keys.named(key, "randaugment_layers"))


def _autoaugment(image: jax.Array, key: jax.Array) -> jax.Array:
    return autoaugment.autoaugment(image, keys.named(key, "autoaugment_pair"))


def _equalize(image: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return simclr.equalize(image)


def _motion_blur(image: jax.Array, key: jax.Array) -> jax.Array:
    angle = jax.random.uniform(keys.named(key, "motion_blur_angle"), maxval=jnp.pi)
    return simclr.motion_blur(image, angle, blur_radius(image))


def _sobel(image: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return simclr.sobel(image)


def _noise(image: jax.Array, key: jax.Array) -> jax.Array:
    noise = jax.random.normal(keys.named(key, "noise_values"), image.shape)
    return simclr.gaussian_noise(image, noise)


def _cutout(image: jax.Array, key: jax.Array) -> jax.Array:
    place = jax.random.uniform(keys.named(key, "cutout_place"), (2,))
    return simclr.cutout(image, place, jnp.asarray(IMAGENET_MEAN))


# SimCLR's operations that BYOL Table 6 does not have, with their draws.
EXTRAS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "crop": _crop,
    "rotate": _rotate,
    "randaugment": _randaugment,
    "autoaugment": _autoaugment,
    "equalize": _equalize,
    "motion_blur": _motion_blur,
    "sobel": _sobel,
    "noise": _noise,
    "cutout": _cutout,
}
# Forms of the colour jitter: BYOL App. C, SimCLR App. A.
JITTERS = ("byol", "simclr")
# Names of the probabilities of a column.
PROBABILITIES = ("flip", "color_jitter", "grayscale", "blur", "solarize", *EXTRAS)


def from_config(column: Mapping[str, Any]) -> AugmentParams:
    """A config's column as parameters; extras that are 0, None or missing are not compiled."""
    values = {k: v for k, v in column.items() if k not in EXTRAS or v}
    if "jitter" in values:
        values["simclr_jitter"] = float(values.pop("jitter") == "simclr")
    return AugmentParams(**values)


def make_view(image: jax.Array, key: jax.Array, params: AugmentParams) -> jax.Array:
    """Draws t ~ T (or T') and applies it: App. C in the listed order, without the crop.

    With SimCLR's operations (`EXTRAS`) between those of App. C (in italics) the order is: crop,
    *flip*, rotate, randaugment, autoaugment, *color_jitter*, *grayscale*, equalize, *blur*,
    motion_blur, *solarize*, sobel, noise, cutout. Operations that move pixels come first, as in
    SimCLR App. A; the learnt policies follow the flip, as in their papers; then colours, then
    blurs; last the square of `cutout`, which the network sees as zeros.

    Args:
      image: `[H, W, 3]` in [0, 1].
      key: PRNG key of this view.
      params: column of Table 6.

    Returns:
      The view `[H, W, 3]` in [0, 1], not yet normalised.
    """

    def applies(name: str, probability: Scalar) -> jax.Array:
        return jax.random.uniform(keys.named(key, name)) < probability

    def uniform(name: str, low: Scalar, high: Scalar) -> jax.Array:
        return jax.random.uniform(keys.named(key, name), dtype=image.dtype, minval=low, maxval=high)

    def with_extra(image: jax.Array, name: str) -> jax.Array:
        probability = getattr(params, name)
        if probability is None:
            return image
        return jnp.where(applies(name, probability), EXTRAS[name](image, key), image)

    image = with_extra(image, "crop")
    image = random_flip(image, key, params.flip)
    for name in ("rotate", "randaugment", "autoaugment"):
        image = with_extra(image, name)

    amounts = jnp.stack(
        [
            uniform("brightness", -params.brightness_max, params.brightness_max),
            uniform("contrast", 1 - params.contrast_max, 1 + params.contrast_max),
            uniform("saturation", 1 - params.saturation_max, 1 + params.saturation_max),
            uniform("hue", -params.hue_max, params.hue_max),
        ]
    )
    drawn = jax.random.permutation(keys.named(key, "order"), len(COLOR_OPS))
    order = jnp.where(params.simclr_jitter, jnp.arange(len(COLOR_OPS)), drawn)
    jittered = color_jitter(image, amounts, order, params.simclr_jitter)
    image = jnp.where(applies("color_jitter", params.color_jitter), jittered, image)

    image = jnp.where(applies("grayscale", params.grayscale), to_grayscale(image), image)
    image = with_extra(image, "equalize")
    sigma = uniform("sigma", params.blur_sigma_min, params.blur_sigma_max)
    image = jnp.where(applies("blur", params.blur), gaussian_blur(image, sigma), image)
    image = with_extra(image, "motion_blur")
    solarized = solarize(image, params.solarize_threshold)
    image = jnp.where(applies("solarize", params.solarize), solarized, image)
    for name in ("sobel", "noise", "cutout"):
        image = with_extra(image, name)
    return jnp.clip(image, 0, 1)


def map_examples(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    images: jax.Array,
    ids: jax.Array,
    epochs: jax.Array,
    seed_key: jax.Array,
    view: int,
) -> jax.Array:
    """Augments and normalises a batch of crops, each with its own key.

    Args:
      function: maps an image `[H, W, 3]` in [0, 1] and a key to an image of the same form.
      images: uint8 `[B, H, W, 3]`.
      ids: example ids, int32 `[B]`.
      epochs: epoch of each example, int32 `[B]`.
      seed_key: the run's key for augmentation.
      view: number of the view, from 1.

    Returns:
      Normalised float32 views `[B, H, W, 3]`.
    """
    keys = jax.vmap(example_key, (None, 0, 0, None))(seed_key, ids, epochs, view)
    return normalize(jax.vmap(function)(to_float(images), keys))


def make_views(
    images: jax.Array,
    ids: jax.Array,
    epochs: jax.Array,
    seed_key: jax.Array,
    view: int,
    params: AugmentParams,
) -> jax.Array:
    """`make_view` with the column of Table 6 for this view, on a batch as in `map_examples`."""
    return map_examples(
        lambda image, key: make_view(image, key, params), images, ids, epochs, seed_key, view
    )
