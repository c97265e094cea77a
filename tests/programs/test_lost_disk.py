"""Images that go away while a run reads them: exit code 3, nothing lost, the same numbers later."""

import pathlib
import subprocess
import time

import numpy as np
import pytest

import tiny_runs
from byol_jax.runtime import checkpoints

STEPS = 60


def arguments(dataset: str, workdir: pathlib.Path) -> list[str]:
    return tiny_runs.command(
        *("--config=experiments/imagenette.py", *tiny_runs.TINY_FLAGS),
        *(f"--config.dataset={dataset}", f"--workdir={workdir}", f"--config.num_steps={STEPS}"),
        *("--config.log_every=1", "--config.checkpoint_every=1000", "--config.data.prefetch=1"),
    )


def lose(images: pathlib.Path, how: str) -> pathlib.Path:
    """Takes the images away: their folder, or each file with all folders left."""
    away = images.with_name("away")
    if how == "folder":
        images.rename(away)
        return away
    for file in [path for path in images.rglob("*") if path.is_file()]:
        target = away / file.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return away


def bring_back(images: pathlib.Path, away: pathlib.Path) -> None:
    for file in [path for path in away.rglob("*") if path.is_file()]:
        target = images / file.relative_to(away)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["folder", "files"])
def test_a_disk_that_goes_away(tmp_path, how: str) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    dataset = tiny_runs.write_folder(images)
    process = subprocess.Popen(
        arguments(dataset, run), cwd=tiny_runs.ROOT, stderr=subprocess.PIPE, text=True
    )
    log, deadline = run / "metrics.jsonl", time.monotonic() + 200
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    away = lose(images, how)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 3, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("stopped: ") and "cannot be read any more" in last
    assert "same command" in last and "Traceback" not in said

    (saved,) = checkpoints.steps(run / "checkpoints")
    # All batches that were read are trained on.
    assert 3 <= saved < STEPS
    logged = [line["step"] for line in tiny_runs.metrics(run)]
    assert saved - max(logged) <= 1

    bring_back(images, away)
    for workdir in (run, tmp_path / "whole"):
        done = subprocess.run(
            arguments(dataset, workdir), cwd=tiny_runs.ROOT, capture_output=True, text=True,
            check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    flat, _ = checkpoints.read(run / "checkpoints", STEPS)
    whole, _ = checkpoints.read(tmp_path / "whole" / "checkpoints", STEPS)
    assert flat.keys() == whole.keys()
    assert all(np.array_equal(flat[name], whole[name]) for name in flat)
