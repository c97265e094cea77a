"""The pages of configuration: their keys, and the numbers that a paper or the authors fix."""

import importlib

import pytest

import tiny_runs
from byol_jax.evals import finetune as finetune_job
from byol_jax.evals.sgd import recipes
from byol_jax.method import check, peak_learning_rate
from experiments import (
    base,
    byol,
    cifar10,
    classification,
    digits,
    finetune,
    imagenette,
    linear,
    operations,
    places365,
    semi,
    simclr,
    supervised,
)

# Every page with the options that it is documented with.
PAGES = (
    ("byol", ()),
    ("byol", ("epochs=300",)),
    ("byol", ("epochs=1000,batch=512,depth=200,width=2",)),
    ("cifar10", ()),
    ("cifar10", ("depth=18,width=0.25,batch=256,epochs=20",)),
    ("imagenette", ()),
    ("places365", ()),
    ("digits", ()),
    ("simclr", ()),
    ("simclr", ("data=cifar10",)),
    ("simclr", ("epochs=300,batch=512,depth=18,width=0.5",)),
)


def changes(config):
    """What a config says otherwise than base.py, as dotted keys."""
    ours, default = config.to_dict(), base.get_config().to_dict()

    def walk(ours, default, prefix=""):
        for name, value in ours.items():
            if isinstance(value, dict):
                yield from walk(value, default[name], f"{prefix}{name}.")
            elif value != default[name]:
                yield prefix + name, value

    return dict(walk(ours, default))


@pytest.mark.parametrize(("page", "options"), PAGES)
def test_a_page_has_the_keys_of_base_and_can_be_trained(page, options):
    config = importlib.import_module(f"experiments.{page}").get_config(*options)
    assert tiny_runs.types_of(config) == tiny_runs.types_of(base.get_config())
    assert config.recipe.startswith(("published: ", "not published: "))
    check(config)


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


def test_base_is_the_run_of_app_a():
    config = base.get_config()
    # App. A.
    assert (config.image_size, config.batch_size, config.num_epochs) == (224, 4096, 1000)
    assert (config.network.depth, config.network.width) == ("50", 1)
    assert config.network.projector.to_dict() == {
        "kind": "mlp",
        "depth": 2,
        "hidden_size": 4096,
        "output_size": 256,
    }
    assert config.network.predictor.to_dict() == {"kind": "mlp", "depth": 2, "hidden_size": 4096}
    # The end of the dials that is BYOL.
    assert (config.target, config.tau_schedule, config.objective.name) == ("ema", "cosine", "byol")
    assert (config.optimizer.name, config.optimizer.rate_scaling) == ("lars", "linear")
    assert (config.optimizer.projector_rate, config.optimizer.predictor_rate) == (1, 1)
    assert config.optimizer.base_learning_rate == 0.2
    assert config.optimizer.warmup_epochs == 10
    assert config.optimizer.weight_decay == 1.5e-6
    assert config.tau_base == 0.996
    # App. C.
    assert (config.data.area_min, config.data.area_max) == (0.08, 1)
    assert (config.data.aspect_min, config.data.aspect_max) == (0.75, 4 / 3)
    # Pseudo-code J.1.
    assert config.seed == 1337
    assert (config.optimizer.momentum, config.optimizer.trust_coefficient) == (0.9, 1e-3)
    assert (config.network.bn_decay, config.network.bn_eps) == (0.9, 1e-5)


@pytest.mark.parametrize(("view", "blur", "solarize"), [("view1", 1.0, 0.0), ("view2", 0.1, 0.2)])
def test_base_has_the_columns_of_table_6(view, blur, solarize):
    assert base.get_config().augment[view].to_dict() == {
        "flip": 0.5,
        "color_jitter": 0.8,
        "brightness_max": 0.4,
        "contrast_max": 0.4,
        "saturation_max": 0.2,
        "hue_max": 0.1,
        "grayscale": 0.2,
        "blur": blur,
        "blur_sigma_min": 0.1,  # App. C, and the next two
        "blur_sigma_max": 2.0,
        "solarize": solarize,
        "solarize_threshold": 0.5,
        **dict.fromkeys(EXTRAS, 0.0),
    }


EXTRAS = (
    *("crop", "rotate", "randaugment", "autoaugment", "equalize", "motion_blur"),
    *("sobel", "noise", "cutout"),
)


@pytest.mark.parametrize(
    ("changes", "strength", "blur"),
    # SimCLR Table 1: strengths 1/8 to 1, and 1 with blur, which is the default.
    [({"strength": 0.125, "blur": 0.0}, 0.125, 0.0), ({}, 1, 0.5)],
)
def test_simclr_augmentation_is_that_of_its_appendix_a(changes, strength, blur):
    assert base.simclr_augmentation(**changes).to_dict() == {
        "flip": 0.5,
        "color_jitter": 0.8,
        "brightness_max": 0.8 * strength,
        "contrast_max": 0.8 * strength,
        "saturation_max": 0.8 * strength,
        "hue_max": 0.2 * strength,
        "grayscale": 0.2,
        "blur": blur,
        "blur_sigma_min": 0.1,
        "blur_sigma_max": 2.0,
        "solarize": 0.0,
        "solarize_threshold": 0.5,
        **dict.fromkeys(EXTRAS, 0.0),
    }


def test_simclr_augmentation_takes_changes():
    column = base.simclr_augmentation(0.5, sobel=0.1, flip=0.0)
    assert (column.brightness_max, column.sobel, column.flip) == (0.4, 0.1, 0.0)


def test_operations_draws_the_jitter_of_strength_1():
    config = operations.get_config()
    assert config.job == "operations" and config.image is None
    assert config.jitter.to_dict() == {
        "brightness_max": 0.8,
        "contrast_max": 0.8,
        "saturation_max": 0.8,
        "hue_max": 0.2,
    }


@pytest.mark.parametrize(
    ("options", "numbers", "recipe"),
    [
        ("", (0.2, 1.5e-6, 0.996), "published: BYOL App. A"),
        ("batch=512", (0.4, 1.5e-6, 0.9995), "published: BYOL App. H"),
        ("epochs=300", (0.3, 1e-6, 0.99), "published: BYOL section 5 and App. G"),
        # Table 9: 200 layers up to 2x, 152 up to 3x.
        ("depth=200,width=2", (0.2, 1.5e-6, 0.996), "published: BYOL App. A"),
        ("depth=152,width=3", (0.2, 1.5e-6, 0.996), "published: BYOL App. A"),
        (
            "depth=200,width=3",
            (0.2, 1.5e-6, 0.996),
            "not published: BYOL App. A with ResNet-200 3x",
        ),
        (
            "depth=18",
            (0.2, 1.5e-6, 0.996),
            "not published: BYOL App. A with ResNet-18 1x",
        ),
        (
            "epochs=300,width=2",
            (0.3, 1e-6, 0.99),
            "not published: BYOL section 5 and App. G with ResNet-50 2x",
        ),
        (
            "epochs=300,batch=512",
            (0.3, 1e-6, 0.99),
            "not published: the numbers of 300 epochs at batch 4096 (BYOL section 5 and App. G)",
        ),
        (
            "epochs=301",
            (0.2, 1.5e-6, 0.996),
            "not published: the numbers of 1000 epochs at batch 4096 (BYOL App. A)",
        ),
        (
            "epochs=2000",
            (0.2, 1.5e-6, 0.996),
            "not published: the numbers of 1000 epochs at batch 4096 (BYOL App. A)",
        ),
    ],
)
def test_byol(options, numbers, recipe):
    config = byol.get_config(options)
    optimizer = config.optimizer
    assert (optimizer.base_learning_rate, optimizer.weight_decay, config.tau_base) == numbers
    assert config.recipe == recipe
    assert config.dataset == "tfds:imagenet2012"


def test_options_reach_the_config():
    config = byol.get_config("epochs=7,batch=96,depth=101,width=1.5")
    assert (config.num_epochs, config.batch_size) == (7, 96)
    assert (config.network.depth, config.network.width) == ("101", 1.5)


@pytest.mark.parametrize("page", [byol, cifar10])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("epoch=3", "unknown config option 'epoch=3': the options are epochs=1000, batch="),
        ("epochs", "unknown config option 'epochs'"),
        ("epochs=3,rate=2", "unknown config option 'rate=2'"),
        ("epochs=2.5", "epochs='2.5' must be of type int"),
        ("batch=many", "batch='many' must be of type int"),
        ("width=", "width='' must be of type float"),
    ],
)
def test_wrong_options_are_refused(page, options, message):
    with pytest.raises(ValueError, match=message):
        page.get_config(options)


def test_cifar10_differs_from_app_a_where_its_page_says():
    assert changes(cifar10.get_config()) == {
        "recipe": "not published: BYOL on CIFAR-10 in the setting of SimCLR App. B.9",
        "dataset": "tfds:cifar10",
        "image_size": 32,
        "batch_size": 1024,  # B.9's best model
        "network.stem": "small",
        "optimizer.base_learning_rate": 1.0,  # the middle one of B.9's three
        "optimizer.weight_decay": 1e-6,  # SimCLR section 2.3
        "data.eval_crop": "full",
        "augment.view1.saturation_max": 0.4,
        "augment.view1.blur": 0.0,
        "augment.view2.saturation_max": 0.4,
        "augment.view2.blur": 0.0,
        "augment.view2.solarize": 0.0,
    }


def test_cifar10_distorts_colours_with_strength_one_half():
    """SimCLR App. A: 0.8 s three times, 0.2 s, probabilities 0.8 and 0.2; App. B.9: s = 0.5."""
    config = cifar10.get_config()
    for view in (config.augment.view1, config.augment.view2):
        assert (view.brightness_max, view.contrast_max) == (0.4, 0.4)
        assert (view.saturation_max, view.hue_max) == (0.4, 0.1)
        assert (view.color_jitter, view.grayscale, view.flip) == (0.8, 0.2, 0.5)
        assert (view.blur, view.solarize) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("batch=4096,epochs=100", ""),
        ("depth=18", ", with ResNet-18 1x"),
        ("width=2", ", with ResNet-50 2x"),
        ("batch=128", ", at batch 128"),
        ("depth=18,width=0.25,batch=96", ", with ResNet-18 0.25x, at batch 96"),
    ],
)
def test_cifar10_says_what_lies_outside_of_app_b_9(options, more):
    config = cifar10.get_config(options)
    whole = "not published: BYOL on CIFAR-10 in the setting of SimCLR App. B.9"
    assert config.recipe == whole + more


def test_options_of_cifar10_change_nothing_else():
    config = cifar10.get_config("depth=18,width=0.25,batch=96,epochs=20")
    assert changes(config) == changes(cifar10.get_config()) | {
        "recipe": config.recipe,
        "network.depth": "18",
        "network.width": 0.25,
        "batch_size": 96,
        "num_epochs": 20,
    }


def test_imagenette_is_the_run_of_the_released_readme():
    assert changes(imagenette.get_config()) == {
        "recipe": "published: the README of the authors' released code, Imagenette",
        "dataset": "tfds:imagenette/160px-v2",
        "image_size": 128,
        "batch_size": 256,
        "network.depth": "18",
        "optimizer.base_learning_rate": 2.0,
        "optimizer.weight_decay": 1e-6,
        # That code's ways, where base.py has the paper's.
        "target_init": "released",
        "data.eval_crop": "released",
    }


def test_places365_is_app_a_on_other_images():
    assert changes(places365.get_config()) == {
        "recipe": "published: BYOL App. F",
        "dataset": "tfds:places365_small",
    }


def test_digits_says_that_nobody_published_it():
    config = digits.get_config()
    assert config.recipe == "not published: digits, a demonstration"
    assert (config.dataset, config.image_size) == ("digits", 8)


# The pages that learn from labels; the numbers are written out from the papers.

LABELLED = (
    (linear, ""),
    (linear, "augment=pretrain"),
    (linear, "logits=regularized"),
    (linear, "augment=pretrain,logits=regularized"),
    (linear, "protocol=simclr"),
    (linear, "protocol=released"),
    (semi, "fraction=0.01"),
    (semi, "fraction=0.5"),
    (semi, "fraction=1"),
    (semi, "fraction=0.1,subset=published"),
    (semi, "fraction=0.1,protocol=simclr"),
    (finetune, ""),
    (finetune, "init=random"),
    (supervised, "depth=200,width=2,epochs=90"),
    (supervised, "augment=simclr"),
    (supervised, "augment=crop"),
)


def labelled_base(page):
    is_linear = page is linear
    return classification.get_config() if is_linear else classification.get_finetune_config()


@pytest.mark.parametrize(("page", "options"), LABELLED)
def test_a_page_that_learns_from_labels_has_the_keys_of_its_base(page, options):
    config = page.get_config(options)
    expected = tiny_runs.types_of(labelled_base(page))
    expected["job"] = expected["protocol"] = str
    assert tiny_runs.types_of(config) == {key: expected[key] for key in tiny_runs.types_of(config)}
    assert {*expected} - {*tiny_runs.types_of(config)} <= {"protocol"}
    assert config.job == ("linear" if page is linear else "finetune")
    config.checkpoint = "runs/byol"
    (recipes if page is linear else finetune_job).check(config)


def said_otherwise(page, options=""):
    """What a page says otherwise than its base, without its name."""
    ours, default = page.get_config(options).to_dict(), labelled_base(page).to_dict()
    return {
        key: value
        for key, value in ours.items()
        if value != default.get(key) and key not in ("job", "recipe", "protocol", "encoder")
    }


def test_learning_from_labels_is_that_of_app_d_1():
    for config in (classification.get_config(), classification.get_finetune_config()):
        assert (config.batch_size, config.num_epochs, config.momentum) == (1024, 80, 0.9)
        # "We do not use any regularization methods such as weight decay, gradient clipping,
        # tclip, or logits regularization."
        assert (config.weight_decay, config.label_smoothing) == (0, 0)
        assert (config.logit_clip, config.logit_penalty) == (0, 0)
        assert (config.augmentation, config.warmup_epochs) == ("spatial", 0)
        assert (config.fit_split, config.valid_split, config.score_split) == (
            "train",
            "valid",
            "test",
        )


def test_linear():
    rates = {"learning_rates": (0.4, 0.3, 0.2, 0.1, 0.05)}
    assert said_otherwise(linear) == rates
    regularised = {"logit_clip": 20.0, "logit_penalty": 0.01}
    both = rates | regularised | {"augmentation": "pretrain"}
    assert said_otherwise(linear, "logits=regularized") == rates | regularised
    assert said_otherwise(linear, "augment=pretrain,logits=regularized") == both


def test_linear_as_simclr_and_as_released():
    """SimCLR App. B.6: batch 4096, rate 1.6 = 0.1 x 4096 / 256, 90 epochs, no validation."""
    config = linear.get_config("protocol=simclr")
    assert recipes.scaled_rates(config) == (1.6,)
    assert (config.batch_size, config.num_epochs, config.weight_decay) == (4096, 90, 0)
    assert (config.fit_split, config.valid_split) == ("train+valid", "")
    config = linear.get_config("protocol=released")
    assert recipes.scaled_rates(config) == (0.2 * 4096 / 256,)
    assert (config.fit_split, config.valid_split) == ("train+valid", "")
    assert config.eval_crop == "released"


def test_semi():
    """App. D.1: rates {0.01, 0.02, 0.05, 0.1, 0.005}, epochs {30, 50}, batch 1024."""
    found = said_otherwise(semi)
    assert sorted(found.pop("learning_rates")) == [0.005, 0.01, 0.02, 0.05, 0.1]
    assert found == {"fraction": 0.01, "sweep_epochs": (30, 50)}
    assert len(finetune_job.grid(semi.get_config("fraction=0.2"))) == 10
    published = semi.get_config("fraction=0.1,subset=published")
    assert published.train_dataset == "tfds:imagenet2012_subset/10pct"


@pytest.mark.parametrize(("fraction", "epochs"), [(0.01, 60), (0.1, 30), (1, 30)])
def test_semi_as_simclr(fraction, epochs):
    """SimCLR App. B.5: batch 4096, rate 0.8, 60 epochs for 1 % of the labels, else 30."""
    config = semi.get_config(f"fraction={fraction},protocol=simclr")
    (cell,) = finetune_job.grid(config)
    assert (cell.learning_rate, cell.num_epochs, cell.weight_decay) == (0.8, epochs, 0)
    assert (config.batch_size, config.valid_split, config.refit) == (4096, "", False)


@pytest.mark.parametrize(
    ("options", "steps", "rates", "decays"),
    [
        # App. E.3: 7 rates from 1e-4 to 1e-1, 7 decays from 1e-6 to 1e-3, and none.
        ("", 20_000, [-4, -3.5, -3, -2.5, -2, -1.5, -1], [-6, -5.5, -5, -4.5, -4, -3.5, -3]),
        # SimCLR App. B.8: 7 rates from 1e-3 to 1, 8 decays from 1e-5 to 10^-1.5.
        (
            "init=random",
            40_000,
            [-3, -2.5, -2, -1.5, -1, -0.5, 0],
            [-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5],
        ),
    ],
)
def test_finetune(options, steps, rates, decays):
    config = finetune.get_config(options)
    assert (config.num_steps, config.batch_size, config.momentum) == (steps, 256, 0.9)
    assert config.learning_rates == pytest.approx([10**x for x in rates])
    expected = [10**x for x in decays]
    none = [0.0] if not options else []
    assert config.sweep_weight_decays == pytest.approx(none + expected)
    assert (config.bn_decay, config.refit, config.decay_over_rate) == ("transfer", True, True)
    assert config.network == ("random" if options else "online")
    cells = finetune_job.grid(config)
    assert len(cells) == 56
    assert cells[-1].weight_decay == pytest.approx(10 ** (decays[-1] - rates[-1]))


def test_supervised():
    """App. D.2: 200 epochs, five of warm-up, weight decay 1e-4, label smoothing 0.1."""
    config = supervised.get_config()
    assert (config.num_epochs, config.warmup_epochs) == (200, 5)
    assert (config.weight_decay, config.label_smoothing, config.momentum) == (1e-4, 0.1, 0.9)
    assert (config.augmentation, config.network, config.image_size) == (
        "randaugment",
        "random",
        224,
    )
    assert config.save_network and not config.valid_split
    encoder = supervised.get_config("depth=200,width=2,epochs=90").encoder
    assert (encoder.depth, encoder.width) == ("200", 2)
    simclr = supervised.get_config("augment=simclr")
    assert (simclr.augmentation, simclr.label_smoothing) == ("pretrain", 0)
    assert supervised.get_config("augment=crop").augmentation == "spatial"


@pytest.mark.parametrize(
    ("page", "options", "message"),
    [
        (linear, "protocol=moco", "protocol='moco' must be one of: byol, simclr, released"),
        (linear, "augment=crop", "augment='crop' must be one of: spatial, pretrain"),
        (linear, "logits=clipped", "logits='clipped' must be one of: plain, regularized"),
        (linear, "epochs=3", "unknown config option 'epochs=3': the options are protocol=byol"),
        (semi, "fraction=few", "fraction='few' must be of type float"),
        (semi, "protocol=moco", "protocol='moco' must be byol or simclr"),
        (semi, "subset=mine", "subset='mine' must be balanced or published"),
        (semi, "fraction=0.2,subset=published", "exists for fraction=0.01 and fraction=0.1"),
        (finetune, "init=none", "init='none' must be pretrained or random"),
        (supervised, "augment=cutout", "augment='cutout' must be randaugment"),
        (supervised, "epochs=many", "epochs='many' must be of type float"),
    ],
)
def test_wrong_options_of_a_page_are_refused(page, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        page.get_config(options)
    assert "\n" not in str(caught.value)


def test_simclr_is_the_other_end_of_the_dials():
    """SimCLR sections 2.3 and 3, App. A: 4.8 = 0.3 x 4096 / 256, 128 outputs, one network."""
    config = simclr.get_config()
    assert peak_learning_rate(config) == pytest.approx(4.8)
    assert (config.num_epochs, config.batch_size) == (100, 4096)
    assert config.recipe == "published: SimCLR section 2.3"
    assert (config.optimizer.warmup_epochs, config.optimizer.weight_decay) == (10, 1e-6)
    assert (config.objective.name, config.objective.nt_xent.temperature) == ("nt_xent", 0.1)
    assert (config.target, config.network.predictor.kind) == ("online", "none")
    projector = config.network.projector
    assert (projector.depth, projector.hidden_size, projector.output_size) == (2, 2048, 128)
    for view in ("view1", "view2"):
        assert config.augment[view] == base.simclr_augmentation()
    check(config)


def test_simclr_on_cifar10():
    """App. B.9, with the temperature and one of the rates of its figures."""
    config = simclr.get_config("data=cifar10,depth=18,width=0.25")
    assert (config.num_epochs, config.batch_size, config.image_size) == (1000, 1024, 32)
    assert (config.network.stem, config.objective.nt_xent.temperature) == ("small", 0.5)
    assert config.optimizer.base_learning_rate == 1.0
    assert config.network.projector.hidden_size == 128  # as the representation
    assert config.augment.view2 == base.simclr_augmentation(0.5, blur=0.0)
    with pytest.raises(ValueError, match="data='voc' must be imagenet or cifar10"):
        simclr.get_config("data=voc")
