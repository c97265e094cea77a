"""Records and rows of text as tables."""

from collections.abc import Sequence

from byol_jax.results.records import NETWORKS, Record

_TRAINED = ("target", "online")


def _cell(record: Record | None) -> str:
    if record is None:
        return "-"
    error = record.settings.get("standard_error")
    return f"{record.value:.1f}" if error is None else f"{record.value:.1f} +- {error:.1f}"


# Protocol, solver, metric, unit.
_Column = tuple[str, str, str, str]


def _column(record: Record) -> _Column:
    return record.protocol, record.settings.get("solver") or "", record.metric, record.unit


def _header(column: _Column, columns: Sequence[_Column]) -> str:
    """Names the solver only where the same protocol stands there twice."""
    protocol, solver, metric, unit = column
    solvers = {c[1] for c in columns if c[0] == protocol}
    by = f" by {solver}" if len(solvers) > 1 and solver else ""
    return f"{protocol}{by} {metric} ({'%' if unit == 'percent' else unit})"


def _block(records: Sequence[Record], step: int | None) -> str:
    """One table, of records that share their dataset, split and seed."""
    columns = list(dict.fromkeys(map(_column, records)))
    cells = {(r.network, *_column(r)): r for r in records}
    networks = [name for name in NETWORKS if any(r.network == name for r in records)]
    rows = [["network", *(_header(column, columns) for column in columns)]]
    rows += [
        [name, *(_cell(cells.get((name, *column))) for column in columns)] for name in networks
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) + 1)]
    counts = " or ".join(str(count) for count in sorted({r.n_examples for r in records}))
    caption = (
        f"{records[0].dataset}, {records[0].split} split, {counts} examples, "
        f"checkpoint step {'-' if step is None else step}, seed {records[0].seed}"
    )
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([caption, *lines])


def format_table(records: Sequence[Record]) -> str:
    """Aligned text: a row per network, a column per protocol and metric, a caption above.

    Each dataset, split, seed and checkpoint step has a table of its own. Records of `pixels` and
    `random` depend on no training, so they stand in the tables of all steps, unless their
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
    return "\n\n".join(blocks)
