"""What a config says of learning from labels: data, recipes, and shares of the labels."""

import itertools
import json

import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax.augment import compose
from byol_jax.errors import UserError
from byol_jax.evals.sgd import recipes, training
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
    data = recipes.data_of(config_of(), TRAINED)
    assert (data.dataset, data.image_size, data.eval_crop, data.exif) == (
        "digits",
        32,
        "full",
        True,
    )
    assert data.area_range == (0.2, 1.0)
    assert data.aspect_range == (0.75, 1.5)
    assert data.view == compose.AugmentParams(flip=0.25, blur=0.0)
    assert (data.metric, data.benchmark, data.batch_size) == ("top1", None, 256)


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
    assert (data.image_size, data.eval_crop) == (16, "released")
    assert (data.view.flip, data.view.blur) == (0.0, 0.0)
    assert data.area_range == (0.5, 1.0)
    assert data.metric == "map_11"  # of the row of Table 10
    assert recipes.data_of(config_of(benchmark="flowers"), TRAINED).metric == "mean_per_class"
    assert recipes.data_of(config_of(metric="mean_per_class"), TRAINED).metric == "mean_per_class"


def test_the_folder_of_tfds_goes_with_the_runs_data_set_alone():
    trained = TRAINED._replace(dataset="tfds:a", data_dir="/theirs")
    assert recipes.data_of(config_of(), trained).data_dir == "/theirs"
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
    assert (hparams.warmup_steps, hparams.total_steps, hparams.view) == (6_206, 99_309, data.view)


@pytest.mark.parametrize(
    ("augmentation", "more"),
    [
        ("spatial", {"flip": 0.25}),
        ("randaugment", {"flip": 0.25, "magnitude": 9.0}),
        (
            "pretrain",
            {
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
                }
            },
        ),
    ],
)
def test_settings_name_what_the_augmentation_uses(augmentation, more):
    config = config_of(augmentation=augmentation)
    recipe = recipes.recipe_of(config, recipes.data_of(config, TRAINED), 10_000)
    settings = training.settings_of(recipe)
    keys = {"flip", "magnitude", "view"}
    assert {key: settings[key] for key in keys & settings.keys()} == more
    json.dumps(settings)


def test_a_record_of_a_training_has_all_but_what_changes_no_bit():
    config = config_of()
    recipe = recipes.recipe_of(config, recipes.data_of(config, TRAINED), 10_000)
    record = training.training_record({"dataset": "digits"}, recipe, 10_000)
    assert record == json.loads(json.dumps(record))
    fields = {*training.Recipe._fields} - {"threads", "prefetch"}
    assert record.keys() == fields | {"dataset", "num_images"}


# Shares of the labels.


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.5])
def test_a_subset_has_its_share_of_each_class(fraction):
    counts = [1300, 1000, 732, 150]
    image_set = tiny_runs.labelled_set(counts, unlabelled=300)
    rows = recipes.class_balanced_subset(image_set, fraction, 0)
    assert np.all(np.diff(rows) > 0) and rows.dtype == np.int64
    found = np.bincount(image_set.labels[rows], minlength=4)
    np.testing.assert_array_equal(found, [round(fraction * n) for n in counts])


def test_subsets_are_nested_and_fixed_by_their_seed():
    image_set = tiny_runs.labelled_set([1300, 1000, 732, 150])
    draws = [recipes.class_balanced_subset(image_set, f, 0) for f in (0.01, 0.02, 0.1, 0.5, 1)]
    for small, large in itertools.pairwise(draws):
        assert set(small) < set(large)
    np.testing.assert_array_equal(draws[-1], np.arange(image_set.size))
    np.testing.assert_array_equal(draws[2], recipes.class_balanced_subset(image_set, 0.1, 0))
    assert set(draws[2]) != set(recipes.class_balanced_subset(image_set, 0.1, 1))


@pytest.mark.parametrize("fewest", [1, 2, 3, 6, 7, 12, 50, 51, 99, 732])
def test_a_class_without_an_example_is_refused_with_a_fraction_that_works(fewest):
    image_set = tiny_runs.labelled_set([1000, fewest])
    with pytest.raises(UserError, match=f"class 1 no example .it has {fewest}.") as caught:
        recipes.class_balanced_subset(image_set, 0.4 / fewest, 0)
    assert "\n" not in str(caught.value)
    named = float(str(caught.value).split("fraction=")[2].split()[0])
    rows = recipes.class_balanced_subset(image_set, named, 0)
    assert np.count_nonzero(image_set.labels[rows] == 1) == 1
    # And no much smaller one would do.
    assert 0.5 / fewest < named <= 1.2 * 0.5 / fewest
    with pytest.raises(UserError, match="no example"):
        recipes.class_balanced_subset(image_set, 0.5 / fewest, 0)


def test_no_share_of_several_labels_an_image():
    several = tiny_runs.labelled_set([8, 8])._replace(
        labels=np.zeros((16, 2), np.int32), multi_label=True
    )
    assert len(recipes.class_balanced_subset(several, 1.0, 0)) == 16
    with pytest.raises(UserError, match="several labels an image: no class-balanced fraction"):
        recipes.class_balanced_subset(several, 0.5, 0)
