"""Records and rows of text as tables."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from byol_jax.results import measures
from byol_jax.results.records import NETWORKS, Record

_TRAINED = ("target", "online")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of text as lines with aligned columns, two spaces apart.

    Args:
      rows: cells, as many in each row; the first row is the header.
      left: columns of words, which start on the left; others end on the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as the lines of a Markdown table, readable as they stand.

    Args:
      rows: cells, as many in each row; the first row is the header. Only the last column is not
        padded, as it may hold sentences.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = len(rows[0][-1])
    rule = ["-" * width for width in widths]
    return [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in (rows[0], rule, *rows[1:])]


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign; one that rounds to zero is +0.0."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def difference(metric: str, ours: float, theirs: float, decimals: int = 1) -> str:
    """Ours minus theirs with its sign, and a word where the sign misleads, since less is better.

    As in `-16.3` for accuracies, and in `-0.012 (better)` for errors.
    """
    text = signed(ours - theirs, decimals)
    if not measures.of(metric).lower_is_better or not float(text):
        return text
    return f"{text} ({'better' if ours < theirs else 'worse'})"


def notes(records: Collection[Record]) -> list[str]:
    """Lines below a table, for columns whose numbers do not speak for themselves."""
    if not any(record.metric == "std_sqrt_dim" for record in records):
        return []
    return [
        "std_sqrt_dim is how far the projections of different images are spread, std x sqrt(d): "
        "1 = over the whole sphere, 0 = collapsed into one point"
    ]


def value_of(record: Record) -> str:
    """The value of a record with its standard error, if it has one, and without the unit."""
    measure = measures.of(record.metric, record.unit)
    value, error = measures.number(record.value, measure), record.settings.get("standard_error")
    return value if error is None else f"{value} +- {measures.number(error, measure)}"


# Protocol, solver, metric, unit.
_Column = tuple[str, str, str, str]


def _column(record: Record) -> _Column:
    return record.protocol, record.settings.get("solver") or "", record.metric, record.unit


def _header(column: _Column, columns: Sequence[_Column]) -> str:
    """The heading of a column, with its solver only where another column has the same protocol."""
    protocol, solver, metric, unit = column
    solvers = {c[1] for c in columns if c[0] == protocol}
    by = f" by {solver}" if len(solvers) > 1 and solver else ""
    return f"{protocol}{by} {measures.title(metric, measures.of(metric, unit))}"


class Block(NamedTuple):
    """A table of records that share their data set, split, seed and step.

    Attributes:
      caption: what they share, in words.
      rows: cells; the first row is the header, the first column the network.
    """

    caption: str
    rows: list[list[str]]


def _block(records: Sequence[Record], step: int | None) -> Block:
    columns = list(dict.fromkeys(map(_column, records)))
    cells = {(r.network, *_column(r)): r for r in records}
    networks = [name for name in NETWORKS if any(r.network == name for r in records)]
    rows = [["network", *(_header(column, columns) for column in columns)]]
    for name in networks:
        own = [cells.get((name, *column)) for column in columns]
        rows.append([name, *("-" if record is None else value_of(record) for record in own)])
    counts = " or ".join(str(count) for count in sorted({r.n_examples for r in records}))
    caption = (
        f"{records[0].dataset}, {records[0].split} split, {counts} examples, "
        f"checkpoint step {'-' if step is None else step}, seed {records[0].seed}"
    )
    return Block(caption, rows)


def format_table(records: Sequence[Record]) -> str:
    """The blocks of `blocks_of` as aligned text, each below its caption."""
    return "\n\n".join(
        "\n".join([block.caption, *aligned(block.rows)]) for block in blocks_of(records)
    )


def blocks_of(records: Sequence[Record]) -> list[Block]:
    """Tables with a row per network and a column per protocol and metric.

    Each dataset, split, seed and checkpoint step has its own table. Records of `pixels` and
    `random` depend on no training, so they are in the tables of all steps, unless their
    `checkpoint_step` names one of them.
    """
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.dataset, record.split, record.seed), []).append(record)
    blocks = []
    for group in groups.values():
        steps = {r.checkpoint_step for r in group if r.network in _TRAINED} or {None}
        for step in sorted(steps, key=lambda step: -1 if step is None else step):
            blocks.append(
                _block(
                    [
                        r
                        for r in group
                        if r.checkpoint_step == step
                        or (r.network not in _TRAINED and r.checkpoint_step not in steps)
                    ],
                    step,
                )
            )
    return blocks
