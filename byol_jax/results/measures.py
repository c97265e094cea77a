"""The metrics of records: the unit of each, whether lower is better, and how it is printed."""

from collections.abc import Mapping
from typing import NamedTuple


class Measure(NamedTuple):
    """How the numbers of a metric are to be read.

    Attributes:
      unit: as in a record: `percent`, `m` (metres), or `1` for what has none.
      lower_is_better: whether it is an error, of which less is better.
      decimals: digits that are printed behind the point; None: three digits that count.
    """

    unit: str = "percent"
    lower_is_better: bool = False
    decimals: int | None = 1


# A metric that is not here has the unit of its record, and higher is better.
MEASURES: Mapping[str, Measure] = {
    # Labels of images: accuracies, and average precision (`scores`).
    **dict.fromkeys(("top1", "top5", "mean_per_class", "map_11", "top1_difference"), Measure()),
    "std_sqrt_dim": Measure("1"),
    # Segmentation (BYOL Table 4a), and detection, of which there are only printed numbers.
    **dict.fromkeys(("mIoU", "pixel_accuracy", "mean_accuracy", "weighted_iou"), Measure()),
    **dict.fromkeys(("ap50", "ap", "ap75"), Measure()),
    # Depth (BYOL Table 4b; log10 is of FCRN).
    **dict.fromkeys(("pct1.25", "pct1.25^2", "pct1.25^3"), Measure()),
    "rms": Measure("m", lower_is_better=True, decimals=3),
    "rel": Measure("1", lower_is_better=True, decimals=3),
    "log10": Measure("1", lower_is_better=True, decimals=3),
}


def of(metric: str, unit: str = "percent") -> Measure:
    """How a metric is read; one that has no row in `MEASURES` by its `unit` alone."""
    other = Measure(unit, decimals=1 if unit == "percent" else None)
    return MEASURES.get(metric, other)


def number(value: float, measure: Measure) -> str:
    """A value, or its standard error, without the unit."""
    if measure.decimals is None:
        return f"{value:.3g}"
    return f"{value:.{measure.decimals}f}"


def title(metric: str, measure: Measure) -> str:
    """A metric with its unit, as in `top1 (%)` and `rms (m, lower is better)`."""
    unit = "%" if measure.unit == "percent" else measure.unit
    return f"{metric} ({unit}{', lower is better' * measure.lower_is_better})"
