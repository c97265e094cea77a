"""PASCAL VOC as its devkit lays it out, with the further masks of train_aug (BYOL App. E.4)."""

import functools
import io
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from byol_jax.data.dense import targets
from byol_jax.data.dense.files import Pair, few, file_set, folder_of, listed, template
from byol_jax.data.dense.sets import MASKS, DenseSet
from byol_jax.data.images import Decoding
from byol_jax.errors import UserError, require

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
AUGMENTED = "train_aug"
# Files of the list of train_aug; there is no official name.
_AUG_LISTS = ("train_aug.txt", "trainaug.txt")
_AUG_MASKS, _OWN_MASKS = "SegmentationClassAug", "SegmentationClass"
_SBD = "benchmark_RELEASE/dataset"
# Where to get it, for the message.
_SBD_AT = (
    "www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
)


def read(
    name: str, folder: str, options: Mapping[str, str], decoding: Decoding
) -> dict[str, DenseSet]:
    """The splits `train` and `test` (VOC's own `val`) of `voc:DIR`, sorted by names.

    Args:
      name: the user's name for the set.
      folder: the devkit, VOCdevkit, or the folder of a year; of several years 2012 is taken.
      options: `train`, the list of training images, by default train_aug; `sbd`, the folder
        `benchmark_RELEASE/dataset` of SBD, by default one beside the devkit.
      decoding: how images are read.

    Raises:
      UserError: no such folder, no train_aug, or files that a list names are missing.
    """
    year = _year_folder(folder_of(folder))
    lists = _lists(year)
    require(
        "val.txt" in lists, f"{year} has no ImageSets/Segmentation/val.txt: give a whole devkit"
    )
    val = listed(lists["val.txt"])
    chosen = options.get("train", AUGMENTED)
    if chosen == AUGMENTED:
        train, note = _augmented(year, lists, val, options.get("sbd"))
    else:
        require(
            f"{chosen}.txt" in lists,
            f"train={chosen}: {year} has no ImageSets/Segmentation/{chosen}.txt: give one of "
            f"{', '.join(sorted(path[:-4] for path in lists))}",
        )
        train, note = _own(year, listed(lists[f"{chosen}.txt"]), lists[f"{chosen}.txt"]), chosen
    shared = sorted({pair.name for pair in train} & {*val})
    require(
        not shared,
        f"{len(shared)} of the training images are in val, too, such as {few(shared)}: results on "
        "val would mean nothing; give another list as train=",
    )
    classes = targets.Classes(len(CLASSES), None, name)
    empty = template(name, MASKS, CLASSES, note=f"trained on {note}, tested on val")
    decode = functools.partial(_mask, classes=classes)
    parts = {"train": train, "test": _own(year, val, lists["val.txt"])}
    return {split: file_set(empty, year, pairs, decode, decoding) for split, pairs in parts.items()}


def _mask(data: bytes, where: str, classes: targets.Classes) -> np.ndarray:
    """The classes of a mask's pixels, from an image or from one of SBD's files."""
    if not where.endswith(".mat"):
        return targets.mask(data, where, classes)
    from scipy import io as scipy_io

    try:
        stored = scipy_io.loadmat(io.BytesIO(data), variable_names=["GTcls"])
        found = np.asarray(stored["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # scipy raises errors of many types for damaged files
        raise targets.Unreadable(f"no GTcls.Segmentation ({type(error).__name__})") from error
    return targets.checked(found, where, classes)


def _year_folder(root: pathlib.Path) -> pathlib.Path:
    """The folder of a year, in which JPEGImages is."""
    for base in (root, root / "VOCdevkit"):
        if (base / "JPEGImages").is_dir():
            return base
        years = sorted(path.parent for path in base.glob("VOC*/JPEGImages"))
        if years:
            return next((path for path in years if path.name == "VOC2012"), years[-1])
    raise UserError(
        f"{root} is no VOC devkit: it has no JPEGImages, and no VOC2012/JPEGImages; give "
        "VOCdevkit, or the folder of a year in it"
    )


def _lists(year: pathlib.Path) -> dict[str, pathlib.Path]:
    """Lists of images by file name, those of VOC's own folder before others."""
    own = year / "ImageSets/Segmentation"
    others = [path for path in sorted(year.glob("ImageSets/Segmentation*")) if path != own]
    found: dict[str, pathlib.Path] = {}
    for folder in (*others, own):
        found |= {path.name: path for path in folder.glob("*.txt")}
    return found


def _augmented(
    year: pathlib.Path, lists: Mapping[str, pathlib.Path], val: Sequence[str], sbd: str | None
) -> tuple[list[Pair], str]:
    """The pairs of train_aug, and where its masks are from, in words."""
    named = next((lists[name] for name in _AUG_LISTS if name in lists), None)
    if sbd is None and named and (year / _AUG_MASKS).is_dir():
        return _pairs(year, listed(named), named, [year / _AUG_MASKS]), f"{named.stem}"
    bases = (year, year.parent, year.parent.parent)
    beside = [base / _SBD for base in bases if (base / _SBD / "cls").is_dir()]
    if sbd is not None:
        root = folder_of(sbd)
        beside = [base for base in (root, root / "dataset", root / _SBD) if (base / "cls").is_dir()]
        require(beside, f"sbd={sbd} has no cls/ with .mat files: give {_SBD}")
    if not beside:
        has = f"{_AUG_MASKS}/ without {_AUG_LISTS[0]}" * (year / _AUG_MASKS).is_dir()
        has = has or f"{named} without {_AUG_MASKS}/" * bool(named) or "neither masks nor a list"
        raise UserError(
            f"{year} has no train_aug ({has}): put {_AUG_MASKS}/ and "
            f"ImageSets/Segmentation/{_AUG_LISTS[0]} there, or unpack SBD ({_SBD_AT}) so that "
            f"{_SBD} is beside it; or give ,train=train for VOC's own training images"
        )
    return _with_sbd(year, lists, val, beside[0]), f"train_aug, of VOC and SBD ({beside[0]})"


def _with_sbd(
    year: pathlib.Path, lists: Mapping[str, pathlib.Path], val: Sequence[str], sbd: pathlib.Path
) -> list[Pair]:
    """VOC's training images and those of SBD, without VOC's validation images.

    VOC's own masks come first: they have void borders, SBD's have none.
    """
    require("train.txt" in lists, f"{year} has no ImageSets/Segmentation/train.txt")
    names = {*listed(lists["train.txt"])}
    parts = [sbd / f"{part}.txt" for part in ("train", "val") if (sbd / f"{part}.txt").exists()]
    require(parts, f"{sbd} has neither train.txt nor val.txt: unpack SBD again")
    for part in parts:
        names |= {*listed(part)}
    masks = [year / _OWN_MASKS, sbd / "cls"]
    return _pairs(year, sorted(names - {*val}), parts[0], masks, [sbd / "img"])


def _own(year: pathlib.Path, names: Sequence[str], where: pathlib.Path) -> list[Pair]:
    return _pairs(year, names, where, [year / _OWN_MASKS])


def _pairs(
    year: pathlib.Path,
    names: Sequence[str],
    where: pathlib.Path,
    masks: Sequence[pathlib.Path],
    images: Sequence[pathlib.Path] = (),
) -> list[Pair]:
    """The files of names: in the first of the folders that has one.

    Raises:
      UserError: files are missing; the message names some, and says how many there are.
    """
    image_of = _stems([year / "JPEGImages", *images])
    mask_of = _stems(masks)
    for what, found, folders in (
        ("image", image_of, [year / "JPEGImages", *images]),
        ("mask", mask_of, masks),
    ):
        bare = [name for name in names if name not in found]
        require(
            not bare,
            f"{len(bare)} of {len(names)} images of {where} have no {what} in "
            f"{' or '.join(map(str, folders))}: {few(bare)}; unpack the set again",
        )
    return [Pair(name, image_of[name], mask_of[name]) for name in names]


def _stems(folders: Sequence[pathlib.Path]) -> dict[str, str]:
    """Paths of images and SBD's files by their names without endings; earlier folders count."""
    found: dict[str, str] = {}
    for folder in reversed(folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if re.fullmatch(r"\.(jpe?g|png|mat)", path.suffix, re.IGNORECASE):
                found[path.stem] = str(path)
    return found
