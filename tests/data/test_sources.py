"""The two readable sources, the seeded cut, and what a user's mistakes are answered with."""

import collections
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets

from byol_jax.data import sources
from byol_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def saved(folder: pathlib.Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "set.npz", **arrays)
    return f"npz:{folder / 'set.npz'}"


def message_of(dataset: str, split: str = "train") -> str:
    with pytest.raises(UserError) as error:
        sources.load(dataset, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_digits_are_the_scans_of_scikit_learn() -> None:
    """The first scan's first row is 0 0 5 13 9 1 0 0 of 16."""
    train, test = sources.load("digits", "train"), sources.load("digits", "test")
    scans = sklearn.datasets.load_digits()
    everything = np.concatenate([train.images, test.images])
    assert everything.shape == (1797, 8, 8, 3) and everything.dtype == np.uint8
    assert train.labels.dtype == test.labels.dtype == np.int32
    assert (train.name, train.num_classes, test.num_classes) == ("digits", 10, 10)
    first = [0, 0, 80, 207, 143, 16, 0, 0]
    assert any(image[0, :, 0].tolist() == first for image in everything)
    assert np.array_equal(everything[..., 0], everything[..., 2])

    def pairs(images: np.ndarray, labels: np.ndarray) -> collections.Counter:
        return collections.Counter(
            (i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True)
        )

    grey = np.rint(scans.images * 255 / 16).astype(np.uint8)
    ours = pairs(train.images[..., 0], train.labels) + pairs(test.images[..., 0], test.labels)
    assert ours == pairs(grey, scans.target)


def test_digits_test_split_is_a_fifth_of_each_class() -> None:
    train, test = sources.load("digits", "train"), sources.load("digits", "test")
    for digit in range(10):
        held_out, kept = np.sum(test.labels == digit), np.sum(train.labels == digit)
        assert abs(held_out - 0.2 * (held_out + kept)) <= 0.5


def test_class_balanced_cut() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [7] * 2 + [-1] * 4)
    cut = sources.class_balanced_cut(labels, 0.4, seed=3)
    assert np.all(np.diff(cut) > 0)
    assert collections.Counter(labels[cut].tolist()) == {0: 4, 1: 2, 7: 1, -1: 2}
    assert not np.array_equal(cut, sources.class_balanced_cut(labels, 0.4, seed=4))
    assert sources.class_balanced_cut(np.zeros(0, int), 0.4, seed=3).size == 0


def test_the_cut_never_changes() -> None:
    """Published numbers stand on it; worked out with a Philox in plain Python integers."""
    labels = np.arange(40) % 4
    cut = sources.class_balanced_cut(labels, sources.CUT_FRACTION, sources.CUT_SEED)
    assert cut.tolist() == [7, 12, 13, 14, 18, 23, 28, 33]


def test_npz_with_both_splits(tmp_path) -> None:
    dataset = saved(
        tmp_path,
        train_images=IMAGES,
        train_labels=np.array([0, 1, -7, 0, 1, 2], np.int8),
        test_images=IMAGES[:2],
        test_labels=np.array([4, 0], np.uint8),
    )
    train, test = sources.load(dataset, "train"), sources.load(dataset, "test")
    assert np.array_equal(train.images, IMAGES) and np.array_equal(test.images, IMAGES[:2])
    assert train.labels.tolist() == [0, 1, -1, 0, 1, 2] and test.labels.tolist() == [4, 0]
    assert train.labels.dtype == test.labels.dtype == np.int32
    assert train.num_classes == test.num_classes == 5
    assert train.name == dataset


def test_npz_without_test_images_is_cut(tmp_path) -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    labels = np.arange(20) // 10
    dataset = saved(tmp_path, train_images=images, train_labels=labels)
    train, test = sources.load(dataset, "train"), sources.load(dataset, "test")
    assert collections.Counter(test.labels.tolist()) == {0: 2, 1: 2}
    for part in (train, test):
        assert np.array_equal(part.images[:, 0, 0, 0] // 10, part.labels)
    both = np.concatenate([train.images, test.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(20))


def test_npz_without_labels(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=np.repeat(IMAGES, 2, axis=0))
    train, test = sources.load(dataset, "train"), sources.load(dataset, "test")
    assert (len(train.images), len(test.images)) == (10, 2)
    assert train.labels.tolist() == [-1] * 10 and train.labels.dtype == np.int32
    assert train.num_classes == test.num_classes == 0


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        ("digit", ["unknown dataset 'digit'", "'digits'?", "reads 'digits' and 'npz:FILE'"]),
        ("nzp:file", ["unknown dataset", "'npz:'?"]),
        ("quux", ["unknown dataset 'quux'; this version reads"]),
        ("images.npz", ["did you mean 'npz:images.npz'?"]),
        ("tfds:imagenet2012", ["tfds: cannot be read yet", "reads 'digits' and 'npz:FILE'"]),
        ("folder:photos", ["folder: cannot be read yet", "reads 'digits' and 'npz:FILE'"]),
        ("npz:", ["names no file", "npz:FILE"]),
        ("npz:/nowhere/x.npz", ["no file /nowhere/x.npz", "train_images"]),
    ],
)
def test_unknown_datasets(dataset: str, parts: list[str]) -> None:
    message = message_of(dataset)
    assert all(part in message for part in parts), message


def test_unknown_split() -> None:
    assert message_of("digits", "valid") == "unknown split 'valid'; the splits are train, test"


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 and then nothing"])
def test_not_an_npz(tmp_path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    assert "not a readable npz" in message_of(f"npz:{tmp_path / 'set.npz'}")


def test_a_single_array_is_not_an_npz(tmp_path) -> None:
    np.save(tmp_path / "set.npy", IMAGES)
    assert "not a readable npz" in message_of(f"npz:{tmp_path / 'set.npy'}")


def test_a_damaged_npz(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=IMAGES)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / "set.npz").write_bytes(content)
    assert "not a readable npz" in message_of(dataset)


def test_pickled_objects_are_refused(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=np.array([{}, {}], object))
    assert "not a readable npz" in message_of(dataset)


@pytest.mark.parametrize(
    ("arrays", "split", "parts"),
    [
        ({"x": IMAGES, "y": LABELS}, "train", ["no array 'train_images' but x, y", "needed"]),
        ({}, "train", ["no array 'train_images' but none at all"]),
        ({"train_images": IMAGES / 255}, "train", ["float64", "uint8", "multiply", "255"]),
        ({"train_images": IMAGES.astype(int)}, "train", ["int64", "uint8 in 0..255 is needed"]),
        ({"train_images": IMAGES[..., 0]}, "train", ["[6, 4, 5]", "[N, H, W, 3]", "three times"]),
        ({"train_images": IMAGES[..., :1]}, "train", ["[6, 4, 5, 1]", "[N, H, W, 3]"]),
        ({"train_images": np.moveaxis(IMAGES, 3, 1)}, "train", ["[6, 3, 4, 5]", "channels last"]),
        (
            {"train_images": IMAGES, "train_labels": LABELS[:5]},
            "train",
            ["train_labels", "[5]", "each of the 6 images"],
        ),
        (
            {"train_images": IMAGES, "train_labels": np.eye(3)[LABELS].astype(int)},
            "train",
            ["[6, 3]", "is needed: [6]"],
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS.astype(float)},
            "train",
            ["train_labels", "float64", "integers are needed"],
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS + 2**31},
            "train",
            [f"goes up to {2**31 + 2}"],
        ),
        # A mistake in one split is found when the other is read.
        (
            {"train_images": IMAGES, "test_images": IMAGES, "test_labels": LABELS[:1]},
            "train",
            ["test_labels", "[1]"],
        ),
        (
            {"train_images": IMAGES, "test_labels": LABELS},
            "train",
            ["'test_labels' without 'test_images'"],
        ),
        ({"train_images": IMAGES[:0]}, "train", ["no train images"]),
        # A fifth of two images rounds to none.
        ({"train_images": IMAGES[:2]}, "test", ["no test images"]),
    ],
)
def test_unusable_arrays(tmp_path, arrays, split: str, parts: list[str]) -> None:
    message = message_of(saved(tmp_path, **arrays), split)
    assert all(part in message for part in parts), message


def test_reading_needs_no_tensorflow(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=IMAGES)
    program = (
        "import sys; from byol_jax.data import crops, sources\n"
        f"images = sources.load({dataset!r}, 'train')\n"
        "assert 'sklearn' not in sys.modules\n"
        "sources.load('digits', 'train')\n"
        "crops.evaluation_images(sources.load('digits', 'test'), 8, 'full')\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
