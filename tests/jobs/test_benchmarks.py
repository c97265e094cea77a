"""The data sets of the tables: how a user names them, and what is counted of them."""

import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.jobs import benchmarks
from tiny_dense import picture, save_image, save_list, save_palette


def test_data_sets_are_named_as_in_the_tables() -> None:
    assert benchmarks.given("birdsnap=/b,Caltech-101=/c", "CIFAR10=npz:x.npz") == {
        "birdsnap": "folder:/b",
        "caltech101": "folder:/c",
        "cifar10": "npz:x.npz",
    }
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        benchmarks.given("CIFAR1=/x", "")
    with pytest.raises(UserError, match=r"config\.folders.*'birdsnap'"):
        benchmarks.given("birdsnap", "")


def test_sets_with_a_target_per_pixel_have_names_and_folders_too() -> None:
    assert benchmarks.given("", "VOC2012=voc:/v,sbd=/s,NYU=nyu:/n.mat") == {
        "voc2012": "voc:/v,sbd=/s",
        "nyu": "nyu:/n.mat",
    }
    assert benchmarks.given("PASCAL-VOC2012=/v,NYU Depth v2=/n", "") == {
        "voc2012": "voc:/v",
        "nyu": "nyu:/n",
    }
    # VOC2007 has labels, and no masks.
    assert benchmarks.given("VOC2007=/v", "") == {"voc2007": "folder:/v"}
    with pytest.raises(UserError, match=r"'KITTI'.* give one of imagenet, .*, nyu$"):
        benchmarks.given("KITTI=/k", "")


def test_masks_are_not_in_tfds_and_depth_is() -> None:
    voc, nyu = benchmarks.of("voc2012"), benchmarks.of("nyu")
    assert voc.registered is None and "train_aug" in voc.advice
    assert nyu.registered == "tfds:nyu_depth_v2"
    assert benchmarks.of("dtd").registered == "tfds:dtd"


def test_images_with_a_target_are_counted(tmp_path) -> None:
    """A devkit of 6 training and 2 validation images, of which train_aug is VOC's own list."""
    year = tmp_path / "VOC2012"
    names = [f"2007_{i:06d}" for i in range(8)]
    for i, name in enumerate(names):
        save_image(year / "JPEGImages" / f"{name}.jpg", picture(i, 6, 8))
        save_palette(year / "SegmentationClass" / f"{name}.png", np.zeros((6, 8)))
    save_list(year / "ImageSets/Segmentation/train.txt", names[:6])
    save_list(year / "ImageSets/Segmentation/val.txt", names[6:])
    voc = benchmarks.of("voc2012")
    counted = [
        voc.number(f"voc:{tmp_path},train=train", split, None)
        for split in ("train", "valid", "train+valid", "test")
    ]
    assert counted == [5, 1, 6, 2]
    with pytest.raises(UserError, match="train_aug"):
        voc.number(f"voc:{tmp_path}", "train", None)
    with pytest.raises(UserError, match="this job needs depth"):
        benchmarks.of("nyu").number(f"voc:{tmp_path},train=train", "train", None)
