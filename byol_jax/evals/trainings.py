"""A training of an evaluation: where it is kept, how it goes on, and its loop."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from byol_jax import loop
from byol_jax.data import background, images, pipeline
from byol_jax.errors import require
from byol_jax.runtime import checkpoints, metrics, newest, processes, spmd

# Checkpoints of a training: the newest, and one to go back to where that is damaged.
_KEPT = 2

State = TypeVar("State", bound=Any)
# Logs of a step as host arrays -> the text of the progress line, and the values of a line of
# `metrics.jsonl`.
Line = Callable[[Mapping[str, np.ndarray]], tuple[str, dict[str, float]]]


class Place(NamedTuple):
    """Where a training is kept, and what it is called.

    Attributes:
      directory: folder for `checkpoints/`, from which the training goes on by itself, and for
        `metrics.jsonl`.
      identity: values that tell this training from others in the same folder.
      description: text in front of the progress line.
      log_every: steps from one line of `metrics.jsonl` to the next.
      checkpoint_every: steps from one checkpoint to the next.
      skip_damaged: whether a damaged checkpoint is passed over for an earlier one.
    """

    directory: pathlib.Path
    identity: Mapping[str, Any]
    description: str
    log_every: int = 50
    checkpoint_every: int = 1000
    skip_damaged: bool = False


class Training(NamedTuple):
    """What `run` needs to know of a training beside its state.

    Attributes:
      end: number of its steps.
      batch_size: images per step, over all devices and processes.
      record: all that decides its result, saved beside the arrays; `data` is the fingerprint of the
        images.
      begin: from the number of finished steps to the mapped update and this process's batches from
        there on; not called where nothing is left to do.
      line: what is shown of a step.
      hint: what a user may do where a number is not finite.
      micro_batches: parts of a batch on each device.
      prefetch: batches that are sent to the devices ahead.
      upgrade: gives the arrays of earlier versions today's names.
    """

    end: int
    batch_size: int
    record: Mapping[str, Any]
    begin: Callable[[int], tuple[loop.Step[Any], background.Batches]]
    line: Line
    hint: str
    micro_batches: int = 1
    prefetch: int = 2
    upgrade: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda flat: flat


def steps_of(num_steps: int | None, num_epochs: float, num_examples: int, batch_size: int) -> int:
    """The length of a training: a number of steps, or else of epochs.

    Raises:
      UserError: the epochs do not make a single batch.
    """
    steps = num_steps or pipeline.steps_for(num_epochs, num_examples, batch_size)
    require(
        steps,
        f"{num_epochs:g} epochs of {num_examples} images are less than one batch of "
        f"{batch_size}: lower config.batch_size",
    )
    return steps


def run(state: State, training: Training, place: Place) -> State:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
      state: the state before the first step, with the fields `step` and `finite`.
      training: the steps.
      place: where the training is kept.

    Returns:
      The final state on the host.

    Raises:
      UserError: what the pipeline refuses; a folder that holds another training.
      Diverged: numbers that are not finite, with the last good state saved.
      Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    directory = place.directory / "checkpoints"
    # On the host from here on: the devices hold the replicas alone.
    state = _restore(place, jax.device_get(state), training)
    start, end = int(state.step), training.end
    data = training.record["data"]
    processes.require_same(
        {f"the newest checkpoint in {place.directory}": start}
        | {f"{name} of the training images": value for name, value in data.items()}
    )
    if start == end:
        return state
    step, batches = training.begin(start)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(batches))
        saver = checkpoints.saver(directory, _KEPT, start)
        stack.callback(checkpoints.close, saver)
        show = None
        if processes.is_first_process():
            writer = stack.enter_context(contextlib.closing(metrics.Writer(place.directory, start)))
            progress = metrics.Progress(end * training.batch_size, place.description)
            stack.enter_context(contextlib.closing(progress))
            show = _display(writer, progress, training)
        replicas = loop.run(
            step,
            spmd.replicate(state),
            spmd.prefetch(batches, training.micro_batches, training.prefetch),
            loop.Span(start, end, place.log_every, place.checkpoint_every),
            saving=loop.Saving(saver, training.record, str(directory), lambda *_: training.hint),
            show=show,
        )
        final: State = spmd.to_host(replicas)
    return final


def check_place(place: Place, record: Mapping[str, Any]) -> None:
    """Refuses a folder that holds another training; reads no array.

    Args:
      place: the folder.
      record: as in `Training`.

    Raises:
      UserError: names the first value that differs.
    """
    directory = place.directory / "checkpoints"
    step = newest.to_continue(directory, place.skip_damaged)
    if step:
        _require_same(directory, checkpoints.read_record(directory, step), record)


def _restore(place: Place, state: State, training: Training) -> State:
    """The newest state of a folder, or the given one, on the host.

    Raises:
      UserError: the folder holds another training.
    """
    directory = place.directory / "checkpoints"
    step = newest.to_continue(directory, place.skip_damaged)
    if not step:
        return state
    flat, saved = checkpoints.read(directory, step)
    _require_same(directory, saved, training.record)
    filled: State = checkpoints.fill(
        state, training.upgrade(flat), f"checkpoint {directory / str(step)}"
    )
    return filled


def _require_same(
    directory: pathlib.Path, saved: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    # A setting says more than the images that it leads to.
    for key in record:
        require(
            key == "data" or saved.get(key) == record[key],
            f"{directory} holds a training with {key}={saved.get(key)}, this one has "
            f"{key}={record[key]}: give another --workdir, or move that folder away",
        )
    # Records of earlier versions do not say which images they are of.
    other = images.difference(saved["data"], record["data"]) if "data" in saved else ""
    require(
        not other,
        f"{directory} holds a training on other images, these are {other}: give another "
        "--workdir, or move that folder away",
    )


def _display(
    writer: metrics.Writer, progress: metrics.Progress, training: Training
) -> Callable[[int, Mapping[str, np.ndarray]], None]:
    def show(done: int, logs: Mapping[str, np.ndarray]) -> None:
        text, values = training.line(logs)
        progress.advance(done * training.batch_size, f"step {done} {text}")
        writer.write(done, "train", values)

    return show


def checked(
    batches: background.Batches, check: Callable[[Mapping[str, np.ndarray]], None]
) -> background.Batches:
    """Batches, each after a check of it, which raises `UserError`; closing it closes them."""
    with contextlib.closing(batches):
        for batch in batches:
            check(batch)
            yield batch
