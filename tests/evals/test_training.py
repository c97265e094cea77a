"""What linear evaluation and fine-tuning share: settings, shares of the labels, predictions."""

import itertools
import json

import jax
import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax import augment, classification
from byol_jax.data import images
from byol_jax.errors import UserError
from byol_jax.evals import common, training
from byol_jax.networks import siamese
from experiments import classification as page

TRAINED = {
    "dataset": "digits",
    "data_dir": None,
    "image_size": 32,
    "data": {"eval_crop": "full", "exif": True, "area_min": 0.2, "aspect_max": 1.5},
    "augment": {"view1": {"flip": 0.25, "blur": 0.0}},
}


def config_of(**changes):
    config = page.get_config()
    config.update(changes)
    return config


def test_what_a_config_leaves_open_is_the_runs_own():
    data = training.data_of(config_of(), TRAINED)
    assert (data.dataset, data.image_size, data.eval_crop, data.exif) == (
        "digits",
        32,
        "full",
        True,
    )
    assert data.area_range == (0.2, 1.0)
    assert data.aspect_range == (0.75, 1.5)
    assert data.view == augment.AugmentParams(flip=0.25, blur=0.0)
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
    data = training.data_of(config, TRAINED)
    assert (data.dataset, data.data_dir) == ("tfds:voc/2007", "/data")
    assert (data.image_size, data.eval_crop) == (16, "released")
    assert (data.view.flip, data.view.blur) == (0.0, 0.0)
    assert data.area_range == (0.5, 1.0)
    assert data.metric == "map_11"  # of the row of Table 10
    assert training.data_of(config_of(benchmark="flowers"), TRAINED).metric == "mean_per_class"
    assert training.data_of(config_of(metric="mean_per_class"), TRAINED).metric == "mean_per_class"


def test_the_folder_of_tfds_goes_with_the_runs_data_set_alone():
    trained = TRAINED | {"dataset": "tfds:a", "data_dir": "/theirs"}
    assert training.data_of(config_of(), trained).data_dir == "/theirs"
    assert training.data_of(config_of(dataset="digits"), trained).data_dir is None


def test_recipe():
    """80 epochs of 1,271,158 images in batches of 1024: 99,309.2 of them; 5 are 6,206.8."""
    config = config_of(warmup_epochs=5.0, learning_rates=(0.4, 0.1), rate_scaling="linear")
    data = training.data_of(config, TRAINED)
    recipe = training.recipe_of(config, data, 1_271_158)
    assert (recipe.total_steps, recipe.warmup_steps) == (99_309, 6_206)
    assert recipe.learning_rates == (1.6, 0.4)
    assert training.recipe_of(config_of(num_steps=7), data, 100).total_steps == 7
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
    recipe = training.recipe_of(config, training.data_of(config, TRAINED), 10_000)
    settings = training.settings_of(recipe)
    keys = {"flip", "magnitude", "view"}
    assert {key: settings[key] for key in keys & settings.keys()} == more
    json.dumps(settings)


def test_a_record_of_a_training_has_all_but_what_changes_no_bit():
    config = config_of()
    recipe = training.recipe_of(config, training.data_of(config, TRAINED), 10_000)
    record = training.training_record({"dataset": "digits"}, recipe, 10_000)
    assert record == json.loads(json.dumps(record))
    fields = {*training.Recipe._fields} - {"threads", "prefetch"}
    assert record.keys() == fields | {"dataset", "num_images"}


@pytest.mark.parametrize(
    ("values", "best", "said"),
    [
        ((0.1, 0.2, 0.3), 1, {}),
        ((0.1, 0.2, 0.3), 2, {"rate_at_end_of_grid": "highest"}),
        ((0.3, 0.2, 0.1), 2, {"rate_at_end_of_grid": "lowest"}),
        ((0.1, 0.1, 0.2), 1, {"rate_at_end_of_grid": "lowest"}),
        ((0.1,), 0, {}),
        ((0.1, 0.1), 1, {}),  # one rate in two cells
    ],
)
def test_a_best_value_at_an_end_of_the_sweep_is_said(values, best, said, caplog):
    with caplog.at_level("WARNING", logger="byol_jax"):
        assert training.at_an_end("rate", values, best) == said
    assert ("of those tried" in caplog.text) == bool(said)


# Shares of the labels.


def labelled(counts, unlabelled=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.concatenate([labels, np.full(unlabelled, -1)]).astype(np.int32)
    labels = np.random.default_rng(2).permutation(labels)
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return images.ImageSet("set", pixels, labels, len(counts))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.5])
def test_a_subset_has_its_share_of_each_class(fraction):
    counts = [1300, 1000, 732, 150]
    image_set = labelled(counts, unlabelled=300)
    rows = training.class_balanced_subset(image_set, fraction, 0)
    assert np.all(np.diff(rows) > 0) and rows.dtype == np.int64
    found = np.bincount(image_set.labels[rows], minlength=4)
    np.testing.assert_array_equal(found, [round(fraction * n) for n in counts])


def test_subsets_are_nested_and_fixed_by_their_seed():
    image_set = labelled([1300, 1000, 732, 150])
    draws = [training.class_balanced_subset(image_set, f, 0) for f in (0.01, 0.02, 0.1, 0.5, 1)]
    for small, large in itertools.pairwise(draws):
        assert set(small) < set(large)
    np.testing.assert_array_equal(draws[-1], np.arange(image_set.size))
    np.testing.assert_array_equal(draws[2], training.class_balanced_subset(image_set, 0.1, 0))
    assert set(draws[2]) != set(training.class_balanced_subset(image_set, 0.1, 1))


@pytest.mark.parametrize("fewest", [1, 2, 3, 6, 7, 12, 50, 51, 99, 732])
def test_a_class_without_an_example_is_refused_with_a_fraction_that_works(fewest):
    image_set = labelled([1000, fewest])
    with pytest.raises(UserError, match=f"class 1 no example .it has {fewest}.") as caught:
        training.class_balanced_subset(image_set, 0.4 / fewest, 0)
    assert "\n" not in str(caught.value)
    named = float(str(caught.value).split("fraction=")[2].split()[0])
    rows = training.class_balanced_subset(image_set, named, 0)
    assert np.count_nonzero(image_set.labels[rows] == 1) == 1
    # And no much smaller one would do.
    assert 0.5 / fewest < named <= 1.2 * 0.5 / fewest
    with pytest.raises(UserError, match="no example"):
        training.class_balanced_subset(image_set, 0.5 / fewest, 0)


def test_no_share_of_several_labels_an_image():
    several = labelled([8, 8])._replace(labels=np.zeros((16, 2), np.int32), multi_label=True)
    assert len(training.class_balanced_subset(several, 1.0, 0)) == 16
    with pytest.raises(UserError, match="several labels an image: no class-balanced fraction"):
        training.class_balanced_subset(several, 0.5, 0)


# Predictions.


@pytest.fixture(scope="module")
def network():
    return siamese.encoder(siamese.NetworkSpec(depth="tiny", stem="small"))


@pytest.fixture(scope="module")
def encoder(network):
    init = jax.eval_shape(
        lambda: network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), True)
    )
    return tuple(tiny_checkpoints.fill(part, 0) for part in init)


def heads_of(network, encoder, classes):
    features = training.feature_size(network, encoder, 8)
    rng = np.random.default_rng(1)
    return {
        "w": rng.normal(size=(2, features, classes)).astype(np.float32),
        "b": rng.normal(size=(2, classes)).astype(np.float32),
    }


def split_of(crops, labels, batch_size=8):
    def batches():
        for start in range(0, len(crops), batch_size):
            part = slice(start, start + batch_size)
            yield {"images": crops[part], "labels": labels[part]}

    return common.Split("test", len(crops), 6, labels.ndim == 2, batches, batches)


def logits_of(network, encoder, heads, crops):
    views = augment.normalize(augment.to_float(crops))
    outputs, _ = jax.jit(network.apply, static_argnums=4)(*encoder, None, views, False)
    embedding = np.float64(outputs["embedding"])
    return np.einsum("bc,rck->brk", embedding, heads["w"]) + heads["b"]


@pytest.mark.parametrize("count", [1, 7, 17])
def test_any_number_of_images_is_ranked_and_scored(network, encoder, count):
    heads = heads_of(network, encoder, 6)
    crops, labels = tiny_runs.images(17)[:count], (np.arange(count) * 5 % 6).astype(np.int32)
    found = training.predict(network, encoder, heads, split_of(crops, labels), 8)
    logits = logits_of(network, encoder, heads, crops)
    expected = np.argsort(-logits, axis=-1)[..., :5]
    np.testing.assert_array_equal(found.ranked, expected)
    np.testing.assert_array_equal(found.labels, labels)
    for head in range(2):
        scores = training.score(found, head, "top1")
        assert list(scores) == ["top1", "top5"]
        right = [logits[i, head].argmax() == labels[i] for i in range(count)]
        assert scores["top1"] == pytest.approx(100 * np.mean(right))
        right = [labels[i] in expected[i, head] for i in range(count)]
        assert scores["top5"] == pytest.approx(100 * np.mean(right))
    assert list(training.score(found, 0, "mean_per_class")) == ["mean_per_class", "top1", "top5"]


def test_images_without_labels_are_not_scored(network, encoder):
    heads = heads_of(network, encoder, 3)
    crops, labels = tiny_runs.images(17), (np.arange(17) % 4 - 1).astype(np.int32)
    found = training.predict(network, encoder, heads, split_of(crops, labels), 8)
    np.testing.assert_array_equal(found.labels, labels[labels >= 0])
    logits = logits_of(network, encoder, heads, crops)[labels >= 0]
    np.testing.assert_array_equal(found.ranked, np.argsort(-logits, axis=-1))
    assert list(training.score(found, 0, "top1")) == ["top1"]  # no top 5 of three classes


def test_several_labels_an_image_are_scored_by_average_precision(network, encoder):
    heads = heads_of(network, encoder, 3)
    crops = tiny_runs.images(17)
    labels = np.random.default_rng(0).integers(-1, 2, (17, 3)).astype(np.int32)
    labels[4] = -1
    found = training.predict(network, encoder, heads, split_of(crops, labels), 8)
    known = np.arange(17) != 4
    known &= labels.max(axis=1) >= 0
    logits = logits_of(network, encoder, heads, crops)[known]
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert found.ranked is None
    # A head that says the labels themselves.
    perfect = found._replace(logits=np.stack([labels[known]] * 2, axis=1).astype(np.float32))
    assert training.score(perfect, 1, "map_11") == {"map_11": 100.0}
    with pytest.raises(UserError, match="metric='top1' must be map_11 for several labels"):
        training.score(found, 0, "top1")


def test_labels_that_were_not_learnt_are_refused(network, encoder):
    heads = heads_of(network, encoder, 3)
    labels = np.array([0, 1, 5], np.int32)
    with pytest.raises(UserError, match="test split has the label 5, outside of the 3 classes"):
        training.predict(network, encoder, heads, split_of(tiny_runs.images(3), labels), 8)
    with pytest.raises(UserError, match="no image of the test split has a label"):
        training.predict(network, encoder, heads, split_of(tiny_runs.images(3), labels * 0 - 1), 8)


def test_labels_outside_of_the_classes_end_a_training(network, encoder):
    train_set = labelled([8, 8])._replace(images=tiny_runs.images(16))
    train_set.labels[3] = 2
    state = classification.init(classification.init_heads(0, 1, 8, 2))
    recipe = training.Recipe(0, 8, 8, 2, 0, (0.1,))
    frozen_network = siamese.encoder(siamese.NetworkSpec(depth="tiny", stem="small"))
    with pytest.raises(UserError, match="a label is 2, outside of the 2 classes 0 to 1"):
        training.fit(frozen_network, train_set, state, encoder, recipe, description="x")


@pytest.mark.parametrize(
    ("metric", "several", "message"),
    [
        ("top1", True, "metric='top1' must be map_11 for several labels an image"),
        ("map_11", False, "metric='map_11' must be top1 or mean_per_class for one label an image"),
        ("top5", False, "metric='top5' must be top1 or mean_per_class"),
    ],
)
def test_metrics_go_with_labels(metric, several, message):
    with pytest.raises(UserError, match=message):
        training.check_metric(metric, several)
    for right, kind in (("top1", False), ("mean_per_class", False), ("map_11", True)):
        training.check_metric(right, kind)
