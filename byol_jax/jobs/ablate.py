"""The job that trains the rows of an ablation table and prints paper and ours side by side."""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from byol_jax import train
from byol_jax.errors import Diverged, UserError, require
from byol_jax.jobs import overrides
from byol_jax.method import check
from byol_jax.results.records import Record, read_results, write_results
from byol_jax.runtime import checkpoints, metrics, processes

_logger = logging.getLogger(__name__)

# What a table shows of the online network: heading, protocol, metric.
COLUMNS = (
    ("linear", "linear", "top1"),
    ("few labels", "linear/2-per-class", "top1"),
    ("kNN", "knn", "top1"),
    ("std", "projection", "std_sqrt_dim"),
)
# A projection that is one point but for rounding (docs/protocols.md).
COLLAPSED = 0.05


class Run(NamedTuple):
    """One row with one seed: its place in the table, its resolved config, and where it goes."""

    row: int
    config: ml_collections.ConfigDict
    folder: pathlib.Path


def plan(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Run]:
    """All rows with all seeds, rows outermost.

    Raises:
      UserError: an override that no row has; a folder that holds another run.
    """
    changes = overrides.parse_pairs("override", config.override)
    runs = []
    for place, row in enumerate(config.rows):
        for i in range(config.seeds):
            ours = ml_collections.ConfigDict(row["config"])
            said = overrides.apply(ours, changes)
            unknown = [key for key in changes if not any(s.startswith(f"{key}=") for s in said)]
            require(not unknown, f"config.override: a row has no key {', '.join(unknown)}")
            ours.seed += i
            name = f"{config.base}-{row['method']}-row{row['row']}"
            folder = workdir / f"table{config.table}" / name / f"seed{ours.seed}"
            runs.append(Run(place, ours, folder))
    for run in runs:
        path = run.folder / "config.json"
        require(
            not path.exists() or json.loads(path.read_text()) == _plain(run.config),
            f"{run.folder} holds a run with other settings: give another --workdir, or move it "
            "away",
        )
    return runs


def _plain(config: ml_collections.ConfigDict) -> Any:
    return json.loads(json.dumps(config.to_dict()))


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `ablate`: trains what is not trained yet, prints the table, writes table.md.

    Raises:
      UserError: before anything is trained; or no row could be trained, with the reasons.
    """
    runs = plan(config, workdir)
    reasons: dict[int, str] = {}
    for one in runs:
        try:
            check(one.config)
        except UserError as error:
            reasons[one.row] = str(error)
    why = "; ".join(dict.fromkeys(reasons.values()))
    require(
        len(reasons) < len(config.rows), f"no row of table {config.table} can be trained: {why}"
    )
    is_first = processes.is_first_process()
    if is_first:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():
            metrics.write_json(workdir / "config.json", config.to_dict())
    for number, one in enumerate(runs, start=1):
        if one.row in reasons or _state(one.folder) != "not run":
            continue
        _logger.info("run %d of %d: %s", number, len(runs), one.config.recipe)
        try:
            train.pretrain(one.config, one.folder)
        except Diverged as error:
            _logger.warning("%s", error)
            if is_first:
                (one.folder / "diverged.txt").write_text(f"{error}\n")
        if is_first:  # brought up to date after each: the next may take days
            _write(config, workdir, runs, reasons)
    if is_first:
        write_results(workdir / "results.json", _records(config, runs))
        print(_write(config, workdir, runs, reasons), flush=True)
        print(f"written: {workdir / 'results.json'}, {workdir / 'table.md'}", flush=True)


def _records(config: ml_collections.ConfigDict, runs: Sequence[Run]) -> list[Record]:
    """Those of the online networks, each with the row it is of and the paper's numbers."""
    found = []
    for one in runs:
        if _state(one.folder) != "evaluated":
            continue
        row = config.rows[one.row]
        paper = {
            "paper_table": config.table,
            "paper_row": f"{row['row']} ({row['method']}): {row['name']}",
            "paper_numbers": dict(row["numbers"]),
            "base": config.base,
            "override": config.override,
        }
        found += [
            record._replace(settings=record.settings | paper)
            for record in read_results(one.folder / "results.json")
            if record.network == "online"
        ]
    return found


def _state(folder: pathlib.Path) -> str:
    """`evaluated`, `diverged`, `not evaluated` (a run too large for it has ended) or `not run`."""
    for name, state in (("results.json", "evaluated"), ("diverged.txt", "diverged")):
        if (folder / name).exists():
            return state
    directory = folder / "checkpoints"
    found = checkpoints.steps(directory)
    if found and found[-1] >= checkpoints.read_record(directory, found[-1])["total_steps"]:
        return "not evaluated"
    return "not run"


def _write(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    runs: Sequence[Run],
    reasons: Mapping[int, str],
) -> str:
    """The table as it stands, also in `table.md`."""
    names = list(dict.fromkeys(name for row in config.rows for name in row["numbers"]))
    header = ["row", "what", *(f"paper {name}" for name in names)]
    header += [heading for heading, _, _ in COLUMNS]
    lines = [header, ["---"] * len(header)]
    for place, row in enumerate(config.rows):
        folders = [one.folder for one in runs if one.row == place]
        lines.append(
            [
                str(row["row"]),
                row["name"] + (f" ({row['note']})" if row["note"] else ""),
                *(str(row["numbers"].get(name, "-")) for name in names),
                *_cells(folders, reasons.get(place)),
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines[1] = ["-" * width for width in widths]
    padded = [map(str.ljust, line, widths) for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in padded)
    title = f"# Table {config.table}, rows on the base {config.base}, {config.seeds} seed(s)"
    changes = f"\nOverrides: {config.override}\n" if config.override else ""
    refused = "".join(
        f"\nRow {config.rows[place]['row']} is refused: {reason}\n"
        for place, reason in reasons.items()
    )
    text = f"{title}\n{changes}\n{table}\n{refused}\n{_FOOT}\n"
    (workdir / "table.md").write_text(text, encoding="utf-8")
    return text


_FOOT = (
    "Paper: linear evaluation on ImageNet. Ours: the online network, top-1 in percent by the "
    "protocols of docs/protocols.md on the base's test split, mean over seeds +- "
    "half of highest minus lowest; std is that of the normalised projection times sqrt(d)."
)


def _cells(folders: Sequence[pathlib.Path], reason: str | None) -> list[str]:
    """What the seeds of one row gave."""
    if reason:
        return ["refused", *["-"] * (len(COLUMNS) - 1)]
    states = [_state(folder) for folder in folders]
    found = [
        read_results(folder / "results.json")
        for folder, state in zip(folders, states, strict=True)
        if state == "evaluated"
    ]
    cells = []
    for heading, protocol, metric in COLUMNS:
        values = [v for records in found for v in _value(records, protocol, metric)]
        text = _mean(values, 2 if heading == "std" else 1)
        if heading == "std" and values and max(values) < COLLAPSED:
            text += " collapsed"
        cells.append(text)
    for state in ("diverged", "not evaluated", "not run"):
        if state in states:
            cells[0] += f" ({states.count(state)} of {len(folders)} {state})"
    return cells


def _value(records: Sequence[Record], protocol: str, metric: str) -> list[float]:
    """One run's number, by the papers' SGD where linear evaluation was also run that way."""
    found = {
        record.settings.get("solver"): record.value
        for record in records
        if (record.network, record.protocol, record.metric) == ("online", protocol, metric)
    }
    return [found["sgd"]] if "sgd" in found else list(found.values())[:1]


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} +- {(max(values) - min(values)) / 2:.{digits}f}"
