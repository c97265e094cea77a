"""What healthy curves of a run are, in numbers: one set of rules for the watchdog and the report.

The numbers are from runs of the digits (experiments/digits.py, 600 updates). The spread of a
healthy run stays between 0.73 and 0.88, and its rank between 8 and 14 of 24. Without a predictor
the spread is below 0.2 from step 40 on, and 0.05 at the end; with the online network as the target,
or tau 0, it is below 0.03 from step 60 on, the rank falls to 2, and the probe stays at chance.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

# std x sqrt(d): healthy runs stay above the first, and one below the second has collapsed.
SPREAD, LEAST_SPREAD = 0.5, 0.2
# RankMe of the representation: the largest rank that is doubtful, and the largest share of all
# that a rank can be, for representations of a few numbers.
LEAST_RANK, LEAST_SHARE = 5.0, 0.2
# Where images share a point, by uniformity and alignment together.
UNIFORM, ALIGNED = -0.05, 0.05
# Times chance: the accuracy of a probe that has learnt nothing.
GUESS = 1.3


class Sizes(NamedTuple):
    """What logs are compared with.

    Attributes:
      classes: number of classes of the online probe; 0 without labels.
      images: whose share the probe's accuracy is, over all steps of a mean.
      largest_rank: number of embedded images or of their dimensions, the smaller one.
      is_supervised: whether the objective learns from labels. Then images of a class may share a
        point, and the rank may be as low as the number of classes.
    """

    classes: int
    images: int
    largest_rank: int
    is_supervised: bool = False


def enough_images(classes: int) -> int:
    """How many images tell a guess from more: its standard error is then a tenth of chance."""
    return 100 * (classes - 1)


def unhealthy(values: Mapping[str, float], sizes: Sizes) -> dict[str, str]:
    """What a collapsed network shows in the logs of a step, by kind, in words.

    One step is no proof: a probe is right by chance, and a spread may dip. Logs that are missing
    say nothing.

    Args:
      values: means of logs, as in `metrics.jsonl`.
      sizes: what they are compared with.
    """
    found = {}
    spread = values.get("projection_std", math.nan)
    if spread < LEAST_SPREAD:
        found["spread"] = f"the spread of the projections (std x sqrt(d)) is {spread:.2g}, not 1"
    rank = values.get("embedding_rank", math.nan)
    if not sizes.is_supervised and rank <= min(LEAST_RANK, LEAST_SHARE * sizes.largest_rank):
        found["rank"] = (
            f"representations spread in {rank:.1f} of {sizes.largest_rank} directions, in effect"
        )
    uniform, aligned = (values.get(name, math.nan) for name in ("uniformity", "alignment"))
    if not sizes.is_supervised and uniform > UNIFORM and aligned < ALIGNED:
        found["point"] = f"all representations are nearly one point (uniformity {uniform:.2g})"
    top1 = values.get("probe_top1", math.nan)
    chance = 100 / max(sizes.classes, 1)
    is_known = sizes.classes > 1 and sizes.images >= enough_images(sizes.classes)
    if is_known and top1 < GUESS * chance:
        found["probe"] = f"the online probe is right for {top1:.1f} % of the images, as a guess is"
    return found
