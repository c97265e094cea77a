"""AutoAugment's policy for ImageNet (Cubuk et al., 2019), of SimCLR Table 1 and App. B.3.

One of 25 pairs of operations is drawn, and each of the two is applied with a probability and at a
magnitude of its own. The operations are those of `randaugment`. Magnitudes mean what they do in
torchvision's `AutoAugmentPolicy.IMAGENET`: ten numbers, 0 to 9, spread evenly over the range of the
paper, from no effect to the strongest; enhancements also get a random sign. (In the released code
of RandAugment, posterize and solarize become weaker with the magnitude.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys
from byol_jax.augment import randaugment

Scalar = jax.Array | float

# For both operations of each pair: name, probability, magnitude (0 if it has none).
POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
# Largest magnitude in `POLICY`.
LARGEST = 9


class Layer(NamedTuple):
    """An operation as `randaugment.apply_operation` takes it.

    Attributes:
      which: index in `randaugment.OPERATIONS`.
      magnitude: magnitude on that module's scale.
      swing: the magnitude used is `magnitude + sign * swing`, with a random sign, 1 or -1.
    """

    which: int
    magnitude: float
    swing: float


def layer_of(name: str, magnitude: int) -> Layer:
    """Converts an operation of `POLICY` to the scale of `randaugment`."""
    top = randaugment.MAX_MAGNITUDE
    share = magnitude / LARGEST
    if name == "invert":
        return Layer(randaugment.OPERATIONS.index("solarize"), 0.0, 0.0)
    which = randaugment.OPERATIONS.index(name)
    if name in randaugment.ENHANCEMENTS:
        # The factor is 1 in the middle of the scale and 1 +- 0.9 at its ends.
        return Layer(which, top / 2, top / 2 * share)
    if name == "posterize":
        bits = 8 - round(share * 4)
        return Layer(which, top * bits / randaugment.POSTERIZE_MAX_BITS, 0.0)
    if name == "solarize":
        # Inverts levels of at least 255 (1 - share); integer arithmetic rounds that up exactly.
        threshold = -(-255 * (LARGEST - magnitude) // LARGEST)
        return Layer(which, top * threshold / 256, 0.0)
    return Layer(which, top * share, 0.0)


def _columns() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The policy as arrays `[25, 2]`: index of the operation, magnitude, swing, probability."""
    layers = [[layer_of(name, magnitude) for name, _, magnitude in pair] for pair in POLICY]
    which, magnitude, swing = np.moveaxis(np.array(layers, np.float32), -1, 0)
    probability = np.array([[p for _, p, _ in pair] for pair in POLICY], np.float32)
    return which.astype(np.int32), magnitude, swing, probability


def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws one of the pairs with the key of an image.

    Returns:
      For both operations, `[2]` each: the index in `randaugment.OPERATIONS` ("identity" if the
      operation is not applied), the magnitude on that module's scale, and the sign.
    """
    pair = jax.random.randint(keys.named(key, "pair"), (), 0, len(POLICY))
    which, magnitude, swing, probability = (jnp.asarray(x)[pair] for x in _columns())
    sign = jax.random.rademacher(keys.named(key, "sign"), (2,), jnp.float32)
    is_applied = jax.random.uniform(keys.named(key, "applied"), (2,)) < probability
    identity = randaugment.OPERATIONS.index("identity")
    return jnp.where(is_applied, which, identity), magnitude + sign * swing, sign


def autoaugment(image: jax.Array, key: jax.Array, fill: Scalar = randaugment.GREY) -> jax.Array:
    """Draws a pair of operations and applies them.

    Args:
      image: `[H, W, 3]` in [0, 1], rounded to 8 bits.
      key: PRNG key of this image.
      fill: colour outside the image after a geometric operation, in [0, 1], a number or `[3]`.

    Returns:
      float32 `[H, W, 3]`, k / 255 for whole k, not yet normalised.
    """
    outside = randaugment.to_levels(fill)

    def add_layer(
        levels: jax.Array, layer: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        return randaugment.apply_operation(levels, *layer, outside), None

    # With a scan the program of a layer is compiled once.
    levels = jax.lax.scan(add_layer, randaugment.to_levels(image), draw(key))[0]
    return randaugment.from_levels(levels)
