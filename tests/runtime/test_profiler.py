"""The trace of some steps: exactly the requested ones, and no trace by default."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from byol_jax.runtime import profiler


def steps_traced(folder):
    """Numbers of the steps in the trace files below `folder`."""
    numbers = set()
    for path in folder.rglob("*.trace.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        numbers |= {int(e["args"]["step_num"]) for e in events if "step_num" in e.get("args", {})}
    return numbers


def run(folder, first, count, last):
    add = jax.jit(lambda x: x + 1)
    x = jnp.zeros(3)
    with profiler.traced(folder, first, count) as after:
        for step in range(1, last + 1):
            with jax.profiler.StepTraceAnnotation("step", step_num=step):
                x = add(x)
            after(step, x)
    assert x[0] == last


@pytest.mark.parametrize(
    ("first", "count", "last", "expected"),
    [(3, 2, 6, {3, 4}), (2, 1, 3, {2}), (2, 9, 4, {2, 3, 4})],  # the last one ends early
)
def test_exactly_the_requested_steps_are_traced(tmp_path, first, count, last, expected):
    run(tmp_path / "profile", first, count, last)
    assert steps_traced(tmp_path / "profile") == expected


def test_nothing_is_traced_by_default(tmp_path):
    run(tmp_path / "profile", 2, 0, 4)
    assert not (tmp_path / "profile").exists()


def test_a_loop_that_fails_ends_its_trace(tmp_path):
    def fail():
        with profiler.traced(tmp_path, 2, 5) as after:
            after(1, jnp.zeros(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    run(tmp_path / "again", 2, 1, 3)  # JAX allows one trace at a time
    assert steps_traced(tmp_path / "again") == {2}
