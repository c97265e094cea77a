"""Several real processes: they train as one does, compare configs, and end together."""

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
    "--config.finish.report=False",
)


def environment(devices):
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    flags += f" --xla_force_host_platform_device_count={devices}"
    variables = {"XLA_FLAGS": flags, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return os.environ | variables


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


# gloo writes to standard output, too, in pieces: so the reports go to a file.
MEETING = """
import functools
import sys
import jax
from byol_jax.runtime import processes
from byol_jax.errors import UserError

processes.initialize(processes.Hosts(join_timeout=120))
process = jax.process_index()
report = functools.partial(print, file=open(sys.argv[1], "w"), flush=True)
report(jax.process_count(), jax.device_count(), jax.local_device_count())
flags = [processes.any_process(process == 1), processes.any_process(False)]
report(flags, processes.is_joined(), processes.count_on_this_host())
processes.require_same({"config.seed": 0, "config.network": {"depth": 18}, "data": [1, None]})
different = {"config.tau": 1, "config.a": 1, "config.b": 1, "config.new": "x"} if process else {}
try:
    processes.require_same({"config.seed": 0, "config.tau": 0.9} | different)
except UserError as error:
    report(error)
"""


def test_processes_started_by_slurm_meet_and_compare_values(tmp_path):
    job = random.SystemRandom().randrange(4096)  # JAX makes a port of it
    reports = [tmp_path / "0.txt", tmp_path / "1.txt"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEETING, reports[index]],
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
    for path in reports:
        lines = path.read_text().splitlines()
        assert lines[0] == "2 4 2"
        assert lines[1] == "[True, False] True 2"
        assert lines[2].startswith("process 1 ")
        # The first three that differ, with the values of both; the rest are counted.
        for words in ("config.tau=1", "0.9", "config.a=1", "config.b=1", "None", "1 more"):
            assert words in lines[2]
        assert "config.new" not in lines[2]


def test_a_coordinator_that_does_not_answer_ends_with_2_and_one_line(tmp_path):
    flags = ("--coordinator=localhost:9", "--num_processes=2", "--process_id=1")
    workdir = tmp_path / "run"
    done = tiny_runs.program(*TINY, f"--workdir={workdir}", *flags, "--join_timeout=2")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        "error: not all processes joined --coordinator=localhost:9 within --join_timeout=2 "
        "seconds: start all of them, with the address and a free port of process 0"
    )
    assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_train_as_one_does_and_one_continues(tmp_path):
    """The rate is so low that 20 steps do not amplify the rounding of sums in another order."""
    data = f"--config.dataset={tiny_runs.write_npz(tmp_path / 'images.npz')}"
    alone, together = tmp_path / "alone", tmp_path / "together"
    python = (sys.executable, "-m", "byol_jax.main")
    steps = ("--config.num_steps=20", "--config.optimizer.base_learning_rate=0.1")
    done = run((*python, *TINY, data, *steps, f"--workdir={alone}"), devices=4)
    assert done.returncode == 0, done.stderr
    cluster = ("launch/local_cluster.sh", 2)
    done = run((*cluster, *TINY, data, *steps, f"--workdir={together}"), devices=2)
    assert done.returncode == 0, done.stderr

    expected_lines, lines = tiny_runs.metrics(alone), tiny_runs.metrics(together)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert expected_lines[0].keys() == lines[0].keys()
    # Those of the first process's images alone.
    health = {"embedding_rank", "alignment", "uniformity"}
    for name in lines[0].keys() - {"split"} - health:
        np.testing.assert_allclose(
            [line[name] for line in lines],
            [line[name] for line in expected_lines],
            atol=1e-6,
            rtol=1e-6,
        )
    saved, record = checkpoints.read(together / "checkpoints", 20)
    expected, _ = checkpoints.read(alone / "checkpoints", 20)
    assert saved.keys() == expected.keys()
    for name in expected:
        # The momentum sums gradients, which are larger than the resulting steps.
        atol = 1e-5 if name.startswith("slots/") else 1e-6
        np.testing.assert_allclose(saved[name], expected[name], atol=atol, rtol=1e-6, err_msg=name)
    assert record["step"] == 20

    # One process continues from the checkpoint of two.
    longer = (*steps, "--config.num_steps=22")
    done = run((*cluster, *TINY, data, *longer, f"--workdir={together}"), devices=2)
    assert done.returncode == 2, done.stderr
    assert "22 steps in all (was 20; config.num_steps=22)" in done.stderr
    longer = (*longer, "--config.resume_changed=True")
    done = run((*python, *TINY, data, *longer, f"--workdir={together}"), devices=4)
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
        assert re.search(r"error: process 1 .*config\.optimizer\.weight_decay=1\.0 .*0\.0", errors)
        assert "Traceback" not in errors
    assert not workdir.exists()


def children(pid: int) -> list[int]:
    listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(int(child) for child in listed.split())


def endless(workdir, data, step):
    """Starts two processes of a long run, and returns once they have logged `step`."""
    flags = ("--config.num_steps=1000000", "--config.checkpoint_every=2", "--peer_timeout=20")
    process = subprocess.Popen(
        ["launch/local_cluster.sh", "2", *TINY, *flags, data, f"--workdir={workdir}"],
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
def test_a_killed_process_ends_the_other_and_a_stopped_one_saves_on_both(tmp_path):
    data = f"--config.dataset={tiny_runs.write_npz(tmp_path / 'images.npz')}"
    workdir = tmp_path / "run"
    with endless(workdir, data, step=5) as cluster:
        os.kill(children(cluster.pid)[1], signal.SIGKILL)
        _, errors = cluster.communicate(timeout=200)
    assert cluster.returncode == 3, errors
    assert re.search("stopped: process 1 .*signal 9", errors), errors
    assert re.search("stopped: .*lost ", errors), errors

    kept = checkpoints.steps(workdir / "checkpoints")[-1]
    assert kept >= 2
    with endless(workdir, data, step=kept + 3) as cluster:
        # A worker of a pod that is about to be preempted gets SIGTERM.
        os.kill(children(cluster.pid)[1], signal.SIGTERM)
        _, errors = cluster.communicate(timeout=200)
    assert cluster.returncode == 143, errors
    reported = re.findall(r"SIGTERM.* (\S+/checkpoints/\d+)", errors)
    saved = checkpoints.steps(workdir / "checkpoints")[-1]
    assert reported == [str(workdir / "checkpoints" / str(saved))] * 2
    assert saved > kept
    # No step is missing, and none is logged twice.
    assert [line["step"] for line in tiny_runs.metrics(workdir)] == list(range(1, saved + 1))
