"""Records of earlier versions, with today's keys."""

import copy

import numpy as np
import pytest

import tiny_runs
from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.weights.upgrade import upgrade

# As the first version wrote them, of the keys that anything reads.
COLUMN = {"flip": 0.5, "blur": 1.0}
FIRST = {
    "num_classes": 10,
    "config": {
        "job": "pretrain",
        "recipe": "not named",
        "seed": 7,
        "dataset": "digits",
        "image_size": 8,
        "num_epochs": 1000,
        "network": {
            "depth": "tiny",
            "width": 1.0,
            "stem": "small",
            "projector": {"depth": 2, "hidden_size": 16, "output_size": 8},
            "predictor": {"depth": 2, "hidden_size": 16},
            "head_bias": "released",
            "last_bn_scale": "paper",
            "bn_decay": 0.9,
            "bn_eps": 1e-5,
        },
        "augment": {"view1": COLUMN, "view2": COLUMN | {"blur": 0.1}},
        "data": {
            "area_min": 0.08,
            "area_max": 1.0,
            "aspect_min": 3 / 4,
            "aspect_max": 4 / 3,
            "eval_crop": "full",
        },
    },
}
# As fine-tuning saves a network.
SUPERVISED = {
    "num_classes": 3,
    "total_steps": 5,
    "fingerprint": 1,
    "config": {
        "job": "finetune",
        "seed": 7,
        "dataset": "tfds:a",
        "data_dir": "/data",
        "image_size": 8,
        "network": FIRST["config"]["network"],
        "data": {"eval_crop": "released", "exif": True},
    },
}


def trained_of(record):
    _, record = upgrade({}, record)
    return weights.trained_of(record, 5, {}, {}, {}, {})


def test_the_first_version():
    trained = trained_of(FIRST)
    assert (trained.total_steps, trained.data_dir, trained.cropping.exif) == (None, None, False)
    assert (trained.method, trained.network.projector.kind) == ("byol", "mlp")
    assert trained.config["target"] == "ema"
    assert trained.view2 == compose.AugmentParams(blur=0.1)
    # The identity of trainings holds this section: it stays as it was saved.
    assert trained.config["network"] == FIRST["config"]["network"]


def test_a_network_trained_on_labels():
    trained = trained_of(SUPERVISED)
    assert (trained.method, trained.recipe, trained.has_heads) == ("supervised", None, False)
    assert (trained.data_dir, trained.view2) == ("/data", None)
    assert trained.cropping == weights.Cropping(eval_crop="released", exif=True)
    # It is unknown what it was trained with.
    unknown = ("start", "augmentation", "batch_size", "num_epochs", "num_steps")
    assert [trained.config[key] for key in unknown] == [None] * 5


@pytest.mark.parametrize(
    "record",
    [
        FIRST,
        SUPERVISED,
        {"config": tiny_runs.tiny_config("digits").to_dict(), "num_classes": 2, "total_steps": 6},
    ],
)
def test_an_upgrade_is_done_once_and_changes_no_argument(record):
    before, flat = copy.deepcopy(record), {"step": np.zeros(())}
    arrays, upgraded = upgrade(flat, record)
    assert record == before and arrays == flat
    assert upgrade(arrays, upgraded) == (arrays, upgraded)


def test_todays_record_stays_as_it_is():
    config = tiny_runs.tiny_config("digits").to_dict()
    record = {"config": config, "num_classes": 2, "total_steps": 6}
    assert upgrade({}, record)[1] == record
