"""The training loop: batches in, steps, saves and logs out. One loop for every kind of training.

It knows a state by two fields: `step`, the number of finished updates, and `finite`, whether every
step so far was. Once a step is not finite its state stays the last good one.
"""

import contextlib
import signal
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from byol_jax.errors import Diverged, Stopped
from byol_jax.runtime import checkpoints, interrupts, processes, spmd

State = TypeVar("State", bound=Any)
Logs = Mapping[str, jax.Array]
# From a state and a batch on the devices, each with a leading device axis; uses the state up.
Step = Callable[[State, Any], tuple[State, Logs]]


class Span(NamedTuple):
    """The steps of a run, counted in finished updates.

    Attributes:
      start: number of updates that are done before it.
      end: number of updates that are done after it.
      log_every: steps from one shown log to the next; the first and the last step are shown too.
      save_every: steps from one checkpoint to the next; the end is saved too.
    """

    start: int
    end: int
    log_every: int
    save_every: int


class Due(NamedTuple):
    """Work between steps.

    Attributes:
      before: `before(step, state) -> state`, called before update number `step` + 1 starts, thus
        after `step` was saved if it was, and again when a run starts at `step`. It must be a pure
        function of the saved state and the step.
      after: `after(step, state)`, called once update number `step` is done.
      traced: `traced(step, outputs)`, called with some output of each step as it is started.
    """

    before: Callable[[int, Any], Any] = lambda step, state: state
    after: Callable[[int, Any], None] = lambda step, state: None
    traced: Callable[[int, Any], None] = lambda step, outputs: None


NOTHING = Due()


class Saving(NamedTuple):
    """Where and how states are saved.

    Attributes:
      to: saver of the first process, None on the others.
      record: what is saved beside the arrays.
      place: what messages call the folder.
      hint: what a user may do about numbers that are not finite.
    """

    to: checkpoints.Saver | None
    record: Mapping[str, Any]
    place: str
    hint: str


def run(
    step: Step[State],
    state: State,
    batches: Iterable[Any],
    span: Span,
    *,
    saving: Saving,
    show: Callable[[int, Mapping[str, np.ndarray]], None] | None,
    due: Due = NOTHING,
    per_device: Collection[str] = (),
) -> State:
    """Trains from `span.start` to `span.end`, or until a signal, a guard or an error ends it.

    Whatever ends it, the last good state is saved first. Logs are fetched one step late, while the
    next step is already running, so that the host never waits for the step it has just started.

    Args:
      step, state: the mapped update, and a replica of the state on each local device.
      batches: on the devices; at most `span.end - span.start` of them.
      span, saving, due: which steps, where states go, and the work between steps.
      show: `show(step, logs)`, called with the logs of one replica; None on processes that do not
        write.
      per_device: names of logs that hold other rows on each device. `show` gets those of all local
        devices.

    Returns:
      The state after the last step.

    Raises:
      Diverged: a number is not finite.
      Stopped: after SIGINT or SIGTERM on any process.
    """
    done, finite, is_stopping = span.start, True, False
    late: tuple[int, Logs] | None = None
    limit = spmd.limit_ahead()
    with interrupts.signals() as signal_number:
        try:
            for batch in batches:
                with jax.profiler.StepTraceAnnotation("step", step_num=done + 1):
                    state, logs = step(due.before(done, state), batch)
                done += 1
                limit(logs)
                due.traced(done, logs)
                if show and late:
                    finite = _show(show, *late, per_device)
                is_logged = done % span.log_every == 0 or done in (span.start + 1, span.end)
                late = (done, logs) if is_logged else None
                if jax.process_count() == 1 or is_logged:
                    is_stopping = processes.any_process(bool(signal_number()) or not finite)
                if is_stopping:
                    break
                if done % span.save_every == 0 and done < span.end:
                    finite = save(saving, state)
                due.after(done, state)
            if show and late:
                _show(show, *late, per_device)
        except Exception:
            # The error is what counts. No collective here, since other processes may be elsewhere;
            # and a step that failed may have used the state up.
            with contextlib.suppress(Exception):
                if done > span.start:
                    save(saving, state)
                    checkpoints.finish(saving.to)
            raise
        if done > span.start:
            _end(state, saving, is_stopping, signal_number)
    return state


def _show(
    show: Callable[[int, Mapping[str, np.ndarray]], None],
    done: int,
    logs: Logs,
    per_device: Collection[str],
) -> bool:
    """Fetches and shows the logs of update number `done`; returns whether it was finite."""
    values = {
        name: spmd.local_rows(value) if name in per_device else spmd.to_host(value)
        for name, value in logs.items()
    }
    finite = bool(values.pop("finite"))
    show(done, values)
    return finite


def save(saving: Saving, state: Any) -> bool:
    """Starts saving the last good state; returns whether that is the current one.

    It waits for the step that made the state, and so for that step's verdict on itself.
    """
    finite = bool(spmd.to_host(state.finite))
    if saving.to is not None:
        host = spmd.to_host(state)
        good = host._replace(finite=np.ones((), bool))
        checkpoints.save(saving.to, int(host.step), good, dict(saving.record))
    return finite


def _end(state: Any, saving: Saving, is_stopping: bool, signal_number: Callable[[], int]) -> None:
    """Saves the state, and says why a run ended early."""
    finite = save(saving, state)
    checkpoints.finish(saving.to)
    processes.wait_for_all()
    step = int(spmd.to_host(state.step))
    if not finite:
        raise Diverged(
            f"a loss or an update of step {step + 1} is not finite: the state before it is saved "
            f"in {saving.place}/{step}; {saving.hint}"
        )
    # Asked for last: one may have come while the state was saved.
    number = signal_number() or is_stopping * signal.SIGTERM
    if number:
        raise Stopped(
            number,
            f"stopped by {signal.Signals(number).name}: saved in {saving.place}/{step}; the same "
            "command goes on from there",
        )
