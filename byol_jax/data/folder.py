"""Folders of image files: the layout determines splits and classes."""

import functools
import logging
import os
import pathlib
import re
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from byol_jax.data import depth, formats, labels
from byol_jax.data.images import AS_STORED, Decoding, Encoded, Files, ImageSet, Records
from byol_jax.data.patient import patient
from byol_jax.errors import UserError, require
from byol_jax.runtime import paths

_logger = logging.getLogger(__name__)

# Names of folders that are splits, in any case, and the splits; any other folder is a class.
SPLIT_FOLDERS = {
    **{"train": "train", "training": "train"},
    **{"val": "valid", "valid": "valid", "validation": "valid"},
    **{"test": "test", "testing": "test"},
}
# Folders that are named nearly as splits are.
_NEARLY = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|holdout)([-_. \d].*)?",
    re.IGNORECASE,
)
# Files named in a message before the rest is abbreviated.
_NAMED = 3


def read(
    folder: str, table: str | None = None, known: depth.Depth = depth.UNSEEN
) -> dict[str, ImageSet]:
    """The splits of `folder:DIR`, files in the order of their paths.

    `train/` or `training/`, `val/`, `valid/` or `validation/`, and `test/` or `testing/`, in any
    case, are splits; without any of them the folder itself is the split `train`. In a split,
    sub-folders are classes, and files in deeper folders belong to the same class. Labels are the
    ranks of the class names over all splits. Loose files have no label.

    Args:
      folder: path after `folder:`.
      table: a CSV file of labels, which then count in place of the sub-folders (`labels.read`).
      known: the depth of the images of a training (`depth.of_images`).

    Raises:
      UserError: the folder does not exist, has no images, or has an ambiguous layout; or as in
        `labels.read` and `depth.of_images`.
    """
    root = paths.outside(folder)
    _check_is_folder(root, folder)
    splits = _split_folders(root)
    roots = {split: root / entry for split, entry in splits.items()} or {"train": root}
    notes = [f"{entry}/ is {split}" for split, entry in splits.items() if entry != split]
    if splits:
        notes += _beside(root, splits, folder)
    skipped, guessed = list[str](), list[str]()
    files = {split: _image_files(path, skipped, guessed) for split, path in roots.items()}
    if guessed:
        _say(
            f"{folder}: {len(guessed)} file(s) are taken as images by their first bytes: "
            f"{_few(sorted(guessed))}"
        )
    if skipped:
        some = _few(sorted(skipped))
        notes.append(f"{len(skipped)} file(s) that are no images are left out: {some}")
    require(any(files.values()), _no_image(folder, skipped))
    if table:
        return _tabled(folder, table, roots, files, notes, known)
    for split, listed in files.items():
        _warn_of_lost_classes(folder, roots[split], listed, skipped)
        _warn_of_levels(folder, roots[split], listed, is_split=bool(splits))
    names = sorted({_class_of(file) for listed in files.values() for file in listed} - {""})
    ranks = {name: rank for rank, name in enumerate(names)} | {"": -1}
    return _image_sets(
        ImageSet(f"folder:{folder}", _NOTHING, None, len(names), classes=tuple(names)),
        *(roots, files, notes),
        {split: [ranks[_class_of(file)] for file in listed] for split, listed in files.items()},
        known,
    )


_NOTHING = np.zeros((0, 1, 1, 3), np.uint8)


def _tabled(
    folder: str,
    table: str,
    roots: Mapping[str, pathlib.Path],
    files: Mapping[str, list[str]],
    notes: list[str],
    known: depth.Depth,
) -> dict[str, ImageSet]:
    """The splits with the labels of a table, whose paths are relative to the whole folder."""
    root = paths.outside(folder)
    names = {
        split: [(roots[split].relative_to(root) / file).as_posix() for file in listed]
        for split, listed in files.items()
    }
    found = labels.read(table, [name for listed in names.values() for name in listed])
    return _image_sets(
        ImageSet(
            with_labels(f"folder:{folder}", table),
            *(_NOTHING, None, len(found.classes)),
            classes=found.classes,
        ),
        *(roots, files, notes),
        {split: [found.rank_of.get(n, -1) for n in listed] for split, listed in names.items()},
        known,
    )


_LABELS = ",labels="


def with_labels(dataset: str, table: str) -> str:
    """The name of a data set whose labels are in a table: `folder:DIR,labels=FILE`."""
    return f"{dataset}{_LABELS}{table}"


def parts_of(argument: str) -> tuple[str, str | None]:
    """The folder, and the table of labels if there is one, of what follows `folder:`."""
    folder, separator, table = argument.rpartition(_LABELS)
    return (folder, table) if separator else (argument, None)


def _check_is_folder(root: pathlib.Path, folder: str) -> None:
    if root.is_dir():
        return
    if root.is_file() and (zipfile.is_zipfile(root) or tarfile.is_tarfile(root)):
        raise UserError(
            f"{folder} is an archive, not a folder: unpack it, and give the folder that it becomes"
        )
    require(not root.exists(), f"{folder} is a file, not a folder: give the folder that it is in")
    raise UserError(
        f"there is no folder {folder}; folder:DIR needs one with images. If they have moved, give "
        "their folder now"
    )


def _split_folders(root: pathlib.Path) -> dict[str, str]:
    """The names of the folders that are splits, by split.

    Raises:
      UserError: two of them are one split, or none is for training.
    """
    entries: dict[str, list[str]] = {}
    for name in _names_in(root):
        split = SPLIT_FOLDERS.get(name.lower())
        if split and (root / name).is_dir():
            entries.setdefault(split, []).append(name)
    for split, names in entries.items():
        require(
            len(names) == 1,
            f"the folder has both {'/ and '.join(names)}/, which are both the split {split}; "
            "remove or rename one of them",
        )
    if not entries:
        return {}
    found = [entries[split][0] for split in ("valid", "test") if split in entries]
    require(
        "train" in entries,
        f"the folder has {' and '.join(f'{name}/' for name in found)} but no train/; "
        "rename the folder with the training images to train/",
    )
    return {split: entries[split][0] for split in ("train", "valid", "test") if split in entries}


def _beside(root: pathlib.Path, splits: Mapping[str, str], folder: str) -> list[str]:
    """A note on what stands beside the splits, and is left out; a warning if it may be images."""
    names = [name for name in _names_in(root) if name not in splits.values()]
    unused = [name for name in names if not name.startswith(".")]
    if not unused:
        return []
    words = f"what is beside {splits['train']}/ is left out: {_few(unused)}"
    # A folder may be a class, or a split by another name.
    if any((root / name).is_dir() for name in unused):
        _say(f"{folder}: {words}", logging.WARNING)
        return []
    return [words]


def _no_image(folder: str, skipped: list[str]) -> str:
    endings = (".zip", ".tar", ".tgz", ".gz")
    archives = sorted(path for path in skipped if path.lower().endswith(endings))
    if archives:
        return f"the folder has no image, but archives such as {archives[0]}: unpack them"
    return (
        f"the folder has no image: put files ending in {', '.join(formats.ENDINGS)} there, in "
        "sub-folders (classes), or in train/, val/ and test/"
    )


def _warn_of_lost_classes(
    folder: str, root: pathlib.Path, listed: list[str], skipped: list[str]
) -> None:
    """Names the sub-folders in which there are files, and none is an image."""
    above = f"{root}{os.sep}"
    left = {path.removeprefix(above) for path in skipped if path.startswith(above)}
    lost = {_class_of(path.replace(os.sep, "/")) for path in left} - {""}
    lost -= {_class_of(file) for file in listed}
    if lost:
        _say(
            f"{folder}: none of the files in {_few(sorted(f'{name}/' for name in lost))} is an "
            "image: no such class is read; convert them to JPEG or PNG if they should be",
            logging.WARNING,
        )


def _warn_of_levels(folder: str, root: pathlib.Path, listed: list[str], is_split: bool) -> None:
    """Warns of a layout that looks one level too high or too low."""
    below: dict[str, set[str]] = {}
    for file in listed:
        first, *rest = file.split("/")[:-1] or [""]
        below.setdefault(first, set()).update(rest[:1])
    classes = sorted({*below} - {""})
    here = root if is_split else folder
    like = {name for sub in below.values() for name in sub if name.lower() in SPLIT_FOLDERS}
    only = classes[0] if len(below) == len(classes) == 1 else ""
    message = ""
    if only and like:
        message = (
            f"{here} is read as one class, {only}, and the folders in it are named as splits "
            f"({_few(sorted(like))}): give folder:{here}/{only} if they are"
        )
    elif only and len(below[only]) > 1:
        message = (
            f"{here} is read as one class, {only}, of several folders ({_few(sorted(below[only]))})"
            f": give folder:{here}/{only} if those are the classes"
            if not is_split
            else f"{here} has one class, {only}, of several folders ({_few(sorted(below[only]))}): "
            f"move them up into {here} if those are the classes"
        )
    elif like:
        message = (
            f"{here} has classes with folders that are named as splits ({_few(sorted(like))}), "
            "which are read together: splits are above the classes, as in train/CLASS/"
        )
    elif not is_split and (near := [name for name in classes if _NEARLY.fullmatch(name)]):
        message = (
            f"{here} has the class(es) {_few(near)}: folders that are splits are named train, val "
            "or valid, and test"
        )
    if message:
        _say(message, logging.WARNING)


def image_files(root: pathlib.Path) -> list[str]:
    """Paths of all image files below a folder, relative to it, sorted; hidden ones are left out."""
    return _image_files(root, [], [])


def files_set(name: str, listed: list[str], decoding: Decoding = AS_STORED) -> ImageSet:
    """Image files in the given order, without labels.

    Args:
      name: what messages call them.
      listed: their paths.
      decoding: how they are to be read; without a depth the files are looked at, all together.
    """
    none, seen = np.full(len(listed), -1, np.int32), threading.Event()

    def read_file(i: int) -> Encoded:
        return Encoded(pathlib.Path(listed[i]).read_bytes(), -1)

    records = Records(
        size=len(listed),
        read=patient(read_file, name, "", seen),
        describe=lambda i: listed[i],
        scan_labels=lambda: none,
        files=Files(
            [str(pathlib.Path(path).absolute()) for path in listed], np.arange(len(listed))
        ),
        seen=seen,
    )
    known = decoding.depth
    found = depth.of_files(name, listed) if known == depth.UNSEEN else known
    return ImageSet(name, records, none, 0, largest=decoding.largest, depth=found)


@functools.cache
def _say(message: str, level: int = logging.INFO) -> None:
    """Logs a message once: a run reads a folder for each of its splits."""
    _logger.log(level, "%s", message)


def _class_of(file: str) -> str:
    return file.split("/", 1)[0] if "/" in file else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _names_in(root: pathlib.Path) -> list[str]:
    """The names of the files and folders in a folder, sorted."""
    try:
        return sorted(os.listdir(root))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(
        f"the folder {error.filename} cannot be read ({error.strerror}): make it readable, or move "
        "it away"
    ) from error


def _image_files(root: pathlib.Path, skipped: list[str], guessed: list[str]) -> list[str]:
    """Paths of images relative to `root`, with `/`, sorted; skips hidden files and folders.

    Other files are appended to `skipped`, and images whose names do not tell to `guessed`.
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
            if name.startswith("."):
                continue
            path = os.path.join(parent, name)
            is_image = formats.by_name(name)
            if is_image is None and (is_image := formats.by_content(path)):
                guessed.append(path)
            if is_image:
                images.append((below / name).as_posix())
            else:
                skipped.append(path)
    return sorted(images)


def _image_sets(
    template: ImageSet,
    roots: Mapping[str, pathlib.Path],
    files: Mapping[str, list[str]],
    notes: list[str],
    ranks: Mapping[str, list[int]],
    known: depth.Depth,
) -> dict[str, ImageSet]:
    """The splits: `template` with the files of each, and their labels."""
    # All splits have one depth.
    every = [f"{roots[split]}/{file}" for split, listed in files.items() for file in listed]
    found = depth.of_files(template.name, sorted(every), known)
    template = template._replace(note="; ".join(notes), depth=found)
    return {
        split: _with_files(template, roots[split], listed, np.array(ranks[split], np.int32))
        for split, listed in files.items()
    }


def _with_files(
    template: ImageSet, root: pathlib.Path, files: list[str], ranks: np.ndarray
) -> ImageSet:
    here, seen = root.resolve(), threading.Event()

    def read_file(i: int) -> Encoded:
        return Encoded((root / files[i]).read_bytes(), int(ranks[i]))

    records = Records(
        size=len(files),
        read=patient(read_file, template.name, str(root), seen),
        describe=lambda i: str(root / files[i]),
        scan_labels=lambda: ranks,
        files=Files([str(here / file) for file in files], np.arange(len(files))),
        seen=seen,
    )
    return template._replace(images=records, labels=ranks)
