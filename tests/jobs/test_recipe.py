"""The recipe that is chosen from images and devices."""

import logging

import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import jobs, method, train
from byol_jax.errors import UserError
from byol_jax.jobs import recipe
from byol_jax.jobs.recipe import Facts, choose
from experiments import base, folder

# A network that trains in seconds.
TINY = {
    "network.depth": "tiny",
    "network.projector.hidden_size": 16,
    "network.projector.output_size": 8,
    "network.predictor.hidden_size": 16,
    "image_size": 32,
}


def values(facts: Facts, **given):
    given = {key.replace("__", "."): value for key, value in given.items()}
    return given | {choice.key: choice.value for choice in choose(facts, given)}


def test_the_page_leaves_open_what_is_chosen():
    config = folder.get_config()
    types = tiny_runs.types_of(base.get_config())
    # A share of an epoch may be enough on a CPU.
    assert tiny_runs.types_of(config) == types | {"num_epochs": float}
    flat = recipe.flatten(config.to_dict())
    assert {key for key in recipe.KEYS if flat[key] is None} == recipe.KEYS
    for choice in choose(Facts(1000, 224), {}):
        config.update_from_flattened_dict({choice.key: choice.value})
    method.check(config)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        # 150 x 200 images.
        (Facts(200, 3000), {"batch_size": 64, "num_epochs": 150, "image_size": 96}),
        # 120,000 images in all.
        (Facts(50_000, 32), {"num_epochs": 2.4, "image_size": 32, "network.stem": "small"}),
        # Imagenette: 36,988 updates of 256.
        (
            Facts(9469, 160, platform="gpu", memory=2**34),
            {"batch_size": 256, "num_epochs": 1000, "image_size": 128, "network.depth": "18"},
        ),
        # ImageNet: 500,455 updates of 256.
        (
            Facts(1_281_167, 350, platform="gpu", memory=2**36),
            {"network.depth": "50", "num_epochs": 100, "image_size": 224, "tau_base": 0.996},
        ),
        # The largest power of two in half of 150.
        (Facts(150, 300, platform="gpu"), {"batch_size": 64, "num_epochs": 1000}),
    ],
)
def test_recipes(facts, expected):
    found = values(facts)
    assert {key: found[key] for key in expected} == expected


def test_the_peak_rate_of_short_runs_is_2_at_any_batch():
    for given in ({}, {"batch_size": 16}, {"batch_size": 100}):
        found = values(Facts(1000, 224), **given)
        rate = found["optimizer.base_learning_rate"] * found["batch_size"] / 256
        assert rate == pytest.approx(2, rel=1e-3)


def test_what_depends_on_a_given_key_follows_it():
    found = values(Facts(1000, 224), num_steps=30_000, batch_size=32)
    assert found["num_epochs"] == 960  # 30,000 x 32 / 1000
    assert found["optimizer.warmup_epochs"] == 10  # not 48, a twentieth
    assert found["checkpoint_every"] == 1000
    assert values(Facts(1000, 224), image_size=64)["network.stem"] == "small"


@pytest.mark.parametrize(
    ("classes", "splits", "trained", "scored"),
    [
        (0, ("train",), "train+valid+test", None),
        (0, ("train", "test"), "train+valid+test", None),
        (3, ("train",), "train+valid", "test"),
        (3, ("train", "test"), "train+valid", "test"),
        (3, ("train", "valid", "test"), "train+valid", "test"),
        (3, ("train", "valid"), "train+test", "valid"),
    ],
)
def test_no_image_is_set_aside_for_nothing(classes, splits, trained, scored):
    found = values(Facts(1000, 224, classes=classes, splits=splits))
    assert found["data.split"] == trained
    assert found["evaluation.at_end"] is bool(scored)
    if scored:
        assert found["evaluation.score_split"] == scored
        assert found["evaluation.fit_split"] == trained


def test_a_batch_that_does_not_fit_is_cut_into_pieces():
    # 256 images of 128 pixels: 120e6 x (128 / 224)^2 = 39.2e6 bytes each, 10.0e9 in all.
    def pieces(memory, **more):
        return values(Facts(9469, 160, platform="gpu", memory=memory, **more))["accumulate"]

    assert pieces(21 * 10**9) == 1  # half of it is 10.5e9
    assert pieces(16 * 10**9) == 2
    assert pieces(8 * 10**9) == 4
    assert pieces(8 * 10**9, devices=4) == 1
    assert pieces(None) == 1


def test_devices_divide_the_batch():
    found = values(Facts(1000, 224, platform="gpu", devices=6))
    assert found["batch_size"] % 6 == 0


@pytest.mark.parametrize(
    ("facts", "given", "words"),
    [
        (Facts(15, 224), {}, ("15 images", "needs 16", "--config.batch_size=7")),
        (Facts(15, 224, devices=4), {}, ("15 images", "--config.batch_size=4")),
        (Facts(100, 224, devices=64, name="digits"), {}, ("config.dataset=digits", "needs 128")),
        (Facts(100, 15), {}, ("15 pixels", "16 or more", "--config.image_size=32")),
    ],
)
def test_what_is_too_small_is_refused_with_what_helps(facts, given, words):
    with pytest.raises(UserError) as error:
        choose(facts, given)
    assert all(word in str(error.value) for word in words)


def test_what_cannot_help_is_not_advised():
    for facts in (Facts(1, 224), Facts(100, 224, devices=64)):
        with pytest.raises(UserError) as error:
            choose(facts, {})
        assert "--config.batch_size" not in str(error.value)


def test_what_the_messages_say_helps():
    assert values(Facts(15, 224), batch_size=7)["batch_size"] == 7
    assert values(Facts(100, 15), image_size=32)["network.stem"] == "small"
    assert values(Facts(16, 224))["batch_size"] == 8


def test_grey_images_lose_only_what_colours_need():
    grey = values(Facts(1000, 224, is_grey=True))
    assert grey["augment.view1.hue_max"] == grey["augment.view2.grayscale"] == 0
    colour = values(Facts(1000, 224))
    assert colour["augment.view1.saturation_max"] == 0.2 and colour["augment.view2.hue_max"] == 0.1


def test_images_that_are_scored_do_not_count():
    config = folder.get_config()
    config.dataset = "digits"  # 1,797, of which a fifth of each class is the test split
    facts = recipe.facts_of(config)
    assert (facts.classes, facts.side, facts.is_grey) == (10, 8, True)
    assert facts.images == 1797 - 359
    config.data.split = "train"
    assert recipe.facts_of(config).images < 1438


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        grey = rng.integers(0, 256, (40 + i, 100, 1), np.uint8)
        Image.fromarray(np.repeat(grey, 3, axis=2)).save(root / f"{i}.jpg")
    return root


def config_of(root):
    config = folder.get_config()
    config.dataset = f"folder:{root}"
    return config


def test_facts_are_read_from_the_files(photographs):
    facts = recipe.facts_of(config_of(photographs))
    # Short sides from 40 to 59.
    assert (facts.images, facts.side, facts.classes, facts.splits) == (20, 49, 0, ("train",))
    assert facts.is_grey and facts.platform == "cpu"
    pixels = np.asarray(Image.open(photographs / "0.jpg")).copy()
    pixels[:9, :9] = [255, 0, 0]
    Image.fromarray(pixels).save(photographs / "0.jpg")
    assert not recipe.facts_of(config_of(photographs)).is_grey


def test_each_choice_is_printed_with_its_reason(photographs, tmp_path, caplog):
    config = config_of(photographs)
    config.tau_base = 0.9
    with caplog.at_level(logging.INFO, "byol_jax"):
        jobs.fill(config, tmp_path / "run")
    assert "20 images of 49 pixels in the median, nothing to score" in caplog.text
    assert "all images are grey" in caplog.text
    assert "  batch_size=8  (two batches per epoch or more)" in caplog.text.splitlines()
    assert "tau_base" not in caplog.text and config.tau_base == 0.9
    assert config.data.split == "train+valid+test"


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_that_goes_on_keeps_its_recipe(photographs, tmp_path, caplog):
    first = config_of(photographs)
    first.update_from_flattened_dict(TINY)
    first.num_steps = 3
    jobs.fill(first, tmp_path)
    train.pretrain(first, tmp_path)
    (tmp_path / "config.json").unlink()
    (photographs / "0.jpg").unlink()  # another number of images
    again = config_of(photographs)
    with caplog.at_level(logging.INFO, "byol_jax"):
        jobs.fill(again, tmp_path)
    assert {key: again.to_dict()[key] for key in ("batch_size", "num_steps", "num_epochs")} == {
        "batch_size": 8,
        "num_steps": 3,
        "num_epochs": 1.2,  # 3 x 8 / 20
    }
    assert again.network.width == 0.25 and again.data.area_min == first.data.area_min
    assert f"the recipe of the run in {tmp_path}" in caplog.text
    longer = config_of(photographs)
    longer.num_epochs = 5.0
    jobs.fill(longer, tmp_path)
    assert longer.num_steps is None and longer.num_epochs == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "config.batch_size=0"),
        ({"num_epochs": float("inf")}, "config.num_epochs=inf"),
        ({"image_size": 0}, "config.image_size=0"),
        ({"num_steps": 0}, "config.num_steps=0"),
        ({"choose": False}, "config.choose=False leaves config.batch_size"),
        ({"dataset": "npz:none.npz"}, "config.dataset=npz:none.npz"),
        ({"dataset": "folder:none"}, "config.dataset=folder:none"),
    ],
)
def test_values_that_nothing_can_be_chosen_by(photographs, tmp_path, changes, words):
    config = config_of(photographs)
    config.update(changes)
    with pytest.raises(UserError) as error:
        jobs.fill(config, tmp_path)
    assert words in str(error.value)


def test_given_keys_decide_what_is_scored():
    labelled = Facts(1000, 224, classes=3)
    found = values(labelled, evaluation__at_end=False)
    assert found["data.split"] == "train+valid+test"
    found = values(labelled, data__split="train+valid+test")
    assert found["evaluation.at_end"] is False
    found = values(labelled, data__split="train")
    assert found["evaluation.at_end"] is True


def test_whole_images_stay_whole():
    assert values(Facts(1000, 3000))["data.scaled_decoding"] is True
    assert values(Facts(1000, 3000), data__resident=True)["data.scaled_decoding"] is False
    assert values(Facts(1000, 3000), data__service="grpc://x")["data.scaled_decoding"] is False


def test_short_runs_of_many_images_have_epochs():
    assert values(Facts(1_281_167, 350), num_steps=20)["num_epochs"] == pytest.approx(
        1e-3, rel=1e-3
    )


@pytest.mark.parametrize(
    ("counts", "classes"),
    [
        ({"a": 10, "b": 10}, 2),
        ({"photos": 20}, 0),  # one class tells nothing
        ({str(i): 2 for i in range(10)}, 0),  # a fifth of two is none
    ],
)
def test_classes_are_scored_where_there_is_something_to_score(tmp_path, counts, classes):
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (20, 20)).save(tmp_path / name / f"{i}.png")
    facts = recipe.facts_of(config_of(tmp_path))
    assert facts.classes == classes
    assert facts.images == (16 if classes else 20)


def test_other_pages_are_left_alone(tmp_path):
    config = tiny_runs.tiny_config("digits")
    before = config.to_dict()
    jobs.fill(config, tmp_path)
    assert config.to_dict() == before


def test_the_program_refuses_a_folder_that_is_too_small(photographs, tmp_path):
    for i in range(8):
        (photographs / f"{i}.jpg").unlink()
    line = tiny_runs.refusal(
        *("--config=experiments/folder.py", f"--config.dataset=folder:{photographs}"),
        f"--workdir={tmp_path / 'run'}",
    )
    assert "12 images" in line and "--config.batch_size=6" in line
    assert not (tmp_path / "run").exists()
