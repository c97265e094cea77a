"""The networks of a checkpoint, and the data set that a job takes from it."""

import logging

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


def trained_on(dataset, data_dir=None):
    """A checkpoint whose record says this."""
    return ml_collections.ConfigDict({"dataset": dataset, "data_dir": data_dir})


def job(dataset=None, data_dir=None):
    return ml_collections.ConfigDict({"dataset": dataset, "data_dir": data_dir})


@pytest.mark.parametrize(
    ("dataset", "data_dir", "words"),
    [
        ("folder:/etc", None, "folder:/etc, which the checkpoint names: give --config.dataset"),
        ("npz:/x.npz", None, "npz:/x.npz, which the checkpoint names: give --config.dataset"),
        ("tfds:a", "/x", "tfds:a in /x, which the checkpoint names: give --config.data_dir"),
    ],
)
def test_a_place_that_a_checkpoint_names_is_said_before_it_is_opened(
    caplog, dataset, data_dir, words
):
    checkpoint._tell.cache_clear()
    stranger = trained_on(dataset, data_dir)
    with caplog.at_level(logging.INFO, "byol_jax"):
        with checkpoint.own_run():
            checkpoint.dataset_of(job(), stranger)
        assert not caplog.messages
        checkpoint.dataset_of(job(dataset, data_dir), stranger)
        assert not caplog.messages
        for _ in range(2):  # said once
            assert checkpoint.dataset_of(job(), stranger) == (dataset, data_dir)
    (message,) = caplog.messages
    assert message == f"reading {words} to read another"


@pytest.mark.parametrize("name", ["digits", "tfds:mnist", "tfds:mnist:3.0.1", "tfds:a/b:1.*.*"])
def test_sets_without_a_place_are_not_named(caplog, name):
    checkpoint._tell.cache_clear()
    with caplog.at_level(logging.INFO, "byol_jax"):
        assert checkpoint.dataset_of(job(), trained_on(name)) == (name, None)
    assert not caplog.messages


@pytest.mark.parametrize("name", ["tfds:space:mnist", "tfds:space:mnist:1.0.0", "tfds:a:b/c"])
def test_a_namespace_is_taken_from_the_command_alone(name):
    with pytest.raises(UserError, match=f"give --config.dataset={name} if you trust it"):
        checkpoint.dataset_of(job(), trained_on(name))
    assert checkpoint.dataset_of(job(name), trained_on(name)) == (name, None)
