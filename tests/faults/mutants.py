"""Damages image files in many ways, and trains on folders of them through the command line.

`python -m tests.faults.mutants --folders=20` prints a table. A folder has 100 damaged files among
links to good ones, so that a run usually goes on with substitutes. Each folder is trained on with
and without `data.scaled_decoding`. A run must end with 0, or with 2 and one line; anything else, or
no end at all, is a fault.
"""

import argparse
import io
import os
import pathlib
import random
import tempfile

import numpy as np
from PIL import Image

from tests import tiny_runs
from tests.faults import tables

MUTANTS = 100
# Seconds after which a run hangs.
_PATIENCE = 600
_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}


def _encoded(draw: random.Random, kind: str) -> bytes:
    """An image of noise and a gradient, as bytes."""
    height, width = draw.randint(8, 80), draw.randint(8, 80)
    noise = np.random.default_rng(draw.getrandbits(32)).integers(0, 64, (height, width, 3))
    pixels = (noise + np.linspace(0, 190, width)[None, :, None]).astype(np.uint8)
    mode = draw.choice(["RGB", "L"])
    options = {"JPEG": {"progressive": draw.random() < 0.3, "quality": draw.randint(20, 95)}}
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options.get(kind, {}))
    return buffer.getvalue()


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _flipped(data: bytes, draw: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(draw.choice([1, 2, 8, 64])):
        mutant[draw.randrange(len(mutant))] ^= 1 << draw.randrange(8)
    return bytes(mutant)


def _headed(data: bytes, draw: random.Random) -> bytes:
    """Another byte among the first 200, where sizes and tables are."""
    mutant = bytearray(data)
    mutant[draw.randrange(min(200, len(mutant)))] = draw.randrange(256)
    return bytes(mutant)


def _zeroed(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + bytes(draw.randint(1, 512)) + data[start:]


def _without(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randint(1, 256) :]


def _twice(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data + data[start:]


def _empty(data: bytes, draw: random.Random) -> bytes:
    del data, draw
    return b""


_MUTATIONS = {
    "cut": _cut,
    "bits flipped": _flipped,
    "header byte": _headed,
    "zeros inside": _zeroed,
    "bytes missing": _without,
    "part twice": _twice,
    "empty": _empty,
}


def write_folder(folder: pathlib.Path, good: int, seed: int) -> None:
    """Writes 100 mutants and links to a good image, `good` of them, in two classes."""
    draw = random.Random(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for i in range(MUTANTS):
        # Half of them are JPEGs, whose decoder has the options.
        kind = draw.choice(["JPEG"] * (len(_FORMATS) - 1) + [*_FORMATS][1:])
        mutation = draw.choice([*_MUTATIONS])
        mutant = _MUTATIONS[mutation](_encoded(draw, kind), draw)
        # As a rule under its own ending, now and then under another one.
        ending = _FORMATS[kind if draw.random() < 0.9 else draw.choice([*_FORMATS])]
        name = f"{'ab'[i % 2]}/mutant{i}-{mutation.replace(' ', '-')}.{ending}"
        (folder / name).write_bytes(mutant)
    original = folder / "a" / "good.jpg"
    original.write_bytes(_encoded(draw, "JPEG"))
    for i in range(good - 1):
        os.link(original, folder / "ab"[i % 2] / f"good{i}.jpg")


def train(folder: pathlib.Path, workdir: pathlib.Path, scaled: bool) -> str:
    """One epoch of a tiny network on a folder; how it ended, in words."""
    streams = workdir.with_name(f"{workdir.name}-streams")
    streams.mkdir()
    count = sum(len(files) for _, _, files in os.walk(folder))
    process = tiny_runs.start(
        streams,
        "--config=experiments/digits.py",
        f"--workdir={workdir}",
        *tiny_runs.TINY_FLAGS,
        f"--config.dataset=folder:{folder}",
        "--config.data.split=train+valid+test",
        "--config.batch_size=100",
        f"--config.num_steps={-(-count // 100)}",
        "--config.checkpoint_every=1000",
        f"--config.data.scaled_decoding={scaled}",
    )
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return "hangs"
    stderr = (streams / "stderr").read_text()
    if process.exitcode == 0:
        return "trained"
    last = (stderr.strip().splitlines() or [""])[-1]
    if process.exitcode == 2 and last.startswith("error: ") and "Traceback" not in stderr:
        return "refused in one line"
    return f"exit code {process.exitcode}: {last[:80]}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", type=int, default=20)
    parser.add_argument("--good", type=int, default=9_900, help="images that are not damaged")
    parser.add_argument("--seed", type=int, default=0, help="of the first folder")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(options.seed, options.seed + options.folders):
            folder = pathlib.Path(root, f"images{number}")
            write_folder(folder, options.good, number)
            for scaled in (False, True):
                workdir = pathlib.Path(root, f"run{number}-{scaled}")
                end = train(folder, workdir, scaled)
                outcomes.append((f"100 mutants, scaled_decoding={scaled}", end))
                print(f"folder {number}, scaled_decoding={scaled}: {end}", flush=True)
    print(tables.table(outcomes, ["trained", "refused in one line"]))


if __name__ == "__main__":
    main()
