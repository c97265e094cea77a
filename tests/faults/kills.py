"""Kills a training with SIGKILL again and again, and compares what it ends with.

`python -m tests.faults.kills --kills=100` prints a table. A run saves after every second step, so
that many kills come while it saves. Each life of it goes on in the same workdir, in a new process.
A run that has reached its end must have the arrays and the metrics of one that nobody killed, to
the bit.
"""

import argparse
import json
import os
import pathlib
import random
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from byol_jax.runtime import checkpoints
from tests import tiny_runs
from tests.faults import tables

# Seconds without a save after which a life hangs.
_PATIENCE = 600


class Outcome(NamedTuple):
    """What became of the kills.

    Attributes:
      kills: how many there were.
      in_a_save: of these, how many left a save that was not complete.
      ends: for each kill `same bits`, or what was lost.
    """

    kills: int
    in_a_save: int
    ends: list[str]


def _arguments(workdir: pathlib.Path, steps: int) -> list[str]:
    return [
        "--config=experiments/digits.py",
        f"--workdir={workdir}",
        *tiny_runs.TINY_FLAGS,
        f"--config.num_steps={steps}",
        "--config.log_every=1",
        "--config.checkpoint_every=2",
        "--config.keep_checkpoints=2",
    ]


def _metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _newest(workdir: pathlib.Path) -> int:
    return max(checkpoints.steps(workdir / "checkpoints"), default=0)


def _live(workdir: pathlib.Path, steps: int, seconds: float) -> int | None:
    """One life, killed `seconds` after its first save; None then, else its exit code."""
    before, began = _newest(workdir), time.monotonic()
    process = tiny_runs.start(workdir.parent, *_arguments(workdir, steps))
    while process.is_alive() and _newest(workdir) == before:
        if time.monotonic() - began > _PATIENCE:
            process.kill()
            raise TimeoutError(f"{workdir}: no step was saved in {_PATIENCE} s")
        time.sleep(0.005)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _lost(workdir: pathlib.Path, expected: tuple[dict[str, np.ndarray], list[Any]]) -> str:
    """What a finished run lacks of the one that was not killed; empty if nothing."""
    arrays, lines = expected
    own, _ = checkpoints.read(workdir / "checkpoints", len(lines))
    if own.keys() != arrays.keys():
        return "arrays"
    if not all(np.array_equal(own[name], arrays[name], equal_nan=True) for name in arrays):
        return "bits"
    return "" if _metrics(workdir) == lines else "metrics"


def kill(count: int, steps: int, folder: pathlib.Path, seed: int = 0) -> Outcome:
    """Kills runs of `steps` steps `count` times in all, at times drawn with `seed`."""
    draw = random.Random(seed)
    whole = folder / "whole"
    process = tiny_runs.start(folder, *_arguments(whole, steps))
    process.join()
    assert process.exitcode == 0, (folder / "stderr").read_text()
    expected = checkpoints.read(whole / "checkpoints", steps)[0], _metrics(whole)
    assert len(expected[1]) == steps
    kills = in_a_save = number = 0
    ends: list[str] = []
    while kills < count:
        workdir, own = folder / f"killed{number}", 0
        number += 1
        while True:
            # The last life of the last run is left alone.
            seconds = draw.uniform(0, 0.5) if kills < count else _PATIENCE * 5
            code = _live(workdir, steps, seconds)
            if code is not None:
                break
            kills, own = kills + 1, own + 1
            names = os.listdir(workdir / "checkpoints") if workdir.exists() else []
            in_a_save += any(not name.isdigit() for name in names)
        end = "same bits" if code == 0 else f"exit code {code}"
        if code == 0 and (lost := _lost(workdir, expected)):
            end = f"other {lost}"
        ends += [end] * own
        print(
            f"run {number}, {own} kills ({kills} in all, {in_a_save} in a save): {end}", flush=True
        )
    return Outcome(kills, in_a_save, ends)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=24, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Each life would compile the step again.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        outcome = kill(options.kills, options.steps, pathlib.Path(folder), options.seed)
    print(tables.table([("SIGKILL", end) for end in outcome.ends], ["same bits"]))
    print(f"{outcome.in_a_save} of {outcome.kills} left a save that was not complete")


if __name__ == "__main__":
    main()
