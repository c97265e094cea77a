"""The choice among several values of a hyperparameter."""

import logging
from collections.abc import Sequence

_logger = logging.getLogger(__name__)


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
