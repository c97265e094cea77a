"""A table of a paper beside the same numbers of a checkpoint: the job `paper`.

The cells come from the page (experiments/paper.py) with the config of the job that makes each. What
cannot be run is known before anything is computed, and is listed with the reason.
"""

import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from byol_jax import weights
from byol_jax.data import sources, table10
from byol_jax.errors import GuardError, UserError, require
from byol_jax.evals import checkpoint
from byol_jax.jobs import job_of, overrides
from byol_jax.results.records import Record, read_results, write_results
from byol_jax.runtime import metrics, processes

_logger = logging.getLogger(__name__)

Job = Callable[[ml_collections.ConfigDict, pathlib.Path], None]
# As plain values: `paper_tables.Cell` with `place`, and, where something runs it, `folder` and
# `config`.
Cell = Mapping[str, Any]

METHODS = {"byol": "BYOL", "simclr": "SimCLR", "supervised": "supervised"}
# How both papers pre-train for their tables (BYOL App. A, SimCLR section 6).
_EPOCHS, _BATCH, _SIZE = 1000, 4096, 224
_SPLITS = ("fit_split", "valid_split", "score_split")


class Checkpoint(NamedTuple):
    """A checkpoint without its arrays.

    Attributes:
      step: number of finished updates.
      depth: depth of the ResNet, as in `config.network.depth`.
      width: channel multiplier of the ResNet.
      data_dir: folder of TFDS that its training read; None for the default one.
      method: a key of `METHODS`.
      data: key of the row of Table 10 that it was trained on, or the name of another data set.
      data_name: the same data set in words.
      departures: where its training is not that of the paper, in words.
    """

    step: int
    depth: str
    width: float
    data_dir: str | None
    method: str
    data: str
    data_name: str
    departures: tuple[str, ...]

    @property
    def words(self) -> str:
        """As in `a BYOL ResNet-50 (2x) trained on ImageNet`."""
        return _words(self.method, self.depth, self.width, self.data_name)


class Plan(NamedTuple):
    """A cell that will be run: its resolved config, its folder, and what is not as in the paper."""

    cell: Cell
    config: ml_collections.ConfigDict
    folder: pathlib.Path
    step: int | None
    departures: tuple[str, ...]

    def made_by(self) -> dict[str, Any]:
        """What `cell.json` says: all that decides the numbers, and the paths."""
        made: dict[str, Any] = json.loads(json.dumps(self.config.to_dict()))
        return {"config": made, "checkpoint_step": self.step}


class Line(NamedTuple):
    """A number of the table: the paper's in words, ours, their difference, and its protocol."""

    cell: str
    paper: str
    ours: str
    difference: str
    protocol: str


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `paper`: runs what can be run, prints the table, writes json and table.md.

    Args:
      config: of experiments/paper.py.
      workdir: has a folder for each run; what is complete there is not run again.

    Raises:
      UserError: no cell can be run, with the reasons; or a folder holds other numbers.
      GuardError: the first that a cell's job raised, after all other cells.
    """
    if config.table == "10":
        _table_10(config, workdir)
        return
    plans, left_out = plan(config, workdir)
    if not plans:
        print("\n".join(_listing(left_out)), flush=True)
        raise UserError(f"no cell of table={config.table} can be run: {_summary(left_out)}")
    for one in plans:
        _check_folder(one)
    first = processes.is_first_process()
    if first:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():  # in the workdir of a run, it is that run's
            metrics.write_json(workdir / "config.json", config.to_dict())
    stopped: GuardError | None = None
    lines: list[Line] = []
    for number, one in enumerate(plans, start=1):
        name = one.cell["name"]
        try:
            is_done = _is_done(one)
            processes.wait_for_all()  # before the first process changes the answer
            if not is_done:
                _logger.info("cell %d of %d: %s", number, len(plans), name)
                if first:
                    one.folder.mkdir(parents=True, exist_ok=True)
                    metrics.write_json(one.folder / "cell.json", one.made_by())
                job_of(one.config.job)(one.config, one.folder)
                processes.wait_for_all()  # the first process writes what all read
            records = _records(one)
        except (UserError, GuardError) as error:
            _logger.warning("%s: %s", name, error)
            left_out.append((one.cell, f"failed: {error}"))
            if isinstance(error, GuardError):
                stopped = stopped or error
            continue
        lines += _lines(one, records)
        if first:  # brought up to date after each: the next may take days
            write_results(workdir / "results.json", _annotated(one, records))
            _write(workdir, one.cell["place"], lines, left_out)
    if lines and first:
        _write(workdir, plans[0].cell["place"], lines, left_out)
        print("\n".join([*_aligned(lines), *_listing(left_out)]), flush=True)
        print(f"written: {workdir / 'results.json'}, {workdir / 'table.md'}", flush=True)
    if stopped:
        raise stopped
    require(lines, f"no cell of table={config.table} could be run: {_summary(left_out)}")


def _table_10(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Table 10's counts beside those of the sets in hand."""
    lines = sources.table_10(config.data_dir)
    print("\n".join(lines), flush=True)
    if not processes.is_first_process():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["# Table 10", "", "```", *lines, "```", ""])
    (workdir / "table.md").write_text(text, encoding="utf-8")


def plan(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[list[Plan], list[tuple[Cell, str]]]:
    """The cells that can be run, and the others with their reasons. Reads names, no images.

    Raises:
      UserError: something in `config` names nothing.
    """
    require(
        config.network in ("online", "target"),
        f"config.network={config.network!r} must be online or target",
    )
    given = data_sets(config.folders, config.datasets)
    changes = overrides.parse_pairs("override", config.override)
    for key in changes:
        require(
            any(overrides.has(cell["config"], key) for cell in config.cells if cell["page"]),
            f"config.override: no cell has a key {key!r}",
        )
    source = _read(config, given)
    checked: dict[tuple[Any, ...], str] = {}
    plans: list[Plan] = []
    left_out: list[tuple[Cell, str]] = []
    for cell in config.cells:
        reason = cell["reason"] or _wrong_network(cell, source, config)
        one = None
        if not reason:
            one, reason = _planned(cell, config, workdir, given, changes, source)
        if one:
            reads = _reads(one.config)
            if reads not in checked:
                checked[reads] = _missing(one.config)
            reason = checked[reads]
        if one and not reason:
            plans.append(one)
        else:
            left_out.append((cell, reason))
    return plans, left_out


def data_sets(folders: str, datasets: str) -> dict[str, str]:
    """What the user names instead of TFDS, by the keys of Table 10.

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


def _words(method: str, depth: str, width: float, data: str) -> str:
    wide = "" if width == 1 else f" ({width:g}x)"
    return f"a {METHODS[method]} ResNet-{depth}{wide} trained on {data}"


def _read(config: ml_collections.ConfigDict, given: Mapping[str, str]) -> Checkpoint | None:
    """What `config.checkpoint` holds, if it is given.

    Raises:
      UserError: it is no checkpoint; no such method.
    """
    if not config.checkpoint:
        return None
    require(
        config.method in (None, *METHODS),
        f"config.method={config.method!r} must be one of: {', '.join(METHODS)}",
    )
    trained = checkpoint.load_weights(config)
    dataset = trained.dataset or "unknown images"
    row = table10.of_dataset(dataset)
    names = {source: key for key, source in given.items()}
    return Checkpoint(
        step=trained.step,
        depth=trained.network.depth,
        width=trained.network.width,
        data_dir=trained.data_dir,
        method=config.method or ("supervised" if trained.method == "supervised" else "byol"),
        data=row.key if row else names.get(dataset, dataset),
        data_name=row.name if row else dataset,
        departures=_departures(trained),
    )


def _departures(trained: weights.Trained) -> tuple[str, ...]:
    """Where a training is not that of the papers' tables, in words."""
    run, departures = trained.config, []
    if (trained.recipe or "").startswith("not published"):
        departures.append(f"recipe {trained.recipe}")
    if trained.image_size != _SIZE:
        departures.append(f"pre-trained at {trained.image_size} pixels")
    if trained.network.stem != "imagenet":
        departures.append(f"stem {trained.network.stem}")
    if run.get("num_steps"):
        departures.append(f"pre-trained for {run['num_steps']} steps")
    elif run.get("num_epochs", _EPOCHS) != _EPOCHS:
        departures.append(f"pre-trained for {run['num_epochs']:g} epochs")
    if run.get("batch_size", _BATCH) != _BATCH:
        departures.append(f"pre-trained at batch {run['batch_size']}")
    if trained.total_steps is not None and trained.step < trained.total_steps:
        departures.append(f"pre-training at step {trained.step} of {trained.total_steps}")
    return tuple(departures)


def _fits(need: Mapping[str, Any], source: Checkpoint) -> bool:
    """Whether a checkpoint is the network that a cell is about, its method aside."""
    values = source.depth, source.width, source.data
    return values == (need["depth"], need["width"], need["data"])


def _wrong_network(cell: Cell, source: Checkpoint | None, config: ml_collections.ConfigDict) -> str:
    """Why the checkpoint is not the one of a cell; empty if it is, or needs none."""
    need = cell["network"]
    if need is None:
        return ""
    data = table10.by_name(need["data"]).name
    words = _words(need["method"], need["depth"], need["width"], data)
    if source is None:
        return f"no checkpoint: give {words} as --config.checkpoint"
    if source.method == need["method"] and (config.any_network or _fits(need, source)):
        return ""
    return f"another network: needs {words}, the checkpoint is {source.words}"


def _planned(
    cell: Cell,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    given: Mapping[str, str],
    changes: Mapping[str, str],
    source: Checkpoint | None,
) -> tuple[Plan | None, str]:
    """The config of a cell's run, or why there is none."""
    key = cell["benchmark"]
    row = table10.by_name(key)
    if key not in given and row.tfds is None:
        return None, f"{row.note} Then give --config.folders='{key}=DIR'"
    ours = ml_collections.ConfigDict(cell["config"])
    ours.dataset = given.get(key, f"tfds:{row.tfds}")
    need = cell["network"]
    departures = []
    if need and source:
        ours.checkpoint, ours.network = config.checkpoint, config.network
        departures += [] if _fits(need, source) else [source.words]
        departures += source.departures
    if need and need["variant"]:
        departures.append(f"the paper's checkpoint has {need['variant']}")
    kind, _, _ = ours.dataset.partition(":")
    if kind not in ("folder", "npz") and table10.of_dataset(ours.dataset) != row:
        departures.append(f"{ours.dataset} instead of {row.name}")
    if kind == "tfds":
        ours.data_dir = config.data_dir or (source.data_dir if source else None)
    departures += overrides.apply(ours, changes)
    step = source.step if need and source else None
    return Plan(cell, ours, workdir / cell["folder"], step, tuple(departures)), ""


def _reads(config: ml_collections.ConfigDict) -> tuple[Any, ...]:
    """The images of a run, as `_missing` looks for them."""
    splits = tuple(config[name] for name in _SPLITS if config[name])
    own = config.dataset, config.data_dir, config.benchmark, splits
    return *own, config.get("train_dataset")


def _missing(config: ml_collections.ConfigDict) -> str:
    """Why the images of a run cannot be read; empty if they can."""
    dataset, data_dir, benchmark, splits, train_dataset = _reads(config)
    try:
        for split in splits:
            sources.load(dataset, split, data_dir, benchmark)
        if train_dataset:
            sources.load(train_dataset, "train", data_dir)
    except UserError as error:
        return f"no data: {error}"
    return ""


def _check_folder(one: Plan) -> None:
    """Refuses to mix the numbers of two runs."""
    if not (one.folder / "results.json").exists():
        return
    require(
        _made_by(one.folder) == one.made_by(),
        f"{one.folder} holds the results of another checkpoint or other settings: give another "
        "--workdir, or move it away",
    )


def _made_by(folder: pathlib.Path) -> Any:
    try:
        return json.loads((folder / "cell.json").read_text())
    except (OSError, ValueError):
        return None


def _is_done(one: Plan) -> bool:
    return (one.folder / "results.json").exists() and bool(_records(one))


def _records(one: Plan) -> dict[str, Record]:
    """The records that a cell's numbers compare with, by metric.

    Raises:
      UserError: the run wrote none of them.
    """
    found = {r.metric: r for r in read_results(one.folder / "results.json")}
    wanted = [number["metric"] for number in one.cell["numbers"]]
    have = {metric: found[metric] for metric in wanted if metric in found}
    require(have, f"{one.folder}/results.json has no {' or '.join(wanted)}")
    return have


def _lines(one: Plan, records: Mapping[str, Record]) -> list[Line]:
    lines = []
    for number in one.cell["numbers"]:
        several = len(one.cell["numbers"]) > 1
        name = one.cell["name"] + (f", {number['column']}" if several else "")
        record = records.get(number["metric"])
        ours = difference = protocol = "-"
        if record:
            ours = f"{record.value:.1f}"
            difference = f"{record.value - number['value']:+.1f}"
            protocol = _protocol(one, record)
        lines.append(Line(name, _paper(number), ours, difference, protocol))
    return lines


def _paper(number: Mapping[str, Any]) -> str:
    elsewhere = f" ({number['elsewhere']})" if number["elsewhere"] else ""
    return f"{number['value']:.1f}{elsewhere}"


def _protocol(one: Plan, record: Record) -> str:
    """What was run, and all that does not let it compare."""
    network = "from scratch" if one.step is None else f"{record.network} of step {one.step}"
    words = f"{record.protocol} {record.metric}, {network}, {record.dataset}"
    if one.cell["note"]:
        words += f"; {one.cell['note']}"
    if one.departures:
        words += f"; not the paper's settings: {', '.join(one.departures)}"
    return words


def _annotated(one: Plan, records: Mapping[str, Record]) -> list[Record]:
    """The records with the paper's numbers; their protocols name the cell, as none may be lost."""
    annotated = []
    for number in one.cell["numbers"]:
        record = records.get(number["metric"])
        if record is None:
            continue
        paper = {
            "paper_table": one.cell["place"],
            "paper_row": one.cell["row"],
            "paper_column": one.cell["column"],
            "paper_value": number["value"],
            "paper_elsewhere": number["elsewhere"],
            "not_the_papers": list(one.departures),
        }
        annotated.append(
            record._replace(
                protocol=f"{record.protocol}, {one.cell['place']}, {one.cell['name']}",
                settings={**record.settings, **paper},
            )
        )
    return annotated


def _aligned(lines: Sequence[Line]) -> list[str]:
    """The table as text."""
    rows = [("cell", "paper", "ours", "difference", "protocol (as run)"), *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:4], widths[1:]), row[4]])
        for row in rows
    ]


def _listing(left_out: Sequence[tuple[Cell, str]]) -> list[str]:
    """What was not run: a line a reason, with the paper's numbers."""
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
    """All reasons in one line."""
    counts: dict[str, int] = {}
    for _, reason in left_out:
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{reason} ({count} cells)" for reason, count in counts.items())


def _write(
    workdir: pathlib.Path, place: str, lines: Sequence[Line], left_out: Sequence[tuple[Cell, str]]
) -> None:
    """The table as Markdown."""
    rows = [("cell", "paper", "ours", "difference", "protocol (as run)"), ("---",) * 5, *lines]
    text = [f"# {place}", "", *(f"| {' | '.join(row)} |" for row in rows), *_listing(left_out)]
    (workdir / "table.md").write_text("\n".join([*text, ""]), encoding="utf-8")
