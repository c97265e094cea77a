"""One step on disk: its record and arrays, read by a distrustful reader.

A step is a folder with the arrays, `state/`, and a JSON record, `record/metadata`. The record has
the shape, type and checksum of each array, and a checksum of itself. A reader believes none of it
before it is checked, and gives one reason for whatever fails: the libraries below raise errors of
any type for damaged files.
"""

import contextlib
import errno
import gc
import json
import logging
import math
import pathlib
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

Record = dict[str, Any]

CHECKSUM = "record_crc32"
_ARRAYS = "arrays"
# A compressed file of zeros is some 10^4 times smaller than its array. No array is 10^6 times as
# large as the files of its step.
_LARGEST_RATIO = 2**20
# Errors of a healthy file: of permissions, open files and memory.
_SURROUNDINGS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_WORDS_OF_SURROUNDINGS = ("permission_denied", "permission denied", "too many open files")


class UnreadableError(Exception):
    """A step cannot be read.

    Attributes:
      reason: why, in a line.
      is_damaged: False where the files may be whole, and something around them is not.
    """

    def __init__(self, reason: str, is_damaged: bool = True):
        super().__init__(reason)
        self.reason = reason
        self.is_damaged = is_damaged


def alone() -> ocp.options.MultiprocessingOptions:
    """Tells orbax that this process is the only one."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def describe(array: np.ndarray) -> dict[str, Any]:
    """Shape, type and checksum of an array, as a record has them."""
    # The bytes are read in place: copying a large array would take longer than its checksum.
    checksum = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": checksum}


def checksum_of(record: Mapping[str, Any]) -> int:
    """The checksum of a record's canonical JSON, without its own entry of it."""
    values = {name: value for name, value in record.items() if name != CHECKSUM}
    # Once through JSON, so that a record has the checksum that it will have when it is read.
    values = json.loads(json.dumps(values))
    return zlib.crc32(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def sealed(record: Mapping[str, Any]) -> Record:
    """A record with its checksum."""
    return {**record, CHECKSUM: checksum_of(record)}


def _reason_of(error: BaseException) -> str:
    # An OSError repeats the path.
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    first = words if len(words) <= 160 else f"{words[:157]}..."
    known = isinstance(error, OSError | ValueError)
    return first if known and first else f"{type(error).__name__}: {first}".removesuffix(": ")


@contextlib.contextmanager
def _refusing(place: str) -> Iterator[None]:
    """Makes one kind of error of all that can happen in a block that reads `place`."""
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:
        text = str(error).lower()
        around = (
            isinstance(error, MemoryError)
            or getattr(error, "errno", None) in _SURROUNDINGS
            or any(words in text for words in _WORDS_OF_SURROUNDINGS)
        )
        # It keeps what the library has half done, which complains when it is deleted.
        error.__traceback__ = None
        raise UnreadableError(f"{place}: {_reason_of(error)}", not around) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Lets orbax fail without a word.

    It reads all arrays at once and gives up at the first error. The others then fail one after
    another, each with a traceback of asyncio.
    """
    logger, hook = logging.getLogger("asyncio"), sys.unraisablehook

    def drop(record: logging.LogRecord) -> bool:
        del record
        return False

    def drop_errors(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Exception):
            hook(unraisable)  # a signal that came in a callback

    logger.addFilter(drop)
    sys.unraisablehook = drop_errors
    try:
        yield
    except UnreadableError:
        time.sleep(0.2)
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
        logger.removeFilter(drop)


def _check(condition: object, reason: str) -> None:
    if not condition:
        raise UnreadableError(reason)


def read_record(folder: pathlib.Path) -> Record:
    """The record of the step in a folder whose name is the step's number.

    Raises:
      UnreadableError: it is not there, is damaged, or is that of another step.
    """
    place = "record/metadata"
    with _refusing(place):
        record = json.loads((folder / "record" / "metadata").read_bytes())
        _check(isinstance(record, dict), f"{place} is no JSON object")
        if CHECKSUM in record:
            _check(
                record[CHECKSUM] == checksum_of(record), f"{place} differs from its own checksum"
            )
        step = record.get("step")
        _check(type(step) is int, f"{place} has no number of a step")
        _check(str(step) == folder.name, f"its record is that of step {step}, not of {folder.name}")
        arrays = record.get(_ARRAYS)
        _check(isinstance(arrays, dict), f"{place} lists no arrays")
        for name, array in arrays.items():
            _check(_is_described(array), f"{place} describes no array by {name}")
    return record


def _is_described(array: object) -> bool:
    """Whether this is the shape, the type and the checksum of an array that could exist."""
    if not isinstance(array, dict) or array.keys() != {"shape", "dtype", "crc32"}:
        return False
    shape, dtype = array["shape"], array["dtype"]
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        return False
    if not isinstance(dtype, str) or type(array["crc32"]) is not int:
        return False
    with contextlib.suppress(TypeError, ValueError):
        known = np.dtype(dtype)
        return str(known) == dtype and not known.hasobject and known.itemsize > 0
    return False


def read_arrays(folder: pathlib.Path, record: Record) -> dict[str, np.ndarray]:
    """The arrays of a step by path name.

    Args:
      folder: of the step.
      record: its own, from `read_record`.

    Raises:
      UnreadableError: one is missing, or differs from what the record says of it.
    """
    described = record[_ARRAYS]
    state = (folder / "state").absolute()
    with _silent(), _refusing("state"):
        _check_size(state, described)
        # Shapes and types alone, without memory: orbax makes the arrays.
        target = {
            name: np.broadcast_to(np.zeros((), array["dtype"]), array["shape"])
            for name, array in described.items()
        }
        options = alone()
        handler = ocp.Checkpointer(
            ocp.StandardCheckpointHandler(multiprocessing_options=options),
            multiprocessing_options=options,
        )
        flat = handler.restore(state, args=ocp.args.StandardRestore(target))
        flat = {name: np.asarray(value) for name, value in flat.items()}
        for name, array in described.items():
            _check(describe(flat[name]) == array, f"{name} differs from its checksum")
    return flat


def _check_size(state: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Refuses arrays that cannot be in the files that are there, before memory is taken."""
    _check(state.is_dir(), "state is missing")
    on_disk = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    size = sum(
        math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize
        for array in described.values()
    )
    _check(
        size <= _LARGEST_RATIO * on_disk,
        f"record/metadata lists arrays of {size} bytes, and the files of state have {on_disk}",
    )
