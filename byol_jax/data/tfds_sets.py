"""Prepared TensorFlow Datasets, read one record at a time and in any order.

Array_record files support that themselves. TFRecord files need an index of where each record
starts, which is made once and kept in the user's cache folder.
"""

import concurrent.futures
import difflib
import errno
import functools
import hashlib
import logging
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from byol_jax.data.depth import UNSEEN, Depth, of_images
from byol_jax.data.images import Encoded, Files, ImageSet, Label, Records, concatenate
from byol_jax.data.patient import patient
from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.errors import UserError, require
from byol_jax.runtime import cache, paths

_logger = logging.getLogger(__name__)

# Sets whose `test` split has no labels: papers report on the public validation set (BYOL App. E.1).
_TEST_IS_VALIDATION = ("imagenet2012", "imagenet_resized", "places365_small", "voc/2012")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")

# Bytes around the data of a TFRecord. The header has the length of the data (8 bytes) and its
# checksum; the footer has a checksum of the data.
_HEADER, _LENGTH, _FOOTER = 12, 8, 4
# Threads that read files, which may be remote.
_THREADS = 16

# For each record: index of its file, offset and length of its data in bytes.
Index = tuple[np.ndarray, np.ndarray, np.ndarray]
# What is made of the bytes of a record.
Record = TypeVar("Record")


class Several(NamedTuple):
    """Features of a record that hold the classes of an image, if it may have several (PASCAL VOC).

    Attributes:
      shown: name of the feature with all classes of the image.
      certain: name of the feature without classes of which the image has only difficult examples;
        these are ignored.
      num_classes: number of classes of the set.
    """

    shown: str
    certain: str
    num_classes: int


def open_builder(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of `NAME[/CONFIG][:VERSION]`, prepared on disk.

    Args:
      name: name after `tfds:`.
      data_dir: folder of prepared sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: unknown name, config or version, or the set is not prepared.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    require(name, "this names no data set: give tfds:NAME, as in tfds:cifar10")
    if data_dir and not _is_remote(data_dir):
        data_dir = str(paths.outside(data_dir, "config.data_dir"))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        names = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], names, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets"
        raise UserError(f"TFDS knows no data set {name!r}; {hint}") from error
    except (AssertionError, ImportError, KeyError, TypeError, ValueError) as error:
        # Only the reason: the rest of TFDS's message is pages long.
        reason = str(error).rpartition('": ')[2].partition(" Here are ")[0].partition("\n")[0]
        raise UserError(f"it cannot be opened: {reason or type(error).__name__}") from error
    where = f" --data_dir={data_dir}" if data_dir else ""
    manual = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    require(
        builder.info.splits,
        f"it is not prepared in {builder.data_dir}; run `tfds build {name}{where}` "
        f"{'(it names archives to download first) ' if manual else ''}"
        "or give --config.data_dir",
    )
    return builder


def read(
    dataset: str, data_dir: str | None, known: Depth = UNSEEN
) -> dict[str, Callable[[], ImageSet]]:
    """Readers of the splits of `tfds:NAME`: train, valid and test if the set has them.

    If TFDS has `validation` but no `test`, or a `test` without labels, `validation` is the test
    split, as in the papers. Other splits keep their names.

    Args:
      dataset: `tfds:NAME`.
      data_dir: see `open_builder`.
      known: the depth of the images of a training (`depth.of_images`).

    Raises:
      UserError: as `open_builder`; or the set has no `train` split, or no images in its records.
    """
    name = dataset.partition(":")[2]
    builder = open_builder(name, data_dir)
    stored = list(builder.info.splits)
    require(
        "train" in stored,
        f"it has no split 'train', only {', '.join(stored)}: give another data set",
    )
    image, label = _features(builder)

    @functools.cache
    def depth() -> Depth:
        return _depth(dataset, builder, (image, label), known)

    def reader(split: str) -> Callable[[], ImageSet]:
        return lambda: _image_set(dataset, builder, split, image, label)._replace(depth=depth())

    renamed = {}
    validation = next((split for split in stored if split in _VALIDATION_NAMES), None)
    names = {builder.name, builder.info.full_name.rpartition("/")[0]}
    if validation and ("test" not in stored or names & {*_TEST_IS_VALIDATION}):
        renamed["test"] = reader(validation)
    elif validation:
        renamed["valid"] = reader(validation)
    # A stored `valid` that has become the test split must not be the validation split as well.
    return {split: reader(split) for split in stored if split != "valid"} | renamed


def _features(builder: Any) -> tuple[str, str | Several | None]:
    """Names of the image and of the label or labels in a record."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ()
    images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    labels = [k for k, v in features.items() if isinstance(v, tfds.features.ClassLabel)]
    image = next((k for k in (*keys[:1], "image", *images) if k in images), None)
    if image is None:
        raise UserError(
            f"its records have no image, only {', '.join(features)}: give a data set of images"
        )
    label = next((k for k in (*keys[1:2], "label", *labels[:1]) if k in labels), None)
    several = getattr(dict(features.items()).get("labels"), "feature", None)
    if label is None and isinstance(several, tfds.features.ClassLabel):
        certain = "labels_no_difficult" if "labels_no_difficult" in features else "labels"
        return image, Several("labels", certain, several.num_classes)
    return image, label


def _label(values: Callable[[str], Any], label: str | Several | None) -> Label:
    """The label of a record; `values` returns the integers of a feature by name."""
    if label is None:
        return -1
    if isinstance(label, str):
        return int(values(label)[0])
    row = np.zeros(label.num_classes, np.int32)
    row[np.asarray(values(label.shown), np.int64)] = -1
    row[np.asarray(values(label.certain), np.int64)] = 1
    return row


def _depth(
    dataset: str, builder: Any, features: tuple[str, str | Several | None], known: Depth
) -> Depth:
    """One depth for all splits."""
    if builder.info.features[features[0]].np_dtype != np.uint16:
        return UNSEEN
    parts = [_image_set(dataset, builder, split, *features) for split in builder.info.splits]
    every = concatenate([part for part in parts if part.size]).images
    assert isinstance(every, Records)
    return of_images(dataset, every.size, lambda i: every.read(i).data, every.describe, known)


def _image_set(
    dataset: str, builder: Any, split: str, image: str, label: str | Several | None
) -> ImageSet:
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    files = None
    if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
        paths = [str(path) for path in info.filepaths]
        where = _index(paths, info.num_examples, f"{dataset}, {split}")
        fetch, count = _tfrecord_reader(paths, where, image, label), len(where[0])
        paths = [path if _is_remote(path) else os.path.abspath(path) for path in paths]
        name = label if isinstance(label, str) else ""
        files = Files(paths, where[0], where[1] - _HEADER, image, name)
    else:
        try:
            source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise _no_order(builder) from error

        def fetch(i: int) -> Encoded:
            try:
                example = source[i]
                stored = _label(lambda name: np.atleast_1d(example[name]), label)
                return Encoded(example[image], stored)
            except (RuntimeError, TypeError) as error:  # a wrong checksum; an empty record
                raise OSError(f"a damaged record ({error!r})") from error

        count = len(source)

    where_from = str(builder.data_dir)
    fetch = patient(fetch, f"{dataset}, {split}", "" if _is_remote(where_from) else where_from)

    def label_of(i: int) -> Label:
        try:
            return fetch(i).label
        except OSError:
            return -1  # unreadable images are counted and reported where pixels are read

    features = builder.info.features
    if multi_label := isinstance(label, Several):
        feature = features[label.shown].feature
    else:
        feature = features[label] if label else None
    classes = () if feature is None else tuple(feature.names)
    num_classes = len(classes)

    @functools.cache
    def scan_labels() -> np.ndarray:
        labels = np.full((count, num_classes) if multi_label else count, -1, np.int32)
        if label is None:
            return labels
        _logger.info("%s: reading the labels of %d records", f"{dataset}, {split}", count)
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for i, value in enumerate(pool.map(label_of, range(count))):
                labels[i] = value  # -1 fills a whole row of a multi-label set
        return labels

    records = Records(count, fetch, lambda i: f"{dataset}, {split}, record {i}", scan_labels, files)
    return ImageSet(dataset, records, None, num_classes, multi_label, classes)


def _tfrecord_reader(
    files: list[str], where: Index, image: str, label: str | Several | None
) -> Callable[[int], Encoded]:
    tf = import_tensorflow()

    def parse(data: bytes) -> Encoded:
        features = tf.train.Example.FromString(data).features.feature
        stored = features[image].bytes_list.value[0]
        return Encoded(stored, _label(lambda name: features[name].int64_list.value, label))

    return _parsed_records(files, where, parse)


def _parsed_records(
    files: list[str], where: Index, parse: Callable[[bytes], Record]
) -> Callable[[int], Record]:
    """A function from a position to what `parse` makes of the record there, or OSError."""
    tf = import_tensorflow()
    from google.protobuf.message import DecodeError

    file_of, offset_of, length_of = where

    def fetch(i: int) -> Record:
        # Opened for each record: many systems allow fewer open files than a set has shards.
        try:
            with _open(files[file_of[i]]) as file:
                file.seek(int(offset_of[i]))
                data = file.read(int(length_of[i]))
            return parse(data)
        except _passing_errors() as error:
            raise OSError(errno.EIO, f"the record cannot be read ({error!r})") from error
        except (DecodeError, IndexError, tf.errors.OpError) as error:
            raise OSError(f"a damaged record ({error!r})") from error

    return fetch


def parsed(
    dataset: str, builder: Any, split: str, parse: Callable[[bytes], Record]
) -> tuple[int, Callable[[int], Record]]:
    """The number of records of a split, and a patient function from a position to a parsed record.

    Args:
      dataset: `tfds:NAME`.
      builder: what `open_builder` returns.
      split: name of the split in TFDS.
      parse: maps the bytes of a record, a tf.train.Example; raises OSError if they are damaged.

    Raises:
      UserError: the set is prepared in a format that cannot be read in any order.
    """
    import tensorflow_datasets as tfds

    info, title = builder.info.splits[split], f"{dataset}, {split}"
    if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
        paths = [str(path) for path in info.filepaths]
        where = _index(paths, info.num_examples, title)
        count, fetch = len(where[0]), _parsed_records(paths, where, parse)
    else:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            source = builder.as_data_source(split, deserialize_method=raw)
        except NotImplementedError as error:
            raise _no_order(builder) from error

        def fetch(i: int) -> Record:
            try:
                return parse(source[i])
            except RuntimeError as error:  # a wrong checksum
                raise OSError(f"a damaged record ({error!r})") from error

        count = len(source)
    root = str(builder.data_dir)
    return count, patient(fetch, title, "" if _is_remote(root) else root)


def _no_order(builder: Any) -> UserError:
    return UserError(
        f"it is prepared as {builder.info.file_format.value}, which cannot be read "
        "in random order; prepare it as array_record or tfrecord (tfds build --file_format)"
    )


def _passing_errors() -> tuple[type[Exception], ...]:
    """Types of errors that TensorFlow raises when a server does not answer."""
    errors = import_tensorflow().errors
    return (
        *(errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError),
        *(errors.UnknownError, errors.InternalError, errors.ResourceExhaustedError),
    )


def _is_remote(path: str) -> bool:
    return "://" in path


def _open(path: str) -> Any:
    """Opens a file for reading, on this machine or at an address such as gs://."""
    if _is_remote(path):
        return import_tensorflow().io.gfile.GFile(path, "rb")
    return open(path, "rb", buffering=0)


def _index(files: list[str], count: int, what: str) -> Index:
    """The index of `files`, from the cache if the files have not changed.

    Args:
      files: paths or addresses.
      count: number of records that they should have.
      what: name of the set and split in messages.

    Raises:
      UserError: a file is missing or cut off, or the number of records is not `count`.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        signature = list(pool.map(_signature, files))
    digest = hashlib.sha256(repr(signature).encode()).hexdigest()
    kept_in = cache.folder("tfrecords")
    cached = kept_in and kept_in / f"{digest}.npz"
    try:
        if cached:
            with np.load(cached) as arrays:
                return arrays["shard"], arrays["offset"], arrays["length"]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        pass  # missing or damaged: made below

    _logger.info("%s: finding where the records of %d file(s) start, once", what, len(files))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        lengths = list(pool.map(_record_lengths, files))
    file_of = np.repeat(np.arange(len(files)), [len(part) for part in lengths])
    length_of = np.concatenate(lengths)
    require(
        len(length_of) == count,
        f"{what}: {len(length_of)} records in {len(files)} file(s), {count} expected; "
        "prepare the data set again",
    )
    # In a file each record starts where the previous one ends.
    offset_of = np.concatenate(
        [np.cumsum(part + _HEADER + _FOOTER) - part - _FOOTER for part in lengths]
    )
    if cached:
        _write_cache(cached, {"shard": file_of, "offset": offset_of, "length": length_of})
    return file_of, offset_of, length_of


def _signature(path: str) -> tuple[str, int, int]:
    tf = import_tensorflow()
    try:
        stat = tf.io.gfile.stat(path)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); prepare the data set again"
        ) from error
    return path, stat.length, stat.mtime_nsec


def _write_cache(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        _logger.info("the index cannot be saved (%s): the next run will make it again", error)


def _record_lengths(path: str) -> np.ndarray:
    """Lengths of the data of a file's records, int64.

    Raises:
      UserError: the file ends within a record.
    """
    cut_off = f"{path} ends within a record; prepare the data set again"
    if _is_remote(path):
        # One request per header would take longer than reading the whole file.
        tf = import_tensorflow()
        lengths = tf.data.TFRecordDataset(path, buffer_size=2**24).map(tf.strings.length)
        try:
            return np.fromiter(lengths.as_numpy_iterator(), np.int64)
        except tf.errors.DataLossError as error:
            raise UserError(cut_off) from error
    size, position, sizes = os.path.getsize(path), 0, []
    with _open(path) as file:
        while position < size:
            file.seek(position)
            length = int.from_bytes(file.read(_LENGTH), "little")
            position += _HEADER + length + _FOOTER
            require(position <= size, cut_off)
            sizes.append(length)
    return np.array(sizes, np.int64)
