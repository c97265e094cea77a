"""Damages each file of a small checkpoint, and reads it: the right arrays, or one line.

    python -m tests.faults.checkpoints --rounds 20

A file is emptied, truncated, deleted, or has one bit flipped, at another place each round. A reader
that survives has the arrays and the config of the undamaged checkpoint. One that refuses says so in
one line that names the checkpoint. Anything else is a loss: other values, or an error of another
kind.
"""

import argparse
import collections
import pathlib
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints

STEP = 6
Values = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]


class Case(NamedTuple):
    """One damaged file: its path below the step, what was done to it, and what it holds then."""

    file: str
    damage: str
    content: bytes | None


class Outcome(NamedTuple):
    """What a reader made of a case: `survived`, `refused` or `lost`, and in which words."""

    case: Case
    result: str
    words: str


def cases(folder: pathlib.Path, rounds: int) -> Iterator[Case]:
    """Each file of a step emptied and deleted, and `rounds` times cut and with a flipped bit."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name, content = str(path.relative_to(folder)), path.read_bytes()
        yield Case(name, "deleted", None)
        yield Case(name, "emptied", b"")
        # The same places in every run, others in every file.
        rng = np.random.default_rng(zlib.crc32(f"{path.name} {len(content)}".encode()))
        for _ in range(rounds):
            cut, place, bit = (int(rng.integers(n)) for n in (len(content), len(content), 8))
            yield Case(name, "truncated", content[:cut])
            flipped = bytes([content[place] ^ 1 << bit])
            yield Case(name, "flipped", content[:place] + flipped + content[place + 1 :])


def try_case(
    folder: pathlib.Path, case: Case, read: Callable[[], Values], right: Values
) -> Outcome:
    """Damages one file, reads, and puts the file back."""
    path = folder / case.file
    before = path.read_bytes()
    if case.content is None:
        path.unlink()
    else:
        path.write_bytes(case.content)
    try:
        flat, config = read()
    except UserError as error:
        line = str(error)
        is_named = "\n" not in line and str(folder) in line
        return Outcome(case, "refused" if is_named else "lost", line)
    except Exception as error:  # what a user would see as a traceback
        return Outcome(case, "lost", repr(error))
    finally:
        path.write_bytes(before)
    arrays, expected_config = right
    same = flat.keys() == arrays.keys() and config == expected_config
    same = same and all(
        flat[name].dtype == value.dtype and np.array_equal(flat[name], value)
        for name, value in arrays.items()
    )
    return Outcome(case, "survived" if same else "lost", "" if same else "other values")


def reader(workdir: pathlib.Path, step: int) -> Callable[[], Values]:
    """Reads a step as a training does that goes on."""

    def read() -> Values:
        flat, record = checkpoints.read(workdir / "checkpoints", step)
        return flat, record["config"]

    return read


def fuzz(workdir: pathlib.Path, step: int, rounds: int) -> list[Outcome]:
    """Tries all cases on one step of a workdir."""
    read, folder = reader(workdir, step), workdir / "checkpoints" / str(step)
    right = read()
    return [try_case(folder, case, read, right) for case in cases(folder, rounds)]


def table(outcomes: Iterable[Outcome]) -> str:
    """Tried, survived, refused and lost, by the kind of damage."""
    counts: dict[str, collections.Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.case.damage, collections.Counter())[outcome.result] += 1
    lines = ["| damage | tried | survived | refused | lost |", "| --- | --- | --- | --- | --- |"]
    counts["all"] = sum(counts.values(), collections.Counter())
    for damage, row in counts.items():
        numbers = [row.total(), *(row[name] for name in ("survived", "refused", "lost"))]
        lines.append(f"| {damage} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table, and each loss; returns 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="cuts and flips of each file")
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    import tiny_checkpoints

    with tempfile.TemporaryDirectory() as folder:
        workdir = tiny_checkpoints.save(pathlib.Path(folder), "digits", (2, STEP), 10)
        outcomes = fuzz(workdir, STEP, rounds)
    print(table(outcomes))
    losses = [outcome for outcome in outcomes if outcome.result == "lost"]
    for outcome in losses:
        print(f"lost: {outcome.case.file} {outcome.case.damage}: {outcome.words}")
    return bool(losses)


if __name__ == "__main__":
    sys.exit(main())
