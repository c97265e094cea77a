"""Images with a target per pixel, by position; the parts that a training holds out."""

import concurrent.futures
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.data import images, stored
from byol_jax.data.splits import CUT_FRACTION, CUT_SEED

# The class of pixels that belong to none: they count in no loss and in no metric.
VOID = 255
# BYOL App. E.4: "a 2119 images held-out validation set", of the images of train_aug2012.
TRAIN_AUG, HELD_OUT = 10_582, 2119

# What an image has a target of.
MASKS, DEPTH = "masks", "depth"


class Sample(NamedTuple):
    """An image and its target, as they are stored.

    Attributes:
      image: uint8 `[H, W, 3]`.
      target: of masks the class of each pixel, uint8 `[H, W]`, `VOID` where there is none; of
        depth metres, float32 `[H, W]`, 0 where there is none.
    """

    image: np.ndarray
    target: np.ndarray


class DenseSet(NamedTuple):
    """One split of a set with a target per pixel; an example's id is its position.

    Attributes:
      name: the user's name for the data set.
      kind: `masks` or `depth`.
      size: number of examples.
      read: function from a position to a `Sample`, callable from any thread. It raises OSError if
        a file cannot be read, UserError if a target does not fit its image or its set, and
        GuardError if the disk is lost.
      describe: function from a position to the example's name in messages.
      name_of: function from a position to the example's own name, as in `2007_000032`.
      shape_of: function from a position to height and width of the image.
      classes: names of the K classes; empty for depth.
      key: the key of the config whose value is the name; empty if there is none.
      note: what its source says of itself, in words.
    """

    name: str
    kind: str
    size: int
    read: Callable[[int], Sample]
    describe: Callable[[int], str]
    name_of: Callable[[int], str]
    shape_of: Callable[[int], tuple[int, int]]
    classes: tuple[str, ...] = ()
    key: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """What errors call the set."""
        return f"{self.key}={self.name}" if self.key else self.name

    @property
    def names(self) -> list[str]:
        """The examples' own names in the order of their ids, for results."""
        return [self.name_of(i) for i in range(self.size)]


def fingerprint(dense_set: DenseSet) -> dict[str, int]:
    """What tells two sets apart, without reading them, as `images.fingerprint`.

    `count`, the number of examples, and `names_crc32`, a checksum of their names in their order.
    """
    return {"count": dense_set.size, "names_crc32": images.crc_of(dense_set.names)}


def select(dense_set: DenseSet, positions: np.ndarray) -> DenseSet:
    """The examples at `positions`, in that order."""
    places = [int(position) for position in positions]
    return dense_set._replace(
        size=len(places),
        read=lambda i: dense_set.read(places[i]),
        describe=lambda i: dense_set.describe(places[i]),
        name_of=lambda i: dense_set.name_of(places[i]),
        shape_of=lambda i: dense_set.shape_of(places[i]),
    )


def held_out_count(size: int) -> int:
    """How many of `size` training examples are held out: 2119 of train_aug, else a fifth."""
    return HELD_OUT if size == TRAIN_AUG else round(CUT_FRACTION * size)


def cut(size: int, count: int, purpose: str, seed: int = CUT_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Draws `count` of `size` examples: sorted positions of those that stay, and of those drawn.

    Args:
      size: number of examples.
      count: number of examples to draw.
      purpose: what they are drawn for, part of the key.
      seed: seed of the draw; by default everybody gets the same examples.
    """
    order = keys.permutation(size, f"dense_{purpose}", seed)
    return np.sort(order[count:]), np.sort(order[:count])


def check_readable(dense_set: DenseSet) -> None:
    """Reads all examples of a set, or a sample of 2,000, before a run.

    Raises:
      UserError: too many examples cannot be read (`stored.check_sample`), or a target is not one of
        its image and its set.
    """

    def reason(i: int) -> str:
        try:
            dense_set.read(i)
        except OSError as error:
            return str(error) or type(error).__name__
        return ""

    stored.check_sample(dense_set.title, dense_set.size, reason, dense_set.describe)


def largest_shape(dense_set: DenseSet) -> tuple[int, int]:
    """The largest height and the largest width of the images of a set, from their headers.

    Images whose header cannot be read are left out: whoever reads them says so.
    """

    def shape(i: int) -> tuple[int, int]:
        try:
            return dense_set.shape_of(i)
        except OSError:
            return 1, 1

    with concurrent.futures.ThreadPoolExecutor(stored.READERS) as pool:
        shapes = np.array(list(pool.map(shape, range(dense_set.size))))
    height, width = shapes.max(axis=0).tolist()
    return height, width
