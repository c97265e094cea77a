"""Images kept on the device: the host's stream and crops, a run of it, and no TensorFlow."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import train
from byol_jax.augment import simclr
from byol_jax.data import images, pipeline, sources, stored
from byol_jax.data.views import Stream, View
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints


def image_set(height=12, width=17, count=10):
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    return images.ImageSet("made up", pixels, np.arange(count, dtype=np.int32) % 3, 3)


@pytest.mark.parametrize("same_crop", [False, True])
def test_the_stream_is_the_one_of_crops(same_crop):
    """Two processes, two micro-batches, over the end of an epoch."""
    made_up = image_set()
    stream = Stream(3, 10, batch_size=8, micro_batches=2, start=1, stop=4, process=(1, 2))
    views = (View(8), View(8, box_of=1 if same_crop else None))
    boxes = list(pipeline.train_boxes(made_up, stream, views))
    crops = list(pipeline.train_batches(made_up, stream, views))
    assert len(boxes) == len(crops) == 3
    for actual, expected in zip(boxes, crops, strict=True):
        assert set(actual) == {"box1", "box2", "labels", "ids", "epochs"}
        for name in ("labels", "ids", "epochs"):
            np.testing.assert_array_equal(actual[name], expected[name])
            assert actual[name].dtype == expected[name].dtype
        for view in (1, 2):
            assert actual[f"box{view}"].dtype == np.int32
            cropped = simclr.crop_levels(made_up.images, actual["ids"], actual[f"box{view}"], 8)
            difference = np.abs(np.int32(cropped) - expected[f"view{view}"])
            # The host's weights come from a table of 1/1024; levels are rounded once.
            assert difference.max() <= 1
            assert difference.mean() < 0.05
        assert np.array_equal(actual["box1"], actual["box2"]) is same_crop


def test_a_box_of_the_whole_image_changes_nothing():
    pixels = image_set(8, 8).images
    boxes = np.tile(np.array([0, 0, 8, 8], np.int32), (3, 1))
    cropped = jax.jit(simclr.crop_levels, static_argnums=3)(pixels, np.array([4, 0, 9]), boxes, 8)
    np.testing.assert_array_equal(cropped, pixels[[4, 0, 9]])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_too_small_a_set_is_refused_at_once(prefetch):
    with pytest.raises(
        UserError, match=r"config\.batch_size=11: .* 10 images; give between 1 and 10"
    ):
        pipeline.train_boxes(image_set(), Stream(0, 10, 11, stop=1), (View(8),), prefetch)


# Records that become arrays.


@pytest.fixture
def folder(tmp_path):
    pixels = image_set(6, 5, 4).images
    for i, picture in enumerate(pixels):
        file = tmp_path / "train" / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return tmp_path, pixels


def load(root):
    return sources.load(f"folder:{root}", "train+valid+test")


def test_files_of_one_size_are_decoded(folder):
    root, pixels = folder
    result = stored.decoded(load(root))
    assert result.images.dtype == np.uint8
    # By class, then by name.
    files = sorted(root.glob("train/*/*.png"))
    order = [int(file.stem) for file in files]
    actual = {
        picture.tobytes(): label
        for picture, label in zip(result.images, result.labels, strict=True)
    }
    assert actual == {pixels[i].tobytes(): i % 2 for i in order}


def test_arrays_are_taken_as_they_are():
    made_up = image_set()
    assert stored.decoded(made_up) is made_up


@pytest.mark.parametrize(
    ("size", "damaged", "message"),
    [((5, 5), False, "5 x 5 pixels"), ((5, 6), True, r"other\.png")],
)
def test_sets_that_cannot_be_kept_are_refused(folder, size, damaged, message):
    root, _ = folder
    file = root / "train" / "class1" / "other.png"
    Image.new("RGB", size).save(file)
    if damaged:
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"config\.data\.resident=True: .*{message}"):
        stored.decoded(load(root))


# Runs.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_runs.write_npz(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.mark.slow
def test_a_run_sees_the_same_images_and_resumes_with_the_same_bits(dataset, tmp_path):
    train.pretrain(tiny_runs.tiny_config(dataset, num_steps=1), tmp_path / "host")
    train.pretrain(tiny_runs.tiny_config(dataset, data__resident=True), tmp_path / "whole")
    for stop in (2, None):
        config = tiny_runs.tiny_config(dataset, data__resident=True, stop_at=stop)
        train.pretrain(config, tmp_path / "parts")
    whole = tiny_runs.metrics(tmp_path / "whole")
    assert tiny_runs.metrics(tmp_path / "parts") == whole
    actual, expected = (
        checkpoints.read(tmp_path / name / "checkpoints", 6)[0] for name in ("parts", "whole")
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    # Before the first update: levels that are rounded otherwise, and nothing else.
    host = tiny_runs.metrics(tmp_path / "host")[0]
    assert whole[0]["loss"] == pytest.approx(host["loss"], rel=1e-2)
    assert whole[0]["embedding_norm"] == pytest.approx(host["embedding_norm"], rel=1e-3)


def test_contradicting_keys_are_refused(dataset, tmp_path, monkeypatch):
    config = tiny_runs.tiny_config(dataset, data__resident=True, augment__placement="host")
    with pytest.raises(UserError, match=r"config\.data\.resident"):
        train.pretrain(config, tmp_path)
    monkeypatch.setattr(train.spmd, "device_memory", lambda: 2 * 24 * 8 * 8 * 3 - 1)
    with pytest.raises(UserError, match=r"config\.data\.resident.* 24 images"):
        train.pretrain(tiny_runs.tiny_config(dataset, data__resident=True), tmp_path)
    assert not list(tmp_path.iterdir())


_WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # as if it were not installed
sys.argv[0] = "byol_jax"
from byol_jax import main
main.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("resident", [True, False])
def test_arrays_are_trained_on_without_tensorflow(tmp_path, resident):
    """The whole program on the digits, evaluation and report included."""
    tiny = ["network.projector.hidden_size=8", "network.predictor.hidden_size=8", "num_steps=1"]
    settings = [f"data.resident={resident}", "network.width=1.0", "evaluation.draws=1", *tiny]
    done = subprocess.run(
        [
            *(sys.executable, "-c", _WITHOUT_TENSORFLOW, "--config=experiments/digits.py"),
            *(f"--workdir={tmp_path}", *(f"--config.{setting}" for setting in settings)),
        ],
        cwd=tiny_runs.ROOT,
        env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").exists() and (tmp_path / "report.html").exists()
