"""Masks and depths as files: pictures beside the images, palette PNGs, depth in millimetres."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import axes, figure, patches
from PIL import Image

from byol_jax.errors import GuardError
from byol_jax.runtime import disk

# The index of pixels without a class.
VOID = 255
# Millimetres that 16 bits hold; 0 is a pixel without a depth.
_DEEPEST = 2**16 - 1
# Height of a row in inches, pixels per inch, colours of classes in the legend.
_ROW, _DPI, _LEGEND = 2.0, 100, 24
# What a pixel without a depth looks like: no colour of the map.
_NO_DEPTH = "lightgrey"
_MAP = "viridis"  # perceptually uniform: equal steps of depth look equal


class Example(NamedTuple):
    """An image beside what is known and predicted of it.

    Attributes:
      image: uint8 `[H, W, 3]`.
      prediction: classes, uint8 `[h, w]`; or depths in metres, float `[h, w]`.
      truth: the same, with `VOID`, or 0, where nothing is known; None without a truth.
    """

    image: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray | None = None


def palette() -> np.ndarray:
    """The colours of VOC's masks, uint8 `[256, 3]`.

    Of an index each third bit, lowest first, is one of red, green or blue, highest first.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((index >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def draw_masks(path: pathlib.Path, examples: Sequence[Example], classes: Sequence[str]) -> None:
    """Writes a PNG with a row per example: image, truth, prediction, in the colours of VOC.

    Args:
      path: the file.
      examples: images with masks.
      classes: names of the classes; those that occur are named below.
    """
    colours = palette()

    def show(axis: axes.Axes, mask: np.ndarray, _: Example) -> None:
        axis.imshow(colours[mask], interpolation="nearest")

    sheet = _sheet(examples, show)
    shown = [part for e in examples for part in (e.prediction, e.truth) if part is not None]
    present = sorted({*np.concatenate([np.unique(mask) for mask in shown]).tolist()})
    handles = [
        patches.Patch(facecolor=colours[k] / 255, edgecolor="grey", label=_name_of(k, classes))
        for k in present[:_LEGEND]
    ]
    sheet.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")
    _write(sheet, path)


def _name_of(index: int, classes: Sequence[str]) -> str:
    if index == VOID:
        return "void"
    return classes[index] if index < len(classes) else str(index)


def draw_depths(path: pathlib.Path, examples: Sequence[Example]) -> None:
    """Writes a PNG with a row per example: image, truth, prediction, with a scale in metres.

    A row has one scale, that of its truth, or else of its prediction. Pixels without a depth are
    grey.
    """

    def show(axis: axes.Axes, depths: np.ndarray, example: Example) -> None:
        known = example.prediction if example.truth is None else example.truth
        values = known[known > 0]
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        shown = axis.imshow(
            np.ma.masked_less_equal(depths, 0), cmap=_MAP, vmin=low, vmax=high, interpolation="none"
        )
        axis.set_facecolor(_NO_DEPTH)
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])
        if depths is example.prediction:
            bar = axis.figure.colorbar(shown, ax=axis, fraction=0.04, pad=0.02)
            bar.set_label("m")

    _write(_sheet(examples, show), path)


def _sheet(
    examples: Sequence[Example], show: Callable[[axes.Axes, np.ndarray, Example], None]
) -> figure.Figure:
    """A row per example; the column of truths only where there is one."""
    has_truth = any(example.truth is not None for example in examples)
    titles = ["image", *["truth"] * has_truth, "prediction"]
    size = 1.5 * _ROW * len(titles), _ROW * len(examples) + 0.6
    sheet = figure.Figure(figsize=size, dpi=_DPI, layout="constrained")
    for row, example in zip(
        sheet.subplots(len(examples), len(titles), squeeze=False), examples, strict=True
    ):
        parts = [example.image, *[example.truth] * has_truth, example.prediction]
        for axis, title, part in zip(row, titles, parts, strict=True):
            axis.set_axis_off()
            if axis.get_subplotspec().is_first_row():
                axis.set_title(title)
            if part is None:
                continue
            if title == "image":
                axis.imshow(part, interpolation="nearest")
            else:
                show(axis, part, example)
    return sheet


def _write(sheet: figure.Figure, path: pathlib.Path) -> None:
    with disk.replacing(path) as file:
        sheet.savefig(file, format="png")


def write_mask(path: pathlib.Path, mask: np.ndarray) -> None:
    """Writes classes, uint8 `[h, w]`, as a PNG whose indices they are, in the colours of VOC."""
    image = Image.fromarray(mask, "P")
    image.putpalette(palette().ravel().tolist())
    with disk.replacing(path) as file:
        image.save(file, format="PNG")


def write_depth(path: pathlib.Path, metres: np.ndarray) -> int:
    """Writes depths as a PNG of 16 bits in millimetres; 0 is a pixel without a depth.

    Args:
      path: the file.
      metres: float `[h, w]`, 0 where there is none.

    Returns:
      The number of pixels that are deeper than 65.535 m, which is what they are written as.

    Raises:
      GuardError: a depth is not finite.
    """
    if not np.isfinite(metres).all():
        raise GuardError(
            f"{path}: a depth is not finite, and is not written: train the network anew"
        )
    millimetres = np.rint(1000 * metres.astype(np.float64))
    deep = int(np.sum(millimetres > _DEEPEST))
    image = Image.fromarray(np.clip(millimetres, 0, _DEEPEST).astype(np.uint16))
    with disk.replacing(path) as file:
        image.save(file, format="PNG")
    return deep
