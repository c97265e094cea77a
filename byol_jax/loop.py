"""The training loop: batches in, steps, saves and logs out. One loop for every kind of training.

It knows a state by two fields: `step`, the number of finished updates, and `finite`, whether every
step so far was. Once a step is not finite its state stays the last good one.
"""

import contextlib
import logging
import math
import pathlib
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from byol_jax.errors import Collapsed, Diverged, Stopped
from byol_jax.runtime import checkpoints, interrupts, processes, spmd

_logger = logging.getLogger(__name__)

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
      save_minutes: minutes after which a checkpoint is due, too.
    """

    start: int
    end: int
    log_every: int
    save_every: int
    save_minutes: float = math.inf


class Due(NamedTuple):
    """Work between steps.

    Attributes:
      before: `before(step, state) -> state`, called before update number `step` + 1 starts, thus
        after `step` was saved if it was, and again when a run starts at `step`. It must be a pure
        function of the saved state and the step.
      after: `after(step, state)`, called once update number `step` is done.
      traced: `traced(step, outputs)`, called with some output of each step as it is started.
      ends: why the run is to end, or nothing; asked behind each step, and has to be quick.
    """

    before: Callable[[int, Any], Any] = lambda step, state: state
    after: Callable[[int, Any], None] = lambda step, state: None
    traced: Callable[[int, Any], None] = lambda step, outputs: None
    ends: Callable[[], str] = lambda: ""


NOTHING = Due()


class Saving(NamedTuple):
    """Where and how states are saved.

    Attributes:
      to: saver of the first process, None on the others.
      record: what is saved beside the arrays.
      place: what messages call the folder.
      explain: `explain(step, state, saved)`, called on the first process once update number `step`
        is known not to be finite, with host arrays of the last good state and the newest step that
        is saved, 0 if none is: what was not finite, and what a user may do about it.
    """

    to: checkpoints.Saver | None
    record: Mapping[str, Any]
    place: str
    explain: Callable[[int, Any, int], str]


_AFTER_STEP = "ends after this step and saves"


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
    limit, agreement = spmd.limit_ahead(), processes.Agreement()
    saved_at = time.monotonic()
    where = f", and step {span.start} is saved" if span.start else ""
    with interrupts.signals(f"ends now: no step is done yet{where}", False) as signal_number:
        try:
            for batch in batches:
                with jax.profiler.StepTraceAnnotation("step", step_num=done + 1):
                    state, logs = step(_before(due, done, state), batch)
                done += 1
                interrupts.enter(_AFTER_STEP, polled=True)
                limit(logs)
                due.traced(done, logs)
                if show and late:
                    finite = _show(show, *late, per_device)
                is_logged = done % span.log_every == 0 or done in (span.start + 1, span.end)
                late = (done, logs) if is_logged else None
                wants_to_end = bool(signal_number() or due.ends()) or not finite
                is_stopping = agreement.ask(done, wants_to_end)
                if is_stopping:
                    break
                if _is_due(done, span, saving, saved_at):
                    finite = save(saving, state)
                    saved_at = time.monotonic()
                if not signal_number():
                    _after(due, done, state)
            if show and late:
                _show(show, *late, per_device)
        except BaseException:
            if done > span.start:
                _rescue(saving, state)
            raise
        if done > span.start:
            interrupts.enter("ends once the state is saved", polled=True)
            _end(state, saving, due.ends() if is_stopping else "", is_stopping, signal_number)
    return state


def _is_due(done: int, span: Span, saving: Saving, saved_at: float) -> bool:
    """Whether a state is saved behind update number `done`; the end of a run saves its own."""
    if done >= span.end:
        return False
    # The first process alone saves, so the others need not know the time.
    is_late = saving.to is not None and time.monotonic() - saved_at >= 60 * span.save_minutes
    return done % span.save_every == 0 or is_late


def _before(due: Due, done: int, state: State) -> State:
    """Makes anew what is due; alone a process need not wait for the end of it after a signal."""
    if jax.process_count() > 1 or not interrupts.is_polled():
        fresh: State = due.before(done, state)
        return fresh
    with interrupts.during("ends now, and saves", keeps=True):
        fresh = due.before(done, state)
    return fresh


def _after(due: Due, done: int, state: Any) -> None:
    """Measures what is due; a signal ends it.

    The next step still runs then, as it does in processes that have nothing to measure.
    """
    with contextlib.suppress(interrupts.Interrupted), interrupts.during(_AFTER_STEP, keeps=True):
        due.after(done, state)


def _rescue(saving: Saving, state: Any) -> None:
    """Saves the last good state while an error ends the loop, which is what counts.

    No collective here, since other processes may be elsewhere; and a step that failed may have used
    the state up.
    """
    with contextlib.suppress(Exception):
        interrupts.enter("ends once the state is saved", polled=True)
        step = int(spmd.to_host(state.step))
        save(saving, state)
        checkpoints.finish(saving.to)
        if saving.to is not None and step in checkpoints.steps(pathlib.Path(saving.place)):
            _logger.warning("step %d is saved in %s/%d", step, saving.place, step)


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

    It waits for the step that made the state, and so for that step's verdict on itself. A state
    with a number that is not finite is never saved, and neither is one of step 0, which a run
    draws again.
    """
    finite = bool(spmd.to_host(state.finite))
    if saving.to is None:
        return finite
    host = spmd.to_host(state)
    if not_finite(host):
        return False
    if not int(host.step):
        return finite
    good = host._replace(finite=np.ones((), bool))
    checkpoints.save(saving.to, int(host.step), good, dict(saving.record))
    return finite


def not_finite(tree: Any) -> list[str]:
    """Paths of the arrays on the host that have numbers which are not finite."""
    return [
        name
        for name, array in checkpoints.flatten(tree).items()
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all()
    ]


def _end(
    state: Any,
    saving: Saving,
    reason: str,
    is_stopping: bool,
    signal_number: Callable[[], int],
) -> None:
    """Saves the state, and says why a run ended early.

    Args:
      state: the last one.
      saving: where it goes.
      reason: of `Due.ends`, if that ended the run.
      is_stopping: whether the processes have agreed to end.
      signal_number: see `interrupts.signals`.
    """
    finite = save(saving, state)
    checkpoints.finish(saving.to)
    step = int(spmd.to_host(state.step))
    if processes.any_process(not finite):
        raise Diverged(_diverged(saving, step, state))
    if processes.any_process(bool(reason)):
        raise Collapsed(
            f"{reason or 'see the first process'}; step {step} is saved in {saving.place}/{step}: "
            "give other settings in another --workdir, or --config.stop_on_collapse=False to go on"
        )
    # Asked for last: one may have come while the state was saved.
    number = signal_number() or is_stopping * signal.SIGTERM
    if number:
        raise Stopped(
            number,
            f"stopped by {signal.Signals(number).name}: saved in {saving.place}/{step}; the same "
            "command goes on from there",
        )


def _diverged(saving: Saving, step: int, state: Any) -> str:
    """What was not finite, what is saved, and what a user may do."""
    if saving.to is None:
        return f"step {step + 1} is not finite: the first process says more"
    host = spmd.to_host(state)
    saved = max(checkpoints.steps(pathlib.Path(saving.place)), default=0)
    what = saving.explain(step + 1, host, saved)
    stands = f"the newest checkpoint is {saving.place}/{saved}" if saved else "nothing is saved"
    if spoilt := not_finite(host):
        return (
            f"the state behind step {step} is not finite, first in {spoilt[0]}, and is not saved: "
            f"{stands}; {what}"
        )
    if not step:
        return f"step 1 is not finite: {stands}; {what}"
    return (
        f"step {step + 1} is not finite: the state before it is saved in {saving.place}/{step}; "
        f"{what}"
    )
