"""Folders of image files: layouts, labels, what is left out, and what is refused."""

import contextlib
import logging
import os
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from byol_jax.data import folder, formats, images, sources
from byol_jax.errors import UserError


def write(root: pathlib.Path, *files: str) -> str:
    """Files whose bytes are their paths; no image is opened to list them."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return str(root)


def listed(image_set: images.ImageSet) -> dict[str, int]:
    """The bytes of each file and its label, in order; checked against all that says the same."""
    stored = [image_set.images.read(i) for i in range(image_set.size)]
    assert image_set.labels.dtype == np.int32
    assert image_set.labels.tolist() == [example.label for example in stored]
    assert images.all_labels(image_set) is image_set.labels
    for i, example in enumerate(stored):
        assert image_set.images.describe(i).endswith(f"/{example.data.decode()}")
    return {example.data.decode(): example.label for example in stored}


def message_of(root: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        sources.load(f"folder:{root}", "train")
    assert str(error.value).startswith(f"config.dataset=folder:{root}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def heard(caplog, monkeypatch):
    """A run's own log, which another test may have opened, keeps its lines to itself."""
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")


def test_loose_files_are_one_split_without_labels(tmp_path) -> None:
    splits = folder.read(write(tmp_path, "b.png", "a.jpg", "c.webp"))
    assert list(splits) == ["train"]
    train = splits["train"]
    assert listed(train) == {"a.jpg": -1, "b.png": -1, "c.webp": -1}
    assert (train.name, train.size, train.num_classes) == (f"folder:{tmp_path}", 3, 0)


def test_sub_folders_are_classes_by_rank(tmp_path) -> None:
    root = write(tmp_path, "dog/1.png", "cat/2.png", "cat/1.png", "Zebra/1.png")
    (train,) = folder.read(root).values()
    assert listed(train) == {"Zebra/1.png": 0, "cat/1.png": 1, "cat/2.png": 1, "dog/1.png": 2}
    assert train.num_classes == 3


def test_loose_files_beside_classes_have_no_label(tmp_path) -> None:
    (train,) = folder.read(write(tmp_path, "b/1.png", "c.png", "a/1.png", "a.png")).values()
    assert listed(train) == {"a.png": -1, "a/1.png": 0, "b/1.png": 1, "c.png": -1}
    assert train.num_classes == 2


def test_deeper_folders_belong_to_their_class(tmp_path) -> None:
    root = write(tmp_path, "b/1.png", "b/x/2.png", "b/x/y/3.png", "a/z/1.png")
    (train,) = folder.read(root).values()
    assert listed(train) == {"a/z/1.png": 0, "b/1.png": 1, "b/x/2.png": 1, "b/x/y/3.png": 1}


@pytest.mark.parametrize("validation", ["val", "valid"])
def test_folders_that_are_splits(tmp_path, validation: str) -> None:
    root = write(tmp_path, "train/a/1.png", "train/b/1.png", f"{validation}/b/2.png", "test/3.png")
    splits = folder.read(root)
    assert {split: listed(part) for split, part in splits.items()} == {
        "train": {"train/a/1.png": 0, "train/b/1.png": 1},
        "valid": {f"{validation}/b/2.png": 1},
        "test": {"test/3.png": -1},
    }
    assert {part.num_classes for part in splits.values()} == {2}


def test_labels_are_ranks_over_all_splits(tmp_path) -> None:
    """`a` is missing in train and `c` in val: `b` and `d` have one number everywhere."""
    train = [f"train/{name}/1.png" for name in "bcd"]
    splits = folder.read(write(tmp_path, *train, *(f"val/{name}/1.png" for name in "abd")))
    assert splits["train"].labels.tolist() == [1, 2, 3]
    assert splits["valid"].labels.tolist() == [0, 1, 3]
    assert splits["train"].num_classes == splits["valid"].num_classes == 4


def test_an_empty_folder_is_no_class(tmp_path) -> None:
    (tmp_path / "a" / "deeper").mkdir(parents=True)
    (train,) = folder.read(write(tmp_path, "b/1.png")).values()
    assert listed(train) == {"b/1.png": 0}
    assert train.num_classes == 1


def test_a_train_folder_alone_is_cut(tmp_path) -> None:
    """Of 10 in each class round(0.2 * 10) = 2 are for test, round(0.2 * 8) = 2 for valid."""
    files = [f"train/{name}/{i}.png" for name in "ab" for i in range(10)]
    root = write(tmp_path, *files)
    parts = {split: sources.load(f"folder:{root}", split) for split in ("train", "valid", "test")}
    assert {split: np.bincount(part.labels).tolist() for split, part in parts.items()} == {
        "train": [6, 6],
        "valid": [2, 2],
        "test": [2, 2],
    }
    assert sorted(file for part in parts.values() for file in listed(part)) == sorted(files)


def test_files_beside_the_split_folders_are_not_in_any_split(tmp_path) -> None:
    splits = folder.read(write(tmp_path, "train/1.png", "extra/1.png", "loose.png"))
    assert {split: listed(part) for split, part in splits.items()} == {"train": {"train/1.png": -1}}


def test_the_order_is_that_of_the_paths(tmp_path, monkeypatch) -> None:
    """Whatever order the file system has: here backwards."""
    files = ["a/10.png", "a/9.png", "a/x/1.png", "a-b/1.png", "b.png", "b/1.png", "c/é.png"]
    root = write(tmp_path, *files)

    def names() -> list[str]:
        (train,) = folder.read(root).values()
        return list(listed(train))

    expected = ["a-b/1.png", "a/10.png", "a/9.png", "a/x/1.png", "b.png", "b/1.png", "c/é.png"]
    assert names() == expected
    walk = os.walk

    def backwards(top, **options):
        for parent, folders, files in walk(top, **options):
            folders.sort(reverse=True)
            yield parent, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert names() == expected


def test_endings_in_any_case(tmp_path) -> None:
    kept = ["1.JPG", "2.Jpeg", "3.jpe", "4.PNG", "5.webp", "6.bmp", "7.GIF", "8.tiff", "9.JFIF"]
    left = ["9.txt", "jpg", "10.png.part", "11.jpgx", "12.mp4", "13.eps"]
    (train,) = folder.read(write(tmp_path, *kept, *left)).values()
    assert list(listed(train)) == kept


def test_files_that_are_left_out_are_logged(tmp_path, caplog) -> None:
    root = write(tmp_path, "a/1.png", "notes.txt", "a/z.csv", "a/y.md", "b/x.json")
    write(tmp_path, ".hidden.txt", ".cache/1.txt")
    (train,) = folder.read(root).values()
    (lost,) = messages(caplog)
    assert lost.startswith(f"{root}: none of the files in b/ is an image")
    assert train.note.startswith("4 file(s)")
    assert train.note.endswith(f"{root}/a/y.md, {root}/a/z.csv, {root}/b/x.json, ...")


def test_what_is_left_out_is_said_once(tmp_path, caplog) -> None:
    """A run reads its folder for each of its splits."""
    root = write(tmp_path, "train/1.png", "train/notes.txt", "extra/1.png")
    for split in ("train", "valid", "test"):
        with contextlib.suppress(UserError):
            sources.load(f"folder:{root}", split)
    (message,) = messages(caplog)
    assert message.endswith("extra")
    sources.announce(sources.load(f"folder:{root}", "train"))
    said = " ".join(messages(caplog))
    assert said.count("extra") == said.count(f"{root}/train/notes.txt") == 1
    assert said.count("left out") == 2


def test_nothing_is_logged_when_nothing_is_left_out(tmp_path, caplog) -> None:
    folder.read(write(tmp_path, "a/1.png"))
    assert messages(caplog) == []


def test_hidden_files_and_folders_are_no_images(tmp_path, caplog) -> None:
    root = write(tmp_path, "a/1.png", "a/._1.png", ".thumbs/1.png", "a/.x/2.png", ".DS_Store")
    (train,) = folder.read(root).values()
    assert listed(train) == {"a/1.png": 0}
    assert train.num_classes == 1
    assert messages(caplog) == []


def test_a_linked_folder_is_a_class(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "b/1.png")
    root = tmp_path / "root"
    write(root, "a/1.png")
    (root / "b").symlink_to(elsewhere / "b")
    (train,) = folder.read(str(root)).values()
    assert listed(train) == {"a/1.png": 0, "b/1.png": 1}


def test_linked_splits_and_files(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "a/1.png", "2.png")
    root = tmp_path / "root"
    (root / "test" / "b").mkdir(parents=True)
    (root / "train").symlink_to(elsewhere)
    (root / "test" / "b" / "x.png").symlink_to(elsewhere / "2.png")
    splits = folder.read(str(root))
    assert listed(splits["train"]) == {"2.png": -1, "a/1.png": 0}
    assert splits["test"].images.read(0) == images.Encoded(b"2.png", 1)


def test_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "photos", "1.png")
    (train,) = folder.read("~/photos").values()
    assert train.name == "folder:~/photos"
    assert listed(train) == {"1.png": -1}


def test_a_file_that_is_gone(tmp_path) -> None:
    (train,) = folder.read(write(tmp_path, "a/1.png", "a/2.png")).values()
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(OSError, match=r"1\.png"):
        train.images.read(0)
    assert train.images.read(1) == images.Encoded(b"a/2.png", 0)


def test_missing(tmp_path) -> None:
    path = tmp_path / "nothing"
    assert f"{path}" in message_of(path)
    write(tmp_path, "file.png")
    assert f"{tmp_path / 'file.png'}" in message_of(tmp_path / "file.png")


@pytest.mark.parametrize("files", [[], ["a/notes.txt"], ["train/.x.png", "test/a/x.csv"]])
def test_no_image(tmp_path, files: list[str]) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path, *files)
    message = message_of(tmp_path)
    assert f"{tmp_path}" in message
    assert ".jpg, .jpeg, .jpe, .png, .webp, .bmp, .gif" in message


@pytest.mark.parametrize(
    ("folders", "listed"),
    [(["val"], "val/"), (["test"], "test/"), (["test", "valid"], "valid/ and test/")],
)
def test_no_folder_to_train_on(tmp_path, folders: list[str], listed: str) -> None:
    write(tmp_path, *(f"{name}/1.png" for name in folders))
    message = message_of(tmp_path)
    assert all(part in message for part in (f"{tmp_path}", listed, "train/"))


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("training", "validation", "testing"),
        ("Train", "Val", "Test"),
        ("TRAINING", "VALID", "TESTING"),
    ],
)
def test_splits_by_usual_names_in_any_case(tmp_path, train: str, valid: str, test: str) -> None:
    root = write(tmp_path, f"{train}/a/1.png", f"{valid}/b/2.png", f"{test}/a/3.png")
    splits = folder.read(root)
    assert {split: listed(part) for split, part in splits.items()} == {
        "train": {f"{train}/a/1.png": 0},
        "valid": {f"{valid}/b/2.png": 1},
        "test": {f"{test}/a/3.png": 0},
    }
    assert f"{valid}/ is valid" in sources.load(f"folder:{root}", "train").summary


@pytest.mark.parametrize("pair", [("Train", "training"), ("test", "Testing")])
def test_two_names_of_one_split_are_refused(tmp_path, pair: tuple[str, str]) -> None:
    write(tmp_path, "train/1.png", *(f"{name}/1.png" for name in pair))
    assert all(f"{name}/" in message_of(tmp_path) for name in pair)


def warned(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_one_level_too_high_is_a_warning_with_the_folder_to_give(tmp_path, caplog) -> None:
    root = write(tmp_path, "data/train/a/1.png", "data/val/a/2.png")
    assert folder.read(root)["train"].classes == ("data",)
    (message,) = warned(caplog)
    assert f"folder:{root}/data" in message and "train, val" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["images/a/1.png", "images/b/1.png"], ["one class, images", "a, b", "/images if"]),
        (["train/x/a/1.png", "train/x/b/1.png"], ["has one class, x", "a, b", "move them up"]),
        (["a/train/1.png", "b/train/1.png", "b/test/1.png"], ["test, train", "above the classes"]),
        (["train_images/1.png", "dev/1.png"], ["dev, train_images", "named train, val"]),
        (["train/a/1.png", "dev/a/1.png"], ["beside train/", "dev"]),
    ],
)
def test_levels_and_names_that_look_wrong_are_warnings(tmp_path, caplog, files, words) -> None:
    root = write(tmp_path, *files)
    folder.read(root)
    (message,) = warned(caplog)
    assert all(part in message for part in (root, *words)), message


@pytest.mark.parametrize(
    "files",
    [
        ["a/1.png", "b/x/1.png", "b/y/1.png"],
        ["train/a/1.png", "val/a/1.png", "notes.txt"],
        ["only/1.png"],
        ["trainers/1.png", "tester/1.png"],
    ],
)
def test_usual_layouts_are_no_warning(tmp_path, caplog, files) -> None:
    folder.read(write(tmp_path, *files))
    assert warned(caplog) == []


def test_a_class_without_images_is_a_warning(tmp_path, caplog) -> None:
    root = write(tmp_path, "train/a/1.png", "train/b/1.heic", "train/b/2.heic", "train/a/x.csv")
    folder.read(root)
    (message,) = warned(caplog)
    assert "b/" in message and "a/" not in message.removeprefix(root).replace("class", "")


def saved(path: pathlib.Path, file_format: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (10, 20, 30)).save(path, file_format)


def test_files_are_known_by_their_first_bytes(tmp_path, monkeypatch) -> None:
    """Only those are opened whose ending says nothing."""
    kinds = {"a/1": "JPEG", "a/2.data": "PNG", "b/3.0001": "TIFF", "b/4.x": "WEBP", "b/5.y": "BMP"}
    for name, kind in kinds.items():
        saved(tmp_path / name, kind)
    saved(tmp_path / "a/6.png.part", "PNG")  # not yet written to its end
    write(tmp_path, "a/README", "a/BMW")
    opened: list[str] = []
    monkeypatch.setattr(formats, "by_content", lambda path: opened.append(path) or True)
    write(tmp_path, "b/7.jpg", "b/8.tif", "b/9.txt")
    folder.read(str(tmp_path))
    expected = {*kinds, "a/README", "a/BMW"}
    assert {os.path.relpath(path, tmp_path) for path in opened} == expected
    monkeypatch.undo()
    (train,) = folder.read(str(tmp_path)).values()
    assert listed_files(train) == sorted([*kinds, "b/7.jpg", "b/8.tif"])
    for i, name in enumerate(listed_files(train)):
        if name in kinds:
            assert images.prepare(train.images.read(i).data).width == 9


def test_images_known_by_their_first_bytes_are_named(tmp_path, caplog) -> None:
    saved(tmp_path / "a/1", "JPEG")
    saved(tmp_path / "a/2.0001", "PNG")
    saved(tmp_path / "a/3.png", "PNG")
    folder.read(str(tmp_path))
    (message,) = messages(caplog)
    assert "2 file(s) are taken as images by their first bytes" in message
    assert message.endswith(f"{tmp_path}/a/1, {tmp_path}/a/2.0001")


def test_backups_raw_files_and_thumbnails_are_no_images(tmp_path) -> None:
    """Their first bytes are those of images."""
    kinds = {"0.jpg_original": "JPEG", "0.jpg~": "JPEG", "0.THM": "JPEG", "0.jpg.bak": "JPEG"}
    kinds |= {"0.orig": "PNG", "0.NEF": "TIFF", "0.cr2": "TIFF", "0.dng": "TIFF", "0~": "PNG"}
    for name, kind in kinds.items():
        saved(tmp_path / "a" / name, kind)
    saved(tmp_path / "a/0.jpg", "JPEG")
    saved(tmp_path / "a/photo_original", "JPEG")
    assert listed_files(folder.read(str(tmp_path))["train"]) == ["a/0.jpg", "a/photo_original"]


def test_point_clouds_and_other_files_with_endings_that_pillow_knows(tmp_path, monkeypatch) -> None:
    """Pillow registers .pcd, .fits, .im and others, which other programs use as well."""
    saved(tmp_path / "a/0.jpg", "JPEG")
    saved(tmp_path / "a/1.pcx", "PCX")
    saved(tmp_path / "a/2.ppm", "PPM")
    for name in ("3.pcd", "4.fits", "5.im", "6.ras", "7.iim"):
        (tmp_path / "a" / name).write_bytes(b"VERSION 0.7\nFIELDS x y z\n")
    expected = ["a/0.jpg", "a/1.pcx", "a/2.ppm"]
    assert listed_files(folder.read(str(tmp_path))["train"]) == expected
    monkeypatch.setattr(formats, "by_content", lambda path: True)
    assert "a/3.pcd" not in listed_files(folder.read(str(tmp_path))["train"])


def test_archives_are_to_be_unpacked(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert "archive" in message_of(tmp_path / "x.zip") and "unpack" in message_of(
        tmp_path / "x.zip"
    )
    with tarfile.open(tmp_path / "y.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x.zip")
    assert "unpack" in message_of(tmp_path / "y.tar.gz")
    assert "x.zip: unpack" in message_of(tmp_path)
    write(tmp_path, "note.md")
    assert "is a file, not a folder" in message_of(tmp_path / "note.md")


def test_two_folders_for_validation(tmp_path) -> None:
    write(tmp_path, "train/1.png", "val/1.png", "valid/1.png")
    message = message_of(tmp_path)
    assert all(part in message for part in (f"{tmp_path}", "val/", "valid/"))


def test_a_split_without_images_is_refused_when_asked_for(tmp_path) -> None:
    root = write(tmp_path, "train/1.png", "test/notes.txt")
    assert sources.load(f"folder:{root}", "train+valid").size == 1
    with pytest.raises(UserError, match="test"):
        sources.load(f"folder:{root}", "test")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch) -> None:
    """A class that silently vanished would move the labels of those behind it."""
    write(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    message = message_of(tmp_path)
    assert f"{tmp_path / 'a'}" in message and "Permission denied" in message


@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "what is beside train/"])
def test_a_folder_whose_names_cannot_be_read(tmp_path, monkeypatch, whole: bool) -> None:
    """Mode 0300; a folder that turns so between two looks is named too."""
    write(tmp_path, "train/1.png")
    listdir, calls = os.listdir, []

    def refusing(path):
        calls.append(path)
        if whole or len(calls) > 1:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    message = message_of(tmp_path)
    assert f"the folder {tmp_path} cannot be read (Permission denied): make it" in message


def test_files_beside_train_are_left_out_and_logged(tmp_path, caplog) -> None:
    root = write(tmp_path, "train/a/1.png", "extra/2.png", "notes.txt", ".hidden/3.png")
    assert [splits.size for splits in folder.read(root).values()] == [1]
    (message,) = messages(caplog)
    assert message.startswith(f"{root}: ") and message.endswith("extra, notes.txt")
    caplog.clear()
    (tmp_path / "extra").rename(tmp_path / ".extra")
    (train,) = folder.read(root).values()
    assert train.note == "what is beside train/ is left out: notes.txt"
    assert messages(caplog) == []


def test_a_link_to_a_folder_above_is_not_followed(tmp_path) -> None:
    root = write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    (train,) = folder.read(root).values()
    assert listed_files(train) == ["a/1.png", "b/2.png", "c/2.png"]


def listed_files(image_set: images.ImageSet) -> list[str]:
    root = image_set.name.removeprefix("folder:")
    return [os.path.relpath(image_set.images.describe(i), root) for i in range(image_set.size)]
