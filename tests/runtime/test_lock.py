"""The lock of a training: who has it, who may take it, and when it goes."""

import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest

from byol_jax.errors import UserError
from byol_jax.runtime import lock

HERE = lock._this_process()


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Seconds become hundredths."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lock, "LIMIT", 0.5)
    monkeypatch.setattr(lock, "_LOOK_EVERY", 0.02)


def leave(folder, age=0.0, text=None, **changes):
    """The lock of another process, renewed `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    path = folder / lock.FILE
    owner = HERE._replace(**{"token": "theirs", **changes})
    path.write_text(json.dumps(owner._asdict()) if text is None else text)
    os.utime(path, (time.time() - age,) * 2)
    return path


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])


def test_it_names_its_owner_and_is_gone_at_the_end(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock.held(folder):
        assert [p.name for p in folder.iterdir()] == [lock.FILE]
        owner = json.loads((folder / lock.FILE).read_text())
        assert owner["pid"] == os.getpid() and owner["host"] == HERE.host
        (folder / "x").touch()
    assert [p.name for p in folder.iterdir()] == ["x"]


def test_a_folder_that_was_made_for_it_and_stays_empty_is_removed(tmp_path):
    with pytest.raises(KeyError), lock.held(tmp_path / "a" / "b"):
        raise KeyError
    assert not [*tmp_path.iterdir()]
    (tmp_path / "own").mkdir()
    with lock.held(tmp_path / "own"):
        pass
    assert not [*(tmp_path / "own").iterdir()]


def test_a_second_one_is_refused_while_its_owner_lives(tmp_path):
    """However long ago it was renewed: a process that stands still is still there."""
    with sleeper() as other:
        started = lock._started(other.pid)
        path = leave(tmp_path, 3600, pid=other.pid, started=started, since="noon")
        before = path.read_text(), path.stat().st_mtime_ns
        with pytest.raises(UserError) as caught, lock.held(tmp_path):
            pass
        other.kill()
    line = str(caught.value)
    assert (
        "\n" not in line and f"{tmp_path} is in use by process {other.pid} on {HERE.host}" in line
    )
    assert "since noon" in line and "another --workdir" in line
    assert 3600 <= float(re.search(r"([\d.]+) seconds ago", line)[1]) < 3700
    assert (path.read_text(), path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir()] == [lock.FILE]


def test_the_same_process_holds_it_once(tmp_path):
    with lock.held(tmp_path):
        with pytest.raises(UserError, match="in use"), lock.held(tmp_path):
            pass
        assert (tmp_path / lock.FILE).exists()
    with lock.held(tmp_path):
        pass


def assert_taken_over(folder, caplog):
    with lock.held(folder):
        assert json.loads((folder / lock.FILE).read_text())["pid"] == os.getpid()
    (line,) = (m for m in caplog.messages if "taken over" in m)
    assert str(folder) in line
    assert not [*folder.iterdir()]


def test_that_of_a_killed_process_is_taken_over_even_if_nobody_waited_for_it(tmp_path, caplog):
    with sleeper() as other:
        leave(tmp_path, pid=other.pid, started=lock._started(other.pid))
        other.kill()
        deadline = time.monotonic() + 10
        while lock._started(other.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert_taken_over(tmp_path, caplog)


def test_that_of_a_number_which_another_process_has_by_now_is_taken_over(tmp_path, caplog):
    leave(tmp_path, pid=os.getppid(), started="1")
    assert_taken_over(tmp_path, caplog)


def test_that_of_another_machine_is_taken_over_once_it_is_old(tmp_path, caplog):
    leave(tmp_path, 0.2, host="elsewhere")
    begin = time.monotonic()
    assert_taken_over(tmp_path, caplog)
    assert time.monotonic() - begin >= 0.25


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"place": "a container"}])
def test_one_elsewhere_lives_as_long_as_it_is_renewed(tmp_path, change):
    """Its process number means nothing here."""
    path = leave(tmp_path, pid=2**22 + 1, **change)
    ended = threading.Event()

    def renew():
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(UserError, match="in use"), lock.held(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()
    assert json.loads(path.read_text())["token"] == "theirs"


def test_the_clock_is_that_of_the_file_system(tmp_path, caplog, monkeypatch):
    leave(tmp_path, 3600, host="elsewhere")
    monkeypatch.setattr(lock.time, "time", lambda: 0.0)
    assert_taken_over(tmp_path, caplog)


def test_a_time_in_the_future_ends_the_wait_too(tmp_path, caplog):
    leave(tmp_path, -3600, host="elsewhere")
    assert_taken_over(tmp_path, caplog)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}', "null", "\x00"])
def test_half_a_lock_is_judged_by_its_time(tmp_path, caplog, text):
    leave(tmp_path, 3600, text=text)
    assert_taken_over(tmp_path, caplog)


def test_a_claim_that_a_dead_process_left_is_removed(tmp_path, caplog):
    path = leave(tmp_path, 3600, host="elsewhere")
    claim = path.with_name(f"{lock.FILE}.{lock.zlib.crc32(path.read_bytes()):08x}.claim")
    claim.touch()
    os.utime(claim, (0, 0))
    assert_taken_over(tmp_path, caplog)


CONTENDER = """
import pathlib, sys, time
from byol_jax.errors import UserError
from byol_jax.runtime import lock
lock.LIMIT, lock._LOOK_EVERY = 0.5, 0.01
folder, start = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not start.exists():
    pass
try:
    with lock.held(folder):
        print("won", flush=True)
        sys.stdin.read()
except UserError as error:
    print("refused", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stale", ["dead", "elsewhere", "none"])
def test_of_several_that_try_at_once_one_wins(tmp_path, stale):
    folder = tmp_path / "run"
    if stale != "none":
        leave(folder, 3600, **({"started": "1"} if stale == "dead" else {"host": "elsewhere"}))
    others = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, folder, tmp_path / "start"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(lock.__file__).parents[2])},
        )
        for _ in range(3)
    ]
    for other in others:
        assert other.stdout.readline() == "ready\n"
    (tmp_path / "start").touch()
    said = [other.stdout.readline() for other in others]
    for other in others:
        _, errors = other.communicate(timeout=60)
        assert other.returncode == 0, errors
    assert sorted(said) == ["refused\n", "refused\n", "won\n"]
    assert not folder.exists() or not [*folder.iterdir()]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_renewed_and_made_again_if_somebody_deleted_it(tmp_path):
    path = tmp_path / lock.FILE
    with lock.held(tmp_path):
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > 1)
        path.unlink()
        wait_for(path.exists)
    assert not path.exists()


def test_an_owner_that_finds_another_one_in_its_place_ends(tmp_path, monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(lock.os, "_exit", codes.append)
    with lock.held(tmp_path):
        leave(tmp_path, host="elsewhere", pid=77)
        wait_for(lambda: codes)
    assert codes[0] == 3
    line = capfd.readouterr().err.splitlines()[0]
    assert line.startswith(f"stopped: {tmp_path} was taken over by process 77 on elsewhere")
    # And leaves it alone.
    assert json.loads((tmp_path / lock.FILE).read_text())["token"] == "theirs"


def test_its_thread_keeps_no_process_alive(tmp_path):
    with lock.held(tmp_path):
        (thread,) = (t for t in threading.enumerate() if t.name == "lock")
        assert thread.daemon
    assert not thread.is_alive()
