"""Lets each write of a run in turn be the one for which the disk has no room.

A small disk (tmpfs, in a namespace of its own) is given many sizes, so that the config, the
metrics, the events, the arrays and the record of a checkpoint, the results, the report, the export
and the embeddings each meet its end. `python -m tests.faults.full_disk` tries all sizes and prints
a table; `--short` tries a few.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from tests import tiny_runs

# What the disk is like: a size, a largest size of files in blocks of 512 bytes, or no writing.
_PREPARE = {
    "size": 'mount -t tmpfs -o "size=$value" tmpfs "$disk"',
    "files": 'mount -t tmpfs tmpfs "$disk"; ulimit -f "$value"',
    "read-only": 'mount -t tmpfs -o ro tmpfs "$disk"',
}
_SCRIPT = """
disk=$1 kept=$2 value=$3; shift 3
{prepare}
code=0
"$@" || code=$?
ulimit -f unlimited 2>/dev/null || true
cp -r "$disk/." "$kept"
exit $code
"""
_TINY = ("--config=experiments/digits.py", *tiny_runs.TINY_FLAGS)
_TRAINED = (*_TINY, "--config.num_steps=6", "--config.checkpoint_every=2", "--config.log_every=1")
# By job: its flags, and kilobytes of the disk: of each a few are tried in a short run.
_JOBS: dict[str, tuple[tuple[str, ...], Sequence[int], Sequence[int]]] = {
    "pretrain": (_TRAINED, (4, 8, 12, 16, 24, 60, 100, 200, 300, 400, 600, 900, 1300), (4, 12, 60)),
    "evaluate": (
        ("--config=experiments/evaluate.py", "--config.evaluation.draws=2"),
        (4, 8, 12, 16),
        (4,),
    ),
    "report": (("--config=experiments/report.py", "--config.points=50"), (4, 60, 300), ()),
    "export": (("--config=experiments/export.py",), (4, 40, 80, 120), ()),
    "embed": (("--config=experiments/embed.py",), (4, 40, 200), ()),
}


class Outcome(NamedTuple):
    """What became of one run.

    Attributes:
      code: its exit code.
      verdict: `done`; `clean`, one line with exit 3, or 2 where nothing can be written;
        `traceback`, also of another exit; `noise` around the line; or `lost`.
      line: the last line on standard error.
    """

    code: int
    verdict: str
    line: str


def is_possible() -> bool:
    """Whether this user may mount a disk of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_on(kind: str, value: str, job: str, arguments: Sequence[str]) -> Outcome:
    """Runs a job whose workdir is on a small disk.

    Args:
      kind, value: what the disk is like, one of `_PREPARE` and its number.
      job: name of the job.
      arguments: its flags, but for the workdir.
    """
    with tempfile.TemporaryDirectory() as folder:
        disk, kept = (pathlib.Path(folder) / name for name in ("disk", "kept"))
        disk.mkdir()
        kept.mkdir()
        command = tiny_runs.command(f"--workdir={disk / 'run'}", *arguments)
        script = _SCRIPT.format(prepare=_PREPARE[kind])
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", disk, kept, value, *command],
            cwd=folder,  # where numbers go for which the disk has no room
            env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        lines = re.split(r"[\r\n]+", done.stderr.strip())
        return Outcome(done.returncode, _verdict(done, lines, job, kept / "run", kind), lines[-1])


def _verdict(
    done: subprocess.CompletedProcess[str],
    lines: Sequence[str],
    job: str,
    workdir: pathlib.Path,
    kind: str,
) -> str:
    if "Traceback" in done.stderr or done.returncode not in (0, 2 if kind == "read-only" else 3):
        return "traceback"
    if _is_lost(done.stdout, job, workdir):
        return "lost"
    if done.returncode == 0:
        return "done"
    said = [line for line in lines if line.startswith(("error: ", "stopped: "))]
    return "clean" if said == [lines[-1]] else "noise"


def _is_lost(stdout: str, job: str, workdir: pathlib.Path) -> bool:
    """Whether a complete checkpoint cannot be read, or numbers are neither shown nor written."""
    from byol_jax.errors import UserError
    from byol_jax.runtime import checkpoints

    directory = workdir / "checkpoints"
    try:
        for step in checkpoints.steps(directory):
            checkpoints.read(directory, step)
    except UserError:
        return True
    return job == "evaluate" and "online" not in stdout


def trials(short: bool) -> list[tuple[str, str, str]]:
    """Kinds and values of disks, with the job that meets each."""
    tried = [
        ("size", f"{size}k", job)
        for job, (_, sizes, few) in _JOBS.items()
        for size in (few if short else sizes)
    ]
    tried.append(("read-only", "0", "pretrain"))
    if not short:
        tried += [("files", str(blocks), "pretrain") for blocks in (2, 8, 60)]
    return tried


def main(short: bool) -> int:
    """Tries all disks and prints a table; returns how many runs ended in another way than asked."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        trained = pathlib.Path(folder) / "trained"
        done = tiny_runs.program(*_TRAINED, f"--workdir={trained}")
        assert done.returncode == 0, done.stderr
        print(f"{'job':9} {'disk':16} {'exit':>4} {'verdict':10} last line")
        counts: dict[str, int] = {}
        for kind, value, job in trials(short):
            own = () if job == "pretrain" else (f"--config.checkpoint={trained}",)
            outcome = run_on(kind, value, job, (*_JOBS[job][0], *own))
            counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
            bad += outcome.verdict not in ("done", "clean")
            row = f"{job:9} {kind + ' ' + value:16} {outcome.code:4} {outcome.verdict:10}"
            print(f"{row} {outcome.line[:160]}", flush=True)
    print(f"tried {sum(counts.values())}: {counts}")
    return bad


if __name__ == "__main__":
    if not is_possible():
        sys.exit("no disk can be mounted here: user namespaces are needed")
    sys.exit(main("--short" in sys.argv) > 0)
