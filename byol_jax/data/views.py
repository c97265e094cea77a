"""What a training sees: how each view of an image is cut, and the stream of examples.

No generator has to be saved: every random number is a function of the seed and of its purpose
(`keys`). A resumed run, another number of threads and another number of processes therefore see
the same images.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.augment.boxes import AREA_RANGE, ASPECT_RANGE, check_ranges
from byol_jax.errors import require


class View(NamedTuple):
    """How one view of an image is cut and augmented (BYOL App. C).

    A view has a number, its position in a sequence of views counted from 1. Its random draws are
    keyed by that number, so that further views change none of those before them.

    Attributes:
      size: side of the view in pixels.
      area_range: range of the crop's share of the image's area.
      aspect_range: range of the crop's width over height.
      params: column of Table 6 that augments the view.
      box_of: number of the view whose box this one is cut from (SimCLR Figure 5); None gives it a
        box of its own.
    """

    size: int
    area_range: tuple[float, float] = AREA_RANGE
    aspect_range: tuple[float, float] = ASPECT_RANGE
    params: compose.AugmentParams = compose.AugmentParams()
    box_of: int | None = None


class Stream(NamedTuple):
    """Which examples one process sees: its share of steps start .. stop - 1 of the global stream.

    Epoch e of the stream is a permutation keyed by (seed, e). Batch k holds positions
    kB .. (k + 1)B - 1, so a batch may span two epochs. Each of its micro-batches is dealt to the
    processes in contiguous slices, and a process gets its slices of all micro-batches one after
    the other: b = B / (number of processes) examples.

    Attributes:
      seed: seed of the order and of the crops.
      num_examples: images in the set.
      batch_size: B, over all processes and micro-batches.
      micro_batches: number of micro-batches in a batch.
      start: first step.
      stop: step after the last one; None for an endless stream.
      process: index of this process, and the number of processes.
    """

    seed: int
    num_examples: int
    batch_size: int
    micro_batches: int = 1
    start: int = 0
    stop: int | None = None
    process: tuple[int, int] = (0, 1)


class Reading(NamedTuple):
    """How images are read, which decides neither the examples nor their crops.

    Attributes:
      exif: whether images are turned as EXIF says.
      scaled: whether JPEGs are halved while they are decoded, as often as all crops stay larger
        than their views. Pixels differ slightly; decoding takes less time.
      on_host: whether T and T' are applied on the host. Views are then float32, normalised.
      threads: threads that decode and threads that crop; 0 lets TensorFlow choose the former and
        takes one of the latter per core.
      prefetch: batches made ahead.
      service: address of a tf.data service that makes the views in place of this machine, in its
        own order (`service.batches`); None for no service.
    """

    exif: bool = False
    scaled: bool = False
    on_host: bool = False
    threads: int = 0
    prefetch: int = 2
    service: str | None = None


class Request(NamedTuple):
    """Examples to be cropped: ids and epochs, int64 `[b]`."""

    ids: np.ndarray
    epochs: np.ndarray


def check_views(views: Sequence[View]) -> None:
    """Refuses views that no box can be drawn for.

    Raises:
      UserError: the ranges of a view are out of bounds (`boxes.check_ranges`).
    """
    for view in views:
        check_ranges(view.area_range, view.aspect_range)
        assert view.box_of is None or (
            0 < view.box_of <= len(views) and views[view.box_of - 1].box_of is None
        ), "box_of names a view that has a box of its own"


def box_sources(views: Sequence[View]) -> list[int]:
    """For each view the number of the view whose box it is cut from, most often its own."""
    return [view.box_of or number for number, view in enumerate(views, start=1)]


@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in one epoch: int64 `[num_examples]`, read-only."""
    order = keys.permutation(num_examples, "permutation", seed, epoch)
    order.setflags(write=False)
    return order


def examples(seed: int, num_examples: int, start: int, stop: int) -> Request:
    """The examples at positions start .. stop - 1 of the endless stream."""
    epochs, indices = np.divmod(np.arange(start, stop), num_examples)
    ids = np.empty_like(indices)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = epoch_permutation(seed, int(epoch), num_examples)[indices[here]]
    return Request(ids, epochs)


def check_stream(stream: Stream, title: str) -> None:
    """Refuses batches that a set cannot fill or the processes cannot divide.

    Args:
      stream: examples of each batch.
      title: what the message calls the set.

    Raises:
      UserError: naming the batch size and what would be right.
    """
    size, batch_size, micro_batches = stream.num_examples, stream.batch_size, stream.micro_batches
    count = stream.process[1]
    require(
        size >= batch_size > 0,
        f"config.batch_size={batch_size}: {title} has fewer images than one batch: {size} images; "
        f"give between 1 and {size}",
    )
    require(
        micro_batches > 0 and batch_size % (micro_batches * count) == 0,
        f"config.batch_size={batch_size} cannot be divided into {micro_batches} micro-batches for "
        f"{count} processes; give a multiple of {micro_batches * count}",
    )


def share(stream: Stream) -> np.ndarray:
    """The positions of a batch that belong to this process, int64 `[b]`."""
    index, count = stream.process
    positions = np.arange(stream.batch_size).reshape(stream.micro_batches, count, -1)
    return positions[:, index].ravel()


def requests(stream: Stream) -> Iterator[Request]:
    """What this process contributes to each batch of the stream, in order."""
    first, stop = stream.start, stream.stop
    size, rows = stream.batch_size, share(stream)
    for step in itertools.count(first) if stop is None else range(first, stop):
        whole = examples(stream.seed, stream.num_examples, step * size, (step + 1) * size)
        yield Request(whole.ids[rows], whole.epochs[rows])
