"""The training loop, on a state of one number: what it shows, saves, and does when it ends."""

import functools
import math
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import loop
from byol_jax.errors import Collapsed, Diverged, Stopped, UserError
from byol_jax.runtime import checkpoints, interrupts, spmd


class State(NamedTuple):
    step: jax.Array
    total: jax.Array
    finite: jax.Array


@functools.cache
def mapped() -> Any:
    """Adds the batch; a NaN is not added, and nothing after it."""

    def step(state: State, batch: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        total = state.total + jnp.sum(batch)
        finite = state.finite & jnp.isfinite(total)
        new = State(state.step + 1, total, finite)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return kept._replace(finite=finite), {"total": total, "finite": finite}

    return spmd.pmap(step, donate_argnums=(0,), devices=jax.local_devices()[:1])


def explain(step: int, state: State, saved: int) -> str:
    return f"{step} after {float(state.total)}, saved {saved}"


class Run:
    """A run of the loop in a folder: it goes on from what is there."""

    def __init__(self, folder: pathlib.Path, end: int = 6, save_every: int = 100):
        self.folder, self.end, self.save_every = folder, end, save_every
        self.shown: list[tuple[int, float]] = []
        self.done: list[Any] = []

    def show(self, step: int, logs: Any) -> None:
        """Keeps what is shown."""
        self.shown.append((step, float(logs["total"])))

    def saved(self) -> dict[int, float]:
        """The number saved at each step."""
        return {
            step: float(checkpoints.read(self.folder, step)[0]["total"])
            for step in checkpoints.steps(self.folder)
        }

    def __call__(
        self,
        values: Iterator[float] | None = None,
        due: loop.Due = loop.NOTHING,
        minutes: float = math.inf,
    ) -> Any:
        """Adds 1, 2, ... or the given values; returns the last state."""
        start = max(checkpoints.steps(self.folder), default=0)
        state = State(np.int32(start), np.float32(self.saved().get(start, 0)), np.ones((), bool))
        given = values if values is not None else iter(range(start + 1, self.end + 1))
        devices = jax.local_devices()[:1]
        saver = checkpoints.saver(self.folder, None)
        try:
            final = loop.run(
                mapped(),
                spmd.replicate(state, devices),
                (spmd.shard(np.full(1, v, np.float32), devices=devices) for v in given),
                loop.Span(start, self.end, 2, self.save_every, save_minutes=minutes),
                saving=loop.Saving(saver, {"config": {}}, str(self.folder), explain),
                show=self.show,
                due=due,
            )
        finally:
            checkpoints.close(saver)
        return spmd.to_host(final)


def test_it_shows_and_saves(tmp_path):
    run = Run(tmp_path / "checkpoints", end=5, save_every=2)
    assert float(run().total) == 15
    # The first step, every second one, and the last.
    assert run.shown == [(1, 1), (2, 3), (4, 10), (5, 15)]
    assert run.saved() == {2: 3, 4: 10, 5: 15}


def test_work_between_steps_goes_on_where_it_stopped(tmp_path):
    """`before` of a step runs again when a run starts there; what is saved does not have it."""

    def due(calls: list[Any]) -> loop.Due:
        def before(step: int, state: State) -> State:
            calls.append(("before", step))
            return state._replace(total=state.total + 100) if step % 2 == 0 else state

        return loop.Due(before=before, after=lambda step, state: calls.append(("after", step)))

    whole: list[Any] = []
    run = Run(tmp_path / "whole", end=4)
    run(due=due(whole))
    assert whole == [(k, s + (k == "after")) for s in range(4) for k in ("before", "after")]
    assert run.saved() == {4: 210}

    stopped = Run(tmp_path / "stopped", end=2)
    stopped(due=due([]))
    assert stopped.saved() == {2: 103}
    again: list[Any] = []
    Run(tmp_path / "stopped", end=4)(due=due(again))
    assert again[0] == ("before", 2)
    assert Run(tmp_path / "stopped").saved() == {2: 103, 4: 210}


def test_a_number_that_is_not_finite_ends_it_with_the_last_good_state(tmp_path):
    run = Run(tmp_path / "checkpoints")
    with pytest.raises(Diverged, match=r"step 4 is not .*checkpoints/3; 4 after 6.0, saved 3"):
        run(iter([1.0, 2, 3, np.nan, 5, 6]))
    assert run.saved() == {3: 6}


@pytest.mark.parametrize("error", [UserError("a disk that went away"), OSError("no such file")])
def test_an_error_of_the_input_loses_no_step(tmp_path, error):
    def values() -> Iterator[float]:
        yield from (1, 2, 3)
        raise error

    run = Run(tmp_path / "checkpoints")
    with pytest.raises(type(error), match=str(error)):
        run(values())
    assert run.saved() == {3: 6}
    assert float(run().total) == 21


def test_a_signal_ends_it_between_two_steps(tmp_path):
    def values() -> Iterator[float]:
        for value in range(1, 7):
            if value == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield value

    run = Run(tmp_path / "checkpoints")
    with pytest.raises(Stopped, match=r"SIGTERM.*checkpoints/3") as caught:
        run(values())
    assert caught.value.number == signal.SIGTERM
    assert run.saved() == {3: 6}
    assert float(run().total) == 21


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("where", ["after", "show"])
def test_an_error_between_two_steps_loses_no_step(tmp_path, error, where):
    run = Run(tmp_path / "checkpoints")

    def fail(step: int, _: Any) -> None:
        if step == 2:
            raise error

    if where == "show":  # of step 2, while step 3 runs
        run.show = fail  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        run(due=loop.Due(after=fail) if where == "after" else loop.NOTHING)
    assert run.saved() == ({2: 3} if where == "after" else {3: 6})
    assert float(Run(run.folder)().total) == 21


def test_a_signal_ends_a_measurement_between_two_steps_and_the_run_saves(tmp_path):
    run = Run(tmp_path / "checkpoints")
    reached = []

    def measure(step: int, state: State) -> None:
        reached.append(step)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
            reached.append("behind the signal")

    with pytest.raises(Stopped, match=r"SIGTERM.*checkpoints/3"):
        run(due=loop.Due(after=measure))
    # The next step runs, as in processes that measure nothing.
    assert reached == [1, 2]
    assert run.saved() == {3: 6}


def test_a_signal_before_the_first_step_saves_nothing(tmp_path):
    def values() -> Iterator[float]:
        signal.raise_signal(signal.SIGINT)
        yield 1.0

    run = Run(tmp_path / "checkpoints")
    with pytest.raises(interrupts.Interrupted) as caught:
        run(values())
    assert caught.value.number == signal.SIGINT
    assert run.saved() == {}


def test_a_checkpoint_is_due_after_some_minutes(tmp_path, monkeypatch):
    """Steps of 40 seconds, by a clock that only they move; a save each 1.5 minutes."""
    now = [1000.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def values() -> Iterator[float]:
        for value in range(1, 9):
            now[0] += 40
            yield value

    run = Run(tmp_path / "checkpoints", end=8, save_every=5)
    run(values(), minutes=1.5)
    # After 120 s; at step 5, as always; 120 s behind that is the end.
    assert list(run.saved()) == [3, 5, 8]
    other = Run(tmp_path / "other", end=8, save_every=5)
    other(values())
    assert other.saved() == {5: 15, 8: 36}


def test_a_reason_to_end_saves_and_says_it(tmp_path):
    run = Run(tmp_path / "checkpoints")
    due = loop.Due(ends=lambda: "collapsed: a reason" if len(run.shown) > 1 else "")
    with pytest.raises(
        Collapsed, match=r"collapsed: a reason; step 3 is saved in \S+checkpoints/3"
    ):
        run(due=due)
    assert run.saved() == {3: 6}


def test_nothing_is_saved_of_a_run_that_fails_in_its_first_step(tmp_path):
    """It draws its state again, perhaps with other settings: step 0 is of no run."""
    run = Run(tmp_path / "checkpoints")
    words = "step 1 is not finite: nothing is saved; 1 after 0.0, saved 0"
    with pytest.raises(Diverged, match=words):
        run(iter([np.nan, 2, 3, 4, 5, 6]))
    assert run.saved() == {}


def test_a_signal_ends_what_is_made_anew_and_the_steps_are_saved(tmp_path):
    def before(step: int, state: State) -> State:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("went on")
        return state

    run = Run(tmp_path / "checkpoints")
    with pytest.raises(KeyboardInterrupt):
        run(due=loop.Due(before=before))
    assert run.saved() == {3: 6}


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """As an update leaves it that no verdict of its step had seen."""

    def spoil(step: int, state: State) -> State:
        return state._replace(total=state.total * np.float32(np.inf)) if step == 3 else state

    run = Run(tmp_path / "checkpoints", save_every=2)
    with pytest.raises(Diverged, match="the state behind step 3 is not finite, first in total"):
        run(due=loop.Due(before=spoil))
    assert run.saved() == {2: 3}
