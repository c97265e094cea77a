"""Labelled images by name: `digits`, `npz:FILE`, `folder:DIR`, `tfds:NAME`; and their splits."""

import difflib
import functools
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from byol_jax.data import benchmarks, folder, tfds_sets
from byol_jax.data.benchmarks import CUT_SEED, Benchmark
from byol_jax.data.images import ImageSet, all_labels, concatenate, select
from byol_jax.errors import UserError, require

SPLITS = ("train", "valid", "test")
# Where a source has no test or no validation split, a fifth of each class of what is left of the
# training images becomes one, always the same fifth; of the sets of BYOL Table 10 the validation
# split is what App. E.1 says.
CUT_FRACTION = 0.2

KINDS = ("digits", "npz:FILE", "folder:DIR", "tfds:NAME")
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

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
      benchmark: which row of BYOL Table 10 the images are (`benchmarks.TABLE_10`); by default that
        of `tfds:NAME`, if there is one. Its rule makes a validation split that the source lacks.

    Raises:
      UserError: unknown data set, split or benchmark, files that cannot be used, a split without
        images, or other classes than the benchmark's.
    """
    row = benchmarks.find(dataset, benchmark)
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
            benchmarks.check_classes(row, image_set.name, image_set.num_classes)
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
            cut = benchmarks.validation_rows(labels, row, test_labels)
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
    return benchmarks.draw_by_class(labels, lambda _, size: round(fraction * size), seed)


def table_10(data_dir: str | None = None) -> list[str]:
    """BYOL Table 10 beside the sets that TFDS has prepared, as lines of text.

    Reads the labels of those whose validation split is cut by class.
    """
    found: dict[str, benchmarks.Counts | str] = {}
    for row in benchmarks.TABLE_10:
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
        found[row.key] = benchmarks.Counts(test.num_classes, original.size, train, valid, test.size)
    return benchmarks.table_rows(found)


def _readers(dataset: str, data_dir: str | None) -> _Readers:
    kind, colon, argument = dataset.partition(":")
    require(
        data_dir is None or kind == "tfds",
        f"data_dir={data_dir} is for tfds:NAME only, not for dataset {dataset!r}",
    )
    if dataset == "digits":
        return _given(_read_digits())
    if colon and kind == "npz":
        require(argument, f"dataset {dataset!r} names no file; write npz:FILE")
        return _given(_read_npz(argument))
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


def _read_digits() -> dict[str, ImageSet]:
    """1797 scans of 8x8 pixels, 10 classes; grey values 0..16 become 0..255, three times."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    return {"train": ImageSet("digits", images, digits.target.astype(np.int32), 10)}


def _read_npz(file: str) -> dict[str, ImageSet]:
    arrays = _npz_arrays(file)
    require(
        "test_images" in arrays or "test_labels" not in arrays,
        f"{file} has 'test_labels' without 'test_images'; add the images or leave both away",
    )
    splits = {}
    for split in ("train", "test"):
        if f"{split}_images" in arrays:
            images = _checked_images(arrays, split, file)
            splits[split] = images, _checked_labels(arrays, split, file, len(images))
    num_classes = 1 + max(int(labels.max(initial=-1)) for _, labels in splits.values())
    return {
        split: ImageSet(f"npz:{file}", images, labels, num_classes)
        for split, (images, labels) in splits.items()
    }


def _npz_arrays(file: str) -> dict[str, np.ndarray]:
    path = os.path.expanduser(file)
    require(
        os.path.isfile(path),
        f"there is no file {file}; npz:FILE needs one with {', '.join(_ARRAYS)}",
    )
    wrong = f"{file} is not a readable npz file; write one with numpy.savez(FILE, train_images=...)"
    # A single .npy array is no npz; anything else that np.load would take is a pickle.
    require(zipfile.is_zipfile(path), wrong)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = ", ".join(archive.files) or "none at all"
            require(
                "train_images" in archive.files,
                f"{file} has no array 'train_images' but {names}; "
                f"train_images is needed, {', '.join(_ARRAYS[1:])} are optional",
            )
            return {name: archive[name] for name in _ARRAYS if name in archive.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{wrong} ({' '.join(str(error).split())})") from error


def _checked_images(arrays: dict[str, np.ndarray], split: str, file: str) -> np.ndarray:
    images = arrays[f"{split}_images"]
    what = f"{split}_images in {file}"
    if np.issubdtype(images.dtype, np.floating):
        raise UserError(
            f"{what} is {images.dtype}; uint8 in 0..255 is needed: multiply values in 0..1 by 255, "
            "round and cast"
        )
    require(images.dtype == np.uint8, f"{what} is {images.dtype}; uint8 in 0..255 is needed")
    require(
        images.ndim == 4 and images.shape[-1] == 3 and 0 not in images.shape[1:],
        f"{what} has the shape {list(images.shape)}; [N, H, W, 3] is needed "
        "(repeat a grey channel three times, put channels last)",
    )
    return images


def _checked_labels(arrays: dict[str, np.ndarray], split: str, file: str, count: int) -> np.ndarray:
    if f"{split}_labels" not in arrays:
        return np.full(count, -1, np.int32)
    labels = arrays[f"{split}_labels"]
    what = f"{split}_labels in {file}"
    require(
        np.issubdtype(labels.dtype, np.integer),
        f"{what} is {labels.dtype}; integers are needed (classes from 0, negative = no label)",
    )
    require(
        labels.shape == (count,),
        f"{what} has the shape {list(labels.shape)}; one number for each of the {count} images "
        f"is needed: [{count}]",
    )
    require(
        labels.max(initial=0) < 2**31, f"{what} goes up to {labels.max(initial=0)}; int32 is needed"
    )
    return np.maximum(labels.astype(np.int64), -1).astype(np.int32)
