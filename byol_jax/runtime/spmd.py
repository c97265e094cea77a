"""One program on several devices: mapping, collectives, and batches on their way to devices.

The only module that names `pmap` or a collective: the rest of the package is written for one
device. Haiku's BatchNorm takes `AXIS` by name.
"""

import collections
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from byol_jax.errors import UserError, require

AXIS = "batch"
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


def meet() -> None:
    """Connects every device with every other one while all processes are at the same place.

    gloo waits 30 seconds for the last device where devices meet for the first time. That is short
    for processes that compile or read images before.
    """
    pmap(lambda x: jax.lax.psum(x, AXIS))(np.ones(jax.local_device_count()))


def gather_from_processes(array: np.ndarray) -> np.ndarray:
    """The array of every process, `[processes, ...]`; all processes must call it together."""
    return np.asarray(multihost_utils.process_allgather(array))
