"""The networks of a checkpoint, and the data set that a job takes from it."""

import jax
import ml_collections
import numpy as np
import pytest

import tiny_checkpoints
from byol_jax import weights
from byol_jax.errors import UserError
from byol_jax.evals import checkpoint
from byol_jax.evals.splits import load_split
from byol_jax.networks.siamese import init_network


def test_networks_of_a_checkpoint(tmp_path):
    trained = weights.load(tiny_checkpoints.save(tmp_path, "digits", num_classes=10))
    split = load_split("digits", "train", image_size=8, eval_crop="full")

    def unread():
        raise AssertionError("a trained network needs no images")

    online = checkpoint.network_of(trained, "online", 8, unread)
    target = checkpoint.network_of(trained, "target", 8, unread)
    assert online == (trained.online_params, trained.online_state)
    assert target == (trained.target_params, trained.target_state)
    params, state = checkpoint.network_of(trained, "random", 8, split.shuffled)
    drawn, empty = init_network(1337, "online", checkpoint.siamese_of(trained), 8)
    jax.tree.map(np.testing.assert_array_equal, params, drawn)
    # Its averages are those of the images, neither the empty ones nor the trained ones.
    for other in (empty, trained.online_state):
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
        assert any(not np.allclose(a, b) for a, b in pairs)
    with pytest.raises(UserError, match=r"network='both'.*online"):
        checkpoint.network_of(trained, "both", 8, unread)


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        ((None, None), ("tfds:a", "/own"), ("tfds:a", "/own")),
        ((None, "/given"), ("tfds:a", "/own"), ("tfds:a", "/given")),
        # A folder of TFDS goes with its own data set alone.
        (("tfds:b", None), ("tfds:a", "/own"), ("tfds:b", None)),
        (("tfds:b", "/given"), ("tfds:a", "/own"), ("tfds:b", "/given")),
    ],
)
def test_the_data_set_of_a_job(given, own, expected):
    config = ml_collections.ConfigDict(dict(zip(("dataset", "data_dir"), given, strict=True)))
    trained = tiny_checkpoints.trained("digits")._replace(dataset=own[0], data_dir=own[1])
    assert checkpoint.dataset_of(config, trained) == expected


@pytest.mark.parametrize("trained", [None, tiny_checkpoints.trained("")])
def test_a_job_needs_a_data_set(trained):
    config = ml_collections.ConfigDict({"dataset": None, "data_dir": None})
    with pytest.raises(UserError, match=r"config\.dataset"):
        checkpoint.dataset_of(config, trained)


def test_a_job_needs_a_checkpoint():
    with pytest.raises(UserError, match=r"config\.checkpoint"):
        checkpoint.load_weights(ml_collections.ConfigDict({"checkpoint": ""}))
