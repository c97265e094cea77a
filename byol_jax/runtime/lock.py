"""One training at a time in a folder: a lock that names its owner, and shows that the owner lives.

The lock is a file, made exclusively. A thread of the owner renews its time. Who finds it there asks
the kernel whether the owner lives, if it is a process of the same machine that is numbered in the
same way: containers have process numbers of their own. Otherwise it watches whether the time is
renewed. The lock of an owner that is gone is taken over; of several that try, one succeeds.

An owner that others had to think dead, since its machine stood still, ends at its next heartbeat,
where it finds the lock taken. Readers need no lock and leave none.
"""

import contextlib
import datetime
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from byol_jax.errors import GUARD, UserError
from byol_jax.runtime import processes

_logger = logging.getLogger(__name__)

FILE = "training.lock"
# Seconds from one renewal to the next, and those without one after which an owner on another
# machine counts as gone. NFS may show a renewal up to 60 seconds late.
HEARTBEAT = 10.0
LIMIT = 90.0
_LOOK_EVERY = 0.5


class Owner(NamedTuple):
    """The process that holds a lock.

    Attributes:
      host: its host's name.
      place: what its process number is relative to: the boot of the machine and the namespace of
        process numbers; empty if the system does not say.
      pid: its process number.
      started: when the process started, in ticks since the boot; empty if the system does not say.
      since: when it took the lock, in words.
      token: a number that no other lock has.
    """

    host: str
    place: str
    pid: int
    started: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class _Seen(NamedTuple):
    """A lock as it was found: its text, its owner if the text is whole, and its time."""

    text: str
    owner: Owner | None
    time_ns: int

    @property
    def name(self) -> str:
        return str(self.owner or "a process that left half a lock")


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder; all processes of a run enter together, and the first has it.

    The folder is made if it does not exist, and removed at the end if it is still empty.

    Raises:
      UserError: another training is at work there.
    """
    path, own = folder / FILE, _this_process()
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with contextlib.ExitStack() as stack:
        with processes.together():
            if processes.is_first_process():
                stack.callback(_remove_empty, made)
                folder.mkdir(parents=True, exist_ok=True)
                _acquire(path, own)
                stack.callback(_release, path, own)
                ended = threading.Event()
                beat = threading.Thread(
                    target=_beat, args=(path, own, ended), name="lock", daemon=True
                )
                beat.start()
                # A file server that is away must not keep the process.
                stack.callback(beat.join, HEARTBEAT)
                stack.callback(ended.set)
        yield


def _remove_empty(folders: list[pathlib.Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _this_process() -> Owner:
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    pid = os.getpid()
    token = os.urandom(8).hex()
    return Owner(socket.gethostname(), _place(), pid, _started(pid) or "", now, token)


def _place() -> str:
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str | None:
    """When a process started; empty if it has ended, None if the system does not say."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name of the program, in brackets, may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _lives(owner: Owner) -> bool:
    """Whether a process of this machine is still the one that took the lock."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user, and alive
    started = _started(owner.pid)
    return started is None or started == owner.started


def _text_of(owner: Owner) -> str:
    return json.dumps(owner._asdict(), indent=2) + "\n"


def _create(path: pathlib.Path, text: str) -> bool:
    """Makes a file that is not there yet; returns whether this process made it."""
    try:
        file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "w")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _look(path: pathlib.Path) -> _Seen | None:
    """The lock that is there; None if there is none."""
    try:
        with path.open(errors="replace") as file:
            text, time_ns = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    owner = None
    with contextlib.suppress(ValueError, TypeError):
        owner = Owner(**json.loads(text))
        if type(owner.pid) is not int or owner.pid < 1:
            owner = None
    return _Seen(text, owner, time_ns)


def _age(path: pathlib.Path, time_ns: int) -> float:
    """Seconds since a time, by the clock of the file system, which may be another machine's."""
    probe = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    probe.touch()
    try:
        return (probe.stat().st_mtime_ns - time_ns) / 1e9
    finally:
        probe.unlink(missing_ok=True)


def _acquire(path: pathlib.Path, owner: Owner) -> None:
    """Takes a lock.

    Raises:
      UserError: its owner lives.
    """
    own = _text_of(owner)
    while not _create(path, own):
        seen = _look(path)
        if seen is None:
            continue  # released just now
        if _is_here(seen.owner):
            assert seen.owner
            if _lives(seen.owner):
                raise _refusal(path, seen)
        else:
            change = _watch(path, seen)
            if change == "lives":
                raise _refusal(path, seen)
            if change == "changed":
                continue
        if _take_over(path, seen, own):
            _logger.warning(
                "%s was in use by %s, which is gone: taken over", path.parent, seen.name
            )
            return


def _is_here(owner: Owner | None) -> bool:
    """Whether an owner's process number means a process that this one can ask for."""
    return bool(
        owner
        and owner.place
        and owner.started
        and (owner.host, owner.place) == (socket.gethostname(), _place())
    )


def _watch(path: pathlib.Path, seen: _Seen) -> str:
    """What becomes of a lock whose owner is elsewhere: it `lives`, is `stale`, or has `changed`."""
    age = _age(path, seen.time_ns)
    left = min(LIMIT - age, LIMIT)
    if left > 0:
        _logger.info(
            "%s was in use by %s %.0f seconds ago: waiting up to %.0f seconds for a sign of life",
            *(path.parent, seen.name, age, left),
        )
    deadline = time.monotonic() + left
    while time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        now = _look(path)
        if now is None or now.text != seen.text:
            return "changed"
        if now.time_ns != seen.time_ns:
            return "lives"
    return "stale"


def _refusal(path: pathlib.Path, seen: _Seen) -> UserError:
    since = f"since {seen.owner.since}, " if seen.owner else ""
    age = max(0.0, _age(path, seen.time_ns))
    return UserError(
        f"{path.parent} is in use by {seen.name} ({since}last sign of life {age:.0f} seconds ago): "
        "wait for its end or stop it, or give this one another --workdir"
    )


def _take_over(path: pathlib.Path, seen: _Seen, own: str) -> bool:
    """Puts an own lock in the place of a stale one; returns False if another was faster."""
    claim = path.with_name(f"{path.name}.{zlib.crc32(seen.text.encode()):08x}.claim")
    if not _create(claim, own):
        with contextlib.suppress(FileNotFoundError):
            # Who made it has died while it held it.
            if _age(path, claim.stat().st_mtime_ns) > LIMIT:
                claim.unlink()
        time.sleep(_LOOK_EVERY)
        return False
    # Who holds the claim is alone here. The lock may be another one by now: others were here.
    fresh = path.with_name(f"{claim.name}.new")
    try:
        if _look(path) != seen:
            return False
        fresh.write_text(own)
        os.replace(fresh, path)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _beat(path: pathlib.Path, own: Owner, ended: threading.Event) -> None:
    """Renews the time of an own lock until `ended`, or ends the process if it has lost the lock."""
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):  # of a file server that is away: the next time
            seen = _look(path)
            if seen is None:
                _create(path, _text_of(own))
            elif seen.owner in (None, own):
                os.utime(path)
            else:
                _give_up(path, seen)


def _give_up(path: pathlib.Path, seen: _Seen) -> None:
    print(
        f"stopped: {path.parent} was taken over by {seen.name}, since this process gave no sign of "
        f"life for {LIMIT:.0f} seconds; the newest checkpoint stands",
        file=sys.stderr,
        flush=True,
    )
    os._exit(GUARD)


def _release(path: pathlib.Path, own: Owner) -> None:
    with contextlib.suppress(OSError):
        seen = _look(path)
        if seen and seen.owner == own:
            path.unlink()
