"""One program on several devices: mapping, collectives, and the transfer of batches.

This is the only module that calls `pmap` or a collective; the rest of the package is written for
one device. BatchNorm (networks/norms.py) takes the name `AXIS`.
"""

import collections
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from byol_jax.errors import UserError, require

AXIS = "batch"
# Steps that the host may have started before their predecessors are done.
AHEAD = 2
PyTree = Any


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
    """Mean over the devices of `axis`; the identity without an axis."""
    return tree if axis is None else jax.lax.pmean(tree, axis_name=axis)


def pmax(tree: PyTree, axis: str | None) -> PyTree:
    """Maximum over the devices of `axis`, which has no gradient; the identity without an axis."""
    return tree if axis is None else jax.lax.pmax(tree, axis_name=axis)


def axis_index(axis: str | None) -> jax.Array | int:
    """Index of this device on `axis`; 0 without an axis."""
    return 0 if axis is None else jax.lax.axis_index(axis)


def axis_size(axis: str | None) -> int:
    """Number of devices of `axis`; 1 without an axis."""
    return 1 if axis is None else jax.lax.psum(1, axis)


def all_gather(x: jax.Array, axis: str | None) -> jax.Array:
    """The rows of all n devices of `axis`, in their order: `[B, D]` -> `[n B, D]`.

    The identity without an axis. The cotangent of a row returns to the device that the row came
    from, summed over the devices that used it. If the loss of each device is the mean over its own
    rows, the mean of the devices' gradients is therefore the gradient of the mean over all rows.
    """
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def exchange(x: jax.Array, order: jax.Array, axis: str | None) -> jax.Array:
    """Deals the rows of all n devices out again: row i of the global batch becomes row `order[i]`.

    Args:
      x: rows of this device, `[B, ...]`.
      order: a permutation of the global batch, int `[n B]`, equal on all devices.
      axis: mapped axis.

    Returns:
      The new rows of this device, `[B, ...]`.
    """
    mine = axis_index(axis) * len(x) + jax.numpy.arange(len(x))
    return all_gather(x, axis)[order[mine]]


def average(tree: PyTree, axis: str | None) -> PyTree:
    """The floats of a tree averaged over the devices of `axis`; integers are equal on all."""
    return jax.tree.map(
        lambda x: pmean(x, axis) if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x, tree
    )


def _sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def replicate(tree: PyTree, devices: Sequence[jax.Device] | None = None) -> PyTree:
    """Copies a host tree to every local device; leaves gain a leading device axis."""
    devices = list(devices or jax.local_devices())
    sharding = _sharding(devices)

    def put(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.device_put(np.broadcast_to(leaf, (len(devices), *leaf.shape)), sharding)

    return jax.tree.map(put, tree)


def to_host(tree: PyTree) -> PyTree:
    """The first local replica of a replicated tree, as host arrays without the device axis.

    It waits for the values and copies them. On CPU a view would be overwritten by the next step, to
    which the buffers are donated.
    """
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_shards[0].data)[0], tree)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of all local devices, `[devices, n, ...]` -> `[devices n, ...]`, on the host."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.array(shard.data)[0] for shard in shards])


def check_batch(batch_size: int, micro_batches: int, devices: int | None = None) -> None:
    """Raises `UserError` unless the batch divides over micro-batches and devices.

    Args:
      batch_size: global, effective batch size.
      micro_batches: number of micro-batches per batch.
      devices: number of devices; by default those of the run.
    """
    require(micro_batches >= 1, f"accumulate={micro_batches} must be 1 or more")
    require(
        batch_size > 0 and batch_size % micro_batches == 0,
        f"batch_size={batch_size} does not divide into accumulate={micro_batches} micro-batches",
    )
    micro, devices = batch_size // micro_batches, devices or jax.device_count()
    if micro % devices:
        larger = micro_batches * devices * -(-micro // devices)
        raise UserError(
            f"batch_size={batch_size} does not divide over {devices} devices in micro-batches of "
            f"{micro} (accumulate={micro_batches}): batch_size={larger} would"
        )


def device_memory() -> int | None:
    """Bytes of memory for arrays on the first local device; None if it is not reported (CPUs)."""
    statistics = jax.local_devices()[0].memory_stats()
    return statistics.get("bytes_limit") if statistics else None


def shard(
    batch: PyTree, micro_batches: int = 1, devices: Sequence[jax.Device] | None = None
) -> PyTree:
    """Sends a process's host batch to its devices.

    Args:
      batch: leaves `[micro_batches * b, ...]`, one micro-batch after the other.
      micro_batches: number of micro-batches; more than one adds an axis to the result.
      devices: the D devices to send to; by default the local ones.

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
    """Sends batches to the devices, `depth` batches ahead of the one in use."""
    queue: collections.deque[PyTree] = collections.deque()
    for batch in batches:
        queue.append(shard(batch, micro_batches))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue


def limit_ahead(steps: int = AHEAD) -> Callable[[PyTree], None]:
    """A function that the loop calls with some output of each step it has started.

    It waits for the step that was started `steps` steps earlier. So the devices always have work
    queued, but after a signal the host need not wait for a long queue of steps.
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
    most: int | None = None,
) -> PyTree:
    """Applies a function of a batch to host batches, one after the other, on all local devices.

    Rows are returned in order. Batches are padded to a common shape and the padding is dropped, so
    any number of rows works and a single program is compiled.

    Args:
      function: maps rows `[b, ...]` and the trees of `shared` to a tree of `[b, ...]`. It must
        treat rows independently.
      batches: arrays `[b, ...]` with N rows in total, at least 1; none longer than `batch_size`.
      batch_size: rows per call, rounded up to a multiple of the number of local devices.
      shared: further arguments, the same for every batch. As arguments rather than constants they
        keep the program small, and other values need no compilation.
      most: an upper bound of N, where there is one. Rows are then written where they stay, and need
        no memory beside that; without it they take twice their size for a moment.

    Returns:
      A tree of host arrays `[N, ...]`.
    """
    parts = map(on_batches(function, batch_size, shared), batches)
    if most is None:
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    return _stacked(parts, most)


def _stacked(parts: Iterator[PyTree], most: int) -> PyTree:
    """Trees of `[b, ...]` as one of `[N, ...]`, N at most `most`."""
    first = next(parts)
    # Pages that no row is written to take no memory.
    whole = jax.tree.map(lambda leaf: np.empty((most, *leaf.shape[1:]), leaf.dtype), first)
    done = 0
    for part in itertools.chain([first], parts):
        count = len(jax.tree.leaves(part)[0])
        rows = slice(done, done + count)
        jax.tree.map(lambda to, leaf, rows=rows: operator.setitem(to, rows, leaf), whole, part)
        done += count
    return jax.tree.map(operator.itemgetter(slice(done)), whole)


def on_batches(
    function: Callable[..., PyTree], batch_size: int, shared: Sequence[PyTree] = ()
) -> Callable[[np.ndarray], PyTree]:
    """`map_batches` one batch at a time, for results that are not all kept.

    Args:
      function, batch_size, shared: see `map_batches`. The trees of `shared` are sent to the devices
        once.

    Returns:
      A function from a host batch `[b, ...]`, b at most `batch_size`, to a tree of host arrays
      `[b, ...]`.
    """
    devices = jax.local_devices()
    padded = len(devices) * -(-batch_size // len(devices))
    mapped = pmap(function, devices=devices)
    arguments = [replicate(tree, devices) for tree in shared]

    def apply(rows: np.ndarray) -> PyTree:
        padding = [(0, padded - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        out = mapped(shard(np.pad(rows, padding), devices=devices), *arguments)
        out = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), out)
        return jax.tree.map(operator.itemgetter(slice(len(rows))), out)

    return apply


def meet() -> None:
    """Connects every device with every other one while all processes are at the same point.

    When devices communicate for the first time, gloo waits only 30 seconds for the last one.
    Processes that compile or read images before that point may take longer.
    """
    pmap(lambda x: jax.lax.psum(x, AXIS))(np.ones(jax.local_device_count()))


def from_first_process(tree: PyTree) -> PyTree:
    """The host arrays of process 0, on all processes; all must call it together."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def gather_from_processes(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, `[processes, ...]`; all processes must call it together."""
    return np.asarray(multihost_utils.process_allgather(array))


@functools.cache
def _gathering() -> Callable[..., Any]:
    return pmap(lambda row: all_gather(row[None], AXIS))


def start_gathering(row: np.ndarray) -> jax.Array:
    """Starts to gather a row of each process, and waits for none of them.

    All processes must call it at the same point. `to_host` of the result waits; it has the row of
    each device of each process, `[devices, n]`.
    """
    return _gathering()(np.broadcast_to(row, (jax.local_device_count(), *row.shape)))
