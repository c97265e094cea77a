"""The numbers of the papers' tables, and that a page makes each that can be made here."""

import os
import pathlib
import re

import pytest

import tiny_checkpoints
from byol_jax import jobs
from byol_jax.augment import compose
from byol_jax.data import table10
from byol_jax.evals.sgd import recipes
from experiments import paper, paper_tables, supervised

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))
# The file that holds the table, and the table.
BLOCKS = {
    **dict.fromkeys(("TABLE_1A", "TABLE_1B", "TABLE_2A", "TABLE_2B"), "001"),
    **dict.fromkeys(("TABLE_3_LINEAR", "TABLE_3_FINETUNED"), "001"),
    **dict.fromkeys(("TABLE_7", "TABLE_8", "TABLE_9", "TABLE_13"), "003"),
    **dict.fromkeys(("SIMCLR_6", "SIMCLR_7", "SIMCLR_8_LINEAR", "SIMCLR_8_FINETUNED"), "002"),
    **dict.fromkeys(("SIMCLR_B2", "SIMCLR_B3", "SIMCLR_B4"), "002"),
    **dict.fromkeys(("SIMCLR_B5_LINEAR", "SIMCLR_B5_FINETUNED"), "002"),
}
CELLS = [cell for cells in paper_tables.TABLES.values() for cell in cells]


def plain(line: str) -> list[str]:
    """The cells of a printed line, without bold face and other marks."""
    line = re.sub(r"\*\*|</?b>", "", line)
    line = re.sub(r"\$?(\d)\s*\\times\s*\$?", r"\1x", line)
    line = line.replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{EN DASH}", "-")
    line = line.replace("\N{CHECK MARK}", "yes")
    return [cell.strip() for cell in line.rstrip().split("\t")]


def is_data(cells: list[str]) -> bool:
    return len(cells) > 1 and any(re.fullmatch(r"\d+\.\d", cell) for cell in cells)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_table_is_that_of_the_paper(name: str) -> None:
    files = sorted((SHARED / "papers").glob(f"{BLOCKS[name]}*.txt"))
    if not files:
        pytest.skip("needs the text of the papers, optional local data: see BYOL_SHARED")
    printed = [plain(line) for line in files[0].read_text().splitlines() if line.strip()]
    ours = paper_tables.rows_of(getattr(paper_tables, name))
    first = printed.index(ours[0])
    rest = [number for number, cells in enumerate(printed) if number >= first and is_data(cells)]
    places = rest[: len(ours)]
    assert [printed[number] for number in places] == ours
    # Neither does the table begin before our first line nor go on after our last.
    assert not is_data(printed[first - 1]) and not is_data(printed[places[-1] + 1])


def cell(table: str, row: str, column: str, protocol: str) -> paper_tables.Cell:
    names = [(c.row, c.column, c.protocol) for c in paper_tables.TABLES[table]]
    return paper_tables.TABLES[table][names.index((row, column, protocol))]


@pytest.mark.parametrize(
    ("where", "values", "run"),
    [
        (
            ("1", "BYOL (ours) ResNet-50", "ImageNet", "linear"),
            {"top1": 74.3, "top5": 91.6},
            ("linear", "", ("byol", "50", 1, "imagenet")),
        ),
        (
            ("2", "BYOL (ours) ResNet-200 (2x)", "10%", "finetune"),
            {"top1": 77.7, "top5": 93.7},
            ("semi", "fraction=0.1,subset=published", ("byol", "200", 2, "imagenet")),
        ),
        (
            ("3", "SimCLR (repro)", "Pets", "linear"),
            {"mean_per_class": 84.6},
            ("transfer", "", ("simclr", "50", 1, "imagenet")),
        ),
        (("3", "Random init [8]", "VOC2007", "finetune"), {"map_11": 67.3}, None),
        (
            ("7", "BYOL (ours) ResNet-50 (4x) + logits regularization", "ImageNet", "linear"),
            {"top1": 78.9, "top5": 94.3},
            ("linear", "logits=regularized", ("byol", "50", 4, "imagenet")),
        ),
        (
            ("8", "BYOL", "100%", "finetune"),
            {"top1": 77.7, "top5": 93.9},
            ("semi", "fraction=1", ("byol", "50", 1, "imagenet")),
        ),
        (
            ("9", "Supervised (ours) ResNet-152 (3x)", "ImageNet", "supervised"),
            {"top1": 80.9, "top5": 95.2},
            None,
        ),
        (
            ("13", "SimCLR-PL", "SUN397", "linear"),
            {"top1": 62.5},
            ("transfer", "", ("simclr", "50", 1, "places365")),
        ),
        (
            ("simclr-B.2", "SimCLR (ours) ResNet-50 (2x)", "1%", "finetune"),
            {"top1": 59.4, "top5": 83.7},
            (
                "semi",
                "fraction=0.01,subset=published,protocol=simclr",
                ("simclr", "50", 2, "imagenet"),
            ),
        ),
        (
            ("simclr-8", "Supervised", "Flowers", "finetune"),
            {"mean_per_class": 98.0},
            ("finetune", "", ("supervised", "50", 4, "imagenet")),
        ),
    ],
)
def test_a_number_has_the_run_that_makes_it(where, values, run) -> None:
    found = cell(*where)
    assert {number.metric: number.value for number in found.numbers} == values
    assert found.page and not found.reason
    if run is None:  # from scratch
        assert found.network is None
        assert found.options in ("init=random", "depth=152,width=3")
    else:
        assert (found.page, found.options, tuple(found.network[:4])) == run


def test_metrics_are_those_of_table_10() -> None:
    for found in CELLS:
        measured = {number.metric for number in found.numbers}
        assert measured <= {table10.by_name(found.benchmark).metric, "top5"}, found.name


@pytest.mark.parametrize("table", paper_tables.TABLES)
def test_the_page_of_every_cell_takes_its_options(table: str) -> None:
    """The pages refuse options, and their configs keys, that they do not have."""
    for found in paper_tables.TABLES[table]:
        resolved = paper.resolved(found, named=True)
        assert bool(found.page) != bool(found.reason)
        if not found.page:
            continue
        config = resolved["config"]
        assert config["job"] in jobs.JOBS
        assert config["benchmark"] == found.benchmark
        assert not resolved["reason"]
        # What depends on a data set or checkpoint is left to the job.
        assert config["dataset"] is None and config["checkpoint"] is None
        for key, value in found.changes.items():
            *folders, name = key.split(".")
            for folder in folders:
                config = config[folder]
            assert config[name] == value
            config = resolved["config"]


def test_two_runs_never_share_a_folder() -> None:
    runs: dict[str, set] = {}
    for found in CELLS:
        if found.page:
            runs.setdefault(found.folder, set()).add(paper_tables.run_of(found)[:-1])
    assert all(len(same) == 1 for same in runs.values())
    one = cell("1", "BYOL (ours) ResNet-50", "ImageNet", "linear")
    assert one.folder == cell("13", "BYOL-IN", "ImageNet", "linear").folder == "linear-imagenet"


def test_both_values_stand_where_a_paper_contradicts_itself() -> None:
    """The list at the end of docs/deviations.md, and SimCLR's supervised baseline."""
    found = {
        (c.table, c.column, n.metric): (n.value, n.elsewhere)
        for c in CELLS
        for n in c.numbers
        if n.elsewhere and c.table in ("1", "3", "9", "simclr-B.3")
    }
    assert found == {
        ("1", "ImageNet", "top5"): (94.8, "94.9 in Table 9"),
        ("9", "ImageNet", "top5"): (94.9, "94.8 in Table 1, 94.8 in Table 7"),
        ("3", "DTD", "top1"): (75.5, "76.5 in Table 13"),
        ("3", "Cars", "top1"): (67.8, "67.2 in Table 13"),
        ("3", "SUN397", "top1"): (62.2, "62.6 in Table 13"),
        ("3", "Birdsnap", "top1"): (57.2, "57.3 in Table 13"),
        ("3", "Caltech-101", "mean_per_class"): (94.2, "94.3 in Table 13"),
        ("simclr-B.3", "color and blur", "top1"): (76.4, "76.3 in SimCLR App. B.8.1"),
    }


def names(options: str) -> list[tuple[str, str, str]]:
    cells = paper.get_config(options).cells
    return [(cell["row"], cell["protocol"], cell["column"]) for cell in cells]


def test_options_choose_cells() -> None:
    assert names("table=3,row=byol,cells=CIFAR10+dtd,protocol=linear") == [
        ("BYOL (ours)", "linear", "CIFAR10"),
        ("BYOL (ours)", "linear", "DTD"),
    ]
    # The whole name of a row is that row alone.
    assert names("table=1,row=BYOL (ours) ResNet-50") == [
        ("BYOL (ours) ResNet-50", "linear", "ImageNet")
    ]
    assert len(names("table=1,row=BYOL")) == 4
    assert names("table=10") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "table='' must be one of: 1, 2, 3, 7"),
        ("table=4", "table='4' must be one of"),
        ("table=3,cells=MNIST", "cells='mnist' is no column of these rows: Food101, CIFAR10"),
        ("table=3,row=MoCo", "table 3 has no cell of row='MoCo'.*its rows are BYOL"),
        ("table=3,protocol=knn", "protocol='knn' must be one of: linear, finetune"),
    ],
)
def test_what_does_not_exist_is_refused(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper.get_config(options)


def test_what_trains_from_scratch_must_be_named() -> None:
    def scratch(options: str) -> set[bool]:
        cells = paper.get_config(options).cells
        return {"from scratch" in c["reason"] for c in cells if c["row"] == "Random init [8]"}

    assert scratch("table=3,protocol=finetune") == {True}
    assert scratch("table=3,row=Random") == {False}


def test_places365_has_no_validation_split_to_choose_on() -> None:
    (found,) = paper.get_config("table=13,row=BYOL-PL,cells=Places365").cells
    assert found["config"]["valid_split"] == "" and found["config"]["learning_rates"] == (0.2,)
    assert "no validation split" in found["note"]


def test_supervised_baselines_of_simclr_have_its_colours() -> None:
    """SimCLR App. A at strength 1: 0.8 s three times, 0.2 s; half of the images blurred."""
    view = supervised.get_config("augment=simclr").view
    assert (view.brightness_max, view.contrast_max, view.saturation_max) == (0.8, 0.8, 0.8)
    assert (view.hue_max, view.color_jitter, view.grayscale, view.blur) == (0.2, 0.8, 0.2, 0.5)
    assert supervised.get_config("augment=color").view.blur == 0
    with pytest.raises(ValueError, match="must be randaugment, simclr, color or crop"):
        supervised.get_config("augment=colour")


def test_the_view_of_a_config_replaces_that_of_the_run() -> None:
    config = supervised.get_config("augment=color")
    config.dataset = "digits"
    ours = recipes.data_of(config, tiny_checkpoints.trained("digits")).cropping.view._asdict()
    assert ours == compose.from_config(config.view)._asdict()
    # What is left open is as in the run.
    config = supervised.get_config()
    config.dataset = "digits"
    config.view.blur = 0.25
    run = tiny_checkpoints.trained("digits", augment__view1__hue_max=0.3)
    ours = recipes.data_of(config, run).cropping.view
    assert (ours.hue_max, ours.blur) == (0.3, 0.25)
