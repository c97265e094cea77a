"""Reading a checkpoint: what a path means, and what is refused."""

import numpy as np
import pytest

import tiny_checkpoints
from byol_jax import weights
from byol_jax.errors import UserError
from byol_jax.weights import checkpoint


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "digits", (2, 6), 10)


def test_a_path_is_a_workdir_its_checkpoints_or_one_of_them(workdir):
    folder = workdir / "checkpoints"
    assert checkpoint.locate(workdir) == (folder, 6)
    assert checkpoint.locate(folder) == (folder, 6)
    assert checkpoint.locate(str(folder / "2")) == (folder, 2)


@pytest.mark.parametrize("name", ["weights.pkl", "nowhere", ""])
def test_other_paths_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="checkpoint="):
        checkpoint.locate(tmp_path / name)


def test_a_training_is_described(tmp_path):
    changes = {"augment__view1__flip": 0.25, "augment__view2__sobel": 0.5, "data__area_min": 0.2}
    path = tiny_checkpoints.save(tmp_path, "digits", num_classes=10, **changes)
    trained = weights.load(path)
    assert (trained.dataset, trained.data_dir, trained.seed) == ("digits", None, 1337)
    assert (trained.method, trained.recipe, trained.has_heads) == ("byol", "not named", True)
    assert (trained.step, trained.total_steps, trained.image_size) == (6, 6, 8)
    assert (trained.network.depth, trained.network.width) == ("tiny", 2.0)
    assert (trained.network.num_classes, trained.network.bn_axis) == (10, None)
    cropping = trained.cropping
    assert (cropping.area_range, cropping.aspect_range) == ((0.2, 1.0), (3 / 4, 4 / 3))
    assert (cropping.eval_crop, cropping.exif) == ("full", False)
    assert (cropping.view.flip, trained.view2.sobel) == (0.25, 0.5)
    assert trained.online_params.keys() == trained.target_params.keys()


def test_a_record_is_read_without_its_arrays(tmp_path):
    tiny_checkpoints.save(tmp_path, "digits", total_steps=None)
    assert weights.read_record(tmp_path / "checkpoints", 6)["total_steps"] is None


def test_shapes_are_read_without_the_arrays(workdir, monkeypatch):
    whole = weights.load(workdir)
    monkeypatch.setattr(checkpoint.checkpoints, "read", lambda *_: pytest.fail("read arrays"))
    shapes = weights.load(workdir, arrays=False)
    assert (shapes.network, shapes.step) == (whole.network, whole.step)
    for name in ("online_params", "online_state", "target_params", "target_state"):
        for module, leaves in getattr(whole, name).items():
            for leaf, value in leaves.items():
                found = getattr(shapes, name)[module][leaf]
                assert (found.shape, found.dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("record", [{}, {"config": {}, "num_classes": 2}])
def test_arrays_without_an_encoder_are_refused(tmp_path, record):
    tree = {"online_params": {"projector/linear": {"w": np.zeros((2, 2), np.float32)}}}
    path = tiny_checkpoints.write(tmp_path, tree, record)
    with pytest.raises(UserError, match="no encoder") as caught:
        weights.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
