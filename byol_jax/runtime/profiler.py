"""A trace of some steps, for TensorBoard's profile plugin (xprof) or Perfetto."""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

_logger = logging.getLogger(__name__)

PyTree = Any


@contextlib.contextmanager
def traced(folder: pathlib.Path, first: int, count: int) -> Iterator[Callable[[int, PyTree], None]]:
    """Traces `count` steps, beginning with step `first`, into `folder`.

    Args:
      folder: folder of the trace; it is made if it does not exist.
      first: number of the first step in the trace. Earlier steps compile and fill the queues.
      count: number of steps in the trace; 0 traces nothing.

    Yields:
      A function that the loop calls after it has started a step, with the step's number and some
      output of the step. The function waits for that output at both ends of the trace only.
    """
    running = False

    def finish() -> None:
        nonlocal running
        running = False
        jax.profiler.stop_trace()
        _logger.info("trace written to %s", folder)

    def after(step: int, outputs: PyTree) -> None:
        nonlocal running
        if not count:
            return
        if running and step >= first + count - 1:
            jax.block_until_ready(outputs)
            finish()
        elif not running and step == first - 1:
            jax.block_until_ready(outputs)
            jax.profiler.start_trace(str(folder))
            running = True

    try:
        yield after
    finally:
        if running:
            finish()
