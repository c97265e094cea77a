"""When processes ask each other whether to end: the steps of the questions, by process 0's pace."""

import numpy as np
import pytest

from byol_jax.runtime import processes


class Peers:
    """Two processes in one: a clock, and a gathering whose answer the other process joins."""

    def __init__(self, monkeypatch, seconds_per_step):
        self.now, self.asked, self.other = 0.0, [], 0
        self.pace, self.step = seconds_per_step, 0
        monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
        monkeypatch.setattr(processes.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(processes.spmd, "start_gathering", self.gather)
        monkeypatch.setattr(processes.spmd, "to_host", lambda rows: rows)

    def gather(self, row):
        """The rows of both processes."""
        self.asked.append(self.step)
        return np.stack([row, [self.other, 0]])

    def run(self, steps, flags=()):
        """The step at whose start all know that one wants to end, or None."""
        agreement = processes.Agreement(seconds=5.0)
        for self.step in range(1, steps + 1):
            self.now += self.pace
            if agreement.ask(self.step, self.step in flags):
                return self.step
        return None


@pytest.mark.parametrize(
    ("pace", "asked"),
    [
        # From step to step twice as far at most, and then every 5 seconds: 10 steps of 0.5 s.
        (0.5, [1, 3, 7, 15, 25, 35]),
        (2.0, [1, 3, 5, 7, 9]),
        (20.0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_questions_are_some_seconds_apart(monkeypatch, pace, asked):
    peers = Peers(monkeypatch, pace)
    assert peers.run(40) is None
    assert peers.asked[: len(asked)] == asked


def test_the_answer_comes_one_step_later_from_any_process(monkeypatch):
    assert Peers(monkeypatch, 0.5).run(40, flags=range(10, 41)) == 16
    other = Peers(monkeypatch, 0.5)
    other.other = 1
    assert other.run(40) == 2


def test_one_process_answers_itself():
    assert [processes.Agreement().ask(1, flag) for flag in (False, True)] == [False, True]
