"""The tf.data service: other machines read, decode and crop, and training fetches the batches.

Workers run a graph of TensorFlow's own operations, without this package. The graph therefore
repeats what `pipeline` and `reader` do in Python: the permutation of an epoch, the words of Philox,
the boxes, the decoding of one window around all boxes, the resize. An image has the same crops in
an epoch, bit for bit. Batches come in the order in which workers deliver them.
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
from byol_jax.data import background, crops
from byol_jax.data.images import Files, ImageSet, Records
from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.data.views import Stream, View, box_sources, share
from byol_jax.errors import GuardError, UserError, require

_logger = logging.getLogger(__name__)

# Seconds to wait for the dispatcher to answer; TensorFlow itself would try for an hour.
ANSWER = 20
# Seconds without a batch before a warning.
WARNING = 30
# Seconds without a batch before the run ends; TensorFlow itself would wait for ever.
PATIENCE = 300

_ADDRESS = re.compile(r"(?:grpc://)?(?P<host>[^\s/:]+|\[[\da-fA-F:]+\]):(?P<port>\d+)")
# Endings of files that `images.prepare` leaves as they are: a TensorFlow graph has no Pillow.
_DECODED = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
# Bytes read at once for a record: enough for most records, so that one read suffices.
_READ_BYTES = 2**18

# Philox 4x64 (Salmon et al., SC 2011): multipliers, increments of the key, number of rounds.
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
      UserError: a malformed address, no dispatcher there, or images that no worker could read.
        From the iterator: no batch came for `PATIENCE` seconds.
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
    came: list[bool] = []

    def noted() -> background.Batches:
        for batch in fetched.as_numpy_iterator():
            came[:] = [True]
            yield batch

    return background.in_background(noted(), max(ahead, 1), _waiting(address, came))


def _waiting(address: str, came: Sequence[bool] = ()) -> Callable[[float], None]:
    """The function to call every second without a batch: warns, and finally raises.

    Args:
      address: address of the dispatcher.
      came: empty until the first batch has come; what ends later was running.
    """

    def wait(seconds: float) -> None:
        if seconds >= PATIENCE:
            raise (GuardError if came else UserError)(
                f"config.data.service={address}: no batch for {PATIENCE} s; check that dispatcher "
                "and workers run and find the images (see their logs), then run the same command "
                "again to resume from the newest checkpoint"
            )
        if seconds == WARNING:
            _logger.warning(
                "no batch from config.data.service=%s for %d s: check that its workers run and "
                "find the images under the same paths",
                *(address, seconds),
            )

    return wait


def _host_and_port(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    require(
        match and 0 < int(match["port"]) < 2**16,
        f"config.data.service={address!r} is not an address: give grpc://HOST:PORT, as "
        "launch/data_service.py prints it",
    )
    assert match
    return match["host"], int(match["port"])


def _registered(address: str, graph: Any, where: tuple[str, int]) -> Any:
    """Sends the dispatcher the graph; returns the id that it gives it.

    Raises:
      UserError: nothing answers there, or something that is not a dispatcher.
    """
    key = f"config.data.service={address}"
    try:
        socket.create_connection(where, timeout=ANSWER).close()
    except OSError as error:
        raise UserError(
            f"{key}: nothing answers there ({error}); start `launch/data_service.py dispatcher` on "
            "that machine, or leave the key out"
        ) from error
    tf = import_tensorflow()
    answers: queue.Queue[Any] = queue.Queue()

    def register() -> None:
        service = tf.data.experimental.service
        try:
            answers.put(service.register_dataset(address, graph, compression=None))
        except tf.errors.OpError as error:
            answers.put(error)

    # In a thread, because TensorFlow retries for an hour and cannot be interrupted.
    threading.Thread(target=register, name="register", daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER)
    except queue.Empty:
        answer = TimeoutError(f"{ANSWER} s without an answer")
    if isinstance(answer, Exception):
        reason = str(answer).splitlines()[0]
        raise UserError(
            f"{key}: the server there is not a tf.data dispatcher of this version of TensorFlow "
            f"({reason}); start `launch/data_service.py dispatcher` there"
        ) from answer
    return answer


def dataset(image_set: ImageSet, stream: Stream, views: Sequence[View]) -> Any:
    """The whole input as one graph: a tf.data.Dataset of batches, in order if one process runs it.

    Raises:
      UserError: the images are not in files that a TensorFlow graph can read.
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
        # int64 values in the same order as the uint64 words.
        signed = tf.bitcast(tf.bitwise.bitwise_xor(words, np.uint64(2**63)), tf.int64)
        return tf.argsort(signed, stable=True)

    plain = tf.autograph.experimental.do_not_convert

    @plain  # type: ignore[untyped-decorator]
    def examples(held: Any, step: Any) -> tuple[Any, Any]:
        """Ids and epochs of a step. `held` keeps the orders of an even and of an odd epoch."""
        positions = step * stream.batch_size + rows
        epochs, indices = positions // num_examples, positions % num_examples
        first = epochs[0]
        # A batch has at most as many images as the set, so it spans at most two epochs.
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
        height, width = (tf.cast(side, tf.float64) for side in _sides(data))
        # Fails for an image that is too large, which is left out like one that cannot be read.
        most = tf.constant(image_set.largest * 1e6, tf.float64)
        fits = tf.debugging.assert_less_equal(height * width, most)
        with tf.control_dependencies([fits]):
            data = tf.identity(data)
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
        f"config.data.service: {image_set.name} is in memory, where no other machine reads it: "
        "leave the key out",
    )
    assert isinstance(records, Records)
    if records.files is None:
        raise UserError(
            f"config.data.service: {image_set.name} is not in files that TensorFlow can read in "
            "random order; prepare it as tfrecord (tfds build --file_format=tfrecord)"
        )
    files = records.files
    unsupported = [path for path in files.paths if not path.lower().endswith(_DECODED)]
    require(
        files.offset_of is not None or not unsupported,
        f"config.data.service reads JPEG and PNG files only, and {image_set.name} has "
        f"{len(unsupported)} other files, such as {unsupported[0] if unsupported else ''}: convert "
        "them, or leave the key out",
    )
    require(
        image_set.depth.is_plain,
        f"config.data.service takes the high byte of 16 bits, and {image_set.name} has values of "
        f"{image_set.depth.bits} bits: convert the images to 8 bits, or leave the key out",
    )
    return files


def _reader(files: Files, labels: np.ndarray | None) -> Any:
    """The function, for a graph, from the id of an image to its bytes and its label."""
    tf = import_tensorflow()
    paths = tf.constant(files.paths)
    path_of = tf.constant(files.path_of, tf.int32)
    offset_of = None if files.offset_of is None else tf.constant(files.offset_of, tf.int64)
    label_of = None if labels is None else tf.constant(labels, tf.int32)
    label_in_record = label_of is None and bool(files.label)

    def read(i: Any) -> tuple[Any, Any]:
        path = paths[path_of[i]]
        label = tf.constant(-1, tf.int32) if label_of is None else label_of[i]
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
        parsed = tf.io.parse_single_example(record.take(1).get_single_element(), features)
        if label_in_record:
            label = tf.cast(parsed[files.label], tf.int32)
        return parsed[files.image], label

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
        # Width and height follow the signature and the header of the first chunk.
        header = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        return header[1], header[0]

    def of_jpeg() -> Any:
        shape = tf.io.extract_jpeg_shape(data)
        return shape[0], shape[1]

    height, width = tf.cond(tf.io.is_jpeg(data), of_jpeg, of_png)
    return height, width


def _numpy_names(tf: Any) -> Any:
    """The functions of numpy that `boxes.box_rule` calls, in TensorFlow."""
    return types.SimpleNamespace(
        moveaxis=lambda values, source, _: tf.unstack(values, axis=source),
        # Through numpy, because tf.cast of Python floats makes them float32 first.
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
    """The four words of `keys.philox` after each counter, int64 `[n, 4]` -> uint64 `[n, 4]`."""
    tf = import_tensorflow()

    shift, both, xor = (
        getattr(tf.bitwise, name) for name in ("right_shift", "bitwise_and", "bitwise_xor")
    )

    def constant(*values: int) -> Any:
        # Through an array, because TensorFlow would convert a list to float64 first.
        return tf.constant(np.array([value % 2**64 for value in values], np.uint64))

    mask, half = constant(2**32 - 1), constant(32)
    multipliers = constant(*_MULTIPLIERS)
    low_a, high_a = both(multipliers, mask), shift(multipliers, half)

    def product(b: Any) -> tuple[Any, Any]:
        """Upper and lower 64 bits of the products with the multipliers."""
        low_b, high_b = both(b, mask), shift(b, half)
        cross_a, cross_b = low_a * high_b, high_a * low_b
        middle = shift(low_a * low_b, half) + both(cross_a, mask) + both(cross_b, mask)
        upper = high_a * high_b + shift(cross_a, half) + shift(cross_b, half) + shift(middle, half)
        return upper, multipliers * b

    # numpy increments the counter before it draws. Counters here are small: nothing is carried.
    words = tf.bitcast(counters, tf.uint64) + constant(1, 0, 0, 0)
    even, odd = words[..., ::2], words[..., 1::2]
    key = (seed, zlib.crc32(name.encode()))
    for _ in range(_ROUNDS):
        upper, lower = product(even)
        even = xor(xor(upper[..., ::-1], odd), constant(*key))
        odd = lower[..., ::-1]
        key = (key[0] + _KEY_STEPS[0], key[1] + _KEY_STEPS[1])
    return tf.reshape(tf.stack([even, odd], axis=-1), tf.shape(counters))
