"""Seconds of the training loop with and without the logs that need no label."""

import contextlib
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import steps

from byol_jax import loop, update
from byol_jax.objectives import collapse
from byol_jax.runtime import spmd

LOG_EVERY = 50  # steps, as in the pages
ROUNDS = 3


class Cost(NamedTuple):
    """What the logs cost.

    Attributes:
      loops: seconds per step, `with` and `without` the logs, by `config.log_every`.
      shape: images and numbers of the embeddings of a view.
    """

    loops: Mapping[int, Mapping[str, float]]
    shape: tuple[int, ...]


def host_seconds(shapes: Iterable[tuple[int, ...]], repeats: int) -> dict[tuple[int, ...], float]:
    """Seconds that the host takes for the log of one step, by the shape of the embeddings."""
    generator = np.random.default_rng(0)

    def run_of(shape: tuple[int, ...]) -> steps.Run:
        views = generator.normal(size=(2, *shape)).astype(np.float32)
        return lambda: collapse.health(*views)

    names = {str(shape): shape for shape in shapes}
    seconds = steps.medians({name: run_of(shape) for name, shape in names.items()}, repeats)
    return {shape: seconds[name] for name, shape in names.items()}


def _step_without(*arguments: Any, **program: Any) -> tuple[Any, update.Logs]:
    """The update without embeddings among its outputs, so that XLA keeps none."""
    state, logs = update.train_step(*arguments, **program)
    return state, {name: x for name, x in logs.items() if name not in update.EMBEDDINGS}


def _round(
    problem: steps.Problem, stepper: steps.Stepper, every: int, end: int
) -> tuple[float, tuple[int, ...]]:
    """`loop.run` over `end` steps, which shows its logs as `train` does; no file is written.

    Returns:
      Seconds per step from the log of the first step on, which warms up; and the shape of the
      embeddings in the logs.
    """
    shown: list[float] = []
    shape: tuple[int, ...] = ()

    def show(done: int, logs: Mapping[str, np.ndarray]) -> None:
        nonlocal shape
        del done
        values = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
        embeddings = [logs[name] for name in update.EMBEDDINGS if name in logs]
        if embeddings:
            values |= collapse.health(embeddings[0], embeddings[1])
            shape = embeddings[0].shape
        shown.append(time.perf_counter())

    with contextlib.closing(steps.array_batches(problem, end)) as batches:
        stepper.carried[0] = loop.run(
            lambda state, batch: stepper.compiled.step(state, batch, *stepper.rest),
            stepper.carried[0],
            spmd.prefetch(batches, 1),
            loop.Span(0, end, every, end),
            saving=loop.Saving(None, {}, "", lambda step, state: ""),
            show=show,
            per_device=update.EMBEDDINGS,
        )
    return (time.perf_counter() - shown[0]) / (end - 1), shape


def cost(problem: steps.Problem, repeats: int) -> Cost:
    """Medians of rounds, in which the loops with and without the logs take turns.

    Args:
      problem: network and images.
      repeats: steps per round where each is logged. Where they are logged every 50 steps, a round
        has 50 steps, and the last one is logged.
    """
    steppers = {
        "with": steps.pretraining(problem),
        "without": steps.pretraining(problem, train_step=_step_without),
    }
    loops: dict[int, dict[str, float]] = {}
    shape: tuple[int, ...] = ()
    for every, end in ((LOG_EVERY, LOG_EVERY), (1, repeats + 1)):
        times: dict[str, list[float]] = {name: [] for name in steppers}
        for number in range(ROUNDS):
            # Each goes first in every other round.
            for name in sorted(steppers, reverse=bool(number % 2)):
                seconds, embeddings = _round(problem, steppers[name], every, end)
                times[name].append(seconds)
                shape = embeddings or shape
        loops[every] = {name: statistics.median(same) for name, same in times.items()}
    return Cost(loops, shape)
