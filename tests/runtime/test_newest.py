"""Which step counts, for a reader beside a live run and for a training that goes on."""

import shutil

import numpy as np
import pytest

import tiny_checkpoints
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints, newest

TREE = {"w": np.arange(6, dtype=np.float32)}


def write(root, steps, **record):
    return tiny_checkpoints.write(root, TREE, record, steps) / "checkpoints"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole"), (2, 4, 6), run="a")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "checkpoints")


def damage(folder, step):
    (folder / str(step) / "record" / "metadata").write_bytes(b"{")


def test_the_newest_step_is_read(folder):
    assert newest.read(folder, lambda directory, step: step) == (6, 6)
    step, (flat, record) = newest.read(folder, checkpoints.read)
    assert step == record["step"] == 6 and flat.keys() == {"w"}
    assert newest.read(folder / "none", checkpoints.read) is None


def test_a_reader_takes_the_step_that_came_while_it_read(folder):
    """The run deletes what the reader has open, file by file, once there is a newer step."""
    shutil.move(folder / "6", folder.parent / "6")
    shutil.move(folder / "4", folder.parent / "4")
    seen = []

    def read(directory, step):
        seen.append(step)
        if step < 6:
            shutil.rmtree(directory / str(step) / "state")
            shutil.move(folder.parent / str(step + 2), directory / str(step + 2))
        return checkpoints.read(directory, step)[1]["step"]

    assert newest.read(folder, read) == (6, 6)
    assert seen == [2, 4, 6]


def test_a_run_that_is_too_fast_for_its_reader_is_named(folder, monkeypatch):
    monkeypatch.setattr(newest, "_LOOKS", 5)

    def read(directory, step):
        (directory / str(step)).rename(directory / str(step + 1))
        return checkpoints.read(directory, step)

    with pytest.raises(UserError, match=f"{folder}: its run deletes each step before it is read"):
        newest.read(folder, read)


def test_the_newest_step_is_damaged_if_no_newer_one_comes(folder):
    shutil.rmtree(folder / "6" / "state")
    with pytest.raises(checkpoints.DamagedError, match=r"6 is damaged \(state is missing"):
        newest.read(folder, checkpoints.read)


def test_a_training_goes_on_from_the_newest_step_that_is_whole(folder, caplog):
    assert newest.to_continue(folder, skip_damaged=True) == 6
    assert not caplog.messages
    damage(folder, 6)
    assert newest.to_continue(folder, skip_damaged=False) == 6  # and is refused where it is read
    shutil.rmtree(folder / "4" / "state")
    assert newest.to_continue(folder, skip_damaged=True) == 2
    lines = [m for m in caplog.messages if "goes on from step 2" in m]
    assert len(lines) == 2
    for step, line in zip((6, 4), lines, strict=True):
        assert f"{folder}/{step} is damaged (" in line


def test_a_renamed_step_is_passed_over_too(folder):
    (folder / "6").rename(folder / "58")
    assert newest.to_continue(folder, skip_damaged=True) == 4


def test_never_again_from_step_0(folder):
    assert newest.to_continue(folder / "none", skip_damaged=True) == 0
    write(folder, (0,))  # of a run of an earlier version that diverged at once
    for step in (2, 4, 6):
        damage(folder, step)
    with pytest.raises(UserError, match="never starts again from step 0") as caught:
        newest.to_continue(folder, skip_damaged=True)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_steps_of_two_runs_are_refused(folder, tmp_path, skip_damaged):
    shutil.move(write(tmp_path / "other", (8,), run="b") / "8", folder / "8")
    for read in (
        lambda: newest.to_continue(folder, skip_damaged),
        lambda: newest.read(folder, checkpoints.read),
    ):
        with pytest.raises(UserError, match="holds steps of 2 runs, such as 2 and 8") as caught:
            read()
        assert str(folder) in str(caught.value)


def test_steps_of_earlier_versions_belong_to_any_run(folder, tmp_path):
    shutil.move(write(tmp_path / "old", (8,)) / "8", folder / "8")
    assert newest.to_continue(folder, skip_damaged=False) == 8


def test_identities_differ():
    assert newest.new_run() != newest.new_run()
