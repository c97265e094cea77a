"""Sets with a target per pixel by name (`voc:DIR`, `masks:DIR`, `nyu:PATH`, ...), and splits."""

import re
from collections.abc import Mapping

from byol_jax.data.dense import nyu, pairs, voc
from byol_jax.data.dense.sets import (
    DEPTH,
    MASKS,
    DenseSet,
    Sample,
    cut,
    held_out_count,
    select,
)
from byol_jax.data.images import AS_STORED, Decoding
from byol_jax.data.splits import CUT_FRACTION, CUT_SEED
from byol_jax.errors import require, titled

SPLITS = ("train", "valid", "test")
FORMS = {
    MASKS: ("voc:DIR", "masks:DIR"),
    DEPTH: ("nyu:PATH", "tfds:nyu_depth_v2", "depth:DIR"),
}
# What may stand behind a path, `,key=value`.
_OPTIONS = {"voc": ("train", "sbd"), "masks": ("void",), "depth": ("per_metre",), "nyu": ()}
_KIND = {"voc": MASKS, "masks": MASKS, "nyu": DEPTH, "tfds": DEPTH, "depth": DEPTH}


def load(
    dataset: str,
    split: str,
    kind: str,
    *,
    data_dir: str | None = None,
    held_out: int | None = None,
    seed: int = CUT_SEED,
    key: str = "config.dataset",
    decoding: Decoding = AS_STORED,
) -> DenseSet:
    """One split of a set, or `train+valid`: all that may be trained on.

    Where a source has no test split of its own, its validation split is that; without one, too, a
    seeded fifth of its training images. Where it has no (further) validation split, `valid` is a
    seeded part of the training images, and `train` the rest.

    Args:
      dataset: `voc:DIR`, `masks:DIR`, `nyu:PATH`, `tfds:nyu_depth_v2` or `depth:DIR`, with options
        behind the path as in `masks:DIR,void=11`.
      split: `train`, `valid`, `test` or `train+valid`.
      kind: `masks` or `depth`, what the job needs.
      data_dir: folder of prepared TFDS sets (`tfds:` only).
      held_out: number of images that become `valid`; by default 2119 of train_aug (BYOL App. E.4),
        else a fifth.
      seed: seed of what is cut out of the training images.
      key: the key of the config that names the set; empty if none does.
      decoding: how images are read.

    Raises:
      UserError: an unknown set, split or option, a set of the other kind, unusable files, or a
        split without images.
    """
    wanted = split.split("+")
    with titled(f"{key}={dataset}" if key else dataset):
        require(
            {*wanted} <= {*SPLITS} and ("test" not in wanted or wanted == ["test"]),
            f"it has no split {split!r}: give train, valid, test or train+valid",
        )
        splits = _with_cuts(_own_splits(dataset, kind, data_dir, decoding), held_out, seed)
        found = splits["train+valid" if len(wanted) > 1 else split]
        require(found.size, f"it has no {split} images: add some")
    return found._replace(key=key)


def _own_splits(
    dataset: str, kind: str, data_dir: str | None, decoding: Decoding
) -> dict[str, DenseSet]:
    """The splits that a source has itself."""
    prefix, colon, argument = dataset.partition(":")
    forms = ", ".join(FORMS[kind])
    require(
        colon and prefix in _KIND,
        f"it has no target per pixel: give one of {forms} (docs/dense.md)",
    )
    require(
        _KIND[prefix] == kind,
        f"it has {_KIND[prefix]}, and this job needs {kind}: give one of {forms}",
    )
    require(
        data_dir is None or prefix == "tfds",
        f"config.data_dir={data_dir} is for tfds:NAME only: leave it out",
    )
    if prefix == "tfds":
        return nyu.read_tfds(dataset, data_dir, decoding)
    path, options = parts_of(prefix, argument)
    if prefix == "voc":
        return voc.read(dataset, path, options, decoding)
    if prefix == "masks":
        return pairs.read_masks(dataset, path, options, decoding)
    if prefix == "nyu":
        return nyu.read(dataset, path)
    return pairs.read_depth(dataset, path, options, decoding)


def parts_of(prefix: str, argument: str) -> tuple[str, dict[str, str]]:
    """The path, and the options behind it, of what follows `voc:` and others.

    Raises:
      UserError: no path, an empty value or an option given twice.
    """
    words = "|".join(_OPTIONS[prefix])
    options: dict[str, str] = {}
    while words and (found := re.fullmatch(rf"(.*),({words})=([^,]*)", argument, re.DOTALL)):
        argument, key, value = found.groups()
        require(value, f"{key}= has no value: give one, or leave it out")
        require(key not in options, f"{key}= is given twice: leave one out")
        options[key] = value
    require(argument.strip(), f"this names no folder: give {prefix}:DIR")
    return argument, options


def takes(dataset: str, option: str) -> bool:
    """Whether `,option=value` may stand behind a name of a set, which does not have it yet."""
    prefix, _, argument = dataset.partition(":")
    return option in _OPTIONS.get(prefix, ()) and f",{option}=" not in argument


def _with_cuts(own: Mapping[str, DenseSet], held_out: int | None, seed: int) -> dict[str, DenseSet]:
    """`train`, `valid`, `test` and `train+valid`; what the source lacks is cut out of `train`."""
    require("train" in own, "it has no training images: add train/")
    splits = dict(own)
    if "test" not in splits and "valid" in splits:
        splits["test"] = splits.pop("valid")
    if "test" not in splits:
        size = splits["train"].size
        rest, drawn = cut(size, round(CUT_FRACTION * size), "test", seed)
        splits |= {"train": select(own["train"], rest), "test": select(own["train"], drawn)}
    whole = splits["train"]
    if "valid" in splits:
        require(held_out is None, "it has a validation split of its own: leave held_out open")
        return splits | {"train+valid": joined(whole, splits["valid"])}
    count = held_out_count(whole.size) if held_out is None else held_out
    require(
        held_out is None or 0 < held_out < whole.size,
        f"of {whole.size} training images {held_out} would be held out: give between 1 and "
        f"{whole.size - 1}",
    )
    rest, drawn = cut(whole.size, count, "valid", seed)
    return splits | {
        "train": select(whole, rest),
        "valid": select(whole, drawn),
        "train+valid": whole,
    }


def joined(first: DenseSet, second: DenseSet) -> DenseSet:
    """The examples of two sets, one after the other."""

    def part(i: int) -> tuple[DenseSet, int]:
        return (first, i) if i < first.size else (second, i - first.size)

    def read(i: int) -> Sample:
        which, position = part(i)
        return which.read(position)

    def describe(i: int) -> str:
        which, position = part(i)
        return which.describe(position)

    def name_of(i: int) -> str:
        which, position = part(i)
        return which.name_of(position)

    def shape_of(i: int) -> tuple[int, int]:
        which, position = part(i)
        return which.shape_of(position)

    return first._replace(
        size=first.size + second.size,
        read=read,
        describe=describe,
        name_of=name_of,
        shape_of=shape_of,
    )
