"""VOC's devkit and what belongs to it: which files become which split, and which pixels."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy import io

from byol_jax.data.dense import sets, sources
from byol_jax.errors import UserError
from tiny_dense import picture, save_image, save_list, save_palette

SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))

# VOC's own splits; SBD's lists share images with both.
TRAIN, VAL = ["2007_000032", "2007_000039", "2008_000008"], ["2007_000033", "2007_000042"]
SBD_TRAIN, SBD_VAL = ["2007_000032", "2009_000001", "2007_000033"], ["2010_000002", "2007_000042"]
AUG = ["2007_000032", "2007_000039", "2008_000008", "2009_000001", "2010_000002"]
EVERY = sorted({*TRAIN, *VAL, *AUG})
HEIGHT, WIDTH = 6, 8


def mask_of(name: str, kind: str) -> np.ndarray:
    """A mask whose first pixel tells the image and whose second tells the kind of mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[0, 0] = EVERY.index(name) + 1
    mask[0, 1] = {"own": 0, "aug": 15, "sbd": 20}[kind]
    mask[-1] = 255 if kind == "own" else 16
    return mask


@pytest.fixture
def devkit(tmp_path) -> pathlib.Path:
    """VOCdevkit with VOC2012, as VOC itself gives it."""
    year = tmp_path / "VOCdevkit" / "VOC2012"
    for i, name in enumerate(EVERY):
        save_image(year / "JPEGImages" / f"{name}.jpg", picture(i, HEIGHT, WIDTH))
    for name in (*TRAIN, *VAL):
        save_palette(year / "SegmentationClass" / f"{name}.png", mask_of(name, "own"))
    save_list(year / "ImageSets/Segmentation/train.txt", TRAIN)
    save_list(year / "ImageSets/Segmentation/val.txt", VAL)
    save_list(year / "ImageSets/Segmentation/trainval.txt", [*TRAIN, *VAL])
    return year.parent


@pytest.fixture
def augmented(devkit) -> pathlib.Path:
    """The same with SegmentationClassAug, grey PNGs, and a list with paths."""
    year = devkit / "VOC2012"
    for name in AUG:
        path = save_image(year / "SegmentationClassAug" / f"{name}.png", mask_of(name, "aug"))
        with Image.open(path) as image:
            assert image.mode == "L"
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in reversed(AUG)]
    save_list(year / "ImageSets/SegmentationAug/train_aug.txt", lines)
    return devkit


@pytest.fixture
def sbd(devkit) -> pathlib.Path:
    """SBD beside the devkit."""
    root = devkit.parent / "benchmark_RELEASE" / "dataset"
    (root / "cls").mkdir(parents=True)
    for name in {*SBD_TRAIN, *SBD_VAL}:
        stored = {"GTcls": {"Segmentation": mask_of(name, "sbd"), "CategoriesPresent": [16]}}
        io.savemat(root / "cls" / f"{name}.mat", stored)
    save_list(root / "train.txt", SBD_TRAIN)
    save_list(root / "val.txt", SBD_VAL)
    return devkit


def load(root: pathlib.Path, split: str = "train+valid", options: str = "") -> sets.DenseSet:
    return sources.load(f"voc:{root}{options}", split, "masks")


def message_of(root: pathlib.Path, options: str = "", split: str = "train+valid") -> str:
    with pytest.raises(UserError) as error:
        load(root, split, options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"config.dataset=voc:{root}{options}: ")
    return str(error.value)


def test_train_aug_is_the_list_and_its_masks(augmented) -> None:
    train = load(augmented)
    assert train.names == AUG
    assert train.classes[0] == "background" and train.classes[20] == "tvmonitor"
    assert len(train.classes) == 21
    for i, name in enumerate(AUG):
        image, mask = train.read(i)
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, mask_of(name, "aug"))


def test_a_palette_gives_indices_not_colours(devkit) -> None:
    test = load(devkit, "test", ",train=train")
    assert test.names == VAL
    path = devkit / "VOC2012/SegmentationClass" / f"{VAL[1]}.png"
    # What a decoder that applies the palette makes of class 4.
    with Image.open(path) as image:
        assert np.asarray(image.convert("RGB"))[0, 0].tolist() == [0, 0, 128]
    found = test.read(1).target
    assert found[0, 0] == 4
    np.testing.assert_array_equal(found, mask_of(VAL[1], "own"))


def test_sbd_adds_to_voc_what_is_not_in_val_and_voc_s_own_masks_count(sbd) -> None:
    train = load(sbd)
    assert train.names == AUG
    kinds = ["own" if name in TRAIN else "sbd" for name in AUG]
    assert kinds == ["own", "own", "own", "sbd", "sbd"]
    for i, (name, kind) in enumerate(zip(AUG, kinds, strict=True)):
        np.testing.assert_array_equal(train.read(i).target, mask_of(name, kind))


def test_sbd_may_be_elsewhere_and_have_the_images(sbd, tmp_path) -> None:
    root = tmp_path / "elsewhere"
    (tmp_path / "benchmark_RELEASE").rename(root)
    (root / "dataset/img").mkdir()
    image = sbd / "VOC2012/JPEGImages" / f"{AUG[-1]}.jpg"
    image.rename(root / "dataset/img" / image.name)
    train = load(sbd, options=f",sbd={root}")
    assert train.names == AUG
    assert train.describe(4) == str(root / "dataset/img" / image.name)
    assert train.read(4).target[0, 1] == 20


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_devkit_its_folder_and_the_year_are_one_set(augmented, place) -> None:
    whole, part = load(augmented), load(augmented.parent / place)
    assert part.names == whole.names
    assert sets.fingerprint(part) == sets.fingerprint(whole)


def test_own_training_images_are_named_and_other_lists_too(devkit) -> None:
    assert load(devkit, options=",train=train").names == TRAIN
    assert "train=few" in message_of(devkit, ",train=few")
    assert "trainval" in message_of(devkit, ",train=few")


def test_a_list_with_images_of_val_is_refused(devkit) -> None:
    message = message_of(devkit, ",train=trainval")
    assert "2 of the training images are in val, too, such as 2007_000033, 2007_000042" in message


def test_a_devkit_without_train_aug_says_where_to_get_it(devkit) -> None:
    message = message_of(devkit)
    assert "has no train_aug" in message
    assert "benchmark.tgz" in message and "SegmentationClassAug" in message
    assert ",train=train" in message


def test_half_of_train_aug_is_named(augmented) -> None:
    (augmented / "VOC2012/ImageSets/SegmentationAug/train_aug.txt").unlink()
    assert "SegmentationClassAug/ without train_aug.txt" in message_of(augmented)


def test_missing_masks_are_named_and_counted(augmented) -> None:
    for name in AUG[:2]:
        (augmented / "VOC2012/SegmentationClassAug" / f"{name}.png").unlink()
    message = message_of(augmented)
    assert "2 of 5 images" in message and AUG[0] in message and AUG[1] in message


def test_no_devkit_is_refused(tmp_path) -> None:
    assert "is no VOC devkit" in message_of(tmp_path)


def test_an_index_outside_of_the_classes_is_named(augmented) -> None:
    path = augmented / "VOC2012/SegmentationClassAug" / f"{AUG[2]}.png"
    mask = mask_of(AUG[2], "aug")
    mask[3, 5] = 21
    save_image(path, mask)
    with pytest.raises(UserError) as error:
        load(augmented).read(2)
    assert f"{path} has the index 21 in row 3, column 5" in str(error.value)
    assert "21 classes, 0 to 20" in str(error.value)


def test_a_mask_of_another_size_is_named(augmented) -> None:
    path = augmented / "VOC2012/SegmentationClassAug" / f"{AUG[2]}.png"
    save_image(path, np.zeros((HEIGHT + 1, WIDTH), np.uint8))
    with pytest.raises(UserError, match=r"has 8 x 7 pixels, but its image .* has 8 x 6: give"):
        load(augmented).read(2)


def test_a_mask_that_lies_and_an_image_that_stands_hint_at_exif(augmented) -> None:
    path = augmented / "VOC2012/SegmentationClassAug" / f"{AUG[2]}.png"
    save_image(path, np.zeros((WIDTH, HEIGHT), np.uint8))
    with pytest.raises(UserError, match=r"config\.exif"):
        load(augmented).read(2)


@pytest.mark.parametrize(("ending", "words"), [("png", "colours"), ("jpg", "is a JPEG")])
def test_masks_of_colours_and_lossy_ones_are_refused(augmented, ending, words) -> None:
    year = augmented / "VOC2012"
    (year / "SegmentationClassAug" / f"{AUG[2]}.png").unlink()
    pixels = picture(0, HEIGHT, WIDTH)
    path = year / "SegmentationClassAug" / f"{AUG[2]}.{ending}"
    save_image(path, pixels if ending == "png" else pixels[..., 0])
    with pytest.raises(UserError, match=words):
        load(augmented).read(2)


def test_a_damaged_mask_is_an_unreadable_file_without_an_error_number(sbd) -> None:
    path = sbd.parent / "benchmark_RELEASE/dataset/cls" / f"{AUG[4]}.mat"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(OSError, match="its target") as error:
        load(sbd).read(4)
    assert error.value.errno is None


def test_the_paper_s_held_out_split_is_2119_of_train_aug() -> None:
    assert sets.held_out_count(10_582) == 2119
    rest, drawn = sets.cut(10_582, 2119, "valid")
    assert len(drawn) == 2119 and len(rest) == 8463
    assert sorted([*rest, *drawn]) == list(range(10_582))
    again = sets.cut(10_582, 2119, "valid")[1]
    np.testing.assert_array_equal(drawn, again)
    assert drawn.tolist() != sets.cut(10_582, 2119, "valid", seed=1)[1].tolist()


def test_the_held_out_split_and_the_rest_are_train_aug(augmented) -> None:
    train, valid = load(augmented, "train"), load(augmented, "valid")
    assert len(valid.names) == 1  # a fifth of 5
    assert sorted([*train.names, *valid.names]) == AUG
    two = sources.load(f"voc:{augmented}", "valid", "masks", held_out=2)
    assert two.size == 2
    with pytest.raises(UserError, match="of 5 training images 5 would be held out"):
        sources.load(f"voc:{augmented}", "valid", "masks", held_out=5)


def test_the_sample_of_coco_in_voc_s_layout_is_read_whole() -> None:
    root = SHARED / "data" / "coco_sample"
    if not root.exists():
        pytest.skip(f"optional local data: no {root} (set BYOL_SHARED)")
    train, test = (load(root, split, ",train=train") for split in ("train+valid", "test"))
    assert (train.size, test.size) == (64, 32)
    sets.check_readable(train)
    assert sets.largest_shape(test) == (640, 640)
    present = {int(k) for i in range(8) for k in np.unique(train.read(i).target)}
    assert present <= {*range(21), 255}
    assert len(present) > 4
