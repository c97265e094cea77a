"""The stream of examples: shuffled, cropped and batched, the same on every machine.

No generator has to be saved: every random number is a function of the seed and of what it is for
(`keys`). So a resumed run, another number of threads and another number of processes all see the
same images.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator

import numpy as np

from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.augment.boxes import AREA_RANGE, ASPECT_RANGE, check_ranges, random_resized_boxes
from byol_jax.data import background, crops, reader, service
from byol_jax.data.background import Batch, Batches
from byol_jax.data.host_views import augmentation as augmentation_on_host
from byol_jax.data.images import ImageSet, Records
from byol_jax.data.reader import Plan, Request
from byol_jax.errors import require


def steps_for(num_epochs: float, num_examples: int, batch_size: int) -> int:
    """Whole batches in `num_epochs` epochs; batches may span epochs (BYOL App. A: 312,784)."""
    return int(num_epochs * num_examples / batch_size)


@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in one epoch: int64 `[num_examples]`, read-only."""
    order = keys.permutation(num_examples, "permutation", seed, epoch)
    order.setflags(write=False)
    return order


def stream(seed: int, num_examples: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Example ids and epochs, int64, at positions start .. stop - 1 of the endless stream."""
    epochs, indices = np.divmod(np.arange(start, stop), num_examples)
    ids = np.empty_like(indices)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = epoch_permutation(seed, int(epoch), num_examples)[indices[here]]
    return ids, epochs


def train_batches(
    image_set: ImageSet,
    *,
    seed: int,
    image_size: int,
    batch_size: int,
    micro_batches: int = 1,
    num_views: int = 2,
    start_step: int = 0,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
    area_range: tuple[float, float] = AREA_RANGE,
    aspect_range: tuple[float, float] = ASPECT_RANGE,
    same_crop: bool = False,
    exif: bool = False,
    scaled: bool = False,
    host_views: tuple[compose.AugmentParams, compose.AugmentParams] | None = None,
    num_threads: int = 0,
    prefetch: int = 2,
    address: str | None = None,
) -> Batches:
    """Yields this process's share of the batches of steps start_step .. num_steps - 1.

    Batch k is positions kB .. (k + 1)B - 1 of the stream. Each of its micro-batches is dealt to
    the processes in contiguous slices; a process gets its slices of all micro-batches one after
    the other, b = B / process_count examples: `view1`, `view2` uint8 `[b, S, S, 3]` (random crops,
    BYOL App. C), `labels`, `ids`, `epochs` int32 `[b]`.

    For an image that cannot be read another one stands in, drawn with the key of the missing one:
    the pixels and the label are the substitute's, the id stays.

    Args:
      image_set: what to train on.
      seed: of the order and the crops, and of `host_views`.
      image_size: S, in pixels.
      batch_size: B, over all processes and micro-batches.
      micro_batches: how many of them make a batch.
      num_views: crops of one image, `view1`, `view2`, ...; the first does not depend on it.
      start_step, num_steps: the first step, and the one after the last.
      process_index, process_count: whose share this is.
      area_range, aspect_range: of the crops, see `boxes`.
      same_crop: whether all views are cut from the box of the first (SimCLR Figure 5).
      exif: whether to turn images as EXIF says.
      scaled: whether to halve JPEGs while decoding them, where both crops stay larger than S; other
        pixels, in less time.
      host_views: T and T', to augment here and not on the device: the views are then float32,
        normalised.
      num_threads: that decode and crop; 0: as many as TensorFlow finds useful.
      prefetch: batches made ahead.
      address: of a tf.data service that makes two views in place of this machine, in its own order
        (`service.batches`).

    Raises:
      UserError: fewer images than one batch, a batch that cannot be divided, bad ranges, a service
        that does not answer; and, from the iterator, when more than 1 % of the images cannot be
        read, or a service makes no batches.
    """
    check_ranges(area_range, aspect_range)
    require(
        num_threads >= 0 and prefetch >= 0,
        f"num_threads is {num_threads} and prefetch {prefetch}; neither can be negative",
    )
    share = _share(image_set, batch_size, micro_batches, process_index, process_count)
    if address:
        assert num_views == 2 and not exif and not scaled and host_views is None
        endless = service.batches(
            address,
            image_set,
            service.Stream(seed, batch_size, share, start_step),
            service.Crops(image_size, area_range, aspect_range, same_crop),
            ahead=prefetch,
        )
        return _first(endless, num_steps - start_step)
    requests = _requests(image_set.size, seed, batch_size, share, range(start_step, num_steps))
    plan = _training_plan(
        image_set, seed, image_size, num_views, area_range, aspect_range, same_crop, exif
    )._replace(scaled=scaled)
    augmentation = None if host_views is None else augmentation_on_host(seed, host_views)
    return reader.crop(plan, requests, augmentation, num_threads=num_threads, ahead=prefetch)


def train_boxes(
    image_set: ImageSet,
    *,
    seed: int,
    image_size: int,
    batch_size: int,
    micro_batches: int = 1,
    start_step: int = 0,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
    area_range: tuple[float, float] = AREA_RANGE,
    aspect_range: tuple[float, float] = ASPECT_RANGE,
    same_crop: bool = False,
    prefetch: int = 2,
) -> Batches:
    """`train_batches` without pixels, for images that are kept on the devices.

    In place of `view1` and `view2` a batch has the boxes (y, x, h, w) that they would be cut from,
    `box1` and `box2` int32 `[b, 4]`; all else is as there. TensorFlow is not needed.

    Args:
      image_set: in memory, not as records.

    Raises:
      UserError: as `train_batches`.
    """
    check_ranges(area_range, aspect_range)
    require(prefetch >= 0, f"prefetch is {prefetch}; it cannot be negative")
    pixels, labels = image_set.images, image_set.labels
    assert not isinstance(pixels, Records) and labels is not None
    share = _share(image_set, batch_size, micro_batches, process_index, process_count)
    requests = _requests(image_set.size, seed, batch_size, share, range(start_step, num_steps))

    def batches() -> Batches:
        for request in requests:
            heights, widths = (np.full(len(request.ids), side) for side in pixels.shape[1:3])
            placements = random_placements(
                request,
                heights,
                widths,
                seed=seed,
                size=image_size,
                area_range=area_range,
                aspect_range=aspect_range,
                same_crop=same_crop,
            )
            ids, epochs = (x.astype(np.int32) for x in request)
            found = {f"box{view + 1}": placements[:, view, :4] for view in range(2)}
            yield {**found, "labels": labels[request.ids], "ids": ids, "epochs": epochs}

    return background.in_background(batches(), prefetch) if prefetch else batches()


def _share(
    image_set: ImageSet, batch_size: int, micro_batches: int, index: int, count: int
) -> np.ndarray:
    """Which positions of a batch are those of process `index` of `count`, int64 `[b]`."""
    require(
        image_set.size >= batch_size > 0,
        f"{image_set.name} has fewer images than one batch: {image_set.size} images, "
        f"batch_size {batch_size}; batch_size must be between 1 and {image_set.size}",
    )
    require(
        micro_batches > 0 and batch_size % (micro_batches * count) == 0,
        f"batch_size {batch_size} cannot be divided into {micro_batches} micro-batches for "
        f"{count} processes; it must be a multiple of {micro_batches * count}",
    )
    return np.arange(batch_size).reshape(micro_batches, count, -1)[:, index].ravel()


def _requests(
    num_examples: int, seed: int, batch_size: int, share: np.ndarray, steps: range
) -> Iterator[Request]:
    """What one process contributes to each batch of these steps."""
    for step in steps:
        ids, epochs = stream(seed, num_examples, step * batch_size, (step + 1) * batch_size)
        yield Request(ids[share], epochs[share])


def _first(batches: Batches, count: int) -> Batches:
    """So many of them; then they are closed."""
    with contextlib.closing(batches):
        yield from itertools.islice(batches, max(count, 0))


def example_views(
    image_set: ImageSet,
    ids: np.ndarray,
    epochs: np.ndarray,
    *,
    seed: int,
    image_size: int,
    area_range: tuple[float, float] = AREA_RANGE,
    aspect_range: tuple[float, float] = ASPECT_RANGE,
    same_crop: bool = False,
    exif: bool = False,
) -> Batch:
    """What `train_batches` makes of these examples in these epochs, int64 `[b]` each."""
    plan = _training_plan(image_set, seed, image_size, 2, area_range, aspect_range, same_crop, exif)
    return next(reader.crop(plan, iter([Request(ids, epochs)])))


def _training_plan(
    image_set: ImageSet,
    seed: int,
    image_size: int,
    num_views: int,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
    same_crop: bool,
    exif: bool,
) -> Plan:
    place = functools.partial(
        random_placements,
        seed=seed,
        size=image_size,
        num_views=num_views,
        area_range=area_range,
        aspect_range=aspect_range,
        same_crop=same_crop,
    )
    return Plan(image_set, image_size, num_views, place, exif, seed)


def evaluation_batches(
    image_set: ImageSet,
    *,
    image_size: int,
    mode: str,
    batch_size: int,
    exif: bool = False,
    num_threads: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Yields every image once, in order, as an evaluation crop (`crops.center_placement`).

    Batches of `images` uint8 `[b, S, S, 3]`, `labels` and `ids` int32 `[b]`; the last ones may be
    smaller. An image that cannot be read is left out: no other can stand in for it here.

    Raises:
      UserError: unknown mode; and, from the iterator, when more than 1 % cannot be read.
    """
    whole = crops.center_placement(image_size, image_size, image_size, mode)
    starts = range(0, image_set.size, batch_size)
    pixels = image_set.images
    if not isinstance(pixels, Records) and crops.is_identity(whole, *pixels.shape[1:3]):
        # As they are, without TensorFlow.
        return (_rows(image_set, start, start + batch_size) for start in starts)

    def place(request: Request, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        del request
        sizes = zip(heights.tolist(), widths.tolist(), strict=True)
        return np.stack([[crops.center_placement(h, w, image_size, mode)] for h, w in sizes])

    ids = [np.arange(start, min(start + batch_size, image_set.size)) for start in starts]
    requests = (Request(part, np.zeros_like(part)) for part in ids)
    plan = Plan(image_set, image_size, 1, place, exif, None)
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
    *,
    seed: int,
    size: int,
    num_views: int = 2,
    area_range: tuple[float, float] = AREA_RANGE,
    aspect_range: tuple[float, float] = ASPECT_RANGE,
    same_crop: bool = False,
) -> np.ndarray:
    """Random crops (BYOL App. C) as placements, int32 `[b, V, 8]`, one for each of V views."""
    views = np.ones(num_views, int) if same_crop else np.arange(1, num_views + 1)
    uniforms = keys.example_uniforms(
        seed, "crop", request.ids[:, None], request.epochs[:, None], views, 4
    )
    boxes = random_resized_boxes(
        uniforms,
        heights[:, None],
        widths[:, None],
        area_range=area_range,
        aspect_range=aspect_range,
    )
    return crops.box_placement(boxes, size)


def _rows(image_set: ImageSet, start: int, stop: int) -> Batch:
    images, labels = image_set.images, image_set.labels
    assert not isinstance(images, Records) and labels is not None
    rows = slice(start, min(stop, len(images)))
    return {
        "images": images[rows],
        "labels": labels[rows],
        "ids": np.arange(rows.start, rows.stop, dtype=np.int32),
    }
