"""Image sets held as arrays: the digits of scikit-learn, and npz files."""

import zipfile
import zlib

import numpy as np

from byol_jax.data.images import ImageSet
from byol_jax.errors import UserError, require
from byol_jax.runtime import paths

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def read_digits() -> dict[str, ImageSet]:
    """1797 scans of 8x8 pixels, 10 classes; grey values 0..16 become 0..255 in three channels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    return {"train": ImageSet("digits", images, digits.target.astype(np.int32), 10)}


def read_npz(file: str) -> dict[str, ImageSet]:
    """The splits of an npz file (docs/outside.md, `npz:FILE`).

    Raises:
      UserError: the file does not exist, or its arrays are not images and labels.
    """
    arrays = _npz_arrays(file)
    require(
        "test_images" in arrays or "test_labels" not in arrays,
        "the file has 'test_labels' without 'test_images'; add the images or remove the labels",
    )
    splits = {}
    for split in ("train", "test"):
        if f"{split}_images" in arrays:
            images = _checked_images(arrays, split)
            splits[split] = images, _checked_labels(arrays, split, len(images))
    num_classes = 1 + max(int(labels.max(initial=-1)) for _, labels in splits.values())
    return {
        split: ImageSet(f"npz:{file}", images, labels, num_classes)
        for split, (images, labels) in splits.items()
    }


def _npz_arrays(file: str) -> dict[str, np.ndarray]:
    path = paths.outside(file)
    require(
        path.is_file(),
        f"there is no such file; give an npz file with {', '.join(_ARRAYS)}, and "
        "its path now if it has moved",
    )
    wrong = "this is not a readable npz file; write one with numpy.savez(FILE, train_images=...)"
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            f"this file cannot be read ({error.strerror}): make it readable, or give another"
        ) from error
    # np.load would also read a single .npy array or a pickle.
    require(zipfile.is_zipfile(path), wrong)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = ", ".join(archive.files) or "none"
            require(
                "train_images" in archive.files,
                f"the file has no array 'train_images' (its arrays: {names}); add it, "
                f"{', '.join(_ARRAYS[1:])} are optional",
            )
            return {name: archive[name] for name in _ARRAYS if name in archive.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{wrong} ({' '.join(str(error).split())})") from error


def _checked_images(arrays: dict[str, np.ndarray], split: str) -> np.ndarray:
    images = arrays[f"{split}_images"]
    what = f"{split}_images"
    if np.issubdtype(images.dtype, np.floating):
        raise UserError(
            f"{what} is {images.dtype}; it must be uint8 in 0..255: multiply values in 0..1 by "
            "255, round and cast"
        )
    require(images.dtype == np.uint8, f"{what} is {images.dtype}; it must be uint8 in 0..255")
    require(
        images.ndim == 4 and images.shape[-1] == 3 and 0 not in images.shape[1:],
        f"{what} has shape {list(images.shape)}; it must be [N, H, W, 3]: {_to_rgb(images, what)}",
    )
    return images


def _to_rgb(images: np.ndarray, what: str) -> str:
    """How images of another shape become RGB."""
    if images.ndim == 3:
        return f"grey images become that by numpy.repeat({what}[..., None], 3, axis=-1)"
    if images.ndim != 4 or 0 in images.shape[1:]:
        return "number, height, width and channels, none of them 0"
    channels = images.shape[-1]
    if channels == 4:
        return f"leave out the transparency of RGBA, {what}[..., :3]"
    if channels == 1:
        return f"repeat the grey channel, numpy.repeat({what}, 3, axis=-1)"
    if channels == 2:
        return (
            f"of grey and transparency repeat the first, numpy.repeat({what}[..., :1], 3, axis=-1)"
        )
    if images.shape[1] in (1, 3, 4):
        return f"put channels last, {what}.transpose(0, 2, 3, 1)"
    return f"choose three of the {channels} channels, as in {what}[..., [0, 1, 2]]"


def _checked_labels(arrays: dict[str, np.ndarray], split: str, count: int) -> np.ndarray:
    if f"{split}_labels" not in arrays:
        return np.full(count, -1, np.int32)
    labels = arrays[f"{split}_labels"]
    what = f"{split}_labels"
    require(
        np.issubdtype(labels.dtype, np.integer),
        f"{what} is {labels.dtype}; it must be integer (classes from 0, negative = no label)",
    )
    require(
        labels.shape == (count,),
        f"{what} has shape {list(labels.shape)}; it must be [{count}], one number per image",
    )
    require(
        labels.max(initial=0) < 2**31,
        f"{what} has the label {labels.max(initial=0)}; labels must be below 2**31",
    )
    return np.maximum(labels.astype(np.int64), -1).astype(np.int32)
