"""Folders of image files: the layout determines splits and classes."""

import functools
import logging
import os
import pathlib

import numpy as np

from byol_jax.data.images import Encoded, Files, ImageSet, Records
from byol_jax.errors import UserError, require

_logger = logging.getLogger(__name__)

# Names of folders that are splits, and the splits; any other folder is a class.
SPLIT_FOLDERS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif")
# Files named in a message before the rest is abbreviated.
_NAMED = 3


def read(folder: str) -> dict[str, ImageSet]:
    """The splits of `folder:DIR`, files in the order of their paths.

    `train/`, `val/` or `valid/`, and `test/` are splits; without any of them the folder itself is
    the split `train`. In a split, sub-folders are classes, and files in deeper folders belong to
    the same class. Labels are the ranks of the class names over all splits. Loose files have no
    label.

    Args:
      folder: path after `folder:`.

    Raises:
      UserError: the folder does not exist, has no images, or has an ambiguous layout.
    """
    root = pathlib.Path(folder).expanduser()
    require(root.is_dir(), f"there is no folder {folder}; folder:DIR needs one with images")
    splits = {entry: root / entry for entry in SPLIT_FOLDERS if (root / entry).is_dir()}
    if "val" in splits and "valid" in splits:
        raise UserError("the folder has both val/ and valid/; remove or rename one of them")
    if splits:
        require(
            "train" in splits,
            f"the folder has {' and '.join(f'{s}/' for s in splits)} but no train/; "
            "rename the folder with the training images to train/",
        )
        roots = {SPLIT_FOLDERS[entry]: path for entry, path in splits.items()}
        entries = sorted(p.name for p in root.iterdir() if p.name not in splits)
        if unused := [name for name in entries if not name.startswith(".")]:
            _say(f"{folder}: files beside train/ are left out: {_few(unused)}")
    else:
        roots = {"train": root}

    skipped: list[str] = []
    files = {split: _image_files(path, skipped) for split, path in roots.items()}
    if skipped:
        _say(
            f"{folder}: {len(skipped)} file(s) without an image file extension are left out: "
            f"{_few(sorted(skipped))}"
        )
    require(
        any(files.values()),
        f"the folder has no image: put files ending in {', '.join(ENDINGS)} there, in sub-folders "
        "(classes), or in train/, val/ and test/",
    )
    names = sorted({_class_of(file) for listed in files.values() for file in listed} - {""})
    return {
        split: _image_set(f"folder:{folder}", roots[split], listed, names)
        for split, listed in files.items()
    }


def image_files(root: pathlib.Path) -> list[str]:
    """Paths of all image files below a folder, relative to it, sorted; hidden ones are left out."""
    return _image_files(root, [])


def files_set(name: str, paths: list[str]) -> ImageSet:
    """Image files in the given order, without labels."""
    labels = np.full(len(paths), -1, np.int32)
    records = Records(
        size=len(paths),
        read=lambda i: Encoded(pathlib.Path(paths[i]).read_bytes(), -1),
        describe=lambda i: paths[i],
        scan_labels=lambda: labels,
        files=Files([str(pathlib.Path(path).absolute()) for path in paths], np.arange(len(paths))),
    )
    return ImageSet(name, records, labels, 0)


@functools.cache
def _say(message: str) -> None:
    """Logs a message once: a run reads a folder for each of its splits."""
    _logger.info("%s", message)


def _class_of(file: str) -> str:
    return file.split("/", 1)[0] if "/" in file else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _refuse(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror})") from error


def _image_files(root: pathlib.Path, skipped: list[str]) -> list[str]:
    """Paths of images relative to `root`, with `/`, sorted; skips hidden files and folders.

    Other files are appended to `skipped`.
    """
    images = []
    for parent, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        # Following a link to a folder that contains it would never end.
        above = os.path.realpath(parent) + os.sep
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not above.startswith(os.path.realpath(os.path.join(parent, name)) + os.sep)
        ]
        below = pathlib.Path(parent).relative_to(root)
        for name in files:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                images.append((below / name).as_posix())
            elif not name.startswith("."):
                skipped.append(os.path.join(parent, name))
    return sorted(images)


def _image_set(name: str, root: pathlib.Path, files: list[str], classes: list[str]) -> ImageSet:
    ranks = {name: rank for rank, name in enumerate(classes)} | {"": -1}
    labels = np.array([ranks[_class_of(file)] for file in files], np.int32)
    here = root.resolve()

    def read_file(i: int) -> Encoded:
        return Encoded((root / files[i]).read_bytes(), int(labels[i]))

    records = Records(
        size=len(files),
        read=read_file,
        describe=lambda i: str(root / files[i]),
        scan_labels=lambda: labels,
        files=Files([str(here / file) for file in files], np.arange(len(files))),
    )
    return ImageSet(name, records, labels, len(classes), classes=tuple(classes))
