"""The records of `results.json`: an accuracy never stands without its protocol."""

import contextlib
import fcntl
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from byol_jax.errors import GuardError, UserError, require
from byol_jax.results import measures, scores
from byol_jax.runtime import disk

_logger = logging.getLogger(__name__)

FILE = "results.json"
# In the order of a table's rows: untrained features first.
NETWORKS = ("pixels", "random", "target", "online")


class Record(NamedTuple):
    """One number and all that is needed to compare it.

    Attributes:
      metric: as in `top1`.
      value: the number, in `unit`.
      unit: `percent` for accuracies, see `measures`.
      protocol: as in `linear`, `linear/2-per-class`, `knn`.
      network: one of `NETWORKS`; `random` is untrained.
      dataset: the data set, as in `config.dataset`.
      split: the split that was scored.
      n_examples: number of examples that were scored.
      checkpoint_step: finished updates of the network; None if no trained network was read.
      seed: seed of the training, or of the evaluation if that trains networks itself.
      settings: what the protocol leaves open; `standard_error`, in `unit`, if there is one, and
        `standard_error_of`, what it is taken over.
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
    """What tells two records of a file apart; a new record replaces an old one with the same.

    The solver is part of it, since linear evaluation by SGD and by L-BFGS share the name of their
    protocol. So is the row of a paper's table, or the other result, that the number is compared
    with.
    """
    return (
        record.metric,
        record.protocol,
        record.settings.get("solver"),
        record.settings.get("paper_table"),
        record.settings.get("paper_row"),
        record.settings.get("compared"),
        record.network,
        record.dataset,
        record.split,
        record.checkpoint_step,
        record.seed,
    )


def with_standard_error(record: Record) -> Record:
    """A record of an accuracy with its binomial standard error, unless it has another one.

    The other metrics are no share of the examples: the mean over classes, and average precision.
    """
    if record.metric not in ("top1", "top5") or "standard_error" in record.settings:
        return record
    error = {
        "standard_error": scores.binomial_error(record.value, record.n_examples),
        "standard_error_of": f"{record.n_examples} examples, binomial",
    }
    return record._replace(settings={**record.settings, **error})


def validate(record: Record) -> None:
    """Checks the words and numbers of a record.

    Raises:
      ValueError: a word is empty, the unit is not that of the metric, the network is not one of
        `NETWORKS`, the value is not finite, or there are no examples.
    """
    for field in ("metric", "unit", "protocol", "network", "dataset", "split"):
        word = getattr(record, field)
        if not isinstance(word, str) or not word:
            raise ValueError(f"a record's {field} must be a word, not {word!r}")
    unit = measures.of(record.metric, record.unit).unit
    if record.unit != unit:  # else it would be compared with numbers in another one
        raise ValueError(f"the unit of {record.metric} is {unit!r}, not {record.unit!r}")
    if record.network not in NETWORKS:
        raise ValueError(f"a record's network is one of {', '.join(NETWORKS)}: {record.network!r}")
    if not math.isfinite(record.value):
        raise ValueError(f"a record's value must be finite, not {record.value}")
    if record.n_examples < 1:
        raise ValueError(f"a record's n_examples must be 1 or more, not {record.n_examples}")
    if not isinstance(record.settings, dict):
        raise ValueError(f"a record's settings must be a dict, not {record.settings!r}")


def to_plain(value: Any) -> Any:
    """Plain values of what JSON does not know: scalars and arrays of numpy and JAX."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON: {value!r}")


def read_results(path: str | os.PathLike[str]) -> list[Record]:
    """Reads the records of a file that `write_results` wrote.

    Raises:
      UserError: there is no such file, or it holds something other than records.
    """
    path = Path(path)
    require(os.path.lexists(path), f"{path} does not exist: an evaluation job writes it")
    require(path.is_file(), f"{path} is no file: move it away")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError("no list")
        records = [Record(**fields) for fields in content]
        for record in records:
            validate(record)
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a list of result records ({reason}): mend it or move it away"
        ) from error
    return records


def write_results(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Merges records into a JSON file atomically; a record replaces an old one of its identity.

    Raises:
      UserError: the file holds something other than records, and is left as it is.
      ValueError: a record is not valid, or two of `records` have one identity.
    """
    path = Path(path)
    for record in records:
        validate(record)
    new = {identity(record) for record in records}
    if len(new) != len(records):
        raise ValueError("two records with the same identity: one number would be lost")
    with _locked(path.parent):
        old = read_results(path) if path.exists() else []
        merged = [*(record for record in old if identity(record) not in new), *records]
        fields = [record._asdict() for record in merged]
        text = json.dumps(fields, indent=2, allow_nan=False, default=to_plain) + "\n"
        with disk.replacing(path) as file:
            file.write(text.encode("utf-8"))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from merging into a file of this folder at the same time.

    The lock is on the folder, since the file itself is replaced. It ends with the process.
    """
    opened = None
    try:
        # Without a lock where the file system has none; what cannot be made is said by the writing.
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            opened = os.open(folder, os.O_RDONLY)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        if opened is not None:
            os.close(opened)


def check_place(workdir: Path) -> None:
    """Refuses a `results.json` to which nothing can be added, before there is something to add.

    Raises:
      UserError: it is a folder, or holds something other than records.
    """
    path = workdir / FILE
    if os.path.lexists(path):
        read_results(path)


def publish(workdir: Path, records: Sequence[Record], text: str = "") -> None:
    """Prints a table, then adds its records to `results.json`; no number is ever lost.

    If the file cannot be written, the numbers go to a file beside it, or to one of another folder,
    or to standard output.

    Args:
      workdir: folder of `results.json`.
      records: the records.
      text: the table; empty if it was printed before, or is not complete yet.

    Raises:
      UserError, GuardError: a disk or standard output cannot be written; says where the numbers
        are.
    """
    failed: BaseException | None = None
    if text:
        try:
            print(text, flush=True)
        except BaseException as error:
            failed = error  # the file counts more
    path = workdir / FILE
    try:
        write_results(path, records)
    except (UserError, GuardError) as error:
        raise type(error)(f"{error}; {_kept_elsewhere(workdir, records)}") from error
    if isinstance(failed, UserError | GuardError):
        raise type(failed)(f"{failed}; the numbers are in {path}") from failed
    if failed:
        raise failed
    if text:
        print(f"written: {path}", flush=True)


def _kept_elsewhere(workdir: Path, records: Sequence[Record]) -> str:
    """Writes records where there is room, and says where that is."""
    name = f"results-{os.getpid()}.json"
    for folder in (workdir, Path(), Path(tempfile.gettempdir())):
        try:
            write_results(folder / name, records)
            return f"the numbers are in {(folder / name).absolute()}"
        except (UserError, GuardError):
            continue
    lines = (json.dumps(record._asdict(), default=to_plain) for record in records)
    print("\n".join(lines), flush=True)
    return "the numbers are on standard output, a record per line"
