"""The numbers of the papers' tables, and that a page makes each that can be made here."""

import ml_collections
import pytest

import tiny_checkpoints
from byol_jax import jobs
from byol_jax.augment import compose
from byol_jax.data import table10
from byol_jax.data.dense import benchmarks
from byol_jax.data.dense.sets import DEPTH, MASKS
from byol_jax.evals.sgd import recipes
from experiments import paper, paper_tables, supervised
from experiments.papers.cells import Cell, run_of

# The metrics of Tables 4a and 4b.
PER_PIXEL = {MASKS: {"mIoU"}, DEPTH: {"pct1.25", "pct1.25^2", "pct1.25^3", "rms", "rel"}}
CELLS = [cell for cells in paper_tables.TABLES.values() for cell in cells]


def cell(table: str, row: str, column: str, protocol: str) -> Cell:
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
        (
            ("4a", "BYOL (ours)", "mIoU", "segmentation"),
            {"mIoU": 76.3},
            ("segmentation", "", ("byol", "50", 1, "imagenet")),
        ),
        (
            ("11", "MoCo [9]", "mIoU", "segmentation"),
            {"mIoU": 72.5},
            ("segmentation", "preset=moco", ("moco", "50", 1, "imagenet")),
        ),
        (
            ("4a", "Supervised-IN [9]", "mIoU", "segmentation"),
            {"mIoU": 74.4},
            ("segmentation", "preset=moco", ("supervised", "50", 1, "imagenet")),
        ),
        (
            ("12", "SimCLR (repro)", "NYU v2", "depth"),
            {"pct1.25": 83.3, "pct1.25^2": 96.5, "pct1.25^3": 99.1, "rms": 0.557, "rel": 0.134},
            ("depth", "", ("simclr", "50", 1, "imagenet")),
        ),
        (
            ("4b", "Supervised-IN [83]", "NYU v2", "depth"),
            {"pct1.25": 81.1, "pct1.25^2": 95.3, "pct1.25^3": 98.8, "rms": 0.573, "rel": 0.127},
            ("depth", "", ("supervised", "50", 1, "imagenet")),
        ),
    ],
)
def test_a_number_has_the_run_that_makes_it(where, values, run) -> None:
    printed = cell(*where)
    assert {number.metric: number.value for number in printed.numbers} == values
    assert printed.page and not printed.reason
    if run is None:  # from scratch
        assert printed.network is None
        assert printed.options in ("init=random", "depth=152,width=3")
    else:
        assert (printed.page, printed.options, tuple(printed.network[:4])) == run


def test_metrics_are_those_of_table_10() -> None:
    for printed in CELLS:
        if not printed.page:
            continue
        measured = {number.metric for number in printed.numbers}
        per_pixel = benchmarks.find(printed.benchmark)
        if per_pixel:
            assert measured == PER_PIXEL[per_pixel.kind], printed.name
            assert printed.page == {MASKS: "segmentation", DEPTH: "depth"}[per_pixel.kind]
        else:
            assert measured <= {table10.by_name(printed.benchmark).metric, "top5"}, printed.name


@pytest.mark.parametrize("table", ["4a", "4b", "11", "12"])
def test_networks_of_others_and_detection_have_a_reason(table: str) -> None:
    """Table 11's rows with a ResNet-101, and all boxes."""
    ours = {"BYOL (ours)", "SimCLR (repro)", "MoCo [9]", "Supervised-IN [9]", "Supervised-IN [83]"}
    for printed in paper_tables.TABLES[table]:
        is_ours, is_boxes = printed.row in ours, printed.protocol == "detection"
        assert bool(printed.page) == (is_ours and not is_boxes), printed.name
        if not printed.page:
            assert ("no page evaluates detection" in printed.reason) == is_ours


def test_numbers_of_another_paper_say_so() -> None:
    for table, words in (("4a", "of MoCo's paper, by its protocol"), ("4b", "of FCRN's paper")):
        for printed in paper_tables.TABLES[table]:
            assert (words in printed.note) == (bool(printed.page) and "[" in printed.row)
            assert ("docs/deviations.md" in printed.note) == bool(printed.page)


def test_the_networks_of_moco_and_of_labels_are_those_of_their_papers() -> None:
    """MoCo's first version, and a network that the paper does not describe."""
    config = paper.get_config("table=4a")
    by_name = {training["name"]: training["config"] for training in config.trainings}
    needs = {c["row"]: c["network"] for c in config.cells if c["network"]}
    moco = needs["MoCo [9]"]
    assert moco["page"] == "moco.py:epochs=200,depth=50,width=1,version=1"
    training = by_name[moco["training"]]
    assert training["network"]["projector"]["kind"] == "linear"
    assert (training["objective"]["moco"]["temperature"], training["num_epochs"]) == (0.07, 200)
    on_labels = needs["Supervised-IN [9]"]
    assert on_labels["page"] == "supervised.py:epochs=90,depth=50,width=1,augment=crop"
    assert "does not describe" in on_labels["words"]
    assert by_name[on_labels["training"]]["num_epochs"] == 90


@pytest.mark.parametrize("table", paper_tables.TABLES)
def test_the_page_of_every_cell_takes_its_options(table: str) -> None:
    """The pages refuse options, and their configs keys, that they do not have."""
    for printed in paper_tables.TABLES[table]:
        assert bool(printed.page) != bool(printed.reason)
        if not printed.page:
            continue
        resolved = paper.resolved(printed, named=True)
        assert not resolved["reason"]
        config = ml_collections.ConfigDict(resolved["config"])
        assert config.job in jobs.JOBS
        if printed.page in ("segmentation", "depth"):
            assert "benchmark" not in config
        else:
            assert config.benchmark == printed.benchmark
        # What depends on a data set or checkpoint is left to the job.
        assert config.dataset is None and config.checkpoint is None
        for key, value in printed.changes.items():
            assert config[key] == value


def test_two_runs_never_share_a_folder() -> None:
    runs: dict[str, set] = {}
    for printed in CELLS:
        if printed.page:
            runs.setdefault(printed.folder, set()).add(run_of(printed)[:-1])
    assert all(len(same) == 1 for same in runs.values())
    first = cell("1", "BYOL (ours) ResNet-50", "ImageNet", "linear")
    assert first.folder == cell("13", "BYOL-IN", "ImageNet", "linear").folder


def test_both_values_stand_where_a_paper_contradicts_itself() -> None:
    """The list at the end of docs/deviations.md, and SimCLR's supervised baseline."""
    places = {
        (c.table, c.column, n.metric): (n.value, n.elsewhere)
        for c in CELLS
        for n in c.numbers
        if n.elsewhere
    }
    assert places["1", "ImageNet", "top5"] == (94.8, "94.9 in Table 9")
    assert places["9", "ImageNet", "top5"] == (94.9, "94.8 in Table 1, 94.8 in Table 7")
    assert places["3", "DTD", "top1"] == (75.5, "76.5 in Table 13")
    # Tables 3 and 13, one value in each.
    assert {(t, c) for t, c, _ in places if t in ("3", "13")} >= {
        (table, column)
        for table in ("3", "13")
        for column in ("DTD", "Cars", "SUN397", "Birdsnap", "Caltech-101")
    }
    assert places["simclr-B.3", "color and blur", "top1"][0] == 76.4


def names(options: str) -> list[tuple[str, str, str]]:
    cells = paper.get_config(options).cells
    return [(cell["row"], cell["protocol"], cell["column"]) for cell in cells]


@pytest.mark.parametrize(
    ("column", "value", "options"),
    [
        ("1/8", 77.0, "epochs=90,augment=color,strength=0.125"),
        ("1/4", 76.7, "epochs=90,augment=color,strength=0.25"),
        ("1/2", 76.5, "epochs=90,augment=color,strength=0.5"),
        ("1", 75.7, "epochs=90,augment=color"),
        ("1 (+Blur)", 75.4, "epochs=90,augment=simclr"),
        ("AutoAug", 77.1, "epochs=90,augment=autoaugment"),
    ],
)
def test_simclr_table_1_has_its_supervised_runs(column, value, options) -> None:
    printed = cell("simclr-1", "Supervised", column, "supervised")
    assert (printed.page, printed.options) == ("supervised", f"depth=50,width=1,{options}")
    assert printed.numbers[0].value == value
    # Table B.3 prints other numbers for two of the runs.
    elsewhere = {"1": "75.6 in SimCLR Table B.3", "1 (+Blur)": "75.3 in SimCLR Table B.3"}
    assert printed.numbers[0].elsewhere == elsewhere.get(column, "")


def test_supervised_networks_have_the_augmentations_of_their_options() -> None:
    view = supervised.get_config("augment=color,strength=0.125").view
    assert (view.brightness_max, view.hue_max, view.blur) == (0.1, 0.025, 0)
    view = supervised.get_config("augment=autoaugment").view
    assert (view.autoaugment, view.color_jitter, view.grayscale, view.blur) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("where", "values", "run"),
    [
        (
            ("text", "Randomly initialized network (section 3) ResNet-50", "ImageNet", "linear"),
            {"top1": 1.4},
            ("linear", "", ("random", "50", 1, "imagenet", "", 1000)),
        ),
        (
            (
                "simclr-text",
                "Linear evaluation, broader augmentations (App. B.2) ResNet-50 (4x)",
                *("ImageNet", "linear"),
            ),
            {"top1": 76.8},
            ("linear", "protocol=simclr", ("simclr", "50", 4, "imagenet", "broader", 1000)),
        ),
        (
            (
                "simclr-text",
                "Fine-tuned, default augmentations (footnote 13) ResNet-50 (4x)",
                *("100%", "finetune"),
            ),
            {"top1": 80.1, "top5": 95.2},
            ("semi", "fraction=1,protocol=simclr", ("simclr", "50", 4, "imagenet", "", 1000)),
        ),
        (
            (
                "simclr-text",
                "From scratch, crop and flip (App. B.2) ResNet-50 (2x)",
                *("100%", "supervised"),
            ),
            {"top1": 77.8, "top5": 93.9},
            ("supervised", "depth=50,width=2,epochs=90,augment=crop", None),
        ),
        (
            ("lecture-1", "BYOL (repro.)", "200 epochs", "linear"),
            {"top1": 70.6},
            ("linear", "", ("byol", "50", 1, "imagenet", "", 200)),
        ),
        (
            ("lecture-1", "SimCLR (repro.+)", "800 epochs", "linear"),
            {"top1": 70.4},
            ("linear", "", ("simclr", "50", 1, "imagenet", "", 800)),
        ),
    ],
)
def test_numbers_of_texts_and_of_the_lecture_have_their_runs(where, values, run) -> None:
    printed = cell(*where)
    assert {number.metric: number.value for number in printed.numbers} == values
    network = tuple(printed.network) if printed.network else None
    assert (printed.page, printed.options, network) == run


def test_decisions_stand_beside_the_numbers() -> None:
    """docs/deviations.md, 56 to 61."""
    where = {
        ("2", "BYOL (ours) ResNet-50", "1%", "finetune"): "published subset",
        ("8", "SimCLR (repro)", "100%", "finetune"): "",
        ("simclr-B.2", "SimCLR (ours) ResNet-50", "100%", "finetune"): "30 epochs",
        ("simclr-B.2", "SimCLR (ours) ResNet-50", "1%", "finetune"): "",
        ("simclr-B.3", "Supervised ResNet-50 90 epochs", "crop", "supervised"): "App. D.2",
        ("lecture-1", "BYOL (repro.)", "100 epochs", "linear"): "a reproduction",
    }
    for place, words in where.items():
        note = cell(*place).note
        assert words in note and bool(note) == bool(words), place


def test_the_reproduction_of_simclr_is_another_network_than_simclrs() -> None:
    for table in ("3", "8", "13"):
        networks = {c.network for c in paper_tables.TABLES[table] if c.network}
        assert {n.variant for n in networks if n.method == "simclr"} == {"repro"}


def test_a_network_is_compared_with_its_page() -> None:
    config = paper.get_config("table=13")
    by_name = {training["name"]: training["config"] for training in config.trainings}
    for one in config.cells:
        training = by_name[one["network"]["training"]]
        assert training["image_size"] == 224
    assert {one["network"]["page"] for one in config.cells} == {
        "byol.py:epochs=1000,depth=50,width=1",
        "places365.py",
        "places365.py:method=simclr",
    }
    reproduced = by_name["places365.py:method=simclr repro"]
    assert reproduced["augment"]["view2"]["solarize"] == 0.2
    assert reproduced["objective"]["name"] == "nt_xent"


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
    ("options", "named"),
    [
        ("", "table=''"),
        ("table=4", "table='4'"),
        ("table=3,cells=MNIST", "cells='mnist'"),
        ("table=3,row=MoCo", "row='MoCo'"),
        ("table=3,protocol=knn", "protocol='knn'"),
    ],
)
def test_a_wrong_option_is_named(options: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        paper.get_config(options)


def test_a_row_that_trains_from_scratch_must_be_named() -> None:
    def reasons(options: str) -> set[bool]:
        cells = paper.get_config(options).cells
        return {bool(c["reason"]) for c in cells if c["row"] == "Random init [8]"}

    assert reasons("table=3,protocol=finetune") == {True}
    assert reasons("table=3,row=Random") == {False}


def test_the_view_of_a_config_replaces_that_of_the_run() -> None:
    config = supervised.get_config("augment=color")
    config.dataset = "digits"
    view = recipes.data_of(config, tiny_checkpoints.trained("digits")).cropping.view
    assert view._asdict() == compose.from_config(config.view)._asdict()
    # What is left open is as in the run.
    config = supervised.get_config()
    config.dataset = "digits"
    config.view.blur = 0.25
    run = tiny_checkpoints.trained("digits", augment__view1__hue_max=0.3)
    view = recipes.data_of(config, run).cropping.view
    assert (view.hue_max, view.blur) == (0.3, 0.25)
