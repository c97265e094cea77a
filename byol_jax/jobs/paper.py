"""A table of a paper beside the same numbers of a checkpoint: the job `paper`.

The cells come from the page (experiments/paper.py), each with the config of its job. Cells that
cannot be run are found before anything is computed, and are listed with the reasons.
"""

import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from byol_jax.checks import check_keys, one_of
from byol_jax.data import sources, table10
from byol_jax.errors import GuardError, UserError, require
from byol_jax.jobs import job_of, overrides, pretrained
from byol_jax.results import tables
from byol_jax.results.records import Record, read_results, write_results
from byol_jax.runtime import metrics, processes

_logger = logging.getLogger(__name__)

Job = Callable[[ml_collections.ConfigDict, pathlib.Path], None]
# A `paper_tables.Cell` as plain values, with `place`; and `folder` and `config` if it can be run.
Cell = Mapping[str, Any]

_SPLITS = ("fit_split", "valid_split", "score_split")
RULES = {"network": one_of(("online", "target")), "method": one_of(pretrained.METHODS)}


class Plan(NamedTuple):
    """A cell that will be run.

    Attributes:
      cell: the cell of the page.
      config: resolved config of its job.
      folder: workdir of its job.
      step: step of the checkpoint that it reads; None if it reads none.
      departures: settings that are not the paper's, in words.
    """

    cell: Cell
    config: ml_collections.ConfigDict
    folder: pathlib.Path
    step: int | None
    departures: tuple[str, ...]

    def made_by(self) -> dict[str, Any]:
        """The content of `cell.json`: all that decides the numbers, and the paths."""
        made: dict[str, Any] = json.loads(json.dumps(self.config.to_dict()))
        return {"config": made, "checkpoint_step": self.step}


class Line(NamedTuple):
    """A number of the table, in words.

    Attributes:
      cell: name of the cell.
      paper: the paper's number.
      measured: the checkpoint's number.
      difference: measured minus the paper's.
      protocol: how it was measured, and what does not compare.
    """

    cell: str
    paper: str
    measured: str
    difference: str
    protocol: str


_HEADER = Line("cell", "paper", "ours", "difference", "protocol (as run)")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `paper`: runs the cells that can be run, prints the table, writes json and table.md.

    Args:
      config: the config of experiments/paper.py.
      workdir: has a folder per run; a complete run is not repeated.

    Raises:
      UserError: no cell can be run, with the reasons; or a folder holds other numbers.
      GuardError: the first one that a cell's job raised, after all other cells were run.
    """
    if config.table == "10":
        _table_10(config, workdir)
        return
    plans, left_out = plan_cells(config, workdir)
    if not plans:
        print("\n".join(_listing(left_out)), flush=True)
        raise UserError(f"no cell of table={config.table} can be run: {_summary(left_out)}")
    for plan in plans:
        _check_folder(plan)
    first = processes.is_first_process()
    if first:
        metrics.write_config(workdir, config.to_dict())
    stopped: GuardError | None = None
    lines: list[Line] = []
    for number, plan in enumerate(plans, start=1):
        name = plan.cell["name"]
        try:
            is_done = _is_done(plan)
            processes.wait_for_all()  # before the first process changes the answer
            if not is_done:
                _logger.info("cell %d of %d: %s", number, len(plans), name)
                if first:
                    plan.folder.mkdir(parents=True, exist_ok=True)
                    metrics.write_json(plan.folder / "cell.json", plan.made_by())
                job_of(plan.config.job)(plan.config, plan.folder)
                processes.wait_for_all()  # the first process writes what all read
            records = _records(plan)
        except (UserError, GuardError) as error:
            _logger.warning("%s: %s", name, error)
            left_out.append((plan.cell, f"failed: {error}"))
            if isinstance(error, GuardError):
                stopped = stopped or error
            continue
        lines += _lines(plan, records)
        if first:  # brought up to date after each: the next may take days
            write_results(workdir / "results.json", _annotated(plan, records))
            _write(workdir, plan.cell["place"], lines, left_out)
    if lines and first:
        _write(workdir, plans[0].cell["place"], lines, left_out)
        print("\n".join([*tables.aligned([_HEADER, *lines], left=(0, 4)), *_listing(left_out)]))
        print(f"written: {workdir / 'results.json'}, {workdir / 'table.md'}", flush=True)
    if stopped:
        raise stopped
    require(lines, f"no cell of table={config.table} could be run: {_summary(left_out)}")


def _table_10(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Table 10's counts beside those of the sets that are there."""
    lines = sources.table_10(config.data_dir)
    print("\n".join(lines), flush=True)
    if not processes.is_first_process():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["# Table 10", "", "```", *lines, "```", ""])
    (workdir / "table.md").write_text(text, encoding="utf-8")


def plan_cells(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[list[Plan], list[tuple[Cell, str]]]:
    """The cells that can be run, and the others with their reasons. Reads names, no images.

    Raises:
      UserError: a name in `config` does not exist.
    """
    check_keys(config, RULES)
    given = data_sets(config.folders, config.datasets)
    changes = overrides.parse_pairs("override", config.override)
    for key in changes:
        require(
            any(overrides.has(cell["config"], key) for cell in config.cells if cell["page"]),
            f"config.override: no cell has a key {key!r}",
        )
    source = pretrained.read(config, given)
    checked: dict[tuple[Any, ...], str] = {}
    plans: list[Plan] = []
    left_out: list[tuple[Cell, str]] = []
    for cell in config.cells:
        reason = cell["reason"] or _wrong_network(cell, source, config)
        plan = None
        if not reason:
            plan, reason = _planned(cell, config, workdir, given, changes, source)
        if plan:
            reads = _reads(plan.config)
            if reads not in checked:
                checked[reads] = _missing(plan.config)
            reason = checked[reads]
        if plan and not reason:
            plans.append(plan)
        else:
            left_out.append((cell, reason))
    return plans, left_out


def data_sets(folders: str, datasets: str) -> dict[str, str]:
    """The data sets that the user names in place of TFDS, by the keys of Table 10.

    Args:
      folders: `NAME=DIR,...`.
      datasets: `NAME=DATASET,...`, as in `CIFAR10=npz:FILE`.

    Raises:
      UserError: a name that is not in Table 10.
    """
    pairs = [(k, f"folder:{v}") for k, v in overrides.parse_pairs("folders", folders).items()]
    pairs += overrides.parse_pairs("datasets", datasets).items()
    return {
        table10.by_name(re.sub(r"[^a-z0-9]", "", name.lower())).key: dataset
        for name, dataset in pairs
    }


def _wrong_network(
    cell: Cell, source: pretrained.Checkpoint | None, config: ml_collections.ConfigDict
) -> str:
    """Why the checkpoint is not the one of a cell; empty if it is, or if the cell needs none."""
    need = cell["network"]
    if need is None:
        return ""
    data = table10.by_name(need["data"]).name
    words = pretrained.words_of(need["method"], need["depth"], need["width"], data)
    if source is None:
        return f"no checkpoint: give {words} as --config.checkpoint"
    if source.method == need["method"] and (config.any_network or pretrained.fits(need, source)):
        return ""
    return f"another network: needs {words}, the checkpoint is {source.words}"


def _planned(
    cell: Cell,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    given: Mapping[str, str],
    changes: Mapping[str, str],
    source: pretrained.Checkpoint | None,
) -> tuple[Plan | None, str]:
    """The plan of a cell, or the reason why there is none."""
    key = cell["benchmark"]
    row = table10.by_name(key)
    if key not in given and row.tfds is None:
        return None, f"{row.note} Then give --config.folders='{key}=DIR'"
    job_config = ml_collections.ConfigDict(cell["config"])
    job_config.dataset = given.get(key, f"tfds:{row.tfds}")
    need = cell["network"]
    departures = []
    if need and source:
        job_config.checkpoint, job_config.network = config.checkpoint, config.network
        departures += [] if pretrained.fits(need, source) else [source.words]
        departures += source.departures
    if need and need["variant"]:
        departures.append(f"the paper's checkpoint has {need['variant']}")
    kind, _, _ = job_config.dataset.partition(":")
    if kind not in ("folder", "npz") and table10.of_dataset(job_config.dataset) != row:
        departures.append(f"{job_config.dataset} instead of {row.name}")
    if kind == "tfds":
        job_config.data_dir = config.data_dir or (source.data_dir if source else None)
    departures += overrides.apply(job_config, changes)
    step = source.step if need and source else None
    return Plan(cell, job_config, workdir / cell["folder"], step, tuple(departures)), ""


def _reads(config: ml_collections.ConfigDict) -> tuple[Any, ...]:
    """The images that a run reads."""
    splits = tuple(config[name] for name in _SPLITS if config[name])
    scored = config.dataset, config.data_dir, config.benchmark, splits
    return *scored, config.get("train_dataset")


def _missing(config: ml_collections.ConfigDict) -> str:
    """Why the images of a run cannot be read; empty if they can be."""
    dataset, data_dir, benchmark, splits, train_dataset = _reads(config)
    try:
        for split in splits:
            sources.load(dataset, split, data_dir, benchmark)
        if train_dataset:
            sources.load(train_dataset, "train", data_dir)
    except UserError as error:
        return f"no data: {error}"
    return ""


def _check_folder(plan: Plan) -> None:
    """Refuses a folder with the numbers of another run."""
    if not (plan.folder / "results.json").exists():
        return
    require(
        _made_by(plan.folder) == plan.made_by(),
        f"{plan.folder} holds the results of another checkpoint or other settings: give another "
        "--workdir, or move it away",
    )


def _made_by(folder: pathlib.Path) -> Any:
    try:
        return json.loads((folder / "cell.json").read_text())
    except (OSError, ValueError):
        return None


def _is_done(plan: Plan) -> bool:
    return (plan.folder / "results.json").exists() and bool(_records(plan))


def _records(plan: Plan) -> dict[str, Record]:
    """The records that a cell's numbers are compared with, by metric.

    Raises:
      UserError: the run wrote none of them.
    """
    written = {r.metric: r for r in read_results(plan.folder / "results.json")}
    wanted = [number["metric"] for number in plan.cell["numbers"]]
    records = {metric: written[metric] for metric in wanted if metric in written}
    require(records, f"{plan.folder}/results.json has no {' or '.join(wanted)}")
    return records


def _lines(plan: Plan, records: Mapping[str, Record]) -> list[Line]:
    lines = []
    for number in plan.cell["numbers"]:
        several = len(plan.cell["numbers"]) > 1
        name = plan.cell["name"] + (f", {number['column']}" if several else "")
        record = records.get(number["metric"])
        measured = difference = protocol = "-"
        if record:
            measured = f"{record.value:.1f}"
            difference = f"{record.value - number['value']:+.1f}"
            protocol = _protocol(plan, record)
        lines.append(Line(name, _paper(number), measured, difference, protocol))
    return lines


def _paper(number: Mapping[str, Any]) -> str:
    elsewhere = f" ({number['elsewhere']})" if number["elsewhere"] else ""
    return f"{number['value']:.1f}{elsewhere}"


def _protocol(plan: Plan, record: Record) -> str:
    """What was run, and everything in it that is not the paper's."""
    network = "from scratch" if plan.step is None else f"{record.network} of step {plan.step}"
    words = f"{record.protocol} {record.metric}, {network}, {record.dataset}"
    if plan.cell["note"]:
        words += f"; {plan.cell['note']}"
    if plan.departures:
        words += f"; not the paper's settings: {', '.join(plan.departures)}"
    return words


def _annotated(plan: Plan, records: Mapping[str, Record]) -> list[Record]:
    """The records with the paper's numbers; the cell in their protocols keeps them apart."""
    annotated = []
    for number in plan.cell["numbers"]:
        record = records.get(number["metric"])
        if record is None:
            continue
        paper = {
            "paper_table": plan.cell["place"],
            "paper_row": plan.cell["row"],
            "paper_column": plan.cell["column"],
            "paper_value": number["value"],
            "paper_elsewhere": number["elsewhere"],
            "not_the_papers": list(plan.departures),
        }
        annotated.append(
            record._replace(
                protocol=f"{record.protocol}, {plan.cell['place']}, {plan.cell['name']}",
                settings={**record.settings, **paper},
            )
        )
    return annotated


def _listing(left_out: Sequence[tuple[Cell, str]]) -> list[str]:
    """The cells that were not run, with the paper's numbers, by reason."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    for cell, reason in left_out:
        values = " / ".join(_paper(number) for number in cell["numbers"])
        row = f"{cell['row']}, {cell['protocol']}"
        by_reason.setdefault(reason, {}).setdefault(row, []).append(f"{cell['column']} {values}")
    lines = ["", "not run, with the paper's numbers:"] if by_reason else []
    for reason, rows in by_reason.items():
        lines.append(f"- {reason}")
        lines += [f"    {row}: {', '.join(columns)}" for row, columns in rows.items()]
    return lines


def _summary(left_out: Sequence[tuple[Cell, str]]) -> str:
    """All reasons in one line, with the number of cells of each."""
    counts: dict[str, int] = {}
    for _, reason in left_out:
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{reason} ({count} cells)" for reason, count in counts.items())


def _write(
    workdir: pathlib.Path, place: str, lines: Sequence[Line], left_out: Sequence[tuple[Cell, str]]
) -> None:
    """Writes the table as Markdown."""
    text = [f"# {place}", "", *tables.markdown([_HEADER, *lines]), *_listing(left_out)]
    (workdir / "table.md").write_text("\n".join([*text, ""]), encoding="utf-8")
