"""Signals at every point of a run, in one and two processes: how long until it ends, and with what.

    python -m tests.faults.signals

Prints a table. Two processes log every 50 steps, and the signal goes to the second one alone.
"""

import argparse
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Short steps; the evaluation is long enough to be interrupted.
FLAGS = (
    "--config=experiments/digits.py",
    "--config.network.depth=tiny",
    "--config.network.width=0.25",
    "--config.network.projector.hidden_size=64",
    "--config.network.predictor.hidden_size=64",
    "--config.batch_size=16",
    "--config.log_every=50",
    "--config.finish.report=False",
)
_ENDLESS = ("--config.num_steps=1000000", "--config.evaluation.at_end=False")


class Point(NamedTuple):
    """A point of a run at which a signal comes.

    Attributes:
      flags: what makes the run reach it.
      is_reached: of the processes' ids, the workdir, and what the first process has said.
    """

    flags: tuple[str, ...]
    is_reached: Callable[[list[int], pathlib.Path, str], bool]


def _is_watched(pid: int) -> bool:
    """Whether a process handles SIGTERM by now."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*(\w+)", status)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _lines(workdir: pathlib.Path) -> int:
    log = workdir / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def _is_saving(workdir: pathlib.Path) -> bool:
    return any("tmp" in path.name for path in workdir.glob("checkpoints/*"))


POINTS = {
    "start": Point(_ENDLESS, lambda pids, workdir, said: all(map(_is_watched, pids))),
    "compile": Point(_ENDLESS, lambda pids, workdir, said: "compiling the update" in said),
    "training": Point(_ENDLESS, lambda pids, workdir, said: _lines(workdir) > 0),
    "save": Point(
        (*_ENDLESS, "--config.checkpoint_every=1"),
        lambda pids, workdir, said: _lines(workdir) > 0 and _is_saving(workdir),
    ),
    "evaluation": Point(
        ("--config.num_steps=2", "--config.evaluation.draws=2000"),
        lambda pids, workdir, said: (workdir / "checkpoints/2").exists(),
    ),
}


class Outcome(NamedTuple):
    """What came of a signal.

    Attributes:
      line: seconds until the line of the signalled process.
      ends: seconds until each process had ended.
      codes: their exit codes.
      newest: the newest step in the workdir, 0 without any.
    """

    line: float
    ends: list[float]
    codes: list[int]
    newest: int


def _command(workdir: pathlib.Path, flags: tuple[str, ...], index: int, count: int, port: int):
    together = (f"--coordinator=localhost:{port}", f"--num_processes={count}")
    others = (*together, f"--process_id={index}") if count > 1 else ()
    words = (*FLAGS, *flags, *others, f"--workdir={workdir}")
    return [sys.executable, "-m", "byol_jax.main", *words]


def run(
    name: str, count: int, workdir: pathlib.Path, number: int = signal.SIGTERM, delay: float = 1.0
) -> Outcome:
    """Starts `count` processes, and signals the last one at a point of the run.

    Args:
      name: of the point.
      count: number of processes.
      workdir: of the run.
      number: the signal.
      delay: seconds between the point and the signal.
    """
    point, port = POINTS[name], random.SystemRandom().randrange(20000, 32000)
    flags = re.sub(r"--xla_force_host_platform\S+", "", os.environ.get("XLA_FLAGS", ""))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if name == "compile":
        environment["JAX_COMPILATION_CACHE_DIR"] = ""
    processes = [
        subprocess.Popen(
            _command(workdir, point.flags, index, count, port),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    said: list[list[tuple[float, str]]] = [[] for _ in processes]

    def listen(index: int) -> None:
        stream = processes[index].stderr
        assert stream is not None
        with stream:
            for line in iter(stream.readline, ""):
                said[index].append((time.monotonic(), line))

    ended = [0.0] * count

    def wait(index: int) -> None:
        processes[index].wait()
        ended[index] = time.monotonic()

    threads = [threading.Thread(target=f, args=(i,)) for i in range(count) for f in (listen, wait)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 600
    ids = [process.pid for process in processes]
    try:
        while not point.is_reached(ids, workdir, "".join(line for _, line in [*said[0]])):
            alive = all(process.poll() is None for process in processes)
            assert alive and time.monotonic() < deadline, (name, said)
            time.sleep(0.005)
        time.sleep(0 if name in ("start", "save") else delay)
        begin = time.monotonic()
        processes[-1].send_signal(number)
        for thread in threads:
            thread.join(200)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    word = f"{signal.Signals(number).name}: "
    at = [moment for moment, line in said[-1] if word in line]
    steps = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    return Outcome(
        line=at[0] - begin if at else float("nan"),
        ends=[moment - begin for moment in ended],
        codes=[process.returncode for process in processes],
        newest=max(steps, default=0),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", nargs="+", choices=POINTS, default=[*POINTS])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    flags = parser.parse_args()
    print("| processes | SIGTERM at | line after | ended after | exit codes | newest step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in flags.processes:
        for name in flags.points:
            with tempfile.TemporaryDirectory() as folder:
                seen = run(name, count, pathlib.Path(folder) / "run")
            ends = ", ".join(f"{seconds:.1f} s" for seconds in seen.ends)
            codes = ", ".join(map(str, seen.codes))
            row = (count, name, f"{seen.line:.2f} s", ends, codes, seen.newest)
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
