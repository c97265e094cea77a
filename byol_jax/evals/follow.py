"""Evaluates one checkpoint, or each checkpoint of a run as it comes, and writes the records."""

import contextlib
import itertools
import json
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.checks import at_least
from byol_jax.errors import GuardError, UserError, require
from byol_jax.evals import checkpoint
from byol_jax.results import ranked, tables
from byol_jax.results.records import (
    Record,
    publish,
    read_results,
    to_plain,
    with_standard_error,
)
from byol_jax.runtime import checkpoints, metrics, paths, processes

_logger = logging.getLogger(__name__)

RULES = {"follow_seconds": at_least(0), "follow_hours": at_least(0)}
# From a checkpoint and a record of it to the settings that the job would write into that record,
# as far as they are known before anything is computed; None for a record of another job.
Known = Callable[[weights.Trained, Record], Mapping[str, Any] | None]


class Score(NamedTuple):
    """A number and how it was made.

    Attributes:
      protocol: as in `linear`, `linear/2-per-class`, `knn`.
      metric: as in `top1`.
      value: the number, in `unit`.
      settings: what the protocol leaves open.
      unit: `percent` for accuracies, see `results.measures`.
    """

    protocol: str
    metric: str
    value: float
    settings: dict[str, Any]
    unit: str = "percent"


class Scored(NamedTuple):
    """The examples that a score is of.

    Attributes:
      dataset: the data set, as in `config.dataset`.
      split: as in `test`.
      n_examples: number of examples that were scored.
    """

    dataset: str
    split: str
    n_examples: int


def record(trained: weights.Trained, network: str, score: Score, scored: Scored) -> Record:
    """A record of one of the checkpoint's networks, or of a row that stands beside them."""
    return Record(
        metric=score.metric,
        value=score.value,
        unit=score.unit,
        protocol=score.protocol,
        network=network,
        dataset=scored.dataset,
        split=scored.split,
        n_examples=scored.n_examples,
        checkpoint_step=trained.step if network in ("online", "target") else None,
        seed=trained.seed,
        settings=score.settings,
    )


def finished(
    config: ml_collections.ConfigDict,
    protocols: Sequence[str],
    networks: Sequence[str],
    split: str,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Fields of the records that a finished step has, for `for_each_checkpoint`.

    Args:
      config: config of the job; a data set that it leaves open is the checkpoint's own.
      protocols: protocols of the records.
      networks: networks that the job evaluates, some of `checkpoint.NETWORKS`.
      split: split that is scored.
      **settings: settings of the records.
    """
    common = {"split": split, **settings} | ({"dataset": config.dataset} if config.dataset else {})
    return [
        {"protocol": protocol, "network": network, **common}
        for protocol, network in itertools.product(protocols, networks)
    ]


def has(record: Record, fields: Mapping[str, Any]) -> bool:
    """Whether these are fields, or settings, of a record."""
    return fields.items() <= {**record.settings, **record._asdict()}.items()


def chosen(config: Mapping[str, Any], key: str, allowed: Sequence[str]) -> list[str]:
    """The names that a config joins by +, as in `random+online`.

    Raises:
      UserError: a name is not allowed, or stands there twice.
    """
    names: list[str] = config[key].split("+")
    require(
        all(name in allowed for name in names) and len({*names}) == len(names),
        f"config.{key}={config[key]!r} must be one of {', '.join(allowed)}, or several, each once, "
        f"as in {'+'.join(allowed[:2])}",
    )
    return names


def report(records: list[Record], workdir: pathlib.Path) -> None:
    """Prints the table, then writes `results.json`, on the first process.

    Raises:
      UserError, GuardError: see `publish`.
    """
    if processes.is_first_process():
        records = [with_standard_error(record) for record in records]
        text = "\n".join([tables.format_table(records), *tables.notes(records)])
        publish(workdir, records, text)


@contextlib.contextmanager
def numbers_first(records: list[Record], workdir: pathlib.Path) -> Iterator[None]:
    """Reports records all the same if what is written beside them cannot be."""
    try:
        yield
    except (UserError, GuardError):
        report(records, workdir)
        raise


def for_each_checkpoint(
    config: ml_collections.ConfigDict,
    evaluate: Callable[[weights.Trained], list[Record]],
    workdir: pathlib.Path,
    done: Sequence[Mapping[str, Any]] = ({},),
    known: Known = lambda trained, record: None,
) -> None:
    """Evaluates `config.checkpoint`, or with `config.follow` each checkpoint of a run as it comes.

    A followed workdir may still be empty. Its complete steps are evaluated in order. A step whose
    results are in `workdir` is left out, and so is one that was deleted meanwhile
    (`keep_checkpoints`). Following ends with the run's last step, or after `config.follow_hours`
    without a new one. Table and `results.json` are brought up to date after each step.

    Args:
      config: `checkpoint`, `follow`, `follow_seconds` between two looks, `follow_hours`.
      evaluate: the protocol.
      workdir: where the results go.
      done: for each record that a finished step has, some of its fields and settings; see
        `finished`.
      known: settings that results in `workdir` must have.

    Raises:
      UserError: there is no checkpoint, or it is damaged; `follow` of something else than a
        workdir, or in several processes; results with other settings; and what `evaluate` refuses.
    """
    if not config.follow:
        only = checkpoint.load_weights(config)
        _write(with_terms(evaluate(only), only), config, workdir)
        return
    directory = _followed(config)
    path = workdir / "results.json"
    seen = _steps_with(path, done)
    is_checked = not path.exists()
    last_news = time.monotonic()
    while True:
        for step in checkpoints.steps(directory):
            if step in seen and is_checked:
                continue
            trained = _read_or_none(directory, step)
            if trained and not is_checked:
                _require_same_settings(path, trained, known)
                is_checked = True
            if step in seen:
                continue
            if trained:
                _write(with_terms(evaluate(trained), trained), config, workdir)
            seen.add(step)
            last_news = time.monotonic()
        # New ones may have come in the meantime: they count before the end does.
        steps = checkpoints.steps(directory)
        if not seen.issuperset(steps):
            continue
        if steps and _is_last(directory, steps[-1]):
            return
        if time.monotonic() - last_news > config.follow_hours * 3600:
            hours = config.follow_hours
            _logger.info("no new checkpoint in %s for %g hours: ended", directory, hours)
            return
        time.sleep(config.follow_seconds)


def _followed(config: ml_collections.ConfigDict) -> pathlib.Path:
    """The folder of checkpoints that is followed.

    Raises:
      UserError: the config cannot be followed.
    """
    require(config.checkpoint, "config.checkpoint is needed: the workdir to follow")
    count = jax.process_count()
    require(
        count == 1,
        f"config.follow is for one process, and there are {count}: each would find checkpoints at "
        "another time; start one",
    )
    require(
        config.get("network") != "random",
        "config.follow with config.network=random gives the same number at every checkpoint: "
        "leave out one of the two",
    )
    directory = paths.outside(config.checkpoint, "config.checkpoint")
    require(
        not weights.is_single(config.checkpoint),
        f"config.follow needs the workdir of a run, and checkpoint={config.checkpoint} will not "
        "change: leave out config.follow",
    )
    if directory.name != "checkpoints":
        directory /= "checkpoints"
    require(
        not directory.parent.name.isdigit() or directory.parent.parent.name != "checkpoints",
        f"config.follow needs a workdir, not one step of it: checkpoint={config.checkpoint}",
    )
    return directory


def _steps_with(path: pathlib.Path, done: Sequence[Mapping[str, Any]]) -> set[int]:
    """Checkpoint steps of a results file that have all these records.

    A record of a network that no training made counts for every step.
    """
    records = read_results(path) if path.exists() else []
    steps = {record.checkpoint_step for record in records} - {None}
    for fields in done:
        own = {record.checkpoint_step for record in records if has(record, fields)}
        steps &= steps if None in own else own
    return {step for step in steps if step is not None}


def _require_same_settings(path: pathlib.Path, trained: weights.Trained, known: Known) -> None:
    """Refuses to go on beside results that were made with other settings.

    Raises:
      UserError: names the first setting that differs.
    """
    for record in read_results(path):
        if difference := differing(record, known(trained, record) or {}):
            name, old, new = difference
            raise UserError(
                f"{path} has {record.protocol} of step {record.checkpoint_step} with "
                f"{name}={old}, and this config gives {name}={new}: give another --workdir, or "
                "move that file away"
            )


def differing(record: Record, known: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting of a record that is not as it would be now.

    Args:
      record: as it was read.
      known: settings that it would have now, as far as they are known.

    Returns:
      The setting's name, its value in the record, and the one that it would have; or None.
    """
    for key, value in json.loads(json.dumps(known, default=to_plain)).items():
        if difference := _difference(key, record.settings.get(key, value), value):
            return difference
    return None


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first entry in which two values differ, and what it is in each; None if they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        entries = {**new, **old}
        parts = (_difference(f"{name}.{key}", old.get(key), new.get(key)) for key in entries)
        return next(filter(None, parts), None)
    return None if old == new else (name, old, new)


def _is_last(directory: pathlib.Path, step: int) -> bool:
    """Whether a step ends its run, as far as its record tells."""
    try:
        total_steps = weights.read_record(directory, step)["total_steps"]
    except UserError:
        return False  # deleted just now, since there is a newer one
    return total_steps is not None and step >= total_steps


def _read_or_none(directory: pathlib.Path, step: int) -> weights.Trained | None:
    """The weights of a step, or None when its run has deleted it."""
    path = directory / str(step)
    try:
        return weights.load(path)
    except checkpoints.RemovedError:
        _logger.info("checkpoint %s is gone: left out", path)
        return None


def with_terms(records: Sequence[Record], trained: weights.Trained) -> list[Record]:
    """The records, with origin and licence where the weights are other people's."""
    terms = weights.terms_of(trained)
    return [
        record._replace(settings={**record.settings, **terms})
        if record.network in ("online", "target")
        else record
        for record in records
    ]


def _write(records: list[Record], config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    report(records, workdir)
    if processes.is_first_process():
        metrics.write_config(workdir, config.to_dict())


def check_predictions(config: ml_collections.ConfigDict, networks: Sequence[str] = ()) -> None:
    """Refuses to keep predictions where one file cannot hold them.

    Raises:
      UserError: there are several networks or checkpoints.
    """
    if config.save_predictions:
        require(
            not config.follow,
            f"config.save_predictions=True writes one {ranked.FILE}, and config.follow=True "
            "evaluates many checkpoints: leave out one of the two",
        )
        require(
            len(networks) < 2,
            f"config.save_predictions=True writes one {ranked.FILE}, and config.network="
            f"{'+'.join(networks)} names {len(networks)} networks: give one",
        )


def check_predicted(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, record: Record, multi_label: bool
) -> None:
    """Refuses to keep predictions that have no ranking, or in place of others.

    Args:
      config: config of the job.
      workdir: its workdir.
      record: a record of the network that will be scored; its value is not read.
      multi_label: whether an image has several classes.

    Raises:
      UserError: there are several classes per image; or the file belongs to another record.
    """
    if config.save_predictions:
        require(
            not multi_label,
            f"config.save_predictions=True ranks the classes of images with one label, and "
            f"{record.dataset} has several per image: leave it out",
        )
        ranked.require_free(workdir / ranked.FILE, ranked.about_of(record))


def save_predictions(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    record: Record,
    ids: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
) -> None:
    """Writes `predictions.npz` on the first process, if the config asks for it.

    Args:
      config: config of the job.
      workdir: where it goes.
      record: a record of the scored network.
      ids, labels: int `[N]`.
      classes: the most likely classes, best first, int `[N, k]`.
    """
    if config.save_predictions and processes.is_first_process():
        about = ranked.about_of(record)
        ranked.write(workdir / ranked.FILE, ranked.Ranked(ids, labels, classes, about))
