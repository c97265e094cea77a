"""The data sets of BYOL Table 10: their sizes, metrics and validation splits (App. E.1)."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from byol_jax.errors import UserError, require


class Rule(NamedTuple):
    """Which images are the validation split.

    Attributes:
      kind: `given` by the set's creators; the `last` training images, `amount` of them;
        `per_class`, `amount` training images of each class; a `share` of each class, `amount` of
        it; `as_test`, of each class as many training images as the test split has; `none`: there
        is no validation split.
      amount: see `kind`.
    """

    kind: Literal["given", "last", "per_class", "share", "as_test", "none"]
    amount: float = 0


class Benchmark(NamedTuple):
    """A row of BYOL Table 10.

    Attributes:
      key: the name of the row for users.
      name: as in the table.
      classes: as in the table.
      original, train, valid, test: the table's numbers of images, None where it has a dash.
      metric: `top1`, `mean_per_class`, `map_11` (see `evals.scores`) or `mean_iou`; the table's
        third column for VOC2007 also names AP50, of detection.
      tfds: the name for `tfds:NAME`, None if TFDS has no such set.
      rule: how the validation split is made where the set in hand has none.
      note: what the table says and the set in hand or the rule does not.
      stored_classes: of the set in hand, where it rightly has more or fewer than the table.
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
    "Not in TFDS. As folder:DIR, with a folder for each class in each of {splits}, "
    "the same names in all of them."
)

# TFDS names, splits and numbers of classes are those of the builders of TFDS 4.9.10. That package
# has no numbers of images: `sources.table_10` takes those of prepared sets.
TABLE_10 = (
    Benchmark(
        *("imagenet", "ImageNet", 1000, 1_281_167, 1_271_158, 10_009, 50_000, "top1"),
        tfds="imagenet2012",
        rule=Rule("last", 10_009),
        note="The paper's last images are those of its own copy: TFDS shuffles when it prepares "
        "one, and its versions and file formats may differ in their order. 10,009 are 8 / 1,024 of "
        "all, so perhaps its last files.",
    ),
    Benchmark(
        *("food101", "Food101", 101, 75_750, 68_175, 7_575, 25_250, "top1"),
        tfds="food101",
        rule=Rule("share", 0.1),
        note="The rule is derived: 7,575 are 75 of the 750 images of each class.",
    ),
    Benchmark(
        *("cifar10", "CIFAR-10", 10, 50_000, 45_000, 5_000, 10_000, "top1"),
        tfds="cifar10",
        rule=Rule("share", 0.1),
        note="The rule is derived: 5,000 are 500 of the 5,000 images of each class.",
    ),
    Benchmark(
        *("cifar100", "CIFAR-100", 100, 50_000, 44_933, 5_067, 10_000, "top1"),
        tfds="cifar100",
        rule=Rule("share", 0.1),
        note="5,067 of 50,000 is no share of classes of 500 images, and no rule is given: a tenth "
        "of each class as for CIFAR-10, 5,000, leaves 45,000.",
    ),
    Benchmark(
        *("birdsnap", "Birdsnap", 500, 47_386, 42_405, 4_981, 2_443, "top1"),
        tfds=None,
        rule=Rule("as_test"),
        note=_FOLDER.format(splits="train/ and test/") + " App. E.1 takes as many images of each "
        "class as the test split has, which makes 2,443 and leaves 44,943; the table has 4,981.",
    ),
    Benchmark(
        *("sun397", "Sun397 (split 1)", 397, 19_850, 15_880, 3_970, 19_850, "top1"),
        tfds="sun397/standard-part1-120k",
        rule=Rule("per_class", 10),
        note="TFDS shrinks images to 120,000 pixels and skips two that it cannot decode, should "
        "they be in this partition.",
    ),
    Benchmark(
        *("cars", "Cars", 196, 8_144, 6_494, 1_650, 8_041, "top1"),
        tfds="cars196",
        rule=Rule("share", 0.2),
        note="1,650 of 8,144 is 20.3 %, and no rule is given: a fifth of each class, about 1,629.",
    ),
    Benchmark(
        *("aircraft", "Aircraft", 100, 3_334, 3_334, 3_333, 3_333, "mean_per_class"),
        tfds=None,
        rule=Rule("given"),
        note=_FOLDER.format(splits="train/, valid/ and test/") + " The table's 3,334 original "
        "training images leave out the creators' validation images, which VOC2007's 5,011 count: "
        "retraining on train+valid takes 6,667.",
    ),
    Benchmark(
        *("voc2007", "PASCAL-VOC2007", 20, 5_011, 2_501, 2_510, 4_952, "map_11"),
        tfds="voc/2007",
        rule=Rule("given"),
        note="The original 5,011 are the creators' train and validation images together. Several "
        "classes an image, difficult ones ignored: tfds:voc/2007 says which, folder:DIR cannot.",
    ),
    Benchmark(
        *("voc2012", "PASCAL-VOC2012", 21, 10_582, None, 2_119, 1_449, "mean_iou"),
        tfds="voc/2012",
        rule=Rule("share", 2_119 / 10_582),
        note="Segmentation, 21 classes with the background, on the 10,582 images of train_aug, of "
        "which 2,119 are held out (App. E.4). tfds:voc/2012 has neither those images nor masks: "
        "its 20 classes are of boxes, its train and validation those of classification.",
        stored_classes=20,
    ),
    Benchmark(
        *("dtd", "DTD (split 1)", 47, 1_880, 1_880, 1_880, 1_880, "top1"),
        tfds="dtd",
        rule=Rule("given"),
        note="The original training images leave out the creators' validation images.",
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
        note="All counts are those of 102 classes, the background among them, of which TFDS draws "
        "30 training images each; the table says 101. The paper's five random splits are not "
        "published with it, so the images differ.",
        stored_classes=102,
    ),
    Benchmark(
        *("places365", "Places365", 365, 1_803_460, 1_803_460, None, 36_500, "top1"),
        tfds="places365_small",
        rule=Rule("none"),
        note="Images of 256x256 pixels; the paper does not say which size it took.",
    ),
    Benchmark(
        *("flowers", "Flowers", 102, 1_020, 1_020, 1_020, 6_149, "mean_per_class"),
        tfds="oxford_flowers102",
        rule=Rule("given"),
        note="The original training images leave out the creators' validation images.",
    ),
)


def by_name(key: str) -> Benchmark:
    """The row that a user names.

    Raises:
      UserError: there is none.
    """
    known = {row.key: row for row in TABLE_10}
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key.lower(), known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"unknown benchmark {key!r}; {hint}known are {', '.join(known)}")


def of_dataset(dataset: str) -> Benchmark | None:
    """The row whose TFDS name stands in `tfds:NAME[:VERSION]`."""
    kind, _, name = dataset.partition(":")
    return next(
        (row for row in TABLE_10 if kind == "tfds" and row.tfds == name.partition(":")[0]), None
    )


def table_size(benchmark: Benchmark, split: str) -> int | None:
    """The table's number of images of a split, or of several joined; None where it has a dash."""
    has = {"train": benchmark.train, "valid": benchmark.valid, "test": benchmark.test}
    if benchmark.rule.kind == "none":
        has["valid"] = 0
    counts = [has.get(name) for name in set(split.split("+"))]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def find(dataset: str, key: str | None) -> Benchmark | None:
    """The row that a user names as `key`, or else that of the data set's name, if it is one.

    Raises:
      UserError: there is no row of that name.
    """
    return by_name(key) if key else of_dataset(dataset)


def check_classes(benchmark: Benchmark, dataset: str, num_classes: int) -> None:
    """Refuses a set whose labels cannot be those of the row.

    Raises:
      UserError: neither the table's number of classes nor that of the stored set.
    """
    right = f"{benchmark.classes}"
    if benchmark.stored_classes:
        right += f" or {benchmark.stored_classes}"
    require(
        num_classes in (benchmark.classes, benchmark.stored_classes),
        f"{dataset} has {num_classes} classes and benchmark {benchmark.key} {right} "
        "(BYOL Table 10): name the benchmark that the images are of, or none",
    )


class Counts(NamedTuple):
    """Classes and images of a set in hand; `original` are its training images before any cut."""

    classes: int
    original: int
    train: int
    valid: int
    test: int


def table_rows(found: Mapping[str, Counts | str]) -> list[str]:
    """Table 10's numbers beside those in hand, as lines of text.

    Args:
      found: by key, what a set in hand has, or in words why there is none.

    Returns:
      A header; for each row of the table its numbers, the same of the set in hand and the `note`
      where the two differ; or instead the words.
    """
    lines = [f"{'':<22}" + _cells(("classes", "original", "train", "valid", "test"))]
    for row in TABLE_10:
        table = (row.classes, row.original, row.train, row.valid, row.test)
        lines.append(f"{row.key:<12}{'Table 10':<10}" + _cells(table))
        ours = found.get(row.key, "not looked at")
        if isinstance(ours, str):
            lines.append(f"{'':<12}{ours}")
            continue
        lines.append(f"{'':<12}{'in hand':<10}" + _cells(ours))
        if ours != tuple(number or 0 for number in table):
            lines.append(f"{'':<12}differs: {row.note or 'no reason is known'}")
    return lines


def _cells(values: Sequence[int | str | None]) -> str:
    texts = [f"{value:,}" if isinstance(value, int) else value or "-" for value in values]
    return "".join(text.rjust(11) for text in texts)
