"""Curves of `metrics.jsonl`, each with what a healthy one looks like (docs/protocols.md)."""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure

from byol_jax.results import healthy
from byol_jax.runtime.metrics import read_lines

# Points of a curve that are drawn: a picture has no more columns of pixels.
POINTS = 400
_SIZE = (4.6, 2.4)  # inches
_COLOURS = ("#1b6ca8", "#d1495b")


class Series(NamedTuple):
    """One value of a run over its steps.

    Attributes:
      steps: finished updates, int64 `[n]`, increasing.
      values: float64 `[n]`, all finite.
    """

    steps: np.ndarray
    values: np.ndarray


# By split and name, as in `("train", "loss")`.
Metrics = Mapping[tuple[str, str], Series]


class Curve(NamedTuple):
    """A picture of one or two values.

    Attributes:
      title: what is drawn, with its unit.
      names: names in `metrics.jsonl` and their words in the legend.
      healthy: what a healthy curve looks like, in sentences.
      split: `train`, or `test` for what is measured now and then.
    """

    title: str
    names: Mapping[str, str]
    healthy: str
    split: str = "train"


_LOSSES = {
    "byol": "From 0 to 8: 4 minus four times the mean cosine of prediction and target (Eq. 2 and "
    "its mirror, of l2-normalised vectors). It falls fast, then slowly, and may rise again while "
    "the target still changes. A low loss is no proof: a collapsed network has a loss of 0. Read "
    "it beside the spread.",
    "simsiam": "From -1 to 1: minus the mean cosine. It falls and levels off. A collapsed network "
    "has -1: read it beside the spread.",
}
_OTHER_LOSS = "It falls and levels off. Its scale depends on the temperature and on the batch size."

_CURVES = (
    Curve(
        "spread of the projections (std x sqrt(d))",
        {"projection_std": "std x sqrt(d)"},
        "About 1 when projections spread over the whole sphere, 0 when all images get the same "
        "one. Healthy runs may dip in the first steps, recover, and stay above "
        f"{healthy.SPREAD:g}. A value that stays below {healthy.LEAST_SPREAD:g} is a collapse.",
    ),
    Curve(
        "effective rank of the representation",
        {"embedding_rank": "RankMe"},
        "In how many directions the representations of some 512 images spread, in effect: from 1 "
        "to the number of those images or of dimensions, the smaller one. It falls from that of "
        "drawn weights in the first tenth of a run, and then rises or stays. A steady fall while "
        "the loss falls is a collapse into few directions; at "
        f"{healthy.LEAST_RANK:g} or less compare with the raw "
        "pixels before the representation is used. Ranks compare only between runs of one network "
        "and batch.",
    ),
    Curve(
        "alignment",
        {"alignment": "alignment"},
        "Squared distance of two views of one image, 0 to 2. It falls as the network learns to "
        "ignore the augmentations. Together with a uniformity near 0 a small value means collapse.",
    ),
    Curve(
        "uniformity",
        {"uniformity": "uniformity"},
        "0 if all images are one point, about -4 if they spread over the whole sphere. It falls, "
        "or stays clearly below 0.",
    ),
    Curve(
        "online probe: top-1 (%)",
        {"probe_top1": "top-1", "probe_top5": "top-5"},
        "A linear classifier that is trained along on labels, without a gradient into the network. "
        "It is of augmented training images, so it is no accuracy to report; it should rise.",
    ),
    Curve(
        "kNN on the scored images (%)",
        {"knn_top1": "top-1"},
        "Weighted nearest neighbours in the representation. It should rise above the untrained "
        "network and the raw pixels (table of results).",
        "test",
    ),
    Curve(
        "norms",
        {"embedding_norm": "representation", "projection_norm": "projection"},
        "Mean l2-norms. They drift slowly. A norm that grows without end, or falls to 0, comes "
        "before numbers that are not finite.",
    ),
    Curve(
        "learning rate",
        {"learning_rate": "learning rate"},
        "Linear warm-up, then the schedule of the recipe, by default a cosine to 0.",
    ),
    Curve(
        "tau",
        {"tau": "tau"},
        "How slowly the target follows the online network (Eq. 1): at 1 the target stands still. "
        "BYOL raises it to 1 by the end; other methods keep it.",
    ),
)


def curves_of(objective: str) -> tuple[Curve, ...]:
    """All curves of a run, the loss first, in the words of its objective."""
    words = _LOSSES.get(objective, _OTHER_LOSS)
    return (Curve(f"loss ({objective})", {"loss": "loss"}, words), *_CURVES)


def read(path: pathlib.Path) -> Metrics:
    """All values of `metrics.jsonl`, without nulls and without lines that cannot be read."""
    rows: dict[tuple[str, str], list[tuple[int, float]]] = {}
    lines, _ = read_lines(path)
    for _, fields in lines:
        step, split = int(fields.pop("step")), str(fields.pop("split", ""))
        for name, value in fields.items():
            if isinstance(value, int | float) and math.isfinite(value):
                rows.setdefault((split, name), []).append((step, float(value)))
    return {key: _series(points) for key, points in rows.items()}


def until(metrics: Metrics, step: int) -> Metrics:
    """The values of steps up to this one."""
    kept = {
        key: Series(*(part[series.steps <= step] for part in series))
        for key, series in metrics.items()
    }
    return {key: series for key, series in kept.items() if series.steps.size}


def _series(points: Sequence[tuple[int, float]]) -> Series:
    by_step = dict(points)  # of a step that was written twice the last counts
    steps = sorted(by_step)
    return Series(np.array(steps, np.int64), np.array([by_step[step] for step in steps]))


def thinned(series: Series, points: int = POINTS) -> Series:
    """A series of at most `points` points: means over neighbouring steps, at their mean step."""
    count = len(series.steps)
    if count <= points:
        return series
    parts = np.array_split(np.arange(count), points)
    return Series(
        np.array([round(series.steps[part].mean()) for part in parts], np.int64),
        np.array([series.values[part].mean() for part in parts]),
    )


def draw(curve: Curve, metrics: Metrics) -> str | None:
    """The curve as SVG, `<svg ...>`; None if the run has none of its values."""
    drawn = {
        label: thinned(metrics[curve.split, name])
        for name, label in curve.names.items()
        if (curve.split, name) in metrics
    }
    if not drawn:
        return None
    # Text stays text, and names of elements are the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.title}):
        sheet = figure.Figure(figsize=_SIZE, layout="constrained")
        axis = sheet.subplots()
        for (label, series), colour in zip(drawn.items(), _COLOURS, strict=False):
            marker = "o" if len(series.steps) < 30 else ""
            axis.plot(
                series.steps,
                series.values,
                color=colour,
                label=label,
                marker=marker,
                markersize=3,
                linewidth=1.4,
            )
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(drawn) > 1:
            axis.legend(frameon=False, fontsize="small")
        out = io.StringIO()
        sheet.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]
