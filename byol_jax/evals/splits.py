"""Splits of a data set as evaluation crops, in order."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.data import images, pipeline, sources, stored
from byol_jax.errors import require

# Number of batches that give an untrained network its BatchNorm averages.
CALIBRATION_BATCHES = 10
# Largest size in bytes of a split's crops that are kept in memory; others are made anew each time.
_KEPT_BYTES = 2**30

# `images` uint8 `[b, S, S, 3]`, `labels` int32 `[b]` (`[b, K]` for several classes per image),
# `ids` int32 `[b]`.
Batches = Iterator[dict[str, np.ndarray]]


class Split(NamedTuple):
    """A split as evaluation crops.

    Attributes:
      name: name of the split, as in `train+valid`.
      size: number of images, unreadable ones included.
      num_classes: number of classes of the data set; 0 without labels.
      multi_label: whether an image has several classes.
      batches: starts a pass over all crops, in order.
      shuffled: starts a pass over `CALIBRATION_BATCHES` batches in random order.
    """

    name: str
    size: int
    num_classes: int
    multi_label: bool
    batches: Callable[[], Batches]
    shuffled: Callable[[], Batches]


def load_split(
    dataset: str,
    name: str,
    *,
    image_size: int,
    eval_crop: str,
    data_dir: str | None = None,
    benchmark: str | None = None,
    decoding: images.Decoding = images.AS_STORED,
    batch_size: int = 256,
) -> Split:
    """A split of `dataset` as evaluation crops; `benchmark` as in `sources.load`.

    Raises:
      UserError: if it, or more of its images than `stored.tolerated`, cannot be read.
    """
    image_set = sources.load(dataset, name, data_dir, benchmark, decoding=decoding)
    stored.check_readable(image_set)
    crop = functools.partial(
        pipeline.evaluation_batches,
        image_size=image_size,
        mode=eval_crop,
        batch_size=batch_size,
        exif=decoding.exif,
    )
    order = keys.permutation(image_set.size, "calibrate", 0)
    some = images.select(image_set, order[: CALIBRATION_BATCHES * batch_size])

    def batches() -> Batches:
        sources.announce(image_set)
        return crop(image_set)

    is_small = image_set.size * image_size**2 * 3 <= _KEPT_BYTES
    return Split(
        name=name,
        size=image_set.size,
        num_classes=image_set.num_classes,
        multi_label=image_set.multi_label,
        batches=_kept(batches) if is_small else batches,
        shuffled=functools.partial(crop, some),
    )


def _kept(batches: Callable[[], Batches]) -> Callable[[], Batches]:
    @functools.cache
    def everything() -> list[dict[str, np.ndarray]]:
        return list(batches())

    return lambda: iter(everything())


def check_splits(config: Mapping[str, Any], prefix: str = "config") -> None:
    """Refuses a config in which two splits share images.

    Args:
      config: the section with `fit_split` and `score_split`, and `valid_split` if the job has one,
        which may be empty.
      prefix: name of the section in messages.

    Raises:
      UserError: names both keys, their values and the images that they share.
    """
    names = ("fit_split", "valid_split", "score_split")
    check_disjoint({f"{prefix}.{name}": config[name] for name in names if config.get(name)})


def check_disjoint(splits: Mapping[str, str]) -> None:
    """Refuses splits that share images.

    Args:
      splits: splits by the keys that name them, as in `train+valid`.

    Raises:
      UserError: names the first two that do.
    """
    for (key, split), (other_key, other) in itertools.combinations(splits.items(), 2):
        shared = {*split.split("+")} & {*other.split("+")}
        require(
            not shared,
            f"{key}={split} and {other_key}={other} share {', '.join(sorted(shared))}: "
            "no image may be both fitted and scored",
        )
