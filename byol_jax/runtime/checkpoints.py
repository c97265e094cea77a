"""Checkpoints of any pytree through orbax, asynchronous, checked when read.

A step is one folder, renamed into place when complete. It holds the arrays as a flat
mapping from path to array, and beside them a JSON record with each array's shape,
type and checksum and whatever the caller adds (config, number of classes). Arrays are
host copies of one replica: orbax refuses the outputs of a pmap over several processes.

Of several processes the first saves; each reads for itself. Orbax is told that it works in one
process alone: its own barriers would hang where only some of the processes come to them.
"""

import concurrent.futures
import contextlib
import errno
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import processes

PyTree = Any
Record = dict[str, Any]


def path_name(path: tuple[Any, ...]) -> str:
    """`a/b/c` for the key path of a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path name, as host arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def _describe(array: np.ndarray) -> dict[str, Any]:
    # Bytes in place: a copy of a large array would take longer than its checksum.
    checksum = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": checksum}


def _alone() -> ocp.options.MultiprocessingOptions:
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


class Saver(NamedTuple):
    """Saves steps of a folder behind the caller's back.

    Attributes:
      manager: of orbax.
      worker: the one thread that makes checksums and hands arrays to orbax, in order.
      pending: the last save that was handed to `worker`; empty before the first.
    """

    manager: ocp.CheckpointManager
    worker: concurrent.futures.ThreadPoolExecutor
    pending: list[concurrent.futures.Future[None]]


def saver(directory: pathlib.Path, keep: int | None) -> Saver | None:
    """A saver of `directory/STEP/` on the first process, None on the others.

    Args:
      directory: made if it is not there.
      keep: number of steps that stay; None keeps all.
    """
    if not processes.is_first_process():
        return None
    directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        enable_async_checkpointing=True,
        multiprocessing_options=_alone(),
    )
    manager = ocp.CheckpointManager(directory.absolute(), options=options)
    worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
    return Saver(manager, worker, [])


@contextlib.contextmanager
def _disk_errors(directory: pathlib.Path | str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        no_space = getattr(error, "errno", None) == errno.ENOSPC
        if no_space or "no space left" in str(error).lower():
            raise GuardError(
                f"no space left to save in {directory}: free some and start again; "
                "the checkpoints already there are whole"
            ) from error
        raise


def save(to: Saver | None, step: int, tree: PyTree, record: Record) -> None:
    """Starts saving and returns; checksums and files are made behind the caller's back.

    Args:
      to: made by `saver`; None saves nothing.
      step: number of finished updates, so that no step runs twice after a resume. A step that is
        there already stays as it is.
      tree: host arrays of one replica, which nobody changes any more.
      record: JSON-able; `arrays` is added.

    Raises:
      GuardError: the disk was full when an earlier step was saved.
    """
    if to is None:
        return
    _settle(to)
    to.pending.append(to.worker.submit(_write, to.manager, step, flatten(tree), record))


def _write(
    manager: ocp.CheckpointManager, step: int, flat: dict[str, np.ndarray], record: Record
) -> None:
    if step in manager.all_steps():
        return
    record = {**record, "step": step, "arrays": {k: _describe(v) for k, v in flat.items()}}
    with _disk_errors(manager.directory):
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(flat), record=ocp.args.JsonSave(record)
            ),
            force=True,
        )


def _settle(to: Saver) -> None:
    """Waits until orbax has the arrays of the last save."""
    if to.pending:
        to.pending.pop().result()


def finish(to: Saver | None) -> None:
    """Waits until everything that was saved is on disk.

    Raises:
      GuardError: if the disk is full.
    """
    if to is not None:
        _settle(to)
        with _disk_errors(to.manager.directory):
            to.manager.wait_until_finished()


def close(to: Saver | None) -> None:
    """Waits, then releases the saver's threads."""
    if to is not None:
        to.worker.shutdown()
        with _disk_errors(to.manager.directory):
            to.manager.close()


def steps(directory: pathlib.Path) -> list[int]:
    """The complete steps in a checkpoint folder, ascending; empty if there are none."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit() and p.is_dir())


def read_record(directory: pathlib.Path, step: int) -> Record:
    """The JSON record saved beside the arrays of a step.

    Raises:
      UserError: if the folder is not one of this project's checkpoints.
    """
    try:
        handler = ocp.Checkpointer(
            ocp.JsonCheckpointHandler(multiprocessing_options=_alone()),
            multiprocessing_options=_alone(),
        )
        return handler.restore((directory / str(step) / "record").absolute())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{directory / str(step)} is not a complete checkpoint of byol_jax: {error}"
        ) from error


def read(directory: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], Record]:
    """All arrays of a step by path name, and its record.

    Raises:
      UserError: if it is no checkpoint, or an array differs from its checksum.
    """
    record = read_record(directory, step)
    target = {
        name: np.empty(array["shape"], array["dtype"]) for name, array in record["arrays"].items()
    }
    handler = ocp.Checkpointer(
        ocp.StandardCheckpointHandler(multiprocessing_options=_alone()),
        multiprocessing_options=_alone(),
    )
    try:
        flat = handler.restore(
            (directory / str(step) / "state").absolute(), args=ocp.args.StandardRestore(target)
        )
    except (OSError, ValueError) as error:
        raise UserError(_damaged(directory, step, str(error).splitlines()[0])) from error
    flat = {name: np.asarray(value) for name, value in flat.items()}
    for name, array in record["arrays"].items():
        if _describe(flat[name]) != array:
            raise UserError(_damaged(directory, step, f"{name} differs from its checksum"))
    return flat, record


def _damaged(directory: pathlib.Path, step: int, what: str) -> str:
    earlier = [s for s in steps(directory) if s < step]
    hint = (
        f"move that folder away to go on from step {earlier[-1]}"
        if earlier
        else "there is no earlier one"
    )
    return f"checkpoint {directory / str(step)} is damaged ({what}): {hint}"


def fill(tree: PyTree, flat: Mapping[str, np.ndarray], source: str) -> PyTree:
    """A tree like `tree` with the arrays of `flat`.

    Args:
      tree: of arrays or shapes: the structure expected.
      flat: arrays by path name; names outside `tree` are an error too.
      source: what `flat` is, for the message.

    Raises:
      UserError: naming the first leaf that is missing, extra or of another shape or
        type.
    """
    leaves, definition = jax.tree_util.tree_flatten_with_path(tree)
    expected = {path_name(path): leaf for path, leaf in leaves}

    def refuse(name: str, here: str, there: str) -> None:
        raise UserError(
            f"{source} belongs to another architecture: {name} is {there} there and {here} "
            "in this config; use the config it was made with, or another workdir"
        )

    for name, leaf in expected.items():
        here = f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        if name not in flat:
            refuse(name, here, "absent")
        there = f"{flat[name].dtype.name}{list(flat[name].shape)}"
        if here != there:
            refuse(name, here, there)
    for name in flat:
        if name not in expected:
            refuse(name, "absent", f"{flat[name].dtype.name}{list(flat[name].shape)}")
    return jax.tree_util.tree_unflatten(definition, [flat[name] for name in expected])
