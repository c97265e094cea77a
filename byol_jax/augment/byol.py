"""Image augmentations of BYOL App. C and Table 6, on the device.

Each operation takes one float image `[H, W, 3]` with values in [0, 1]; `compose` draws the random
numbers. App. C's crop is in data/crops.py, next to the JPEG decoder.
"""

import jax
import jax.numpy as jnp

from byol_jax import keys

# Channel statistics of ImageNet, as the authors' code has them (App. C).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Weights of red, green and blue in the luma (App. C).
LUMA = (0.2989, 0.5870, 0.1140)
# Image height divided by the blur kernel's length: 23 taps at 224 pixels (App. C).
BLUR_DIVIDER = 10

Scalar = jax.Array | float


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
    # Over a turn of the hue a channel falls from v to v (1 - s) and returns; the phases of red,
    # green and blue are a third of a turn apart.
    phase = (hue * 6 + jnp.asarray([5, 3, 1], hsv.dtype)) % 6
    dip = jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    return value - value * saturation * dip


def adjust_saturation(image: jax.Array, factor: Scalar) -> jax.Array:
    """Scales the saturation, clipped to [0, 1]; `[H, W, 3]`."""
    hsv = rgb_to_hsv(image)
    saturation = jnp.clip(hsv[..., 1:2] * factor, 0, 1)
    return hsv_to_rgb(jnp.concatenate([hsv[..., :1], saturation, hsv[..., 2:]], axis=-1))


def adjust_hue(image: jax.Array, turns: Scalar) -> jax.Array:
    """Rotates the hue; `[H, W, 3]`."""
    hsv = rgb_to_hsv(image)
    return hsv_to_rgb(jnp.concatenate([hsv[..., :1] + turns, hsv[..., 1:]], axis=-1))


COLOR_OPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def color_jitter(
    image: jax.Array, amounts: jax.Array, order: jax.Array, clip_once: Scalar = 0.0
) -> jax.Array:
    """The four colour operations in the given order, clipped to [0, 1].

    Args:
      image: `[H, W, 3]`.
      amounts: `[4]`, one for each of `COLOR_OPS`.
      order: `[4]`, a permutation: which operation comes first, second, ...
      clip_once: other than 0 to clip after the last operation only, not after each; may be traced.
    """
    bound = jnp.where(clip_once, jnp.inf, 0).astype(image.dtype)

    def apply_next(image: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        branches = [
            lambda x, op=op, amount=amounts[i]: jnp.clip(op(x, amount), -bound, 1 + bound)
            for i, op in enumerate(COLOR_OPS)
        ]
        return jax.lax.switch(which, branches, image), None

    # A scan, because 16 unrolled operations would take most of the step's compile time.
    return jnp.clip(jax.lax.scan(apply_next, image, order)[0], 0, 1)


def to_grayscale(image: jax.Array) -> jax.Array:
    """The luma in all three channels; `[H, W, 3]`."""
    luma = sum(weight * image[..., i] for i, weight in enumerate(LUMA))
    return jnp.broadcast_to(jnp.asarray(luma)[..., None], image.shape)


def blur_radius(image: jax.Array) -> int:
    """Taps of a blur kernel on each side of its middle, for an image `[H, W, 3]`."""
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
        # A sum of shifted images: XLA fuses it into one pass. Unlike a convolution with one kernel
        # per image, it is exact and fast on every backend.
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


def evaluation_views(crops: jax.Array) -> jax.Array:
    """Evaluation crops uint8 `[B, H, W, 3]` as the network's input, normalised float32."""
    return normalize(to_float(crops))


def random_flip(image: jax.Array, key: jax.Array, probability: Scalar = 0.5) -> jax.Array:
    """Mirrors left and right with the given probability; `[H, W, 3]`."""
    is_flipped = jax.random.uniform(keys.named(key, "flip")) < probability
    return jnp.where(is_flipped, image[:, ::-1], image)
