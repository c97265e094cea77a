"""The pages: their keys, what follows from their numbers, their refusals, and that each trains."""

import importlib
import itertools

import pytest

import tiny_runs
from byol_jax import checks, jobs, pages, train
from byol_jax.data import pipeline
from byol_jax.evals import finetune as finetune_job
from byol_jax.evals.sgd import recipes, search
from byol_jax.method import check, peak_learning_rate
from experiments import base, classification, simclr

# Every page with the options that it is documented with.
PRETRAINING = (
    ("byol", ""),
    ("byol", "epochs=300"),
    ("byol", "epochs=1000,batch=512,depth=200,width=2"),
    ("cifar10", ""),
    ("cifar10", "depth=18,width=0.25,batch=256,epochs=20"),
    ("imagenette", ""),
    ("places365", ""),
    ("places365", "method=simclr"),
    ("digits", ""),
    ("simclr", ""),
    ("simclr", "epochs=1000,augment=broader"),
    ("simclr", "data=cifar10"),
    ("simclr", "epochs=300,batch=512,depth=18,width=0.5"),
    ("simsiam", ""),
    ("simsiam", "base=cifar10,depth=18,width=0.25"),
    ("simsiam", "base=digits"),
    ("moco", ""),
    ("moco", "version=1"),
    ("moco", "base=cifar10"),
    ("moco", "base=digits,version=1"),
    ("supcon", ""),
    ("supcon", "base=cifar10"),
    ("supcon", "base=digits"),
    ("densecl", ""),
    ("densecl", "base=cifar10,epochs=800"),
    ("densecl", "base=digits"),
)
LABELLED = (
    ("linear", ""),
    ("linear", "augment=pretrain"),
    ("linear", "logits=regularized"),
    ("linear", "augment=pretrain,logits=regularized"),
    ("linear", "protocol=simclr"),
    ("linear", "protocol=released"),
    ("semi", "fraction=0.01"),
    ("semi", "fraction=1"),
    ("semi", "fraction=0.1,subset=published"),
    ("semi", "fraction=0.1,protocol=simclr"),
    ("finetune", ""),
    ("finetune", "init=random"),
    ("supervised", "depth=200,width=2,epochs=90"),
    ("supervised", "augment=simclr"),
    ("supervised", "augment=color"),
    ("supervised", "augment=crop"),
    ("supervised", "augment=autoaugment"),
    ("supervised", "augment=color,strength=0.25"),
)
IMAGENET = 1_281_167  # training images


def config_of(page, options=""):
    return importlib.import_module(f"experiments.{page}").get_config(*filter(None, [options]))


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(("page", "options"), PRETRAINING)
def test_a_page_has_the_keys_of_base_and_can_be_trained(page, options):
    config = config_of(page, options)
    assert tiny_runs.types_of(config) == tiny_runs.types_of(base.get_config())
    assert config.recipe.startswith(("published: ", "not published: "))
    check(config)


@pytest.mark.parametrize(("page", "options"), LABELLED)
def test_a_page_that_learns_from_labels_has_the_keys_of_its_base(page, options):
    config = config_of(page, options)
    if page == "linear":
        default, job, job_check = classification.get_config(), "linear", recipes.check
    else:
        default, job = classification.get_finetune_config(), "finetune"
        job_check = finetune_job.check
    expected = tiny_runs.types_of(default) | {"job": str}
    assert tiny_runs.types_of(config) == expected
    assert config.job == job
    config.checkpoint = "runs/byol"
    job_check(config)


@pytest.mark.parametrize(
    "page",
    ["compare", "embed", "evaluate", "export", "operations", "transfer", "transformations"],
)
def test_a_page_names_its_job(page):
    assert config_of(page).job == page and page in jobs.JOBS


def test_types_of_sees_a_difference():
    config = base.get_config()
    with config.unlocked(), config.ignore_type():
        config.network.depth = 50
        config.network.heads = 2
    assert tiny_runs.types_of(config).items() ^ tiny_runs.types_of(base.get_config()).items() == {
        ("network.depth", str),
        ("network.depth", int),
        ("network.heads", int),
    }


# ---------------------------------------------------------------- numbers that the papers print


def test_app_a_gives_the_steps_and_the_rate_of_pseudo_code_j_1():
    config = config_of("byol")
    batch = config.batch_size
    assert pipeline.steps_for(config.num_epochs, IMAGENET, batch) == 312_784
    assert pipeline.steps_for(config.optimizer.warmup_epochs, IMAGENET, batch) == 3_127
    assert peak_learning_rate(config) == pytest.approx(3.2)  # 0.2 x 4096 / 256
    assert (config.tau_base, config.optimizer.weight_decay) == (0.996, 1.5e-6)
    # What the appendix leaves to docs/deviations.md, 1 and 4; all 1,281,167 images (24).
    assert (config.network.head_bias, config.network.last_bn_scale) == ("released", "paper")
    assert config.data.split == "train+valid"


@pytest.mark.parametrize(
    ("page", "options", "rates"),
    [
        ("linear", "", (0.4, 0.3, 0.2, 0.1, 0.05)),  # App. D.1
        ("linear", "protocol=simclr", (1.6,)),  # SimCLR App. B.6
        ("linear", "protocol=released", (0.2 * 4096 / 256,)),
        ("semi", "", (0.01, 0.02, 0.05, 0.1, 0.005)),  # App. D.1
        ("semi", "protocol=simclr", (0.8,)),  # SimCLR App. B.5
    ],
)
def test_rates_after_scaling_are_the_printed_ones(page, options, rates):
    assert recipes.scaled_rates(config_of(page, options)) == pytest.approx(rates)


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ("", True),
        ("batch=512", True),
        ("epochs=300", True),
        # Table 9: 200 layers up to 2x, 152 up to 3x.
        ("depth=200,width=2", True),
        ("depth=152,width=3", True),
        ("depth=200,width=3", False),
        ("epochs=300,width=2", False),
        ("epochs=300,batch=512", False),
        ("epochs=2000", False),
    ],
)
def test_byol_says_whether_its_setting_is_published(options, published):
    config = config_of("byol", options)
    assert config.recipe.startswith("published: ") == published


@pytest.mark.parametrize(("page", "options"), PRETRAINING)
def test_a_recipe_is_published_until_something_is_changed_of_it(page, options):
    """By the command line, or by a page that starts from this one."""
    config = config_of(page, options)
    words, made = config.recipe, pages.config_of(config.recipe)
    assert checks.with_changes(words, config.to_dict(), ["batch_size"], made) == words
    config.dataset, config.seed, config.log_every = "folder:mine", 3, 7
    assert checks.with_changes(words, config.to_dict(), [], made) == words
    config.optimizer.momentum = 0.5
    changed = checks.with_changes(words, config.to_dict(), [], made)
    assert changed == f"{words.removeprefix('published: ')}; changed: optimizer.momentum"


def test_a_recipe_of_ones_own_is_nobodys_page():
    assert pages.config_of("mine") is None


def test_a_length_without_a_recipe_takes_the_next_longer_one():
    rates = {
        epochs: config_of("byol", f"epochs={epochs}").optimizer.base_learning_rate
        for epochs in (100, 101, 300, 301, 2000)
    }
    assert rates == {100: 0.45, 101: 0.3, 300: 0.3, 301: 0.2, 2000: 0.2}


@pytest.mark.parametrize("page", ["byol", "cifar10"])
def test_options_reach_the_config(page):
    config = config_of(page, "epochs=7,batch=96,depth=101,width=1.5")
    assert (config.num_epochs, config.batch_size) == (7, 96)
    assert (config.network.depth, config.network.width) == ("101", 1.5)


def test_simclr_is_the_other_end_of_the_dials():
    """SimCLR sections 2.3 and 3: 4.8 = 0.3 x 4096 / 256, hidden units as the representation."""
    config = simclr.get_config()
    assert peak_learning_rate(config) == pytest.approx(4.8)
    assert (config.target, config.network.predictor.kind) == ("online", "none")
    assert config.network.projector.output_norm == "scale"  # BYOL App. A
    assert {config.augment[view].jitter for view in ("view1", "view2")} == {"simclr"}
    narrow = simclr.get_config("data=cifar10,depth=18,width=0.25")
    assert narrow.network.projector.hidden_size == 128
    assert narrow.objective.nt_xent.temperature == 0.5  # SimCLR Figure B.7


@pytest.mark.parametrize("width", [1, 2, 4])
def test_broader_augmentations_of_simclr(width):
    """SimCLR App. B.2: Sobel filtering, equalize, solarize, motion blur; the widths of Table 6."""
    default, broader = (
        simclr.get_config(f"epochs=1000,width={width},augment={augment}")
        for augment in ("default", "broader")
    )
    assert broader.recipe == "published: SimCLR App. B.2"
    for view in ("view1", "view2"):
        columns = default.augment[view], broader.augment[view]
        changed = {key for key in columns[0] if columns[0][key] != columns[1][key]}
        assert changed == {"sobel", "equalize", "solarize", "motion_blur"}


def test_simclr_on_places365_is_the_reproduction_of_tables_16_and_17():
    config = config_of("places365", "method=simclr")
    assert config.augment == base.get_config().augment
    assert (config.num_epochs, config.objective.name) == (1000, "nt_xent")
    assert config.dataset == config_of("places365").dataset


@pytest.mark.parametrize(("fraction", "epochs"), [(0.01, 60), (0.1, 30), (1, 30)])
def test_semi_as_simclr_is_a_grid_of_one_cell(fraction, epochs):
    """SimCLR App. B.5: 60 epochs for 1 % of the labels, else 30."""
    (cell,) = search.cells_of(config_of("semi", f"fraction={fraction},protocol=simclr"))
    assert (cell.learning_rate, cell.num_epochs, cell.weight_decay) == (0.8, epochs, 0)


@pytest.mark.parametrize(
    ("options", "rates", "decays"),
    [
        ("", (1e-4, 1e-1, 7), (1e-6, 1e-3, 8)),  # App. E.3, with no decay among the eight
        ("init=random", (1e-3, 1, 7), (1e-5, 10**-1.5, 8)),  # SimCLR App. B.8
    ],
)
def test_the_grid_of_a_transfer(options, rates, decays):
    config = config_of("finetune", options)
    for values, (low, high, count) in (
        (config.learning_rates, rates),
        (config.sweep_weight_decays, decays),
    ):
        nonzero = [value for value in values if value]
        assert (nonzero[0], nonzero[-1], len(values)) == pytest.approx((low, high, count))
        ratios = [b / a for a, b in itertools.pairwise(nonzero)]
        assert ratios == pytest.approx([10**0.5] * len(ratios))
    cells = [*search.cells_of(config)]
    assert len(cells) == 56
    # Decays are divided by the rate.
    assert cells[-1].weight_decay == pytest.approx(decays[1] / rates[1])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("page", "options", "named"),
    [
        ("byol", "epoch=3", "'epoch=3'"),
        ("byol", "epochs", "'epochs'"),
        ("byol", "epochs=2.5", "epochs='2.5'"),
        ("byol", "width=", "width=''"),
        ("cifar10", "epochs=3,rate=2", "'rate=2'"),
        ("simclr", "data=voc", "data='voc'"),
        ("simclr", "augment=wider", "augment='wider'"),
        ("places365", "method=moco", "method='moco'"),
        ("linear", "protocol=moco", "protocol='moco'"),
        ("linear", "augment=crop", "augment='crop'"),
        ("linear", "logits=clipped", "logits='clipped'"),
        ("semi", "fraction=few", "fraction='few'"),
        ("semi", "protocol=moco", "protocol='moco'"),
        ("semi", "subset=mine", "subset='mine'"),
        ("semi", "fraction=0.2,subset=published", "fraction=0.2"),
        ("finetune", "init=none", "init='none'"),
        ("supervised", "augment=cutout", "augment='cutout'"),
        ("supervised", "strength=0.5", "strength=0.5.*augment=randaugment"),
        ("supervised", "augment=color,strength=0", "strength=0"),
    ],
)
def test_wrong_options_are_named(page, options, named):
    with pytest.raises(ValueError, match=named) as caught:
        config_of(page, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("page", "named"),
    [
        ("linear.py:protocol=moco", "protocol='moco'"),
        ("ablations.py:table=5a,row=6", "row=6"),
        ("ablate.py:table=5a,rows=9", "rows='9'"),
        ("paper.py:table=4", "table='4'"),
        ("paper.py:table=lecture-moco", "experiments/ablate.py:table=lecture-moco"),
        ("moco.py:version=3", "version=3"),
        ("supcon.py:base=coco", "base='coco'"),
    ],
)
def test_a_wrong_option_exits_with_2_and_one_line(page, named, tmp_path):
    arguments = f"--config=experiments/{page}", f"--workdir={tmp_path / 'run'}"
    assert named in tiny_runs.refusal(*arguments)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- training

# The others are of the same structure, or take minutes.
IN_CI = (("byol", ""), ("digits", ""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "options"),
    # The bases of a page differ in numbers, most of which are shrunk here. MoCo v1 covers the
    # schedule that v2 lacks. SimSiam's resumed run is in methods/test_resume.py.
    [
        pytest.param(page, options, marks=[pytest.mark.ci] * ((page, options) in IN_CI))
        for page, options in PRETRAINING
        if "base=" not in options and (page, options) not in (("moco", ""), ("simsiam", ""))
    ],
)
def test_a_page_shrunk_is_trained_saved_and_resumed(page, options, tmp_path):
    config = config_of(page, options)
    config.update(
        {
            "dataset": tiny_runs.write_npz(tmp_path / "images.npz"),
            # DenseCL compares the positions of a map that has more than one.
            "image_size": 16 if page == "densecl" else 8,
            "batch_size": 8,
            "num_steps": 2,
            "log_every": 1,
            "network": {
                "depth": "tiny",
                "width": 0.5,
                "stem": "small",
                "projector": {"hidden_size": 16, "output_size": 8},
                "predictor": {"hidden_size": 16},
            },
            "evaluation": {"at_end": False},
        }
    )
    config.stop_at = 1
    train.pretrain(config, tmp_path / "run")
    config.stop_at = None
    train.pretrain(config, tmp_path / "run")
    lines = tiny_runs.metrics(tmp_path / "run")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
