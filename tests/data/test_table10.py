"""Table 10 row by row."""

import os
import pathlib

import pytest

from byol_jax.data import sources, table10
from byol_jax.errors import UserError

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))
# The table's lines, tab-separated in the text of the paper, by our keys.
PAPER = {
    "ImageNet [21]": "imagenet",
    "Food101 [89]": "food101",
    "CIFAR-10 [78]": "cifar10",
    "CIFAR-100 [78]": "cifar100",
    "Birdsnap [90]": "birdsnap",
    "Sun397 (split 1) [79]": "sun397",
    "Cars [91]": "cars",
    "Aircraft [92]": "aircraft",
    "PASCAL-VOC2007 [80]": "voc2007",
    "PASCAL-VOC2012 [80]": "voc2012",
    "DTD (split 1) [81]": "dtd",
    "Pets [93]": "pets",
    "Caltech-101 [94]": "caltech101",
    "Places365 [73]": "places365",
    "Flowers [95]": "flowers",
}
METRICS = {
    "Top-1 accuracy": "top1",
    "Mean per-class accuracy": "mean_per_class",
    "11-point mAP / AP50": "map_11",
    "Mean IoU": "mean_iou",
}


def row(key: str) -> table10.Benchmark:
    return table10.by_name(key)


def test_the_table_is_that_of_the_paper() -> None:
    papers = sorted((SHARED / "papers").glob("003*.txt"))
    if not papers:
        pytest.skip("needs the text of BYOL's appendices, optional local data: see BYOL_SHARED")
    lines = [line.split("\t") for line in papers[0].read_text().splitlines()]
    table = [cells for cells in lines if cells[0] in PAPER and len(cells) == 8]
    assert [PAPER[cells[0]] for cells in table] == [r.key for r in table10.TABLE_10]
    for cells, benchmark in zip(table, table10.TABLE_10, strict=True):
        name, classes, original, train, valid, test, metric, provided = cells
        numbers = [None if n == "-" else int(n) for n in (classes, original, train, valid, test)]
        assert numbers == [
            benchmark.classes,
            benchmark.original,
            benchmark.train,
            benchmark.valid,
            benchmark.test,
        ], name
        assert benchmark.name == name.rpartition(" [")[0]
        assert benchmark.metric == METRICS[metric]
        # "Test provided" says that the creators gave a validation split too; VOC2007's did as well.
        assert (benchmark.rule.kind == "given") == (provided == "Yes" or benchmark.key == "voc2007")


def test_train_and_validation_add_up_to_the_original() -> None:
    """Where the creators give no validation split, train and validation are the original."""
    for benchmark in table10.TABLE_10:
        if benchmark.rule.kind != "given" and benchmark.train is not None:
            assert benchmark.train + (benchmark.valid or 0) == benchmark.original, benchmark.key


def test_keys_are_plain_and_differ() -> None:
    keys = [benchmark.key for benchmark in table10.TABLE_10]
    assert len(set(keys)) == len(keys) == 15
    assert set(keys) == {*PAPER.values()}


def test_the_rules_are_those_of_the_paper() -> None:
    """App. E.1's own numbers; and those that Table 10 leaves no doubt about."""
    amounts = {benchmark.key: benchmark.rule for benchmark in table10.TABLE_10}
    assert amounts["sun397"] == ("per_class", 10)
    assert amounts["pets"] == ("per_class", 20)
    assert amounts["caltech101"] == ("per_class", 5)
    assert amounts["imagenet"] == ("last", 10_009)
    assert amounts["food101"] == amounts["cifar10"] == ("share", 0.1)
    assert amounts["birdsnap"].kind == "as_test"
    assert amounts["places365"].kind == "none"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar", ["'cifar'", "'cifar10'?", "imagenet, "]),
        ("Pets", ["'pets'?"]),
        ("caltech_101", ["'caltech101'?"]),
        ("", ["''", "imagenet, food101"]),
        ("xyzzy", ["'xyzzy'", "imagenet, food101"]),
    ],
)
def test_unknown_benchmarks(name: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        table10.by_name(name)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_tfds_names() -> None:
    keys = {
        "tfds:imagenet2012": "imagenet",
        "tfds:imagenet2012:5.1.0": "imagenet",
        "tfds:sun397/standard-part1-120k:4.0.0": "sun397",
        "tfds:voc/2007": "voc2007",
    }
    for dataset, key in keys.items():
        assert table10.of_dataset(dataset) == row(key)
    datasets = [
        "tfds:sun397",
        "tfds:imagenet2012_subset",
        "npz:cifar10",
        "cifar10",
        "folder:cars196",
    ]
    datasets += ["tfds:", "tfds:None", "digits"]
    assert [table10.of_dataset(dataset) for dataset in datasets] == [None] * len(datasets)


def test_classes_of_a_set() -> None:
    table10.check_classes(row("pets"), 37)
    for classes in (101, 102):  # TFDS has the background too
        table10.check_classes(row("caltech101"), classes)
    with pytest.raises(UserError) as error:
        table10.check_classes(row("caltech101"), 100)
    message = str(error.value)
    assert all(part in message for part in ("100", "caltech101", "101 or 102"))
    with pytest.raises(UserError, match=r"38 .*pets .*37"):
        table10.check_classes(row("pets"), 38)


def test_the_names_are_those_of_tfds(tmp_path) -> None:
    """Builders of sets that nobody has prepared; classes as in `stored_classes`."""
    sources.tfds_sets.import_tensorflow()
    import tensorflow_datasets as tfds

    for benchmark in table10.TABLE_10:
        if benchmark.tfds is None:
            assert "folder:DIR" in benchmark.note
            continue
        builder = tfds.builder(benchmark.tfds, data_dir=str(tmp_path))
        assert builder.info.full_name.startswith(f"{benchmark.tfds}/")
        features = builder.info.features
        label = features["label"] if "label" in features else features["labels"].feature
        assert label.num_classes == (benchmark.stored_classes or benchmark.classes), benchmark.key


def test_the_table_as_text() -> None:
    available: dict[str, table10.Counts | str] = {
        "cars": table10.Counts(196, 8_144, 6_515, 1_629, 8_041),
        "pets": table10.Counts(37, 3_680, 2_940, 740, 3_669),
        "places365": table10.Counts(365, 1_803_460, 1_803_460, 0, 36_500),
        "dtd": "tfds:dtd is not prepared",
        "food101": table10.Counts(101, 10, 5, 5, 10),
        "sun397": table10.Counts(397, 19_850, 15_880, 3_970, 19_849),
    }
    rows = table10.table_rows(available)
    assert rows[0].split() == ["classes", "original", "train", "valid", "test"]

    def below(key: str) -> list[str]:
        start = next(i for i, line in enumerate(rows) if line.startswith(key))
        end = next((i for i in range(start + 1, len(rows)) if rows[i][0] != " "), len(rows))
        return [" ".join(line.split()) for line in rows[start:end]]

    assert below("cars") == [
        "cars Table 10 196 8,144 6,494 1,650 8,041",
        "in hand 196 8,144 6,515 1,629 8,041",
        f"differs: {row('cars').note}",
    ]
    assert below("pets")[1:] == ["in hand 37 3,680 2,940 740 3,669"]
    assert below("places365") == [
        "places365 Table 10 365 1,803,460 1,803,460 - 36,500",
        "in hand 365 1,803,460 1,803,460 0 36,500",
    ]
    assert below("dtd")[1:] == ["tfds:dtd is not prepared"]
    assert below("flowers")[1:] == ["not looked at"]
    assert below("sun397")[2].startswith("differs: TFDS shrinks")
