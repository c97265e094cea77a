"""Batches of images and targets of one shape, the same on every machine.

A training batch is a function of the stream: its examples, and for each of them its draws, keyed on
(seed, id, epoch). Threads decide nothing.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import numpy as np

from byol_jax import keys
from byol_jax.data import stored
from byol_jax.data.background import Batch, Batches, in_background
from byol_jax.data.dense.sets import MASKS, VOID, DenseSet, Sample
from byol_jax.data.dense.transforms import DRAWS, Evaluation, Seen, Training
from byol_jax.data.views import Request, Stream, check_stream, requests
from byol_jax.errors import require

_logger = logging.getLogger(__name__)

Made = TypeVar("Made")

# Requests that are under way at a time: one is made while another is put together.
_AHEAD = 2


def train_batches(
    dense_set: DenseSet, stream: Stream, transform: Training, threads: int = 0, prefetch: int = 2
) -> Batches:
    """Yields this process's share of the batches of a stream.

    An example that cannot be read is replaced by a substitute that is drawn with the key of the
    unreadable one: image and target are those of the substitute, the id stays.

    Args:
      dense_set: examples to train on.
      stream: examples of each batch.
      transform: what image and target become (`transforms.segmentation`, `transforms.depth`).
      threads: threads that read and transform; 0 takes one per core.
      prefetch: batches made ahead.

    Yields:
      `image` uint8 `[b, h, w, 3]`, `target` uint8 (masks) or float32 (depth) `[b, H, W]`, `ids` and
      `epochs` int32 `[b]`.

    Raises:
      UserError: fewer examples than one batch, or a batch that cannot be divided. From the
        iterator: more examples than `tolerance.tolerated` cannot be read, or a target does not fit
        its image or its set.
      GuardError: from the iterator, files that could be read are away now.
    """
    assert stream.num_examples == dense_set.size
    check_stream(stream, dense_set.title)
    _check_numbers(threads, prefetch)
    bad: dict[int, str] = {}

    def make(one: Request) -> Sample:
        example, epoch = int(one.ids), int(one.epochs)
        uniforms = keys.example_uniforms(stream.seed, "dense", example, epoch, 1, DRAWS)
        sample = _read_or_substitute(dense_set, stream.seed, example, epoch, bad)
        return transform(sample, uniforms)

    def batches() -> Batches:
        for request, made in _mapped(make, requests(stream), threads):
            yield {
                "image": np.stack([sample.image for sample in made]),
                "target": np.stack([sample.target for sample in made]),
                "ids": request.ids.astype(np.int32),
                "epochs": request.epochs.astype(np.int32),
            }

    return in_background(batches(), prefetch) if prefetch else batches()


def evaluation_batches(
    dense_set: DenseSet,
    transform: Evaluation,
    batch_size: int,
    *,
    start: int = 0,
    threads: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Yields every example once, in order, in batches of one shape.

    The last batch is filled up with rows of id -1, whose targets have no valid pixel. A row whose
    example cannot be read is such a row, too.

    Args:
      dense_set: examples to evaluate.
      transform: what is seen of an example (`transforms.whole`, `transforms.depth_whole`).
      batch_size: rows per batch.
      start: id of the first example; those before it are left out.
      threads: threads that read and transform; 0 takes one per core.
      prefetch: batches made ahead.

    Yields:
      `image` uint8 `[b, h, w, 3]`, `target` uint8 (masks) or float32 (depth) `[b, H, W]`, `windows`
      int32 `[b, 4]` (`Seen.window`) and `ids` int32 `[b]`.

    Raises:
      UserError, GuardError: from the iterator, as `train_batches`; or targets differ in size.
    """
    require(batch_size > 0, f"batch_size={batch_size} must be above 0")
    _check_numbers(threads, prefetch)
    bad: dict[int, str] = {}

    def make(one: Request) -> Seen | None:
        sample = _read(dense_set, int(one.ids), bad, "is left out")
        return transform(sample) if sample else None

    starts = range(start, dense_set.size, batch_size)
    ids = (np.arange(first, min(first + batch_size, dense_set.size)) for first in starts)

    def batches() -> Batches:
        like: Seen | None = None
        asked = (Request(part, np.zeros_like(part)) for part in ids)
        for request, made in _mapped(make, asked, threads):
            like = like or next(filter(None, made), None)
            if like is not None:  # nothing of the first batches may be readable
                yield _evaluated(dense_set, request, made, like, batch_size)

    return in_background(batches(), prefetch) if prefetch else batches()


def _evaluated(
    dense_set: DenseSet, request: Request, made: list[Seen | None], like: Seen, rows: int
) -> Batch:
    """A batch of `rows` rows, those without an example void."""
    nothing = VOID if dense_set.kind == MASKS else 0
    batch = {
        "image": np.zeros((rows, *like.image.shape), np.uint8),
        "target": np.full((rows, *like.target.shape), nothing, like.target.dtype),
        "windows": np.zeros((rows, 4), np.int32),
        "ids": np.full(rows, -1, np.int32),
    }
    for row, (example, seen) in enumerate(zip(request.ids.tolist(), made, strict=True)):
        if seen is None:
            continue
        (h, w), (to_h, to_w) = seen.target.shape, like.target.shape
        require(
            (h, w) == (to_h, to_w),
            f"{dense_set.title}: {dense_set.describe(example)} has {w} x {h} pixels and others "
            f"{to_w} x {to_h}: frames that are evaluated together have one size",
        )
        batch["image"][row], batch["target"][row] = seen.image, seen.target
        batch["windows"][row], batch["ids"][row] = seen.window, example
    return batch


def _read(dense_set: DenseSet, example: int, bad: dict[int, str], what: str) -> Sample | None:
    """The sample, or None, with the reason in `bad`, if it cannot be read.

    Args:
      dense_set: the examples.
      example: its id.
      bad: reasons of all unreadable examples so far, by id.
      what: what happens to such an example, in words.

    Raises:
      UserError, GuardError: see `train_batches`.
    """
    try:
        return dense_set.read(example)
    except OSError as error:
        reason = str(error) or type(error).__name__
    if example not in bad:
        bad[example] = reason
        describe, size = dense_set.describe, dense_set.size
        _logger.warning("%s cannot be read and %s: %s", describe(example), what, reason)
        if len(bad) > stored.tolerated(size):
            raise stored.refusal(dense_set.title, describe, dict(bad), size)
    return None


def _read_or_substitute(
    dense_set: DenseSet, seed: int, example: int, epoch: int, bad: dict[int, str]
) -> Sample:
    """The sample, or that of the first substitute that can be read."""
    what = "is replaced by another image"
    sample = _read(dense_set, example, bad, what)
    for attempt in itertools.count():
        if sample is not None:
            break
        uniform = keys.example_uniforms(seed, "substitute", example, epoch, attempt, 1)
        sample = _read(dense_set, int(uniform.item() * dense_set.size), bad, what)
    assert sample is not None
    return sample


def _check_numbers(threads: int, prefetch: int) -> None:
    require(threads >= 0, f"threads={threads} must be at least 0")
    require(prefetch >= 0, f"prefetch={prefetch} must be at least 0")


def _mapped(
    make: Callable[[Request], Made], asked: Iterator[Request], threads: int
) -> Generator[tuple[Request, list[Made]], None, None]:
    """What is made of each example of requests, in order, on threads that work ahead."""
    count = threads or len(os.sched_getaffinity(0))
    waiting: list[tuple[Request, list[concurrent.futures.Future[Made]]]] = []
    with concurrent.futures.ThreadPoolExecutor(count) as pool, contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        for request in asked:
            ones = map(Request, request.ids, request.epochs)
            waiting.append((request, [pool.submit(make, one) for one in ones]))
            # The next request is under way while one is put together.
            if len(waiting) >= _AHEAD:
                first, futures = waiting.pop(0)
                yield first, [future.result() for future in futures]
        for first, futures in waiting:
            yield first, [future.result() for future in futures]
