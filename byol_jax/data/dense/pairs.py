"""One's own images and targets: in folders side by side, or as files side by side."""

import concurrent.futures
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from byol_jax.data import folder
from byol_jax.data.dense import targets
from byol_jax.data.dense.files import (
    Pair,
    by_name,
    few,
    file_set,
    folder_of,
    listed,
    matched,
    say,
    template,
)
from byol_jax.data.dense.sets import DEPTH, MASKS, VOID, DenseSet
from byol_jax.data.images import Decoding
from byol_jax.errors import UserError, require

# What a folder of targets is called: beside `train/` it is `train` with one of these behind it,
# beside `images/` it is one of these.
_BEHIND = {MASKS: ("annot", "_masks"), DEPTH: ("depth", "_depth")}
_BESIDE = {MASKS: ("masks", "annotations", "labels"), DEPTH: ("depth", "depths")}
_IMAGES = ("images", "rgb")
_WORD = {MASKS: "mask", DEPTH: "depth image"}
# Files side by side: NAME.color.jpg and NAME.depth.png, listed in train.txt, val.txt and test.txt.
_COLOUR, _DEPTH = ".color.", ".depth."
# The classes of masks, a name per line.
_CLASSES = "classes.txt"
_MILLIMETRES = 1000.0
_NPY = ".npy"


def read_masks(
    name: str, argument: str, options: Mapping[str, str], decoding: Decoding
) -> dict[str, DenseSet]:
    """The splits of `masks:DIR`, named train, valid and test, sorted by names.

    Args:
      name: the user's name for the set.
      argument: the folder.
      options: `void`, the index of pixels that belong to no class, besides 255.
      decoding: how images are read.

    Raises:
      UserError: no such folder, no layout that is known, or images without masks.
    """
    root = folder_of(argument)
    void = _number(options, "void")
    require(
        void is None or (void == int(void) and 0 <= void <= VOID),
        f"void={options.get('void')} must be an index from 0 to {VOID}",
    )
    splits = _splits(name, root, MASKS)
    classes = _class_names(root, splits, None if void is None else int(void), name)
    meaning = targets.Classes(len(classes), None if void is None else int(void), name)
    decode = functools.partial(targets.mask, classes=meaning)
    return _sets(template(name, MASKS, classes), root, splits, decode, decoding)


def read_depth(
    name: str, argument: str, options: Mapping[str, str], decoding: Decoding
) -> dict[str, DenseSet]:
    """The splits of `depth:DIR`, named train, valid and test, sorted by names.

    Args:
      name: the user's name for the set.
      argument: the folder.
      options: `per_metre`, values of an image of 16 bits to a metre, by default 1000.
      decoding: how images are read.

    Raises:
      UserError: no such folder, no layout that is known, or images without depth.
    """
    root = folder_of(argument)
    per_metre = _number(options, "per_metre") or _MILLIMETRES
    require(per_metre > 0, f"per_metre={per_metre:g} must be above 0: 1000 is millimetres")
    decode = functools.partial(targets.depth, per_metre=per_metre)
    return _sets(template(name, DEPTH), root, _splits(name, root, DEPTH), decode, decoding)


def _sets(
    empty: DenseSet,
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Pair]],
    decode: Callable[[bytes, str], np.ndarray],
    decoding: Decoding,
) -> dict[str, DenseSet]:
    return {
        split: file_set(empty, root, pairs, decode, decoding) for split, pairs in splits.items()
    }


def _number(options: Mapping[str, str], key: str) -> float | None:
    if key not in options:
        return None
    try:
        return float(options[key])
    except ValueError:
        raise UserError(f"{key}={options[key]} is no number: give one, or leave it out") from None


def _splits(name: str, root: pathlib.Path, kind: str) -> dict[str, list[Pair]]:
    """The pairs of each split, in the first layout that the folder has."""
    beside = next((root / word for word in _BESIDE[kind] if (root / word).is_dir()), None)
    images = next((root / word for word in _IMAGES if (root / word).is_dir()), None)
    if beside and images:
        of_images, of_targets = _split_folders(images), _split_folders(beside)
        both = sorted(of_images.keys() & of_targets.keys())
        if not both:
            return {"train": _paired(name, images, beside, kind)}
        lost = sorted(of_images.keys() ^ of_targets.keys())
        require(not lost, f"only one of {images} and {beside} has the split {few(lost)}: add it")
        return {split: _paired(name, of_images[split], of_targets[split], kind) for split in both}
    found = {
        split: (path, behind)
        for split, path in _split_folders(root).items()
        for word in _BEHIND[kind]
        if (behind := path.with_name(f"{path.name}{word}")).is_dir()
    }
    if found:
        bare = sorted(_split_folders(root).keys() - found.keys())
        require(not bare, f"{root} has no {_WORD[kind]}s of its split {few(bare)}: add them")
        return {split: _paired(name, *folders, kind) for split, folders in found.items()}
    if kind == DEPTH and any(_COLOUR in path.name for path in root.iterdir()):
        return _side_by_side(name, root)
    raise UserError(_no_layout(root, kind))


def _no_layout(root: pathlib.Path, kind: str) -> str:
    behind, beside = _BEHIND[kind][0], _BESIDE[kind][0]
    files = " or NAME.color.jpg beside NAME.depth.png," if kind == DEPTH else ""
    return (
        f"{root} has no images beside {_WORD[kind]}s: it needs train/ beside train{behind}/ (and "
        f"val/ beside val{behind}/), or images/ beside {beside}/,{files} with files of the same "
        "names (docs/dense.md)"
    )


def _split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of a folder that are splits, by split.

    Raises:
      UserError: two of them are one split.
    """
    found: dict[str, pathlib.Path] = {}
    for path in sorted(root.iterdir()):
        split = folder.SPLIT_FOLDERS.get(path.name.lower())
        if split and path.is_dir():
            require(
                split not in found,
                f"{root} has both {found.get(split, path).name}/ and {path.name}/, which are both "
                f"the split {split}; remove or rename one of them",
            )
            found[split] = path
    return found


def _paired(name: str, images: pathlib.Path, beside: pathlib.Path, kind: str) -> list[Pair]:
    """The pairs of two folders, whose files have the same names without endings."""
    image_files = folder.image_files(images)
    require(image_files, f"{images} has no image: put JPEG or PNG files there")
    target_files = folder.image_files(beside)
    if kind == DEPTH:
        arrays = sorted(path.relative_to(beside).as_posix() for path in beside.rglob(f"*{_NPY}"))
        target_files = [*target_files, *arrays]
    return matched(
        by_name(images, image_files),
        by_name(beside, target_files),
        (_WORD[kind], str(beside)),
        name,
    )


def _side_by_side(name: str, root: pathlib.Path) -> dict[str, list[Pair]]:
    """The pairs NAME.color.* and NAME.depth.*, in the splits that lists name, or all in train."""
    files = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    images, depths = (
        {file.partition(word)[0]: str(root / file) for file in files if word in file}
        for word in (_COLOUR, _DEPTH)
    )
    lists = {
        folder.SPLIT_FOLDERS[file[:-4].lower()]: root / file
        for file in files
        if file.endswith(".txt") and file[:-4].lower() in folder.SPLIT_FOLDERS
    }
    words = (_WORD[DEPTH], f"{root} (NAME{_DEPTH}png)")
    if not lists:
        return {"train": matched(images, depths, words, name)}
    require("train" in lists, f"{root} has no train.txt: list the names of the training images")
    splits = {}
    for split, path in lists.items():
        names = listed(path)
        lost = [item for item in names if item not in images]
        require(
            not lost,
            f"{len(lost)} of {len(names)} names of {path} have no image NAME{_COLOUR}jpg in "
            f"{root}: {few(lost)}",
        )
        chosen = {item: images[item] for item in names}
        splits[split] = matched(
            chosen, {item: depths[item] for item in names if item in depths}, words, name
        )
    return splits


def _class_names(
    root: pathlib.Path, splits: Mapping[str, Sequence[Pair]], void: int | None, name: str
) -> tuple[str, ...]:
    """The names in classes.txt; without it the numbers up to the largest index of all masks."""
    path = root / _CLASSES
    if path.exists():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): it has a class per line") from error
        names = tuple(line.strip() for line in lines if line.strip())
        require(1 < len(names) <= VOID, f"{path} names {len(names)} classes: give 2 to {VOID}")
        return names
    masks = sorted(pair.target for pairs in splits.values() for pair in pairs)
    largest = _largest_index(tuple((path, _stamp(path)) for path in masks), void)
    require(largest > 0, f"the masks of {root} have no class but 0: a set needs two or more")
    say(
        f"{name}: {largest + 1} classes, up to the largest index of {len(masks)} masks; name them "
        f"in {path}, one per line",
        logging.INFO,
    )
    return tuple(map(str, range(largest + 1)))


def _stamp(path: str) -> int:
    """When a file was changed; -1 if it cannot be asked."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


@functools.lru_cache(maxsize=8)
def _largest_index(masks: tuple[tuple[str, int], ...], void: int | None) -> int:
    """The largest index of masks that is not void; masks that cannot be read are left out."""

    def largest(path: str) -> int:
        try:
            found = targets.indices(pathlib.Path(path).read_bytes(), path)
        except OSError:  # whoever reads the mask says so
            return -1
        kept = found[(found != VOID) & (found != (VOID if void is None else void))]
        top = int(kept.max()) if kept.size else -1
        require(
            top < VOID,
            f"{path} has the index {top}: indices are 0 to {VOID - 1}, and {VOID} is void",
        )
        return top

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return max(pool.map(largest, (path for path, _ in masks)), default=-1)
