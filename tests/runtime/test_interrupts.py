"""Signals in the program, in processes of their own, and in a program of someone else."""

import signal
import subprocess
import sys
import threading
import time

import pytest

import tiny_runs
from byol_jax.runtime import interrupts

# A main thread that runs no Python for two minutes, as while XLA compiles; `steps` polls.
PROGRAM = """
import hashlib, signal, sys, time
from byol_jax.runtime import interrupts

# In the background, or behind nohup, a program ignores signals.
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
interrupts.watch()
work = sys.argv[1]
if work == "compile":
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # in C alone, for minutes
elif work == "callback":
    class Part:
        def __del__(self):  # exceptions raised in here reach nobody
            print("ready", flush=True)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                pass
    try:
        with interrupts.during("ends now, and saves", keeps=True):
            part = Part()
            del part
            while True:
                time.sleep(0.01)
    except interrupts.Interrupted as error:
        print("caught", error.number, flush=True)
elif work == "python":
    try:
        print("ready", flush=True)
        time.sleep(120)
    except interrupts.Interrupted as error:
        print("cleaned up", flush=True)
        interrupts.told()
        sys.exit(128 + error.number)
elif work == "kept":
    interrupts._GRACE = 0.5
    try:
        with interrupts.during("ends now, and saves", keeps=True):
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 6 * 10**6)  # in C alone, for seconds
            time.sleep(120)
    except interrupts.Interrupted:
        interrupts.enter("ends once the state is saved", polled=True)
        time.sleep(1)
        print("saved", flush=True)
elif work == "swallowed":
    print("ready", flush=True)
    while True:
        try:
            time.sleep(120)
        except BaseException:
            pass
else:
    with interrupts.signals("ends after this step and saves") as number:
        print("ready", flush=True)
        while not number():
            time.sleep(0.01)
        if work == "stuck":
            time.sleep(120)
        time.sleep(1)
    print("not reached", flush=True)
"""


def started(work: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, work],
        cwd=tiny_runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # until it is in the work itself
    return process


@pytest.mark.parametrize(
    ("work", "number", "most"),
    [
        # The main thread ends by itself, or the other one does it.
        ("python", signal.SIGTERM, 2.5),
        ("python", signal.SIGHUP, 2.5),
        ("compile", signal.SIGINT, 8.0),
        ("swallowed", signal.SIGTERM, 8.0),
    ],
)
def test_a_signal_where_there_is_nothing_to_save(work, number, most):
    process = started(work)
    begin = time.monotonic()
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < most
    assert process.returncode == 128 + number, errors
    line = f"{number.name}: ends now; what is saved stays; a second one ends at once\n"
    assert errors.startswith(line)
    assert out == ("cleaned up\n" if work == "python" else "")


def test_work_with_a_state_to_save_has_the_time_that_it_takes():
    process = started("kept")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert out == "saved\n", errors
    assert time.monotonic() - begin > 1.5  # the grace of work without a state is 0.5


def test_a_signal_in_a_callback_is_raised_behind_it():
    process = started("callback")
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert out == f"caught {int(signal.SIGTERM)}\n"
    assert errors == "SIGTERM: ends now, and saves; a second one ends at once\n"


def test_work_that_polls_goes_on_to_its_end_and_nothing_comes_behind_it():
    process = started("steps")
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    first, *_ = errors.splitlines()
    assert first == "SIGTERM: ends after this step and saves; a second one ends at once"
    assert "Interrupted: SIGTERM" in errors  # nobody catches it here
    assert out == ""


def test_the_line_comes_at_once_and_a_second_signal_ends_at_once():
    process = started("stuck")
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    line = process.stderr.readline()  # the process is alive, and would be for two minutes
    assert line == "SIGTERM: ends after this step and saves; a second one ends at once\n"
    time.sleep(0.5)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 2
    assert process.returncode == 130
    assert errors == "SIGINT: ended at once\n"


def test_two_signals_within_a_moment_are_one():
    """As of `timeout`, which signals its child and then the child's group."""
    process = started("stuck")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.kill()
    _, errors = process.communicate()
    assert errors.count("\n") == 1


def test_a_fork_does_not_signal_its_parent():
    program = (
        "import os, signal, time\n"
        "from byol_jax.runtime import interrupts\n"
        "interrupts.watch()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(60)\n"
        "time.sleep(0.3)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "_, status = os.waitpid(child, 0)\n"
        "time.sleep(0.5)\n"
        "print(os.waitstatus_to_exitcode(status), interrupts.received())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=tiny_runs.ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{-signal.SIGTERM} 0\n", done.stderr
    assert done.stderr == ""


def test_nohup_stays():
    program = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from byol_jax.runtime import interrupts\n"
        "interrupts.watch()\n"
        "signal.raise_signal(signal.SIGHUP)\n"
        "print(interrupts.received())\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tiny_runs.ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr


def test_in_a_program_of_someone_else_the_second_signal_is_theirs():
    # In the background it would be ignored.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)

    def work():
        with interrupts.signals("saves") as number:
            signal.raise_signal(signal.SIGINT)
            assert number() == signal.SIGINT
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert not isinstance(caught.value, interrupts.Interrupted)
    assert interrupts.received() == 0


def test_outside_of_the_main_thread_it_does_nothing():
    seen = []

    def work():
        interrupts.watch()
        before = signal.getsignal(signal.SIGTERM)
        with interrupts.signals("saves") as number:
            seen.append((number(), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, True)]
