"""Saving and reading checkpoints, and refusing those that do not fit."""

import errno
import re
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import checkpoints

TREE = {
    "params": {"net/~/conv": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}},
    "step": np.int32(4),
    "finite": np.ones((), bool),
    "empty": {},
}


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "checkpoints"
    manager = checkpoints.saver(directory, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(manager, step, TREE, {"config": {"a": None, "b": [1, 2.5, "c"]}})
    checkpoints.finish(manager)
    checkpoints.close(manager)
    return directory


def test_round_trip_keeps_every_bit_and_the_newest_steps(saved):
    assert checkpoints.steps(saved) == [2, 3]
    flat, record = checkpoints.read(saved, 3)
    assert record["config"] == {"a": None, "b": [1, 2.5, "c"]}
    assert record["step"] == 3
    tree = checkpoints.fill(TREE, flat, "x")
    assert tree["params"]["net/~/conv"]["w"].dtype == np.float32
    np.testing.assert_array_equal(
        tree["params"]["net/~/conv"]["w"], TREE["params"]["net/~/conv"]["w"]
    )
    assert int(tree["step"]) == 4
    assert bool(tree["finite"])
    assert tree["empty"] == {}


def test_unfinished_folders_do_not_count_as_steps(saved):
    (saved / "4.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.steps(saved) == [2, 3]
    assert checkpoints.steps(saved / "absent") == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            {"params": {"net/~/conv": {"w": np.zeros((2, 4), np.float32)}}},
            r"params/net/~/conv/w .*float32\[2, 3\].*float32\[2, 4\]",
        ),
        ({"step": np.float32(0)}, r"step .*int32\[\].*float32\[\]"),
        ({"more": np.zeros(2, np.float32)}, "more "),
    ],
)
def test_another_architecture_is_named_by_its_first_leaf(saved, change, names):
    flat, _ = checkpoints.read(saved, 3)
    with pytest.raises(UserError, match=names):
        checkpoints.fill({**TREE, **change}, flat, "checkpoint 3")


def test_leaves_that_the_config_lacks_are_named_too(saved):
    flat, _ = checkpoints.read(saved, 3)
    tree = {k: v for k, v in TREE.items() if k != "finite"}
    with pytest.raises(UserError, match=r"finite .*bool\[\]"):
        checkpoints.fill(tree, flat, "checkpoint 3")


def test_damage_is_found_and_the_step_before_it_named(saved):
    largest = max(
        (saved / "3" / "state").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"checkpoints/3 .*step 2"):
        checkpoints.read(saved, 3)


def test_wrong_checksum_is_damage(saved, monkeypatch):
    monkeypatch.setattr(checkpoints.zlib, "crc32", lambda data: 0)
    with pytest.raises(UserError, match="checkpoints/3 "):
        checkpoints.read(saved, 3)


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "7"))):
        checkpoints.read(tmp_path, 7)


def test_full_disk_is_a_guard_not_a_traceback(tmp_path, monkeypatch):
    saver = checkpoints.saver(tmp_path / "checkpoints", keep=None)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saver.manager, "save", full)
    checkpoints.save(saver, 1, TREE, {})  # fails in a thread; the next call reports it
    with pytest.raises(GuardError, match=re.escape(str(tmp_path / "checkpoints"))):
        checkpoints.save(saver, 2, TREE, {})
    checkpoints.save(saver, 3, TREE, {})
    with pytest.raises(GuardError, match=re.escape(str(tmp_path / "checkpoints"))):
        checkpoints.finish(saver)
    checkpoints.close(saver)


def test_checksums_are_those_of_the_bytes(tmp_path):
    """Also if an array has no axis, is not contiguous, or has half precision."""
    tree = {
        "scalar": np.int32(3),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "half": np.ones(3, jnp.bfloat16),
    }
    saver = checkpoints.saver(tmp_path / "checkpoints", keep=None)
    checkpoints.save(saver, 1, tree, {})
    checkpoints.finish(saver)
    checkpoints.close(saver)
    flat, record = checkpoints.read(tmp_path / "checkpoints", 1)
    for name, value in tree.items():
        np.testing.assert_array_equal(flat[name], value)
        assert record["arrays"][name]["crc32"] == zlib.crc32(np.asarray(value).tobytes())
