"""The job `ablate`: trains the rows of an ablation table, and prints them beside the paper's."""

import functools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from byol_jax import checks, method, prepare, train, weights
from byol_jax.errors import Diverged, UserError, require
from byol_jax.jobs import failures, overrides
from byol_jax.results import tables
from byol_jax.results.records import Record, check_place, publish, read_results
from byol_jax.runtime import disk, metrics, processes

_logger = logging.getLogger(__name__)

# Columns of a table, all of the online network: heading, protocol, metric.
COLUMNS = (
    ("linear", "linear", "top1"),
    ("few labels", "linear/2-per-class", "top1"),
    ("kNN", "knn", "top1"),
    ("std", "projection", "std_sqrt_dim"),
)
# Below this spread a projection is a single point up to rounding (docs/protocols.md).
COLLAPSED = 0.05


class Run(NamedTuple):
    """One row with one seed.

    Attributes:
      row: index of the row in the table.
      config: resolved config of the pre-training.
      folder: its workdir.
    """

    row: int
    config: ml_collections.ConfigDict
    folder: pathlib.Path


def plan(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Run]:
    """All rows with all seeds, rows outermost.

    Raises:
      UserError: a row lacks the key of an override, or a folder holds another run.
    """
    changes = overrides.parse_pairs("override", config.override)
    runs = []
    for place, row in enumerate(config.rows):
        for i in range(config.seeds):
            run_config = ml_collections.ConfigDict(row["config"])
            applied = overrides.apply(run_config, changes)
            for key in changes:
                here = checks.moved(key)
                require(not here, f"config.override: {key} has moved: it is now {here}")
                is_applied = any(change.startswith(f"{key}=") for change in applied)
                require(is_applied, f"config.override: a row has no key {key}")
            method.name_labels(run_config)  # as in the config.json of the run
            run_config.seed += i
            name = f"{config.base}-{row['method']}-row{row['row']}"
            folder = workdir / f"table{config.table}" / name / f"seed{run_config.seed}"
            runs.append(Run(place, run_config, folder))
    for run in runs:
        check_place(run.folder)
        path = run.folder / "config.json"
        if path.exists():
            old = weights.upgrade_config(_read_config(path))
            default = config.rows[run.row]["config"] | {"seed": run.config.seed}
            differing = checks.differing(old, run.config.to_dict(), default)
            require(
                not differing,
                f"{run.folder} holds a run with other settings ({'; '.join(differing)}): give "
                "another --workdir, or move it away",
            )
    return runs


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """The config of a run.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("no config")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} does not hold the config of a run ({reason}): mend it or move it away"
        ) from error
    return config


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `ablate`: trains the missing runs, prints the table, writes json and table.md.

    A row that diverges is a result. One that fails for another reason is listed, and the others go
    on; the same command tries it again.

    Raises:
      UserError: before anything is trained; if no row can be trained, with the reasons; or, after
        all others, of rows that were refused.
      GuardError: rows failed, after all others were trained.
    """
    runs = plan(config, workdir)
    reasons: dict[int, str] = {}
    for row_run in runs:
        try:
            prepare.check(row_run.config)
        except UserError as error:
            reasons[row_run.row] = str(error)
    why = "; ".join(dict.fromkeys(reasons.values()))
    require(
        len(reasons) < len(config.rows), f"no row of table {config.table} can be trained: {why}"
    )
    is_first = processes.is_first_process()
    if is_first:
        metrics.write_config(workdir, config.to_dict())
    table = workdir / "table.md"
    failed: dict[str, failures.Failure] = {}
    for number, row_run in enumerate(runs, start=1):
        if row_run.row in reasons or _state(row_run.folder) != "not run":
            continue
        _logger.info("run %d of %d: %s", number, len(runs), row_run.config.recipe)
        _, failure = failures.attempt(_name(row_run), functools.partial(_train, row_run))
        if failure:
            failed[_name(row_run)] = failure
        if is_first:  # brought up to date after each: the next may take days
            disk.write_text(table, _table(config, runs, reasons, failed))
    if is_first:
        publish(workdir, _records(config, runs), _table(config, runs, reasons, failed))
        disk.write_text(table, _table(config, runs, reasons, failed))
        print(f"written: {table}", flush=True)
    failures.raise_any(failed, f"runs of table {config.table}", len(runs))


def _name(row_run: Run) -> str:
    """As in `digits-byol-row1, seed 1337`."""
    return f"{row_run.folder.parent.name}, seed {row_run.config.seed}"


def _train(row_run: Run) -> None:
    """Trains a run, or goes on with it; one that diverged says so in a file."""
    try:
        train.pretrain(row_run.config, row_run.folder)
    except Diverged as error:
        _logger.warning("%s", error)
        if processes.is_first_process():
            disk.write_text(row_run.folder / "diverged.txt", f"{error}\n")


def _records(config: ml_collections.ConfigDict, runs: Sequence[Run]) -> list[Record]:
    """Records of the online networks, each with its row and the paper's numbers."""
    records = []
    for row_run in runs:
        if _state(row_run.folder) != "evaluated":
            continue
        row = config.rows[row_run.row]
        paper = {
            "paper_table": config.table,
            "paper_row": f"{row['row']} ({row['method']}): {row['name']}",
            "paper_numbers": dict(row["numbers"]),
            "base": config.base,
            "override": config.override,
        }
        records += [
            record._replace(settings=record.settings | paper)
            for record in read_results(row_run.folder / "results.json")
            if record.network == "online"
        ]
    return records


def _state(folder: pathlib.Path) -> str:
    """`evaluated`, `diverged`, `not evaluated` (too large to evaluate itself) or `not run`.

    Checkpoints that cannot be used are those of a run that is not done: its training says why, and
    goes on from an earlier one if it may.
    """
    for name, state in (("results.json", "evaluated"), ("diverged.txt", "diverged")):
        if (folder / name).exists():
            return state
    try:
        found = weights.read_newest_record(folder / "checkpoints")
    except UserError:
        return "not run"
    if found and found[0] >= found[1]["total_steps"]:
        return "not evaluated"
    return "not run"


def _table(
    config: ml_collections.ConfigDict,
    runs: Sequence[Run],
    reasons: Mapping[int, str],
    failed: Mapping[str, failures.Failure],
) -> str:
    """The table as it stands."""
    names = list(dict.fromkeys(name for row in config.rows for name in row["numbers"]))
    header = ["row", "what", *(f"paper {name}" for name in names)]
    header += [heading for heading, _, _ in COLUMNS]
    rows = [header]
    for place, row in enumerate(config.rows):
        folders = [row_run.folder for row_run in runs if row_run.row == place]
        rows.append(
            [
                str(row["row"]),
                row["name"] + (f" ({row['note']})" if row["note"] else ""),
                *(str(row["numbers"].get(name, "-")) for name in names),
                *_cells(folders, reasons.get(place)),
            ]
        )
    table = "\n".join(tables.markdown(rows))
    title = f"# Table {config.table}, rows on the base {config.base}, {config.seeds} seed(s)"
    changes = f"\nOverrides: {config.override}\n" if config.override else ""
    refused = "".join(
        f"\nRow {config.rows[place]['row']} is refused: {reason}\n"
        for place, reason in reasons.items()
    )
    refused += "".join(f"\n{name} failed: {failure.reason}\n" for name, failure in failed.items())
    text = f"{title}\n{changes}\n{table}\n{refused}\n{_FOOT}\n"
    return text


_FOOT = (
    "Paper: linear evaluation on ImageNet. Ours: the online network, top-1 in percent by the "
    "protocols of docs/protocols.md on the base's test split, mean over seeds +- "
    "half of highest minus lowest; std is that of the normalised projection times sqrt(d)."
)


def _cells(folders: Sequence[pathlib.Path], reason: str | None) -> list[str]:
    """The cells of one row, over its seeds."""
    if reason:
        return ["refused", *["-"] * (len(COLUMNS) - 1)]
    states = [_state(folder) for folder in folders]
    records_of_seeds = [
        read_results(folder / "results.json")
        for folder, state in zip(folders, states, strict=True)
        if state == "evaluated"
    ]
    cells = []
    for heading, protocol, metric in COLUMNS:
        values = [v for records in records_of_seeds for v in _value(records, protocol, metric)]
        text = _mean(values, 2 if heading == "std" else 1)
        if heading == "std" and values and max(values) < COLLAPSED:
            text += " collapsed"
        cells.append(text)
    for state in ("diverged", "not evaluated", "not run"):
        if state in states:
            cells[0] += f" ({states.count(state)} of {len(folders)} {state})"
    return cells


def _value(records: Sequence[Record], protocol: str, metric: str) -> list[float]:
    """One run's number, from the papers' SGD if linear evaluation was run that way too."""
    by_solver = {
        record.settings.get("solver"): record.value
        for record in records
        if (record.network, record.protocol, record.metric) == ("online", protocol, metric)
    }
    return [by_solver["sgd"]] if "sgd" in by_solver else list(by_solver.values())[:1]


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} +- {(max(values) - min(values)) / 2:.{digits}f}"
