"""launch/cifar10_npz.py on small folders of both forms, and on the real sets if they are there."""

import hashlib
import importlib.util
import os
import pathlib
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from byol_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "cifar10_npz.py"
SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))

spec = importlib.util.spec_from_file_location("cifar10_npz", SCRIPT)
cifar10_npz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cifar10_npz)

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
TILES = 6  # images in each small batch


def string(value):
    """BINSTRING, which only Python 2 writes: `encoding` decides what it becomes."""
    return b"T" + struct.pack("<i", len(value)) + value


def official_pickle(rows, labels):
    """What Python 2 wrote: protocol 2, byte strings, numpy's old module, `align` a number."""
    count, width = rows.shape
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += b"K\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01M" + struct.pack("<H", count) + b"M" + struct.pack("<H", width) + b"\x86"
    array += dtype + b"\x89" + string(rows.tobytes()) + b"tb"
    items = {
        b"batch_label": string(b"training batch 1 of 5"),
        b"labels": b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
        b"data": array,
        b"filenames": b"](" + string(b"leptodactylus_pentadactylus_s_000004.png") + b"e",
    }
    return b"\x80\x02}(" + b"".join(string(k) + v for k, v in items.items()) + b"u."


@pytest.fixture(scope="module")
def images():
    """One array for each batch, uint8 `[TILES, 32, 32, 3]`."""
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 256, (TILES, 32, 32, 3), np.uint8) for name in BATCHES}


LABELS = {name: [(3 * i + j) % 10 for j in range(TILES)] for i, name in enumerate(BATCHES)}


@pytest.fixture
def pickles(images, tmp_path):
    folder = tmp_path / "pickles"
    folder.mkdir()
    for name in BATCHES:
        rows = np.zeros((TILES, 3072), np.uint8)
        for n, y, x, c in np.ndindex(TILES, 32, 32, 3):
            rows[n, 1024 * c + 32 * y + x] = images[name][n, y, x, c]
        (folder / name).write_bytes(official_pickle(rows, LABELS[name]))
    return folder


@pytest.fixture
def sheets(images, tmp_path):
    folder = tmp_path / "sheets"
    folder.mkdir()
    for name in BATCHES:
        sheet = np.zeros((64, 96, 3), np.uint8)  # two rows of three tiles
        for n, image in enumerate(images[name]):
            y, x = 32 * (n // 3), 32 * (n % 3)
            sheet[y : y + 32, x : x + 32] = image
        Image.fromarray(sheet).save(folder / f"{name}.webp", lossless=True)
    write_labels(folder)
    return folder


def write_labels(folder, **changes):
    train = [label for name in BATCHES[:5] for label in LABELS[name]]
    arrays = {"train_labels": train, "test_labels": LABELS["test_batch"]} | changes
    np.savez(folder / "labels.npz", **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize("form", ["pickles", "sheets"])
def test_both_forms_give_the_batches_in_order(form, images, tmp_path, request):
    folder, out = request.getfixturevalue(form), tmp_path / "out.npz"
    line = cifar10_npz.convert([str(folder), str(out)])
    assert "30 training and 6 test images" in line
    with np.load(out) as archive:
        arrays = dict(archive)
    assert {name: (a.dtype, a.shape) for name, a in arrays.items()} == {
        "train_images": (np.uint8, (30, 32, 32, 3)),
        "train_labels": (np.uint8, (30,)),
        "test_images": (np.uint8, (6, 32, 32, 3)),
        "test_labels": (np.uint8, (6,)),
    }
    for i, name in enumerate(BATCHES[:5]):
        part = slice(TILES * i, TILES * (i + 1))
        np.testing.assert_array_equal(arrays["train_images"][part], images[name])
        assert arrays["train_labels"][part].tolist() == LABELS[name]
    np.testing.assert_array_equal(arrays["test_images"], images["test_batch"])
    assert arrays["test_labels"].tolist() == LABELS["test_batch"]
    assert {p.name for p in tmp_path.iterdir()} == {form, "out.npz"}


def break_pickle(value):
    def change(folder):
        (folder / "data_batch_3").write_bytes(value)

    return change


class Touch:
    """A pickle that makes a file when it is read by anything that trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_runs_nothing(pickles, tmp_path):
    mark = tmp_path / "mark"
    (pickles / "data_batch_3").write_bytes(pickle.dumps(Touch(str(mark)), protocol=2))
    with pytest.raises(UserError, match=r"data_batch_3 .*posix.mkdir"):
        cifar10_npz.convert([str(pickles), str(tmp_path / "out.npz")])
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "data_batch_3").unlink(), "data_batch_3"),
        (break_pickle(b""), "data_batch_3"),
        (break_pickle(b"\x80\x02}."), "data_batch_3 .*data"),
        (break_pickle(pickle.dumps({b"data": 1, b"labels": [1]}, 2)), "data_batch_3 .*_codecs"),
        (
            break_pickle(official_pickle(np.zeros((5, 3072), np.uint8), range(6))),
            "data_batch_3: .*3072",
        ),
        (
            break_pickle(official_pickle(np.zeros((6, 3071), np.uint8), range(6))),
            "data_batch_3: .*3072",
        ),
        (
            break_pickle(official_pickle(np.zeros((6, 3072), np.uint8), range(5, 11))),
            "train labels .*30",
        ),
        (lambda folder: (folder / "data_batch_1").unlink(), "data_batch_1"),
    ],
)
def test_damaged_pickles_are_named(pickles, tmp_path, change, message):
    change(pickles)
    refused(pickles, tmp_path, message)


def write_sheet(height, width):
    def change(folder):
        sheet = np.zeros((height, width, 3), np.uint8)
        Image.fromarray(sheet).save(folder / "test_batch.webp", lossless=True)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "test_batch.webp").unlink(), "test_batch.webp"),
        (lambda folder: (folder / "test_batch.webp").write_bytes(b"RIFF"), "test_batch.webp"),
        (write_sheet(64, 95), "test_batch.webp .*64 x 95"),
        (write_sheet(32, 96), "test labels .*3"),
        (lambda folder: (folder / "labels.npz").unlink(), "labels.npz"),
        (lambda folder: (folder / "labels.npz").write_bytes(b"PK"), "labels.npz"),
        (lambda folder: write_labels(folder, test_labels=None), "labels.npz .*test_labels"),
        (lambda folder: write_labels(folder, test_labels=[-1] * 6), "test labels"),
        (lambda folder: write_labels(folder, test_labels=[0.5] * 6), "test labels"),
    ],
)
def test_damaged_sheets_are_named(sheets, tmp_path, change, message):
    change(sheets)
    refused(sheets, tmp_path, message)


def refused(folder, tmp_path, message):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as caught:
        cifar10_npz.convert([str(folder), str(tmp_path / "out.npz")])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_sets_of_the_official_size_must_be_the_official_ones(sheets, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_npz, "OFFICIAL_SIZES", (30, 6))
    refused(sheets, tmp_path, r"train_images .*SHA-256 .*[0-9a-f]{64}")
    arrays = cifar10_npz.read(sheets)
    sums = {
        name: hashlib.sha256(bytes(a.ravel().tolist())).hexdigest() for name, a in arrays.items()
    }
    monkeypatch.setattr(cifar10_npz, "OFFICIAL_SUMS", sums)
    line = cifar10_npz.convert([str(sheets), str(tmp_path / "out.npz")])
    assert "official" in line and cifar10_npz.check_official(arrays)


def test_a_failed_write_leaves_nothing(sheets, tmp_path, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    refused(sheets, tmp_path, "out.npz .*No space left")


def test_the_program_exits_with_2_and_one_line(sheets, tmp_path):
    def program(*arguments):
        return subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},  # installed or not
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    out = tmp_path / "out.npz"
    done = program(sheets, out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: 30 training")
    whole = out.read_bytes()
    for arguments, named in [
        ((sheets, out), out),
        ((sheets,), "DIR OUT.npz"),
        ((tmp_path / "no", tmp_path / "b.npz"), tmp_path / "no"),
        ((sheets, tmp_path / "no" / "b.npz"), tmp_path / "no"),
    ]:
        done = program(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and str(named) in done.stderr
        assert done.stderr.count("\n") == 1
    assert out.read_bytes() == whole


def test_the_real_sets_are_recognised(tmp_path):
    folder = SHARED / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"optional local data: no {folder} (set BYOL_SHARED)")
    line = cifar10_npz.convert([str(folder), str(tmp_path / "cifar10.npz")])
    assert "50000 training and 10000 test images" in line and "official" in line
