"""Which step of a checkpoint folder counts: the newest that is whole, of the run that owns it.

A reader takes the newest step of a folder in which a run may be at work. A training takes the step
that it goes on from. Both refuse a folder that holds steps of two runs.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Callable
from typing import TypeVar

from byol_jax.errors import UserError, require
from byol_jax.runtime import checkpoints, processes, stored_step
from byol_jax.runtime.stored_step import UnreadableError

T = TypeVar("T")

# Looks at a folder whose newest step is replaced while it is read.
_LOOKS = 100


def read(directory: pathlib.Path, reader: Callable[[pathlib.Path, int], T]) -> tuple[int, T] | None:
    """The newest step of a folder in which a run may be at work.

    Args:
      directory: folder of the checkpoints.
      reader: `checkpoints.read`, `checkpoints.read_record`, or what calls one of them.

    Returns:
      The step, and what `reader` gave for it; None if there is none.

    Raises:
      DamagedError: the newest step cannot be read.
      UserError: there are steps of several runs; or steps are replaced faster than they are read.
    """
    for _ in range(_LOOKS):
        newest = checkpoints.steps(directory)[-1:]
        if not newest:
            return None
        try:
            require_one_run(directory)
            return newest[0], reader(directory, newest[0])
        except (checkpoints.DamagedError, checkpoints.RemovedError):
            if checkpoints.steps(directory)[-1:] == newest:
                raise
    raise UserError(
        f"{directory}: its run deletes each step before it is read: give the run a larger "
        "config.keep_checkpoints or config.checkpoint_every, or read a copy"
    )


def require_one_run(directory: pathlib.Path) -> None:
    """Refuses a folder into which a checkpoint of another run was copied.

    A run has an identity, which the record of each of its steps carries (`new_run`). Steps of
    earlier versions have none, and belong to any run. The first step and the last two are looked
    at.

    Raises:
      UserError: names one step of each of two runs.
    """
    owners: dict[str, int] = {}
    found = checkpoints.steps(directory)
    # A folder may hold a thousand steps, and a reader looks at it again and again.
    for step in sorted({*found[:1], *found[-2:]}):
        with contextlib.suppress(UnreadableError):
            run = stored_step.read_record(directory / str(step)).get("run")
            if run is not None:
                owners.setdefault(str(run), step)
    several = " and ".join(map(str, owners.values()))
    require(
        len(owners) < 2,
        f"{directory} holds steps of {len(owners)} runs, such as {several}: move those of another "
        "run away, or give each run a folder of its own",
    )


def new_run() -> str:
    """An identity for a run that starts; it enters no number."""
    return os.urandom(8).hex()


def to_continue(directory: pathlib.Path, skip_damaged: bool) -> int:
    """The step that a training goes on from; all processes must call it together.

    Args:
      directory: folder of the checkpoints, whose lock the training holds.
      skip_damaged: whether a step that any process cannot read is passed over, for the newest one
        that all of them can read.

    Returns:
      0 if there is no checkpoint of a later step at all, and only then.

    Raises:
      UserError: there are steps of several runs; or none of them can be read.
    """
    # A state of step 0 is what a run draws; earlier versions saved one that diverged there.
    found = [step for step in checkpoints.steps(directory) if step]
    if skip_damaged:
        processes.require_same({f"checkpoints in {directory}": found})
    if not found:
        return 0
    require_one_run(directory)
    if not skip_damaged:
        return found[-1]
    reasons: dict[int, str] = {}
    for step in reversed(found):
        reason = _damage(directory, step)
        if reason is None:
            for damaged, why in reasons.items():
                checkpoints.log_once(
                    logging.WARNING,
                    f"checkpoint {directory / str(damaged)} is damaged ({why}): the training goes "
                    f"on from step {step}",
                )
            return step
        reasons[step] = reason
    raise checkpoints.DamagedError(
        f"no checkpoint in {directory} can be read, {found[-1]} for this reason: "
        f"{reasons[found[-1]]}; config.skip_damaged=True never starts again from step 0: use "
        "another workdir for that"
    )


def _damage(directory: pathlib.Path, step: int) -> str | None:
    """Why some process cannot read a step whole; None if all can."""
    reason = ""
    with processes.together():
        try:
            checkpoints.verified(directory, step)
        except UnreadableError as error:
            if not error.is_damaged:
                raise checkpoints.refusal(directory, step, error) from error
            reason = error.reason
    return next(filter(None, processes.gather_texts(reason)), None)
