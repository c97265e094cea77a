"""Two real processes of one device each against one process of two devices."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import tiny_runs
from byol_jax import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = (
    "--config=experiments/digits.py",
    "--config.num_steps=10",
    "--config.log_every=1",
    "--config.batch_size=32",
    "--config.network.width=0.5",
    "--config.network.projector.hidden_size=16",
    "--config.network.predictor.hidden_size=16",
    "--config.evaluation.at_end=False",
)


def environment(devices):
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    flags += f" --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}


def run(command, devices):
    done = subprocess.run(
        [str(c) for c in command],
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_equal_two_devices_and_one_restores_what_two_saved(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    python = (sys.executable, "-m", "byol_jax.main")
    run((*python, *FLAGS, f"--workdir={one}"), devices=2)
    run(("launch/local_cluster.sh", 2, *FLAGS, f"--workdir={two}"), devices=1)

    ours, theirs = tiny_runs.metrics(one), tiny_runs.metrics(two)
    assert [line["step"] for line in theirs] == list(range(1, 11))
    for name in ("loss", "probe_loss", "projection_std", "tau", "learning_rate"):
        np.testing.assert_allclose(
            [line[name] for line in theirs], [line[name] for line in ours], atol=1e-5, rtol=1e-5
        )
    saved, _ = checkpoints.read(two / "checkpoints", 10)
    alone, _ = checkpoints.read(one / "checkpoints", 10)
    assert saved.keys() == alone.keys()

    # One process with one device goes on from what two processes saved.
    run((*python, *FLAGS, f"--workdir={two}", "--config.num_steps=12"), devices=1)
    assert [line["step"] for line in tiny_runs.metrics(two)] == list(range(1, 13))
