"""NYU Depth v2 (BYOL App. E.6): the labelled file of its authors, h5 folders, and TFDS's copy."""

import errno
import pathlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from byol_jax.data import tfds_sets
from byol_jax.data.dense import targets
from byol_jax.data.dense.files import folder_of, pixels, shape, template
from byol_jax.data.dense.sets import DEPTH, DenseSet, Sample
from byol_jax.data.images import AS_STORED, Decoding
from byol_jax.data.patient import patient
from byol_jax.errors import UserError, require
from byol_jax.runtime import paths

LABELLED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
# The lists in splits.mat: 795 and 654 numbers, counted from 1.
_LISTS = {"train": "trainNdxs", "test": "testNdxs"}
# Folders of h5 files that are splits.
_FOLDERS = {"train": ("train",), "test": ("val", "test")}
_ENDING = ".h5"


def read(name: str, argument: str) -> dict[str, DenseSet]:
    """The splits `train` and `test` of `nyu:PATH`.

    Args:
      name: the user's name for the set.
      argument: `nyu_depth_v2_labeled.mat`, or a folder with it, or a folder with `train/` and
        `val/` of h5 files. Where there are h5 files for training and none for a test, the test
        images are those of the labelled file.

    Raises:
      UserError: nothing of these is there, files are not as they should be, or there is no h5py.
    """
    path = paths.outside(argument)
    if path.is_file():
        return _labelled(name, path)
    root = folder_of(argument)
    found = _h5_folders(root)
    labelled = root / LABELLED
    if "train" in found and ("test" in found or not labelled.exists()):
        return {split: _h5_set(name, root, files) for split, files in found.items()}
    if not labelled.exists():
        raise UserError(
            f"{argument} has neither {LABELLED} with {SPLITS}, nor train/ with h5 files: give the "
            "folder of one of them"
        )
    whole = _labelled(name, labelled)
    return whole | {split: _h5_set(name, root, files) for split, files in found.items()}


def import_h5py() -> Any:
    """The library for HDF5 files.

    Raises:
      UserError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            "NYU Depth v2 is in HDF5 files, which need h5py: pip install 'byol_jax[nyu]'"
        ) from error
    return h5py


class _Opened(NamedTuple):
    """The arrays of a labelled file: `[N, 3, W, H]` uint8 and `[N, W, H]` float32."""

    images: Any
    depths: Any


def _labelled(name: str, path: pathlib.Path) -> dict[str, DenseSet]:
    """The two splits of the labelled file, whose depth is filled in."""
    beside = path.with_name(SPLITS)
    require(beside.exists(), f"there is no {SPLITS} beside {path}: it names the 654 test images")
    opened = _open_labelled(path)
    count = len(opened.images)
    numbers = _numbers(beside, count)

    def read(position: int) -> Sample:
        try:
            image, depth = opened.images[position], opened.depths[position]
        except (OSError, RuntimeError) as error:
            raise OSError(errno.EIO, f"it cannot be read ({error})") from error
        metres = targets.metres(depth.T, f"image {position + 1} of {path}")
        return Sample(np.ascontiguousarray(image.transpose(2, 1, 0)), metres)

    fetch = patient(read, name, str(path.parent))
    height, width = opened.depths.shape[:0:-1]
    empty = template(name, DEPTH)

    def split(positions: np.ndarray) -> DenseSet:
        return empty._replace(
            size=len(positions),
            read=lambda i: fetch(int(positions[i])),
            describe=lambda i: f"image {positions[i] + 1} of {path}",
            name_of=lambda i: f"{positions[i] + 1:04d}",
            shape_of=lambda i: (height, width),
        )

    return {part: split(positions) for part, positions in numbers.items()}


def _open_labelled(path: pathlib.Path) -> _Opened:
    h5py = import_h5py()
    try:
        file = h5py.File(path, "r")
        opened = _Opened(file["images"], file["depths"])
    except (OSError, KeyError) as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"{path} is no labelled file of NYU Depth v2 ({words}): get {LABELLED} again"
        ) from error
    n, *sides = opened.depths.shape
    require(
        opened.images.shape == (n, 3, *sides) and len(sides) == 2,
        f"{path} has images {opened.images.shape} and depths {opened.depths.shape}, not "
        f"[N, 3, W, H] and [N, W, H]: get {LABELLED} again",
    )
    return opened


def _numbers(path: pathlib.Path, count: int) -> dict[str, np.ndarray]:
    """Positions of the images of each split, from 0, sorted."""
    from scipy import io

    try:
        stored = io.loadmat(str(path))
        found = {s: np.sort(stored[key].ravel().astype(int)) - 1 for s, key in _LISTS.items()}
    except Exception as error:  # scipy raises errors of many types for damaged files
        raise UserError(
            f"{path} has no trainNdxs and testNdxs ({type(error).__name__}): get it again"
        ) from error
    every = np.concatenate(list(found.values()))
    require(
        len(np.unique(every)) == len(every) and every.min() >= 0 and every.max() < count,
        f"{path} does not fit: its numbers are {every.min() + 1} to {every.max() + 1}, "
        f"{len(np.unique(every))} of {len(every)} differ, and there are {count} images",
    )
    return found


def _h5_folders(root: pathlib.Path) -> dict[str, list[str]]:
    """Files of h5 folders by split, relative to the root, sorted."""
    found = {}
    for split, names in _FOLDERS.items():
        for name in names:
            files = sorted(
                path.relative_to(root).as_posix() for path in (root / name).rglob(f"*{_ENDING}")
            )
            if files and split not in found:
                found[split] = files
    return found


def _h5_set(name: str, root: pathlib.Path, files: list[str]) -> DenseSet:
    """Files with `rgb`, uint8 `[3, H, W]`, and `depth`, float `[H, W]` in metres."""
    h5py = import_h5py()

    def arrays(i: int) -> tuple[np.ndarray, np.ndarray]:
        path = root / files[i]
        path.stat()  # h5py's errors do not tell a file that is gone from a damaged one
        try:
            with h5py.File(path, "r") as file:
                return file["rgb"][()], file["depth"][()]
        except (KeyError, OSError, RuntimeError) as error:
            raise targets.Unreadable(" ".join(str(error).split())) from error

    seen = threading.Event()
    fetch = patient(arrays, name, str(root), seen)

    def read(i: int) -> Sample:
        rgb, depth = fetch(i)
        where = str(root / files[i])
        require(
            rgb.ndim == 3 and len(rgb) == 3 and rgb.dtype == np.uint8,
            f"{where} has rgb {rgb.dtype} {list(rgb.shape)}, not uint8 [3, height, width]",
        )
        image = np.ascontiguousarray(rgb.transpose(1, 2, 0))
        metres = targets.metres(depth, where)
        targets.check_same_size(image, metres, (f"{where} (rgb)", f"{where} (depth)"))
        return Sample(image, metres)

    def shape_of(i: int) -> tuple[int, int]:
        height, width = arrays(i)[1].shape
        return height, width

    return template(name, DEPTH)._replace(
        size=len(files),
        read=read,
        describe=lambda i: str(root / files[i]),
        name_of=lambda i: files[i].removesuffix(_ENDING),
        shape_of=shape_of,
    )


def read_tfds(
    name: str, data_dir: str | None, decoding: Decoding = AS_STORED
) -> dict[str, DenseSet]:
    """The splits `train` and `test` (there `validation`) of `tfds:nyu_depth_v2`.

    Args:
      name: `tfds:NAME` of a set whose records have `image` and `depth`, in metres.
      data_dir: folder of prepared sets.
      decoding: how images are read.

    Raises:
      UserError: the set is unknown, not prepared, or has no depth.
    """
    builder = tfds_sets.open_builder(name.partition(":")[2], data_dir)
    has = [*builder.info.features]
    require(
        {"image", "depth"} <= {*has},
        f"its records have {', '.join(has)}, no image and depth: of TFDS only sets such as "
        "nyu_depth_v2 have a target per pixel",
    )
    splits = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    require("train" in splits, "it has no split 'train': give another data set")
    parts = {split: _tfds_set(name, builder, split, decoding) for split in splits}
    if "validation" in parts:
        validation = parts.pop("validation")
        parts["valid" if "test" in parts else "test"] = validation
    return parts


def _tfds_set(name: str, builder: Any, split: str, decoding: Decoding) -> DenseSet:
    count, fetch = tfds_sets.parsed(name, builder, split, _parser(builder))

    def describe(i: int) -> str:
        return f"{name}, {split}, record {i}"

    def read(i: int) -> Sample:
        data, depth = fetch(i)
        image, metres = pixels(data, decoding), targets.metres(depth, describe(i))
        targets.check_same_size(image, metres, (describe(i), "its depth"))
        return Sample(image, metres)

    return template(name, DEPTH)._replace(
        size=count,
        read=read,
        describe=describe,
        name_of=lambda i: f"{split}/{i}",
        shape_of=lambda i: shape(fetch(i)[0], decoding),
    )


def _parser(builder: Any) -> Callable[[bytes], tuple[bytes, np.ndarray]]:
    """A function from the bytes of a record to those of its image, and its depth in metres."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    skipped = {"image": tfds.decode.SkipDecoding()}

    def parse(data: bytes) -> tuple[bytes, np.ndarray]:
        try:
            example = features.deserialize_example_np(data, decoders=skipped)
            return bytes(example["image"]), np.asarray(example["depth"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise targets.Unreadable(f"a damaged record ({error!r})") from error

    return parse
