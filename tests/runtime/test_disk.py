import errno
import logging
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import tiny_runs
from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import disk

# As the storage library of checkpoints says it.
ZARR = (
    'RESOURCE_EXHAUSTED: Error writing "a/.zarray": Failed writing: "/runs/x" '
    "[OS error {code}: {name} {words}]"
)


def wrapped(code):
    return ValueError(ZARR.format(code=code, name=errno.errorcode[code], words=os.strerror(code)))


def raised_from(error):
    outer = RuntimeError("save failed")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "full"), GuardError, "no space left on the disk of /runs: free"),
        (OSError(errno.EDQUOT, "quota"), GuardError, "the quota of the disk of /runs is used up"),
        (OSError(errno.EFBIG, "big"), GuardError, "larger than files may be"),
        (OSError(errno.EIO, "io", "/runs/a"), GuardError, "/runs/a has gone .Input/output error"),
        (OSError(errno.ENOENT, "no", "/runs/a"), GuardError, "/runs/a has gone"),
        (OSError(errno.EROFS, "ro"), UserError, "/runs cannot be used .Read-only file system"),
        (OSError(errno.EACCES, "no", "/runs/a"), UserError, "read or write there"),
        (OSError(errno.EISDIR, "dir", b"/runs/a"), UserError, "/runs/a cannot be used"),
        (wrapped(errno.ENOSPC), GuardError, "no space left on the disk of /runs"),
        (wrapped(errno.EDQUOT), GuardError, "the quota"),
        (wrapped(errno.EROFS), UserError, "Read-only"),
        (raised_from(OSError(errno.ENOSPC, "full")), GuardError, "no space left"),
        (RuntimeError("write: No space left on device"), GuardError, "no space left"),
    ],
)
def test_an_error_of_the_disk_becomes_one_line(error, kind, words):
    with pytest.raises(kind, match=words) as caught, disk.writing("/runs", "all is well"):
        raise error
    assert str(caught.value).endswith("; all is well")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED: out of memory"),
        KeyError("x"),
        OSError("without a number"),
        UserError("config.x=1: [Errno 13] is said here by name"),
    ],
)
def test_other_errors_stay(error):
    with pytest.raises(type(error)) as caught, disk.writing("/runs"):
        raise error
    assert caught.value is error


def test_where_nothing_is_written_the_error_has_to_name_a_file_of_the_outside():
    outside = OSError(errno.EACCES, "denied", "/data/x")
    assert isinstance(disk.explained(outside), UserError)
    assert isinstance(disk.explained(OSError(errno.ENOSPC, "full")), GuardError)
    assert disk.explained(OSError(errno.EACCES, "denied")) is None
    for own in (disk.__file__, np.__file__, os.__file__):
        assert disk.explained(OSError(errno.EACCES, "denied", own)) is None


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "file"
    disk.write_text(path, "one")

    def replace():
        with disk.replacing(path) as file:
            file.write(b"tw")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(GuardError, match="it is as it was before"):
        replace()
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["file"]


def test_the_line_names_the_file_and_not_its_temporary_name(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below"
    with pytest.raises(UserError) as caught:
        disk.write_text(path, "x")
    assert ".tmp" not in str(caught.value) and str(tmp_path / "file") in str(caught.value)


def test_a_limit_of_file_sizes_is_seen(tmp_path):
    script = (
        "import pathlib, resource, sys; from byol_jax.runtime import disk; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "disk.write_text(pathlib.Path(sys.argv[1]), 'x' * 2000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "file"],
        cwd=tiny_runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("byol_jax.errors.GuardError") and "ulimit -f" in last
    assert not os.listdir(tmp_path)


@pytest.fixture
def quiet(monkeypatch):
    """`disk.quiet_background`, undone at the end; what it lets pass."""
    passed = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: passed.append("thread"))
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: passed.append("other"))
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [[*logger.filters] for logger in loggers]
    disk.quiet_background()
    yield passed
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters = filters


def test_background_errors_of_the_disk_are_left_out_and_no_others(quiet, caplog):
    for error in (wrapped(errno.ENOSPC), ValueError("a bug")):
        for name in ("asyncio", "absl"):
            logging.getLogger(name).error("never retrieved", exc_info=error)
        thread = threading.Thread(target=lambda error=error: (_ for _ in ()).throw(error))
        thread.start()
        thread.join()
    said = [record.exc_info[1] for record in caplog.records if record.name == "asyncio"]
    assert [str(error) for error in said] == ["a bug"]
    assert quiet == ["thread"]


def test_only_the_closed_loop_of_a_failed_save_is_left_out(quiet):
    import asyncio

    loop = asyncio.new_event_loop()
    loop.close()
    try:
        loop.call_soon_threadsafe(print)
    except RuntimeError as error:
        ours = error
    # The storage library calls the loop itself: the first frame is asyncio's.
    theirs = ours.with_traceback(ours.__traceback__.tb_next)
    sys.unraisablehook(types.SimpleNamespace(exc_value=theirs))
    assert quiet == []
    other = RuntimeError("Event loop is closed")
    sys.unraisablehook(types.SimpleNamespace(exc_value=other))
    assert quiet == ["other"]


def test_a_bug_is_a_bug_while_a_disk_is_written(tmp_path):
    """A missing file of the program, and a missing file of another place."""
    own = FileNotFoundError(errno.ENOENT, "gone", os.path.join(os.path.dirname(np.__file__), "x"))
    with pytest.raises(FileNotFoundError), disk.writing(tmp_path):
        raise own
    elsewhere = FileNotFoundError(errno.ENOENT, "gone", "/data/x")
    with pytest.raises(UserError, match="/data/x cannot be used"), disk.writing(tmp_path):
        raise elsewhere
    for near in (tmp_path / "a" / "b", tmp_path, tmp_path.parent):
        error = FileNotFoundError(errno.ENOENT, "gone", str(near))
        with pytest.raises(GuardError, match=f"{near} has gone"), disk.writing(tmp_path):
            raise error
