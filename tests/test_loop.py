"""The training loop, on a state of one number: what it shows, saves, and does when it ends."""

import functools
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
from byol_jax.errors import Diverged, Stopped, UserError
from byol_jax.runtime import checkpoints, spmd


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


class Run:
    """A run of the loop in a folder: it goes on from what is there."""

    def __init__(self, folder: pathlib.Path, end: int = 6, save_every: int = 100):
        self.folder, self.end, self.save_every = folder, end, save_every
        self.shown: list[tuple[int, float]] = []
        self.done: list[Any] = []

    def saved(self) -> dict[int, float]:
        """The number saved at each step."""
        return {
            step: float(checkpoints.read(self.folder, step)[0]["total"])
            for step in checkpoints.steps(self.folder)
        }

    def __call__(self, values: Iterator[float] | None = None, due: loop.Due = loop.NOTHING) -> Any:
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
                loop.Span(start, self.end, log_every=2, save_every=self.save_every),
                saving=loop.Saving(saver, {"config": {}}, str(self.folder), "do something"),
                show=lambda step, logs: self.shown.append((step, float(logs["total"]))),
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
    with pytest.raises(Diverged, match=r"step 4 is not finite.*checkpoints/3; do something"):
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
