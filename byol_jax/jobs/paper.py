"""A table of a paper beside the same numbers of a checkpoint: the job `paper`.

The cells come from the page (experiments/paper.py), each with the config of its job. Cells that
cannot be run are found before anything is computed (`plans`), and are listed with the reasons. A
cell that fails is listed, too, and the next one goes on.
"""

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from byol_jax.data import sources
from byol_jax.errors import UserError, require
from byol_jax.jobs import failures, job_of
from byol_jax.jobs.plans import Cell, Plan, plan_cells
from byol_jax.results import measures, tables
from byol_jax.results.records import Record, publish, read_results
from byol_jax.runtime import disk, metrics, processes

_logger = logging.getLogger(__name__)


class Line(NamedTuple):
    """A number of the table, in words.

    Attributes:
      cell: name of the cell.
      paper: the paper's number.
      measured: the checkpoint's number.
      difference: measured minus the paper's, and whether that is better where less is.
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

    Rows that nothing here makes are printed alone, without a checkpoint.

    Args:
      config: the config of experiments/paper.py.
      workdir: has a folder per run; a complete run is not repeated.

    Raises:
      UserError: no cell can be run, with the reasons; or a folder holds other numbers; or, after
        all other cells were run, a cell's job refused its config.
      GuardError: cells failed for another reason, after all others were run.
    """
    if config.table == "10":
        _print_alone(["# Table 10"], sources.table_10(config.data_dir), workdir)
        return
    plans, left_out = plan_cells(config, workdir)
    if not any(cell["page"] for cell in config.cells):
        _print_alone([f"# {config.cells[0]['place']}"], _listing(left_out)[1:], workdir)
        return
    if not plans:
        print("\n".join(_listing(left_out)), flush=True)
        raise UserError(f"no cell of table={config.table} can be run: {_summary(left_out)}")
    for plan in plans:
        plan.check_folder()
    first = processes.is_first_process()
    if first:
        metrics.write_config(workdir, config.to_dict())
    failed: dict[str, failures.Failure] = {}
    lines: list[Line] = []
    for number, plan in enumerate(plans, start=1):
        _logger.info("cell %d of %d: %s", number, len(plans), plan.name)
        records, failure = failures.attempt(plan.name, functools.partial(_run, plan))
        if failure:
            failed[plan.name] = failure
            left_out.append((plan.cell, f"failed: {failure.reason}"))
        if not records:
            continue
        lines += _lines(plan, records)
        if first:  # brought up to date after each: the next may take days
            publish(workdir, _annotated(plan, records))
            _write(workdir, plan.cell["place"], lines, left_out)
    if first:
        print("\n".join([*tables.aligned([_HEADER, *lines], left=(0, 4)), *_listing(left_out)]))
        _write(workdir, plans[0].cell["place"], lines, left_out)
        names = ["results.json"] * bool(lines) + ["table.md"]
        print(f"written: {', '.join(str(workdir / name) for name in names)}", flush=True)
    failures.raise_any(failed, f"cells of table={config.table}", len(plans))


def _run(plan: Plan) -> dict[str, Record]:
    """The records of a cell, which is run unless it is complete.

    Raises:
      Exception: an error of its job.
    """
    is_done = _is_done(plan)
    processes.wait_for_all()  # before the first process changes the answer
    if not is_done:
        if processes.is_first_process():
            metrics.write_json(plan.folder / "cell.json", plan.made_by())
        job_of(plan.config.job)(plan.config, plan.folder)
        processes.wait_for_all()  # the first process writes what all read
    return _records(plan)


def _print_alone(title: Sequence[str], lines: Sequence[str], workdir: pathlib.Path) -> None:
    """Prints a table that runs nothing, and writes it to `table.md`."""
    if not processes.is_first_process():
        return
    print("\n".join(lines), flush=True)
    disk.write_text(workdir / "table.md", "\n".join([*title, "", "```", *lines, "```", ""]))


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
        name = plan.name + (f", {number['column']}" if several else "")
        record = records.get(number["metric"])
        measured = difference = protocol = "-"
        if record:
            printed, decimals = number["value"], number["decimals"]
            measured = _with_unit(record.value, number)
            difference = tables.difference(number["metric"], record.value, printed, decimals)
            protocol = _protocol(plan, record)
        lines.append(Line(name, _paper(number), measured, difference, protocol))
    return lines


def _paper(number: Mapping[str, Any]) -> str:
    elsewhere = f" ({number['elsewhere']})" if number["elsewhere"] else ""
    return f"{_with_unit(number['value'], number)}{elsewhere}"


def _with_unit(value: float, number: Mapping[str, Any]) -> str:
    """A value with the digits of the paper's, and with its unit; percent needs none."""
    unit = measures.of(number["metric"]).unit
    return f"{value:.{number['decimals']}f}" + f" {unit}" * (unit not in ("percent", "1"))


def _protocol(plan: Plan, record: Record) -> str:
    """What was run, and everything in it that is not the paper's."""
    network = "from scratch" if plan.config.get("checkpoint") is None else "untrained"
    if plan.cell["released"]:
        network = f"{record.network} of {plan.cell['released']}, one of the authors' three seeds"
    if plan.step is not None:
        network = f"{record.network} of step {plan.step}"
    words = f"{record.protocol} {record.metric}, {network}, {record.dataset}"
    if plan.cell["note"]:
        words += f"; {plan.cell['note']}"
    departures = _departures(plan, record)
    if departures:
        words += f"; not the paper's settings: {', '.join(departures)}"
    return words


def _departures(plan: Plan, record: Record) -> list[str]:
    """Everything that is not the paper's, with the images that could not be scored."""
    departures = list(plan.departures)
    if plan.scored and record.n_examples != plan.scored:
        departures.append(f"{record.n_examples:,} of {plan.scored:,} test images scored")
    return departures


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
            "not_the_papers": _departures(plan, record),
        }
        annotated.append(
            record._replace(
                protocol=f"{record.protocol}, {plan.cell['place']}, {plan.name}",
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
    disk.write_text(workdir / "table.md", "\n".join([*text, ""]))
