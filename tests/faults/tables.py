"""What the scripts of this folder print: one row per kind of fault, and how it ended."""

from collections import Counter
from collections.abc import Iterable


def table(outcomes: Iterable[tuple[str, str]], columns: Iterable[str]) -> str:
    """Counts of outcomes as text.

    Args:
      outcomes: for each fault its kind and how it ended.
      columns: the ways to end, in order; others follow by name.
    """
    pairs = list(outcomes)
    kinds = list(dict.fromkeys(kind for kind, _ in pairs))
    ends = list(dict.fromkeys([*columns, *sorted({end for _, end in pairs})]))
    counts = Counter(pairs)
    rows = [["fault", "tried", *ends]]
    for kind in kinds:
        tried = sum(1 for other, _ in pairs if other == kind)
        rows.append([kind, str(tried), *(str(counts[kind, end]) for end in ends)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
