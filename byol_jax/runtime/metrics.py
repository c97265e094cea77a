"""Outputs for the numbers of a run: metrics.jsonl, TensorBoard events, a progress line."""

import json
import logging
import math
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import tensorboardX
import tqdm


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
