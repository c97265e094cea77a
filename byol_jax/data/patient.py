"""Reads that are tried again: a file server that answers late, a disk that comes back."""

import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from byol_jax.errors import GuardError
from byol_jax.runtime import disk

_logger = logging.getLogger(__name__)

Stored = TypeVar("Stored")

# Seconds for which a read is tried again that may succeed later.
PATIENCE = 6.0
# Seconds for a file that is missing in a folder that is there: another program may be renaming it.
_BRIEF = 0.2
# Seconds from the first attempt to the second; doubled each time.
_PAUSE = 0.1
# Images that fail one after the other, with none read in between, when their disk counts as lost.
_LOST = 3
# Errors of a disk, or of the table of open files, and not of one file.
_PASSING = disk.LOST | {errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE}


def patient(
    read: Callable[[int], Stored], title: str, root: str, seen: threading.Event | None = None
) -> Callable[[int], Stored]:
    """The same function of a position, which tries again where the disk may be at fault.

    A read that fails because of a connection or a device, or in a folder that is gone, is tried
    again for `PATIENCE` seconds, which all threads wait together. Where a file alone is missing it
    is tried for a moment. An image that has failed is tried once, from then on.

    Args:
      read: raises OSError if an image cannot be read; without an error number it is the image that
        is damaged.
      title: what messages call the images.
      root: folder of all images; empty if they have none. Then a file that is missing is no lost
        disk before another one was read: its path may be wrong.
      seen: is set once an image has been read.

    Raises:
      OSError: from the returned function, what `read` raises in the end.
      GuardError: from the returned function; `root` is gone, or no image can be read any more.
    """
    lock, seen = threading.Lock(), seen or threading.Event()
    given_up: set[int] = set()
    # Images that have failed since the last one that was read, and when the first of them did.
    failing: dict[int, float] = {}
    latest = [0.0]

    def attempt(i: int) -> Stored:
        encoded = read(i)
        seen.set()
        if failing:
            with lock:
                failing.clear()
        given_up.discard(i)
        return encoded

    def patiently(i: int) -> Stored:
        for number in itertools.count():
            try:
                return attempt(i)
            except OSError as error:
                is_known = bool(root) or seen.is_set() or error.errno in _PASSING
                seconds = 0.0 if i in given_up or not is_known else _seconds(error)
                now = time.monotonic()
                with lock:
                    if now - latest[0] > 2 * PATIENCE:
                        failing.clear()  # nobody has read since then: another failure begins
                    latest[0] = now
                    failing.setdefault(i, now)
                    is_first = len(failing) == 1 and number == 0
                    left = min(failing.values()) + seconds - now
                    count = len(failing)
                if left <= 0:
                    given_up.add(i)
                    is_away = is_known and may_pass(error)
                    if is_away and (count >= _LOST or not os.path.isdir(root or "/")):
                        raise _lost(title, root, error) from error
                    raise
                if is_first and seconds == PATIENCE:
                    _logger.warning("%s: %s; trying again for %g s", title, error, seconds)
                time.sleep(min(_PAUSE * 2**number, left))
        raise AssertionError

    return patiently


def may_pass(error: OSError) -> bool:
    """Whether a read may succeed later, as it is the disk or the way to it that fails."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and error.filename:
        # A link is there although the disk of its file has gone.
        return not os.path.isdir(os.path.dirname(os.path.realpath(os.fsdecode(error.filename))))
    return error.errno in _PASSING


def _seconds(error: OSError) -> float:
    if may_pass(error):
        return PATIENCE
    return _BRIEF if error.errno == errno.ENOENT else 0.0


def _lost(title: str, root: str, error: OSError) -> GuardError:
    gone = f"the folder {root} is gone" if root and not os.path.isdir(root) else str(error)
    return GuardError(
        f"{title}: its images cannot be read any more: {gone}; once its disk is back, run the "
        "same command again"
    )
