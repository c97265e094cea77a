"""Standard output and error whose reader has gone, or whose disk is full."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from byol_jax.errors import UserError
from byol_jax.runtime import disk


class _Guarded:
    """A stream whose errors are handled; everything else is the stream's own.

    Args:
      stream: a standard stream.
      failed: called with each error.
    """

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]):
        self._stream = stream
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's, but for its errors."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """As the stream's, but for its errors."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)


def guard() -> None:
    """Guards the standard streams of the program.

    What is lost on standard output ends the program in one line. What is lost on standard error
    ends nothing, since a training is worth more than its messages. A stream that was closed before
    the program began is the null device: its number would go to the next file that is opened.
    What its encoding lacks, as in the path of a data set, is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    null = open(os.devnull, "w")  # noqa: SIM115 - open until the program ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Guarded(sys.stdout or null, _say_lost)  # type: ignore[assignment]
    sys.stderr = _Guarded(sys.stderr or null, lambda error: None)  # type: ignore[assignment]


def _say_lost(error: OSError) -> None:
    """Ends the program, and without a second error when Python closes the stream.

    Raises:
      GuardError: its disk is full.
      UserError: nobody reads it any more.
    """
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    told = disk.explained(error, "standard output") or UserError(
        f"standard output cannot be written ({error.strerror}): send it to a file, or to a program "
        "that reads all of it"
    )
    raise told from error
