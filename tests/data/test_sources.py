"""Sources by name, the splits cut out of them, and what a user's mistakes are answered with."""

import itertools
import pathlib
import subprocess
import sys
import zlib
from collections.abc import Iterable

import numpy as np
import pytest
import sklearn.datasets

import tiny_runs
from byol_jax.data import images, sources, splits, table10
from byol_jax.errors import UserError

SPLITS = ("train", "valid", "test")
ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = "digits, npz:FILE, folder:DIR, tfds:NAME"
IMAGES = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def saved(folder: pathlib.Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "set.npz", **arrays)
    return f"npz:{folder / 'set.npz'}"


def numbered(count: int) -> np.ndarray:
    """Images whose pixels are their numbers."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)


def numbers(dataset: str, split: str) -> list[int]:
    """The numbers of the images of a split, checked against their labels."""
    part = sources.load(dataset, split)
    values = part.images[:, 0, 0, 0].tolist()
    assert part.size == len(values) == len(part.labels)
    return values


def joined(parts: Iterable[list]) -> list:
    return sorted(itertools.chain.from_iterable(parts))


def message_of(dataset: str, split: str = "train", data_dir: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        sources.load(dataset, split, data_dir)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"config.dataset={dataset}: ")
    return str(error.value)


def test_digits_are_the_scans_of_scikit_learn() -> None:
    """The first scan's first row is 0 0 5 13 9 1 0 0 of 16."""
    digits = sources.load("digits", "test+valid+train")
    scans = sklearn.datasets.load_digits()
    assert digits.images.shape == (1797, 8, 8, 3) and digits.images.dtype == np.uint8
    assert (digits.name, digits.num_classes, digits.size) == ("digits", 10, 1797)
    assert digits.images[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    for channel in range(3):
        assert np.array_equal(digits.images[..., channel], np.rint(scans.images * 255 / 16))
    assert digits.labels.dtype == np.int32 and np.array_equal(digits.labels, scans.target)


def test_the_test_split_of_digits_never_changes() -> None:
    """The 359 images of the first version, which cut nothing but a test split."""
    test = sources.load("digits", "test")
    assert test.images.shape == (359, 8, 8, 3)
    assert zlib.crc32(test.images.tobytes()) == 432922575
    assert zlib.crc32(test.labels.astype("<i4").tobytes()) == 3623044913


def test_class_counts_of_the_splits_of_digits() -> None:
    """A fifth of each class, rounded, for test; then a fifth of what is left for valid."""
    of_all = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    of_test = [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    of_valid = [28, 29, 28, 29, 29, 29, 29, 29, 28, 29]
    counts = {split: np.bincount(sources.load("digits", split).labels) for split in SPLITS}
    assert counts["test"].tolist() == of_test
    assert counts["valid"].tolist() == of_valid
    assert counts["train"].tolist() == (np.array(of_all) - of_test - of_valid).tolist()


def rows(image_set: images.ImageSet) -> list[tuple[bytes, int]]:
    pixels = [image.tobytes() for image in image_set.images]
    return list(zip(pixels, image_set.labels.tolist(), strict=True))


def test_unions_of_digits_keep_the_order_of_the_source() -> None:
    everything = rows(sources.load("digits", "train+valid+test"))
    assert len(set(everything)) == 1797  # no two scans are alike, so rows name positions
    place = {row: i for i, row in enumerate(everything)}
    parts = {split: [place[row] for row in rows(sources.load("digits", split))] for split in SPLITS}
    assert joined(parts.values()) == list(range(1797))
    for union in ("train+valid", "valid+train", "test+train", "valid+test", "train+train"):
        listed = [place[row] for row in rows(sources.load("digits", union))]
        assert listed == joined(parts[split] for split in {*union.split("+")}), union


def test_npz_with_both_splits(tmp_path) -> None:
    dataset = saved(
        tmp_path,
        train_images=IMAGES,
        train_labels=np.array([0, 1, -7, 0, 1, 2], np.int8),
        test_images=IMAGES[:2],
        test_labels=np.array([4, 0], np.uint8),
    )
    train, test = sources.load(dataset, "train+valid"), sources.load(dataset, "test")
    assert np.array_equal(train.images, IMAGES) and np.array_equal(test.images, IMAGES[:2])
    assert train.labels.tolist() == [0, 1, -1, 0, 1, 2] and test.labels.tolist() == [4, 0]
    assert train.labels.dtype == test.labels.dtype == np.int32
    assert train.num_classes == test.num_classes == 5
    assert train.name == test.name == dataset
    everything = sources.load(dataset, "test+valid+train")
    assert np.array_equal(everything.images, np.concatenate([IMAGES, IMAGES[:2]]))
    assert everything.labels.tolist() == [0, 1, -1, 0, 1, 2, 4, 0]
    assert (everything.name, everything.num_classes) == (dataset, 5)


def test_npz_without_test_images_is_cut_twice(tmp_path) -> None:
    """20 of class 0 give 4 for test and round(0.2 * 16) = 3 for valid; 10 of class 1 2 and 2."""
    labels = np.arange(30) // 20
    dataset = saved(tmp_path, train_images=numbered(30), train_labels=labels)
    parts = {split: sources.load(dataset, split) for split in SPLITS}
    counts = {split: np.bincount(part.labels).tolist() for split, part in parts.items()}
    assert counts == {"train": [13, 6], "valid": [3, 2], "test": [4, 2]}
    for part in parts.values():
        assert np.array_equal(part.images[:, 0, 0, 0] // 20, part.labels)
    chosen = {split: numbers(dataset, split) for split in SPLITS}
    assert joined(chosen.values()) == list(range(30))
    cut = splits.class_balanced_cut(labels, 0.2, splits.CUT_SEED)
    assert chosen["test"] == cut.tolist()
    rest = np.setdiff1d(np.arange(30), cut)
    again = splits.class_balanced_cut(labels[rest], 0.2, splits.CUT_SEED)
    assert chosen["valid"] == rest[again].tolist()
    assert numbers(dataset, "valid+train") == rest.tolist()


def test_a_split_of_the_source_does_not_change_the_cut_of_another(tmp_path) -> None:
    """With test images of its own, a fifth of all training images is for valid."""
    labels = np.arange(20) // 10
    dataset = saved(
        tmp_path, train_images=numbered(20), train_labels=labels, test_images=numbered(3)
    )
    cut = splits.class_balanced_cut(labels, 0.2, splits.CUT_SEED).tolist()
    assert numbers(dataset, "valid") == cut and len(cut) == 4
    assert numbers(dataset, "train") == [i for i in range(20) if i not in cut]
    assert numbers(dataset, "test+valid") == [*cut, 0, 1, 2]
    assert sources.load(dataset, "test+valid").labels.tolist() == [0, 0, 1, 1, -1, -1, -1]


def test_npz_without_labels(tmp_path) -> None:
    """round(0.2 * 12) = 2 for test, round(0.2 * 10) = 2 for valid."""
    dataset = saved(tmp_path, train_images=numbered(12))
    parts = {split: sources.load(dataset, split) for split in SPLITS}
    assert {split: part.size for split, part in parts.items()} == {
        "train": 8,
        "valid": 2,
        "test": 2,
    }
    assert parts["train"].labels.tolist() == [-1] * 8
    assert parts["train"].labels.dtype == np.int32
    assert [part.num_classes for part in parts.values()] == [0, 0, 0]
    assert joined(numbers(dataset, split) for split in SPLITS) == list(range(12))


def test_folders_and_their_cuts(tmp_path) -> None:
    """12 training files of each of two classes: round(2.4) = 2 of each are for valid."""
    dataset = tiny_runs.write_folder(tmp_path, train=24, test=6)
    parts = {split: sources.load(dataset, split) for split in SPLITS}
    assert {split: np.bincount(part.labels).tolist() for split, part in parts.items()} == {
        "train": [10, 10],
        "valid": [2, 2],
        "test": [3, 3],
    }
    names = {s: [part.images.describe(i) for i in range(part.size)] for s, part in parts.items()}
    assert len({*joined(names.values())}) == 30
    union = sources.load(dataset, "test+valid+train")
    listed = [union.images.describe(i) for i in range(union.size)]
    assert listed == [*sorted(names["train"] + names["valid"]), *names["test"]]
    for i in (0, 23, 24, 29):
        stored = union.images.read(i)
        assert stored.data == pathlib.Path(listed[i]).read_bytes()
        assert stored.label == union.labels[i] == int(pathlib.Path(listed[i]).parent.name[-1])


def fake_source(monkeypatch, name: str, count: int, *own: str) -> list[str]:
    """A source of records numbered by their bytes; notes down whose labels are read."""
    asked = []

    def reader(split: str) -> images.ImageSet:
        def scan() -> np.ndarray:
            asked.append(split)
            return np.arange(count, dtype=np.int32) % 2

        records = images.Records(
            count,
            lambda i: images.Encoded(f"{split} {i}".encode(), i % 2),
            lambda i: f"{split} {i}",
            scan,
        )
        return images.ImageSet(name, records, None, 2)

    readers = {split: lambda split=split: reader(split) for split in ("train", *own)}
    monkeypatch.setattr(sources, "_readers", lambda *_: readers)
    return asked


def described(split: str, dataset: str = "fake", benchmark: str | None = None) -> list[str]:
    part = sources.load(dataset, split, benchmark=benchmark)
    names = [part.images.describe(i) for i in range(part.size)]
    assert names == [part.images.read(i).data.decode() for i in range(part.size)]
    return names


def table(monkeypatch, key: str, rule: table10.Rule, **changes) -> None:
    """Table 10 with another rule in one row, of two classes."""
    row = table10.by_name(key)._replace(rule=rule, classes=2, **changes)
    rows = tuple(row if other.key == key else other for other in table10.TABLE_10)
    monkeypatch.setattr(table10, "TABLE_10", rows)


@pytest.mark.parametrize("name", ["tfds:imagenet2012", "tfds:imagenet2012:5.1.0"])
def test_the_last_training_images_are_for_validation(monkeypatch, name: str) -> None:
    table(monkeypatch, "imagenet", table10.Rule("last", 3))
    asked = fake_source(monkeypatch, name, 8, "test")
    train = [f"train {i}" for i in range(8)]
    assert described("valid", name) == train[5:]
    assert described("train", name) == train[:5]
    assert described("valid+train", name) == train
    assert described("valid+test", name) == [*train[5:], *(f"test {i}" for i in range(8))]
    assert asked == []
    labels = images.all_labels(sources.load(name, "valid"))
    assert labels.tolist() == [1, 0, 1]


def test_other_sets_have_no_last_images(monkeypatch) -> None:
    """Of 10, round(0.2 * 5) = 1 of each class."""
    table(monkeypatch, "imagenet", table10.Rule("last", 3))
    asked = fake_source(monkeypatch, "npz:set", 10, "test")
    for name in ("npz:set", "npz:imagenet2012", "tfds:imagenet2012_subset"):
        assert len(described("valid", name)) == 2
        assert asked == ["train"]
        labels = images.all_labels(sources.load(name, "train"))
        assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
        asked.clear()


@pytest.mark.parametrize(
    ("dataset", "benchmark"), [("tfds:oxford_iiit_pet", None), ("folder:x", "pets")]
)
def test_the_validation_split_of_a_benchmark(monkeypatch, dataset, benchmark) -> None:
    """3 of each class, where the source has no validation split of its own."""
    table(monkeypatch, "pets", table10.Rule("per_class", 3))
    fake_source(monkeypatch, dataset, 20, "test")
    valid = described("valid", dataset, benchmark)
    expected = splits.validation_rows(np.arange(20) % 2, table10.by_name("pets"))
    assert valid == [f"train {i}" for i in expected] and len(valid) == 6
    train = described("train", dataset, benchmark)
    assert joined([train, valid]) == sorted(f"train {i}" for i in range(20))
    fake_source(monkeypatch, dataset, 20, "test", "valid")
    assert described("valid", dataset, benchmark) == [f"valid {i}" for i in range(20)]
    assert described("train", dataset, benchmark) == [f"train {i}" for i in range(20)]


def test_a_benchmark_that_is_named_goes_before_that_of_the_data_set(monkeypatch) -> None:
    table(monkeypatch, "pets", table10.Rule("per_class", 3))
    fake_source(monkeypatch, "tfds:imagenet2012", 20, "test")
    assert len(described("valid", "tfds:imagenet2012", "pets")) == 6


def test_a_test_split_that_is_missing_is_cut_first(monkeypatch) -> None:
    """A fifth of each class, 2 of 10; then 3 of each class of what is left."""
    table(monkeypatch, "pets", table10.Rule("per_class", 3))
    fake_source(monkeypatch, "npz:x", 20)
    parts = [described(split, "npz:x", "pets") for split in SPLITS]
    assert [len(part) for part in parts] == [10, 6, 4]
    assert joined(parts) == sorted(f"train {i}" for i in range(20))


def test_the_labels_of_the_test_split_decide_where_the_rule_says_so(monkeypatch) -> None:
    table(monkeypatch, "birdsnap", table10.Rule("as_test"))
    arrays = {"train": np.arange(20) % 2, "test": np.array([0, 1, 1, 0, 1])}
    readers = sources._given(
        {
            split: images.ImageSet("npz:x", numbered(len(labels)), labels.astype(np.int32), 2)
            for split, labels in arrays.items()
        }
    )
    monkeypatch.setattr(sources, "_readers", lambda *_: readers)
    valid = sources.load("npz:x", "valid", benchmark="birdsnap")
    assert np.bincount(valid.labels).tolist() == [2, 3]
    monkeypatch.setattr(sources, "_readers", lambda *_: {"train": readers["train"]})
    with pytest.raises(UserError, match=r"benchmark birdsnap .* test split"):
        sources.load("npz:x", "valid", benchmark="birdsnap")


def test_a_benchmark_without_a_validation_split(monkeypatch) -> None:
    table(monkeypatch, "places365", table10.Rule("none"))
    name = "tfds:places365_small"
    asked = fake_source(monkeypatch, name, 8, "test")
    assert described("train", name) == described("train+valid", name)
    assert len(described("train", name)) == 8 and asked == []
    assert "it has no valid images" in message_of(name, "valid")


def test_a_validation_split_that_the_creators_give(monkeypatch) -> None:
    table(monkeypatch, "aircraft", table10.Rule("given"))
    fake_source(monkeypatch, "folder:x", 8, "test")
    with pytest.raises(UserError, match=r"benchmark aircraft .*valid/"):
        sources.load("folder:x", "valid", benchmark="aircraft")


def test_a_benchmark_of_other_classes(tmp_path) -> None:
    """The folder has two; whichever split is asked for."""
    dataset = tiny_runs.write_folder(tmp_path)
    for split in ("train", "test", "train+valid"):
        with pytest.raises(UserError) as error:
            sources.load(dataset, split, benchmark="pets")
        assert all(part in str(error.value) for part in (dataset, "2 classes", "pets", "37"))
    with pytest.raises(UserError, match=r"'pet'.*'pets'"):
        sources.load(dataset, "train", benchmark="pet")


def test_a_multi_label_set_is_cut_uniformly_and_not_read(monkeypatch) -> None:
    def reader() -> images.ImageSet:
        records = images.Records(50, lambda i: images.Encoded(b"", i), str, lambda: 1 / 0)
        return images.ImageSet("tfds:x", records, None, 3, multi_label=True)

    monkeypatch.setattr(sources, "_readers", lambda *_: {"train": reader})
    parts = [sources.load("tfds:x", split) for split in SPLITS]
    ids = [[part.images.read(i).label for i in range(part.size)] for part in parts]
    assert [len(part) for part in ids] == [32, 8, 10] and joined(ids) == list(range(50))
    assert all(part.multi_label for part in parts)
    cut = splits.class_balanced_cut(np.full(50, -1), splits.CUT_FRACTION, splits.CUT_SEED)
    assert ids[2] == cut.tolist()
    labels = np.ones((50, 3), int)
    assert np.array_equal(splits.class_balanced_cut(labels, 0.2, splits.CUT_SEED), cut)


def test_table_10_beside_what_is_prepared(monkeypatch) -> None:
    """Two sets of two classes each, one of which has a validation split."""
    table(monkeypatch, "pets", table10.Rule("per_class", 3), original=20, train=14, valid=6)
    table(monkeypatch, "dtd", table10.Rule("given"))
    own = {"tfds:oxford_iiit_pet": ("test",), "tfds:dtd": ("valid", "test")}
    asked = []

    def readers(dataset: str, data_dir: str | None):
        asked.append((dataset, data_dir))
        if dataset not in own:
            raise UserError("it is not prepared")
        labels = (np.arange(20) % 2).astype(np.int32)
        image_set = images.ImageSet(dataset, numbered(20), labels, 2)
        return sources._given(dict.fromkeys(("train", *own[dataset]), image_set))

    monkeypatch.setattr(sources, "_readers", readers)
    lines = [" ".join(line.split()) for line in sources.table_10("/data")]
    assert "in hand 2 20 14 6 20" in lines and "in hand 2 20 20 20 20" in lines
    assert "tfds:food101: it is not prepared" in lines
    assert sum(line.startswith("Not in TFDS") for line in lines) == 2
    assert len(asked) == 13 and {data_dir for _, data_dir in asked} == {"/data"}


def test_no_label_is_read_where_nothing_is_cut(monkeypatch) -> None:
    asked = fake_source(monkeypatch, "tfds:set", 4, "valid", "test", "extra")
    assert described("train") == [f"train {i}" for i in range(4)]
    assert described("extra+valid") == [f"{s} {i}" for s in ("valid", "extra") for i in range(4)]
    assert asked == []
    asked = fake_source(monkeypatch, "tfds:set", 4)
    assert described("train+valid+test") == [f"train {i}" for i in range(4)]
    assert asked == []


def summary(dataset: str, split: str) -> str:
    return sources.load(dataset, split).summary


def test_what_is_read_and_what_is_set_aside(tmp_path) -> None:
    """Of 1797 digits a fifth of each class are 359; of 10 files 2, then 2 of the other 8."""
    assert summary("digits", "train+valid") == (
        "1797 images in digits, 10 classes; a fifth, 359, set aside as the test split: 1438 are "
        "left (train+valid)"
    )
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"not opened")
    flat = f"folder:{tmp_path}"
    assert summary(flat, "train") == (
        f"10 images in {flat}, no labels; a fifth, 2, set aside as the test split; 2 set aside as "
        "the valid split: 6 are left (train)"
    )
    whole = "train+valid+test"
    assert summary(flat, whole) == f"10 images in {flat}, no labels ({whole})"


def test_splits_of_the_source_are_not_set_aside(tmp_path) -> None:
    dataset = tiny_runs.write_folder(tmp_path, train=10, test=4)
    for count, split in ((10, "train+valid"), (14, "test+train+valid")):
        assert summary(dataset, split) == (
            f"{count} images in {dataset}, 2 classes ({split}); splits of its own: train, test"
        )


def test_several_classes_per_image_are_no_plain_labels(monkeypatch) -> None:
    several = images.ImageSet("fake", numbered(6), np.ones((6, 3), np.int32), 3, True)
    monkeypatch.setattr(sources, "_readers", lambda *_: sources._given({"train": several}))
    assert summary("fake", "train+valid+test") == (
        "6 images in fake, 3 classes, several per image (train+valid+test)"
    )


def test_errors_name_the_key_that_names_the_set(tmp_path) -> None:
    for key, start in (("config.train_dataset", "config.train_dataset=folder:"), ("", "folder:")):
        with pytest.raises(UserError, match=f"^{start}{tmp_path}: the folder has no image"):
            sources.load(f"folder:{tmp_path}", "train", key=key)
        with pytest.raises(UserError, match=r"^config\.benchmark=pet: .*did you mean 'pets'"):
            sources.load(f"folder:{tmp_path}", "train", benchmark="pet", key=key)
    assert sources.load("digits", "train").title == "config.dataset=digits"


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        ("digit", ["did you mean 'digits'?", KINDS]),
        ("digits:", ["'digits'?"]),
        ("nzp:file", ["'npz:'?"]),
        ("npz", ["'npz:'?"]),
        ("TFDS:cifar10", ["'tfds:'?"]),
        ("files:x", [KINDS]),
        ("quux", [KINDS]),
        ("images.npz", ["'npz:images.npz'?"]),
        ("/", ["'folder:/'?"]),
        ("folder:", ["folder:DIR"]),
        ("folder:/nowhere/x", ["/nowhere/x", "folder:DIR"]),
        ("npz:", ["npz:FILE"]),
        ("npz:/nowhere/x.npz", ["/nowhere/x.npz", "train_images"]),
    ],
)
def test_unknown_datasets(dataset: str, parts: list[str]) -> None:
    message = message_of(dataset)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("split", "named"), [("val", "val"), ("train+vaild+x", "vaild"), ("train+", ""), ("", "")]
)
def test_unknown_split(split: str, named: str) -> None:
    message = message_of("digits", split)
    assert f"'{named}'" in message and "train, valid, test" in message


def test_a_source_may_have_more_splits(monkeypatch) -> None:
    fake_source(monkeypatch, "tfds:set", 4, "test", "extra")
    assert "train, valid, test, extra" in message_of("fake", "other")


@pytest.mark.parametrize("dataset", ["digits", "npz:x.npz", "folder:x"])
def test_data_dir_is_for_tfds(dataset: str) -> None:
    message = message_of(dataset, data_dir="/data")
    assert all(part in message for part in ("config.data_dir=/data", "tfds:NAME"))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 and then nothing"])
def test_not_an_npz(tmp_path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    assert "numpy.savez" in message_of(f"npz:{tmp_path / 'set.npz'}")


def test_an_npz_that_this_user_may_not_read(tmp_path, monkeypatch) -> None:
    dataset = saved(tmp_path, train_images=IMAGES)

    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    message = message_of(dataset)
    assert "cannot be read (Permission denied): make it readable" in message
    assert "numpy.savez" not in message


def test_a_single_array_is_not_an_npz(tmp_path) -> None:
    np.save(tmp_path / "set.npy", IMAGES)
    assert "numpy.savez" in message_of(f"npz:{tmp_path / 'set.npy'}")


def test_a_damaged_npz(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=IMAGES)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / "set.npz").write_bytes(content)
    assert "numpy.savez" in message_of(dataset)


def test_an_npz_packed_in_an_unknown_way(tmp_path) -> None:
    """Of an entry in the archive's directory, byte 10 says how its array is packed."""
    dataset = saved(tmp_path, train_images=IMAGES)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 255
    (tmp_path / "set.npz").write_bytes(content)
    assert "numpy.savez" in message_of(dataset)


def test_pickled_objects_are_refused(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=np.array([{}, {}], object))
    assert "numpy.savez" in message_of(dataset)


@pytest.mark.parametrize(
    ("arrays", "split", "parts"),
    [
        ({"x": IMAGES, "y": LABELS}, "train", ["'train_images'", "x, y"]),
        ({}, "train", ["'train_images'"]),
        ({"train_images": IMAGES / 255}, "train", ["float64", "uint8", "multiply", "255"]),
        ({"train_images": IMAGES.astype(int)}, "train", ["int64", "uint8"]),
        ({"train_images": IMAGES[..., 0]}, "train", ["[6, 4, 5]", "[N, H, W, 3]"]),
        ({"train_images": IMAGES[..., :1]}, "train", ["[6, 4, 5, 1]", "[N, H, W, 3]"]),
        ({"train_images": np.moveaxis(IMAGES, 3, 1)}, "train", ["[6, 3, 4, 5]", "[N, H, W, 3]"]),
        (
            {"train_images": IMAGES, "train_labels": LABELS[:5]},
            "train",
            ["train_labels", "[5]", "[6]"],
        ),
        (
            {"train_images": IMAGES, "train_labels": np.eye(3)[LABELS].astype(int)},
            "train",
            ["[6, 3]", "[6]"],
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS.astype(float)},
            "train",
            ["train_labels", "float64", "integer"],
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS + 2**31},
            "train",
            ["train_labels", f"{2**31 + 2}"],
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
            ["'test_labels'", "'test_images'"],
        ),
        ({"train_images": IMAGES[:0]}, "train", ["no train images"]),
        ({"train_images": IMAGES[:0]}, "train+valid", ["no train+valid images"]),
        ({"train_images": IMAGES[:, :0]}, "train", ["[6, 0, 5, 3]", "[N, H, W, 3]"]),
        # A fifth of two images rounds to none.
        ({"train_images": IMAGES[:2]}, "test", ["no test images"]),
        (
            {"train_images": IMAGES, "test_images": IMAGES[:, :, :4]},
            "train+valid+test",
            ["(4, 4)", "(4, 5)"],
        ),
    ],
)
def test_unusable_arrays(tmp_path, arrays, split: str, parts: list[str]) -> None:
    message = message_of(saved(tmp_path, **arrays), split)
    assert all(part in message for part in parts), message


def test_reading_needs_no_tensorflow(tmp_path) -> None:
    dataset = saved(tmp_path, train_images=IMAGES)
    folder = tiny_runs.write_folder(tmp_path / "folder", 4, 2)
    program = (
        "import sys; from byol_jax.data import pipeline, sources\n"
        f"images = sources.load({dataset!r}, 'train')\n"
        "assert 'sklearn' not in sys.modules\n"
        f"sources.load({folder!r}, 'train')\n"
        "digits = sources.load('digits', 'test')\n"
        "batches = pipeline.evaluation_batches(digits, image_size=8, mode='full', batch_size=99)\n"
        "assert sum(len(batch['images']) for batch in batches) == 359\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
