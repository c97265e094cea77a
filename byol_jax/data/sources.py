"""Labelled images by name: `digits` (ships with scikit-learn) and `npz:FILE`."""

import difflib
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from byol_jax.errors import UserError, require

SPLITS = ("train", "test")
# Where a source has no test split, a fifth of each class becomes one, always the same fifth.
CUT_FRACTION = 0.2
CUT_SEED = 200607733

_READABLE = "this version reads 'digits' and 'npz:FILE'"
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class ImageSet(NamedTuple):
    """One split of a data set, in memory."""

    name: str
    images: np.ndarray  # uint8 [N, H, W, 3]
    labels: np.ndarray  # int32 [N], -1 = no label
    num_classes: int  # 0 = no labels at all


# Images uint8 [N, H, W, 3] and labels int32 [N] of each split.
_Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def load(dataset: str, split: str) -> ImageSet:
    """Reads one split of `digits` or `npz:FILE`.

    Raises:
      UserError: unknown data set or split, a file that cannot be used, a split without images.
    """
    require(split in SPLITS, f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    splits = _reader(dataset)()
    images, labels = splits[split]
    require(images.size, f"{dataset} has no {split} images; at least one is needed")
    num_classes = 1 + max(int(labels.max(initial=-1)) for _, labels in splits.values())
    return ImageSet(dataset, images, labels, num_classes)


def class_balanced_cut(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draws `fraction` of each class, at random but fixed by `seed`: sorted positions, int64.

    A class of n examples gives round(fraction * n). Unlabelled examples (-1) count as one more
    class, so that the cut is uniform when there are no labels. Raw Philox words and a stable sort
    give the same cut on every machine and with every version of numpy.
    """
    labels = np.asarray(labels)
    key = np.array([seed, zlib.crc32(b"class_balanced_cut")], np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(len(labels)), kind="stable")
    cut = [np.zeros(0, np.int64)]
    for label in np.unique(labels):
        members = order[labels[order] == label]
        cut.append(members[: round(fraction * len(members))])
    return np.sort(np.concatenate(cut))


def _reader(dataset: str) -> Callable[[], _Splits]:
    kind, colon, argument = dataset.partition(":")
    if dataset == "digits":
        return _read_digits
    if kind == "npz":
        require(argument, f"dataset {dataset!r} names no file; write npz:FILE")
        return lambda: _read_npz(argument)
    if colon and kind in ("tfds", "folder"):
        raise UserError(f"dataset {dataset!r}: {kind}: cannot be read yet; {_READABLE}")
    if dataset.endswith(".npz"):
        raise UserError(f"unknown dataset {dataset!r}; did you mean 'npz:{dataset}'?")
    near = difflib.get_close_matches(kind.lower(), ["digits", "npz", "tfds", "folder"], 1, 0.5)
    hint = f"did you mean {near[0] + ('' if near[0] == 'digits' else ':')!r}? " if near else ""
    raise UserError(f"unknown dataset {dataset!r}; {hint}{_READABLE}")


def _cut(images: np.ndarray, labels: np.ndarray) -> _Splits:
    test = np.zeros(len(labels), bool)
    test[class_balanced_cut(labels, CUT_FRACTION, CUT_SEED)] = True
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


def _read_digits() -> _Splits:
    """1797 scans of 8x8 pixels, 10 classes; grey values 0..16 become 0..255, three times."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _cut(np.repeat(grey[..., None], 3, axis=-1), digits.target.astype(np.int32))


def _read_npz(file: str) -> _Splits:
    arrays = _npz_arrays(file)
    require(
        "test_images" in arrays or "test_labels" not in arrays,
        f"{file} has 'test_labels' without 'test_images'; add the images or leave both away",
    )
    splits = {}
    for split in SPLITS:
        if f"{split}_images" in arrays:
            images = _checked_images(arrays, split, file)
            splits[split] = images, _checked_labels(arrays, split, file, len(images))
    return splits if "test" in splits else _cut(*splits["train"])


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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
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
        images.ndim == 4 and images.shape[-1] == 3,
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
