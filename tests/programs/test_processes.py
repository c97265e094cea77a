"""Several real processes: they train as one does, refuse what differs, and end together."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tiny_runs
from byol_jax.runtime import checkpoints

ROOT = tiny_runs.ROOT
TINY = (
    "--config=experiments/digits.py",
    "--config.network.depth=tiny",
    "--config.network.width=0.5",
    "--config.network.projector.hidden_size=16",
    "--config.network.predictor.hidden_size=16",
    "--config.image_size=8",
    "--config.batch_size=16",
    "--config.accumulate=1",
    "--config.log_every=1",
    "--config.evaluation.at_end=False",
)


def environment(devices):
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    flags += f" --xla_force_host_platform_device_count={devices}"
    own = {"XLA_FLAGS": flags, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return os.environ | own


def run(command, devices):
    return subprocess.run(
        [str(c) for c in command],
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


# gloo writes to standard output, too, piece by piece: what is said goes to a file.
MEETING = """
import functools
import sys
import jax
from byol_jax.runtime import processes
from byol_jax.errors import UserError

processes.initialize(processes.Hosts(join_timeout=120))
process = jax.process_index()
say = functools.partial(print, file=open(sys.argv[1], "w"), flush=True)
say(jax.process_count(), jax.device_count(), jax.local_device_count())
flags = [processes.any_process(process == 1), processes.any_process(False)]
say(flags, processes.is_joined())
processes.require_same({"config.seed": 0, "config.network": {"depth": 18}, "data": [1, None]})
theirs = {"config.tau": 1, "config.a": 1, "config.b": 1, "config.new": "x"} if process else {}
try:
    processes.require_same({"config.seed": 0, "config.tau": 0.9} | theirs)
except UserError as error:
    say(error)
"""


def test_processes_that_slurm_started_meet_and_compare(tmp_path):
    job = random.SystemRandom().randrange(4096)  # JAX makes a port of it
    said = [tmp_path / "0.txt", tmp_path / "1.txt"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEETING, said[index]],
            env=environment(2)
            | {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
            | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for path in said:
        lines = path.read_text().splitlines()
        assert lines[0] == "2 4 2"
        assert lines[1] == "[True, False] True"
        assert lines[2] == (
            "process 1 has config.tau=1 and not 0.9, config.a=1 and not None, config.b=1 and not "
            "None and 1 more, as process 0 has: all processes need the same command, data and "
            "workdir"
        )


def test_a_coordinator_that_does_not_answer_ends_with_2_and_one_line(tmp_path):
    flags = ("--coordinator=localhost:9", "--num_processes=2", "--process_id=1")
    workdir = tmp_path / "run"
    done = tiny_runs.program(*TINY, f"--workdir={workdir}", *flags, "--join_timeout=2")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        "error: after --join_timeout=2 seconds some process had not come to "
        "--coordinator=localhost:9: start all of them, with the address and a free port of "
        "process 0"
    )
    assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_train_as_one_does_and_one_goes_on(tmp_path):
    """At a rate so low that 20 steps do not multiply the rounding of sums in another order."""
    data = f"--config.dataset={tiny_runs.write_npz(tmp_path / 'images.npz')}"
    alone, together = tmp_path / "alone", tmp_path / "together"
    python = (sys.executable, "-m", "byol_jax.main")
    steps = ("--config.num_steps=20", "--config.optimizer.base_learning_rate=0.1")
    done = run((*python, *TINY, data, *steps, f"--workdir={alone}"), devices=4)
    assert done.returncode == 0, done.stderr
    cluster = ("launch/local_cluster.sh", 2)
    done = run((*cluster, *TINY, data, *steps, f"--workdir={together}"), devices=2)
    assert done.returncode == 0, done.stderr

    ours, theirs = tiny_runs.metrics(alone), tiny_runs.metrics(together)
    assert [line["step"] for line in theirs] == list(range(1, 21))
    assert ours[0].keys() == theirs[0].keys()
    for name in ours[0].keys() - {"split"}:
        np.testing.assert_allclose(
            [line[name] for line in theirs], [line[name] for line in ours], atol=1e-6, rtol=1e-6
        )
    saved, record = checkpoints.read(together / "checkpoints", 20)
    expected, _ = checkpoints.read(alone / "checkpoints", 20)
    assert saved.keys() == expected.keys()
    for name in expected:
        # The momentum sums gradients, which are larger than the steps that they make.
        atol = 1e-5 if name.startswith("opt_state/") else 1e-6
        np.testing.assert_allclose(saved[name], expected[name], atol=atol, rtol=1e-6, err_msg=name)
    assert record["step"] == 20

    # One process goes on from what two saved.
    done = run((*python, *TINY, data, "--config.num_steps=22", f"--workdir={together}"), devices=4)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in tiny_runs.metrics(together)] == list(range(1, 23))


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_with_different_configs_are_refused(tmp_path):
    port = random.SystemRandom().randrange(20000, 32000)
    workdir = tmp_path / "run"
    processes = [
        subprocess.Popen(
            tiny_runs.command(
                *TINY,
                f"--workdir={workdir}",
                f"--coordinator=localhost:{port}",
                "--num_processes=2",
                f"--process_id={index}",
                f"--config.optimizer.weight_decay={index}",
            ),
            cwd=ROOT,
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2, errors
        assert "error: process 1 has config.optimizer.weight_decay=1.0 and not 0.0" in errors
        assert "Traceback" not in errors
    assert not workdir.exists()


def children(pid: int) -> list[int]:
    listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(int(child) for child in listed.split())


def endless(workdir, data, step):
    """Two processes in training, once they have logged `step`."""
    lasting = ("--config.num_steps=1000000", "--config.checkpoint_every=2", "--peer_timeout=20")
    process = subprocess.Popen(
        ["launch/local_cluster.sh", "2", *TINY, *lasting, data, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment(2),
        stderr=subprocess.PIPE,
        text=True,
    )
    log = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 900
    while not (log.exists() and f'"step": {step},' in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_process_ends_the_other_and_a_stopped_one_saves_on_both(tmp_path):
    data = f"--config.dataset={tiny_runs.write_npz(tmp_path / 'images.npz')}"
    workdir = tmp_path / "run"
    with endless(workdir, data, step=5) as cluster:
        os.kill(children(cluster.pid)[1], signal.SIGKILL)
        _, errors = cluster.communicate(timeout=200)
    assert cluster.returncode == 3, errors
    assert "stopped: process 1 was ended by signal 9" in errors
    assert re.search("stopped: (lost another process|process 0 lost another)", errors), errors

    kept = checkpoints.steps(workdir / "checkpoints")[-1]
    assert kept >= 2
    with endless(workdir, data, step=kept + 3) as cluster:
        # As a pod's worker that is about to be taken away.
        os.kill(children(cluster.pid)[1], signal.SIGTERM)
        _, errors = cluster.communicate(timeout=200)
    assert cluster.returncode == 143, errors
    assert f"steps {kept} to" in errors
    said = re.findall(r"stopped by SIGTERM: saved in (.*); the same command", errors)
    saved = checkpoints.steps(workdir / "checkpoints")[-1]
    assert said == [str(workdir / "checkpoints" / str(saved))] * 2
    assert saved > kept
    # No step is left out, and none is logged twice.
    assert [line["step"] for line in tiny_runs.metrics(workdir)] == list(range(1, saved + 1))
