"""Folders of image files: the layout says the splits and the classes."""

import logging
import os
import pathlib

import numpy as np

from byol_jax.data.images import Encoded, Files, ImageSet, Records
from byol_jax.errors import UserError, require

_logger = logging.getLogger(__name__)

# Folders that are splits; everything else is a class.
SPLIT_FOLDERS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif")
_NAMED = 3


def read(folder: str) -> dict[str, ImageSet]:
    """The splits of `folder:DIR`, files in the order of their paths.

    `train/`, `val/` or `valid/`, and `test/` are splits; without any of them the folder itself is
    one, `train`. In a split, sub-folders are classes (labels are their ranks by name over all
    splits; files of deeper folders belong to them too) and loose files have no label.

    Args:
      folder: the path behind `folder:`.

    Raises:
      UserError: no such folder, one without images, or one whose layout is ambiguous.
    """
    root = pathlib.Path(folder).expanduser()
    require(root.is_dir(), f"there is no folder {folder}; folder:DIR needs one with images")
    splits = {entry: root / entry for entry in SPLIT_FOLDERS if (root / entry).is_dir()}
    if "val" in splits and "valid" in splits:
        raise UserError(f"{folder} has both val/ and valid/; keep one of them")
    if splits:
        require(
            "train" in splits,
            f"{folder} has {' and '.join(f'{s}/' for s in splits)} but no train/; "
            "name the folder to train on train/",
        )
        roots = {SPLIT_FOLDERS[entry]: path for entry, path in splits.items()}
        others = sorted(p.name for p in root.iterdir() if p.name not in splits)
        if others := [name for name in others if not name.startswith(".")]:
            _logger.info("%s: what lies beside train/ is left out: %s", folder, _few(others))
    else:
        roots = {"train": root}

    skipped: list[str] = []
    files = {split: _image_files(path, skipped) for split, path in roots.items()}
    if skipped:
        _logger.info(
            "%s: %d file(s) without the ending of an image are left out: %s",
            folder,
            len(skipped),
            _few(sorted(skipped)),
        )
    require(
        any(files.values()),
        f"{folder} holds no image: files ending in {', '.join(ENDINGS)} are needed, "
        "here, in sub-folders (classes), or in train/, val/ and test/",
    )
    names = sorted({_class_of(file) for listed in files.values() for file in listed} - {""})
    ranks = {name: rank for rank, name in enumerate(names)} | {"": -1}
    return {
        split: _image_set(f"folder:{folder}", roots[split], listed, ranks)
        for split, listed in files.items()
    }


def _class_of(file: str) -> str:
    return file.split("/", 1)[0] if "/" in file else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _refuse(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror})") from error


def _image_files(root: pathlib.Path, skipped: list[str]) -> list[str]:
    """Paths below `root`, with `/`, sorted; hidden files and folders are nobody's images."""
    found = []
    for parent, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        # A link to a folder that holds it would be followed for ever.
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
                found.append((below / name).as_posix())
            elif not name.startswith("."):
                skipped.append(os.path.join(parent, name))
    return sorted(found)


def _image_set(name: str, root: pathlib.Path, files: list[str], ranks: dict[str, int]) -> ImageSet:
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
    return ImageSet(name, records, labels, len(ranks) - 1)
