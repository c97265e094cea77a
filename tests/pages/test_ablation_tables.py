"""The printed ablations, and that every row is a config on every base."""

import collections

import pytest

import tiny_runs
from byol_jax.optim import schedules
from experiments import ablation_tables, ablations, base
from experiments.papers.rows import Times

ROWS = [row for rows in ablation_tables.TABLES.values() for row in rows]


def row_of(table, row, method=""):
    (found,) = [r for r in ablations.rows(table, method) if r.row == row]
    return found


def value_of(config, key):
    for name in key.split("."):
        config = config[name]
    return config


def flat(config):
    """Dotted keys and values of a config."""

    def walk(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return dict(walk(config.to_dict()))


# ---------------------------------------------------------------- rows and numbers


def test_every_row_of_every_table_is_there():
    counts = {table: len(rows) for table, rows in ablation_tables.TABLES.items()}
    assert counts == {
        **{"5a": 5, "5b": 8, "14a": 9, "14b": 6, "15a": 7, "15b": 5},
        **{"16": 2 * 7, "17": 2 * 14},
        **{"18": 1 + 3 * 6, "19": 13, "20": 4, "21": 6, "22": 5 * 5, "G": 4, "J.2": 1},
        **{"simclr-1": 6, "simclr-4": 5, "simclr-5": 6, "simclr-B.1": 6 * 4 * 2},
        **{"simclr-figure5": 7 * 7, "simclr-figure8": 1 + 2 * 7},
    }
    for rows in ablation_tables.TABLES.values():
        for method in {row.method for row in rows}:
            numbers = [row.row for row in rows if row.method == method]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert numbers[0] == 1 or (rows[0].table, method) == ("G", "simclr")


BETA, TEMPERATURE = "objective.info_nce.beta", "objective.info_nce.temperature"
INFO_NCE = {"objective.name": "info_nce", TEMPERATURE: 0.1}
HARD_COPY = {"target": "ema", "tau_base": 0.0, "tau_schedule": "constant"}


# Typed from the papers, not from the module.
@pytest.mark.parametrize(
    ("where", "numbers", "config"),
    [
        (("5a", 1), {"top1": 18.8}, {"target": "constant"}),
        (("5a", 4), {"top1": 68.4}, {"target": "ema", "tau_base": 0.9, "tau_schedule": "cosine"}),
        (("5a", 5), {"top1": 0.3}, {"target": "stop_gradient", "objective.name": "byol"}),
        (
            ("5b", 1),
            {"top1": 72.5},
            INFO_NCE
            | {BETA: 0.0, "target": "ema", "network.predictor.kind": "mlp"}
            # Not SimCLR's: section 5 has one setting for all rows.
            | {"optimizer.base_learning_rate": 0.3, "tau_base": 0.99, "num_epochs": 300},
        ),
        (
            ("5b", 3),
            {"top1": 70.7},
            INFO_NCE | {BETA: 1.0, "target": "ema", "network.predictor.kind": "none"},
        ),
        (
            ("5b", 4),
            {"top1": 69.4},
            INFO_NCE
            | {BETA: 1.0, "target": "online", "network.predictor.kind": "none"}
            # App. G.5.
            | {"network.projector.hidden_size": 4096, "network.projector.output_size": 256}
            | {"augment.view2.solarize": 0.2},
        ),
        (
            ("5b", 6),
            {"top1": 0.3},
            {BETA: 0.0, "target": "online", "network.predictor.kind": "mlp"},
        ),
        (
            ("14a", 2),
            {"top1": 65.0, "top5": 86.8},
            {"network.projector.depth": 1, "network.predictor.depth": 2},
        ),
        (
            ("14a", 7),
            {"top1": 71.4, "top5": 90.4},
            {"network.projector.depth": 3, "network.predictor.depth": 1},
        ),
        (("14b", 1), {"top1": 69.9, "top5": 89.9}, {"network.projector.output_size": 16}),
        (("14b", 6), {"top1": 72.6, "top5": 91.0}, {"network.projector.output_size": 512}),
        (("15a", 1), {"top1": 34.8, "top5": 60.8}, {"optimizer.base_learning_rate": 0.01}),
        (("15a", 7), {"top1": 69.4, "top5": 89.2}, {"optimizer.base_learning_rate": 1.0}),
        (("15b", 2), {"top1": 72.6, "top5": 91.0}, {"optimizer.weight_decay": 5e-7}),
        (("15b", 5), {"top1": 69.6, "top5": 89.3}, {"optimizer.weight_decay": 1e-5}),
        (("16", 5, "byol"), {"top1": 71.8, "top5": 90.7}, {"accumulate": 16, "batch_size": 4096}),
        (
            ("16", 5, "simclr"),
            {"top1": 64.3, "top5": 86.3},
            {"accumulate": 16, "batch_size": 4096, "objective.name": "nt_xent"},
        ),
        (
            ("17", 4, "byol"),
            {"top1": 63.4, "top5": 85.3},
            {"augment.view1.color_jitter": 0.0, "augment.view2.color_jitter": 0.0}
            | {"augment.view1.grayscale": 0.0, "augment.view2.grayscale": 0.0}
            | {"augment.view1.blur": 1.0, "augment.view2.solarize": 0.2},
        ),
        (
            ("17", 8, "simclr"),
            {"top1": 67.7, "top5": 88.2},
            {"augment.view1.blur": 1.0, "augment.view2.blur": 0.1, "augment.view2.solarize": 0.0},
        ),
        (
            ("17", 10, "byol"),
            {"top1": 72.5, "top5": 90.8},
            {"augment.view1.blur": 0.5, "augment.view1.solarize": 0.2}
            | {"augment.view2.blur": 0.5, "augment.view2.solarize": 0.2},
        ),
        (
            ("17", 13, "byol"),
            {"top1": 70.7, "top5": 90.0},
            {"augment.view1.flip": 0.0, "augment.view1.color_jitter": 0.8}
            | {"augment.view1.grayscale": 0.2, "augment.view1.blur": 0.0}
            | {"augment.view2.blur": 0.0, "augment.view2.solarize": 0.0},
        ),
        (
            ("17", 14, "simclr"),
            {"top1": 41.7, "top5": 66.4},
            {"augment.view2.flip": 0.0, "augment.view2.color_jitter": 0.0}
            | {"augment.view1.blur": 1.0, "augment.view2.blur": 0.1}
            | {"augment.view2.grayscale": 0.0, "augment.view2.solarize": 0.0},
        ),
        (
            ("18", 1),
            {"top1": 72.5, "top5": 90.8},
            {"objective.name": "info_nce", BETA: 0.0},
        ),
        (
            ("18", 7),
            {"top1": 72.5, "top5": 90.9},
            {
                BETA: 0.1,
                TEMPERATURE: 10.0,
                "target": "ema",
            },
        ),
        (
            ("18", 14),
            {"top1": 53.9, "top5": 77.5},
            {BETA: 1.0, TEMPERATURE: 0.01},
        ),
        (
            ("19", 4),
            {"top1": 70.2},
            {
                BETA: 1.0,
                "target": "stop_gradient",
                "network.predictor.kind": "mlp",
            },
        ),
        (
            ("19", 7),
            {"top1": 69.2},
            {
                BETA: 1.0,
                "target": "stop_gradient",
                "network.predictor.kind": "none",
            },
        ),
        (
            ("19", 11),
            {"top1": 0.2},
            {BETA: 0.0, "target": "ema", "network.predictor.kind": "none"},
        ),
        (
            ("19", 12),
            {"top1": 0.1},
            {
                BETA: 0.0,
                "target": "stop_gradient",
                "network.predictor.kind": "none",
            },
        ),
        # "n_ID" of the text is that of the row without normalisation.
        (("20", 2), {"top1": 72.5, "top5": 90.1}, {"objective.byol.normalization": "layer"}),
        (("20", 3), {"top1": 67.4, "top5": 87.1}, {"objective.byol.normalization": "none"}),
        (("20", 4), {"top1": 65.3, "top5": 85.3}, {"objective.byol.normalization": "batch"}),
        (("21", 1), {"top1": 0.01}, HARD_COPY | {"optimizer.predictor_rate": 0.0}),
        (("21", 4), {"top1": 66.6}, HARD_COPY | {"optimizer.predictor_rate": 10.0}),
        (("21", 6), {"top1": 72.5}, {"tau_base": 0.99, "tau_schedule": "cosine"}),
        (
            ("22", 3),
            {"top1": 60.8},
            HARD_COPY | {"optimizer.projector_rate": 1.0, "optimizer.predictor_rate": 2.0},
        ),
        (
            ("22", 11),
            {"top1": 2.0},
            HARD_COPY | {"optimizer.projector_rate": 2.0, "optimizer.predictor_rate": 1.0},
        ),
        (("G", 2), {}, {"network.init_scale": 2.0}),
        (("G", 3, "byol"), {}, {"optimizer.weight_decay": 0.0, "objective.name": "byol"}),
        (("G", 3, "simclr"), {}, {"optimizer.weight_decay": 0.0, "objective.name": "nt_xent"}),
        (
            ("J.2", 1),
            {"top1": 50.3},
            HARD_COPY
            | {"network.predictor.kind": "optimal_linear", "network.projector.output_size": 16},
        ),
        (
            ("simclr-1", 2),
            {"top1": 61.0},
            {"augment.view1.brightness_max": 0.2, "augment.view2.contrast_max": 0.2}
            | {"augment.view1.hue_max": 0.05, "augment.view1.blur": 0.0, "num_epochs": 100},
        ),
        (
            ("simclr-1", 5),
            {"top1": 64.5},
            {"augment.view1.saturation_max": 0.8, "augment.view2.blur": 0.5},
        ),
        (
            ("simclr-1", 6),
            {"top1": 61.1},
            {"augment.view1.autoaugment": 1.0, "augment.view2.color_jitter": 0.0}
            | {"augment.view1.blur": 0.0, "augment.view1.flip": 0.5},
        ),
        (
            ("simclr-4", 1),
            {"top1": 50.9},
            {"objective.name": "margin_triplet", "objective.margin_triplet.semi_hard": False},
        ),
        (
            ("simclr-4", 4),
            {"top1": 57.9},
            {"objective.name": "nt_logistic", "objective.nt_logistic.semi_hard": True},
        ),
        (
            ("simclr-5", 3),
            {"contrastive_entropy": 8.2, "contrastive_top1": 68.2, "top1": 60.7},
            {"objective.nt_xent.l2": True, "objective.nt_xent.temperature": 0.5},
        ),
        (
            ("simclr-5", 6),
            {"contrastive_entropy": 0.5, "contrastive_top1": 92.1, "top1": 57.0},
            {"objective.nt_xent.l2": False, "objective.nt_xent.temperature": 100.0},
        ),
        (
            ("simclr-B.1", 1),
            {"top1": 57.5},
            {"batch_size": 256, "num_epochs": 100, "optimizer.base_learning_rate": 0.3}
            | {"optimizer.rate_scaling": "linear"},
        ),
        # Batch 1024, 200 epochs.
        (
            ("simclr-B.1", 20),
            {"top1": 66.1},
            {"batch_size": 1024, "num_epochs": 200, "optimizer.base_learning_rate": 0.075}
            | {"optimizer.rate_scaling": "sqrt"},
        ),
        (("simclr-B.1", 47), {"top1": 69.0}, {"batch_size": 8192, "num_epochs": 800}),
        (("simclr-figure8", 1), {}, {"network.projector.kind": "none"}),
        (
            ("simclr-figure8", 3),
            {},
            {"network.projector.kind": "linear", "network.projector.output_size": 64},
        ),
        (
            ("simclr-figure8", 15),
            {},
            {"network.projector.kind": "mlp", "network.projector.output_size": 2048},
        ),
    ],
)
def test_a_row_has_the_papers_numbers_and_settings(where, numbers, config):
    row = row_of(*where)
    assert row.numbers == numbers
    ours = ablations.config_of(row)
    assert {key: value_of(ours, key) for key in config} == config


def test_spreads_are_kept_where_they_are_printed():
    found = {(r.table, r.row, r.method): dict(r.spreads) for r in ROWS if r.spreads}
    assert collections.Counter(table for table, _, _ in found) == {
        **{"5a": 1, "14b": 1, "15a": 1, "15b": 2, "16": 4, "17": 5, "18": 1, "20": 1, "21": 2},
        "22": 4 + 5 + 4 + 5 + 4,
    }
    assert found["5a", 1, "byol"] == {"top1": 0.7}
    assert found["15a", 1, "byol"] == {"top1": 3.0, "top5": 3.2}
    assert found["16", 7, "simclr"] == {"top1": 2.9, "top5": 1.9}
    assert found["17", 12, "byol"] == {"top1": 0.3, "top5": 0.3}
    assert found["22", 13, "byol"] == {"top1": 13.4}


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize("on", ablations.BASES)
@pytest.mark.parametrize("table", ablation_tables.TABLES)
def test_every_row_is_a_config_on_every_base(table, on):
    expected = tiny_runs.types_of(base.get_config())
    for row in ablations.rows(table):
        config = ablations.config_of(row, on)
        assert tiny_runs.types_of(config) == expected
        assert config.job == "pretrain" and "\n" not in config.recipe
        assert config.recipe.startswith(row.place) and row.name in config.recipe
        # It changes what it says and nothing else.
        recipe = flat(ablations.config_of(row._replace(changes={}), on))
        ours = flat(config)
        assert {*row.changes} <= {*ours}
        changed = {key for key, value in ours.items() if value != recipe[key]}
        assert changed <= {*row.changes, "recipe"}
        for key, value in row.changes.items():
            assert isinstance(value, Times) or ours[key] == value


def test_on_the_papers_base_scaled_numbers_are_the_printed_ones():
    for row in ROWS:
        config = ablations.config_of(row)
        for key, value in row.changes.items():
            if isinstance(value, Times):
                assert value_of(config, key) == value.printed


def test_sweeps_have_the_printed_values():
    def sweep(table, key, method=""):
        return [value_of(ablations.config_of(r), key) for r in ablations.rows(table, method)]

    assert sweep("15a", "optimizer.base_learning_rate") == [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0]
    assert sweep("15b", "optimizer.weight_decay") == [1e-7, 5e-7, 1e-6, 5e-6, 1e-5]
    assert sweep("14b", "network.projector.output_size") == [16, 32, 64, 128, 256, 512]
    assert sweep("5a", "tau_base")[1:4] == [0.999, 0.99, 0.9]
    assert sweep("simclr-5", "objective.nt_xent.temperature") == [0.05, 0.1, 0.5, 1, 10, 100]
    assert sweep("21", "optimizer.predictor_rate") == [0, 1, 2, 10, 20, 1]
    assert sweep("22", "optimizer.predictor_rate") == 5 * [1, 1.5, 2, 5, 10]
    assert sweep("22", "optimizer.projector_rate")[::5] == [1, 1.5, 2, 5, 10]
    for method in ablations.METHODS:
        sizes = [4096 // count for count in sweep("16", "accumulate", method)]
        assert sizes == [4096, 2048, 1024, 512, 256, 128, 64]
        assert {*sweep("16", "batch_size", method)} == {4096}
    assert sweep("simclr-B.1", "batch_size")[::8] == [256, 512, 1024, 2048, 4096, 8192]
    assert sweep("simclr-B.1", "num_epochs")[:8:2] == [100, 200, 400, 800]


def test_numbers_that_depend_on_scale_multiply_those_of_another_base():
    def on(which, table, row, key):
        return value_of(ablations.config_of(row_of(table, row), which), key)

    # digits.py: rate 8, decay 1e-6, batch 64, 100 epochs; cifar10.py: rate 1, batch 1024, 1000.
    rate = "optimizer.base_learning_rate"
    assert on("digits", "15a", 4, rate) == 8
    assert on("digits", "15a", 2, rate) == pytest.approx(8 / 3)
    assert on("cifar10", "15a", 7, rate) == pytest.approx(1 / 0.3)
    assert on("digits", "15b", 1, "optimizer.weight_decay") == pytest.approx(1e-7)
    assert on("digits", "simclr-B.1", 3, "batch_size") == 4
    assert on("digits", "simclr-B.1", 3, "num_epochs") == 200
    assert on("cifar10", "simclr-B.1", 47, "batch_size") == 2048
    assert on("cifar10", "simclr-B.1", 47, "num_epochs") == 8000
    # Not so those of the method.
    assert on("digits", "5a", 3, "tau_base") == 0.99
    assert on("cifar10", "14b", 1, "network.projector.output_size") == 16


@pytest.mark.parametrize("on", ablations.BASES)
def test_both_scalings_of_simclr_give_one_rate_at_the_bases_own_batch(on):
    """SimCLR App. B.1: "the learning rate is the same under both scaling methods"."""

    def peak(row):
        config = ablations.config_of(row_of("simclr-B.1", row), on)
        optimizer = config.optimizer
        scaling = optimizer.rate_scaling
        return schedules.scaled_learning_rate(
            optimizer.base_learning_rate, config.batch_size, scaling
        )

    # Rows 33 and 34: the default batch. Rows 1 and 2: a sixteenth of it.
    assert peak(33) == pytest.approx(peak(34), rel=1e-12)
    assert peak(1) == pytest.approx(peak(33) / 16, rel=1e-12)
    assert peak(2) == pytest.approx(peak(33) / 4, rel=1e-12)
    assert on != "byol" or peak(33) == pytest.approx(4.8)  # section 2.3


def test_simclr_in_byols_paper_has_byols_augmentations():
    """App. G.3 takes blur and solarization out of its T' alone."""
    for row in (row_of("16", 1, "simclr"), row_of("17", 1, "simclr")):
        config = ablations.config_of(row)
        assert config.augment == base.get_config().augment
        dials = (config.num_epochs, config.objective.name, config.target)
        assert dials == (300, "nt_xent", "online")
        assert (config.objective.nt_xent.temperature, config.optimizer.base_learning_rate) == (
            0.1,
            0.3,
        )
        # App. G.5: smaller than BYOL's.
        assert config.network.projector.output_size == 128
        assert config.network.projector.hidden_size == 2048
        assert config.network.predictor.kind == "none"
    simclr = ablations.config_of(row_of("simclr-5", 2))
    assert simclr.augment.view1 == simclr.augment.view2 == base.simclr_augmentation()
    assert simclr.num_epochs == 100


def test_simclr_on_digits_is_digits_with_its_dials():
    ours = flat(ablations.config_of(row_of("16", 1, "simclr"), "digits"))
    byol = flat(ablations.config_of(row_of("16", 1, "byol"), "digits"))
    assert {key: value for key, value in ours.items() if value != byol[key]} == {
        "recipe": ours["recipe"],
        "objective.name": "nt_xent",
        "target": "online",
        "network.predictor.kind": "none",
    }


def test_figure_5_is_the_identity_but_for_the_studied_operations():
    off = {"flip": 0.0, "color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    extras = ("crop", "rotate", "randaugment", "autoaugment", "equalize", "motion_blur")
    off |= dict.fromkeys((*extras, "sobel", "noise", "cutout"), 0.0)
    studied = ("crop", "cutout", "color", "sobel", "noise", "blur", "rotate")
    on = {
        **{name: {name: 1.0} for name in ("cutout", "sobel", "noise", "rotate")},
        # SimCLR App. A: a flip behind each crop, 80 %, 20 % and 50 %.
        "crop": {"crop": 1.0, "flip": 0.5},
        "color": {"color_jitter": 0.8, "grayscale": 0.2},
        "blur": {"blur": 0.5},
    }
    for base_name in ablations.BASES:
        for row in ablations.rows("simclr-figure5"):
            first, second = studied[(row.row - 1) // 7], studied[(row.row - 1) % 7]
            config = ablations.config_of(row, base_name)
            assert config.data.same_crop
            view1, view2 = config.augment.view1, config.augment.view2
            assert {name: view2[name] for name in off} == off
            assert {name: view1[name] for name in off} == off | on[first] | on[second]
            if "color" in (first, second):
                assert (view1.brightness_max, view1.hue_max) == (0.8, 0.2)
            assert row.name == (f"{first} alone" if first == second else f"{first} with {second}")
            mirrored = row_of(
                "simclr-figure5", studied.index(second) * 7 + studied.index(first) + 1
            )
            assert mirrored.changes == row.changes
            assert first == second or f"row {mirrored.row}" in row.note


# ---------------------------------------------------------------- what the page says


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        ((("J.2", 1),), ("50.3 in App. J.2", "52.5 in section 5")),
        ((("5b", 4), ("19", 5)), ("69.4 in Tables 5b and 19", "69.2 in App. G.5")),
        ((("5b", 5), ("19", 8)), ("69.1 in Table 5b", "69.0 in Table 19")),
        ((("19", 4), ("19", 6)), ("70.2", "70.1")),
        (
            (("5a", 5), ("19", 9), ("21", 2), ("22", 1)),
            ("5.5 in Tables 19 and 21", "3.2 +- 2.9 in Table 22", "0.3 in Table 5a"),
        ),
        ((("21", 4), ("22", 5)), ("66.6 in Table 21", "66.9 in Table 22", "66.5")),
        ((("21", 3), ("22", 3)), ("62.8 +- 1.5 in Table 21", "60.8 +- 2.9 in Table 22")),
        ((("21", 1), ("19", 13)), ("0.01", "0.1")),
        ((("22", 19),), ("20.5 +- 2.0", "about 25")),
        ((("20", 2),), ("n_LN", "says n_BN")),
        ((("20", 3),), ("n_ID", "says n_LN")),
        ((("20", 4),), ("n_BN", "says n_ID")),
        ((("simclr-1", 5), ("simclr-5", 2)), ("64.5 in Table 1", "64.4 in Table 5")),
        ((("simclr-4", 5),), ("63.9", "64.5 in Table 1", "64.6 and 64.5 in Table B.1")),
        ((("G", 1),), ("higher than 72%",)),
    ],
)
def test_both_values_stand_where_a_paper_contradicts_itself(rows, values):
    for where in rows:
        note = row_of(*where).note
        assert all(value in note for value in values), note


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "table=5b,row=3",
            "BYOL Table 5b, row 3: no predictor, target network, beta 1; paper 70.7 top-1 at 300 "
            "epochs",
        ),
        (
            "table=15a,row=1,base=digits",
            "BYOL Table 15a, row 1: base learning rate 0.01; paper 34.8 +- 3.0 top-1, 60.8 +- 3.2 "
            "top-5 at 300 epochs; here on digits with optimizer.base_learning_rate=0.266667",
        ),
        (
            "table=16,row=3,method=simclr",
            "BYOL Table 16, row 3 (SimCLR): batch size 1024: 4096 in 4 parts; paper 67.4 top-1, "
            "88.1 top-5 at 300 epochs",
        ),
        (
            "table=simclr-B.1,row=8",
            "SimCLR Table B.1, row 8: batch size 256, 800 epochs, sqrt scaling of the rate; paper "
            "66.5 top-1 at 800 epochs",
        ),
        (
            "table=simclr-5,row=1",
            "SimCLR Table 5, row 1: cosines, temperature 0.05; paper 1.0 contrastive entropy, "
            "90.5 contrastive top-1, 59.7 top-1 at 100 epochs",
        ),
        (
            "table=simclr-figure5,row=49",
            "SimCLR Figure 5, row 49: rotate alone; paper no number at 100 epochs",
        ),
    ],
)
def test_the_recipe_says_what_the_row_is(options, line):
    assert ablations.get_config(options).recipe == line


def test_both_methods_share_the_numbers_of_their_rows():
    by_default = ablations.get_config("table=17,row=2")
    assert by_default == ablations.get_config("table=17,row=2,method=byol")
    assert by_default.objective.name == "byol"
    assert ablations.get_config("table=17,row=2,method=simclr").objective.name == "nt_xent"
    assert ablations.get_config("table=simclr-4,row=1").objective.name == "margin_triplet"
    assert [row.method for row in ablations.rows("G")] == ["byol"] * 3 + ["simclr"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "table='' must be one of: 5a, 5b, 14a, .*, J.2, simclr-1, .*, simclr-figure8$"),
        ("table=3,row=1", "table='3' must be one of: 5a"),
        ("table=5a,row=6", "row=6 of table 5a must be one of: 1 constant .*; 5 stop-gradient of "),
        ("table=5a", "row=0 of table 5a must be one of: 1 constant"),
        ("table=5a,row=1,base=coco", "base='coco' must be one of: byol, cifar10, digits$"),
        ("table=5a,row=1,method=moco", "method='moco' must be one of: byol, simclr$"),
        ("table=5a,row=1,method=simclr", "table 5a has no row of method=simclr: all are of byol"),
        ("table=5a,row=one", "row='one' must be of type int"),
        ("table=5a,seed=1", "unknown config option 'seed=1': the options are table="),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        ablations.get_config(options)
    assert "\n" not in str(caught.value)
