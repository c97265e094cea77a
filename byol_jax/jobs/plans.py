"""Which cells of a table can be run, each with the config of its job, its folder, and departures.

Reads names and labels, and no images. Cells that cannot be run are listed with the reasons.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax import checks
from byol_jax.checks import check_keys, one_of
from byol_jax.data import sources
from byol_jax.errors import UserError, require
from byol_jax.jobs import benchmarks, overrides, pretrained
from byol_jax.jobs.benchmarks import Benchmark
from byol_jax.runtime import paths

# A `papers.cells.Cell` as plain values, with `place`; and `folder` and `config` if it can be run.
Cell = Mapping[str, Any]

# Splits of a job, and what images of them are for.
_SPLITS = {"fit_split": "fitted", "valid_split": "validation", "score_split": "test"}
RULES = {"network": one_of(("online", "target")), "method": one_of(pretrained.METHODS)}


class Plan(NamedTuple):
    """A cell that will be run.

    Attributes:
      cell: the cell of the page.
      config: resolved config of its job.
      folder: workdir of its job.
      step: step of the checkpoint that it reads; None if it reads none, or a released one.
      departures: settings that are not the paper's, in words.
      name: name of its row and column; a network that has no rows stands there by its own name.
      scored: number of images of `score_split`.
    """

    cell: Cell
    config: ml_collections.ConfigDict
    folder: pathlib.Path
    step: int | None
    departures: tuple[str, ...]
    name: str
    scored: int = 0

    def made_by(self) -> dict[str, Any]:
        """The content of `cell.json`: all that decides the numbers, and the paths."""
        made: dict[str, Any] = json.loads(json.dumps(self.config.to_dict()))
        return {"config": made, "checkpoint_step": self.step}

    def check_folder(self) -> None:
        """Refuses a folder with the numbers of another run.

        Raises:
          UserError: names what differs.
        """
        if not (self.folder / "results.json").exists():
            return
        try:
            old = json.loads((self.folder / "cell.json").read_text())
            step = old["checkpoint_step"]
            changes = checks.differing(old["config"], self.made_by()["config"], self.cell["config"])
        except (OSError, ValueError, KeyError):
            step, changes = self.step, ["an unknown one"]
        if step != self.step:
            changes.append(f"checkpoint step {step}, now {self.step}")
        require(
            not changes,
            f"{self.folder} holds the results of another checkpoint or other settings "
            f"({'; '.join(changes)}): give another --workdir, or move it away",
        )


class _Context(NamedTuple):
    """What the cells of a table share.

    Attributes:
      config: config of the job `paper`.
      workdir: its workdir.
      given: data sets by their keys, in place of TFDS.
      changes: values by key of `config.override`.
      source: the checkpoint, if there is one.
      trainings: configs of the papers' networks by the names in the cells.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    given: Mapping[str, str]
    changes: Mapping[str, str]
    source: pretrained.Checkpoint | None
    trainings: Mapping[str, Mapping[str, Any]]


def plan_cells(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[list[Plan], list[tuple[Cell, str]]]:
    """The cells that can be run, and the others with their reasons. Reads names, no images.

    Raises:
      UserError: a name in `config` does not exist, or `config.method` is not the checkpoint's.
    """
    check_keys(config, RULES)
    _check_sources(config)
    given = benchmarks.given(config.folders, config.datasets)
    changes = overrides.parse_pairs("override", config.override)
    for key in changes:
        require(
            any(overrides.has(cell["config"], key) for cell in config.cells if cell["page"]),
            f"config.override: no cell has a key {key!r}",
        )
    context = _Context(
        config=config,
        workdir=workdir,
        given=given,
        changes=changes,
        source=pretrained.read(config, given),
        trainings={training["name"]: training["config"] for training in config.trainings},
    )
    checked: dict[tuple[Any, ...], tuple[dict[str, int], str]] = {}
    plans: list[Plan] = []
    left_out: list[tuple[Cell, str]] = []
    for cell in config.cells:
        reason = cell["reason"] or _wrong_network(cell, context)
        plan = None
        if not reason:
            plan, reason = _planned(cell, context)
        if plan:
            benchmark = benchmarks.of(cell["benchmark"])
            reads = _reads(benchmark, plan.config)
            if reads not in checked:
                checked[reads] = _counts(benchmark, plan.config)
            counts, reason = checked[reads]
            departures = (*plan.departures, *_other_counts(benchmark, plan.config, counts))
            plan = plan._replace(departures=departures, scored=counts.get("score_split", 0))
        if plan and not reason:
            plans.append(plan)
        else:
            left_out.append((cell, reason))
    return plans, left_out


def _check_sources(config: ml_collections.ConfigDict) -> None:
    """Refuses names of networks that no cell would read.

    Raises:
      UserError: names the key.
    """
    released = [bool(cell["released"]) for cell in config.cells if cell["page"]]
    require(
        not config.released or any(released),
        f"config.released={config.released}: table={config.table} has no row of a released "
        "network; leave it out",
    )
    require(
        not config.released or paths.outside(config.released, "config.released").is_dir(),
        f"config.released={config.released} is no folder: give that of the authors' files",
    )
    require(
        not config.checkpoint or not released or not all(released),
        f"config.checkpoint={config.checkpoint}: the rows of table={config.table} read the "
        "authors' files alone, of config.released; leave it out",
    )
    require(
        not config.trained_on or config.checkpoint,
        f"config.trained_on={config.trained_on} is for a checkpoint, and there is none: leave it "
        "out, or give config.checkpoint",
    )


def _wrong_network(cell: Cell, context: _Context) -> str:
    """Why the checkpoint is not the one of a cell; empty if it is, or if the cell needs none."""
    need, source = cell["network"], context.source
    if need is None:
        return ""
    if cell["released"]:
        return _not_released(cell, context)
    words = pretrained.needed(need)
    if source is None:
        return f"no checkpoint: give {words} as --config.checkpoint"
    if pretrained.is_usable(need, source, context.config.any_network):
        return ""
    return f"another network: needs {words}, the checkpoint is {source.words}"


def _not_released(cell: Cell, context: _Context) -> str:
    """Why there is no checkpoint of BYOL's authors for a cell; empty if there is."""
    folder, file = context.config.released, cell["released"]
    if not folder:
        return (
            "no released checkpoint: give the folder of BYOL's authors' files as --config.released"
        )
    return "" if (paths.outside(folder) / file).is_file() else f"{folder} has no {file}"


def _planned(cell: Cell, context: _Context) -> tuple[Plan | None, str]:
    """The plan of a cell, or the reason why there is none."""
    config, source = context.config, context.source
    key, need = cell["benchmark"], cell["network"]
    benchmark = benchmarks.of(key)
    if key not in context.given and benchmark.registered is None:
        return None, f"{benchmark.advice} Then give --config.folders='{key}=DIR'"
    job_config = ml_collections.ConfigDict(cell["config"])
    job_config.dataset = context.given.get(key, benchmark.registered)
    departures: list[str] = []
    step, name = None, cell["name"]
    if cell["released"]:
        job_config.checkpoint = str(paths.outside(config.released) / cell["released"])
        job_config.network = config.network
    elif need and source:
        job_config.checkpoint = config.checkpoint
        wanted = None
        if need["method"] != "random":  # an untrained network is chosen by the cell
            job_config.network = config.network
            step, wanted = source.trained.step, context.trainings[need["training"]]
            if source.method == pretrained.OTHER:
                name = f"{source.words}, beside {name}"
        departures += pretrained.departures_of(need, source, wanted)
    if not benchmark.is_one(job_config.dataset):
        departures.append(f"{job_config.dataset} instead of {benchmark.name}")
    if job_config.dataset.startswith("tfds:"):
        job_config.data_dir = config.data_dir or (source.trained.data_dir if source else None)
    applied = overrides.apply(job_config, context.changes)
    decide = checks.deciding(job_config.to_dict())
    departures += [change for change in applied if change.partition("=")[0] in decide]
    folder = context.workdir / cell["folder"]
    return Plan(cell, job_config, folder, step, tuple(departures), name), ""


def _reads(benchmark: Benchmark, config: ml_collections.ConfigDict) -> tuple[Any, ...]:
    """The images that a run reads."""
    splits = tuple(config[name] for name in _SPLITS)
    return config.dataset, config.data_dir, benchmark.key, splits, config.get("train_dataset")


def _counts(benchmark: Benchmark, config: ml_collections.ConfigDict) -> tuple[dict[str, int], str]:
    """Numbers of images of a run by the keys of its splits, and why there are none."""
    counts = {}
    try:
        for name in _SPLITS:
            if config[name]:
                counts[name] = benchmark.number(config.dataset, config[name], config.data_dir)
        if config.get("train_dataset"):
            sources.load(config.train_dataset, "train", config.data_dir, key="")
    except UserError as error:
        return {}, f"no data: {error}"
    return counts, ""


def _other_counts(
    benchmark: Benchmark, config: ml_collections.ConfigDict, counts: Mapping[str, int]
) -> list[str]:
    """Numbers of images that are not the paper's, in words.

    The images of `train_dataset`, which are fitted in place of `fit_split`, have no row in Table
    10.
    """
    words = []
    for name, count in counts.items():
        sizes = benchmark.sizes(config[name])
        is_fitted = name != "fit_split" or not config.get("train_dataset")
        if sizes and count not in sizes and is_fitted:
            wanted = " or ".join(f"{size:,}" for size in sizes)
            words.append(f"{count:,} {_SPLITS[name]} images ({benchmark.source} has {wanted})")
    return words
