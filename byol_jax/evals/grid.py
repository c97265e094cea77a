"""The choice among several values of a hyperparameter."""

import logging
import math
from collections.abc import Sequence

_logger = logging.getLogger(__name__)


def choose(
    scores: Sequence[float | None],
    caution: Sequence[tuple[float, ...]],
    lower_is_better: bool = False,
) -> int:
    """The index of the best score; of equal ones that of the most cautious setting.

    Cautious is what fits the training images less: the larger penalty, then the lower rate, then
    the fewer epochs. The papers do not say how they decide.

    Args:
      scores: validation scores; None for a training that diverged. One at least is a number.
      caution: for each score, numbers that are compared from the first on; the larger, the more
        cautious.
      lower_is_better: whether the scores are errors, such as a root mean square.
    """
    sign = -1 if lower_is_better else 1
    keys = [
        (-math.inf if score is None else sign * score, numbers)
        for score, numbers in zip(scores, caution, strict=True)
    ]
    return max(range(len(keys)), key=keys.__getitem__)


def end_of_grid(name: str, values: Sequence[float], best: float) -> str | None:
    """`low` or `high` if the best of several values is an end of their range, else None.

    An end is logged as a warning, since a better value may lie outside.

    Args:
      name: name of the hyperparameter, as in `learning_rate`.
      values: values that were tried, in any order.
      best: the best one of them.
    """
    low, high = min(values), max(values)
    if low == high or best not in (low, high):
        return None
    end = "low" if best == low else "high"
    _logger.warning(
        "the best %s, %g, is at the %s end of the grid %g .. %g", name, best, end, low, high
    )
    return end
