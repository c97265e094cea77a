"""Bilinear resizing of maps as two matrices, one for rows and one for columns.

There is no antialiasing: sizes are meant to grow. Two conventions say where the pixels of the new
map lie. With `align_corners` the centres of the outermost pixels coincide, so 33 pixels become 513
at exactly 16 per step (DeepLab's convention). With half pixels the outer edges coincide.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.objectives.normalize import at_least_float32


def weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    """Weight of each old pixel in each new one, float64 `[new, old]`; rows sum to 1.

    Args:
      old, new: number of pixels before and after.
      align_corners: which convention; see above.
    """
    places = np.arange(new, dtype=np.float64)
    if align_corners:
        places *= (old - 1) / max(new - 1, 1)
    else:
        # Beyond the outermost centres the outermost pixel goes on.
        places = np.clip((places + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(old)))


def resize(maps: jax.Array, size: tuple[int, int], align_corners: bool = True) -> jax.Array:
    """Maps of another size on the device: `[B, h, w, C]` -> `[B, H, W, C]`, float32 or wider.

    Args:
      maps: e.g. logits.
      size: (H, W).
      align_corners: which convention; see above.
    """
    chex.assert_rank(maps, 4)
    maps = at_least_float32(maps)
    rows, columns = (
        jnp.asarray(weights(old, new, align_corners), maps.dtype)
        for old, new in zip(maps.shape[1:3], size, strict=True)
    )
    # Accelerators would round the products to 8 bits of mantissa.
    exact = jax.lax.Precision.HIGHEST
    # Columns first: the wide map then has few rows.
    wide = jnp.einsum("bhwc,Ww->bhWc", maps, columns, precision=exact)
    return jnp.einsum("bhWc,Hh->bHWc", wide, rows, precision=exact)


def resize_on_host(
    maps: np.ndarray, size: tuple[int, int], align_corners: bool = False
) -> np.ndarray:
    """Maps of another size in numpy: float `[..., h, w]` -> float64 `[..., H, W]`."""
    rows, columns = (
        weights(old, new, align_corners) for old, new in zip(maps.shape[-2:], size, strict=True)
    )
    return rows @ maps @ columns.T
