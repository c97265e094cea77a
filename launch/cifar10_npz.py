"""Writes CIFAR-10 as one npz file, for `--config.dataset=npz:FILE`.

    python launch/cifar10_npz.py DIR OUT.npz

DIR holds data_batch_1 to data_batch_5 and test_batch, in one of two forms:

- the official Python version, `cifar-10-batches-py`: pickles;
- lossless WebP sheets, `data_batch_1.webp` and so on: tiles of 32x32 pixels row by row, with
  `train_labels` and `test_labels` in `labels.npz`.

OUT has the arrays train_images, train_labels, test_images and test_labels: uint8, images
`[N, 32, 32, 3]` in the order of the batches. Exit codes: 0 done, 2 a user's mistake.
"""

import hashlib
import os
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from byol_jax.errors import UserError, require

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
SIDE = 32
NUM_CLASSES = 10
OFFICIAL_SIZES = (50_000, 10_000)
# SHA-256 of the C-ordered bytes of the official Python version.
OFFICIAL_SUMS = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}

# The only names in the official pickles, which hold numpy arrays written by Python 2. Their `align`
# is the number 0, which current versions of numpy warn about.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): lambda name, align, copy: np.dtype(name, bool(align), bool(copy)),
}


class _Unpickler(pickle.Unpickler):
    """Restricts a pickle, which can run anything that it can name, to `_ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it needs {module}.{name}, which no batch has")
        return _ALLOWED[module, name]


def read_pickle(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, 32, 32, 3]` and labels `[N]` of one official batch."""
    try:
        with path.open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        rows, labels = batch[b"data"], np.array(batch[b"labels"])
    except Exception as error:  # damaged bytes can raise any exception
        raise UserError(
            f"{path} must be a batch of CIFAR-10's Python version ({_one_line(error)})"
        ) from error
    # A row is the red plane, then the green, then the blue.
    shape = (3, SIDE, SIDE)
    require(
        isinstance(rows, np.ndarray)
        and rows.dtype == np.uint8
        and rows.shape == (len(labels), np.prod(shape)),
        f"{path}: `data` must be uint8 with {np.prod(shape)} numbers per label, for "
        f"{len(labels)} labels",
    )
    return rows.reshape(-1, *shape).transpose(0, 2, 3, 1), labels


def read_sheet(path: pathlib.Path) -> np.ndarray:
    """The tiles of a sheet, row by row: uint8 `[N, 32, 32, 3]`."""
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} must be a readable image ({_one_line(error)})") from error
    height, width, _ = sheet.shape
    require(
        height % SIDE == 0 and width % SIDE == 0,
        f"{path} is {height} x {width} pixels, and must be whole tiles of {SIDE} x {SIDE}",
    )
    tiles = sheet.reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 3)


def _read_pickles(folder: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = {}
    for split, names in (("train", TRAIN), ("test", TEST)):
        images, labels = zip(*(read_pickle(folder / name) for name in names), strict=True)
        arrays[f"{split}_images"] = np.concatenate(images)
        arrays[f"{split}_labels"] = np.concatenate(labels)
    return arrays


def _read_sheets(folder: pathlib.Path) -> dict[str, np.ndarray]:
    path = folder / "labels.npz"
    names = ("train_labels", "test_labels")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} must hold {' and '.join(names)} ({_one_line(error)})") from error
    for split, batches in (("train", TRAIN), ("test", TEST)):
        sheets = [read_sheet(folder / f"{name}.webp") for name in batches]
        arrays[f"{split}_images"] = np.concatenate(sheets)
    return arrays


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The four arrays, from a folder of either form.

    Raises:
      UserError: a file is missing or damaged, or the labels do not fit the images.
    """
    require(folder.is_dir(), f"there is no folder {folder}")
    if (folder / TRAIN[0]).exists():
        arrays = _read_pickles(folder)
    elif (folder / f"{TRAIN[0]}.webp").exists():
        arrays = _read_sheets(folder)
    else:
        raise UserError(f"{folder} must hold {TRAIN[0]} or {TRAIN[0]}.webp")
    for split in ("train", "test"):
        labels, count = arrays[f"{split}_labels"], len(arrays[f"{split}_images"])
        require(
            np.issubdtype(labels.dtype, np.integer)
            and labels.shape == (count,)
            and ((labels >= 0) & (labels < NUM_CLASSES)).all(),
            f"{folder}: the {split} labels must be {count} whole numbers from 0 to "
            f"{NUM_CLASSES - 1}, one per image",
        )
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    return arrays


def check_official(arrays: dict[str, np.ndarray]) -> bool:
    """Whether these are the official sets; False for another number of images.

    Raises:
      UserError: the number of images is that of the official sets, but their contents differ.
    """
    if (len(arrays["train_images"]), len(arrays["test_images"])) != OFFICIAL_SIZES:
        return False
    for name, expected in OFFICIAL_SUMS.items():
        digest = hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest()
        require(
            digest == expected,
            f"{name} are not CIFAR-10's: their SHA-256 is {digest}, and must be {expected}",
        )
    return True


def write(out: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the npz file whole or not at all."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            np.savez(
                file,
                train_images=arrays["train_images"],
                train_labels=arrays["train_labels"],
                test_images=arrays["test_images"],
                test_labels=arrays["test_labels"],
            )
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({_one_line(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def convert(arguments: Sequence[str]) -> str:
    """Converts DIR to OUT, the two arguments; returns one line that describes OUT.

    Raises:
      UserError: a mistake in the arguments or the files; nothing is written.
    """
    require(len(arguments) == 2, "usage: python launch/cifar10_npz.py DIR OUT.npz")
    folder, out = map(pathlib.Path, arguments)
    require(not out.exists(), f"{out} exists already: choose another name or remove it")
    require(out.parent.is_dir(), f"there is no folder {out.parent} to write {out.name} into")
    arrays = read(folder)
    official = check_official(arrays)
    write(out, arrays)
    train, test = len(arrays["train_images"]), len(arrays["test_images"])
    verdict = (
        "the official images and labels (SHA-256)" if official else "not the whole of CIFAR-10"
    )
    return f"{out}: {train} training and {test} test images, {verdict}"


def main() -> int:
    """The program."""
    try:
        print(convert(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
