"""From requests to crops: reads, decodes and crops images ahead of their use.

Python decides what is read and where it is cut. TensorFlow decodes, in as many threads as it finds
useful. One thread per core resizes. One more thread drives them all, ahead of the training.
"""

import collections
import concurrent.futures
import functools
import itertools
import logging
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.data import crops, stored, tensorflow
from byol_jax.data.background import Batch, Batches, in_background
from byol_jax.data.images import ImageSet, Records
from byol_jax.data.stored import (
    READERS,
    Example,
    decoding_errors,
    error_of,
    read_example,
)
from byol_jax.data.views import Request

_logger = logging.getLogger(__name__)
# Unreadable images that are logged by name; the rest are only counted.
_NAMED = 20
# Images decoded and cropped per call: few enough that repeating a chunk with a damaged image is
# cheap, many enough that the overhead of a call is negligible.
_CHUNK = 16
_JPEG = b"\xff\xd8\xff"
# Most pixels that a chunk decodes, and that an image in it may have. Larger ones are decoded one at
# a time: a chunk holds its images until the last of them is decoded, and several chunks are decoded
# side by side.
_CHUNK_PIXELS, _IMAGE_PIXELS = 2**28, 2**26
# Takes the place of an image that is decoded by itself: a black pixel.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c494441"
    "54789c63606060000000040001f61738550000000049454e44ae426082"
)


# Replaces arrays of a whole batch, in chunks of the given number of rows, on the given threads.
Transform = Callable[[Batch, int, concurrent.futures.Executor], Batch]


class Plan(NamedTuple):
    """How requests become crops.

    Attributes:
      image_set: the images.
      sizes: side of each of the V views in pixels.
      place: function from a request and the heights and widths `[b]` of its images to placements,
        int32 `[b, V, 8]`.
      exif: whether images are turned as EXIF says.
      seed: seed of the substitutes of unreadable images; None leaves those images out.
      scaled: whether JPEGs are halved while they are decoded, as often as all crops stay larger
        than their views.
    """

    image_set: ImageSet
    sizes: tuple[int, ...]
    place: Callable[[Request, np.ndarray, np.ndarray], np.ndarray]
    exif: bool
    seed: int | None
    scaled: bool = False


def crop(
    plan: Plan,
    requests: Iterator[Request],
    transform: Transform | None = None,
    *,
    num_threads: int = 0,
    ahead: int = 2,
) -> Batches:
    """Crops the images of requests in order, in a thread of its own that ends with the generator.

    Args:
      plan: how requests become crops.
      requests: examples; all requests but the last have one size.
      transform: applied to each batch, substitutes included, before it is yielded.
      num_threads: threads that decode and threads that crop; 0 lets TensorFlow choose the former
        and takes one of the latter per core.
      ahead: requests carried out before they are asked for; 0 means none, and no thread.

    Yields:
      `view1` ... `viewV` uint8 `[b, S_v, S_v, 3]` (what `transform` makes of them), `labels`,
      `ids`, `epochs` int32 `[b]` (`labels` `[b, K]` of a multi-label set).

    Raises:
      UserError, GuardError: more images than `stored.tolerated` cannot be read.
    """
    batches = _crop(plan, requests, transform, num_threads, max(ahead, 1))
    return in_background(batches, ahead) if ahead else batches


class _Loaded(NamedTuple):
    """A request with its images and where they are cut: arrays `[b, ...]`.

    Attributes:
      request: ids and epochs.
      labels: labels of the images.
      pixels: uint8 `[b, H, W, 3]` of a set in memory, or the arguments of `crops.decode`.
      placements: int32 `[b, V, 8]`, relative to the pixels or to the decoded window.
      orientation: EXIF orientation of the pixels.
      reasons: why each image cannot be read; empty if it can.
      areas: pixels that decoding each image makes, int64 `[b]`; 0 in memory.
    """

    request: Request
    labels: np.ndarray
    pixels: np.ndarray | Batch
    placements: np.ndarray
    orientation: np.ndarray
    reasons: list[str]
    areas: np.ndarray


# Requests, each with an iterator of its chunks: one patch, uint8 `[H, W, 3]`, per image.
_Patches = Generator[tuple[_Loaded, Iterator[Iterable[np.ndarray]]], None, None]


def _load(plan: Plan, request: Request, pool: concurrent.futures.Executor) -> _Loaded:
    """Reads the images of a request and determines where they are cut."""
    images, labels = plan.image_set.images, plan.image_set.labels
    if isinstance(images, Records):
        read = functools.partial(read_example, plan.image_set, exif=plan.exif)
        return _gather(plan, request, list(pool.map(read, request.ids.tolist())))
    assert labels is not None
    count = len(request.ids)
    heights, widths = (np.full(count, side) for side in images.shape[1:3])
    return _Loaded(
        request,
        labels[request.ids],
        images[request.ids],
        plan.place(request, heights, widths),
        np.ones(count, int),
        [""] * count,
        np.zeros(count, int),
    )


def _gather(plan: Plan, request: Request, examples: list[Example]) -> _Loaded:
    images = [example.image for example in examples]
    heights = np.array([image.height for image in images], np.int32)
    widths = np.array([image.width for image in images], np.int32)
    orientation = np.array([image.orientation for image in images], np.int32)
    upright = plan.place(request, *crops.seen_size(heights, widths, orientation))
    placements = crops.turn(upright, heights[:, None], widths[:, None], orientation[:, None])
    scaling = {}
    is_jpeg = np.array([image.data.startswith(_JPEG) for image in images])
    if plan.scaled:
        scaling["times"] = crops.halvings(upright) * is_jpeg
        placements = crops.halved(placements, scaling["times"])
    # One window around all crops, so that each image is decoded once.
    corner = placements[..., :2].min(axis=1)
    end = (placements[..., :2] + placements[..., 2:4]).max(axis=1)
    placements[..., :2] -= corner[:, None]
    windows = np.prod(end - corner, axis=-1, dtype=np.int64)
    # Of a PNG the window is cut from the whole image.
    areas = np.where(is_jpeg, windows, heights.astype(np.int64) * widths)
    inputs = {
        "data": np.array([image.data for image in images], object),
        "window": np.concatenate([corner, end - corner], axis=-1),
        **scaling,
    }
    labels = np.array([example.label for example in examples], np.int32)
    reasons = [example.reason for example in examples]
    return _Loaded(request, labels, inputs, placements, orientation, reasons, areas)


def _crop(
    plan: Plan,
    requests: Iterator[Request],
    transform: Transform | None,
    num_threads: int,
    ahead: int,
) -> Batches:
    first = next(requests, None)
    if first is None:
        return
    size = -(-len(first.ids) // -(-len(first.ids) // _CHUNK))
    in_memory = not isinstance(plan.image_set.images, Records)
    cores = len(os.sched_getaffinity(0))
    bad: dict[int, str] = {}
    with (
        concurrent.futures.ThreadPoolExecutor(READERS) as readers,
        concurrent.futures.ThreadPoolExecutor(num_threads or cores) as croppers,
    ):
        loaded = (_load(plan, request, readers) for request in itertools.chain([first], requests))
        patches = (
            _in_memory(loaded, size) if in_memory else _decoded(loaded, size, num_threads, ahead)
        )
        try:
            for request, chunks in patches:
                batch, kept = _finish(plan, request, chunks, size, croppers, bad)
                if transform:
                    batch |= transform(batch, size, croppers)
                yield batch if kept.all() else {name: x[kept] for name, x in batch.items()}
        finally:
            patches.close()
            if len(bad) > _NAMED:
                count, name = plan.image_set.size, plan.image_set.name
                _logger.warning("%d of %d images of %s cannot be read", len(bad), count, name)


def _in_memory(loaded: Iterator[_Loaded], size: int) -> _Patches:
    """Requests of images that need no decoding, with an iterator of their chunks."""
    for request in loaded:
        images = request.pixels
        assert isinstance(images, np.ndarray)
        yield request, iter([images[i : i + size] for i in range(0, len(images), size)])


def _decoded(loaded: Iterator[_Loaded], size: int, num_threads: int, ahead: int) -> _Patches:
    """Requests in order, with one shared iterator of decoded chunks, which runs ahead of them."""
    tf = tensorflow.import_tensorflow()
    start = next(loaded)
    inputs = _in_chunks(start, size)
    # With a queue in place of Dataset.from_generator, TensorFlow's threads never call Python. A
    # thread that did so while the interpreter exits would wait for Python's lock, and the
    # interpreter for the thread: a deadlock.
    feed = tf.queue.FIFOQueue(
        (ahead + 1) * len(inputs["data"]),
        dtypes=[tf.string if x.dtype == object else x.dtype for x in inputs.values()],
        shapes=[x.shape[1:] for x in inputs.values()],
        names=list(inputs),
    )
    chunks = _dataset(tf, feed, num_threads).as_numpy_iterator()
    waiting: collections.deque[_Loaded] = collections.deque()
    try:
        for request in itertools.chain([start], loaded):
            feed.enqueue_many(_in_chunks(request, size))
            waiting.append(request)
            if len(waiting) > ahead:
                yield waiting.popleft(), chunks
        while waiting:
            yield waiting.popleft(), chunks
    finally:
        feed.close()  # or TensorFlow logs an error when a run stops early


def _in_chunks(loaded: _Loaded, size: int) -> Batch:
    """Arguments of `crops.decode` as `[chunks, size, ...]`, padded with the last row.

    Images that are decoded by themselves are a pixel there.
    """
    assert isinstance(loaded.pixels, dict)
    count = len(loaded.labels)
    inputs = dict(loaded.pixels)
    if alone := [i for at in range(0, count, size) for i in _alone(loaded, at, size)]:
        inputs = {name: x.copy() for name, x in inputs.items()}
        inputs["data"][alone] = _PIXEL
        inputs["window"][alone] = (0, 0, 1, 1)
    rows = np.minimum(np.arange(-(-count // size) * size), count - 1)
    return {name: x[rows].reshape(-1, size, *x.shape[1:]) for name, x in inputs.items()}


def _alone(loaded: _Loaded, start: int, size: int) -> list[int]:
    """The rows of the chunk from `start` on that are too large to be decoded with the others."""
    areas = loaded.areas[start : start + size]
    if areas.max() <= _IMAGE_PIXELS and areas.max() * size <= _CHUNK_PIXELS:
        return []
    # The smallest images first, as many as go together. The last one fills up an incomplete chunk.
    order = np.argsort(areas, kind="stable")
    together = (np.cumsum(areas[order]) <= _CHUNK_PIXELS) & (areas[order] <= _IMAGE_PIXELS)
    if len(areas) < size:
        together[order == len(areas) - 1] &= size * areas[-1] <= _CHUNK_PIXELS
    return (start + order[~together]).tolist()


def _dataset(tf: Any, feed: Any, num_threads: int) -> Any:
    """The chunks in the queue, decoded in parallel and in order; endless."""
    options = tf.data.Options()
    options.deterministic = True
    if num_threads:
        options.threading.private_threadpool_size = num_threads
        options.threading.max_intra_op_parallelism = 1

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def decode(inputs: dict[str, Any]) -> tuple[Any, ...]:
        # Unrolled, because tf.map_fn would decode the images one after the other.
        names = ("data", "window", "times") if "times" in inputs else ("data", "window")
        return tuple(map(crops.decode, *(tf.unstack(inputs[name]) for name in names)))

    return (
        tf.data.Dataset.range(np.iinfo(np.int64).max)
        .map(lambda _: feed.dequeue())
        .map(decode, num_parallel_calls=num_threads or tf.data.AUTOTUNE)
        .with_options(options)
    )


def _finish(
    plan: Plan,
    loaded: _Loaded,
    chunks: Iterator[Iterable[np.ndarray]],
    chunk: int,
    pool: concurrent.futures.Executor,
    bad: dict[int, str],
) -> tuple[Batch, np.ndarray]:
    """Makes the batch of one request from its chunks.

    Returns:
      The batch, and which of its rows are valid, bool `[b]`.
    """
    count = len(loaded.labels)
    kept, labels = np.ones(count, bool), loaded.labels.copy()
    views = [np.zeros((count, size, size, 3), np.uint8) for size in plan.sizes]
    jobs = []
    for start in range(0, count, chunk):
        rows = range(start, min(start + chunk, count))
        alone: Collection[int] = _alone(loaded, start, chunk)
        try:
            patches = next(chunks)
        except decoding_errors():
            alone = rows
        else:
            jobs.append(pool.submit(_place, loaded, rows, patches, views, alone))
        _one_by_one(plan, loaded, alone, bad, views, labels, kept)
    for job in jobs:
        job.result()
    ids, epochs = (x.astype(np.int32) for x in loaded.request)
    batch = {f"view{number}": view for number, view in enumerate(views, start=1)}
    return batch | {"labels": labels, "ids": ids, "epochs": epochs}, kept


def _place(
    loaded: _Loaded,
    rows: range,
    patches: Iterable[np.ndarray],
    views: list[np.ndarray],
    without: Collection[int] = (),
) -> None:
    """Writes the views of rows, but for some of them, into V arrays `[b, S_v, S_v, 3]`."""
    # The last chunk of a request may hold more patches than there are rows.
    for i, patch in zip(rows, patches, strict=False):
        if i in without:
            continue
        for placement, view in zip(loaded.placements[i], views, strict=True):
            view[i] = crops.place(patch, placement, view.shape[1], int(loaded.orientation[i]))


def _one_by_one(
    plan: Plan,
    loaded: _Loaded,
    rows: Collection[int],
    bad: dict[int, str],
    views: list[np.ndarray],
    labels: np.ndarray,
    kept: np.ndarray,
) -> None:
    """Makes the views of single rows: those of a chunk with a damaged image, and of large images.

    Writes the labels of substitutes into `labels`, and False into `kept` if there is no substitute.
    """
    for i in rows:
        single = _row(loaded, i)
        made = _try(plan, int(single.request.ids[0]), single, bad)
        for attempt in itertools.count():
            if made is not None or plan.seed is None:
                break
            uniform = keys.example_uniforms(plan.seed, "substitute", *single.request, attempt, 1)
            substitute = int(uniform.item() * plan.image_set.size)
            example = read_example(plan.image_set, substitute, plan.exif)
            made = _try(plan, substitute, _gather(plan, single.request, [example]), bad)
            labels[i] = example.label
        kept[i] = made is not None
        if made is not None:
            for view, pixels in zip(views, made, strict=True):
                view[i] = pixels


def _row(loaded: _Loaded, i: int) -> _Loaded:
    """Row `i` as a request of one image."""
    assert isinstance(loaded.pixels, dict)
    row = slice(i, i + 1)
    return _Loaded(
        Request(loaded.request.ids[row], loaded.request.epochs[row]),
        loaded.labels[row],
        {name: x[row] for name, x in loaded.pixels.items()},
        loaded.placements[row],
        loaded.orientation[row],
        loaded.reasons[row],
        loaded.areas[row],
    )


def _try(plan: Plan, i: int, loaded: _Loaded, bad: dict[int, str]) -> list[np.ndarray] | None:
    """The V views of image `i`, `[S_v, S_v, 3]` each.

    Returns None, and adds the image to `bad`, if it cannot be read.

    Raises:
      UserError, GuardError: more images than `stored.tolerated` are in `bad`.
    """
    (reason,) = loaded.reasons
    views = [np.empty((1, size, size, 3), np.uint8) for size in plan.sizes]

    def crop_one() -> None:
        assert isinstance(loaded.pixels, dict)
        patch = crops.decode(*(x[0] for x in loaded.pixels.values())).numpy()
        _place(loaded, range(1), [patch], views)

    reason = reason or error_of(crop_one)
    if reason and i not in bad:
        bad[i] = reason
        if len(bad) <= _NAMED:
            records = plan.image_set.images
            what = "is left out" if plan.seed is None else "is replaced by another image"
            assert isinstance(records, Records)
            _logger.warning("%s cannot be read and %s: %s", records.describe(i), what, reason)
        if len(bad) > stored.tolerated(plan.image_set.size):
            raise stored.ended(plan.image_set, bad)
    return None if reason else [view[0] for view in views]
