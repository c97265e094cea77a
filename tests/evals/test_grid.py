"""A best value at an end of its grid."""

import pytest

from byol_jax.evals.grid import choose, end_of_grid


@pytest.mark.parametrize(
    ("values", "best", "end"),
    [
        ((0.1, 0.2, 0.3), 0.2, None),
        ((0.1, 0.2, 0.3), 0.3, "high"),
        ((0.3, 0.2, 0.1), 0.1, "low"),
        ((0.1, 0.1, 0.2), 0.1, "low"),
        ((0.1,), 0.1, None),
        ((0.1, 0.1), 0.1, None),  # one rate in two cells
    ],
)
def test_a_best_value_at_an_end_of_the_grid_is_warned_of(values, best, end, caplog):
    with caplog.at_level("WARNING", logger="byol_jax"):
        assert end_of_grid("rate", values, best) == end
    words = [f"rate, {best:g}", f"{end} end", f"0.1 .. {max(values):g}"] if end else []
    assert len(caplog.messages) == bool(end)
    assert all(word in caplog.text for word in words)


@pytest.mark.parametrize(
    ("scores", "caution", "best"),
    [
        ((1.0, 3.0, 2.0), ((9,), (1,), (5,)), 1),
        ((3.0, 3.0, 2.0), ((1,), (2,), (9,)), 1),
        ((3.0, 3.0, 3.0), ((1, -0.1), (1, -0.01), (1, -0.5)), 1),
        ((None, 0.0, None), ((9,), (1,), (9,)), 1),
        ((3.0, 3.0), ((1,), (1,)), 0),
    ],
)
def test_of_equal_scores_the_most_cautious_setting_wins(scores, caution, best):
    assert choose(scores, caution) == best


@pytest.mark.parametrize(
    ("errors", "caution", "best"),
    [
        ((0.6, 0.5, 0.7), ((9,), (1,), (5,)), 1),
        ((0.5, 0.5, 0.7), ((1,), (2,), (9,)), 1),
        ((None, 0.9, None), ((9,), (1,), (9,)), 1),  # a training that diverged has no error at all
    ],
)
def test_the_smallest_error_is_chosen(errors, caution, best):
    assert choose(errors, caution, lower_is_better=True) == best
