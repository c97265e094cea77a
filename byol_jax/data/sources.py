"""Labelled images by name: `digits`, `npz:FILE`, `folder:DIR`, `tfds:NAME`; and their splits."""

import difflib
import functools
import logging
import os
from collections.abc import Callable, Mapping

import numpy as np

from byol_jax.data import folder, splits, table10, tfds_sets
from byol_jax.data.arrays import read_digits, read_npz
from byol_jax.data.depth import UNSEEN, Depth
from byol_jax.data.images import AS_STORED, Decoding, ImageSet, concatenate
from byol_jax.data.splits import Readers
from byol_jax.data.table10 import Benchmark
from byol_jax.errors import UserError, require, titled

_logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
KINDS = ("digits", "npz:FILE", "folder:DIR", "tfds:NAME")


def named(dataset: str, table: str | None) -> str:
    """The name of a data set whose labels are in a table, `folder:DIR,labels=FILE.csv`.

    Args:
      dataset: the data set.
      table: a CSV file of paths and labels (`labels.read`), or None: then the name stays.

    Raises:
      UserError: the data set is no folder, or its name has another table.
    """
    if not table:
        return dataset
    kind, _, argument = dataset.partition(":")
    require(
        kind == "folder",
        f"config.data.labels={table} is for folder:DIR, and config.dataset is {dataset}: leave it "
        "out",
    )
    own = folder.parts_of(argument)[1]
    require(
        own in (None, table),
        f"config.data.labels={table}: config.dataset={dataset} names another table; leave one out",
    )
    return dataset if own else folder.with_labels(dataset, table)


def load(
    dataset: str,
    split: str,
    data_dir: str | None = None,
    benchmark: str | None = None,
    *,
    key: str = "config.dataset",
    decoding: Decoding = AS_STORED,
) -> ImageSet:
    """One split of a data set, or several of them joined.

    Args:
      dataset: `digits`, `npz:FILE`, `folder:DIR`, `folder:DIR,labels=FILE.csv` or `tfds:NAME`.
      split: `train`, `valid`, `test`, or several joined as in `train+valid`. Images come in the
        order of the source, not of the words. `tfds:NAME` also takes any other split that it has.
      data_dir: folder of prepared TFDS sets (`tfds:NAME` only).
      benchmark: which row of BYOL Table 10 the images are (`table10.TABLE_10`); by default that
        of `tfds:NAME`, if there is one. Its rule makes a validation split that the source lacks.
      key: the key of the config that names the data set; empty if none does.
      decoding: how they are to be read. Its depth is that of the images of a training, where the
        network of one is to see these (`depth.of_images`); its `exif` is for who decodes them.

    Raises:
      UserError: unknown data set, split or benchmark, unusable files, a split without images, or
        classes that are not the benchmark's.
    """
    row = table10.find(dataset, benchmark)
    wanted = split.split("+")
    with titled(f"{key}={dataset}" if key else dataset):
        readers = _checked(_readers(dataset, data_dir, decoding.depth), row)
        allowed = list(dict.fromkeys([*SPLITS, *readers]))
        unknown = [name for name in wanted if name not in allowed]
        require(
            not unknown,
            f"it has no split {unknown[0] if unknown else ''!r}; its splits are "
            f"{', '.join(allowed)}: give one, or several joined as in train+valid",
        )
        others = [name for name in allowed if name in wanted and name in {*readers} - {"train"}]
        own = [readers[name]() for name in others]
        share = splits.share_of_train(readers, set(wanted), row)
        parts = [part for part in (share and share.images, *own) if part and part.size]
        require(parts, f"it has no {split} images; {_way_out({*wanted}, readers)}")
        image_set = concatenate(parts)
    words = [_summary(image_set, split, share.set_aside if share else {})]
    if len(readers) > 1:
        words.append(f"splits of its own: {', '.join(readers)}")
    summary = "; ".join(filter(None, [*words, image_set.note]))
    return image_set._replace(key=key, summary=summary, largest=decoding.largest)


def _way_out(wanted: set[str], readers: Readers) -> str:
    """What to do about splits without images."""
    if wanted <= {*readers}:
        return "add some, or give another split"
    return (
        "it has no such split of its own, and a fifth of each class is cut out of the training "
        "images, which is none of one or two images: add images, or such a split, or give another "
        "one; a training that is not to evaluate itself needs none: "
        "--config.evaluation.at_end=False --config.evaluation.knn_every=0"
    )


_announced: set[str] = set()


def announce(image_set: ImageSet, again: bool = False) -> None:
    """Says what a data set was taken for: once in a program, unless it is to be said again."""
    if image_set.summary and (again or image_set.name not in _announced):
        _announced.add(image_set.name)
        _logger.info("%s", image_set.summary)


def _summary(image_set: ImageSet, split: str, set_aside: Mapping[str, int]) -> str:
    """What was read, in words.

    Args:
      image_set: the images that are used.
      split: their split.
      set_aside: numbers of further images, by the split that they were cut out for.
    """
    count, classes = image_set.size + sum(set_aside.values()), image_set.num_classes
    labels = f"{classes} class{'es' * (classes > 1)}" if classes else "no labels"
    if image_set.multi_label:
        labels += ", several per image"
    elif classes and image_set.labels is not None and (bare := int(np.sum(image_set.labels < 0))):
        labels += f", {bare} without a label"
    cuts = [
        f"{f'a fifth, {number},' if name == 'test' else number} set aside as the {name} split"
        for name, number in set_aside.items()
        if number
    ]
    rest = f": {image_set.size} are left ({split})" if cuts else f" ({split})"
    return "; ".join([f"{count} images in {image_set.name}, {labels}", *cuts]) + rest


def own_splits(dataset: str, data_dir: str | None = None) -> tuple[str, ...]:
    """The splits that a data set itself has, without those that are cut out of its training images.

    Raises:
      UserError: see `load`.
    """
    with titled(f"config.dataset={dataset}"):
        return tuple(_readers(dataset, data_dir))


def _checked(readers: Readers, row: Benchmark | None) -> Readers:
    """The same readers, which also refuse a set whose classes are not the benchmark's."""

    def read(reader: Callable[[], ImageSet]) -> ImageSet:
        image_set = reader()
        if row:
            table10.check_classes(row, image_set.num_classes)
        return image_set

    return {name: functools.partial(read, reader) for name, reader in readers.items()}


def table_10(data_dir: str | None = None) -> list[str]:
    """BYOL Table 10 beside the sets that TFDS has prepared, as lines of text.

    Reads the labels of sets whose validation split is cut by class.
    """
    counts: dict[str, table10.Counts | str] = {}
    for row in table10.TABLE_10:
        if row.tfds is None:
            counts[row.key] = row.note
            continue
        try:
            with titled(f"tfds:{row.tfds}"):
                readers = _checked(_readers(f"tfds:{row.tfds}", data_dir), row)
        except UserError as error:
            counts[row.key] = str(error)
            continue
        original, test = readers["train"](), readers["test"]()
        train = original.size
        if "valid" in readers:
            valid = readers["valid"]().size
        else:
            cut = splits.share_of_train(readers, {"valid"}, row)
            valid = cut.images.size if cut else 0
            train -= valid
        counts[row.key] = table10.Counts(test.num_classes, original.size, train, valid, test.size)
    return table10.table_rows(counts)


def _readers(dataset: str, data_dir: str | None, depth: Depth = UNSEEN) -> Readers:
    kind, colon, argument = dataset.partition(":")
    require(
        data_dir is None or kind == "tfds",
        f"config.data_dir={data_dir} is for tfds:NAME only: leave it out",
    )
    if dataset == "digits":
        return _given(read_digits())
    if colon and kind == "npz":
        require(argument, "this names no file: give npz:FILE")
        return _given(read_npz(argument))
    if colon and kind == "folder":
        require(argument, "this names no folder: give folder:DIR")
        path, table = folder.parts_of(argument)
        require(
            table is None or table.strip(),
            "labels= names no table: give folder:DIR,labels=FILE.csv, or leave it out",
        )
        return _given(folder.read(path, table, depth))
    if colon and kind == "tfds":
        return tfds_sets.read(dataset, data_dir, depth)
    if dataset.endswith(".npz"):
        raise UserError(f"unknown data set; did you mean 'npz:{dataset}'?")
    if os.path.isdir(dataset):
        raise UserError(f"unknown data set; did you mean 'folder:{dataset}'?")
    near = difflib.get_close_matches(kind.lower(), ["digits", "npz", "tfds", "folder"], 1, 0.5)
    hint = f"did you mean {near[0] + ('' if near[0] == 'digits' else ':')!r}? " if near else ""
    raise UserError(f"unknown data set; {hint}give one of {', '.join(KINDS)}")


def _given(image_sets: Mapping[str, ImageSet]) -> Readers:
    return {name: functools.partial(image_sets.__getitem__, name) for name in image_sets}
