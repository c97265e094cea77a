"""Checkpoints of any pytree: saved through orbax in the background, verified when read.

A step is one folder, renamed into place when it is complete. It holds the arrays as a flat mapping
from path to array, and a JSON record with the shape, type and checksum of each array and the
entries that the caller adds (config, number of classes). Arrays are host copies of one replica:
orbax refuses the outputs of a pmap over several processes.

If there are several processes, the first one saves and each one reads for itself. Orbax is told
that it works in a single process: its own barriers would hang where only some processes reach them.

A run may be at work in the folder that is read: it adds steps and deletes old ones, file by file. A
step that cannot be read is damaged only if it is still there, and no newer one has come.
"""

import concurrent.futures
import contextlib
import functools
import logging
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax.errors import UserError
from byol_jax.runtime import disk, paths, processes, stored_step
from byol_jax.runtime.stored_step import Record, UnreadableError

_logger = logging.getLogger(__name__)

PyTree = Any

# Seconds for which the files of an old step must stay as they are to count as damaged, not as being
# deleted.
_PATIENCE = 1.0


class DamagedError(UserError):
    """A step is there, and cannot be read."""


class RemovedError(UserError):
    """A step was there, and its run has deleted it."""


def path_name(path: tuple[Any, ...]) -> str:
    """`a/b/c` for the key path of a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path name, as host arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


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


def saver(directory: pathlib.Path, keep: int | None, after: int | None = None) -> Saver | None:
    """A saver to `directory/STEP/` on the first process, None on all other processes.

    Args:
      directory: folder of the checkpoints; it is made if it does not exist.
      keep: number of steps to keep, the newest ones; None keeps all.
      after: the step that a training goes on from. Later ones, which it could not read, are moved
        aside, since it will save steps of these numbers.
    """
    if not processes.is_first_process():
        return None
    with disk.writing(directory, "nothing is trained"):
        directory.mkdir(parents=True, exist_ok=True)
        if after is not None:
            _set_aside(directory, after)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        enable_async_checkpointing=True,
        multiprocessing_options=stored_step.alone(),
    )
    manager = ocp.CheckpointManager(directory.absolute(), options=options)
    worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
    return Saver(manager, worker, [])


def _set_aside(directory: pathlib.Path, after: int) -> None:
    """Renames steps later than `after`, and step 0, to `STEP.damaged`.

    Nothing reads or deletes a folder of that name.
    """
    for step in steps(directory):
        if step > after or not step:
            target, copies = directory / f"{step}.damaged", 1
            while target.exists():
                copies += 1
                target = directory / f"{step}.damaged-{copies}"
            (directory / str(step)).rename(target)
            _logger.warning("moved %s to %s", directory / str(step), target.name)


def save(to: Saver | None, step: int, tree: PyTree, record: Record) -> None:
    """Starts saving and returns; checksums and files are written in the background.

    Args:
      to: the saver; None saves nothing.
      step: number of finished updates, so that no step runs twice after a resume. A step that was
        saved before stays as it is.
      tree: host arrays of one replica; the caller must not change them afterwards.
      record: JSON-compatible entries of the record; `step`, `arrays` and a checksum of
        the record are added.

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
    arrays = {name: stored_step.describe(array) for name, array in flat.items()}
    record = stored_step.sealed({**record, "step": step, "arrays": arrays})
    with disk.writing(manager.directory):
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
        with disk.writing(to.manager.directory):
            to.manager.wait_until_finished()


def close(to: Saver | None) -> None:
    """Waits for all saves, then releases the saver's threads."""
    if to is not None:
        to.worker.shutdown()
        with disk.writing(to.manager.directory):
            to.manager.close()


def workdir_of(path: str | pathlib.Path) -> pathlib.Path:
    """The workdir of a run, from itself, its `checkpoints`, or one step of them."""
    folder = paths.outside(path, "config.checkpoint")
    if folder.name.isdigit() and folder.parent.name == "checkpoints":
        folder = folder.parent
    return folder.parent if folder.name == "checkpoints" else folder


def steps(directory: pathlib.Path) -> list[int]:
    """The complete steps in a checkpoint folder, in ascending order; may be empty.

    Raises:
      UserError: the folder is there and cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read here: {error.strerror}") from error
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def verified_record(directory: pathlib.Path, step: int) -> Record:
    """The record of a step, or an `UnreadableError`, which says nothing about the other steps."""
    record = stored_step.read_record(directory / str(step))
    if stored_step.CHECKSUM not in record:
        log_once(
            logging.INFO,
            f"{directory} holds steps of an earlier version, whose records have no checksum: read "
            "without one",
        )
    return record


def verified(directory: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], Record]:
    """Arrays and record of a step, or an `UnreadableError`, as above."""
    record = verified_record(directory, step)
    return stored_step.read_arrays(directory / str(step), record), record


@functools.cache
def log_once(level: int, message: str) -> None:
    """Logs a message that one process needs to say once."""
    if processes.is_first_process():
        _logger.log(level, "%s", message)


def read_record(directory: pathlib.Path, step: int) -> Record:
    """The JSON record that was saved with the arrays of a step.

    Raises:
      DamagedError: it cannot be read, or is that of another step.
      RemovedError: its run has deleted it.
      UserError: the files cannot be opened.
    """
    with _explained(directory, step):
        return verified_record(directory, step)


def read(directory: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], Record]:
    """All arrays of a step by path name, and its record.

    Raises:
      DamagedError: one of them is missing, or differs from its checksum.
      RemovedError: its run has deleted it.
      UserError: the files cannot be opened, or memory is short.
    """
    with _explained(directory, step):
        return verified(directory, step)


@contextlib.contextmanager
def _explained(directory: pathlib.Path, step: int) -> Iterator[None]:
    """Says what it means that a step cannot be read, and what to do."""
    try:
        yield
    except UnreadableError as error:
        if _is_removed(directory, step):
            raise RemovedError(
                f"checkpoint {directory / str(step)} was removed by its run, which keeps the "
                f"newest ones alone: the newest is {steps(directory)[-1]}"
            ) from error
        raise refusal(directory, step, error) from error


def _is_removed(directory: pathlib.Path, step: int) -> bool:
    """Whether a step is gone, or on its way: it is not the newest, and its files become fewer."""
    folder, before = directory / str(step), None
    while steps(directory)[-1:] > [step]:
        if not folder.exists():
            return True
        now = sorted(map(str, folder.rglob("*")))
        if now == before:
            return False
        before, deadline = now, time.monotonic() + _PATIENCE
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(_PATIENCE / 20)
    return False


def refusal(directory: pathlib.Path, step: int, error: UnreadableError) -> UserError:
    """What a user is told of a step that cannot be read."""
    folder = directory / str(step)
    if not folder.exists():
        others = steps(directory)
        known = f"the newest is {others[-1]}" if others else "there is none"
        return RemovedError(f"checkpoint {folder} does not exist: {known} in {directory}")
    if not error.is_damaged:
        return UserError(
            f"checkpoint {folder} cannot be read here ({error.reason}): let this user read it, and "
            "leave it enough memory and open files"
        )
    earlier = _earlier(directory, step)
    remedy = (
        f"move that folder away to continue from step {earlier} (a training does so by itself with "
        "--config.skip_damaged=True)"
        if earlier is not None
        else "there is no earlier checkpoint, so use another workdir to start again"
    )
    return DamagedError(f"checkpoint {folder} is damaged ({error.reason}): {remedy}")


def _earlier(directory: pathlib.Path, step: int) -> int | None:
    """The newest step before another one whose record can be read."""
    for earlier in reversed(steps(directory)):
        if earlier < step:
            with contextlib.suppress(UnreadableError):
                stored_step.read_record(directory / str(earlier))
                return earlier
    return None


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
