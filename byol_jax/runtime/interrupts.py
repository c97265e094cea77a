"""SIGINT, SIGTERM and SIGHUP: one handling from the start of the program to its end.

Python runs a signal's handler in the main thread, between two of its instructions, and a
compilation may hold that thread for minutes. So the program has a thread that learns of a signal at
once: it says what happens now, and ends the process itself if the main thread does not, or if a
second signal comes. What the first signal does depends on the phase of the work. It is polled where
there is a state to save, and raised as `Interrupted` everywhere else.

In a program of someone else (`train.pretrain` called from a notebook) there is no such thread:
signals are handled while the work polls them, and only in the main thread.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds within which signals count as one: `timeout` sends two, and so do a terminal and a
# launcher that forwards.
_TOGETHER = 0.3
# Seconds that the main thread has to end by itself, after work without and with a state to save.
_GRACE, _GRACE_SAVED = 3.0, 10.0


class Interrupted(KeyboardInterrupt):
    """A signal has ended work that had nothing to save; `main` exits with 128 + `number`."""

    def __init__(self, number: int = 0):
        self.number = number or received() or signal.SIGINT
        super().__init__(signal.Signals(self.number).name)


class _Phase(NamedTuple):
    """What a signal does now.

    Attributes:
      words: completes "SIGTERM: ...".
      is_polled: whether the work asks for signals by itself, and ends.
      keeps: whether what is raised in the work leads to a save, which may take its time.
    """

    words: str
    is_polled: bool
    keeps: bool = False


# Signals belong to the process, and so do these: the phase, the first signal, whether the program's
# own handling is there, and for how many seconds more this process outlives its peers.
_phase = [_Phase("ends now; what is saved stays", False)]
_received: list[int] = []
_is_watched = threading.Event()
_is_told = threading.Event()
_extra_grace = [0.0]


def received() -> int:
    """The first signal received, or 0."""
    return _received[0] if _received else 0


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def is_polled() -> bool:
    """Whether the work asks for signals by itself now."""
    return _phase[0].is_polled


def enter(words: str, polled: bool = False, keeps: bool = False) -> None:
    """Says what a signal does from now on; see `during`, which ends it."""
    if _in_main_thread():
        _phase[0] = _Phase(words, polled, keeps)


@contextlib.contextmanager
def during(words: str, polled: bool = False, keeps: bool = False) -> Iterator[None]:
    """Says what a signal does within a block.

    Args:
      words: completes "SIGTERM: ...", as in "ends after this step and saves".
      polled: whether the block asks `received` and ends by itself; if not, `Interrupted` is raised
        in it.
      keeps: whether a save follows what is raised: then the main thread has the time that it takes.

    Raises:
      Interrupted: behind a block that polled a signal and went on to its end all the same.
    """
    before = _phase[0]
    enter(words, polled, keeps)
    try:
        yield
        ended_polled = _phase[0].is_polled
    finally:
        if _in_main_thread():
            _phase[0] = before
    if ended_polled and received() and _is_watched.is_set() and not before.is_polled:
        raise Interrupted(received())


@contextlib.contextmanager
def signals(words: str, polled: bool = True) -> Iterator[Callable[[], int]]:
    """As `during`, in a program of someone else too; yields `received`."""
    with contextlib.ExitStack() as stack:
        if not _is_watched.is_set() and _in_main_thread():
            stack.enter_context(_handled())
        stack.enter_context(during(words, polled))
        yield received


@contextlib.contextmanager
def _handled() -> Iterator[None]:
    """Catches the first signal; a second one does what it did before."""

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if received():
            signal.signal(number, before[number])
            signal.raise_signal(number)
        else:
            _take(number)

    before: dict[int, Any] = {n: signal.signal(n, handle) for n in SIGNALS if _is_ours(n)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def _is_ours(number: int) -> bool:
    """Whether to handle a signal: not a hang-up that `nohup` has made the process ignore."""
    return number != signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL


def _take(number: int) -> None:
    """Keeps the first signal, and ends the work with it where there is nothing to save."""
    if received():
        return
    _received.append(number)
    if not _phase[0].is_polled:
        raise Interrupted(number)


def watch() -> None:
    """Handles signals from now on until the process ends; nothing outside of the main thread."""
    if not _in_main_thread() or _is_watched.is_set():
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    terminals = [fd for fd in (1, 2) if os.isatty(fd)]
    threading.Thread(target=_listen, args=(reading, terminals), daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in filter(_is_ours, SIGNALS):
        signal.signal(number, lambda number, frame: _take(number))
    sys.unraisablehook = _raised_again(sys.unraisablehook)
    _is_watched.set()
    os.register_at_fork(after_in_child=_forget)


def _raised_again(shown: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook for exceptions that nobody gets: those of callbacks, such as that of JAX for gc.

    A signal may come while one of them runs. It is raised again once the callback is over.
    """

    def again() -> None:
        thread = ctypes.c_ulong(threading.main_thread().ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Interrupted))

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            timer = threading.Timer(0.05, again)
            timer.daemon = True
            timer.start()
        else:
            shown(unraisable)

    return hook


def _forget() -> None:
    """A fork has its own signals: those of its parent would end up in one pipe with them."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _listen(pipe: int, terminals: list[int]) -> None:
    """Tells of the first signal; ends the process at a second one, or when time is up."""
    first, at, deadline = 0, 0.0, 0.0
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.2 if first else None)
        numbers = [n for n in (os.read(pipe, 64) if ready else b"") if n in SIGNALS]
        now = time.monotonic()
        if numbers and not first:
            first, at, deadline = numbers[0], now, now + _GRACE + _extra_grace[0]
            if first == signal.SIGHUP:
                _let_go(terminals)
            _tell(f"{signal.Signals(first).name}: {_phase[0].words}; a second one ends at once")
            _is_told.set()
        elif numbers and now - at > _TOGETHER:
            _tell(f"{signal.Signals(numbers[0]).name}: ended at once")
            _exit(128 + numbers[0])
        elif first and (_phase[0].is_polled or _phase[0].keeps):
            deadline = now + _GRACE_SAVED + _extra_grace[0]
        elif first and now > deadline:
            _exit(128 + first)


def _let_go(terminals: list[int]) -> None:
    """A closed terminal fails whoever writes to it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nothing, descriptor)


def _tell(line: str) -> None:
    # Past the stream and the progress line, whose locks the main thread may hold.
    start = "\n" if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{line}\n".encode())


def _exit(code: int) -> None:
    """Ends the process now, without waiting for its other threads."""

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

    # The main thread may hold the lock of a stream.
    flushing = threading.Thread(target=flush, daemon=True)
    flushing.start()
    flushing.join(1)
    os._exit(code)


def leave_last() -> None:
    """Gives this process more time than its peers: they abort when the first one goes before."""
    _extra_grace[0] = 2.0


def told() -> None:
    """Returns once the first signal's line is out, where there is one."""
    if received() and _is_watched.is_set():
        _is_told.wait(1)
