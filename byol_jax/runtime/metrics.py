"""Outputs for the numbers of a run: metrics.jsonl, TensorBoard events, a progress line."""

import contextlib
import json
import logging
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorboardX
import tqdm

from byol_jax.runtime import processes, spmd

_logger = logging.getLogger(__name__)


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes JSON atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)


def write_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes `config.json` into a workdir, unless it has one: that of a run stays its own."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if not path.exists():
        write_json(path, config)


def _is_kept(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # the last line of a run that was killed may be incomplete


class Writer:
    """Appends one flat object per line to `metrics.jsonl`, and the same values to TensorBoard.

    Args:
      workdir: an existing folder.
      step: number of finished updates when the run resumes. Lines of later steps, which an
        interrupted run wrote after its last checkpoint, are dropped: those steps run again.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _is_kept(line, step)]
            temporary = path.with_name(path.name + ".partial")
            temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, path)
        self._file = path.open("a")
        self._events = tensorboardX.SummaryWriter(
            str(workdir), purge_step=step + 1, max_queue=100, flush_secs=30
        )

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the scalars of one step; `step` counts finished updates.

        A value that is not finite becomes null in JSON, which has no NaN.
        """
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes both outputs."""
        self._file.close()
        self._events.close()


class _BarHandler(logging.Handler):
    """Writes log messages above the progress line instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(self.format(record), file=sys.stderr)


def show_messages() -> None:
    """Sends the package's own messages (the logger `byol_jax`) to standard error."""
    logger = logging.getLogger("byol_jax")
    logger.handlers = [_BarHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def announced(message: str, seconds: float = 1.0) -> Iterator[None]:
    """Logs a message, on the first process, if its block takes longer than `seconds`.

    A mistake that is found at once remains one line.
    """
    timer = threading.Timer(seconds, _logger.info, ("%s", message))
    timer.daemon = True
    if processes.is_first_process():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Pace:
    """Says once how long a run will take, from the wall time of some of its first steps.

    No device is waited for. The host is at most `spmd.AHEAD` steps ahead of the devices, so between
    two steps that it has started as many are done.

    Args:
      start: number of steps that are done before the run; the first one after it compiles.
      end: number of steps that are done after it.
    """

    # Steps and seconds that make an estimate.
    _STEPS, _SECONDS = 2, 10.0

    def __init__(self, start: int, end: int):
        self._first = start + 1 + spmd.AHEAD
        self._end = end
        self._began: float | None = None
        self._is_told = False

    def tell(self, started: int) -> None:
        """Logs the estimate when there is one; `started` is the step that has just been started."""
        if self._is_told or started < self._first:
            return
        now = time.monotonic()
        if self._began is None:
            self._began = now
        steps, seconds = started - self._first, now - self._began
        if steps < self._STEPS or seconds < self._SECONDS:
            return
        self._is_told = True
        pace, left = seconds / steps, self._end - started + spmd.AHEAD
        _logger.info("%s s per step: about %s to go", _short(pace), _duration(pace * left))


def _short(seconds: float) -> str:
    """Two digits, and all digits before the point."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def _duration(seconds: float) -> str:
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{_short(seconds / size)} {name}"
    return f"{seconds:.0f} s"


class Progress:
    """A line with images/s and the time left, redrawn in place on a terminal.

    Its clock starts with the first call of `advance`, so compilation does not count. If standard
    error is a file, a new line follows every few seconds.

    Args:
      total: number of images in the whole run.
      description: name of the work in progress.
    """

    def __init__(self, total: int, description: str):
        self._total = total
        self._description = description
        self._bar: tqdm.tqdm[None] | None = None

    def advance(self, images: int, message: str) -> None:
        """Advances to `images` finished images; `message` is shown after the rate."""
        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=self._total,
                initial=images,
                desc=self._description,
                unit="img",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=0.5 if sys.stderr.isatty() else 5,
                smoothing=0.1,
            )
        self._bar.set_postfix_str(message, refresh=False)
        self._bar.update(images - self._bar.n)

    def close(self) -> None:
        """Closes the line; its last state stays on the screen."""
        if self._bar is not None:
            self._bar.close()
