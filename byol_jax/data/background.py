"""A generator that runs ahead in a thread of its own."""

import queue
import threading
from collections.abc import Callable, Generator

import numpy as np

# Arrays by name, `[b, ...]` each.
Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]


def in_background(
    batches: Batches, depth: int, waiting: Callable[[float], None] | None = None
) -> Batches:
    """Runs a generator in a thread that stays at most `depth` items ahead.

    Args:
      batches: the generator.
      depth: most items that are ready but not yet asked for.
      waiting: called every second while no item is ready, with the number of such seconds so far.
        It may raise to give up; the thread is then not waited for.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    break
            put(None)
        except BaseException as error:  # raised again in the consumer
            put(error)
        finally:
            if stopped.is_set():
                batches.close()

    thread = threading.Thread(target=work, name="input", daemon=True)
    thread.start()
    seconds = 0
    try:
        while True:
            try:
                item = ready.get(timeout=1 if waiting else None)
            except queue.Empty:
                seconds += 1
                assert waiting
                waiting(seconds)
                continue
            seconds = 0
            if item is None:
                break
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=1 if waiting else None)
