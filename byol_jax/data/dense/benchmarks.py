"""The sets with a target per pixel that the papers' tables are about, and their sizes."""

from typing import NamedTuple

from byol_jax.data.dense.sets import DEPTH, MASKS, TRAIN_AUG, held_out_count


class DenseBenchmark(NamedTuple):
    """A set of BYOL Tables 4, 11 and 12; BYOL Table 10 has the sets with labels.

    Attributes:
      key: name of the set for users.
      name: name in the paper.
      aliases: other names for users, in small letters and figures.
      kind: `masks` or `depth`.
      form: how a folder with it is named, `FORM:DIR`.
      registered: its name if TFDS has it, else None.
      advice: where it is to be had, in a sentence; empty if TFDS has it.
      train: numbers of training images, with those that are held out, of the copies that there are.
      test: number of test images.
    """

    key: str
    name: str
    aliases: tuple[str, ...]
    kind: str
    form: str
    registered: str | None
    advice: str
    train: tuple[int, ...]
    test: int


BENCHMARKS = (
    DenseBenchmark(
        *("voc2012", "PASCAL-VOC2012", ("voc", "pascalvoc2012"), MASKS, "voc"),
        registered=None,
        advice="PASCAL-VOC2012 with masks is not in TFDS: unpack VOCtrainval_11-May-2012.tar of "
        "host.robots.ox.ac.uk/pascal/VOC/voc2012, with the masks of train_aug beside it "
        "(docs/dense.md).",
        train=(TRAIN_AUG,),
        test=1_449,
    ),
    # BYOL's paper does not say which frames it trains on. There are the 795 of the labelled file,
    # and the 47,584 of the recordings that FastDepth took, which TFDS has, too.
    DenseBenchmark(
        *("nyu", "NYU Depth v2", ("nyuv2", "nyudepthv2"), DEPTH, "nyu"),
        registered="tfds:nyu_depth_v2",
        advice="",
        train=(795, 47_584),
        test=654,
    ),
)


def find(key: str) -> DenseBenchmark | None:
    """The set with the key `key`, if there is one."""
    return next((benchmark for benchmark in BENCHMARKS if benchmark.key == key), None)


def sizes(benchmark: DenseBenchmark, split: str) -> tuple[int, ...]:
    """The numbers of images that a split may have, as `sources.load` cuts it: one for each copy.

    Args:
      benchmark: the set.
      split: `train`, `valid`, `test` or `train+valid`.
    """
    if split == "test":
        return (benchmark.test,)
    held_out = [held_out_count(count) for count in benchmark.train]
    return {
        "train+valid": benchmark.train,
        "valid": tuple(held_out),
        "train": tuple(n - out for n, out in zip(benchmark.train, held_out, strict=True)),
    }[split]


def is_one(benchmark: DenseBenchmark, dataset: str) -> bool:
    """Whether a name is that of this set, as its authors or TFDS give it, and not of other files.

    Args:
      benchmark: the set.
      dataset: as for `sources.load`.
    """
    kind, _, name = dataset.partition(":")
    if kind == "tfds":
        return f"{kind}:{name.partition(':')[0]}" == benchmark.registered
    return kind == benchmark.form
