"""What each printed ablation changes, and that every row is a config on every base."""

import pytest

import tiny_runs
from byol_jax.optim import schedules
from experiments import ablate, ablation_tables, ablations, base
from experiments.papers.rows import Times

ROWS = [row for rows in ablation_tables.TABLES.values() for row in rows]


def row_of(table, row, method=""):
    (only,) = [r for r in ablations.rows(table, method) if r.row == row]
    return only


def flat(config):
    """Dotted keys and values of a config."""
    return {key: config[key] for key in tiny_runs.types_of(config)}


# ---------------------------------------------------------------- rows and numbers


def test_rows_are_numbered_as_they_are_printed():
    for rows in ablation_tables.TABLES.values():
        for method in {row.method for row in rows}:
            numbers = [row.row for row in rows if row.method == method]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert numbers[0] == 1 or (rows[0].table, method) == ("G", "simclr")


KIND, SIZE = "network.predictor.kind", "network.projector.output_size"
NORM = "network.projector.output_norm"
BETA, ALPHA = "objective.info_nce.beta", "objective.info_nce.temperature"
RATE, LAMBDA, MU = (f"optimizer.{n}_rate" for n in ("base_learning", "predictor", "projector"))
VIEW1, VIEW2 = "augment.view1", "augment.view2"
HARD_COPY = {"target": "ema", "tau_base": 0.0, "tau_schedule": "constant"}


# Typed from the papers: table and row; top-1 or other numbers; settings.
@pytest.mark.parametrize(
    ("where", "numbers", "config"),
    [
        (("5a", 1), [18.8], {"target": "constant"}),
        (("5a", 4), [68.4], {"target": "ema", "tau_base": 0.9, "tau_schedule": "cosine"}),
        (("5a", 5), [0.3], {"target": "stop_gradient", "objective.name": "byol"}),
        # Section 5 has one setting for all rows of Table 5b, SimCLR's too (App. G.5).
        (("5b", 1), [72.5], {BETA: 0.0, ALPHA: 0.1, "target": "ema", KIND: "mlp", RATE: 0.3}),
        (("5b", 3), [70.7], {BETA: 1.0, "target": "ema", KIND: "none", "tau_base": 0.99}),
        (("5b", 4), [69.4], {BETA: 1.0, "target": "online", KIND: "none", SIZE: 256, NORM: "none"}),
        (("14a", 2), [65.0, 86.8], {"network.projector.depth": 1, "network.predictor.depth": 2}),
        (("14b", 6), [72.6, 91.0], {SIZE: 512}),
        (("15a", 1), [34.8, 60.8], {RATE: 0.01}),
        (("15b", 2), [72.6, 91.0], {"optimizer.weight_decay": 5e-7}),
        (("16", 5, "byol"), [71.8, 90.7], {"accumulate": 16, "batch_size": 4096}),
        (("16", 5, "simclr"), [64.3, 86.3], {"accumulate": 16, "objective.name": "nt_xent"}),
        (("17", 4, "byol"), [63.4, 85.3], {f"{VIEW1}.grayscale": 0.0, f"{VIEW2}.solarize": 0.2}),
        (("17", 8, "simclr"), [67.7, 88.2], {f"{VIEW2}.blur": 0.1, f"{VIEW2}.solarize": 0.0}),
        (("17", 10, "byol"), [72.5, 90.8], {f"{VIEW1}.blur": 0.5, f"{VIEW1}.solarize": 0.2}),
        (("17", 13, "byol"), [70.7, 90.0], {f"{VIEW1}.flip": 0.0, f"{VIEW1}.color_jitter": 0.8}),
        (("17", 14, "simclr"), [41.7, 66.4], {f"{VIEW2}.flip": 0.0, f"{VIEW1}.blur": 1.0}),
        (("18", 7), [72.5, 90.9], {BETA: 0.1, ALPHA: 10.0, "target": "ema"}),
        (("18", 14), [53.9, 77.5], {BETA: 1.0, ALPHA: 0.01}),
        (("19", 4), [70.2], {BETA: 1.0, "target": "stop_gradient", KIND: "mlp"}),
        (("19", 12), [0.1], {BETA: 0.0, "target": "stop_gradient", KIND: "none"}),
        # "n_ID" of the text is that of the row without normalisation.
        (("20", 3), [67.4, 87.1], {"objective.byol.normalization": "none"}),
        (("20", 4), [65.3, 85.3], {"objective.byol.normalization": "batch"}),
        (("21", 4), [66.6], {**HARD_COPY, LAMBDA: 10.0}),
        (("21", 6), [72.5], {"tau_base": 0.99, "tau_schedule": "cosine"}),
        (("22", 3), [60.8], {**HARD_COPY, MU: 1.0, LAMBDA: 2.0}),
        (("22", 11), [2.0], {**HARD_COPY, MU: 2.0, LAMBDA: 1.0}),
        (("G", 3, "simclr"), [], {"optimizer.weight_decay": 0.0, "objective.name": "nt_xent"}),
        (("J.2", 1), [50.3], {**HARD_COPY, KIND: "optimal_linear", SIZE: 16}),
        (("simclr-1", 2), [61.0], {f"{VIEW1}.hue_max": 0.05, f"{VIEW2}.contrast_max": 0.2}),
        (("simclr-1", 6), [61.1], {f"{VIEW1}.autoaugment": 1.0, f"{VIEW1}.blur": 0.0}),
        (("simclr-A", 2), [63.4], {f"{VIEW1}.flip": 0.0, f"{VIEW2}.flip": 0.0}),
        (("simclr-4", 5), [63.9], {"objective.nt_xent.same_view": False}),
        (("simclr-4", 1), [50.9], {"objective.margin_triplet.semi_hard": False}),
        (("simclr-4", 4), [57.9], {"objective.nt_logistic.semi_hard": True}),
        (("simclr-5", 3), [8.2, 68.2, 60.7], {"objective.nt_xent.temperature": 0.5}),
        (("simclr-5", 6), [0.5, 92.1, 57.0], {"objective.nt_xent.l2": False}),
        # Batch 1024, 200 epochs.
        (("simclr-B.1", 20), [66.1], {"batch_size": 1024, "num_epochs": 200, RATE: 0.075}),
        (("simclr-B.1", 47), [69.0], {"batch_size": 8192, "num_epochs": 800, RATE: 0.3}),
        (("simclr-figure8", 1), [], {"network.projector.kind": "none", NORM: "none"}),
        (("lecture-simsiam", 1), [67.7], {"optimizer.predictor_schedule": "cosine"}),
        (("lecture-simsiam", 2), [0.1], {KIND: "none", "target": "stop_gradient", NORM: "plain"}),
        (("lecture-simsiam", 3), [1.5], {LAMBDA: 0.0, "optimizer.predictor_schedule": "constant"}),
        (("lecture-simsiam", 4), [68.1], {RATE: 0.05, "objective.name": "simsiam"}),
        (("lecture-moco", 1), [], {"tau_base": 0.0, "tau_schedule": "constant"}),
        (("lecture-moco", 4), [59.0], {"tau_base": 0.999, "objective.moco.queue_size": 4096}),
        (("lecture-moco", 5), [58.9], {"objective.moco.temperature": 0.07, KIND: "none"}),
        (("simclr-figure8", 3), [], {"network.projector.kind": "linear", SIZE: 64, NORM: "scale"}),
    ],
)
def test_a_row_has_the_papers_numbers_and_settings(where, numbers, config):
    row = row_of(*where)
    assert [*row.numbers.values()] == numbers
    changed = ablations.config_of(row)
    assert {key: changed[key] for key in config} == config


def test_spreads_are_kept_where_they_are_printed():
    spreads = {(row.table, row.row, row.method): row.spreads for row in ROWS if row.spreads}
    assert len([table for table, _, _ in spreads if table == "22"]) == 22
    assert spreads["15a", 1, "byol"] == {"top1": 3.0, "top5": 3.2}
    assert spreads["16", 7, "simclr"] == {"top1": 2.9, "top5": 1.9}


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
        values = flat(config)
        assert {*row.changes} <= {*values}
        changed = {key for key, value in values.items() if value != recipe[key]}
        assert changed <= {*row.changes, "recipe"}
        for key, value in row.changes.items():
            if not isinstance(value, Times):
                assert values[key] == value
            elif on == "byol":  # scaled numbers are the printed ones on the paper's own base
                assert values[key] == value.printed


def test_numbers_that_depend_on_scale_multiply_those_of_another_base():
    def on(which, table, row, key):
        return ablations.config_of(row_of(table, row), which)[key]

    # digits.py: rate 8, batch 64; cifar10.py: batch 1024, 1000 epochs.
    assert on("digits", "15a", 2, RATE) == pytest.approx(8 / 3)
    assert on("digits", "simclr-B.1", 3, "batch_size") == 4
    assert on("cifar10", "simclr-B.1", 47, "num_epochs") == 8000
    # Not so those of the method.
    assert on("digits", "5a", 3, "tau_base") == 0.99


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
    config = ablations.config_of(row_of("17", 1, "simclr"))
    assert config.augment == base.get_config().augment
    assert (config.num_epochs, config.target, config[KIND]) == (300, "online", "none")
    # App. G.5: heads smaller than BYOL's.
    assert (config[SIZE], config["network.projector.hidden_size"]) == (128, 2048)
    simclr = ablations.config_of(row_of("simclr-5", 2))
    assert simclr.augment.view1 == simclr.augment.view2 == base.simclr_augmentation()


@pytest.mark.slow
@pytest.mark.parametrize("on", ablations.BASES)
def test_the_output_of_simclrs_projector_is_normalised_in_all_its_rows(on):
    """BYOL App. A: "Contrary to SimCLR, the output of this MLP is not batch normalized"."""
    for row in ROWS:
        network = ablations.config_of(row, on).network
        norm = {"simclr": "scale", "simsiam": "plain"}.get(row.method, "none")
        expected = "none" if network.projector.kind == "none" else norm
        assert network.projector.output_norm == expected, row.place


def test_one_row_alone_leaves_out_the_negatives_of_the_same_view():
    """SimCLR footnote 8, on Table 4."""
    without = [r for r in ROWS if not ablations.config_of(r).objective.nt_xent.same_view]
    assert [(row.table, row.row) for row in without] == [("simclr-4", 5)]


def test_simclr_on_digits_is_digits_with_its_dials():
    simclr = flat(ablations.config_of(row_of("16", 1, "simclr"), "digits"))
    byol = flat(ablations.config_of(row_of("16", 1, "byol"), "digits"))
    changed = {key for key, value in simclr.items() if value != byol[key]}
    assert changed == {"recipe", "objective.name", "target", KIND, NORM}


@pytest.mark.parametrize("on", ablations.BASES)
def test_figure_5_is_the_identity_but_for_the_studied_operations(on):
    studied = {
        **{name: {name} for name in ("cutout", "sobel", "noise", "rotate", "blur")},
        # SimCLR App. A: a flip behind each crop.
        "crop": {"crop", "flip"},
        "color": {"color_jitter", "grayscale"},
    }
    probabilities = {name for names in studied.values() for name in names} | {"solarize"}
    for row in ablations.rows("simclr-figure5"):
        first, _, second = row.name.removesuffix(" alone").partition(" with ")
        config = ablations.config_of(row, on)
        assert config.data.same_crop
        applied = [
            {name for name in probabilities if config.augment[view][name]}
            for view in ("view1", "view2")
        ]
        assert applied == [studied[first] | studied[second or first], set()]
        mirrored = [r for r in ablations.rows("simclr-figure5") if r.changes == row.changes]
        assert len(mirrored) == (2 if second else 1)


# ---------------------------------------------------------------- options


def test_the_recipe_says_what_the_row_is():
    assert ablations.get_config("table=15a,row=1,base=digits").recipe == (
        "BYOL Table 15a, row 1: base learning rate 0.01; paper 34.8 +- 3.0 top-1, 60.8 +- 3.2 "
        "top-5 at 300 epochs; here on digits with optimizer.base_learning_rate=0.266667"
    )


def test_both_methods_share_the_numbers_of_their_rows():
    by_default = ablations.get_config("table=17,row=2")
    assert by_default == ablations.get_config("table=17,row=2,method=byol")
    assert by_default.objective.name == "byol"
    assert ablations.get_config("table=17,row=2,method=simclr").objective.name == "nt_xent"
    rows = ablate.get_config("table=G,rows=3+1").rows
    assert [(row["row"], row["method"]) for row in rows] == [
        (3, "byol"),
        (3, "simclr"),
        (1, "byol"),
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("", "table=''"),
        ("table=3,row=1", "table='3'"),
        ("table=5a,row=6", "row=6"),
        ("table=5a", "row=0"),
        ("table=5a,row=1,base=coco", "base='coco'"),
        ("table=5a,row=1,method=swav", "method='swav'"),
        ("table=5a,row=1,method=simclr", "method=simclr"),
        ("table=5a,row=one", "row='one'"),
        ("table=5a,seed=1", "seed=1"),
    ],
)
def test_a_wrong_option_is_named(options, named):
    with pytest.raises(ValueError, match=named) as caught:
        ablations.get_config(options)
    assert "\n" not in str(caught.value)
