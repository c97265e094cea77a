"""The file of records: round trips, identities, and what it refuses."""

import json
import multiprocessing
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import GuardError, UserError
from byol_jax.results import records as module
from byol_jax.results.records import (
    check_place,
    publish,
    read_results,
    with_standard_error,
    write_results,
)
from tiny_records import make_record

SPAWNED = multiprocessing.get_context("spawn")


def write_seeds(path: pathlib.Path, seeds: range, barrier) -> None:
    """Writes records one by one, in a process of its own."""
    barrier.wait(60)
    for seed in seeds:
        write_results(path, [make_record(seed=seed)])


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
    new = make_record(value=1.0, n_examples=5, settings={"l2": 7})
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
        {"unit": "fraction"},
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


@pytest.mark.parametrize("content", [b"[{", b"{}", b"\xff", b"[" * 10**5, None])
def test_a_file_to_which_nothing_can_be_added_is_refused_before_the_work(tmp_path, content):
    check_place(tmp_path)  # there is none
    path = tmp_path / "results.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"results.json .*move it away") as caught:
        check_place(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_table_comes_before_its_file(tmp_path, capsys):
    publish(tmp_path, [make_record()], "table")
    assert capsys.readouterr().out == f"table\nwritten: {tmp_path / 'results.json'}\n"
    assert read_results(tmp_path / "results.json") == [make_record()]


def test_numbers_that_cannot_be_written_go_to_a_file_beside(tmp_path, capsys):
    (tmp_path / "results.json").mkdir()
    beside = tmp_path / f"results-{os.getpid()}.json"
    with pytest.raises(UserError, match=f"move it away; the numbers are in {beside}$"):
        publish(tmp_path, [make_record()], "table")
    assert capsys.readouterr().out == "table\n"
    assert read_results(beside) == [make_record()]


def failing_in(monkeypatch, *folders):
    """Lets every write into these folders find a full disk."""
    original = module.disk.replacing

    def replacing(path):
        if path.parent.absolute() in folders:
            raise GuardError(f"no space left on the disk of {path}")
        return original(path)

    monkeypatch.setattr(module.disk, "replacing", replacing)


def test_numbers_go_to_the_next_folder_that_has_room(tmp_path, monkeypatch):
    run, current, temporary = (tmp_path / name for name in ("run", "current", "temporary"))
    for folder in (run, current, temporary):
        folder.mkdir()
    monkeypatch.chdir(current)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(temporary))
    for full, kept in (((run,), current), ((run, current), temporary)):
        failing_in(monkeypatch, *full)
        with pytest.raises(GuardError, match=f"no space left .*; the numbers are in {kept}/resul"):
            publish(run, [make_record()], "table")
        (file,) = kept.iterdir()
        assert read_results(file) == [make_record()]


def test_numbers_that_no_disk_takes_are_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    failing_in(monkeypatch, tmp_path)
    with pytest.raises(GuardError, match="the numbers are on standard output, a record per line"):
        publish(tmp_path, [make_record()], "table")
    table, line = capsys.readouterr().out.splitlines()
    assert table == "table" and json.loads(line) == make_record()._asdict()


def test_a_table_that_nobody_reads_is_written_all_the_same(tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise UserError("standard output cannot be written")

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(UserError, match=r"standard output .*; the numbers are in .*results.json$"):
        publish(tmp_path, [make_record()], "table")
    assert read_results(tmp_path / "results.json") == [make_record()]


@pytest.mark.parametrize(
    "error", [UnicodeEncodeError("ascii", "\xe9", 0, 1, "no"), KeyboardInterrupt()]
)
def test_whatever_the_print_raises_the_file_is_written(tmp_path, monkeypatch, error):
    class Broken:
        def write(self, text):
            raise error

    monkeypatch.setattr("sys.stdout", Broken())
    with pytest.raises(type(error)):
        publish(tmp_path, [make_record()], "table")
    assert read_results(tmp_path / "results.json") == [make_record()]


def test_two_processes_lose_no_record_of_each_other(tmp_path):
    path, count, barrier = tmp_path / "new" / "results.json", 30, SPAWNED.Barrier(2)
    writers = [
        SPAWNED.Process(target=write_seeds, args=(path, range(first, first + count), barrier))
        for first in (0, count)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert sorted(record.seed for record in read_results(path)) == [*range(2 * count)]


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError("no locks")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    write_results(tmp_path / "results.json", [make_record()])
    assert read_results(tmp_path / "results.json") == [make_record()]
