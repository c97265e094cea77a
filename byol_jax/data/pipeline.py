"""Batches of views: the examples of a stream, cropped, the same on every machine."""

import contextlib
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from byol_jax import keys
from byol_jax.augment.boxes import random_resized_boxes
from byol_jax.data import background, crops, host_views, reader, service
from byol_jax.data.background import Batch, Batches
from byol_jax.data.images import ImageSet, Records
from byol_jax.data.reader import Plan
from byol_jax.data.views import (
    Reading,
    Request,
    Stream,
    View,
    box_sources,
    check_stream,
    check_views,
    requests,
)
from byol_jax.errors import require


def steps_for(num_epochs: float, num_examples: int, batch_size: int) -> int:
    """Whole batches in `num_epochs` epochs; batches may span epochs (BYOL App. A: 312,784)."""
    return int(num_epochs * num_examples / batch_size)


def train_batches(
    image_set: ImageSet, stream: Stream, views: Sequence[View], reading: Reading = Reading()
) -> Batches:
    """Yields this process's share of the batches of a stream.

    An image is decoded once for all its views. An image that cannot be read is replaced by a
    substitute that is drawn with the key of the unreadable one: pixels and label are those of the
    substitute, the id stays.

    Args:
      image_set: images to train on.
      stream: examples of each batch.
      views: the V views of each example, random crops (BYOL App. C).
      reading: how images are read.

    Yields:
      `view1` ... `viewV` uint8 `[b, S_v, S_v, 3]` (float32, augmented and normalised, with
      `reading.on_host`), `labels`, `ids`, `epochs` int32 `[b]` (`labels` `[b, K]` of a multi-label
      set).

    Raises:
      UserError: fewer images than one batch, a batch that cannot be divided, bad ranges, or a
        service that does not answer. From the iterator: more images than `stored.tolerated` cannot
        be read, or a service delivers no batches.
      GuardError: from the iterator, images that could be read are away now.
    """
    _check(image_set, stream, views, reading.prefetch)
    require(reading.threads >= 0, f"threads={reading.threads} must be at least 0")
    if reading.service:
        assert not (reading.exif or reading.scaled or reading.on_host)
        endless = service.batches(reading.service, image_set, stream, views, ahead=reading.prefetch)
        return _limited(endless, stream)
    transform = None
    if reading.on_host:
        transform = host_views.augmentation(stream.seed, [view.params for view in views])
    return reader.crop(
        _training_plan(image_set, stream.seed, views, reading.exif, reading.scaled),
        requests(stream),
        transform,
        num_threads=reading.threads,
        ahead=reading.prefetch,
    )


def train_boxes(
    image_set: ImageSet, stream: Stream, views: Sequence[View], prefetch: int = 2
) -> Batches:
    """`train_batches` without pixels, for images that are kept on the devices.

    In place of views a batch has the boxes (y, x, h, w) that they would be cut from, `box1` ...
    `boxV` int32 `[b, 4]`. TensorFlow is not needed.

    Args:
      image_set: images in memory, not records.
      stream: examples of each batch.
      views: the V views of each example.
      prefetch: batches made ahead.

    Raises:
      UserError: as `train_batches`.
    """
    _check(image_set, stream, views, prefetch)
    pixels, labels = image_set.images, image_set.labels
    assert not isinstance(pixels, Records) and labels is not None

    def batches() -> Batches:
        for request in requests(stream):
            heights, widths = (np.full(len(request.ids), side) for side in pixels.shape[1:3])
            placements = random_placements(request, heights, widths, stream.seed, views)
            ids, epochs = (x.astype(np.int32) for x in request)
            boxes = {f"box{v + 1}": placements[:, v, :4] for v in range(len(views))}
            yield {**boxes, "labels": labels[request.ids], "ids": ids, "epochs": epochs}

    return background.in_background(batches(), prefetch) if prefetch else batches()


def _check(image_set: ImageSet, stream: Stream, views: Sequence[View], prefetch: int) -> None:
    assert stream.num_examples == image_set.size
    check_stream(stream, image_set.title)
    check_views(views)
    require(prefetch >= 0, f"prefetch={prefetch} must be at least 0")


def _limited(batches: Batches, stream: Stream) -> Batches:
    """Yields as many batches as the stream has steps, then closes their source."""
    count = None if stream.stop is None else max(stream.stop - stream.start, 0)
    with contextlib.closing(batches):
        yield from itertools.islice(batches, count)


def example_views(
    image_set: ImageSet,
    ids: np.ndarray,
    epochs: np.ndarray,
    seed: int,
    views: Sequence[View],
    exif: bool = False,
) -> Batch:
    """What `train_batches` makes of these examples in these epochs, int64 `[b]` each."""
    plan = _training_plan(image_set, seed, views, exif)
    return next(reader.crop(plan, iter([Request(ids, epochs)])))


def _training_plan(
    image_set: ImageSet, seed: int, views: Sequence[View], exif: bool, scaled: bool = False
) -> Plan:
    place = functools.partial(random_placements, seed=seed, views=views)
    sizes = tuple(view.size for view in views)
    return Plan(image_set, sizes, place, exif, seed, scaled)


def evaluation_batches(
    image_set: ImageSet,
    *,
    image_size: int,
    mode: str,
    batch_size: int,
    exif: bool = False,
    num_threads: int = 0,
    prefetch: int = 2,
    start: int = 0,
) -> Batches:
    """Yields every image once, in order, as an evaluation crop (`crops.center_placement`).

    An image that cannot be read is left out: evaluation has no use for a substitute.

    Args:
      image_set: images to evaluate.
      image_size: S, side of the crops in pixels.
      mode: key of `crops.EVALUATION_MODES`.
      batch_size: images per batch; batches with unreadable images and the last one are smaller.
      exif: whether images are turned as EXIF says.
      num_threads: see `Reading.threads`.
      prefetch: batches made ahead.
      start: id of the first image; those before it are left out.

    Yields:
      `images` uint8 `[b, S, S, 3]`, `labels` and `ids` int32 `[b]` (`labels` `[b, K]` of a
      multi-label set).

    Raises:
      UserError: unknown mode. From the iterator: more images than `stored.tolerated` cannot be
        read.
      GuardError: from the iterator, images that could be read are away now.
    """
    whole = crops.center_placement(image_size, image_size, image_size, mode)
    starts = range(start, image_set.size, batch_size)
    pixels = image_set.images
    if not isinstance(pixels, Records) and crops.is_identity(whole, *pixels.shape[1:3]):
        # Crops are the images themselves; this needs no TensorFlow.
        return (_rows(image_set, first, first + batch_size) for first in starts)

    def place(request: Request, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        del request
        sizes = zip(heights.tolist(), widths.tolist(), strict=True)
        return np.stack([[crops.center_placement(h, w, image_size, mode)] for h, w in sizes])

    ids = [np.arange(first, min(first + batch_size, image_set.size)) for first in starts]
    requests = (Request(part, np.zeros_like(part)) for part in ids)
    plan = Plan(image_set, (image_size,), place, exif, None)
    cropped = reader.crop(plan, requests, num_threads=num_threads, ahead=prefetch)
    return (
        {"images": batch["view1"], "labels": batch["labels"], "ids": batch["ids"]}
        for batch in cropped
        if batch["ids"].size
    )


def random_placements(
    request: Request,
    heights: np.ndarray,
    widths: np.ndarray,
    seed: int,
    views: Sequence[View],
) -> np.ndarray:
    """Random crops (BYOL App. C) as placements, int32 `[b, V, 8]`, one for each of V views.

    Args:
      request: b examples.
      heights, widths: sizes of their images in pixels, `[b]`.
      seed: seed of the draws.
      views: the V views.
    """
    sources = box_sources(views)
    numbers = sorted({*sources})
    ids, epochs = request.ids[:, None], request.epochs[:, None]
    uniforms = keys.example_uniforms(seed, "crop", ids, epochs, numbers, 4)
    boxes = {
        number: random_resized_boxes(
            uniforms[:, column],
            heights,
            widths,
            area_range=views[number - 1].area_range,
            aspect_range=views[number - 1].aspect_range,
        )
        for column, number in enumerate(numbers)
    }
    placements = [
        crops.box_placement(boxes[source], view.size)
        for source, view in zip(sources, views, strict=True)
    ]
    return np.stack(placements, axis=1)


def _rows(image_set: ImageSet, start: int, stop: int) -> Batch:
    images, labels = image_set.images, image_set.labels
    assert not isinstance(images, Records) and labels is not None
    rows = slice(start, min(stop, len(images)))
    return {
        "images": images[rows],
        "labels": labels[rows],
        "ids": np.arange(rows.start, rows.stop, dtype=np.int32),
    }
