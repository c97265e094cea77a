"""Choosing the best of several values of a hyperparameter."""

import logging
from collections.abc import Sequence

_logger = logging.getLogger(__name__)


def end_of_grid(name: str, values: Sequence[float], best: float) -> str | None:
    """`low` or `high` where the best of several values lies at an end, else None.

    That is also logged as a warning, as a better value may lie outside.

    Args:
      name: of the number, as in `learning_rate`.
      values: those that were tried, in any order.
      best: one of them.
    """
    low, high = min(values), max(values)
    if low == high or best not in (low, high):
        return None
    end = "low" if best == low else "high"
    _logger.warning(
        "the best %s, %g, is at the %s end of the grid %g .. %g", name, best, end, low, high
    )
    return end
