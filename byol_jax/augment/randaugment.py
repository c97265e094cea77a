"""RandAugment (Cubuk et al., 2019), for the supervised baselines of BYOL App. D.2, on the device.

Each of `num_layers` layers (N) applies one operation, drawn uniformly from the 14 of the
RandAugment paper, at a common magnitude (M, of 10). App. D.2 gives neither N nor M: the defaults
here are the RandAugment paper's own for ResNet-50 on ImageNet, N = 2 and M = 9.

Magnitudes mean what they do in the paper's released code: for enhancements (color, contrast,
brightness, sharpness) a factor from 0.1 to 1.9 without a random sign, and posterize and solarize
become weaker with the magnitude. Operations are those of Pillow, which that code reimplements, on
8-bit levels. Of 14 branches a batch would evaluate all. A layer is therefore one warp, one blend
and one table look-up, each of which leaves the image unchanged unless the drawn operation uses it.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from byol_jax import keys
from byol_jax.errors import require

# In the order of the RandAugment paper's list.
OPERATIONS = (
    *("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
# Strengths of the released code at magnitude 10. Translations are up to 100 pixels of 224, and in
# proportion for other sizes.
MAX_MAGNITUDE = 10
ROTATE_MAX_DEGREES = 30
SHEAR_MAX = 0.3
TRANSLATE_MAX = 100 / 224
ENHANCE_MIN, ENHANCE_RANGE = 0.1, 1.8
POSTERIZE_MAX_BITS = 4
# Colour outside the image after a geometric operation, AutoAugment's.
GREY = 128 / 255
# Weights of red, green and blue in the luma (ITU-R 601-2), in units of 1/65536.
LUMA = (19595, 38470, 7471)
# A pixel in the fixed-point units of source positions.
FIXED_ONE = 1 << 16
# Added before a number is truncated to an integer, so that the rounding of float32, which depends
# on the device, does not matter. It is smaller than any fraction that an integer magnitude gives.
HAIR = 1e-3

Scalar = jax.Array | float


def to_levels(values: Scalar) -> jax.Array:
    """Numbers in [0, 1] as uint8 levels, rounded."""
    return jnp.round(jnp.asarray(values) * 255).astype(jnp.uint8)


def from_levels(levels: jax.Array) -> jax.Array:
    """uint8 levels as float32 in [0, 1]."""
    return levels.astype(jnp.float32) / 255


def _fixed(*coefficients: Scalar) -> jax.Array:
    return jnp.stack(
        [jnp.round(jnp.float32(c) * FIXED_ONE).astype(jnp.int32) for c in coefficients]
    )


def affine(a: Scalar, b: Scalar, c: Scalar, d: Scalar, e: Scalar, f: Scalar) -> jax.Array:
    """Inverse map of pixel corners, x' = ax + by + c and y' = dx + ey + f, for `warp`.

    Returns:
      int32 `[6]` in 1/65536, with c and f moved to the centre of pixel (0, 0).
    """
    return _fixed(a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)


def rotate(strength: Scalar, height: int, width: int) -> jax.Array:
    """Map of a rotation around the centre by up to 30 degrees, counterclockwise if positive."""
    angle = jnp.float32(strength) * jnp.deg2rad(ROTATE_MAX_DEGREES)
    # Offsets use 1 - cos in place of cos, which would lose their last digits.
    sine, versine = jnp.sin(angle), 2 * jnp.square(jnp.sin(angle / 2))
    x, y = (width - 1) / 2, (height - 1) / 2
    cosine = 1 - versine
    return _fixed(
        *(cosine, -sine, 0.5 + (x * versine + y * sine)),
        *(sine, cosine, 0.5 + (y * versine - x * sine)),
    )


def shear_x(strength: Scalar, height: int, width: int) -> jax.Array:
    """Map that slides each row by up to 0.3 of its distance from the top edge."""
    del height, width
    return affine(1, strength * SHEAR_MAX, 0, 0, 1, 0)


def shear_y(strength: Scalar, height: int, width: int) -> jax.Array:
    """Map that slides each column by up to 0.3 of its distance from the left edge."""
    del height, width
    return affine(1, 0, 0, strength * SHEAR_MAX, 1, 0)


def translate_x(strength: Scalar, height: int, width: int) -> jax.Array:
    """Map that moves by up to 100 pixels of 224, to the left if positive."""
    del height
    return affine(1, 0, strength * (TRANSLATE_MAX * width), 0, 1, 0)


def translate_y(strength: Scalar, height: int, width: int) -> jax.Array:
    """Map that moves by up to 100 pixels of 224, upwards if positive."""
    del width
    return affine(1, 0, 0, 0, 1, strength * (TRANSLATE_MAX * height))


GEOMETRIC = {
    "rotate": rotate,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


def warp(levels: jax.Array, coefficients: jax.Array, fill: jax.Array) -> jax.Array:
    """Applies an inverse affine map to pixel centres and takes the nearest neighbours.

    Nearest neighbours are AutoAugment's choice (Pillow's default). Positions are integers as in
    Pillow, so that only the coefficients depend on the device's rounding.

    Args:
      levels: uint8 `[H, W, 3]`.
      coefficients: int32 `[6]` from `affine`.
      fill: uint8 level, or levels `[3]`, outside the image.
    """
    height, width, _ = levels.shape
    a, b, c, d, e, f = coefficients
    x, y = jnp.arange(width), jnp.arange(height)[:, None]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = levels[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], source, fill)


def luma(levels: jax.Array) -> jax.Array:
    """Grey level, `[H, W, 3]` to int32 `[H, W, 1]`, rounded."""
    weighted = levels.astype(jnp.int32) * jnp.asarray(LUMA)
    return (jnp.sum(weighted, axis=-1, keepdims=True) + FIXED_ONE // 2) >> 16


def color(levels: jax.Array) -> jax.Array:
    """The image at factor 0 of colour: the luma."""
    return luma(levels)


def contrast(levels: jax.Array) -> jax.Array:
    """What contrast is enhanced from: the mean luma, rounded."""
    pixels = levels.shape[0] * levels.shape[1]
    return (2 * jnp.sum(luma(levels)) + pixels) // (2 * pixels)


def brightness(levels: jax.Array) -> jax.Array:
    """The image at factor 0 of brightness: black."""
    del levels
    return jnp.int32(0)


def sharpness(levels: jax.Array) -> jax.Array:
    """The image at factor 0 of sharpness: a 3 x 3 mean, centre weight 5; borders unchanged."""
    height, width, _ = levels.shape
    centre = levels.astype(jnp.int32)
    padded = jnp.pad(centre, ((1, 1), (1, 1), (0, 0)))
    total = 4 * centre
    for i in range(3):
        for j in range(3):
            total += padded[i : i + height, j : j + width]
    x, y = jnp.arange(width), jnp.arange(height)[:, None]
    interior = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    return jnp.where(interior[..., None], (2 * total + 13) // 26, centre)


ENHANCEMENTS = {
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}


def enhancement_factor(magnitude: Scalar) -> Scalar:
    """The factor of an enhancement: 0.1 at magnitude 0, 1 (no change) at 5, 1.9 at 10."""
    return magnitude / MAX_MAGNITUDE * ENHANCE_RANGE + ENHANCE_MIN


def blend(degenerate: jax.Array, levels: jax.Array, factor: Scalar) -> jax.Array:
    """`degenerate + factor (levels - degenerate)`, clipped and truncated to uint8; `[H, W, 3]`."""
    start = degenerate.astype(jnp.float32)
    mixed = start + factor * (levels.astype(jnp.float32) - start)
    return jnp.floor(jnp.clip(mixed, 0, 255) + HAIR).astype(jnp.uint8)


def autocontrast(histogram: jax.Array, magnitude: Scalar) -> jax.Array:
    """Table that stretches the levels in use to 0..255, unless there is only one."""
    del magnitude
    used = histogram > 0
    low, high = jnp.argmax(used), 255 - jnp.argmax(used[::-1])
    level = jnp.arange(256)
    stretched = 255 * (level - low) // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), level)


def equalize(histogram: jax.Array, magnitude: Scalar) -> jax.Array:
    """Table that makes all levels about equally frequent.

    It is the identity if fewer than 255 pixels are below the highest level in use.
    """
    del magnitude
    pixels, level = jnp.sum(histogram), jnp.arange(256)
    highest = 255 - jnp.argmax(histogram[::-1] > 0)
    step = (pixels - histogram[highest]) // 255
    below = jnp.cumsum(histogram) - histogram
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, level)


def solarize(histogram: jax.Array, magnitude: Scalar) -> jax.Array:
    """Table that inverts levels from a threshold on: all levels at magnitude 0, none at 10."""
    del histogram
    level = jnp.arange(256)
    threshold = jnp.floor(magnitude / MAX_MAGNITUDE * 256 + HAIR)
    return jnp.where(level < threshold, level, 255 - level)


def posterize(histogram: jax.Array, magnitude: Scalar) -> jax.Array:
    """Table that keeps the highest bits of a level: none (black) at magnitude 0, 4 at 10."""
    del histogram
    bits = jnp.floor(magnitude / MAX_MAGNITUDE * POSTERIZE_MAX_BITS + HAIR)
    shift = 8 - jnp.minimum(bits, 8).astype(jnp.int32)
    return jnp.arange(256) >> shift << shift


TABLES = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "solarize": solarize,
    "posterize": posterize,
}


def histograms(levels: jax.Array) -> jax.Array:
    """Pixels per channel and level: uint8 `[H, W, 3]` to int32 `[3, 256]`."""
    channel = jnp.arange(3)
    return jnp.zeros((3, 256), jnp.int32).at[channel, levels.astype(jnp.int32)].add(1)


def look_up(levels: jax.Array, tables: jax.Array) -> jax.Array:
    """Replaces each level of each channel; uint8 `[H, W, 3]`, `tables` integers `[3, 256]`."""
    return tables.astype(jnp.uint8)[jnp.arange(3), levels.astype(jnp.int32)]


def _choose(which: Scalar, group: Iterable[str], cases: list[jax.Array]) -> jax.Array:
    """Selects the result for `which`; the unchanged image if it is in another group."""
    names = ("", *group)
    places = [names.index(name) if name in names else 0 for name in OPERATIONS]
    return jax.lax.select_n(jnp.asarray(places)[which], *cases)


def apply_operation(
    levels: jax.Array, which: Scalar, magnitude: Scalar, sign: Scalar, fill: jax.Array
) -> jax.Array:
    """Applies one layer.

    Args:
      levels: uint8 `[H, W, 3]`.
      which: index in `OPERATIONS`.
      magnitude: M; strengths keep growing above 10, as in the released code.
      sign: direction of the geometric operations, 1 or -1.
      fill: uint8 level, or levels `[3]`, outside the image.

    Returns:
      uint8 `[H, W, 3]`.
    """
    strength = sign * magnitude / MAX_MAGNITUDE
    maps = [operation(strength, *levels.shape[:2]) for operation in GEOMETRIC.values()]
    levels = warp(levels, _choose(which, GEOMETRIC, [affine(1, 0, 0, 0, 1, 0), *maps]), fill)

    cases = [levels, *(operation(levels) for operation in ENHANCEMENTS.values())]
    cases = [jnp.broadcast_to(case.astype(jnp.uint8), levels.shape) for case in cases]
    levels = blend(_choose(which, ENHANCEMENTS, cases), levels, enhancement_factor(magnitude))

    unchanged = jnp.broadcast_to(jnp.arange(256), (3, 256))
    counts = histograms(levels)
    tables = [jax.vmap(operation, (0, None))(counts, magnitude) for operation in TABLES.values()]
    return look_up(levels, _choose(which, TABLES, [unchanged, *tables]))


def draw_operation(key: jax.Array, layer: Scalar) -> tuple[jax.Array, jax.Array]:
    """Draws the index in `OPERATIONS` and the sign of one layer with the key of an image."""
    key = jax.random.fold_in(key, layer)
    which = jax.random.randint(keys.named(key, "operation"), (), 0, len(OPERATIONS))
    return which, jax.random.rademacher(keys.named(key, "sign"), dtype=jnp.float32)


def randaugment(
    image: jax.Array,
    key: jax.Array,
    magnitude: Scalar = 9,
    num_layers: int = 2,
    fill: Scalar = GREY,
) -> jax.Array:
    """Draws `num_layers` operations and applies them in turn.

    Args:
      image: `[H, W, 3]` in [0, 1], rounded to 8 bits.
      key: PRNG key of this image.
      magnitude: M, 0 to 10, may be traced.
      num_layers: N; further layers change no draw of the first ones.
      fill: colour outside the image after a geometric operation, in [0, 1], a number or `[3]`.

    Returns:
      float32 `[H, W, 3]`, k / 255 for whole k, not yet normalised.
    """
    require(num_layers >= 0, f"num_layers={num_layers} must be at least 0")

    def add_layer(levels: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        which, sign = draw_operation(key, layer)
        return apply_operation(levels, which, magnitude, sign, to_levels(fill)), None

    # With a scan the program of a layer is compiled once.
    return from_levels(jax.lax.scan(add_layer, to_levels(image), jnp.arange(num_layers))[0])
