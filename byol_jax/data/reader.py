"""From requests to crops: reads images, decodes and crops them in tf.data, ahead of their use.

Python decides what is read and where it is cut; TensorFlow decodes and resizes, in as many threads
as it finds useful; a thread of its own drives both, ahead of the training.
"""

import collections
import concurrent.futures
import functools
import itertools
import logging
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import augment, keys
from byol_jax.data import crops, host
from byol_jax.data.images import (
    ImageSet,
    Label,
    Prepared,
    Records,
    Unreadable,
    all_labels,
    no_label,
    prepare,
)
from byol_jax.errors import UserError, require

_logger = logging.getLogger(__name__)

# Arrays by name, `[b, ...]` each.
Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]
# A TensorFlow function of views by name, ids and epochs.
Augmentation = Callable[[dict[str, Any], Any, Any], dict[str, Any]]

# More unreadable images than this share of the set end the run.
TOLERATED_SHARE = 0.01
# Headers looked at before a run; a larger set is judged by this many.
_SAMPLE = 2000
# Unreadable images are named up to this many, the rest counted.
_NAMED = 20
# Threads that read files, and images in one element of the tf.data set: few enough that a damaged
# one costs little, many enough that the cost of an element does not show.
_READERS, _CHUNK = 16, 16
# A complete JPEG or PNG has its end mark, and seldom more, in its last bytes.
_ENDS, _END_BYTES = (b"\xff\xd9", b"IEND"), 64


class Request(NamedTuple):
    """Examples to be cropped: ids and epochs, int64 `[b]`."""

    ids: np.ndarray
    epochs: np.ndarray


class Plan(NamedTuple):
    """How requests become crops.

    Attributes:
      image_set: where the images are.
      size: side of the crops in pixels.
      num_views: crops of one image.
      place: placements, int32 `[b, num_views, 8]`, from a request and the heights and widths `[b]`
        of its images.
      exif: whether images are turned as EXIF says.
      seed: of the substitutes of unreadable images; None leaves those out.
    """

    image_set: ImageSet
    size: int
    num_views: int
    place: Callable[[Request, np.ndarray, np.ndarray], np.ndarray]
    exif: bool
    seed: int | None


def crop(
    plan: Plan,
    requests: Iterator[Request],
    augmentation: Augmentation | None = None,
    *,
    num_threads: int = 0,
    ahead: int = 2,
) -> Batches:
    """Carries out requests in order, from a thread of its own that ends with the generator.

    Args:
      plan: what to do.
      requests: all but the last of one size.
      augmentation: made by `augmentation`.
      num_threads: that decode and crop; 0: as many as TensorFlow finds useful.
      ahead: requests carried out before they are asked for; 0: none, and no thread.

    Yields:
      `view1`, ... uint8 `[b, S, S, 3]` (float32 with an augmentation), `labels`, `ids`, `epochs`
      int32 `[b]` (`labels` `[b, K]` of a multi-label set).

    Raises:
      UserError: when more than 1 % of the images cannot be read.
    """
    batches = _crop(plan, requests, augmentation, num_threads, max(ahead, 1))
    return in_background(batches, ahead) if ahead else batches


def augmentation(
    seed: int, params: tuple[augment.AugmentParams, augment.AugmentParams]
) -> Augmentation:
    """The device's own augmentation of both views, T and T', as a function for tf.data."""
    tf = host.import_tensorflow()

    def convert(view: int) -> Callable[..., Any]:
        def make_views(images: Any, ids: Any, epochs: Any, params: Any) -> Any:
            key = keys.named_key(jnp.int32(seed), "augment")
            return augment.make_views(images, ids, epochs, key, view, params)

        return host.from_jax(make_views)

    functions = [convert(view) for view in (1, 2)]
    # float32 arguments, as on the device: constants would be computed in double precision.
    numbers = [jax.tree.map(np.float32, column) for column in params]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def augmented(views: dict[str, Any], ids: Any, epochs: Any) -> dict[str, Any]:
        return {
            name: function(views[name], ids, epochs, jax.tree.map(tf.constant, number))
            for name, function, number in zip(views, functions, numbers, strict=True)
        }

    result: Augmentation = augmented
    return result


def check_readable(image_set: ImageSet) -> None:
    """Looks at the files of a set, or at 2,000 of them, before a run builds on them.

    Reads headers, and decodes what ends as if it were cut off.

    Raises:
      UserError: so many are no images that more than 1 % of the set must be.
    """
    records = image_set.images
    if not isinstance(records, Records):
        return
    count = min(records.size, _SAMPLE)
    sample, limit = np.arange(count), TOLERATED_SHARE * count
    if count < records.size:
        sample = keys.permutation(records.size, "check_readable", 0)[:count]
        limit += 3 * (limit * (1 - TOLERATED_SHARE)) ** 0.5  # three standard deviations

    def reason(i: int) -> str:
        example = _read(image_set, i, exif=False)
        image = example.image
        if example.reason or any(end in image.data[-_END_BYTES:] for end in _ENDS):
            return example.reason
        return _error_of(crops.decode, image.data, [0, 0, image.height, image.width])

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        reasons = dict(zip(sample.tolist(), pool.map(reason, sample.tolist()), strict=True))
    bad = {i: why for i, why in reasons.items() if why}
    if len(bad) > limit:
        raise _too_many(image_set, bad, count)


def decoded(image_set: ImageSet, exif: bool = False) -> ImageSet:
    """The same set with its images in memory, uint8 `[N, H, W, 3]`, and their labels.

    Raises:
      UserError: an image cannot be read, or they differ in size.
    """
    records = image_set.images
    if not isinstance(records, Records):
        return image_set
    shape: tuple[int, ...] | None = None
    pixels = np.empty((0, 0, 0, 3), np.uint8)
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(functools.partial(picture, image_set, exif=exif), range(records.size))
        for i, image in enumerate(found):
            if image is None:
                raise UserError(f"{records.describe(i)} cannot be read: mend it, or take it away")
            if shape is None:
                shape = image.shape
                pixels = np.empty((records.size, *shape), np.uint8)
            require(
                image.shape == shape,
                f"{records.describe(i)} has {image.shape[0]} x {image.shape[1]} pixels, "
                f"{records.describe(0)} {shape[0]} x {shape[1]}: kept in memory, all images of a "
                "set must have one size",
            )
            pixels[i] = image
    return image_set._replace(images=pixels, labels=all_labels(image_set))


def picture(image_set: ImageSet, i: int, exif: bool = False) -> np.ndarray | None:
    """One image as it is stored, uint8 `[H, W, 3]`; None if it cannot be read."""
    if not isinstance(image_set.images, Records):
        return image_set.images[i]
    found: list[np.ndarray] = []
    example = _read(image_set, i, exif)

    def decode() -> None:
        image = example.image
        pixels = crops.decode(image.data, [0, 0, image.height, image.width])
        found.append(np.asarray(crops.orient(pixels, image.orientation) if exif else pixels))

    _error_of(decode)
    return found[0] if found else None


class _Example(NamedTuple):
    """A stored image and its label, or the reason why there is none."""

    image: Prepared
    label: Label
    reason: str = ""


class _Loaded(NamedTuple):
    """A request with its labels and what TensorFlow needs of it, `[b, ...]` each."""

    request: Request
    labels: np.ndarray
    inputs: Batch
    reasons: list[str]


def _read(image_set: ImageSet, i: int, exif: bool) -> _Example:
    records = image_set.images
    assert isinstance(records, Records)
    try:
        stored = records.read(i)
        return _Example(prepare(stored.data, exif), stored.label)
    except (OSError, Unreadable) as error:
        # No bytes: TensorFlow stumbles over them as it does over a damaged image.
        reason = str(error) or type(error).__name__
        return _Example(Prepared(b"", 1, 1, 1), no_label(image_set), reason)


def _load(plan: Plan, request: Request, pool: concurrent.futures.Executor) -> _Loaded:
    """Reads the images of a request and decides where they are cut."""
    images, labels = plan.image_set.images, plan.image_set.labels
    if isinstance(images, Records):
        read = functools.partial(_read, plan.image_set, exif=plan.exif)
        return _gather(plan, request, list(pool.map(read, request.ids.tolist())))
    assert labels is not None
    heights, widths = (np.full(len(request.ids), side) for side in images.shape[1:3])
    placements = plan.place(request, heights, widths)
    inputs = {"image": images[request.ids], "placements": placements}
    return _Loaded(request, labels[request.ids], inputs, [""] * len(request.ids))


def _gather(plan: Plan, request: Request, examples: list[_Example]) -> _Loaded:
    images = [example.image for example in examples]
    heights = np.array([image.height for image in images], np.int32)
    widths = np.array([image.width for image in images], np.int32)
    orientation = np.array([image.orientation for image in images], np.int32)
    upright = crops.seen_size(heights, widths, orientation)
    placements = crops.turn(
        plan.place(request, *upright), heights[:, None], widths[:, None], orientation[:, None]
    )
    # One window around all crops of an image: it is decoded once.
    corner = placements[..., :2].min(axis=1)
    end = (placements[..., :2] + placements[..., 2:4]).max(axis=1)
    placements[..., :2] -= corner[:, None]
    inputs = {
        "data": np.array([image.data for image in images], object),
        "window": np.concatenate([corner, end - corner], axis=-1),
        "placements": placements,
        "orientation": orientation,
    }
    labels = np.array([example.label for example in examples], np.int32)
    return _Loaded(request, labels, inputs, [example.reason for example in examples])


def _crop_chunk(plan: Plan, inputs: dict[str, Any]) -> dict[str, Any]:
    """Decodes and crops, in TensorFlow: inputs `[c, ...]` -> uint8 views `[c, S, S, 3]`."""
    tf = host.import_tensorflow()

    def crop_one(inputs: dict[str, Any]) -> list[Any]:
        orientation = None
        if "data" in inputs:
            patch = crops.decode(inputs["data"], inputs["window"])
            orientation = inputs["orientation"] if plan.exif else None
        else:
            patch = inputs["image"]
        placements = tf.unstack(inputs["placements"], plan.num_views)
        return [crops.place(patch, placement, plan.size, orientation) for placement in placements]

    # Unrolled: tf.map_fn would take the images one after the other.
    count = inputs["placements"].shape[0]
    images = [crop_one({name: values[i] for name, values in inputs.items()}) for i in range(count)]
    views = map(tf.stack, zip(*images, strict=True))
    return {f"view{number}": crops.to_uint8(view) for number, view in enumerate(views, start=1)}


def _crop(
    plan: Plan,
    requests: Iterator[Request],
    augmentation: Augmentation | None,
    num_threads: int,
    ahead: int,
) -> Batches:
    first = next(requests, None)
    if first is None:
        return
    tf = host.import_tensorflow()
    elements = -(-len(first.ids) // _CHUNK)
    size = -(-len(first.ids) // elements)
    bad: dict[int, str] = {}

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def element(inputs: dict[str, Any]) -> dict[str, Any]:
        views = _crop_chunk(plan, inputs)
        return augmentation(views, inputs["ids"], inputs["epochs"]) if augmentation else views

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        loaded = (_load(plan, request, pool) for request in itertools.chain([first], requests))
        start = next(loaded)
        inputs = _in_chunks(start, size)
        # A queue, not Dataset.from_generator: TensorFlow's threads never call Python then. If they
        # do when the interpreter exits, it waits for them and they for its lock, for ever.
        feed = tf.queue.FIFOQueue(
            (ahead + 1) * elements,
            dtypes=[tf.string if x.dtype == object else x.dtype for x in inputs.values()],
            shapes=[x.shape[1:] for x in inputs.values()],
            names=list(inputs),
        )
        chunks = _dataset(tf, feed, element, num_threads).as_numpy_iterator()
        waiting: collections.deque[_Loaded] = collections.deque()
        finish = functools.partial(_finish, plan, chunks, size, augmentation, bad)
        try:
            for request in itertools.chain([start], loaded):
                feed.enqueue_many(_in_chunks(request, size))
                waiting.append(request)
                if len(waiting) > ahead:
                    yield finish(waiting.popleft())
            while waiting:
                yield finish(waiting.popleft())
        finally:
            feed.close()  # else TensorFlow complains about a run that stops early
            if len(bad) > _NAMED:
                count, name = plan.image_set.size, plan.image_set.name
                _logger.warning("%d of %d images of %s cannot be read", len(bad), count, name)


def _in_chunks(loaded: _Loaded, size: int) -> Batch:
    """Inputs `[b, ...]` as `[b / size, size, ...]`, the last one filled up with its last row."""
    ids, epochs = (x.astype(np.int32) for x in loaded.request)
    rows = np.minimum(np.arange(-(-len(ids) // size) * size), len(ids) - 1)
    inputs = {**loaded.inputs, "ids": ids, "epochs": epochs}
    return {name: x[rows].reshape(-1, size, *x.shape[1:]) for name, x in inputs.items()}


def _dataset(tf: Any, feed: Any, element: Callable[..., Any], num_threads: int) -> Any:
    """The chunks in the queue, each made into views, in parallel and in order; without an end."""
    options = tf.data.Options()
    options.deterministic = True
    if num_threads:
        options.threading.private_threadpool_size = num_threads
        options.threading.max_intra_op_parallelism = 1
    return (
        tf.data.Dataset.range(np.iinfo(np.int64).max)
        .map(lambda _: feed.dequeue())
        .map(element, num_parallel_calls=num_threads or tf.data.AUTOTUNE)
        .with_options(options)
    )


def _finish(
    plan: Plan,
    chunks: Iterator[Batch],
    size: int,
    augmentation: Augmentation | None,
    bad: dict[int, str],
    loaded: _Loaded,
) -> Batch:
    """Collects the chunks of one request into a batch."""
    tf = host.import_tensorflow()
    count = len(loaded.labels)
    kept, labels = np.ones(count, bool), loaded.labels.copy()
    parts = []
    for start in range(0, count, size):
        rows = range(start, min(start + size, count))
        try:
            part = next(chunks)
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
            part = _repair(plan, loaded, rows, bad, labels, kept)
            if augmentation:
                ids, epochs = (x[rows].astype(np.int32) for x in loaded.request)
                part = tf.nest.map_structure(np.asarray, augmentation(part, ids, epochs))
        parts.append({name: view[: len(rows)] for name, view in part.items()})
    batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ids, epochs = (x.astype(np.int32) for x in loaded.request)
    batch |= {"labels": labels, "ids": ids, "epochs": epochs}
    return batch if kept.all() else {name: values[kept] for name, values in batch.items()}


def _repair(
    plan: Plan,
    loaded: _Loaded,
    rows: range,
    bad: dict[int, str],
    labels: np.ndarray,
    kept: np.ndarray,
) -> Batch:
    """Views of a chunk with a damaged image, one by one.

    Writes the labels of substitutes into `labels`, and False into `kept` where there are none.
    """
    names = [f"view{view + 1}" for view in range(plan.num_views)]
    parts = []
    for i in rows:
        only = slice(i, i + 1)
        request = Request(loaded.request.ids[only], loaded.request.epochs[only])
        inputs = {name: values[only] for name, values in loaded.inputs.items()}
        reasons = loaded.reasons[only]
        views = _try(
            plan, int(request.ids[0]), _Loaded(request, labels[only], inputs, reasons), bad
        )
        for attempt in itertools.count():
            if views or plan.seed is None:
                break
            uniform = keys.example_uniforms(plan.seed, "substitute", *request, attempt, 1)
            other = int(uniform.item() * plan.image_set.size)
            example = _read(plan.image_set, other, plan.exif)
            views = _try(plan, other, _gather(plan, request, [example]), bad)
            labels[i] = example.label
        kept[i] = bool(views)
        parts.append(
            views or dict.fromkeys(names, np.zeros((1, plan.size, plan.size, 3), np.uint8))
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _try(plan: Plan, i: int, loaded: _Loaded, bad: dict[int, str]) -> Batch:
    """Views of one image, number `i`; none, and an entry in `bad`, if it cannot be read.

    Raises:
      UserError: when that is so for more than 1 % of the set.
    """
    (reason,) = loaded.reasons
    views: Batch = {}
    if not reason:

        def crop_one() -> None:
            tf = host.import_tensorflow()
            inputs = tf.nest.map_structure(tf.convert_to_tensor, loaded.inputs)
            views.update(tf.nest.map_structure(np.asarray, _crop_chunk(plan, inputs)))

        reason = _error_of(crop_one)
    if reason and i not in bad:
        bad[i] = reason
        if len(bad) <= _NAMED:
            records = plan.image_set.images
            what = "is left out" if plan.seed is None else "another image stands in for it"
            assert isinstance(records, Records)
            _logger.warning("%s cannot be read, %s: %s", records.describe(i), what, reason)
        if len(bad) > TOLERATED_SHARE * plan.image_set.size:
            raise _too_many(plan.image_set, bad, plan.image_set.size)
    return views


def _error_of(function: Callable[..., Any], *arguments: Any) -> str:
    """What TensorFlow's decoders say against this call; nothing if it works."""
    tf = host.import_tensorflow()
    try:
        function(*arguments)
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        words = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", str(error)).strip().splitlines()
        return words[0] if words else type(error).__name__
    return ""


def _too_many(image_set: ImageSet, bad: dict[int, str], count: int) -> UserError:
    records = image_set.images
    assert isinstance(records, Records)
    first = "; ".join(f"{records.describe(i)} ({why})" for i, why in list(bad.items())[:3])
    return UserError(
        f"{len(bad)} of {count} images of {image_set.name} cannot be read, more than "
        f"{TOLERATED_SHARE:.0%}: {first}{', ...' if len(bad) > 3 else ''}; "
        "repair them or take them out"
    )


def in_background(batches: Batches, depth: int) -> Batches:
    """Runs a generator in a thread that is at most `depth` items ahead."""
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
        except BaseException as error:  # Raised again where the batch is missed.
            put(error)
        finally:
            if stopped.is_set():
                batches.close()

    thread = threading.Thread(target=work, name="input", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
