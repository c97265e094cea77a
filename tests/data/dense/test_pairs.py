"""Folders of one's own: images beside masks and beside depth."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from byol_jax.data.dense import sets, sources
from byol_jax.data.images import Decoding
from byol_jax.errors import UserError
from tiny_dense import picture, save_image, save_list, save_palette

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))


def write_masks(images: pathlib.Path, masks: pathlib.Path, count: int, top: int = 2) -> None:
    for i in range(count):
        save_image(images / f"im{i}.jpg", picture(i, 4 + i, 5))
        mask = np.full((4 + i, 5), i % (top + 1), np.uint8)
        mask[0, 0] = top
        save_palette(masks / f"im{i}.png", mask)


def write_depth(images: pathlib.Path, depths: pathlib.Path, count: int) -> None:
    for i in range(count):
        save_image(images / f"im{i}.png", picture(i, 4, 5))
        save_image(depths / f"im{i}.png", np.full((4, 5), 1000 * (i + 1), np.uint16))


@pytest.fixture
def camvid(tmp_path) -> pathlib.Path:
    """The layout of CamVid: train, val, test, masks beside them; 3 classes, 11 is void."""
    for split, count in {"train": 3, "val": 2, "test": 1}.items():
        write_masks(tmp_path / split, tmp_path / f"{split}annot", count)
    mask = np.array([[0, 1, 2, 11, 255]] * 4, np.uint8)
    save_image(tmp_path / "trainannot/im0.png", mask)
    return tmp_path


def load(root: pathlib.Path, split: str, kind: str = "masks", options: str = "") -> sets.DenseSet:
    return sources.load(f"{kind}:{root}{options}", split, kind)


def message_of(root: pathlib.Path, kind: str = "masks", options: str = "") -> str:
    with pytest.raises(UserError) as error:
        load(root, "train", kind, options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_splits_of_camvid_and_void_by_its_index(camvid) -> None:
    found = {split: load(camvid, split, options=",void=11") for split in sources.SPLITS}
    assert {split: part.names for split, part in found.items()} == {
        "train": ["im0", "im1", "im2"],
        "valid": ["im0", "im1"],
        "test": ["im0"],
    }
    assert found["train"].classes == ("0", "1", "2")
    assert found["train"].read(0).target.tolist() == [[0, 1, 2, 255, 255]] * 4
    assert load(camvid, "train+valid", options=",void=11").names == [
        *("im0", "im1", "im2", "im0", "im1")
    ]


def test_without_void_its_index_is_a_class(camvid) -> None:
    assert len(load(camvid, "train").classes) == 12


def test_classes_have_the_names_of_a_file_which_also_bounds_the_indices(camvid) -> None:
    (camvid / "classes.txt").write_text("road\ncar\n\n")
    train = load(camvid, "train", options=",void=11")
    assert train.classes == ("road", "car")
    with pytest.raises(UserError, match=r"has the index 2 in row 0, column 2, .*2 classes, 0 to 1"):
        train.read(0)


def test_images_without_masks_are_named_and_counted(camvid) -> None:
    (camvid / "trainannot/im1.png").unlink()
    (camvid / "trainannot/im2.png").unlink()
    message = message_of(camvid)
    assert "2 of 3 images have no mask in" in message
    assert str(camvid / "train/im1.jpg") in message and str(camvid / "train/im2.jpg") in message


def test_a_split_without_masks_is_named(camvid) -> None:
    for path in (camvid / "valannot").iterdir():
        path.unlink()
    assert "2 of 2 images have no mask" in message_of(camvid)
    (camvid / "valannot").rmdir()
    assert "has no masks of its split valid" in message_of(camvid)


def test_two_images_of_one_name_are_refused(camvid) -> None:
    save_image(camvid / "train/im1.png", picture(0, 5, 5))
    assert "have one name" in message_of(camvid)


@pytest.mark.parametrize("masks", ["masks", "annotations"])
@pytest.mark.parametrize("split", ["", "training"])
def test_folders_named_images_and_masks(tmp_path, masks, split) -> None:
    write_masks(tmp_path / "images" / split / "deep", tmp_path / masks / split / "deep", 10)
    parts = {part: load(tmp_path, part) for part in sources.SPLITS}
    # A fifth is the test, a fifth of the other 8 is held out: 1.6 is 2.
    assert {part: found.size for part, found in parts.items()} == {
        "train": 6,
        "valid": 2,
        "test": 2,
    }
    names = [name for found in parts.values() for name in found.names]
    assert sorted(names) == [f"deep/im{i}" for i in range(10)]


def test_without_a_test_the_validation_images_are_the_test(tmp_path) -> None:
    for split, count in {"train": 10, "val": 3}.items():
        write_masks(tmp_path / split, tmp_path / f"{split}annot", count)
    sizes = {split: load(tmp_path, split).size for split in sources.SPLITS}
    assert sizes == {"train": 8, "valid": 2, "test": 3}


def test_a_folder_without_masks_is_told_what_is_needed(tmp_path) -> None:
    save_image(tmp_path / "train/im.png", picture(0, 4, 4))
    message = message_of(tmp_path)
    assert "train/ beside trainannot/" in message and "images/ beside masks/" in message


@pytest.mark.parametrize(
    ("dataset", "kind", "words"),
    [
        ("folder:x", "masks", "no target per pixel: give one of voc:DIR, masks:DIR"),
        ("masks:x", "depth", "it has masks, and this job needs depth: give one of nyu:PATH"),
        ("masks:", "masks", "names no folder"),
        ("masks:x,void=", "masks", "void= has no value"),
        ("masks:x,void=1,void=2", "masks", "given twice"),
    ],
)
def test_other_sets_and_options_are_refused(dataset, kind, words) -> None:
    with pytest.raises(UserError, match=words):
        sources.load(dataset, "train", kind)


@pytest.mark.parametrize("void", ["x", "1.5", "-1", "300"])
def test_a_void_that_is_no_index_is_refused(camvid, void) -> None:
    assert f"void={void}" in message_of(camvid, options=f",void={void}")


def test_a_path_may_have_a_comma(tmp_path) -> None:
    root = tmp_path / "mine,train=old"
    write_masks(root / "images", root / "masks", 5)
    assert load(root, "train+valid").size == 4


def test_exif_turns_images_and_then_they_fit_their_masks(tmp_path) -> None:
    pixels = picture(0, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of the stored pixels
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/im.png", exif=exif)
    save_image(tmp_path / "masks/im.png", np.ones((6, 4), np.uint8))
    # The only image: of one image no fifth is cut out.
    name = f"masks:{tmp_path}"
    turned = sources.load(name, "train+valid", "masks", decoding=Decoding(exif=True))
    np.testing.assert_array_equal(turned.read(0).image, np.rot90(pixels, -1))
    assert turned.shape_of(0) == (6, 4)
    stored = sources.load(name, "train+valid", "masks")
    with pytest.raises(UserError, match=r"config\.exif"):
        stored.read(0)


def test_depth_in_millimetres_with_two_values_that_mean_none(tmp_path) -> None:
    write_depth(tmp_path / "images", tmp_path / "depth", 5)
    values = np.array([[0, 65535, 1, 1500]] * 4, np.uint16)
    save_image(tmp_path / "images/im0.png", picture(0, 4, 4))
    save_image(tmp_path / "depth/im0.png", values)
    parts = [load(tmp_path, split, "depth") for split in ("train+valid", "test")]
    read = {part.name_of(i): part.read(i).target for part in parts for i in range(part.size)}
    assert all(depth.dtype == np.float32 for depth in read.values())
    np.testing.assert_array_equal(read["im0"], np.float32([[0, 0, 0.001, 1.5]] * 4))
    assert read["im1"].tolist() == [[2.0] * 5] * 4
    scaled = load(tmp_path, "train+valid", "depth", ",per_metre=500")
    for i, name in enumerate(parts[0].names):
        np.testing.assert_array_equal(scaled.read(i).target, 2 * read[name])


@pytest.mark.parametrize("ending", ["npy", "tiff"])
def test_depth_as_floats_is_metres(tmp_path, ending) -> None:
    write_depth(tmp_path / "images", tmp_path / "depth", 5)
    metres = np.array([[0.5, np.nan, -1, np.inf, 2.25]] * 4, np.float32)
    for i in range(5):
        (tmp_path / f"depth/im{i}.png").unlink()
        if ending == "npy":
            np.save(tmp_path / f"depth/im{i}.npy", metres.astype(np.float64))
        else:
            Image.fromarray(metres).save(tmp_path / f"depth/im{i}.tiff")
    found = load(tmp_path, "train", "depth").read(0).target
    np.testing.assert_array_equal(found, np.float32([[0.5, 0, 0, 0, 2.25]] * 4))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((4, 5), np.uint16), "has no pixel with a valid depth"),
        (np.full((4, 5), 65535, np.uint16), "has no pixel with a valid depth"),
        (np.full((4, 5), 9, np.uint8), "mode L, not of 16 bits"),
        (np.full((5, 5), 9, np.uint16), "has 5 x 5 pixels, but its image"),
    ],
)
def test_depth_that_is_none_is_refused(tmp_path, pixels, words) -> None:
    write_depth(tmp_path / "images", tmp_path / "depth", 5)
    for i in range(5):
        save_image(tmp_path / f"depth/im{i}.png", pixels)
    with pytest.raises(UserError, match=words) as error:
        sets.check_readable(load(tmp_path, "train", "depth"))
    assert "\n" not in str(error.value)


def test_files_side_by_side_with_lists(tmp_path) -> None:
    for i in range(4):
        save_image(tmp_path / f"frame-{i}.color.jpg", picture(i, 4, 5))
        save_image(tmp_path / f"frame-{i}.depth.png", np.full((4, 5), 900 + i, np.uint16))
    whole = load(tmp_path, "train+valid", "depth")
    assert whole.size == 3  # of 4 without lists one is the test
    save_list(tmp_path / "train.txt", ["frame-2", "frame-0"])
    save_list(tmp_path / "val.txt", ["frame-3"])
    assert load(tmp_path, "train+valid", "depth").names == ["frame-0", "frame-2"]
    test = load(tmp_path, "test", "depth")
    assert test.names == ["frame-3"]
    assert test.read(0).target[0, 0] == np.float32(0.903)
    save_list(tmp_path / "val.txt", ["frame-3", "frame-9"])
    assert "1 of 2 names" in message_of(tmp_path, "depth")
    save_list(tmp_path / "val.txt", ["frame-3"])
    (tmp_path / "frame-0.depth.png").unlink()
    assert "1 of 2 images have no depth image" in message_of(tmp_path, "depth")


def test_more_unreadable_files_than_tolerated_end_the_check(tmp_path) -> None:
    write_masks(tmp_path / "images", tmp_path / "masks", 10)
    train = load(tmp_path, "train+valid")
    assert train.size == 8
    (tmp_path / "images" / f"{train.name_of(0)}.jpg").write_bytes(b"no image")
    sets.check_readable(train)  # one is tolerated
    mask = tmp_path / "masks" / f"{train.name_of(3)}.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(UserError, match="2 of 8 images cannot be read, more than one: ") as error:
        sets.check_readable(train)
    assert str(mask) in str(error.value)


def test_camvid_itself_is_read_whole() -> None:
    root = SHARED / "data" / "camvid_jpeg"
    if not root.exists():
        pytest.skip(f"optional local data: no {root} (set BYOL_SHARED)")
    parts = {split: load(root, split, options=",void=11") for split in sources.SPLITS}
    sizes = {split: part.size for split, part in parts.items()}
    assert sizes == {"train": 74, "valid": 21, "test": 47}
    assert len(parts["train"].classes) == 11
    assert sets.largest_shape(parts["valid"]) == (360, 480)
    sets.check_readable(parts["valid"])
    shown = np.unique([parts["train"].read(i).target for i in range(10)])
    assert {*shown.tolist()} <= {*range(11), 255}


def test_the_frames_of_7_scenes_are_read_whole() -> None:
    root = SHARED / "data" / "rgbd_7scenes"
    if not root.exists():
        pytest.skip(f"optional local data: no {root} (set BYOL_SHARED)")
    train, test = (load(root, split, "depth") for split in ("train+valid", "test"))
    assert (train.size, test.size) == (30, 10)
    for i in range(test.size):
        depth = test.read(i).target
        valid = depth[depth > 0]
        assert depth.shape == (480, 640)
        # Real values are 801 to 3975 mm, and 5 to 22 % of the pixels have none.
        assert valid.min() >= np.float32(0.801) and valid.max() <= np.float32(3.975)
        assert 0.04 < 1 - valid.size / depth.size < 0.23
