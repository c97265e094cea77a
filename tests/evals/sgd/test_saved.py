"""What the checkpoint of a training on labels says of it."""

import json

import pytest

import tiny_runs
from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.evals.sgd import recipes, saved
from byol_jax.evals.sgd.search import cells_of
from byol_jax.weights.upgrade import upgrade
from experiments import supervised


@pytest.mark.parametrize(
    ("augmentation", "applied"),
    [
        ("spatial", {"flip": 0.25, "color_jitter": 0, "blur": 0, "grayscale": 0, "solarize": 0}),
        ("randaugment", {"flip": 0.25, "color_jitter": 0, "randaugment": 1}),
        ("pretrain", {"flip": 0.25, "color_jitter": 0.8, "blur": 0.5, "randaugment": None}),
    ],
)
def test_t_is_what_was_applied(augmentation, applied) -> None:
    view = compose.AugmentParams(flip=0.25, blur=0.5)
    own = saved.applied_view(augmentation, view)._asdict()
    assert {name: own[name] for name in applied} == applied


def trained_with(options: str, **changes) -> weights.Trained:
    """What `weights.load` makes of the record of a training of supervised.py."""
    config = supervised.get_config(options)
    config.encoder.update(tiny_runs.tiny_config("digits").network)
    config.update({"dataset": "digits", "image_size": 8, **changes})
    data = recipes.data_of(config, None)
    (cell,) = cells_of(config)
    section = saved.config_of(config, cell, data.cropping) | {
        **{"dataset": "digits", "data_dir": None, "image_size": 8},
        "network": config.encoder.to_dict(),
    }
    record = {"config": section, "num_classes": 10, "total_steps": 3, "fingerprint": 1}
    _, record = upgrade({}, json.loads(json.dumps(record)))
    return weights.trained_of(record, 3, {}, {}, {}, {})


def test_crops_and_flips_are_those_of_the_training() -> None:
    trained = trained_with("augment=crop", area_min=0.3, flip=0.0, eval_crop="full")
    assert trained.cropping.area_range == (0.3, 1.0)
    assert (trained.cropping.view.flip, trained.cropping.view.color_jitter) == (0, 0)
    assert trained.cropping.eval_crop == "full"


def test_length_batch_and_augmentation_are_saved() -> None:
    trained = trained_with("epochs=90,augment=simclr", batch_size=32, num_steps=3)
    run = trained.config
    assert (run["num_epochs"], run["num_steps"], run["batch_size"]) == (90, 3, 32)
    assert (run["augmentation"], run["start"]) == ("pretrain", "random")
    assert trained.cropping.view.blur == 0.5 and trained.recipe.endswith("simclr")
    assert "threads" not in run and "learning_rates" not in run
