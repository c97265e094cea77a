"""Reads that are tried again: what comes back, what stays away, and how long that may take."""

import concurrent.futures
import errno
import pathlib
import threading
import time

import pytest

from byol_jax.data import patient
from byol_jax.errors import GuardError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patient, "PATIENCE", 0.4)
    monkeypatch.setattr(patient, "_PAUSE", 0.01)


class Disk:
    """A disk on which the first `times` reads of each of the `broken` images fail."""

    def __init__(self, error: OSError | None = None, broken: range = range(0), times: int = 10**9):
        self.error, self.broken, self.times = error, broken, times
        self.reads: list[int] = []

    def read(self, i: int) -> int:
        """The position of image `i`, or the error."""
        self.reads.append(i)
        if i in self.broken and self.reads.count(i) <= self.times:
            assert self.error
            raise self.error
        return i


NAMES = ["0", *(f"gone/{i}" for i in range(1, 5))]
BUSY = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN])
def test_a_read_that_fails_three_times_succeeds(tmp_path, number: int) -> None:
    disk = Disk(OSError(number, "away"), range(4, 5), times=3)
    read = patient.patient(disk.read, "images", str(tmp_path))
    assert [read(i) for i in range(6)] == list(range(6))
    assert disk.reads == [0, 1, 2, 3, 4, 4, 4, 4, 5]


def test_one_bad_file_costs_its_patience_once(tmp_path) -> None:
    disk = Disk(BUSY, range(4, 5))
    read = patient.patient(disk.read, "images", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(OSError, match="Input/output"):
        read(4)
    assert 0.4 <= time.monotonic() - start < 2
    attempts = len(disk.reads)
    assert attempts > 3
    with pytest.raises(OSError, match="Input/output"):
        read(4)
    assert len(disk.reads) == attempts + 1
    disk.broken = range(0)
    assert read(4) == 4


@pytest.mark.parametrize(
    "error", [OSError("a damaged record"), PermissionError(errno.EACCES, "Permission denied")]
)
def test_the_fault_of_a_file_is_not_tried_again(tmp_path, error: OSError) -> None:
    disk = Disk(error, range(9))
    read = patient.patient(disk.read, "images", str(tmp_path))
    for i in range(9):
        with pytest.raises(OSError, match=str(error.args[-1])):
            read(i)
    assert disk.reads == list(range(9))


def test_files_that_are_missing_cost_a_moment_together(tmp_path) -> None:
    """A hundred of them in a folder that is there: not a hundred times a fifth of a second."""

    def gone(i: int) -> bytes:
        return (tmp_path / f"{i}.jpg").read_bytes()

    read = patient.patient(gone, "images", str(tmp_path))
    start = time.monotonic()
    for i in range(100):
        with pytest.raises(FileNotFoundError):
            read(i)
    assert 0.2 <= time.monotonic() - start < 2


def test_a_folder_that_comes_back_is_waited_for(tmp_path) -> None:
    """The whole folder is moved away, and back while its files are asked for."""
    root, away = tmp_path / "root", tmp_path / "away"
    root.mkdir()
    (root / "0.jpg").write_bytes(b"x")
    root.rename(away)
    read = patient.patient(lambda i: (root / f"{i}.jpg").read_bytes(), "images", str(root))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, 0)
        time.sleep(0.1)
        away.rename(root)
        assert reading.result() == b"x"


def test_a_folder_that_is_gone_is_a_lost_disk(tmp_path) -> None:
    root = tmp_path / "root"
    read = patient.patient(lambda i: (root / f"{i}.jpg").read_bytes(), "the set", str(root))
    with pytest.raises(GuardError) as error:
        read(0)
    assert f"the set: its images cannot be read any more: the folder {root} is gone" in str(
        error.value
    )
    assert "same command" in str(error.value) and "\n" not in str(error.value)


def test_many_threads_wait_together_for_a_lost_disk(tmp_path) -> None:
    """Sixty-four reads in four threads: sixteen times the patience, if each had its own."""
    disk = Disk(BUSY, range(64))
    read = patient.patient(disk.read, "the set", str(tmp_path))
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        errors = [reading.exception() for reading in [pool.submit(read, i) for i in range(64)]]
    assert time.monotonic() - start < 2
    assert sum(isinstance(error, GuardError) for error in errors) > 60
    assert "the set: its images cannot be read any more" in str(errors[-1])


def test_reads_that_succeed_between_keep_the_disk(tmp_path) -> None:
    """Bad sectors under three images of six are three unreadable images."""
    disk = Disk(BUSY, range(0, 6, 2))
    read = patient.patient(disk.read, "images", str(tmp_path))
    for i in range(6):
        if i % 2:
            assert read(i) == i
        else:
            with pytest.raises(OSError, match="Input/output"):
                read(i)


def test_the_parent_decides_whether_a_missing_file_may_come_back(tmp_path) -> None:
    def error_of(path: pathlib.Path) -> OSError:
        try:
            path.read_bytes()
        except OSError as error:
            return error
        raise AssertionError

    assert not patient.may_pass(error_of(tmp_path / "x"))
    assert patient.may_pass(error_of(tmp_path / "gone" / "x"))
    (tmp_path / "file").write_text("")
    assert patient.may_pass(error_of(tmp_path / "file" / "x"))
    assert not patient.may_pass(error_of(tmp_path))


def test_a_link_whose_disk_has_gone_may_come_back(tmp_path) -> None:
    disk, links = tmp_path / "disk", tmp_path / "links"
    for folder in (disk, links):
        folder.mkdir()
    names = [f"{i}.jpg" for i in range(3)]
    for name in names:
        (links / name).symlink_to(disk / name)
    read = patient.patient(lambda i: (links / names[i]).read_bytes(), "the set", str(links))
    with pytest.raises(FileNotFoundError):  # the file alone is missing
        read(0)
    disk.rmdir()
    with pytest.raises(FileNotFoundError):
        read(1)
    with pytest.raises(GuardError, match="the set: its images cannot be read any more"):
        read(2)


def test_a_file_that_nobody_has_read_yet_may_have_a_wrong_path(tmp_path) -> None:
    """Without a folder of all images, and in a folder that is missing; later its disk counts."""
    (tmp_path / "0").write_bytes(b"x")
    seen, start = threading.Event(), time.monotonic()
    read = patient.patient(lambda i: (tmp_path / NAMES[i]).read_bytes(), "images", "", seen)
    for i in range(1, 5):
        with pytest.raises(FileNotFoundError):
            read(i)
    assert time.monotonic() - start < 0.3 and not seen.is_set()
    assert read(0) == b"x" and seen.is_set()
    for i in range(1, 3):
        with pytest.raises(FileNotFoundError):
            read(i)
    with pytest.raises(GuardError, match="run the same command again"):
        read(3)
