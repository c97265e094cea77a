"""The file of records: round trips, identities, and what it refuses."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.results.records import read_results, with_standard_error, write_results
from tiny_records import make_record


def test_file_is_a_list_of_the_named_fields(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [make_record()])
    assert json.loads(path.read_text()) == [
        {
            "metric": "top1",
            "value": 95.28,
            "unit": "percent",
            "protocol": "linear",
            "network": "online",
            "dataset": "digits",
            "split": "test",
            "n_examples": 360,
            "checkpoint_step": 500,
            "seed": 0,
            "settings": {"l2": 0.1},
        }
    ]
    assert os.listdir(tmp_path) == ["results.json"]


def test_round_trip(tmp_path):
    path = str(tmp_path / "new" / "results.json")
    records = [make_record(), make_record(network="pixels", checkpoint_step=None, settings={})]
    write_results(path, records)
    assert read_results(path) == records


def test_numbers_of_numpy_and_jax_become_plain(tmp_path):
    path = tmp_path / "results.json"
    record = make_record(
        value=np.float64(50.5),
        n_examples=np.int64(7),
        checkpoint_step=np.int32(3),
        settings={"split_means": np.array([1.5, 2.5]), "tau": jnp.float32(0.5)},
    )
    write_results(path, [record])
    (read,) = read_results(path)
    assert read == make_record(
        value=50.5,
        n_examples=7,
        checkpoint_step=3,
        settings={"split_means": [1.5, 2.5], "tau": 0.5},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "top5"},
        {"protocol": "knn"},
        {"network": "target"},
        {"dataset": "tfds:mnist"},
        {"split": "validation"},
        {"checkpoint_step": 1000},
        {"checkpoint_step": None},
        {"seed": 1},
        {"settings": {"solver": "sgd"}},
        {"settings": {"compared": "runs/a with runs/b"}},
    ],
)
def test_another_identity_is_kept(tmp_path, changes):
    path = tmp_path / "results.json"
    old, new = make_record(), make_record(value=1.0, **changes)
    write_results(path, [old])
    write_results(path, [new])
    assert read_results(path) == [old, new]


def test_the_same_identity_is_replaced(tmp_path):
    path = tmp_path / "results.json"
    other = make_record(protocol="knn")
    write_results(path, [make_record(), other])
    new = make_record(value=1.0, unit="fraction", n_examples=5, settings={"l2": 7})
    write_results(path, [new])
    assert sorted(read_results(path)) == sorted([other, new])


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, [make_record()])
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                write_results(path, [make_record(seed=1)])
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["results.json"]
    with pytest.raises(TypeError, match="object"):
        write_results(path, [make_record(settings={"thing": object()})])
    with pytest.raises(ValueError, match="JSON"):
        write_results(path, [make_record(settings={"thing": float("nan")})])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "teacher"},
        {"metric": ""},
        {"protocol": None},
        {"unit": ""},
        {"dataset": ""},
        {"split": 3},
        {"value": float("nan")},
        {"n_examples": 0},
        {"settings": [1]},
    ],
)
def test_invalid_records_are_refused(tmp_path, changes):
    path = tmp_path / "results.json"
    with pytest.raises(ValueError, match=next(iter(changes))):
        write_results(path, [make_record(**changes)])
    assert not path.exists()


def test_an_accuracy_gets_its_binomial_standard_error():
    """sqrt(0.9 x 0.1 / 400) = 0.015."""
    record = with_standard_error(make_record(value=90.0, n_examples=400))
    assert record.settings["standard_error"] == pytest.approx(1.5)
    assert record.settings["standard_error_of"] == "400 examples, binomial"
    assert record.settings["l2"] == 0.1
    for other in (
        make_record(settings={"standard_error": 0.6}),  # over draws of labels
        make_record(metric="mean_per_class"),
        make_record(metric="map_11"),
        make_record(metric="std_sqrt_dim", unit="1"),
    ):
        assert with_standard_error(other) == other


def test_two_numbers_for_one_identity_are_refused(tmp_path):
    with pytest.raises(ValueError, match="identity"):
        write_results(tmp_path / "results.json", [make_record(), make_record(value=1.0)])


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        "3",
        '[{"metric": "top1"}]',
        "[[1, 2]]",
        json.dumps([make_record(network="teacher")._asdict()]),
        json.dumps([{**make_record()._asdict(), "note": "mine"}]),
    ],
)
def test_other_content_is_left_alone(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"results\.json") as error:
        write_results(path, [make_record()])
    assert "\n" not in str(error.value)
    assert path.read_text() == content
    with pytest.raises(UserError, match=r"absent\.json"):
        read_results(tmp_path / "absent.json")
