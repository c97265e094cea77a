"""Outputs for the numbers of a run: metrics.jsonl, TensorBoard events, a progress line."""

import contextlib
import json
import logging
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import tensorboardX
import tqdm
from tensorboardX import record_writer

from byol_jax.runtime import disk, processes, spmd

_logger = logging.getLogger(__name__)
# It warns of each number that is not finite, without saying which; metrics.jsonl has null there.
logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes JSON atomically: a reader sees the old file or the new one."""
    disk.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes `config.json` into a workdir, unless it has one: that of a run stays its own."""
    path = workdir / "config.json"
    if not path.exists():
        write_json(path, config)


def read_lines(path: pathlib.Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """The lines of a `metrics.jsonl` that can be read, each with its fields; how many cannot.

    The last line of a run that was killed may be incomplete, and a damaged disk may leave any bytes
    in any line.
    """
    lines, bad = [], 0
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode("utf-8"))
            is_good = math.isfinite(fields["step"])
        except (ValueError, KeyError, TypeError, RecursionError):
            is_good = False
        if is_good:
            lines.append((line, fields))
        else:
            bad += 1
    return lines, bad


class _Kept:
    """A binary file that keeps its first error, and takes nothing after it.

    tensorboardX writes in a thread of its own. An error there would end the thread alone: nobody
    would hear of it, and whoever adds values would wait forever once the queue is full.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def _attempt(self, work: Callable[[], object]) -> None:
        if self.error is None:
            try:
                work()
            except OSError as error:
                self.error = error

    def write(self, data: bytes) -> None:
        self._attempt(lambda: self._file.write(data))

    def flush(self) -> None:
        self._attempt(self._file.flush)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of what it could not write before
            self._attempt(self._file.flush)
            self._file.close()


def _events(workdir: pathlib.Path, step: int) -> tuple[tensorboardX.SummaryWriter, _Kept]:
    """A writer of TensorBoard events, and its file."""
    files: list[_Kept] = []
    opened = record_writer.open_file

    def open_file(path: str) -> _Kept:
        files.append(_Kept(opened(path)))
        return files[-1]

    record_writer.open_file = open_file
    try:
        events = tensorboardX.SummaryWriter(
            str(workdir), purge_step=step + 1, max_queue=100, flush_secs=30
        )
    finally:
        record_writer.open_file = opened
    return events, files[0]


class Writer:
    """Appends one flat object per line to `metrics.jsonl`, and the same values to TensorBoard.

    Args:
      workdir: an existing folder.
      step: number of finished updates when the run resumes. Lines of later steps, which an
        interrupted run wrote after its last checkpoint, are dropped: those steps run again. So are
        lines that cannot be read, and a message says how many.

    Raises:
      GuardError, UserError: the disk cannot be written, here and in `write`.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        self._path = workdir / "metrics.jsonl"
        with disk.writing(self._path):
            if self._path.exists():
                self._keep(step)
            # Without a buffer nothing is left to be written when the file is closed.
            self._file = self._path.open("ab", buffering=0)
        with disk.writing(workdir):
            self._events, self._kept = _events(workdir, step)

    def _keep(self, step: int) -> None:
        lines, bad = read_lines(self._path)
        if bad:
            _logger.warning("%s: %d line(s) that cannot be read are dropped", self._path, bad)
        with disk.replacing(self._path) as file:
            for line, fields in lines:
                if fields["step"] <= step:
                    file.write(line + b"\n")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the scalars of one step; `step` counts finished updates.

        A value that is not finite becomes null in JSON, which has no NaN.
        """
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = (json.dumps({"step": step, "split": split, **finite}) + "\n").encode()
        with disk.writing(self._path):
            while line:  # a disk that is nearly full takes a part of it, then none
                line = line[self._file.write(line) :]
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
        self._check_events()

    def _check_events(self) -> None:
        with disk.writing(self._path.with_name("events.out.tfevents")):
            if self._kept.error:
                raise self._kept.error

    def close(self) -> None:
        """Flushes and closes both outputs."""
        self._file.close()
        self._events.close()
        if sys.exc_info()[0] is None:  # what has ended the run counts more
            self._check_events()


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
