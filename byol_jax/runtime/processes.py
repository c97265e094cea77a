"""Several processes: how they find each other, agree on values, and end together."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax.errors import USER_ERROR, UserError, require
from byol_jax.runtime import spmd


class Hosts(NamedTuple):
    """How the processes of a job find each other.

    If the first three are None, the process is alone, or JAX finds the others from the environment.

    Attributes:
      coordinator: address `HOST:PORT` of process 0.
      num_processes: number of processes; 1 without the other two is alone in any environment.
      process_id: index of this process.
      join_timeout: seconds to wait at the start until all processes have joined.
      peer_timeout: seconds without a heartbeat after which a process counts as lost.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    join_timeout: int = 300
    peer_timeout: int = 100


def _is_started_with_others() -> bool:
    """Whether SLURM, Open MPI or a TPU VM started this process, as `jax.distributed` sees it."""
    if "SLURM_STEP_NODELIST" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return int(os.environ["OMPI_COMM_WORLD_SIZE"]) > 1
    chips = any(pathlib.Path("/dev").glob("accel*")) or pathlib.Path("/dev/vfio/0").exists()
    return chips and importlib.util.find_spec("libtpu") is not None


def check_hosts(hosts: Hosts) -> None:
    """Refuses flags that no set of processes could use.

    Raises:
      UserError: only some of the three flags are given, or a value is out of range.
    """
    for name in ("join_timeout", "peer_timeout"):
        seconds = getattr(hosts, name)
        require(seconds >= 1, f"--{name}={seconds} must be 1 or more (seconds)")
    three = (hosts.coordinator, hosts.num_processes, hosts.process_id)
    if all(value is None for value in three) or three == (None, 1, None):
        return
    require(
        None not in three,
        "several processes need all three of --coordinator=HOST:PORT, --num_processes and "
        "--process_id: give all or none",
    )
    assert hosts.num_processes is not None and hosts.process_id is not None
    port = re.fullmatch(r"\S+:([0-9]{1,5})", hosts.coordinator or "")
    require(
        port and 0 < int(port[1]) < 2**16,
        f"--coordinator={hosts.coordinator} must be HOST:PORT, the address of process 0 and a port "
        "that is free there",
    )
    require(
        0 <= hosts.process_id < hosts.num_processes,
        f"--process_id={hosts.process_id} must be from 0 to --num_processes - 1 = "
        f"{hosts.num_processes - 1}",
    )


def _check_port_is_free(coordinator: str) -> None:
    """Refuses a port in use, with which JAX would abort without a message."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except OSError as error:
        raise UserError(
            f"--coordinator={coordinator}: process 0 cannot listen there ({error}); choose "
            "another port, the same for all processes"
        ) from error


def initialize(hosts: Hosts) -> None:
    """Joins the other processes, if the flags or the environment name any.

    If they do not join within `join_timeout`, a thread ends this process with one line and exit
    code 2. Without it JAX would abort the process.

    Raises:
      UserError: as in `check_hosts`; or this process cannot join the others.
    """
    check_hosts(hosts)
    if hosts.num_processes == 1 or not (hosts.coordinator or _is_started_with_others()):
        return
    if hosts.process_id == 0 and hosts.coordinator:
        _check_port_is_free(hosts.coordinator)
    # CPU devices of different processes communicate through gloo; other backends ignore this.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # That service would catch SIGTERM; `interrupts` and `any_process` stop all processes together.
    jax.config.update("jax_enable_preemption_service", False)
    address = f"--coordinator={hosts.coordinator}" if hosts.coordinator else "the coordinator"
    late = threading.Timer(
        hosts.join_timeout,
        _give_up,
        (
            f"error: not all processes joined {address} within --join_timeout={hosts.join_timeout} "
            "seconds: start all of them, with the address and a free port of process 0",
        ),
    )
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.num_processes,
            hosts.process_id,
            initialization_timeout=hosts.join_timeout + 60,
            heartbeat_timeout_seconds=hosts.peer_timeout,
            # At the end the others wait while the first process evaluates, as long as it is alive.
            shutdown_timeout_seconds=7 * 86400,
        )
        spmd.meet()
        wait_for_all()
    except (OSError, RuntimeError, ValueError) as error:
        if not hosts.coordinator and "coordinator_address" in str(error):
            return  # a single TPU VM, which is not part of a pod
        raise UserError(
            f"could not join the other processes at {address}: {str(error).splitlines()[0]}; "
            "--num_processes=1 starts this process alone"
        ) from error
    finally:
        late.cancel()


def _give_up(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(USER_ERROR)


def is_joined() -> bool:
    """Whether this process has joined others, which may wait for it or fail with it."""
    return jax.distributed.is_initialized()


# Words in the errors of gloo, NCCL and JAX's coordination service when another process is lost.
_LOST = re.compile(
    r"gloo|nccl|coordination.?service|heartbeat|connection (closed|reset|refused)|unavailable",
    re.IGNORECASE,
)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of JAX says that another process was lost."""
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        and is_joined()
        and bool(_LOST.search(str(error)))
    )


def leave_soon(code: int, seconds: float = 10) -> None:
    """Ends this process after an error, within `seconds` at the latest.

    At exit JAX waits for all other processes, and some of them may be waiting for this one in a
    collective. Processes that failed for the same reason reach their exit within that time.
    """
    if is_joined():
        timer = threading.Timer(seconds, os._exit, (code,))
        timer.daemon = True
        timer.start()


def gather_texts(text: str) -> list[str]:
    """The texts of all processes, in their order; all must call it together."""
    if jax.process_count() == 1:
        return [text]
    row = np.frombuffer(text.encode(), np.uint8)
    sizes = spmd.gather_from_processes(np.asarray(len(row)))
    # One byte more, since an array without elements cannot be gathered.
    padded = np.pad(row, (0, int(np.max(sizes)) + 1 - len(row)))
    rows = spmd.gather_from_processes(padded)
    return [bytes(r[:n]).decode() for r, n in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that processes enter together, and that each may refuse for reasons of its own.

    Raises:
      UserError: some process has raised one, or another error. No process waits for it.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    texts = gather_texts("" if failure is None else str(failure) or repr(failure))
    if failure is not None:
        raise failure
    for text in filter(None, texts):
        raise UserError(text)


def require_same(values: Mapping[str, Any]) -> None:
    """Compares JSON-compatible values by name; all processes must call it together.

    Raises:
      UserError: values differ. All processes raise it, and the message names the first differences.
    """
    if jax.process_count() == 1:
        return
    first, *rest = (json.loads(text) for text in gather_texts(json.dumps(values)))
    for process, entries in enumerate(rest, start=1):
        names = [n for n in {**first, **entries} if first.get(n) != entries.get(n)]
        shown = ", ".join(f"{n}={entries.get(n)} instead of {first.get(n)}" for n in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        require(
            not names,
            f"process {process} differs from process 0: {shown}{more}; give all processes the same "
            "command, data and workdir",
        )


def count_on_this_host() -> int:
    """The number of processes on this machine; all processes must call it together."""
    if jax.process_count() == 1:
        return 1
    name = np.asarray(zlib.crc32(socket.gethostname().encode()), np.int64)
    # In two halves, because JAX makes int64 int32.
    halves = np.array([name >> 16, name & 0xFFFF], np.int32)
    rows = spmd.gather_from_processes(halves)
    return int(np.sum(np.all(np.asarray(rows) == halves, axis=-1)))


def is_first_process() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is set on any process; all processes must call it together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(spmd.gather_from_processes(np.asarray(flag))))


def wait_for_all() -> None:
    """Returns when all processes have called it."""
    any_process(False)


class Agreement:
    """Asks all processes every few seconds whether one of them wants to end.

    The answer is fetched one step late, as logs are, so that no device waits for the host. All
    processes must ask at the same steps: with each answer they get the step of the next question,
    from the pace of process 0.

    Args:
      seconds: from one question to the next, where a step takes less.
    """

    def __init__(self, seconds: float = 5.0):
        self._seconds = seconds
        self._pending: jax.Array | None = None
        self._asked, self._gap, self._at = 0, 1, time.monotonic()

    def ask(self, step: int, wants_to_end: bool) -> bool:
        """Whether some process wants to end; called by all processes behind each step they start.

        Args:
          step: number of the step that has just been started.
          wants_to_end: whether this process does.
        """
        if jax.process_count() == 1:
            return wants_to_end
        if self._pending is not None:
            flags, gaps = spmd.to_host(self._pending).T
            self._pending, self._gap = None, int(max(gaps))
            if flags.any():
                return True
        if step >= self._asked + self._gap:
            gap = self._next_gap(step) if is_first_process() else 0
            self._pending = spmd.start_gathering(np.array([wants_to_end, gap], np.int32))
            self._asked = step
        return False

    def _next_gap(self, step: int) -> int:
        """Steps from this question to the next.

        At most twice as many as before: the host starts the first steps faster than devices end
        them.
        """
        now = time.monotonic()
        pace = (now - self._at) / max(step - self._asked, 1)
        self._at = now
        return max(1, min(2 * self._gap, int(self._seconds / max(pace, 1e-9))))
