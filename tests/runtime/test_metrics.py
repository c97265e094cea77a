"""metrics.jsonl: one flat object per line, no step twice."""

import contextlib
import json
import logging
import math
import pathlib
import re
import time

import pytest
from tensorboardX import record_writer

from byol_jax.errors import GuardError
from byol_jax.runtime import metrics


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_flat_and_tensorboard_is_written(tmp_path):
    with contextlib.closing(metrics.Writer(tmp_path, 0)) as writer:
        writer.write(1, "train", {"loss": 2.5, "tau": math.nan})
        writer.write(1, "test", {"knn_top1": 50.0})
    assert lines(tmp_path) == [
        {"step": 1, "split": "train", "loss": 2.5, "tau": None},
        {"step": 1, "split": "test", "knn_top1": 50.0},
    ]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    with contextlib.closing(metrics.Writer(tmp_path, 0)) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "spl')  # killed in the middle of a line
    with contextlib.closing(metrics.Writer(tmp_path, 2)) as writer:
        writer.write(3, "train", {"loss": 30.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_bad_lines_are_dropped_and_counted(tmp_path, caplog):
    good = [b'{"step": 1, "loss": 2.0}', '{"step": 2, "split": "träin"}'.encode()]
    bad = [b'{"step": 1, "loss": \xff}', b"\0" * 100, b'{"step": "1"}', b"7", b"[" * 10**5, b'{"st']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], *bad[:5], good[1], bad[5]]))
    with (
        caplog.at_level(logging.WARNING, "byol_jax"),
        contextlib.closing(metrics.Writer(tmp_path, 2)),
    ):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\n".join([*good, b""])
    (message,) = caplog.messages
    assert message.endswith("metrics.jsonl: 6 line(s) that cannot be read are dropped")


def test_a_full_disk_is_said_by_the_step_that_meets_it(tmp_path):
    full = pathlib.Path("/dev/full")
    with contextlib.closing(metrics.Writer(tmp_path, 0)) as writer, full.open("wb", 0) as file:
        writer._file.close()
        writer._file = file
        with pytest.raises(GuardError, match=r"no space left on the disk of .*metrics.jsonl"):
            writer.write(1, "train", {"loss": 1.0})


def test_a_full_disk_of_events_is_said_too(tmp_path, monkeypatch):
    full = pathlib.Path("/dev/full")
    monkeypatch.setattr(record_writer, "open_file", lambda path: full.open("wb"))
    writer = metrics.Writer(tmp_path, 0)

    def write():
        for step in range(1, 1000):
            writer.write(step, "train", {"loss": 1.0})
            time.sleep(0.01)

    with pytest.raises(GuardError, match=r"no space left on the disk of .*events.out.tfevents"):
        write()
    with pytest.raises(GuardError):
        writer.close()
    # All values are in the other file.
    written = [line["step"] for line in lines(tmp_path)]
    assert written and written == [*range(1, len(written) + 1)]


def test_progress_shows_speed_and_time_left_from_the_second_call_on(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))  # ten seconds between any two readings
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    with contextlib.closing(metrics.Progress(1000, "pretrain")) as progress:
        progress.advance(100, "step 1")
        progress.advance(200, "step 2")
        progress.advance(300, "step 3")
    shown = capsys.readouterr().err
    assert "step 3" in shown
    # 300 of 1000 images, the time left, and a rate in images per second.
    assert re.search(r"300/1\.00k \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(img/s|s/img)", shown)


@pytest.mark.parametrize(("is_first", "count"), [(True, 1), (False, 0)])
def test_what_takes_long_is_announced_on_the_first_process(monkeypatch, caplog, is_first, count):
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    monkeypatch.setattr(metrics.processes, "is_first_process", lambda: is_first)
    with metrics.announced("at work", seconds=0.01):
        time.sleep(0.2)
    with pytest.raises(ZeroDivisionError), metrics.announced("not at work", seconds=0.2):
        raise ZeroDivisionError
    time.sleep(0.3)
    assert [record.getMessage() for record in caplog.records] == ["at work"] * count


@pytest.mark.parametrize(
    ("seconds", "per_step", "left"),
    [
        # From step 13 on; the 10 s are over with step 13 + n; 100 - (13 + n - 2) steps are left.
        (0.52, "0.52", "36 s"),  # n = 20, 69 steps
        (2.5, "2.5", "3.5 min"),  # n = 4, 85 steps
        (21, "21", "30 min"),  # n = 2, 87 steps
        (600, "600", "14 h"),
        (9600, "9600", "9.7 days"),
    ],
)
def test_the_time_left_is_said_once_from_the_steps_after_the_first(
    monkeypatch, caplog, seconds, per_step, left
):
    """The host is two steps ahead: when it starts step 13 of a run from 10, step 11 is done."""
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    pace = metrics.Pace(10, 100)
    for started in range(11, 101):
        # Compilation takes an hour.
        now = seconds * started if started > 12 else -3600.0
        monkeypatch.setattr(metrics.time, "monotonic", lambda now=now: now)
        pace.tell(started)
    (record,) = caplog.records
    assert record.getMessage() == f"{per_step} s per step: about {left} to go"


def test_a_short_run_says_nothing_of_its_end(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    pace = metrics.Pace(0, 100)
    for started in range(1, 101):
        monkeypatch.setattr(metrics.time, "monotonic", lambda started=started: 0.09 * started)
        pace.tell(started)
    assert caplog.records == []


def test_write_json_replaces_the_whole_file(tmp_path):
    path = tmp_path / "config.json"
    metrics.write_json(path, {"a": [1] * 1000})
    metrics.write_json(path, {"b": None})
    assert json.loads(path.read_text()) == {"b": None}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_the_config_of_a_run_stays_its_own(tmp_path):
    workdir = tmp_path / "run"
    for job in ("pretrain", "linear"):
        metrics.write_config(workdir, {"job": job})
    assert json.loads((workdir / "config.json").read_text()) == {"job": "pretrain"}
