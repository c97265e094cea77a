"""What a run that fails does to its table."""

import pytest

from byol_jax.errors import GuardError, UserError
from byol_jax.jobs import failures
from byol_jax.jobs.failures import Failure
from byol_jax.runtime import processes


def fail(error):
    def run():
        raise error

    return run


def test_a_result_is_passed_on() -> None:
    assert failures.attempt("cell", lambda: 3) == (3, None)


def test_a_reason_is_one_line() -> None:
    _, failure = failures.attempt("cell", fail(MemoryError("RESOURCE_EXHAUSTED: 9 GB\n  at ...")))
    assert failure == Failure("MemoryError: RESOURCE_EXHAUSTED: 9 GB", False)
    _, failure = failures.attempt("cell", fail(KeyError()))
    assert failure == Failure("KeyError: no message", False)


def test_one_of_several_processes_does_not_go_on_alone(monkeypatch) -> None:
    """Another one may wait for it; what jobs raise on purpose, all of them raise."""
    monkeypatch.setattr(processes, "is_joined", lambda: True)
    with pytest.raises(MemoryError):
        failures.attempt("cell", fail(MemoryError()))
    assert failures.attempt("cell", fail(UserError("too small")))[1] == Failure("too small", True)


def test_the_end_of_a_table_names_each_reason_once() -> None:
    failures.raise_any({}, "cells", 3)
    refused = {"a": Failure("too small", True), "b": Failure("too small", True)}
    with pytest.raises(UserError, match=r"2 of 3 cells failed: a, b: too small$"):
        failures.raise_any(refused, "cells", 3)
    with pytest.raises(GuardError, match=r"3 of 3 .*too small; c: disk full$"):
        failures.raise_any({**refused, "c": Failure("disk full", False)}, "cells", 3)
