"""The data sets of BYOL Table 10: their sizes, metrics and validation splits (App. E.1)."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from byol_jax.errors import UserError, require


class Rule(NamedTuple):
    """How the validation split is made.

    Attributes:
      kind: `given`: by the set's creators. `last`: the last `amount` training images. `per_class`:
        `amount` training images of each class. `share`: the fraction `amount` of each class.
        `as_test`: as many training images of each class as the test split has. `none`: there is no
        validation split.
      amount: number or fraction, see `kind`.
    """

    kind: Literal["given", "last", "per_class", "share", "as_test", "none"]
    amount: float = 0


class Benchmark(NamedTuple):
    """A row of BYOL Table 10.

    Attributes:
      key: name of the row for users.
      name: name in the table.
      classes: number of classes in the table.
      original, train, valid, test: numbers of images in the table, None for a dash.
      metric: `top1`, `mean_per_class`, `map_11` (see `results.scores`) or `mean_iou`; for VOC2007
        the table also names AP50, the metric of detection.
      tfds: NAME in `tfds:NAME`, None if TFDS has no such set.
      rule: how the validation split is made if the available set has none.
      note: differences between the table and the available set or the rule.
      stored_classes: number of classes of the available set, if it rightly differs from the table.
    """

    key: str
    name: str
    classes: int
    original: int
    train: int | None
    valid: int | None
    test: int
    metric: Literal["top1", "mean_per_class", "map_11", "mean_iou"]
    tfds: str | None
    rule: Rule
    note: str = ""
    stored_classes: int | None = None


_FOLDER = (
    "Not in TFDS. Use folder:DIR with one folder per class, of the same names, in each of {splits}."
)

# TFDS names, splits and numbers of classes are those of the builders of TFDS 4.9.10. That package
# does not list numbers of images; `sources.table_10` counts those of prepared sets.
TABLE_10 = (
    Benchmark(
        *("imagenet", "ImageNet", 1000, 1_281_167, 1_271_158, 10_009, 50_000, "top1"),
        tfds="imagenet2012",
        rule=Rule("last", 10_009),
        note="The paper took the last images of its own copy. TFDS shuffles a set when it prepares "
        "it, and the order may depend on version and file format. 10,009 is 8 / 1,024 of all "
        "images, so perhaps the paper took the last files.",
    ),
    Benchmark(
        *("food101", "Food101", 101, 75_750, 68_175, 7_575, 25_250, "top1"),
        tfds="food101",
        rule=Rule("share", 0.1),
        note="The rule is derived: 7,575 is 75 of 750 images per class.",
    ),
    Benchmark(
        *("cifar10", "CIFAR-10", 10, 50_000, 45_000, 5_000, 10_000, "top1"),
        tfds="cifar10",
        rule=Rule("share", 0.1),
        note="The rule is derived: 5,000 is 500 of 5,000 images per class.",
    ),
    Benchmark(
        *("cifar100", "CIFAR-100", 100, 50_000, 44_933, 5_067, 10_000, "top1"),
        tfds="cifar100",
        rule=Rule("share", 0.1),
        note="The paper gives no rule, and 5,067 is not a multiple of 100 classes. A tenth of each "
        "class is taken, as for CIFAR-10: 5,000, which leaves 45,000.",
    ),
    Benchmark(
        *("birdsnap", "Birdsnap", 500, 47_386, 42_405, 4_981, 2_443, "top1"),
        tfds=None,
        rule=Rule("as_test"),
        note=_FOLDER.format(splits="train/ and test/") + " App. E.1 takes as many images of each "
        "class as the test split has, which makes 2,443 and leaves 44,943. The table has 4,981.",
    ),
    Benchmark(
        *("sun397", "Sun397 (split 1)", 397, 19_850, 15_880, 3_970, 19_850, "top1"),
        tfds="sun397/standard-part1-120k",
        rule=Rule("per_class", 10),
        note="TFDS shrinks images to 120,000 pixels. It skips two images that it cannot decode, "
        "which may be in this partition.",
    ),
    Benchmark(
        *("cars", "Cars", 196, 8_144, 6_494, 1_650, 8_041, "top1"),
        tfds="cars196",
        rule=Rule("share", 0.2),
        note="The paper gives no rule, and 1,650 of 8,144 is 20.3 %. A fifth of each class is "
        "taken, about 1,629.",
    ),
    Benchmark(
        *("aircraft", "Aircraft", 100, 3_334, 3_334, 3_333, 3_333, "mean_per_class"),
        tfds=None,
        rule=Rule("given"),
        note=_FOLDER.format(splits="train/, valid/ and test/") + " The table's 3,334 original "
        "training images do not include the creators' validation images, as VOC2007's 5,011 do: "
        "train+valid has 6,667.",
    ),
    Benchmark(
        *("voc2007", "PASCAL-VOC2007", 20, 5_011, 2_501, 2_510, 4_952, "map_11"),
        tfds="voc/2007",
        rule=Rule("given"),
        note="The original 5,011 are the creators' train and validation images together. Images "
        "have several classes, and difficult objects are ignored: tfds:voc/2007 marks them, "
        "folder:DIR cannot.",
    ),
    Benchmark(
        *("voc2012", "PASCAL-VOC2012", 21, 10_582, None, 2_119, 1_449, "mean_iou"),
        tfds="voc/2012",
        rule=Rule("share", 2_119 / 10_582),
        note="Segmentation with 21 classes, the background included, on the 10,582 images of "
        "train_aug, 2,119 of them held out (App. E.4). tfds:voc/2012 has neither those images nor "
        "masks: its 20 classes are those of boxes, its splits those of classification.",
        stored_classes=20,
    ),
    Benchmark(
        *("dtd", "DTD (split 1)", 47, 1_880, 1_880, 1_880, 1_880, "top1"),
        tfds="dtd",
        rule=Rule("given"),
        note="The original training images do not include the creators' validation images.",
    ),
    Benchmark(
        *("pets", "Pets", 37, 3_680, 2_940, 740, 3_669, "mean_per_class"),
        tfds="oxford_iiit_pet",
        rule=Rule("per_class", 20),
    ),
    Benchmark(
        *("caltech101", "Caltech-101", 101, 3_060, 2_550, 510, 6_084, "mean_per_class"),
        tfds="caltech101",
        rule=Rule("per_class", 5),
        note="All counts are those of 102 classes, the background included; in TFDS each has 30 "
        "training images. The table says 101. The paper's five random splits are not published, so "
        "the images differ.",
        stored_classes=102,
    ),
    Benchmark(
        *("places365", "Places365", 365, 1_803_460, 1_803_460, None, 36_500, "top1"),
        tfds="places365_small",
        rule=Rule("none"),
        note="Images of 256x256 pixels; the paper does not say which size it used.",
    ),
    Benchmark(
        *("flowers", "Flowers", 102, 1_020, 1_020, 1_020, 6_149, "mean_per_class"),
        tfds="oxford_flowers102",
        rule=Rule("given"),
        note="The original training images do not include the creators' validation images.",
    ),
)


def by_name(key: str) -> Benchmark:
    """The row with the key `key`.

    Raises:
      UserError: there is no such row.
    """
    rows = {row.key: row for row in TABLE_10}
    if key in rows:
        return rows[key]
    near = difflib.get_close_matches(key.lower(), rows, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"unknown benchmark {key!r}; {hint}give one of {', '.join(rows)}")


def of_dataset(dataset: str) -> Benchmark | None:
    """The row whose TFDS name is that of `tfds:NAME[:VERSION]`, if any."""
    kind, _, name = dataset.partition(":")
    return next(
        (row for row in TABLE_10 if kind == "tfds" and row.tfds == name.partition(":")[0]), None
    )


def table_size(benchmark: Benchmark, split: str) -> int | None:
    """The table's number of images of a split, or of several joined; None if it has a dash."""
    sizes = {"train": benchmark.train, "valid": benchmark.valid, "test": benchmark.test}
    if benchmark.rule.kind == "none":
        sizes["valid"] = 0
    total = 0
    for name in set(split.split("+")):
        size = sizes.get(name)
        if size is None:
            return None
        total += size
    return total


def find(dataset: str, key: str | None) -> Benchmark | None:
    """The row `key` if given, else the row that the data set's name belongs to, if any.

    Raises:
      UserError: there is no row `key`.
    """
    if not key:
        return of_dataset(dataset)
    try:
        return by_name(key)
    except UserError as error:
        raise UserError(f"config.benchmark={key}: {error}") from error


def check_classes(benchmark: Benchmark, num_classes: int) -> None:
    """Refuses a set whose number of classes is not the row's.

    Raises:
      UserError: it is neither the table's number nor `stored_classes`.
    """
    expected = f"{benchmark.classes}"
    if benchmark.stored_classes:
        expected += f" or {benchmark.stored_classes}"
    require(
        num_classes in (benchmark.classes, benchmark.stored_classes),
        f"it has {num_classes} classes, but config.benchmark={benchmark.key} has {expected} "
        "(BYOL Table 10): give the benchmark of these images, or leave it out",
    )


class Counts(NamedTuple):
    """Numbers of an available set; `original`: training images before any cut."""

    classes: int
    original: int
    train: int
    valid: int
    test: int


def table_rows(available: Mapping[str, Counts | str]) -> list[str]:
    """Table 10's numbers beside those of available sets, as lines of text.

    Args:
      available: by key, the numbers of a set, or a text that says why there is none.

    Returns:
      A header, and for each row its numbers, then the numbers of the set and the `note` if they
      differ, or the text.
    """
    lines = [f"{'':<22}" + _cells(("classes", "original", "train", "valid", "test"))]
    for row in TABLE_10:
        table = (row.classes, row.original, row.train, row.valid, row.test)
        lines.append(f"{row.key:<12}{'Table 10':<10}" + _cells(table))
        counts = available.get(row.key, "not looked at")
        if isinstance(counts, str):
            lines.append(f"{'':<12}{counts}")
            continue
        lines.append(f"{'':<12}{'in hand':<10}" + _cells(counts))
        if counts != tuple(number or 0 for number in table):
            lines.append(f"{'':<12}differs: {row.note or 'no reason is known'}")
    return lines


def _cells(values: Sequence[int | str | None]) -> str:
    texts = [f"{value:,}" if isinstance(value, int) else value or "-" for value in values]
    return "".join(text.rjust(11) for text in texts)
