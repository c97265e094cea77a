"""Signals to real runs: the line at once, the end soon, the code, and what is saved."""

import math

import pytest

from tests.faults import signals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "count", "is_saved"),
    [
        ("compile", 1, False),
        ("training", 1, True),
        # Two processes: all that one does, and more.
        pytest.param("training", 2, True, marks=pytest.mark.ci),
        ("evaluation", 1, True),
    ],
)
def test_a_signal_ends_a_run_soon(tmp_path, point, count, is_saved):
    seen = signals.run(point, count, tmp_path / "run")
    assert seen.codes == [143] * count
    assert not math.isnan(seen.line) and seen.line < 2
    # On a machine that does nothing else a few seconds; by log_every=50 it would be minutes.
    assert max(seen.ends) < 60
    assert (seen.newest > 0) == is_saved
