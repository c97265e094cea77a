"""model.safetensors: its names, and that it is read back to the last bit."""

import json

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import tiny_checkpoints
import tiny_encoders
from byol_jax import weights
from byol_jax.data.depth import Depth
from byol_jax.errors import UserError
from byol_jax.weights import exported, layout
from tiny_encoders import SPECS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return weights.load(tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "digits"))


def assert_same_encoder(back, params, state):
    jax.tree.map(np.testing.assert_array_equal, back.online_params, params)
    assert back.online_state.keys() == state.keys()
    for path, leaves in state.items():
        for leaf in ("average", "counter"):
            np.testing.assert_array_equal(back.online_state[path][leaf], leaves[leaf])
            assert back.online_state[path][leaf].dtype == leaves[leaf].dtype
        assert back.online_state[path].keys() == leaves.keys()
    assert not back.target_params and not back.target_state


@pytest.mark.parametrize("name", ["online", "target"])
def test_a_training_is_read_back(tmp_path, trained, name):
    exported.write(tmp_path / exported.FILE, trained, name)
    params, state = exported.encoder_of(trained, name)
    for path in (tmp_path, tmp_path / exported.FILE):
        back = exported.read(path)
        assert_same_encoder(back, params, state)
    assert not back.has_heads and back.network == trained.network._replace(num_classes=0)
    trees = {field: {} for field in trained._fields if field.endswith(("_params", "_state"))}
    expected = trained._replace(has_heads=False, network=back.network, **trees)
    assert back._replace(**trees) == expected


def test_a_training_on_labels_that_started_from_other_weights_is_read_back(tmp_path, trained):
    record = {"config": {**trained.config, "job": "finetune"}, "num_classes": 10, "total_steps": 9}
    record |= {"origin": "its authors", "licence": "MIT"}
    params, state = exported.encoder_of(trained, "online")
    weights_in = weights.trained_of(record, 9, params, state, {}, {})
    exported.write(tmp_path / exported.FILE, weights_in, "online")
    back = exported.read(tmp_path)
    assert_same_encoder(back, params, state)
    assert (back.method, back.has_heads, back.total_steps) == ("supervised", False, 9)
    assert (back.origin, back.licence) == ("its authors", "MIT")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bottleneck", "identity", "solo-learn"])
def test_foreign_weights_are_read_back(tmp_path, name):
    weights_in = tiny_encoders.foreign(SPECS[name], licence=None)
    exported.write(tmp_path / exported.FILE, weights_in, "online")
    back = exported.read(tmp_path)
    assert_same_encoder(back, weights_in.online_params, weights_in.online_state)
    assert back.network == SPECS[name] and back.config == weights_in.config
    for field in ("step", "method", "origin", "licence", "image_size"):
        assert getattr(back, field) == getattr(weights_in, field)


def test_an_export_of_an_export_is_the_same_file(tmp_path, trained):
    exported.write(tmp_path / "1", trained, "online")
    exported.write(tmp_path / "2", exported.read(tmp_path / "1"), "online")
    one, two = (safetensors.numpy.load_file(tmp_path / name) for name in "12")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_an_export_keeps_the_depth_of_the_training(tmp_path, trained):
    exported.write(tmp_path / "1", trained._replace(depth=Depth(bits=12)), "online")
    assert exported.read(tmp_path / "1").depth == Depth(bits=12)


def test_names_and_shapes_are_those_of_torchvision(tmp_path):
    spec = SPECS["bottleneck"]
    exported.write(tmp_path / "file", tiny_encoders.foreign(spec), "online")
    arrays = safetensors.numpy.load_file(tmp_path / "file")
    counters = {name for name in arrays if name.endswith("num_batches_tracked")}
    assert len(arrays) == 318 and len(counters) == 53
    shapes = {name: value.shape for name, value in arrays.items() if name not in counters}
    assert shapes == layout.expected(spec)
    assert {arrays[name].dtype for name in counters} == {np.dtype(np.int64)}
    with safetensors.safe_open(tmp_path / "file", framework="numpy") as content:
        metadata = content.metadata()
    assert metadata["format"] == "pt"
    about = json.loads(metadata["byol_jax"])
    assert (about["network"], about["step"], about["licence"]) == ("online", 7, "CC BY-NC 4.0")
    assert (tmp_path / "file").stat().st_mode & 0o044 == 0o044  # for other users, too


def damage(path, change):
    """Writes a good export with changed metadata."""
    arrays = exported.arrays_of(tiny_encoders.foreign(SPECS["solo-learn"]), "online")
    about = exported.about(tiny_encoders.foreign(SPECS["solo-learn"]), "online")
    metadata = {"byol_jax": json.dumps({**about, **change})} if change is not None else {}
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "was not written by the job `export`"),
        ({"version": 2}, "of version 2 .* up to 1: install a later one"),
        ({"config": None}, "metadata that no export writes"),
        ({"encoder": {"depth": "19"}}, "network.depth='19'"),
        ({"encoder": {"depth": "18", "bones": 3}}, "metadata that no export writes.*bones"),
        ({"encoder": {"depth": "tiny", "width": 2}}, "bias is .* of width 2 has"),
    ],
)
def test_other_files_are_refused(tmp_path, change, words):
    damage(tmp_path / exported.FILE, change)
    with pytest.raises(UserError, match=words) as caught:
        exported.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / exported.FILE) in str(caught.value)


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        exported.read(tmp_path)
    (tmp_path / exported.FILE).write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"cannot be read .* export it again"):
        exported.read(tmp_path)


def test_a_counter_of_0_is_not_taken_for_one_that_the_file_does_not_tell(tmp_path):
    params, state = tiny_encoders.draw(SPECS["solo-learn"])
    state = {path: {**leaves, "counter": np.array(0, np.int32)} for path, leaves in state.items()}
    weights_in = tiny_encoders.foreign(SPECS["solo-learn"], online_state=state)
    exported.write(tmp_path / exported.FILE, weights_in, "online")
    assert_same_encoder(exported.read(tmp_path), params, state)
