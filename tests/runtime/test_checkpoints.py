"""Saving and reading checkpoints, and refusing those that do not fit."""

import errno
import json
import re
import shutil
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


def rewrite(folder, seal=True, **changes):
    """Changes entries of the record of a step, as one with or without a checksum."""
    path = folder / "record" / "metadata"
    record = {**json.loads(path.read_text()), **changes}
    record = {name: value for name, value in record.items() if name != "record_crc32"}
    if seal:
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
        record["record_crc32"] = zlib.crc32(canonical.encode())
    path.write_text(json.dumps(record))


def arrays_of(folder):
    return json.loads((folder / "record" / "metadata").read_text())["arrays"]


def refusal_of(reader, *arguments):
    with pytest.raises(UserError) as caught:
        reader(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_checksum_is_damage(saved):
    arrays = arrays_of(saved / "3")
    arrays["step"]["crc32"] += 1
    rewrite(saved / "3", arrays=arrays)
    line = refusal_of(checkpoints.read, saved, 3)
    assert f"{saved}/3 is damaged (step differs from its checksum): move that folder away" in line
    assert "continue from step 2" in line and "--config.skip_damaged=True" in line


@pytest.mark.parametrize("reader", [checkpoints.read, checkpoints.read_record])
def test_a_record_is_checked_before_it_is_believed(saved, reader):
    path = saved / "3" / "record" / "metadata"
    content = path.read_bytes()
    assert content.count(b"2.5") == 1
    path.write_bytes(content.replace(b"2.5", b"3.5"))
    assert "3 is damaged (record/metadata differs from its own checksum)" in refusal_of(
        reader, saved, 3
    )
    # Whitespace has no meaning.
    path.write_bytes(content.replace(b": ", b":   "))
    reader(saved, 3)


def test_records_of_earlier_versions_are_read_with_one_remark(saved, caplog):
    for step in (2, 3):
        rewrite(saved / str(step), seal=False)
    with caplog.at_level("INFO"):
        for step in (2, 3, 3):
            assert checkpoints.read(saved, step)[1]["config"]["b"] == [1, 2.5, "c"]
    (line,) = (m for m in caplog.messages if "checksum" in m)
    assert str(saved) in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"arrays": None},
        {"arrays": {"a": 3}},
        {"arrays": {"step": {"shape": [-1], "dtype": "int32", "crc32": 1}}},
        {"arrays": {"step": {"shape": [2.0], "dtype": "int32", "crc32": 1}}},
        {"arrays": {"step": {"shape": [10**9, 10**9], "dtype": "int32", "crc32": 1}}},
        {"arrays": {"step": {"shape": [10**12], "dtype": "int32", "crc32": 1}}},
        {"arrays": {"step": {"shape": [], "dtype": "object", "crc32": 1}}},
        {"arrays": {"step": {"shape": [], "dtype": "int99", "crc32": 1}}},
        {"arrays": {"step": {"shape": [], "dtype": "int64", "crc32": 1}}},
        {"arrays": {"step": {"shape": []}}},
        {"arrays": {"other": {"shape": [], "dtype": "int32", "crc32": 1}}},
        {"step": "3"},
        {"step": None},
    ],
)
@pytest.mark.parametrize("seal", [True, False])
def test_absurd_records_are_one_line(saved, change, seal):
    rewrite(saved / "3", seal, **change)
    assert f"{saved}/3 is damaged (" in refusal_of(checkpoints.read, saved, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 10**5, b"1e999999"])
def test_a_torn_record_is_one_line(saved, content):
    (saved / "3" / "record" / "metadata").write_bytes(content)
    line = refusal_of(checkpoints.read, saved, 3)
    assert f"{saved}/3 is damaged (record/metadata" in line and "continue from step 2" in line


@pytest.mark.parametrize("part", [".", "record", "state"])
def test_a_missing_part_names_the_step_before_it(saved, part):
    shutil.rmtree(saved / "3" / part)
    (saved / "3").mkdir(exist_ok=True)  # at least an empty folder
    line = refusal_of(checkpoints.read, saved, 3)
    assert f"{saved}/3 is damaged (" in line and "continue from step 2" in line


def test_the_step_before_it_that_is_named_can_be_read_itself(saved):
    shutil.rmtree(saved / "3" / "record")
    (saved / "2" / "record" / "metadata").write_bytes(b"{")
    assert "there is no earlier checkpoint" in refusal_of(checkpoints.read, saved, 3)


def test_the_record_decides_which_step_it_is(saved):
    (saved / "3").rename(saved / "58")
    for reader in (checkpoints.read, checkpoints.read_record):
        line = refusal_of(reader, saved, 58)
        assert f"{saved}/58 " in line and "step 3, not of 58" in line


def test_a_step_that_is_gone_is_not_damaged(saved):
    shutil.rmtree(saved / "2")
    line = refusal_of(checkpoints.read, saved, 2)
    assert f"{saved}/2 was removed by its run" in line and "newest is 3" in line
    assert f"{saved}/7 does not exist: the newest is 3" in refusal_of(checkpoints.read, saved, 7)


def test_a_step_that_is_being_deleted_is_not_damaged(saved, monkeypatch):
    shutil.rmtree(saved / "2" / "state")

    def delete(seconds):
        shutil.rmtree(saved / "2", ignore_errors=True)

    monkeypatch.setattr(checkpoints.time, "sleep", delete)
    assert "2 was removed by its run" in refusal_of(checkpoints.read, saved, 2)


def test_what_may_be_whole_is_not_called_damaged(saved, monkeypatch):
    def full(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(checkpoints.pathlib.Path, "read_bytes", full)
    line = refusal_of(checkpoints.read, saved, 3)
    assert "3 cannot be read here (record/metadata: Too many open files)" in line
    assert "damaged" not in line


def test_steps_after_the_one_that_a_training_goes_on_from_are_moved_aside(saved):
    (saved / "3" / "record" / "metadata").write_bytes(b"{")
    (saved / "3.damaged").mkdir()
    saver = checkpoints.saver(saved, keep=1, after=2)
    checkpoints.save(saver, 3, TREE, {"again": True})
    checkpoints.finish(saver)
    checkpoints.close(saver)
    assert checkpoints.read(saved, 3)[1]["again"] is True
    assert sorted(p.name for p in saved.iterdir()) == ["3", "3.damaged", "3.damaged-2"]
    assert (saved / "3.damaged-2" / "record" / "metadata").read_bytes() == b"{"
    assert (saved / "3.damaged-2" / "state").is_dir()


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
