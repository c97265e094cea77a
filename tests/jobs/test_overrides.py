"""Changes of several configs at once: what has no effect is neither made nor recorded."""

import ml_collections
import pytest
from ml_collections import config_dict

from byol_jax.errors import UserError
from byol_jax.jobs import overrides
from experiments import base, finetune, linear, semi, supervised


def config_of(page, options=""):
    return ml_collections.ConfigDict(page.get_config(*filter(None, [options])).to_dict())


@pytest.mark.parametrize(
    ("config", "changes", "by"),
    [
        (config_of(semi), {"num_epochs": "1"}, "sweep_epochs"),
        (config_of(finetune), {"num_epochs": "5"}, "num_steps=20000"),
        (config_of(finetune), {"sweep_epochs": "1+2"}, "num_steps=20000"),
        (config_of(finetune), {"weight_decay": "0.1"}, "sweep_weight_decays"),
        (config_of(linear), {"num_epochs": "1", "num_steps": "3"}, "num_steps=3"),
        (config_of(base), {"num_epochs": "1", "num_steps": "3"}, "num_steps=3"),
    ],
)
def test_a_key_that_a_grid_or_a_number_of_steps_overrides_is_refused(config, changes, by):
    key = next(iter(changes))
    with pytest.raises(UserError, match=rf"config\.override: config\.{key}=.*{by}") as caught:
        overrides.apply(config, changes)
    assert "\n" not in str(caught.value)


def test_none_unsets_the_number_of_steps():
    config = config_of(finetune)
    assert overrides.apply(config, {"num_steps": "None", "num_epochs": "5"}) == [
        *("num_steps=None", "num_epochs=5")
    ]
    assert (config.num_steps, config.num_epochs) == (None, 5)
    with pytest.raises(UserError, match="batch_size='None'"):
        overrides.apply(config, {"batch_size": "None"})


def test_a_key_that_a_job_does_not_read_is_as_if_it_had_none():
    """RandAugment is a matter of the supervised rows of a table alone."""
    changes = {"magnitude": "5", "batch_size": "8"}
    config = config_of(linear)
    assert overrides.apply(config, changes) == ["batch_size=8"]
    assert (config.magnitude, config.batch_size) == (9.0, 8)
    assert overrides.apply(config_of(supervised), changes) == ["magnitude=5", "batch_size=8"]


@pytest.mark.parametrize("text", ["abc", "5.5"])
def test_an_open_key_takes_its_own_type_alone(text):
    config = ml_collections.ConfigDict({"num_steps": config_dict.placeholder(int)})
    with pytest.raises(UserError, match="num_steps"):
        overrides.apply(config, {"num_steps": text})


def test_labels_of_a_folder_are_no_pair_of_their_own():
    assert overrides.parse_pairs("override", "dataset=folder:/a b,labels=/l.csv,seed=3") == {
        "dataset": "folder:/a b,labels=/l.csv",
        "seed": "3",
    }
    assert overrides.parse_pairs("datasets", "A=folder:/a,labels=l,B=folder:/b,C=npz:c") == {
        "A": "folder:/a,labels=l",
        "B": "folder:/b",
        "C": "npz:c",
    }
    # The options of sets with a target per pixel, one after the other.
    assert overrides.parse_pairs("datasets", "V=voc:/v,train=train,sbd=/s,N=nyu:n,train=m") == {
        "V": "voc:/v,train=train,sbd=/s",
        "N": "nyu:n",
        "train": "m",
    }
    # Of no folder, or twice: a pair, whose key nothing has.
    assert overrides.parse_pairs("override", "dataset=digits,labels=l")["labels"] == "l"
    assert overrides.parse_pairs("override", "a=folder:d,labels=l,labels=m")["labels"] == "m"
    with pytest.raises(UserError, match=r"config\.datasets: 'labels=' must be NAME=VALUE"):
        overrides.parse_pairs("datasets", "A=folder:/a,labels=")
