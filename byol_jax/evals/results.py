"""The records of `results.json`: an accuracy never stands without its protocol."""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from byol_jax.errors import UserError, require

_logger = logging.getLogger(__name__)

# In the order of a table: what was there before training first.
NETWORKS = ("pixels", "random", "target", "online")
_TRAINED = ("target", "online")


class Record(NamedTuple):
    """One number and all that is needed to compare it.

    `metric` as `top1`; `value` in `unit` (accuracies in `percent`); `protocol` as `linear`,
    `linear/2-per-class`, `knn`; `network` one of `NETWORKS` (`random` is untrained); `n_examples`
    of `split` were scored; `checkpoint_step` is None where no checkpoint was read; `settings` holds
    what else the protocol left open, and `standard_error`, in `unit`, where there is one.
    """

    metric: str
    value: float
    unit: str
    protocol: str
    network: str
    dataset: str
    split: str
    n_examples: int
    checkpoint_step: int | None
    seed: int
    settings: dict[str, Any]


def identity(record: Record) -> tuple[Any, ...]:
    """What tells two records of a file apart; a newer record replaces the one with the same.

    The solver belongs to it: linear evaluation by SGD and by L-BFGS are two protocols of one name.
    So does the row of a paper's table that the number stands for.
    """
    return (
        record.metric,
        record.protocol,
        record.settings.get("solver"),
        record.settings.get("paper_table"),
        record.settings.get("paper_row"),
        record.network,
        record.dataset,
        record.split,
        record.checkpoint_step,
        record.seed,
    )


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


def validate(record: Record) -> None:
    """Checks the words and numbers of a record.

    Raises:
        ValueError: a word is empty, the network is not one of `NETWORKS`, the value is not finite,
            or there are no examples.
    """
    for field in ("metric", "unit", "protocol", "network", "dataset", "split"):
        word = getattr(record, field)
        if not isinstance(word, str) or not word:
            raise ValueError(f"a record's {field} must be a word, not {word!r}")
    if record.network not in NETWORKS:
        raise ValueError(f"a record's network is one of {', '.join(NETWORKS)}: {record.network!r}")
    if not math.isfinite(record.value):
        raise ValueError(f"a record's value must be finite, not {record.value}")
    if record.n_examples < 1:
        raise ValueError(f"a record's n_examples must be 1 or more, not {record.n_examples}")
    if not isinstance(record.settings, dict):
        raise ValueError(f"a record's settings must be a dict, not {record.settings!r}")


def _to_plain(value: Any) -> Any:
    """JSON's fallback: scalars and arrays of numpy and JAX."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON: {value!r}")


def read_results(path: str | os.PathLike[str]) -> list[Record]:
    """Reads the records of a file that `write_results` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    path = Path(path)
    require(path.is_file(), f"{path}: no such file, an evaluation job writes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError("no list")
        records = [Record(**fields) for fields in content]
        for record in records:
            validate(record)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a list of result records ({reason}): mend it or move it away"
        ) from error
    return records


def write_results(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Adds records to a JSON file, all or nothing; what the file held stays, save same identities.

    Raises:
        UserError: the file holds something else than records; it is left as it is.
        ValueError: a record is not valid, or two of `records` have one identity.
    """
    path = Path(path)
    for record in records:
        validate(record)
    new = {identity(record) for record in records}
    if len(new) != len(records):
        raise ValueError("two records with the same identity: one number would be lost")
    old = read_results(path) if path.exists() else []
    merged = [*(record for record in old if identity(record) not in new), *records]
    fields = [record._asdict() for record in merged]
    text = json.dumps(fields, indent=2, allow_nan=False, default=_to_plain) + "\n"

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
