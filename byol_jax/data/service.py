"""The tf.data service: other machines read, decode and crop, and training only fetches.

Their workers run a graph of TensorFlow's own operations, without this package. So what `pipeline`
and `reader` do in Python is here once more: the permutation of an epoch, the words of Philox, the
boxes, the decoding of the window around both, the resize. An image's crops in an epoch are the
same, bit for bit; the order of the batches is that in which the workers deliver them.
"""

import logging
import queue
import re
import socket
import threading
import types
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from byol_jax.augment.boxes import box_rule
from byol_jax.data import background, crops, folder
from byol_jax.data.images import Files, ImageSet, Records
from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.data.views import Stream, View, box_sources, share
from byol_jax.errors import UserError, require

_logger = logging.getLogger(__name__)

# Seconds to wait for the dispatcher to answer; TensorFlow itself would try for an hour.
ANSWER = 20
# Seconds without a batch before a warning.
WARNING = 30
# Seconds without a batch before the run ends; TensorFlow itself would wait for ever.
PATIENCE = 300

_ADDRESS = re.compile(r"(?:grpc://)?(?P<host>[^\s/:]+|\[[\da-fA-F:]+\]):(?P<port>\d+)")
# Files that need Pillow first (`images.prepare`), which workers have not.
_NEED_PILLOW = tuple(end for end in folder.ENDINGS if end not in (".jpg", ".jpeg", ".jpe", ".png"))
# A record and its surroundings are read in one go.
_READ_BYTES = 2**18

# Philox 4x64: multipliers and steps of the key (Salmon et al., SC 2011), ten rounds.
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10


def batches(
    address: str, image_set: ImageSet, stream: Stream, views: Sequence[View], *, ahead: int = 2
) -> background.Batches:
    """Batches of `pipeline.train_batches`, made on other machines, without an end.

    A worker delivers whole batches of the stream until it meets an image that it cannot read. It
    leaves that image out, and fills this batch and all later ones with the images that follow.
    Each image of an epoch is given to one worker. If a worker is lost, so are the images it was
    working on.

    Args:
      address: address of the dispatcher, `grpc://HOST:PORT`.
      image_set: files that the workers find under the same paths.
      stream: examples of each batch; `stop` is not read.
      views: how each view is cut; `params` are not read.
      ahead: batches kept ready on this machine.

    Raises:
      UserError: no such address, no dispatcher there, images that no worker could read; and, from
        the iterator, if no batch comes for five minutes.
    """
    host, port = _host_and_port(address)
    graph = dataset(image_set, stream, views)
    identity = _registered(f"grpc://{host}:{port}", graph, (host.strip("[]"), port))
    tf = import_tensorflow()
    service = tf.data.experimental.service
    fetched = service.from_dataset_id(
        service.ShardingPolicy.DYNAMIC, f"grpc://{host}:{port}", identity, graph.element_spec
    )
    _logger.info("crops come from the tf.data service at %s:%d", host, port)
    return background.in_background(
        (batch for batch in fetched.as_numpy_iterator()), max(ahead, 1), _waiting(address)
    )


def _waiting(address: str) -> Callable[[float], None]:
    """What to do in a second without a batch."""

    def wait(seconds: float) -> None:
        require(
            seconds < PATIENCE,
            f"config.data.service={address}: no batch for {PATIENCE} s; the same command goes on "
            "from the newest checkpoint once the dispatcher and the workers run and find the "
            "images (their logs say what they miss)",
        )
        if seconds == WARNING:
            _logger.warning(
                "no batch from config.data.service=%s for %d s: do its workers run, and find the "
                "images under the same paths?",
                *(address, seconds),
            )

    return wait


def _host_and_port(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    require(
        match and 0 < int(match["port"]) < 2**16,
        f"config.data.service={address!r} is no address: it is grpc://HOST:PORT, as "
        "launch/data_service.py prints it",
    )
    assert match
    return match["host"], int(match["port"])


def _registered(address: str, graph: Any, where: tuple[str, int]) -> Any:
    """Tells the dispatcher what to compute; returns its name for that.

    Raises:
      UserError: nothing answers there, or no dispatcher does.
    """
    wrong = f"config.data.service={address}"
    try:
        socket.create_connection(where, timeout=ANSWER).close()
    except OSError as error:
        raise UserError(
            f"{wrong}: nothing answers there ({error}); start `launch/data_service.py dispatcher` "
            "on that machine, or leave it out"
        ) from error
    tf = import_tensorflow()
    answers: queue.Queue[Any] = queue.Queue()

    def register() -> None:
        service = tf.data.experimental.service
        try:
            answers.put(service.register_dataset(address, graph, compression=None))
        except tf.errors.OpError as error:
            answers.put(error)

    # TensorFlow tries again for an hour, and cannot be interrupted.
    threading.Thread(target=register, name="register", daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER)
    except queue.Empty:
        answer = TimeoutError(f"{ANSWER} s without an answer")
    if isinstance(answer, Exception):
        reason = str(answer).splitlines()[0]
        raise UserError(
            f"{wrong}: what answers there is no tf.data dispatcher of this version of TensorFlow "
            f"({reason})"
        ) from answer
    return answer


def dataset(image_set: ImageSet, stream: Stream, views: Sequence[View]) -> Any:
    """The whole input as one graph: a tf.data.Dataset of batches, in order if one process runs it.

    Raises:
      UserError: the images are not in files that TensorFlow alone can read.
    """
    tf = import_tensorflow()
    files = _files(image_set)
    read = _reader(files, image_set.labels)
    num_examples, rows = image_set.size, share(stream)

    def order(epoch: Any) -> Any:
        """`views.epoch_permutation`."""
        blocks = tf.range(-(-num_examples // 4), dtype=tf.int64)
        zeros = tf.zeros_like(blocks)
        counters = tf.stack([blocks, zeros + epoch, zeros, zeros], axis=-1)
        words = tf.reshape(_philox(stream.seed, "permutation", counters), [-1])[:num_examples]
        # int64 that are ordered as the words are.
        signed = tf.bitcast(tf.bitwise.bitwise_xor(words, np.uint64(2**63)), tf.int64)
        return tf.argsort(signed, stable=True)

    plain = tf.autograph.experimental.do_not_convert

    @plain  # type: ignore[untyped-decorator]
    def examples(held: Any, step: Any) -> tuple[Any, Any]:
        """Ids and epochs of a step; the orders of its even and its odd epoch are kept."""
        positions = step * stream.batch_size + rows
        epochs, indices = positions // num_examples, positions % num_examples
        first = epochs[0]
        # A batch has no more images than the set: it spans two epochs at most.
        wanted = (first + first % 2, first + (first + 1) % 2)
        held = tuple(
            tf.cond(have[0] == want, lambda have=have: have, lambda want=want: (want, order(want)))
            for have, want in zip(held, wanted, strict=True)
        )
        even, odd = (tf.gather(ids, indices) for _, ids in held)
        return held, (tf.where(epochs % 2 == 0, even, odd), tf.cast(epochs, tf.int32))

    none = (tf.constant(-1, tf.int64), tf.zeros([num_examples], tf.int32))

    @plain  # type: ignore[untyped-decorator]
    def crop_one(i: Any, epoch: Any) -> dict[str, Any]:
        data, label = read(i)
        cut = _views(data, i, epoch, stream.seed, views)
        return {**cut, "labels": label, "ids": i, "epochs": epoch}

    options = tf.data.Options()
    options.deterministic = True
    return (
        tf.data.Dataset.range(stream.start, np.iinfo(np.int64).max // max(stream.batch_size, 2))
        .scan((none, none), examples)
        .flat_map(lambda ids, epochs: tf.data.Dataset.from_tensor_slices((ids, epochs)))
        .map(crop_one, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors(log_warning=True)
        .batch(len(rows), drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def _files(image_set: ImageSet) -> Files:
    records = image_set.images
    require(
        isinstance(records, Records),
        f"config.data.service: {image_set.name} is in memory, where no other machine reads it, and "
        "needs no service: leave it out",
    )
    assert isinstance(records, Records)
    if records.files is None:
        raise UserError(
            f"config.data.service: {image_set.name} is not in files that TensorFlow reads in any "
            "order; prepare it as tfrecord (tfds build --file_format=tfrecord)"
        )
    files = records.files
    others = [path for path in files.paths if path.lower().endswith(_NEED_PILLOW)]
    require(
        files.offset_of is not None or not others,
        f"config.data.service reads JPEG and PNG alone; {len(others)} of {image_set.name} are "
        f"others, the first {others[0] if others else ''}: convert them, or leave it out",
    )
    return files


def _reader(files: Files, labels: np.ndarray | None) -> Any:
    """From the number of an image to its bytes and its label, in a graph."""
    tf = import_tensorflow()
    paths = tf.constant(files.paths)
    path_of = tf.constant(files.path_of, tf.int32)
    offset_of = None if files.offset_of is None else tf.constant(files.offset_of, tf.int64)
    known = None if labels is None else tf.constant(labels, tf.int32)
    label_in_record = known is None and bool(files.label)

    def read(i: Any) -> tuple[Any, Any]:
        path = paths[path_of[i]]
        label = tf.constant(-1, tf.int32) if known is None else known[i]
        if offset_of is None:
            return tf.io.read_file(path), label
        record = tf.data.experimental.from_variant(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=[path],
                compression_type="",
                buffer_size=_READ_BYTES,
                byte_offsets=[offset_of[i]],
            ),
            tf.TensorSpec([], tf.string),
        )
        features = {files.image: tf.io.FixedLenFeature([], tf.string)}
        if label_in_record:
            features[files.label] = tf.io.FixedLenFeature([], tf.int64)
        found = tf.io.parse_single_example(record.take(1).get_single_element(), features)
        return found[files.image], (
            tf.cast(found[files.label], tf.int32) if label_in_record else label
        )

    return read


def _views(data: Any, i: Any, epoch: Any, seed: int, views: Sequence[View]) -> dict[str, Any]:
    """All views of an image: `pipeline.random_placements`, `crops.decode`, `crops.place`."""
    tf = import_tensorflow()
    height, width = _sides(data)
    sources = box_sources(views)
    counters = [(0, i, epoch, number) for number in sources]
    words = _philox(seed, "crop", tf.cast(tf.stack(counters), tf.int64))
    mantissas = tf.cast(tf.bitwise.right_shift(words, np.uint64(11)), tf.int64)
    uniforms = tf.unstack(tf.cast(mantissas, tf.float64) * 2.0**-53)
    sides = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    library = _numpy_names(tf)
    ranges = [views[number - 1][1:3] for number in sources]
    boxes = tf.stack(
        [box_rule(library, u, *sides, *pair) for u, pair in zip(uniforms, ranges, strict=True)]
    )
    corner = tf.reduce_min(boxes[:, :2], axis=0)
    end = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0)
    patch = crops.decode(data, tf.concat([corner, end - corner], axis=0))
    made = {}
    for number, (box, view) in enumerate(zip(tf.unstack(boxes), views, strict=True), start=1):
        y, x = tf.unstack(box[:2] - corner)
        cut = patch[y : y + box[2], x : x + box[3]]
        resized = tf.image.resize(cut, (view.size, view.size), "bicubic")
        levels = tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)
        made[f"view{number}"] = tf.ensure_shape(levels, [view.size, view.size, 3])
    return made


def _sides(data: Any) -> tuple[Any, Any]:
    """Height and width of a JPEG or a PNG, from its header."""
    tf = import_tensorflow()

    def of_png() -> Any:
        # Behind the signature and the head of the first chunk: width, then height.
        header = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        return header[1], header[0]

    def of_jpeg() -> Any:
        shape = tf.io.extract_jpeg_shape(data)
        return shape[0], shape[1]

    height, width = tf.cond(tf.io.is_jpeg(data), of_jpeg, of_png)
    return height, width


def _numpy_names(tf: Any) -> Any:
    """What `boxes.box_rule` needs of numpy."""
    return types.SimpleNamespace(
        moveaxis=lambda values, source, _: tf.unstack(values, axis=source),
        # Through numpy: of numbers alone TensorFlow makes float32 first.
        asarray=lambda values, dtype=tf.float64: tf.cast(
            values if tf.is_tensor(values) else np.asarray(values, np.float64), dtype
        ),
        log=lambda values: tf.unstack(tf.math.log(values)),
        exp=tf.exp,
        sqrt=tf.sqrt,
        rint=tf.round,
        clip=tf.clip_by_value,
        floor=tf.floor,
        stack=tf.stack,
        int32=tf.int32,
    )


def _philox(seed: int, name: str, counters: Any) -> Any:
    """The next four words behind each counter, int64 `[n, 4]` -> uint64 `[n, 4]`: `keys.philox`."""
    tf = import_tensorflow()

    shift, both, xor = (
        getattr(tf.bitwise, name) for name in ("right_shift", "bitwise_and", "bitwise_xor")
    )

    def constant(*values: int) -> Any:
        # As an array: of a list TensorFlow's graphs would make float64 first.
        return tf.constant(np.array([value % 2**64 for value in values], np.uint64))

    mask, half = constant(2**32 - 1), constant(32)
    multipliers = constant(*_MULTIPLIERS)
    low_a, high_a = both(multipliers, mask), shift(multipliers, half)

    def product(b: Any) -> tuple[Any, Any]:
        """Upper and lower half of 128 bits."""
        low_b, high_b = both(b, mask), shift(b, half)
        cross, other = low_a * high_b, high_a * low_b
        middle = shift(low_a * low_b, half) + both(cross, mask) + both(other, mask)
        upper = high_a * high_b + shift(cross, half) + shift(other, half) + shift(middle, half)
        return upper, multipliers * b

    # numpy counts up first, and no counter here is so large that it would be carried over.
    words = tf.bitcast(counters, tf.uint64) + constant(1, 0, 0, 0)
    even, odd = words[..., ::2], words[..., 1::2]
    key = (seed, zlib.crc32(name.encode()))
    for _ in range(_ROUNDS):
        upper, lower = product(even)
        even = xor(xor(upper[..., ::-1], odd), constant(*key))
        odd = lower[..., ::-1]
        key = (key[0] + _KEY_STEPS[0], key[1] + _KEY_STEPS[1])
    return tf.reshape(tf.stack([even, odd], axis=-1), tf.shape(counters))
