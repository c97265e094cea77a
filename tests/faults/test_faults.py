"""Short runs of the scripts of this folder; `make faults` runs the long ones."""

import json
import subprocess
import sys

import pytest

import tiny_runs
from tests.faults import kills, mutants, tables


def test_a_table_counts_each_kind_and_end():
    lines = tables.table([("a", "x"), ("b", "y"), ("a", "x"), ("a", "z")], ["x"]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert rows == [
        ["fault", "tried", "x", "y", "z"],
        ["a", "3", "2", "0", "1"],
        ["b", "1", "0", "1", "0"],
    ]


@pytest.mark.slow
@pytest.mark.ci
def test_killed_runs_end_with_the_same_bits(tmp_path):
    outcome = kills.kill(3, 10, tmp_path)
    assert outcome.ends == ["same bits"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [False, True])
def test_a_run_survives_damaged_images(tmp_path, scaled):
    mutants.write_folder(tmp_path / "images", 9_900, seed=3)
    assert mutants.train(tmp_path / "images", tmp_path / "run", scaled) == "trained"


@pytest.mark.slow
@pytest.mark.ci
def test_knn_takes_little_memory_beside_the_features():
    # In a process of its own, whose memory no other test has used.
    program = "from tests.faults import memory; print(memory.beside(60_000, 1024, 256, 1000))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tiny_runs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    features, extra = json.loads(done.stdout.replace("(", "[").replace(")", "]"))
    assert features == 60_000 * 1024 * 4
    # Programs and pieces take 190 MiB; two copies, on the device and normalised, would take 470.
    print(f"{extra / 2**20:.0f} MiB beside {features / 2**20:.0f} MiB")
    assert extra < 1.3 * features
