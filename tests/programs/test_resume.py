"""A resumed run from files or records has the bits of an uninterrupted one, on 1 and 4 devices."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import tiny_runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Batches of 8 out of 20: epochs end within steps 3 and 5; out of 24: with step 3.
PROGRAM = """
import pathlib, shutil, sys
import numpy as np
import jax
import tiny_runs
from byol_jax import train
from byol_jax.runtime import checkpoints

def run(dataset, data_dir, workdir):
    train.pretrain(tiny_runs.tiny_config(dataset, data_dir=data_dir, checkpoint_every=2), workdir)
    arrays, _ = checkpoints.read(workdir / "checkpoints", 6)
    return arrays, tiny_runs.metrics(workdir)

root, devices = pathlib.Path(sys.argv[1]), int(sys.argv[2])
assert jax.device_count() == devices
for number, dataset in enumerate(sys.argv[3:]):
    data_dir = str(root) if dataset.startswith("tfds:") else None
    whole, lines = run(dataset, data_dir, root / f"whole{number}")
    # The files of a run that was killed after step 2.
    killed = root / f"killed{number}"
    shutil.copytree(root / f"whole{number}" / "checkpoints" / "2", killed / "checkpoints" / "2")
    (killed / "metrics.jsonl").write_text((root / f"whole{number}" / "metrics.jsonl").read_text())
    resumed, resumed_lines = run(dataset, data_dir, killed)
    assert resumed_lines == lines and len(lines) == 6
    assert resumed.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=f"{dataset} {name}")
    print("same bits:", dataset)
"""


@pytest.mark.parametrize(
    ("devices", "kinds"),
    [
        pytest.param(4, ["folder"], marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param(1, ["npz", "folder", "tfds"], marks=pytest.mark.slow),
        pytest.param(4, ["npz", "tfds"], marks=pytest.mark.slow),
    ],
)
def test_resumed_runs_have_the_bits_of_uninterrupted_ones(tmp_path, devices, kinds) -> None:
    write = {
        "npz": lambda: tiny_runs.write_npz(tmp_path / "images.npz", train=20),
        "folder": lambda: tiny_runs.write_folder(tmp_path / "folder", train=20),
        "tfds": lambda: tiny_runs.write_tfds(tmp_path, 24),
    }
    datasets = [write[kind]() for kind in kinds]
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(devices), *datasets],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"same bits: {dataset}" for dataset in datasets]
