"""One self-contained page of HTML from its contents: no network, no other file."""

import base64
import importlib.resources
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

# Beside this module.
_TEMPLATE = "report.html.jinja"


class Sprite(NamedTuple):
    """Many small pictures in one.

    Attributes:
      uri: the picture of all, as a data URI.
      side: side of a small picture in pixels.
      columns: small pictures per row.
      rows: rows of small pictures.
    """

    uri: str
    side: int
    columns: int
    rows: int


def data_uri(pixels: np.ndarray, quality: int = 80) -> str:
    """A picture as a data URI: PNG up to 32 pixels of side, where JPEG would blur it, else JPEG.

    Args:
      pixels: uint8 `[H, W, 3]`.
      quality: that of JPEG.
    """
    kind = "png" if max(pixels.shape[:2]) <= 32 else "jpeg"
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrinks a picture to a longer side of `side` pixels at most; pixels are averaged."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        return pixels
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def sprite(pictures: Sequence[np.ndarray], side: int) -> Sprite:
    """Square pictures as one.

    Args:
      pictures: uint8 `[S, S, 3]` each, one or more.
      side: largest side of a small picture.
    """
    small = [shrunk(picture, side) for picture in pictures]
    side = small[0].shape[0]
    columns = int(np.ceil(np.sqrt(len(small))))
    rows = -(-len(small) // columns)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for i, picture in enumerate(small):
        top, left = i // columns * side, i % columns * side
        sheet[top : top + side, left : left + side] = picture
    return Sprite(data_uri(sheet, quality=70), side, columns, rows)


def render(**contents: Any) -> str:
    """The page.

    Args:
      **contents: what the template asks for. Text is escaped there; only SVG of our own is not.
    """
    source = importlib.resources.files("byol_jax.results") / _TEMPLATE
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source.read_text(encoding="utf-8")).render(**contents)
