"""What jobs share that make something of each image: progress, signals, files of other commands."""

import contextlib
import json
import pathlib
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from byol_jax.errors import Stopped, require
from byol_jax.runtime import interrupts, metrics


def check_same(
    path: pathlib.Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    what: str,
    may_differ: Collection[str],
    later: Collection[str] = (),
) -> None:
    """Refuses a file that another command wrote.

    Args:
      path: the file.
      old: what it says of itself.
      new: what this command would write.
      what: what is in it, in words.
      may_differ: keys that change nothing in it.
      later: keys that files of earlier versions do not have.

    Raises:
      UserError: names the first thing that differs.
    """
    for key, value in json.loads(json.dumps(new)).items():
        is_untold = key in later and key not in old
        require(
            key in may_differ or is_untold or old.get(key) == value,
            f"{path} has {what} with {key}={_short(old.get(key))}, and this command gives "
            f"{key}={_short(value)}: give another --workdir, or move those {what} away",
        )


def _short(value: object) -> str:
    return text if len(text := str(value)) <= 80 else f"{text[:77]}..."


@contextlib.contextmanager
def advancing(
    size: int, description: str, stopped: Callable[[], str]
) -> Iterator[Callable[[int], None]]:
    """A progress line, and signals.

    Args:
      size: number of images.
      description: what is made of them.
      stopped: completes the message of a job that a signal ends.

    Yields:
      A function of the number of finished images. It raises `Stopped` after a signal.
    """
    progress = metrics.Progress(size, description)
    with interrupts.signals("ends after this batch") as signal_number, contextlib.closing(progress):

        def advance(done: int) -> None:
            progress.advance(done, "")
            if number := signal_number():
                name = signal.Signals(number).name
                raise Stopped(number, f"stopped by {name}: {stopped()}")

        yield advance
