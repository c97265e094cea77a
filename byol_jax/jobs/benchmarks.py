"""The data sets of the papers' tables, in one form: with labels (BYOL Table 10), or per pixel."""

import re
from collections.abc import Callable
from typing import NamedTuple

from byol_jax.checks import nearest
from byol_jax.data import sources, table10
from byol_jax.data.dense import benchmarks as dense
from byol_jax.data.dense import sources as dense_sources
from byol_jax.errors import require
from byol_jax.jobs import overrides


class Benchmark(NamedTuple):
    """A data set that cells of the tables read.

    Attributes:
      key: its name in cells, and for users.
      name: its name in the paper.
      registered: its name if TFDS has it, else None.
      advice: what to do if TFDS has it not, in sentences.
      form: how a folder with it is named, `FORM:DIR`.
      source: what prints the numbers of `sizes`, in words.
      sizes: function from a split to the numbers of images that it may have in the paper; none
        where the paper is silent.
      is_one: function from a name to whether it can be this set.
      number: function from a name, a split and the folder of TFDS to the number of images in hand.
        It raises UserError if they cannot be read.
    """

    key: str
    name: str
    registered: str | None
    advice: str
    form: str
    source: str
    sizes: Callable[[str], tuple[int, ...]]
    is_one: Callable[[str], bool]
    number: Callable[[str, str, str | None], int]


def of(key: str) -> Benchmark:
    """The data set with the key of a cell.

    Raises:
      UserError: there is none.
    """
    # Table 10 has VOC2012, too, which no cell reads for its labels.
    per_pixel = dense.find(key)
    return _per_pixel(per_pixel) if per_pixel else _labelled(table10.by_name(key))


def _labelled(row: table10.Benchmark) -> Benchmark:
    """A row of BYOL Table 10."""

    def sizes(split: str) -> tuple[int, ...]:
        size = table10.table_size(row, split)
        return () if size is None else (size,)

    def is_one(dataset: str) -> bool:
        # What the files of an npz: or folder: are cannot be seen.
        kind = dataset.partition(":")[0]
        return kind in ("folder", "npz") or table10.of_dataset(dataset) == row

    def number(dataset: str, split: str, data_dir: str | None) -> int:
        return sources.load(dataset, split, data_dir, row.key, key="").size

    return Benchmark(
        *(row.key, row.name, row.tfds and f"tfds:{row.tfds}", row.note, "folder", "Table 10"),
        *(sizes, is_one, number),
    )


def _per_pixel(row: dense.DenseBenchmark) -> Benchmark:
    """A set with masks or depth."""

    def sizes(split: str) -> tuple[int, ...]:
        return dense.sizes(row, split)

    def is_one(dataset: str) -> bool:
        return dense.is_one(row, dataset)

    def number(dataset: str, split: str, data_dir: str | None) -> int:
        return dense_sources.load(dataset, split, row.kind, data_dir=data_dir, key="").size

    return Benchmark(
        *(row.key, row.name, row.registered, row.advice, row.form, row.name),
        *(sizes, is_one, number),
    )


def _by_name(name: str) -> Benchmark:
    """The data set that a user means: its key, or as it is printed, in any letters.

    Raises:
      UserError: there is none of that name.
    """
    keys = {row.key: row.key for row in (*table10.TABLE_10, *dense.BENCHMARKS)}
    aliases = {alias: row.key for row in dense.BENCHMARKS for alias in row.aliases}
    word = re.sub(r"[^a-z0-9]", "", name.lower())
    key = {**keys, **aliases}.get(word)
    require(key, f"unknown data set {name!r}{nearest(word, keys)}; give one of {', '.join(keys)}")
    return of(str(key))


def given(folders: str, datasets: str) -> dict[str, str]:
    """The data sets that the user names in place of TFDS, by their keys.

    Args:
      folders: `NAME=DIR,...`.
      datasets: `NAME=DATASET,...`, as in `CIFAR10=npz:FILE` or `VOC2012=voc:DIR,sbd=DIR`.

    Raises:
      UserError: a name that no table has.
    """
    found = {}
    for name, folder in overrides.parse_pairs("folders", folders).items():
        benchmark = _by_name(name)
        found[benchmark.key] = f"{benchmark.form}:{folder}"
    for name, dataset in overrides.parse_pairs("datasets", datasets).items():
        found[_by_name(name).key] = dataset
    return found
