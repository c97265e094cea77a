"""Data, recipes and identities of trainings on labels, from their configs."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

import tiny_checkpoints
from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.data.depth import Depth
from byol_jax.errors import UserError
from byol_jax.evals.sgd import recipes, training
from byol_jax.evals.sgd.identity import training_record
from experiments import ablations, digits, finetune, linear, semi
from experiments import classification as page

TRAINED = tiny_checkpoints.trained(
    "digits",
    image_size=32,
    data__exif=True,
    data__area_min=0.2,
    data__aspect_max=1.5,
    augment__view1__flip=0.25,
    augment__view1__blur=0.0,
)


def config_of(**changes):
    config = page.get_config()
    config.update(changes)
    return config


def test_what_a_config_leaves_open_is_the_runs_own():
    data = recipes.data_of(config_of(crops="own"), TRAINED)
    assert (data.dataset, data.image_size, data.crops) == ("digits", 32, "own")
    assert data.cropping == weights.Cropping(
        compose.AugmentParams(flip=0.25, blur=0.0), (0.2, 1.0), (0.75, 1.5), "full", exif=True
    )
    assert (data.metric, data.benchmark, data.batch_size) == ("top1", None, 256)


def test_classifiers_see_the_depth_of_the_training(tmp_path):
    """The images alone would be taken as 8 bits."""
    for name, level in (("a/0", 100), ("b/0", 200)):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.full((4, 4), level, np.uint16)).save(tmp_path / f"{name}.png")
    trained = TRAINED._replace(depth=Depth(bits=12))
    data = recipes.data_of(config_of(dataset=f"folder:{tmp_path}"), trained)
    assert data.train_set("train+valid+test").depth.bits == 12
    (batch,) = data.split("train+valid+test").batches()
    assert batch["images"].max() == 200 >> 4


@pytest.mark.parametrize("protocol", [linear, semi, finetune])
def test_every_network_is_evaluated_on_the_crops_and_flips_of_the_paper(protocol):
    """App. D.1 and E.3, whatever T was: here that of "Remove flip" (Table 17)."""
    row = next(row for row in ablations.rows("17") if row.name == "Remove flip")
    run = ablations.config_of(row)
    assert run.augment.view1.flip == run.augment.view2.flip == 0
    record = {"config": run.to_dict(), "num_classes": 1000, "total_steps": 1}
    record["config"]["data"]["area_min"] = 0.5
    trained = weights.trained_of(record, 1, {}, {}, {}, {})
    config = protocol.get_config()
    config.dataset = "tfds:imagenet2012"
    data = recipes.data_of(config, trained)
    assert data.crops == "paper"
    assert data.cropping.view.flip == 0.5
    assert data.cropping.area_range == (0.08, 1.0)
    assert data.cropping.aspect_range == (3 / 4, 4 / 3)
    # Table 7's variation is T as it was.
    config.augmentation = "pretrain"
    data = recipes.data_of(config, trained)
    assert (data.crops, data.cropping.view.flip, data.cropping.area_range[0]) == ("own", 0.0, 0.5)


def test_no_row_of_an_ablation_changes_the_crops_of_its_evaluation():
    for table in ("17", "simclr-figure5"):
        for row in ablations.rows(table):
            record = {"config": ablations.config_of(row).to_dict(), "num_classes": 9}
            record["total_steps"] = 1
            cropping = recipes.data_of(
                config_of(), weights.trained_of(record, 1, {}, {}, {}, {})
            ).cropping
            assert (cropping.view.flip, cropping.area_range) == (0.5, (0.08, 1.0)), row.name


def test_digits_are_never_flipped_unless_the_user_says_so():
    """A mirrored 2 is no digit; checkpoints of earlier versions are known by their data set."""
    new = digits.get_config().to_dict()
    old = copy.deepcopy(new)
    del old["data"]["classifier_crops"]
    for run in (new, old):
        _, record = weights.upgrade({}, {"config": run, "num_classes": 10, "total_steps": 1})
        trained = weights.trained_of(record, 1, {}, {}, {}, {})
        cropping = recipes.data_of(config_of(), trained).cropping
        assert (cropping.view.flip, cropping.area_range) == (0.0, (0.6, 1.0))
        assert recipes.data_of(config_of(crops="paper"), trained).cropping.view.flip == 0.5
        # Other images than those of the training.
        other = recipes.data_of(config_of(dataset="tfds:cifar10"), trained)
        assert (other.crops, other.cropping.view.flip) == ("paper", 0.5)


def test_a_config_overrides_the_run():
    config = config_of(
        dataset="tfds:voc/2007",
        data_dir="/data",
        image_size=16,
        eval_crop="released",
        flip=0.0,
        area_min=0.5,
    )
    data = recipes.data_of(config, TRAINED)
    assert (data.dataset, data.data_dir) == ("tfds:voc/2007", "/data")
    assert (data.image_size, data.cropping.eval_crop) == (16, "released")
    assert (data.cropping.view.flip, data.cropping.view.blur) == (0.0, 0.0)
    assert data.cropping.area_range == (0.5, 1.0)
    assert data.metric == "map_11"  # of the row of Table 10
    assert recipes.data_of(config_of(benchmark="flowers"), TRAINED).metric == "mean_per_class"
    assert recipes.data_of(config_of(metric="mean_per_class"), TRAINED).metric == "mean_per_class"


def test_the_folder_of_tfds_goes_with_the_runs_data_set_alone():
    trained = TRAINED._replace(dataset="tfds:a", data_dir="/own")
    assert recipes.data_of(config_of(), trained).data_dir == "/own"
    assert recipes.data_of(config_of(dataset="digits"), trained).data_dir is None


def test_recipe():
    """80 epochs of 1,271,158 images in batches of 1024: 99,309.2 of them; 5 are 6,206.8."""
    config = config_of(warmup_epochs=5.0, learning_rates=(0.4, 0.1), rate_scaling="linear")
    data = recipes.data_of(config, TRAINED)
    recipe = recipes.recipe_of(config, data, 1_271_158)
    assert (recipe.total_steps, recipe.warmup_steps) == (99_309, 6_206)
    assert recipe.learning_rates == (1.6, 0.4)
    assert recipes.recipe_of(config_of(num_steps=7), data, 100).total_steps == 7
    hparams = training.hyperparameters(recipe)
    np.testing.assert_allclose(hparams.learning_rates, [1.6, 0.4])
    assert (hparams.warmup_steps, hparams.total_steps, hparams.view) == (
        6_206,
        99_309,
        data.cropping.view,
    )


@pytest.mark.parametrize(
    ("augmentation", "more"),
    [
        ("spatial", {"flip": 0.5, "crops": "paper"}),
        ("randaugment", {"flip": 0.5, "magnitude": 9.0, "crops": "paper"}),
        (
            "pretrain",
            {
                "crops": "own",
                "view": {
                    "flip": 0.25,
                    "color_jitter": 0.8,
                    "brightness_max": 0.4,
                    "contrast_max": 0.4,
                    "saturation_max": 0.2,
                    "hue_max": 0.1,
                    "grayscale": 0.2,
                    "blur": 0.0,
                    "blur_sigma_min": 0.1,
                    "blur_sigma_max": 2.0,
                    "solarize": 0.0,
                    "solarize_threshold": 0.5,
                    "simclr_jitter": 0.0,
                },
            },
        ),
    ],
)
def test_settings_name_what_the_augmentation_uses(augmentation, more):
    config = config_of(augmentation=augmentation)
    data = recipes.data_of(config, TRAINED)
    recipe = recipes.recipe_of(config, data, 10_000)
    settings = recipes.settings_of(recipe, data)
    keys = {"flip", "magnitude", "view", "crops"}
    assert {key: settings[key] for key in keys & settings.keys()} == more
    json.dumps(settings)


def test_a_record_of_a_training_has_all_but_what_changes_no_bit():
    config = config_of()
    recipe = recipes.recipe_of(config, recipes.data_of(config, TRAINED), 10_000)
    record = training_record({"dataset": "digits"}, recipe, 10_000)
    assert record == json.loads(json.dumps(record))
    fields = {*recipes.Recipe._fields} - {"threads", "prefetch"}
    assert record.keys() == fields | {"dataset", "num_images"}


def test_rates_that_overflow_with_the_batch_are_refused():
    config = config_of(learning_rates=(1e38,), batch_size=1024, rate_scaling="none")
    recipes.check(config)
    config.rate_scaling = "linear"
    with pytest.raises(UserError, match=r"config\.learning_rates=\(1e\+38,\) are more than"):
        recipes.check(config)
