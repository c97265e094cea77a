"""Tiny sets with a target per pixel: files as users have them, and sets in memory."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from byol_jax.data.dense.sets import DenseSet, Sample


def palette() -> list[int]:
    """The colours of VOC's masks, `[768]`.

    Of an index each third bit, lowest first, is one of red, green or blue, highest first.
    """
    index, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((index >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours.ravel().tolist()


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Random pixels, uint8 `[H, W, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_image(path: pathlib.Path, pixels: np.ndarray) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_palette(path: pathlib.Path, indices: Sequence[Sequence[int]] | np.ndarray) -> pathlib.Path:
    """Saves class indices as VOC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(palette())
    assert image.mode == "P"
    image.save(path)
    return path


def save_list(path: pathlib.Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def in_memory(samples: Sequence[Sample], kind: str = "masks", classes: int = 3) -> DenseSet:
    """A set of samples that are there already."""
    return DenseSet(
        name="tiny",
        kind=kind,
        size=len(samples),
        read=lambda i: samples[i],
        describe=lambda i: f"tiny {i}",
        name_of=str,
        shape_of=lambda i: samples[i].target.shape,
        classes=tuple(map(str, range(classes))) if kind == "masks" else (),
    )
