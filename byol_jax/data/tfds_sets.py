"""Prepared TensorFlow Datasets, read one record at a time and in any order.

Sets in array_record files can do that by themselves. TFRecord files need to know where each
record starts: an index, made once and kept in the user's cache folder.
"""

import concurrent.futures
import difflib
import functools
import hashlib
import logging
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from byol_jax.data.images import Encoded, Files, ImageSet, Label, Records
from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.errors import UserError, require
from byol_jax.runtime import cache

_logger = logging.getLogger(__name__)

# Sets whose own `test` has no labels: papers report on the public validation set (BYOL App. E.1).
_TEST_IS_VALIDATION = ("imagenet2012", "imagenet_resized", "places365_small", "voc/2012")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")

# A TFRecord is its length (8 bytes), a checksum of it (4), the data, a checksum of those (4).
_HEADER, _LENGTH, _FOOTER = 12, 8, 4
_THREADS = 16

# File, offset and length of the data of each record.
Index = tuple[np.ndarray, np.ndarray, np.ndarray]


class Several(NamedTuple):
    """Where the classes of an image are that may have more than one (PASCAL VOC).

    Attributes:
      shown: the feature with all of them.
      certain: the one without those of which there are difficult examples only; those are ignored.
      num_classes: how many there are.
    """

    shown: str
    certain: str
    num_classes: int


def open_builder(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of `NAME[/CONFIG][:VERSION]`, prepared on disk.

    Args:
      name: what stands behind `tfds:`.
      data_dir: where TFDS prepared it; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: unknown name, config or version, or a set that is not prepared.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    require(name, "dataset 'tfds:' names no data set; write tfds:NAME, as in tfds:cifar10")
    data_dir = os.path.expanduser(data_dir) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets"
        raise UserError(f"TFDS knows no data set {name!r}; {hint}") from error
    except (AssertionError, ImportError, KeyError, TypeError, ValueError) as error:
        # What TFDS prints before and after its reason fills pages.
        reason = str(error).rpartition('": ')[2].partition(" Here are ")[0].partition("\n")[0]
        raise UserError(
            f"tfds:{name} cannot be opened: {reason or type(error).__name__}"
        ) from error
    where = f" --data_dir={data_dir}" if data_dir else ""
    manual = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    require(
        builder.info.splits,
        f"tfds:{name} is not prepared in {builder.data_dir}; run `tfds build {name}{where}` "
        f"{'(it says which archives to download first) ' if manual else ''}"
        "or give --config.data_dir",
    )
    return builder


def read(dataset: str, data_dir: str | None) -> dict[str, Callable[[], ImageSet]]:
    """Readers of the splits of `tfds:NAME`: train, valid and test where the set has them.

    Where TFDS has `validation` but no `test`, or a `test` without labels, `validation` is the
    test split, as in the papers. Any other split keeps its own name.

    Args:
      dataset: `tfds:NAME`.
      data_dir: see `open_builder`.

    Raises:
      UserError: see `open_builder`; no `train` split, or no images in its records.
    """
    name = dataset.partition(":")[2]
    builder = open_builder(name, data_dir)
    theirs = list(builder.info.splits)
    require("train" in theirs, f"{dataset} has no split 'train' but {', '.join(theirs)}")
    image, label = _features(builder, dataset)

    def reader(split: str) -> Callable[[], ImageSet]:
        return lambda: _image_set(dataset, builder, split, image, label)

    ours = {}
    validation = next((split for split in theirs if split in _VALIDATION_NAMES), None)
    names = {builder.name, builder.info.full_name.rpartition("/")[0]}
    if validation and ("test" not in theirs or names & {*_TEST_IS_VALIDATION}):
        ours["test"] = reader(validation)
    elif validation:
        ours["valid"] = reader(validation)
    # A `valid` of theirs that has become the test split must not be the validation split as well.
    return {split: reader(split) for split in theirs if split != "valid"} | ours


def _features(builder: Any, dataset: str) -> tuple[str, str | Several | None]:
    """Names of the image and of the label or labels in a record."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ()
    images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    labels = [k for k, v in features.items() if isinstance(v, tfds.features.ClassLabel)]
    image = next((k for k in (*keys[:1], "image", *images) if k in images), None)
    if image is None:
        raise UserError(f"{dataset} has no image but {', '.join(features)}")
    label = next((k for k in (*keys[1:2], "label", *labels[:1]) if k in labels), None)
    several = getattr(dict(features.items()).get("labels"), "feature", None)
    if label is None and isinstance(several, tfds.features.ClassLabel):
        certain = "labels_no_difficult" if "labels_no_difficult" in features else "labels"
        return image, Several("labels", certain, several.num_classes)
    return image, label


def _label(values: Callable[[str], Any], label: str | Several | None) -> Label:
    """The label of a record, of which `values` gives the integers of a feature."""
    if label is None:
        return -1
    if isinstance(label, str):
        return int(values(label)[0])
    row = np.zeros(label.num_classes, np.int32)
    row[np.asarray(values(label.shown), np.int64)] = -1
    row[np.asarray(values(label.certain), np.int64)] = 1
    return row


def _image_set(
    dataset: str, builder: Any, split: str, image: str, label: str | Several | None
) -> ImageSet:
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    known = None
    if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
        paths = [str(path) for path in info.filepaths]
        where = _index(paths, info.num_examples, f"{dataset}, {split}")
        fetch, count = _tfrecord_reader(paths, where, image, label), len(where[0])
        paths = [path if _is_remote(path) else os.path.abspath(path) for path in paths]
        only = label if isinstance(label, str) else ""
        known = Files(paths, where[0], where[1] - _HEADER, image, only)
    else:
        try:
            source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise UserError(
                f"{dataset} is prepared as {builder.info.file_format.value}, which cannot be read "
                "in any order; prepare it as array_record or tfrecord (tfds build --file_format)"
            ) from error

        def fetch(i: int) -> Encoded:
            try:
                example = source[i]
                stored = _label(lambda name: np.atleast_1d(example[name]), label)
                return Encoded(example[image], stored)
            except (RuntimeError, TypeError) as error:  # a wrong checksum; an empty record
                raise OSError(f"a damaged record ({error!r})") from error

        count = len(source)

    def label_of(i: int) -> Label:
        try:
            return fetch(i).label
        except OSError:
            return -1  # What cannot be read is counted, named and refused where it is used.

    if multi_label := isinstance(label, Several):
        num_classes = label.num_classes
    else:
        num_classes = builder.info.features[label].num_classes if label else 0

    @functools.cache
    def scan_labels() -> np.ndarray:
        labels = np.full((count, num_classes) if multi_label else count, -1, np.int32)
        if label is None:
            return labels
        _logger.info("%s: reading the labels of %d records", f"{dataset}, {split}", count)
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for i, found in enumerate(pool.map(label_of, range(count))):
                labels[i] = found  # a whole row of -1 where there is none
        return labels

    records = Records(count, fetch, lambda i: f"{dataset}, {split}, record {i}", scan_labels, known)
    return ImageSet(dataset, records, None, num_classes, multi_label)


def _tfrecord_reader(
    files: list[str], where: Index, image: str, label: str | Several | None
) -> Callable[[int], Encoded]:
    tf = import_tensorflow()
    from google.protobuf.message import DecodeError

    file_of, offset_of, length_of = where

    def fetch(i: int) -> Encoded:
        # Opened anew each time: a thousand shards would be more open files than many systems allow.
        try:
            with _open(files[file_of[i]]) as file:
                file.seek(int(offset_of[i]))
                data = file.read(int(length_of[i]))
            features = tf.train.Example.FromString(data).features.feature
            stored = features[image].bytes_list.value[0]
            return Encoded(stored, _label(lambda name: features[name].int64_list.value, label))
        except (DecodeError, IndexError, tf.errors.OpError) as error:
            raise OSError(f"a damaged record ({error!r})") from error

    return fetch


def _is_remote(path: str) -> bool:
    return "://" in path


def _open(path: str) -> Any:
    """A file for reading, on this machine or behind an address such as gs://."""
    if _is_remote(path):
        return import_tensorflow().io.gfile.GFile(path, "rb")
    return open(path, "rb", buffering=0)


def _index(files: list[str], count: int, what: str) -> Index:
    """Where the records of `files` are, from the cache if the files are still the same.

    Raises:
      UserError: the files are not there, or do not hold the `count` records that they should.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        signature = list(pool.map(_signature, files))
    digest = hashlib.sha256(repr(signature).encode()).hexdigest()
    cached = cache.folder("tfrecords") / f"{digest}.npz"
    try:
        with np.load(cached) as arrays:
            return arrays["shard"], arrays["offset"], arrays["length"]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        pass  # Not there yet, or damaged: made again.

    _logger.info("%s: looking up where the records of %d file(s) start, once", what, len(files))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        lengths = list(pool.map(_record_lengths, files))
    file_of = np.repeat(np.arange(len(files)), [len(part) for part in lengths])
    length_of = np.concatenate(lengths)
    require(
        len(length_of) == count,
        f"{what}: {len(length_of)} records in {len(files)} file(s), {count} expected; "
        "prepare the data set again",
    )
    # In each file a record starts where the one before it ends.
    offset_of = np.concatenate(
        [np.cumsum(part + _HEADER + _FOOTER) - part - _FOOTER for part in lengths]
    )
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
        _logger.info("the index cannot be kept (%s): the next run makes it again", error)


def _record_lengths(path: str) -> np.ndarray:
    """Lengths of the data of a file's records, int64.

    Raises:
      UserError: the file ends within a record.
    """
    cut_off = f"{path} ends within a record; prepare the data set again"
    if _is_remote(path):
        # A request for each header would take longer than reading everything in one go.
        tf = import_tensorflow()
        lengths = tf.data.TFRecordDataset(path, buffer_size=2**24).map(tf.strings.length)
        try:
            return np.fromiter(lengths.as_numpy_iterator(), np.int64)
        except tf.errors.DataLossError as error:
            raise UserError(cut_off) from error
    size, position, found = os.path.getsize(path), 0, []
    with _open(path) as file:
        while position < size:
            file.seek(position)
            length = int.from_bytes(file.read(_LENGTH), "little")
            position += _HEADER + length + _FOOTER
            require(position <= size, cut_off)
            found.append(length)
    return np.array(found, np.int64)
