"""Random crop boxes (BYOL App. C) from uniforms; one rule for numpy, JAX and TensorFlow."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from byol_jax.errors import require

# Share of the image's area, and width over height (App. C).
AREA_RANGE = (0.08, 1.0)
ASPECT_RANGE = (3 / 4, 4 / 3)


def check_ranges(area_range: tuple[float, float], aspect_range: tuple[float, float]) -> None:
    """Checks the ranges of `random_resized_boxes`.

    Raises:
      UserError: unless 0 < low <= high (and high <= 1 for the area).
    """
    low, high = area_range
    require(
        0 < low <= high <= 1,
        f"crop area range {low}..{high} must have 0 < low <= high <= 1 (the paper: 0.08..1)",
    )
    low, high = aspect_range
    require(
        0 < low <= high,
        f"crop aspect range {low}..{high} must have 0 < low <= high (the paper: 3/4..4/3)",
    )


def random_resized_boxes(
    uniforms: np.ndarray,
    heights: ArrayLike,
    widths: ArrayLike,
    *,
    area_range: tuple[float, float] = AREA_RANGE,
    aspect_range: tuple[float, float] = ASPECT_RANGE,
) -> np.ndarray:
    """Turns uniforms `[..., 4]` in [0, 1) into boxes (y, x, h, w), int32 `[..., 4]` (BYOL App. C).

    The uniforms determine area, aspect, y and x. The area fraction is uniform, the aspect (w / h)
    log-uniform, the offset uniform over all valid pixel positions.

    Args:
      uniforms: `[..., 4]`.
      heights, widths: size of the image in pixels, broadcast against `[...]`.
      area_range: range of the box's share of the area.
      aspect_range: range of the box's width over height.

    Raises:
      UserError: a range is empty or out of bounds.
    """
    check_ranges(area_range, aspect_range)
    uniforms = np.asarray(uniforms, np.float64)
    heights, widths = np.asarray(heights), np.asarray(widths)
    boxes: np.ndarray = box_rule(np, uniforms, heights, widths, area_range, aspect_range)
    return boxes


def box_rule(
    library: Any,
    uniforms: Any,
    heights: Any,
    widths: Any,
    area_range: tuple[Any, Any] = AREA_RANGE,
    aspect_range: tuple[Any, Any] = ASPECT_RANGE,
) -> Any:
    """The rule of `random_resized_boxes` in a library with numpy's names; arguments may be traced.

    Ranges are not checked. In float32 a side or an offset may differ by one pixel from float64.
    """
    u_area, u_aspect, u_y, u_x = library.moveaxis(uniforms, -1, 0)

    area = (area_range[0] + u_area * (area_range[1] - area_range[0])) * heights * widths
    log_low, log_high = library.log(library.asarray(aspect_range))
    aspect = library.exp(log_low + u_aspect * (log_high - log_low))
    # A side longer than the image's is clipped, not drawn again: retries would need an unknown
    # number of uniforms, and the authors' code clips too (mean area 0.52 in place of 0.54).
    h = library.clip(library.rint(library.sqrt(area / aspect)), 1, heights)
    w = library.clip(library.rint(library.sqrt(area * aspect)), 1, widths)
    y = library.floor(u_y * (heights - h + 1))
    x = library.floor(u_x * (widths - w + 1))
    return library.asarray(library.stack([y, x, h, w], axis=-1), library.int32)
