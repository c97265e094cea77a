"""Real programs in one workdir: two trainers, a killed one, and readers beside a live run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax import weights
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints, lock

LONG = ("--config.num_steps=1000000", "--config.log_every=1", "--config.checkpoint_every=1")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    data = tiny_runs.write_npz(tmp_path_factory.mktemp("data") / "images.npz")
    return ("--config=experiments/digits.py", *tiny_runs.TINY_FLAGS, f"--config.dataset={data}")


def start(*arguments):
    return subprocess.Popen(
        tiny_runs.command(*arguments),
        cwd=tiny_runs.ROOT,
        env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest(workdir):
    return max(checkpoints.steps(workdir / "checkpoints"), default=0)


def owner(workdir):
    return json.loads((workdir / lock.FILE).read_text())["pid"]


def read_until(process, workdir, count):
    """Reads the newest checkpoint `count` times, each of them whole, and returns their steps."""
    seen = []
    while len(seen) < count:
        assert process.poll() is None, process.stderr.read()
        seen.append(weights.load(workdir).step)
    assert seen == sorted(seen)
    return seen


@pytest.mark.slow
def test_two_trainers_readers_and_a_killed_one(flags, tmp_path):
    workdir = tmp_path / "run"
    command = (*flags, *LONG, "--config.keep_checkpoints=1", f"--workdir={workdir}")
    with start(*command) as first:
        # The lock is there before anything else, and before the images are read.
        wait_for(first, (workdir / lock.FILE).exists)
        wait_for(first, lambda: newest(workdir) >= 2)
        files = {path: path.read_bytes() for path in workdir.glob("*.json")}

        line = tiny_runs.refusal(*command)
        assert f"{workdir} is in use by process {first.pid} on " in line
        assert {path: path.read_bytes() for path in workdir.glob("*.json")} == files

        seen = read_until(first, workdir, 10)
        assert seen[-1] > seen[0]
        gone = workdir / "checkpoints" / str(seen[0])
        with pytest.raises(UserError, match=f"{gone} was removed by its run, .*newest is "):
            weights.load(gone)
        assert owner(workdir) == first.pid

        first.send_signal(signal.SIGKILL)
        first.wait()
    assert owner(workdir) == first.pid
    done = tiny_runs.program(*command, f"--config.stop_at={newest(workdir) + 2}")
    assert done.returncode == 0, done.stderr
    assert f"{workdir} was in use by process {first.pid} on " in done.stderr
    assert "taken over" in done.stderr
    assert not (workdir / lock.FILE).exists()


@pytest.mark.slow
def test_100_reads_of_the_newest_checkpoint_of_a_live_run(flags, tmp_path):
    workdir = tmp_path / "run"
    command = (*flags, *LONG, "--config.keep_checkpoints=1", f"--workdir={workdir}")
    with start(*command) as process:
        wait_for(process, lambda: newest(workdir) >= 1)
        seen = read_until(process, workdir, 100)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 143, errors
    assert len({*seen}) > 10
    assert not (workdir / lock.FILE).exists()


@pytest.mark.slow
@pytest.mark.ci
def test_a_lock_ends_with_a_run_that_is_refused_and_one_that_is_stopped(flags, tmp_path):
    workdir = tmp_path / "run"
    tiny_runs.refusal(*flags, "--config.dataset=npz:nowhere.npz", f"--workdir={workdir}")
    assert not workdir.exists()
    with start(*flags, *LONG, f"--workdir={workdir}") as process:
        wait_for(process, lambda: newest(workdir) >= 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert not (workdir / lock.FILE).exists()


@pytest.mark.slow
@pytest.mark.ci
def test_all_processes_of_a_run_end_where_another_run_has_the_workdir(flags, tmp_path):
    workdir = tmp_path / "run"
    with lock.held(workdir), socket.create_server(("localhost", 0)) as server:
        address = f"--coordinator=localhost:{server.getsockname()[1]}"
        server.close()
        both = [
            start(*flags, f"--workdir={workdir}", address, "--num_processes=2", f"--process_id={i}")
            for i in range(2)
        ]
        for process in both:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 2, errors
            assert f"error: {workdir} is in use by process {os.getpid()} on " in errors
            assert "Traceback" not in errors
    assert not workdir.exists()


FALLING_BACK = """
import pathlib, sys
import jax
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints, newest, processes

processes.initialize(processes.Hosts(sys.argv[1], 2, int(sys.argv[2])))
folder = pathlib.Path(sys.argv[3])
# What each of them finds damaged: other steps.
damaged = [(6,), (4,)][jax.process_index()]
whole = checkpoints.verified

def verified(directory, step):
    if step in damaged:
        raise checkpoints.UnreadableError("for this process")
    return whole(directory, step)

checkpoints.verified = verified
with open(sys.argv[4], "w") as report:
    print(newest.to_continue(folder, skip_damaged=True), file=report)
    try:
        with processes.together():
            if jax.process_index() == 1:
                raise UserError("of one process")
    except UserError as error:
        print(error, file=report)
"""


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_fall_back_to_the_same_step(tmp_path):
    folder = tiny_checkpoints.write(tmp_path, {"w": np.ones(3)}, {}, (2, 4, 6)) / "checkpoints"
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    reports = [tmp_path / f"{i}.txt" for i in range(2)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FALLING_BACK, address, str(i), folder, report],
            env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, report in enumerate(reports)
    ]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert [report.read_text() for report in reports] == ["2\nof one process\n"] * 2
