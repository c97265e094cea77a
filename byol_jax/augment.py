"""Image augmentations of BYOL App. C and Table 6, on the device.

Each operation takes one float image `[H, W, 3]` with values in [0, 1]; `make_view`
composes them with one key, and its caller maps it over the batch. Every probability
and strength is a traced value, so that varying them (Table 17) compiles nothing.
App. C's crop is not here: it runs beside the JPEG decoder (data/crops.py). Those of
SimCLR's operations that BYOL leaves out (`EXTRAS`) are part of a program only where it
gives them a probability.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byol_jax import autoaugment, keys, operations, randaugment

# Channel statistics of ImageNet, as the authors' code has them (App. C).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Weights of red, green and blue in the luma (App. C).
LUMA = (0.2989, 0.5870, 0.1140)
# Image heights per blur kernel: 23 taps at 224 pixels (App. C), other sizes in proportion.
BLUR_DIVIDER = 10

Scalar = jax.Array | float


class AugmentParams(NamedTuple):
    """A column of BYOL Table 6, and the constants of App. C. Defaults are T's.

    Probabilities are in [0, 1]; the `max` values are largest offsets (brightness,
    hue) or largest distances of the factor from 1 (contrast, saturation);
    `blur_sigma_*` are in pixels.
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
    # Probabilities of SimCLR's further operations, see `make_view`. None: not compiled at all.
    crop: Scalar | None = None
    rotate: Scalar | None = None
    randaugment: Scalar | None = None
    autoaugment: Scalar | None = None
    equalize: Scalar | None = None
    motion_blur: Scalar | None = None
    sobel: Scalar | None = None
    noise: Scalar | None = None
    cutout: Scalar | None = None


def adjust_brightness(image: jax.Array, offset: Scalar) -> jax.Array:
    """Adds an offset; `[H, W, 3]`, not clipped."""
    return image + offset


def adjust_contrast(image: jax.Array, factor: Scalar) -> jax.Array:
    """Scales the distance from each channel's mean; `[H, W, 3]`, not clipped."""
    mean = jnp.mean(image, axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def rgb_to_hsv(rgb: jax.Array) -> jax.Array:
    """Hue, saturation and value of colours `[..., 3]` in [0, 1]; hue in turns.

    Ties of the largest channel go to red, then green; a grey has hue and
    saturation 0.
    """
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe_spread = jnp.where(spread > 0, spread, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) / safe_spread,
        jnp.where(value == green, 2 + (blue - red) / safe_spread, 4 + (red - green) / safe_spread),
    )
    hue = jnp.where(spread > 0, (sextant / 6) % 1, 0)
    saturation = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1), 0)
    return jnp.stack([hue, saturation, value], axis=-1)


def hsv_to_rgb(hsv: jax.Array) -> jax.Array:
    """Inverse of `rgb_to_hsv`, `[..., 3]`; the hue is taken modulo one turn."""
    hue, saturation, value = hsv[..., :1], hsv[..., 1:2], hsv[..., 2:]
    # A channel falls from v to v (1 - s) and back as the hue goes round; red, green
    # and blue do so a third of a turn apart.
    phase = (hue * 6 + jnp.asarray([5, 3, 1], hsv.dtype)) % 6
    dip = jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    return value - value * saturation * dip


def adjust_saturation(image: jax.Array, factor: Scalar) -> jax.Array:
    """Scales the saturation, cut to [0, 1]; `[H, W, 3]`."""
    hsv = rgb_to_hsv(image)
    saturation = jnp.clip(hsv[..., 1:2] * factor, 0, 1)
    return hsv_to_rgb(jnp.concatenate([hsv[..., :1], saturation, hsv[..., 2:]], axis=-1))


def adjust_hue(image: jax.Array, turns: Scalar) -> jax.Array:
    """Turns the hue; `[H, W, 3]`."""
    hsv = rgb_to_hsv(image)
    return hsv_to_rgb(jnp.concatenate([hsv[..., :1] + turns, hsv[..., 1:]], axis=-1))


COLOR_OPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def color_jitter(image: jax.Array, amounts: jax.Array, order: jax.Array) -> jax.Array:
    """The four colour operations in the given order, clipped to [0, 1] after each.

    Args:
      image: `[H, W, 3]`.
      amounts: `[4]`, one for each of `COLOR_OPS`.
      order: `[4]`, a permutation: which operation comes first, second, ...
    """

    def apply_next(image: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        branches = [
            lambda x, op=op, amount=amounts[i]: jnp.clip(op(x, amount), 0, 1)
            for i, op in enumerate(COLOR_OPS)
        ]
        return jax.lax.switch(which, branches, image), None

    # A scan: unrolled, the 16 operations are most of the step's compile time.
    return jax.lax.scan(apply_next, image, order)[0]


def to_grayscale(image: jax.Array) -> jax.Array:
    """The luma in all three channels; `[H, W, 3]`."""
    luma = sum(weight * image[..., i] for i, weight in enumerate(LUMA))
    return jnp.broadcast_to(jnp.asarray(luma)[..., None], image.shape)


def blur_radius(image: jax.Array) -> int:
    """Pixels on each side of the middle of a blur's kernel; `[H, W, 3]`."""
    return image.shape[0] // BLUR_DIVIDER // 2


def gaussian_blur(image: jax.Array, sigma: Scalar) -> jax.Array:
    """Separable Gaussian blur, zero outside the image; `[H, W, 3]`, sigma in pixels.

    The kernel has 2 int(H / 20) + 1 taps: 23 at 224 pixels (App. C).
    """
    radius = blur_radius(image)
    offsets = jnp.arange(-radius, radius + 1, dtype=image.dtype)
    weights = jnp.exp(-(offsets**2) / (2 * jnp.square(jnp.asarray(sigma, image.dtype))))
    weights = weights / jnp.sum(weights)
    for axis in (0, 1):
        # A sum of shifted images: XLA fuses it into one pass, and unlike a convolution
        # with a kernel for each image it stays exact and fast on every backend.
        padding = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(image, padding)
        size = image.shape[axis]
        image = jnp.zeros_like(image)
        for i in range(2 * radius + 1):
            image += weights[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
    return image


def solarize(image: jax.Array, threshold: Scalar) -> jax.Array:
    """x where x < threshold, else 1 - x; `[H, W, 3]`."""
    return jnp.where(image < threshold, image, 1 - image)


def normalize(images: jax.Array) -> jax.Array:
    """Subtracts ImageNet's mean colour and divides by its standard deviation (App. C)."""
    mean = jnp.asarray(IMAGENET_MEAN, images.dtype)
    return (images - mean) / jnp.asarray(IMAGENET_STD, images.dtype)


def denormalize(views: jax.Array) -> jax.Array:
    """Undoes `normalize`."""
    std = jnp.asarray(IMAGENET_STD, views.dtype)
    return views * std + jnp.asarray(IMAGENET_MEAN, views.dtype)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def example_key(
    seed_key: jax.Array, example_id: jax.Array, epoch: jax.Array, view: int
) -> jax.Array:
    """The key of one view of one example in one epoch, whatever device holds it."""
    for value in (example_id, epoch, view):
        seed_key = jax.random.fold_in(seed_key, value)
    return seed_key


def random_flip(image: jax.Array, key: jax.Array, probability: Scalar = 0.5) -> jax.Array:
    """Exchanges left and right with the given probability; `[H, W, 3]`."""
    is_flipped = jax.random.uniform(keys.named(key, "flip")) < probability
    return jnp.where(is_flipped, image[:, ::-1], image)


def _crop(image: jax.Array, key: jax.Array) -> jax.Array:
    return operations.random_resized_crop(
        image, jax.random.uniform(keys.named(key, "crop_box"), (4,))
    )


def _rotate(image: jax.Array, key: jax.Array) -> jax.Array:
    turns = jax.random.randint(keys.named(key, "rotate_turns"), (), 0, 4)
    return operations.rotate_quarters(image, turns)


def _randaugment(image: jax.Array, key: jax.Array) -> jax.Array:
    return randaugment.randaugment(image, keys.named(key, "randaugment_layers"))


def _autoaugment(image: jax.Array, key: jax.Array) -> jax.Array:
    return autoaugment.autoaugment(image, keys.named(key, "autoaugment_pair"))


def _equalize(image: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return operations.equalize(image)


def _motion_blur(image: jax.Array, key: jax.Array) -> jax.Array:
    angle = jax.random.uniform(keys.named(key, "motion_blur_angle"), maxval=jnp.pi)
    return operations.motion_blur(image, angle, blur_radius(image))


def _sobel(image: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return operations.sobel(image)


def _noise(image: jax.Array, key: jax.Array) -> jax.Array:
    noise = jax.random.normal(keys.named(key, "noise_values"), image.shape)
    return operations.gaussian_noise(image, noise)


def _cutout(image: jax.Array, key: jax.Array) -> jax.Array:
    place = jax.random.uniform(keys.named(key, "cutout_place"), (2,))
    return operations.cutout(image, place, jnp.asarray(IMAGENET_MEAN))


# SimCLR's operations that the columns of BYOL Table 6 do without, with their draws.
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
# The probabilities of a column.
PROBABILITIES = ("flip", "color_jitter", "grayscale", "blur", "solarize", *EXTRAS)


def from_config(column: Mapping[str, Any]) -> AugmentParams:
    """A config's column as parameters; extras that are 0, None or not there cost nothing."""
    return AugmentParams(**{k: v for k, v in column.items() if k not in EXTRAS or v})


def make_view(image: jax.Array, key: jax.Array, params: AugmentParams) -> jax.Array:
    """Draws t ~ T (or T') and applies it: App. C in the listed order, without the crop.

    SimCLR's operations, where they have a probability, stand around App. C's (`EXTRAS`): crop,
    *flip*, rotate, randaugment, autoaugment, *color_jitter*, *grayscale*, equalize, *blur*,
    motion_blur, *solarize*, sobel, noise, cutout. First what moves pixels, as in SimCLR App. A;
    the learnt policies behind the flip, as their authors have them; colours, then blurs; last the
    square of `cutout`, which the network sees as zeros.

    Args:
      image: `[H, W, 3]` in [0, 1].
      key: a PRNG key of this view alone.
      params: a column of Table 6.

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
    order = jax.random.permutation(keys.named(key, "order"), len(COLOR_OPS))
    jittered = color_jitter(image, amounts, order)
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
      function: maps an image `[H, W, 3]` in [0, 1] and a key to another such image.
      images: uint8 `[B, H, W, 3]`.
      ids: example ids, int32 `[B]`.
      epochs: the epoch each example is drawn in, int32 `[B]`.
      seed_key: the run's key for augmentation.
      view: 1 or 2.

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
