"""Everything that knows about several devices or several processes.

The only module that names `pmap` or a collective: the rest of the package is
written for one device. Haiku's BatchNorm takes `AXIS` by name.
"""

import collections
import importlib.util
import json
import operator
import os
import pathlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from byol_jax.errors import USER_ERROR, UserError, require

AXIS = "batch"
PyTree = Any


class Hosts(NamedTuple):
    """How the processes of a job find each other; all None: they are alone, or found by JAX.

    Attributes:
      coordinator: `HOST:PORT` of process 0.
      num_processes: how many processes take part; 1 by itself is alone, wherever it was started.
      process_id: index of this one.
      join_timeout: seconds to wait for all of them at start.
      peer_timeout: seconds without a sign of life after which a process counts as lost.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    join_timeout: int = 300
    peer_timeout: int = 100


def _is_started_with_others() -> bool:
    """Whether SLURM, Open MPI or a TPU VM started this process, which `jax.distributed` asks."""
    if "SLURM_STEP_NODELIST" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return int(os.environ["OMPI_COMM_WORLD_SIZE"]) > 1
    chips = any(pathlib.Path("/dev").glob("accel*")) or pathlib.Path("/dev/vfio/0").exists()
    return chips and importlib.util.find_spec("libtpu") is not None


def check_hosts(hosts: Hosts) -> None:
    """Refuses flags that no set of processes could use.

    Raises:
      UserError: if only some of the three are given, or one is out of range.
    """
    for name in ("join_timeout", "peer_timeout"):
        seconds = getattr(hosts, name)
        require(seconds >= 1, f"--{name}={seconds} must be at least 1 second")
    three = (hosts.coordinator, hosts.num_processes, hosts.process_id)
    if all(value is None for value in three) or three == (None, 1, None):
        return
    require(
        None not in three,
        "several processes need all of --coordinator=HOST:PORT, --num_processes and --process_id",
    )
    assert hosts.num_processes is not None and hosts.process_id is not None
    port = re.fullmatch(r"\S+:([0-9]{1,5})", hosts.coordinator or "")
    require(
        port and 0 < int(port[1]) < 2**16,
        f"--coordinator={hosts.coordinator} must be HOST:PORT, a port of process 0 that is free",
    )
    require(
        0 <= hosts.process_id < hosts.num_processes,
        f"--process_id={hosts.process_id} must be from 0 to --num_processes - 1 = "
        f"{hosts.num_processes - 1}",
    )


def _check_port_is_free(coordinator: str) -> None:
    """JAX dies without a word where another program has the port."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except OSError as error:
        raise UserError(
            f"--coordinator={coordinator}: process 0 cannot listen there ({error}); "
            "name another port, the same on all processes"
        ) from error


def initialize(hosts: Hosts) -> None:
    """Joins the other processes, if flags or the environment name any.

    Where they do not come within `join_timeout`, the process ends with one line and exit code 2,
    from a thread: JAX would abort it.

    Raises:
      UserError: as `check_hosts`; if this process cannot join.
    """
    check_hosts(hosts)
    if hosts.num_processes == 1 or not (hosts.coordinator or _is_started_with_others()):
        return
    if hosts.process_id == 0 and hosts.coordinator:
        _check_port_is_free(hosts.coordinator)
    # CPU devices of different processes talk through gloo; other backends ignore this.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself; `interrupts` and `any_process` stop all together.
    jax.config.update("jax_enable_preemption_service", False)
    what = f"--coordinator={hosts.coordinator}" if hosts.coordinator else "the coordinator"
    late = threading.Timer(
        hosts.join_timeout,
        _give_up,
        (
            f"error: after --join_timeout={hosts.join_timeout} seconds some process had not come "
            f"to {what}: start all of them, with the address and a free port of process 0",
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
            # At the end some wait for the first process, which evaluates: as long as it lives.
            shutdown_timeout_seconds=7 * 86400,
        )
        _meet()
    except (OSError, RuntimeError, ValueError) as error:
        if not hosts.coordinator and "coordinator_address" in str(error):
            return  # a TPU VM by itself, that is part of no pod
        raise UserError(
            f"could not join the other processes at {what}: {str(error).splitlines()[0]}; "
            "--num_processes=1 starts this one alone"
        ) from error
    finally:
        late.cancel()


def _give_up(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(USER_ERROR)


def _meet() -> None:
    """Connects every device with every other one while all processes are at the same place.

    gloo waits 30 seconds for the last one where devices meet for the first time, which is short
    for processes that compile or read images before.
    """
    pmap(lambda x: jax.lax.psum(x, AXIS))(np.ones(jax.local_device_count()))
    any_process(False)


def is_joined() -> bool:
    """Whether this process has been joined to others, which may wait for it or die with it."""
    return jax.distributed.is_initialized()


# What gloo, NCCL and JAX's own coordination say when the other end is gone.
_LOST = re.compile(
    r"gloo|nccl|coordination.?service|heartbeat|connection (closed|reset|refused)|unavailable",
    re.IGNORECASE,
)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of JAX says that another process is gone."""
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        and is_joined()
        and bool(_LOST.search(str(error)))
    )


def leave_soon(code: int, seconds: float = 10) -> None:
    """Ends this process in so many seconds at the latest, after an error.

    JAX waits at its exit for all others, of which some may wait for this one in a collective. Those
    that have failed with this one are there by then.
    """
    if is_joined():
        timer = threading.Timer(seconds, os._exit, (code,))
        timer.daemon = True
        timer.start()


def require_same(values: Mapping[str, Any]) -> None:
    """Compares JSON-able values by name; all processes must call it together.

    Raises:
      UserError: on all of them, naming the first that differ.
    """
    if jax.process_count() == 1:
        return
    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(text)))
    padded = np.pad(text, (0, int(np.max(sizes)) - len(text)))
    rows = multihost_utils.process_allgather(padded)
    first, *others = (json.loads(bytes(r[:n])) for r, n in zip(rows, sizes, strict=True))
    for process, other in enumerate(others, start=1):
        names = [n for n in {**first, **other} if first.get(n) != other.get(n)]
        shown = ", ".join(f"{n}={other.get(n)} and not {first.get(n)}" for n in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        require(
            not names,
            f"process {process} has {shown}{more}, as process 0 has: "
            "all processes need the same command, data and workdir",
        )


def is_first_process() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def pmap(
    function: Callable[..., Any],
    *,
    donate_argnums: Sequence[int] = (),
    in_axes: Any = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """Maps `function` over the leading device axis of its arguments, with axis `AXIS`."""
    return jax.pmap(
        function,
        axis_name=AXIS,
        donate_argnums=tuple(donate_argnums),
        in_axes=in_axes,
        devices=devices,
    )


def pmean(tree: PyTree, axis: str | None) -> PyTree:
    """Mean over the devices of `axis`; the identity when there is no axis."""
    return tree if axis is None else jax.lax.pmean(tree, axis_name=axis)


def axis_index(axis: str | None) -> jax.Array | int:
    """Which device of `axis` this is; 0 when there is no axis."""
    return 0 if axis is None else jax.lax.axis_index(axis)


def all_gather(x: jax.Array, axis: str | None) -> jax.Array:
    """The rows of all n devices of `axis`, in their order: `[B, D]` -> `[n B, D]`.

    The identity when there is no axis. A cotangent comes back to the device whose rows they were,
    summed over the devices that used them: with each device's loss the mean over its own rows, the
    mean over devices of their gradients is the gradient of the mean over all rows.
    """
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def _sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def replicate(tree: PyTree, devices: Sequence[jax.Device] | None = None) -> PyTree:
    """Copies a host tree to every local device: leaves gain a leading device axis."""
    devices = list(devices or jax.local_devices())
    sharding = _sharding(devices)

    def put(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.device_put(np.broadcast_to(leaf, (len(devices), *leaf.shape)), sharding)

    return jax.tree.map(put, tree)


def to_host(tree: PyTree) -> PyTree:
    """The first local replica of a replicated tree, as host arrays without the device axis.

    Waits for the values. The copies are real: on CPU a view would be overwritten by the
    next step, to which the buffers are donated.
    """
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_shards[0].data)[0], tree)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set on any process; all processes must call it together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def wait_for_all() -> None:
    """Returns when all processes have called it."""
    any_process(False)


def check_batch(batch_size: int, micro_batches: int, devices: int | None = None) -> None:
    """Raises `UserError` unless the batch divides over micro-batches and devices.

    Args:
      batch_size: global and effective.
      micro_batches: how many of them make a batch.
      devices: how many there will be; by default those that there are.
    """
    require(micro_batches >= 1, f"accumulate={micro_batches} must be at least 1")
    require(
        batch_size > 0 and batch_size % micro_batches == 0,
        f"batch_size={batch_size} does not divide into accumulate={micro_batches} micro-batches",
    )
    micro, devices = batch_size // micro_batches, devices or jax.device_count()
    if micro % devices:
        larger = micro_batches * devices * -(-micro // devices)
        raise UserError(
            f"batch_size={batch_size} in {micro_batches} micro-batch(es) of {micro} does not "
            f"divide over {devices} devices: batch_size={larger} would"
        )


def device_memory() -> int | None:
    """Bytes that the first local device has for arrays, None where it does not say (CPUs)."""
    statistics = jax.local_devices()[0].memory_stats()
    return statistics.get("bytes_limit") if statistics else None


def shard(
    batch: PyTree, micro_batches: int = 1, devices: Sequence[jax.Device] | None = None
) -> PyTree:
    """Sends a process's host batch to its devices.

    Args:
      batch: leaves `[micro_batches * b, ...]`, micro-batch by micro-batch.
      micro_batches: how many of them; more than one adds an axis to the result.
      devices: defaults to the local devices, D of them.

    Returns:
      Leaves `[D, b / D, ...]`, or `[D, micro_batches, b / D, ...]`.
    """
    devices = list(devices or jax.local_devices())
    sharding = _sharding(devices)

    def put(leaf: np.ndarray) -> jax.Array:
        parts = leaf.reshape(micro_batches, len(devices), -1, *leaf.shape[1:]).swapaxes(0, 1)
        return jax.device_put(parts[:, 0] if micro_batches == 1 else parts, sharding)

    return jax.tree.map(put, batch)


def prefetch(batches: Iterable[PyTree], micro_batches: int, depth: int = 2) -> Iterator[PyTree]:
    """Keeps `depth` batches on their way to the devices ahead of the one in use."""
    queue: collections.deque[PyTree] = collections.deque()
    for batch in batches:
        queue.append(shard(batch, micro_batches))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue


def limit_ahead(steps: int = 2) -> Callable[[PyTree], None]:
    """A function to be called with some output of each step as it is started.

    It waits for the step `steps` before, so that the devices always have work queued, but a signal
    between two steps need not wait for all that a fast host has started.
    """
    started: collections.deque[PyTree] = collections.deque()

    def wait(outputs: PyTree) -> None:
        started.append(outputs)
        if len(started) > steps:
            jax.block_until_ready(started.popleft())

    return wait


def map_batches(
    function: Callable[..., PyTree],
    batches: Iterable[np.ndarray],
    batch_size: int,
    shared: Sequence[PyTree] = (),
) -> PyTree:
    """Applies a function of a batch to host batches one after the other, on all local devices.

    Rows come back in order. Batches are padded to the common shape and their padding
    dropped, so any number of rows works and one program is compiled.

    Args:
      function: maps `[b, ...]` and the trees of `shared` to a tree of `[b, ...]`, rows independent.
      batches: `[b, ...]`, N rows in all, at least 1; none longer than `batch_size`.
      batch_size: rows per call, rounded up to a multiple of the local devices.
      shared: further arguments, the same for every batch. As arguments and not as constants of
        the program they leave it small, and the same for other values.

    Returns:
      A tree of host arrays `[N, ...]`.
    """
    devices = jax.local_devices()
    batch_size = len(devices) * -(-batch_size // len(devices))
    mapped = pmap(function, devices=devices)
    arguments = [replicate(tree, devices) for tree in shared]
    results = []
    for rows in batches:
        padding = [(0, batch_size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        out = mapped(shard(np.pad(rows, padding), devices=devices), *arguments)
        out = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), out)
        results.append(jax.tree.map(operator.itemgetter(slice(len(rows))), out))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
