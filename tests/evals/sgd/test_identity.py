"""Which keys tell one training on labels from another."""

import ml_collections
import pytest

from byol_jax import checks
from byol_jax.evals import finetune
from byol_jax.evals.sgd import recipes, search
from byol_jax.evals.sgd.identity import identity, training_record
from experiments import classification

# Another value of each key that decides the result of a training.
DECIDING = {
    **{"seed": 1, "network": "target", "checkpoint": "runs/other", "dataset": "npz:other"},
    **{"benchmark": "cifar10", "image_size": 9, "fit_split": "train+valid", "batch_size": 16},
    **{"num_epochs": 3.0, "num_steps": 7, "warmup_epochs": 0.5, "learning_rates": (0.1, 0.7)},
    **{"rate_scaling": "sqrt", "momentum": 0.5, "weight_decay": 0.1, "label_smoothing": 0.1},
    **{"logit_clip": 3.0, "logit_penalty": 0.1, "augmentation": "randaugment", "magnitude": 3.0},
    **{"flip": 0.1, "area_min": 0.5, "view.blur": 0.9},
}
# Of a grid of whole networks.
OF_GRIDS = {
    **{"protocol": "other", "train_dataset": "npz:other", "subset_seed": 3, "bn_decay": "0.5"},
    **{"sweep_epochs": (2.0, 3.0), "sweep_weight_decays": (0.1, 0.2), "decay_over_rate": True},
    **{"refit": True, "encoder.depth": "34", "valid_split": "test", "metric": "mean_per_class"},
    "eval_crop": "full",
}
# `fraction` is in the number of images and in their fingerprint, which record the data set, too;
# `crops` is in the area and the flips; the other entries of `view` are as `view.blur`.
BY_OTHERS = frozenset(("fraction", "crops", "data_dir"))
# What is scored of a classifier, and what changes no number.
SILENT = frozenset(
    (
        *("recipe", "job", "follow", "follow_seconds", "follow_hours", "score_split"),
        *("eval_batch_size", "threads", "prefetch", "save_predictions", "save_network"),
        *("log_every", "checkpoint_every", "skip_damaged"),
    )
)


def config_of(is_grid: bool) -> ml_collections.ConfigDict:
    page = classification.get_finetune_config if is_grid else classification.get_config
    config = page()
    config.update({"dataset": "digits", "image_size": 8, "batch_size": 8, "weight_decay": 0.2})
    return config


def marks(config: ml_collections.ConfigDict, is_grid: bool, monkeypatch, tmp_path) -> object:
    """What a training of 64 images is known by."""
    data = recipes.data_of(config, None)
    if not is_grid:
        recipe = recipes.recipe_of(config, data, 64)
        return training_record(identity(config, None, "linear"), recipe, 64)
    monkeypatch.setattr(finetune, "_start", lambda *_: None)
    job = finetune._job_of(None, config, data, tmp_path)
    return [job.fingerprint(cell, 64) for cell in search.cells_of(config)], config.refit


@pytest.mark.parametrize(
    ("is_grid", "key"),
    [
        *((False, key) for key in DECIDING),
        *((True, key) for key in (*DECIDING, *OF_GRIDS)),
    ],
)
def test_what_decides_a_training_is_in_its_marks(is_grid, key, monkeypatch, tmp_path) -> None:
    config = config_of(is_grid)
    if key == "rate_scaling":
        config.learning_rates = (0.3,)
    if key == "decay_over_rate":
        config.learning_rates = (0.3,)
    before = marks(config, is_grid, monkeypatch, tmp_path)
    config.update_from_flattened_dict({key: {**DECIDING, **OF_GRIDS}[key]})
    assert marks(config, is_grid, monkeypatch, tmp_path) != before


@pytest.mark.parametrize("is_grid", [False, True])
def test_every_key_is_classified(is_grid) -> None:
    keys = {*checks.flatten(config_of(is_grid).to_dict())}
    known = {*DECIDING, *OF_GRIDS, *BY_OTHERS, *SILENT}
    others = {key for key in keys - known if not key.startswith(("view.", "encoder."))}
    assert others == set()
