"""Labelled images by name: `digits`, `npz:FILE`, `folder:DIR`, `tfds:NAME`; and their splits."""

import difflib
import functools
import os
from collections.abc import Callable, Mapping

import numpy as np

from byol_jax.data import folder, table10, tfds_sets
from byol_jax.data.arrays import read_digits, read_npz
from byol_jax.data.images import ImageSet, all_labels, concatenate, select
from byol_jax.data.table10 import CUT_SEED, Benchmark
from byol_jax.errors import UserError, require

SPLITS = ("train", "valid", "test")
# Where a source has no test or no validation split, a fifth of each class of what is left of the
# training images becomes one, always the same fifth; of the sets of BYOL Table 10 the validation
# split is what App. E.1 says.
CUT_FRACTION = 0.2

KINDS = ("digits", "npz:FILE", "folder:DIR", "tfds:NAME")

# A function that reads a split the source itself has, for each of them.
_Readers = Mapping[str, Callable[[], ImageSet]]


def load(
    dataset: str, split: str, data_dir: str | None = None, benchmark: str | None = None
) -> ImageSet:
    """One split of a data set, or several of them joined.

    Args:
      dataset: `digits`, `npz:FILE`, `folder:DIR` or `tfds:NAME`.
      split: `train`, `valid`, `test`, or some of them as in `train+valid`; whatever the order of
        the words, the images come in the order of the source. `tfds:NAME` also takes any other
        split that it has.
      data_dir: where TFDS keeps what it prepared (`tfds:NAME` only).
      benchmark: which row of BYOL Table 10 the images are (`table10.TABLE_10`); by default that
        of `tfds:NAME`, if there is one. Its rule makes a validation split that the source lacks.

    Raises:
      UserError: unknown data set, split or benchmark, files that cannot be used, a split without
        images, or other classes than the benchmark's.
    """
    row = table10.find(dataset, benchmark)
    readers = _checked(_readers(dataset, data_dir), row)
    wanted = split.split("+")
    known = list(dict.fromkeys([*SPLITS, *readers]))
    wrong = [name for name in wanted if name not in known]
    require(
        not wrong,
        f"{dataset} has no split {wrong[0] if wrong else ''!r}; its splits are "
        f"{', '.join(known)}, and any of them joined, as in train+valid",
    )
    own = [readers[name]() for name in known if name in wanted and name in {*readers} - {"train"}]
    share = _share_of_train(readers, set(wanted), row)
    parts = [part for part in (share, *own) if part and part.size]
    require(parts, f"{dataset} has no {split} images; at least one is needed")
    return concatenate(parts)


def _checked(readers: _Readers, row: Benchmark | None) -> _Readers:
    """The same, but a set with other classes than the benchmark's is refused."""

    def read(reader: Callable[[], ImageSet]) -> ImageSet:
        image_set = reader()
        if row:
            table10.check_classes(row, image_set.name, image_set.num_classes)
        return image_set

    return {name: functools.partial(read, reader) for name, reader in readers.items()}


def _share_of_train(readers: _Readers, wanted: set[str], row: Benchmark | None) -> ImageSet | None:
    """Those of the source's training images that belong to the wanted splits, if any may.

    A split that the source lacks is cut out of them: first test, then validation.
    """
    missing = [split for split in ("test", "valid") if split not in readers]
    if not wanted & {"train", *missing}:
        return None
    train = readers["train"]()
    if wanted >= {"train", *missing}:
        return train  # and no label has to be read for cuts that decide nothing
    owner = np.full(train.size, "train")
    for split in missing:
        rest = np.flatnonzero(owner == "train")
        if split == "valid" and row:
            test_labels = None
            if row.rule.kind == "as_test" and "test" in readers:
                test_labels = all_labels(readers["test"]())
            labels = _labels_to_cut(train, row.rule.kind not in ("last", "none"))[rest]
            cut = table10.validation_rows(labels, row, test_labels)
        else:
            cut = class_balanced_cut(_labels_to_cut(train)[rest], CUT_FRACTION, CUT_SEED)
        owner[rest[cut]] = split
    return select(train, np.flatnonzero(np.isin(owner, list(wanted))))


def _labels_to_cut(train: ImageSet, by_class: bool = True) -> np.ndarray:
    """The labels, int32 `[N]`; all -1, and none is read, where no class decides about a cut."""
    if train.multi_label or not by_class:
        return np.full(train.size, -1, np.int32)
    return all_labels(train)


def class_balanced_cut(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draws `fraction` of each class, at random but fixed by `seed`: sorted positions, int64.

    A class of n examples gives round(fraction * n). Unlabelled examples (-1) count as one more
    class, so that the cut is uniform when there are no labels.
    """
    return table10.draw_by_class(labels, lambda _, size: round(fraction * size), seed)


def table_10(data_dir: str | None = None) -> list[str]:
    """BYOL Table 10 beside the sets that TFDS has prepared, as lines of text.

    Reads the labels of those whose validation split is cut by class.
    """
    found: dict[str, table10.Counts | str] = {}
    for row in table10.TABLE_10:
        if row.tfds is None:
            found[row.key] = row.note
            continue
        try:
            readers = _checked(_readers(f"tfds:{row.tfds}", data_dir), row)
        except UserError as error:
            found[row.key] = str(error)
            continue
        original, test = readers["train"](), readers["test"]()
        train = original.size
        if "valid" in readers:
            valid = readers["valid"]().size
        else:
            cut = _share_of_train(readers, {"valid"}, row)
            valid = cut.size if cut else 0
            train -= valid
        found[row.key] = table10.Counts(test.num_classes, original.size, train, valid, test.size)
    return table10.table_rows(found)


def _readers(dataset: str, data_dir: str | None) -> _Readers:
    kind, colon, argument = dataset.partition(":")
    require(
        data_dir is None or kind == "tfds",
        f"data_dir={data_dir} is for tfds:NAME only, not for dataset {dataset!r}",
    )
    if dataset == "digits":
        return _given(read_digits())
    if colon and kind == "npz":
        require(argument, f"dataset {dataset!r} names no file; write npz:FILE")
        return _given(read_npz(argument))
    if colon and kind == "folder":
        require(argument, f"dataset {dataset!r} names no folder; write folder:DIR")
        return _given(folder.read(argument))
    if colon and kind == "tfds":
        return tfds_sets.read(dataset, data_dir)
    if dataset.endswith(".npz"):
        raise UserError(f"unknown dataset {dataset!r}; did you mean 'npz:{dataset}'?")
    if os.path.isdir(dataset):
        raise UserError(f"unknown dataset {dataset!r}; did you mean 'folder:{dataset}'?")
    near = difflib.get_close_matches(kind.lower(), ["digits", "npz", "tfds", "folder"], 1, 0.5)
    hint = f"did you mean {near[0] + ('' if near[0] == 'digits' else ':')!r}? " if near else ""
    raise UserError(f"unknown dataset {dataset!r}; {hint}known are {', '.join(KINDS)}")


def _given(splits: Mapping[str, ImageSet]) -> _Readers:
    return {name: functools.partial(splits.__getitem__, name) for name in splits}
