"""Errors of disks: which of them are the outside's, and one line for each."""

import contextlib
import errno
import logging
import os
import pathlib
import re
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from byol_jax.errors import GuardError, Stopped, UserError

# Room may be made, and the same command goes on: exit code 3.
_FULL = {
    errno.ENOSPC: "no space left on the disk of {place}: free some",
    errno.EDQUOT: "the quota of the disk of {place} is used up: free some space",
    errno.EFBIG: "{place} would be larger than files may be (ulimit -f): raise the limit",
}
# Errors of a device or a connection: the disk may come back.
LOST = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ENXIO", "ENODEV", "ESTALE", "EREMOTEIO", "ETIMEDOUT", "ENOTCONN"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "ESHUTDOWN"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    )
    if hasattr(errno, name)  # not every system has all
)
# The path has to be another one, or its permissions: exit code 2.
_REFUSED = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK, errno.EXDEV, errno.EBUSY),
    errno.ETXTBSY,
}
# How libraries write the number of an error, and the words of those that leave it out.
_NUMBER = re.compile(r"(?:OS error |\[errno )(\d+)", re.IGNORECASE)
_WORDS = {
    "no space left": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
}
# Files that come with the program: an error of one of them is a bug.
_INSTALLED = tuple(
    os.path.join(folder, "")
    for folder in (pathlib.Path(__file__).resolve().parents[1], sys.prefix, sys.base_prefix)
)


def _code_of(error: BaseException) -> int | None:
    """The number of an error of a disk, also where a library has wrapped it."""
    if isinstance(error, UserError | GuardError | Stopped):
        return None  # they have their line
    code = getattr(error, "errno", None)
    if not isinstance(code, int):
        text = str(error)
        number = _NUMBER.search(text)
        words = (code for word, code in _WORDS.items() if word in text.lower())
        code = int(number[1]) if number else next(words, None)
    if code is None and error.__cause__ is not None:
        return _code_of(error.__cause__)
    return code


def _file_of(error: BaseException) -> str | None:
    """The path that an error carries; None if it carries none."""
    name = getattr(error, "filename", None)
    if isinstance(name, bytes | os.PathLike):
        name = os.fsdecode(name)
    if isinstance(name, str) and name:
        return name
    return _file_of(error.__cause__) if error.__cause__ is not None else None


def _is_near(file: str, place: str) -> bool:
    """Whether one of two paths is the other, or below it."""
    paths = [os.path.abspath(path) for path in (file, place)]
    return os.path.commonpath(paths) in paths


def explained(
    error: BaseException, place: pathlib.Path | str | None = None, kept: str = ""
) -> GuardError | UserError | None:
    """The one line of an error of a disk; None if it is another error, such as a bug.

    Args:
      error: the error, of Python or of a library.
      place: what was being written; None if that is unknown. Then an error counts if it carries
        the path of a file, or if a disk is full. That of a file of the program is a bug in any case
        (unless it is written there), and a file elsewhere that is missing is no lost disk.
      kept: what the user has in spite of the error.
    """
    code, file = _code_of(error), _file_of(error)
    if code is None:
        return None
    is_there = place is not None and (file is None or _is_near(file, str(place)))
    if file and not is_there and os.path.abspath(file).startswith(_INSTALLED):
        return None
    known = file or place
    ending = f"; {kept}" if kept else ""
    if code in _FULL:
        words = _FULL[code].format(place=place or file or "the workdir")
        return GuardError(f"{words} and run the same command again{ending}")
    if known is None:
        return None
    reason = os.strerror(code)
    if code in LOST or (code == errno.ENOENT and is_there):
        return GuardError(
            f"{known} has gone ({reason}): bring its disk back and run the same command "
            f"again{ending}"
        )
    if code in _REFUSED or code == errno.ENOENT:
        remedy = "let this user read or write there, or give another path"
        if code == errno.ENOENT:
            remedy = "bring it back, or give another path"
        return UserError(f"{known} cannot be used ({reason}): {remedy}{ending}")
    return None


@contextlib.contextmanager
def writing(
    place: pathlib.Path | str, kept: str = "the checkpoints in it are complete"
) -> Iterator[None]:
    """Turns errors of the disk that is written into one line.

    Args:
      place: what is written.
      kept: what a user has after the error.

    Raises:
      GuardError: the disk is full, or has gone.
      UserError: the disk cannot be written at all.
    """
    try:
        yield
    except Exception as error:
        told = explained(error, place, kept)
        if told is None:
            raise
        raise told from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file to write into that takes its place once it is complete and on the disk.

    A reader sees the old file or the new one, and so does a user after an error.

    Raises:
      GuardError, UserError: as `writing`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path, "it is as it was before" if path.exists() else "it is not written"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if error.filename == str(temporary):
                error.filename = str(path)  # the name that a user knows
            raise
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file as a whole, UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


class _NoDiskErrors(logging.Filter):
    """Leaves out what libraries log of errors of a disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or explained(error, "") is None


def _is_late(error: BaseException) -> bool:
    """Whether the storage library found the loop of a save that has failed closed."""
    first = error.__traceback__
    return (
        isinstance(error, RuntimeError)
        and str(error) == "Event loop is closed"
        and first is not None
        and os.path.basename(os.path.dirname(first.tb_frame.f_code.co_filename)) == "asyncio"
    )


def quiet_background() -> None:
    """Leaves out the tracebacks of background saves that found the disk full, or the like.

    Orbax writes each array in a task and each save in a thread. The first error reaches the caller,
    which says it in one line. Orbax, asyncio, `threading` and the storage library would print those
    of all others around it.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_NoDiskErrors())
    of_threads, of_nobody = threading.excepthook, sys.unraisablehook

    def in_thread(arguments: Any) -> None:
        error = arguments.exc_value
        if error is None or explained(error, "") is None:
            of_threads(arguments)

    def in_callback(unraisable: Any) -> None:
        if unraisable.exc_value is None or not _is_late(unraisable.exc_value):
            of_nobody(unraisable)

    threading.excepthook, sys.unraisablehook = in_thread, in_callback
