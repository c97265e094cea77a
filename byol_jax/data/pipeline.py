"""The stream of examples: shuffled, cropped and batched, the same on every machine.

No generator has to be saved: every random number is a function of the seed and of what it is for
(an epoch's order, one view of one example), drawn from numpy's counter-based Philox. So a resumed
run, another number of threads and another number of processes all see the same images.
"""

import functools
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from byol_jax.boxes import AREA_RANGE, ASPECT_RANGE, check_ranges, random_resized_boxes
from byol_jax.data.crops import import_tensorflow, random_crop_resize
from byol_jax.data.sources import ImageSet
from byol_jax.errors import require


def steps_for(num_epochs: float, num_examples: int, batch_size: int) -> int:
    """Whole batches in `num_epochs` epochs; batches may span epochs (BYOL App. A: 312,784)."""
    return int(num_epochs * num_examples / batch_size)


def example_uniforms(
    seed: int, name: str, ids: ArrayLike, epochs: ArrayLike, views: ArrayLike, count: int
) -> np.ndarray:
    """Draws `count` uniforms in [0, 1) for each (id, epoch, view): float64 `[..., count]`.

    `ids`, `epochs` and `views` broadcast against each other. `name` says what the numbers are for;
    numbers of different names, seeds, ids, epochs or views are independent.
    """
    # Word 0 is the one that Philox counts up while drawing, so the streams cannot overlap.
    ids, epochs, views, block = np.broadcast_arrays(ids, epochs, views, 0)
    counters = np.stack([block, ids, epochs, views], axis=-1).astype(np.uint64)
    philox = _philox(seed, name)
    state = philox.state
    words = np.empty((counters[..., 0].size, count), np.uint64)
    for row, counter in zip(words, counters.reshape(-1, 4), strict=True):
        # Moving one generator about gives the words of a new one at a fifth of the cost.
        state["state"]["counter"] = counter
        philox.state = state
        row[:] = philox.random_raw(count)
    return ((words >> 11) * 2.0**-53).reshape(*ids.shape, count)


@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in one epoch: int64 `[num_examples]`, read-only."""
    words = _philox(seed, "permutation", [0, epoch, 0, 0]).random_raw(num_examples)
    order = np.argsort(words, kind="stable")
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
    start_step: int = 0,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
    area_range: tuple[float, float] = AREA_RANGE,
    aspect_range: tuple[float, float] = ASPECT_RANGE,
    num_threads: int = 0,
    prefetch: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the batches of steps start_step .. num_steps - 1.

    Batch k is positions kB .. (k + 1)B - 1 of the stream. Each of its micro-batches is dealt to
    the processes in contiguous slices; a process gets its slices of all micro-batches one after
    the other, b = B / process_count examples: `view1`, `view2` uint8 `[b, S, S, 3]` (random crops,
    BYOL App. C), `labels`, `ids`, `epochs` int32 `[b]`.

    `num_threads` threads crop (0: as many as TensorFlow finds useful), `prefetch` batches ahead.

    Raises:
      UserError: fewer images than one batch, a batch that cannot be divided, bad ranges.
    """
    check_ranges(area_range, aspect_range)
    num_examples = len(image_set.images)
    require(
        num_examples >= batch_size > 0,
        f"{image_set.name} has fewer images than one batch: {num_examples} images, "
        f"batch_size {batch_size}; batch_size must be between 1 and {num_examples}",
    )
    require(
        micro_batches > 0 and batch_size % (micro_batches * process_count) == 0,
        f"batch_size {batch_size} cannot be divided into {micro_batches} micro-batches for "
        f"{process_count} processes; it must be a multiple of {micro_batches * process_count}",
    )
    require(
        num_threads >= 0 and prefetch >= 0,
        f"num_threads is {num_threads} and prefetch {prefetch}; neither can be negative",
    )
    share = (
        np.arange(batch_size).reshape(micro_batches, process_count, -1)[:, process_index].ravel()
    )

    def uncropped(step: int) -> dict[str, np.ndarray]:
        ids, epochs = stream(seed, num_examples, step * batch_size, (step + 1) * batch_size)
        ids, epochs = ids[share], epochs[share]
        return {
            "images": image_set.images[ids],
            "boxes": random_resized_boxes(
                example_uniforms(seed, "crop", ids[:, None], epochs[:, None], [1, 2], 4),
                *image_set.images.shape[1:3],
                area_range=area_range,
                aspect_range=aspect_range,
            ),
            "labels": image_set.labels[ids],
            "ids": ids.astype(np.int32),
            "epochs": epochs.astype(np.int32),
        }

    steps = range(start_step, num_steps)
    return _cropped(map(uncropped, steps), len(steps), image_size, num_threads, prefetch)


def _cropped(
    batches: Iterator[dict[str, np.ndarray]],
    num_batches: int,
    image_size: int,
    num_threads: int,
    prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Turns `images` and `boxes` `[b, 2, 4]` into `view1` and `view2`, in tf.data."""
    first = next(batches, None)
    if first is None:
        return
    tf = import_tensorflow()

    def crop(example: dict[str, Any]) -> dict[str, Any]:
        image, boxes = example.pop("images"), example.pop("boxes")
        view1 = random_crop_resize(image, boxes[0], image_size)
        view2 = random_crop_resize(image, boxes[1], image_size)
        return {"view1": view1, "view2": view2, **example}

    # A queue, not Dataset.from_generator: TensorFlow's threads never call Python then. If they do
    # when the interpreter exits, it waits for them and they for its lock, for ever.
    queue = tf.queue.FIFOQueue(
        prefetch + 1,
        dtypes=[array.dtype for array in first.values()],
        shapes=[array.shape for array in first.values()],
        names=list(first),
    )
    options = tf.data.Options()
    options.deterministic = True
    if num_threads:
        options.threading.private_threadpool_size = num_threads
        options.threading.max_intra_op_parallelism = 1
    dataset = (
        tf.data.Dataset.range(num_batches)
        .map(lambda _: queue.dequeue())
        .unbatch()
        .map(crop, num_parallel_calls=num_threads or tf.data.AUTOTUNE)
        .batch(len(first["ids"]))
        .prefetch(prefetch)
        .with_options(options)
    )
    cropped = dataset.as_numpy_iterator()
    try:
        for ahead, batch in enumerate(itertools.chain([first], batches)):
            queue.enqueue(batch)
            if ahead >= prefetch:
                yield next(cropped)
        yield from cropped
    finally:
        queue.close()  # else TensorFlow complains about a run that stops early


def _philox(seed: int, name: str, counter: ArrayLike = (0, 0, 0, 0)) -> np.random.Philox:
    key = np.array([seed % 2**64, zlib.crc32(name.encode())], np.uint64)
    return np.random.Philox(key=key, counter=np.asarray(counter, np.uint64))
