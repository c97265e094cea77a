"""SimCLR's further augmentations (Figure 4, Table 3, App. B.2), on the device.

Each operation maps a float image `[H, W, 3]` with values in [0, 1] and traced numbers to such an
image; `compose` draws the random numbers. SimCLR names the operations without giving their numbers:
where a number is a constant here, its comment says where it comes from.
"""

import functools

import jax
import jax.numpy as jnp

from byol_jax.augment import boxes, randaugment
from byol_jax.errors import require

Scalar = jax.Array | float

# Side of the square relative to the image's: 16 of 32 pixels, DeVries & Taylor (2017) on CIFAR-10.
CUTOUT_SHARE = 0.5
# Standard deviation relative to the range of values. Our choice: SimCLR gives none.
NOISE_SIGMA = 0.1
# Gradient of a horizontal or vertical step from black to white under Sobel's masks.
SOBEL_LARGEST = 4


def random_resized_crop(
    image: jax.Array,
    uniforms: jax.Array,
    area_range: tuple[Scalar, Scalar] = boxes.AREA_RANGE,
    aspect_range: tuple[Scalar, Scalar] = boxes.ASPECT_RANGE,
) -> jax.Array:
    """Cuts out a box and resizes it to the whole image: SimCLR App. A, for a row of Figure 5.

    Args:
      image: `[H, W, 3]`.
      uniforms: `[4]` in [0, 1), for area, aspect, y and x, as in `boxes.random_resized_boxes`.
      area_range: range of the box's share of the area.
      aspect_range: range of the box's width over height.
    """
    height, width, _ = image.shape
    box = boxes.box_rule(jnp, uniforms, height, width, area_range, aspect_range)
    # Bicubic interpolation overshoots at edges.
    return jnp.clip(crop_and_resize(image, box, (height, width)), 0, 1)


def crop_and_resize(image: jax.Array, box: jax.Array, to: tuple[int, int]) -> jax.Array:
    """Cuts out a box (y, x, h, w) and resizes it, bicubic: `[H, W, 3]` -> `[*to, 3]`, not clipped.

    With two small matrix products one program serves boxes of any size, unlike with a slice.
    """
    y, x, h, w = box
    rows = _bicubic(y, h, image.shape[0], to[0], image.dtype)
    columns = _bicubic(x, w, image.shape[1], to[1], image.dtype)
    # In full float32: by default, products on some accelerators keep three digits.
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")


def crop_levels(images: jax.Array, ids: jax.Array, windows: jax.Array, size: int) -> jax.Array:
    """Random crops of images that are on the device, as `data.crops` makes them on the host.

    Args:
      images: uint8 `[N, H, W, 3]`.
      ids: positions of the images to crop, int32 `[B]`.
      windows: boxes (y, x, h, w), int32 `[B, 4]`.
      size: S, side of the crops in pixels.

    Returns:
      uint8 `[B, S, S, 3]`.
    """
    whole = jnp.asarray(images)

    def one(i: jax.Array, box: jax.Array) -> jax.Array:
        resized = crop_and_resize(whole[i].astype(jnp.float32), box, (size, size))
        return jnp.rint(jnp.clip(resized, 0, 255)).astype(jnp.uint8)

    return jax.vmap(one)(ids, windows)


def _bicubic(
    start: jax.Array, length: jax.Array, size: int, to: int, dtype: jnp.dtype
) -> jax.Array:
    """Weights `[to, size]` that resize `length` pixels from `start` on to `to` pixels.

    As in `data.bicubic`: half-pixel centres, no antialiasing, Keys' kernel with a = -1/2. Weights
    outside the box are set to 0 and the others scaled to a sum of 1.
    """
    pixel = jnp.arange(size, dtype=dtype)
    centre = (jnp.arange(to, dtype=dtype) + 0.5) * (length / to) - 0.5 + start
    distance = jnp.abs(centre[:, None] - pixel)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = jnp.where(distance <= 1, near, jnp.where(distance < 2, far, 0))
    weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def rotate_quarters(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotates a square image by 0, 90, 180 or 270 degrees (SimCLR Figure 4, Table 3).

    Args:
      image: `[S, S, 3]`.
      turns: number of counterclockwise quarter turns, an integer from 0 to 3.

    Raises:
      UserError: when tracing, if the image is not square.
    """
    height, width, _ = image.shape
    require(height == width, f"an image of {height}x{width} cannot be rotated: it must be square")
    branches = [functools.partial(jnp.rot90, k=k) for k in range(4)]
    return jax.lax.switch(turns, branches, image)


def equalize(image: jax.Array) -> jax.Array:
    """Makes all levels of each channel about equally frequent (SimCLR App. B.2).

    As Pillow's, on values rounded to 8 bits.
    """
    levels = randaugment.to_levels(image)
    tables = jax.vmap(randaugment.equalize, (0, None))(randaugment.histograms(levels), 0)
    return randaugment.from_levels(randaugment.look_up(levels, tables)).astype(image.dtype)


def motion_blur(image: jax.Array, angle: Scalar, radius: int) -> jax.Array:
    """Mean along a line through each pixel (SimCLR App. B.2); zero outside the image.

    SimCLR gives neither length nor border; both are those of the Gaussian blur.

    Args:
      image: `[H, W, 3]`.
      angle: angle of the line in radians, counterclockwise from the horizontal.
      radius: the line has 2 radius + 1 pixels, positions rounded to the nearest pixel.
    """
    steps = jnp.arange(-radius, radius + 1)
    # Rows count downwards, angles upwards.
    rows = radius - jnp.round(steps * jnp.sin(angle)).astype(jnp.int32)
    columns = radius + jnp.round(steps * jnp.cos(angle)).astype(jnp.int32)
    padded = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)))

    def add(total: jax.Array, corner: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + jax.lax.dynamic_slice(padded, (*corner, 0), image.shape), None

    total = jax.lax.scan(add, jnp.zeros_like(image), (rows, columns))[0]
    return total / (2 * radius + 1)


def sobel(image: jax.Array) -> jax.Array:
    """Magnitude of Sobel's gradient in each channel (SimCLR Figure 4, App. B.2).

    It is divided by the gradient of a step from black to white and clipped at 1, which slanted
    edges exceed. Border pixels are repeated outside the image.
    """
    height, width, _ = image.shape
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")

    def masked(row_weights: tuple[int, ...], column_weights: tuple[int, ...]) -> jax.Array:
        total = jnp.zeros_like(image)
        for i, row_weight in enumerate(row_weights):
            for j, column_weight in enumerate(column_weights):
                if row_weight * column_weight:
                    shifted = padded[i : i + height, j : j + width]
                    total += row_weight * column_weight * shifted
        return total

    across, down = masked((1, 2, 1), (-1, 0, 1)), masked((-1, 0, 1), (1, 2, 1))
    return jnp.minimum(jnp.sqrt(across**2 + down**2) / SOBEL_LARGEST, 1)


def gaussian_noise(image: jax.Array, noise: jax.Array, sigma: Scalar = NOISE_SIGMA) -> jax.Array:
    """Adds noise (SimCLR Figure 4; "corrupted" in Table 3), clipped to [0, 1].

    Args:
      image: `[H, W, 3]`.
      noise: standard normal numbers `[H, W, 3]`.
      sigma: standard deviation of the added noise.
    """
    return jnp.clip(image + sigma * noise, 0, 1)


def cutout(
    image: jax.Array, uniforms: jax.Array, fill: jax.Array, share: Scalar = CUTOUT_SHARE
) -> jax.Array:
    """Fills a square (SimCLR Figure 4), which may extend beyond the image as in DeVries & Taylor.

    Args:
      image: `[H, W, 3]`.
      uniforms: `[2]` in [0, 1), for row and column of the middle pixel.
      fill: colour `[3]`. DeVries & Taylor fill with 0 after normalisation, the mean colour.
      share: side of the square relative to the shorter side of the image.
    """
    height, width, _ = image.shape
    side = jnp.round(jnp.asarray(share * min(height, width)))

    def covered(uniform: jax.Array, size: int) -> jax.Array:
        start = jnp.floor(uniform * size) - side // 2
        pixel = jnp.arange(size)
        return (pixel >= start) & (pixel < start + side)

    inside = covered(uniforms[0], height)[:, None] & covered(uniforms[1], width)
    return jnp.where(inside[..., None], fill, image)
