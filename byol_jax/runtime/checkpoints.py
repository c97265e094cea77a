"""Checkpoints of any pytree: saved through orbax in the background, verified when read.

A step is one folder, renamed into place when it is complete. It holds the arrays as a flat mapping
from path to array, and a JSON record with the shape, type and checksum of each array and the
entries that the caller adds (config, number of classes). Arrays are host copies of one replica:
orbax refuses the outputs of a pmap over several processes.

If there are several processes, the first one saves and each one reads for itself. Orbax is told
that it works in a single process: its own barriers would hang where only some processes reach them.
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
    # The bytes are read in place: copying a large array would take longer than its checksum.
    checksum = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": checksum}


def _alone() -> ocp.options.MultiprocessingOptions:
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


class Saver(NamedTuple):
    """Saves steps to a folder in the background.

    Attributes:
      manager: orbax's manager of the folder.
      worker: the single thread that computes checksums and passes arrays to orbax, in order.
      pending: the last save that was passed to `worker`; empty before the first one.
    """

    manager: ocp.CheckpointManager
    worker: concurrent.futures.ThreadPoolExecutor
    pending: list[concurrent.futures.Future[None]]


def saver(directory: pathlib.Path, keep: int | None) -> Saver | None:
    """A saver to `directory/STEP/` on the first process, None on all other processes.

    Args:
      directory: folder of the checkpoints; it is made if it does not exist.
      keep: number of steps to keep, the newest ones; None keeps all.
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
def disk_errors(
    directory: pathlib.Path | str, kept: str = "the checkpoints in it are complete"
) -> Iterator[None]:
    """Turns the error of a full disk into a guard's.

    Args:
      directory: what is written.
      kept: what a user has after the error.

    Raises:
      GuardError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        no_space = getattr(error, "errno", None) == errno.ENOSPC
        if no_space or "no space left" in str(error).lower():
            raise GuardError(
                f"no space left on the disk of {directory}: free some and run the same command "
                f"again; {kept}"
            ) from error
        raise


def save(to: Saver | None, step: int, tree: PyTree, record: Record) -> None:
    """Starts saving and returns; checksums and files are written in the background.

    Args:
      to: the saver; None saves nothing.
      step: number of finished updates, so that no step runs twice after a resume. A step that was
        saved before stays as it is.
      tree: host arrays of one replica; the caller must not change them afterwards.
      record: JSON-compatible entries of the record; `step` and `arrays` are added.

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
    with disk_errors(manager.directory):
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(flat), record=ocp.args.JsonSave(record)
            ),
            force=True,
        )


def _settle(to: Saver) -> None:
    """Waits until orbax has received the arrays of the last save."""
    if to.pending:
        to.pending.pop().result()


def finish(to: Saver | None) -> None:
    """Waits until all saves are on disk.

    Raises:
      GuardError: the disk is full.
    """
    if to is not None:
        _settle(to)
        with disk_errors(to.manager.directory):
            to.manager.wait_until_finished()


def close(to: Saver | None) -> None:
    """Waits for all saves, then releases the saver's threads."""
    if to is not None:
        to.worker.shutdown()
        with disk_errors(to.manager.directory):
            to.manager.close()


def workdir_of(path: str | pathlib.Path) -> pathlib.Path:
    """The workdir of a run, from itself, its `checkpoints`, or one step of them."""
    folder = pathlib.Path(path)
    if folder.name.isdigit() and folder.parent.name == "checkpoints":
        folder = folder.parent
    return folder.parent if folder.name == "checkpoints" else folder


def steps(directory: pathlib.Path) -> list[int]:
    """The complete steps in a checkpoint folder, in ascending order; may be empty."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit() and p.is_dir())


def read_record(directory: pathlib.Path, step: int) -> Record:
    """The JSON record that was saved with the arrays of a step.

    Raises:
      UserError: the folder is not a checkpoint of this project.
    """
    try:
        handler = ocp.Checkpointer(
            ocp.JsonCheckpointHandler(multiprocessing_options=_alone()),
            multiprocessing_options=_alone(),
        )
        return handler.restore((directory / str(step) / "record").absolute())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{directory / str(step)} is not a complete checkpoint of byol_jax ({error}): name a "
            "workdir, or a folder checkpoints/STEP of one"
        ) from error


def read(directory: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], Record]:
    """All arrays of a step by path name, and its record.

    Raises:
      UserError: the folder is not a checkpoint, or an array differs from its checksum.
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


def _damaged(directory: pathlib.Path, step: int, reason: str) -> str:
    earlier = [s for s in steps(directory) if s < step]
    remedy = (
        f"move that folder away to continue from step {earlier[-1]}"
        if earlier
        else "there is no earlier checkpoint, so use another workdir to start again"
    )
    return f"checkpoint {directory / str(step)} is damaged ({reason}): {remedy}"


def fill(tree: PyTree, flat: Mapping[str, np.ndarray], source: str) -> PyTree:
    """A tree with the structure of `tree` and the arrays of `flat`.

    Args:
      tree: arrays or shapes in the expected structure.
      flat: arrays by path name; a name that `tree` lacks is an error, too.
      source: name of the checkpoint, for the message.

    Raises:
      UserError: a leaf is missing or extra, or has another shape or type; the message names the
        first one.
    """
    leaves, definition = jax.tree_util.tree_flatten_with_path(tree)
    expected = {path_name(path): leaf for path, leaf in leaves}

    def refuse(name: str, in_config: str, in_checkpoint: str) -> None:
        raise UserError(
            f"{source} belongs to another architecture: {name} is {in_checkpoint} there and "
            f"{in_config} in this config; use the config it was made with, or another workdir"
        )

    for name, leaf in expected.items():
        in_config = f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        if name not in flat:
            refuse(name, in_config, "absent")
        in_checkpoint = f"{flat[name].dtype.name}{list(flat[name].shape)}"
        if in_config != in_checkpoint:
            refuse(name, in_config, in_checkpoint)
    for name in flat:
        if name not in expected:
            refuse(name, "absent", f"{flat[name].dtype.name}{list(flat[name].shape)}")
    return jax.tree_util.tree_unflatten(definition, [flat[name] for name in expected])
