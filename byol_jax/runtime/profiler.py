"""A trace of a few steps, for TensorBoard's profile plugin (xprof) or Perfetto."""

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
    """Traces `count` steps, from number `first` on, into `folder`.

    Args:
      folder: is made if it is not there.
      first: the first step of the trace. Those before it compile and fill the queues.
      count: 0 traces nothing.

    Yields:
      A function for the loop, to be called with the number of each step that has been started and
      some output of it. It waits for that output at both ends of the trace, nowhere else.
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
