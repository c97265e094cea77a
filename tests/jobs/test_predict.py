"""Masks and depths of a folder of images: files, going on, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import tiny_dense_runs as tiny
from PIL import Image

import tiny_checkpoints
from byol_jax.data.dense.targets import indices
from byol_jax.errors import Stopped, UserError
from byol_jax.evals import depth, segmentation
from byol_jax.evals.dense import saved, training
from byol_jax.jobs import predict
from experiments import predict as page
from tiny_dense import picture, save_image


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A workdir of each job."""
    root = tmp_path_factory.mktemp("networks")
    masks = tiny.write_masks(root / "masks_set")
    depths = tiny.write_depths(root / "depth_set")
    segmentation.run(tiny.segmentation(masks, num_steps=2), root / "masks")
    depth.run(tiny.depth(depths, num_steps=2), root / "depth")
    return root


def config_of(checkpoint, images, **changes):
    config = page.get_config()
    values = {"checkpoint": str(checkpoint), "images": str(images), "batch_size": 2}
    config.update({**values, "pictures": 0, **changes})
    return config


@pytest.fixture
def images(tmp_path):
    """Six images of three sizes, one of them in a sub-folder, one of them grey."""
    root = tmp_path / "images"
    for i, size in enumerate([(20, 30), (20, 30), (20, 30), (150, 20), (20, 30)]):
        save_image(root / f"{i}.png", picture(i, *size))
    save_image(root / "sub/a.b.jpg", picture(9, 17, 19)[..., 0])
    return root


def test_masks_have_the_names_and_sizes_of_the_images(networks, images, tmp_path):
    out = tmp_path / "out"
    predict.run(config_of(networks / "masks", images, pictures=4), out)
    files = sorted(
        path.relative_to(out / "masks").as_posix() for path in out.glob("masks/**/*.png")
    )
    assert files == ["0.png", "1.png", "2.png", "3.png", "4.png", "sub/a.b.png"]
    for path in out.glob("masks/**/*.png"):
        found = indices(path.read_bytes(), str(path))
        (source,) = images.glob(f"**/{path.stem}.*")
        with Image.open(source) as image:
            assert found.shape[::-1] == image.size
        assert found.max() < 3
    about = json.loads((out / "predict.json").read_text())
    assert about["classes"] == ["ground", "red", "green"]
    assert about["task"] == "segmentation"
    assert (out / "predictions.png").exists()


def test_a_mask_is_the_output_of_the_network(networks, images, tmp_path):
    predict.run(config_of(networks / "masks", images), tmp_path / "out")
    found = saved.load(str(networks / "masks"))
    apply = training.predictor(found.program, found.params, found.state, 1)
    canvas = np.empty((1, 129, 129, 3), np.uint8)
    canvas[:] = predict.views.transforms.PAD
    canvas[0, :20, :30] = picture(1, 20, 30)
    expected = apply(canvas)[0, :20, :30]
    path = tmp_path / "out/masks/1.png"
    assert np.mean(indices(path.read_bytes(), "") == expected) > 0.99  # another batch rounds


def test_depths_are_millimetres(networks, images, tmp_path):
    predict.run(config_of(networks / "depth", images, pictures=2), tmp_path / "out")
    with Image.open(tmp_path / "out/depth/sub/a.b.png") as image:
        assert image.mode.startswith("I")
        assert image.size == (19, 17)
    about = json.loads((tmp_path / "out/predict.json").read_text())
    assert (about["unit"], about["eval_crop"]) == ("mm", "stretch")


def test_the_same_command_makes_what_is_missing(networks, images, tmp_path):
    config, out = config_of(networks / "masks", images), tmp_path / "out"
    predict.run(config, out)
    before = {path: path.read_bytes() for path in out.glob("masks/**/*.png")}
    (out / "masks/2.png").unlink()
    (out / "masks/0.png").write_bytes(b"mine")
    predict.run(config, out)
    assert (out / "masks/0.png").read_bytes() == b"mine"
    assert (out / "masks/2.png").read_bytes() == before[out / "masks/2.png"]


def test_a_stopped_job_goes_on(networks, images, tmp_path, monkeypatch):
    config, out = config_of(networks / "masks", images), tmp_path / "out"
    write, count = predict.dense_pictures.write_mask, 0

    def write_and_signal(path, mask):
        nonlocal count
        write(path, mask)
        count += 1
        if count == 2:
            predict.outputs.signal.raise_signal(15)

    monkeypatch.setattr(predict.dense_pictures, "write_mask", write_and_signal)
    with pytest.raises(Stopped, match="2 of 6 are in"):
        predict.run(config, out)
    predict.run(config, out)
    assert len([*out.glob("masks/**/*.png")]) == 6


def test_unreadable_images_are_named(networks, images, tmp_path):
    """One is always tolerated among seven."""
    save_image(images / "5.png", picture(1, 9, 9))
    (images / "4.png").write_bytes(b"torn")
    predict.run(config_of(networks / "masks", images), tmp_path / "out")
    assert (tmp_path / "out/unreadable.txt").read_text().startswith("4.png: ")
    (images / "5.png").write_bytes(b"torn")
    with pytest.raises(UserError, match="2 of 7 images cannot be read"):
        predict.run(config_of(networks / "masks", images), tmp_path / "out2")


def other_network(networks, images, out):
    predict.run(config_of(networks / "masks", images), out)
    return config_of(networks / "masks", images, largest_side=64)


def own_files(networks, images, out):
    save_image(out / "masks/mine.png", picture(0, 3, 3))
    return config_of(networks / "masks", images)


def same_names(networks, images, out):
    save_image(images / "0.jpg", picture(0, 3, 3))
    return config_of(networks / "masks", images)


def inside(networks, images, out):
    return config_of(networks / "masks", out.parent)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_network, "has predictions with largest_side=1025, and this command gives"),
        (own_files, "has files, and .*predict.json is not there"),
        (same_names, "0.jpg and .*0.png would both become"),
        (inside, "is in config.images="),
    ],
)
def test_what_is_in_the_way(make, words, networks, images, tmp_path):
    out = tmp_path / "out"
    config = make(networks, images, out)
    before = sorted(out.glob("**/*"))
    with pytest.raises(UserError, match=words):
        predict.run(config, out)
    assert sorted(out.glob("**/*")) == before


def test_what_is_no_network_or_no_folder(networks, images, tmp_path, refused):
    dataset = tiny_checkpoints.write_easy_npz(tmp_path / "images.npz")
    encoder = tiny_checkpoints.save(tmp_path / "run", dataset)
    refused(predict.run, config_of(encoder, images), "config.checkpoint=.* has no output per pixel")
    refused(predict.run, config_of(networks, images), "config.checkpoint=.* holds no checkpoint")
    refused(predict.run, config_of(networks / "masks", tmp_path / "x"), "is no folder")
    (tmp_path / "empty").mkdir()
    refused(predict.run, config_of(networks / "masks", tmp_path / "empty"), "has no image")
    config = config_of(networks / "masks", images)
    config.checkpoint = None
    refused(predict.run, config, "config.checkpoint is needed")
    refused(predict.run, config_of(networks / "masks", images, batch_size=0), "config.batch_size")


def test_a_record_of_a_later_version_is_refused(networks, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(networks / "masks", workdir)
    original = saved.weights.read_record

    def later(folder, step):
        record = original(folder, step)
        return {**record, "dense": {**record["dense"], "head": {"layers": 3}}}

    monkeypatch.setattr(saved.weights, "read_record", later)
    with pytest.raises(UserError, match="later version"):
        saved.load(str(workdir))
