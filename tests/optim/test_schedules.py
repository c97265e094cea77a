"""Schedules of App. A at points computed by hand."""

import jax
import numpy as np
import pytest

from byol_jax.optim import schedules


@pytest.mark.parametrize(
    ("step", "expected"),
    # Warm-up 0, 1/4, .. 1 over 4 steps; then (cos(pi j / 8) + 1) / 2 over 8.
    [(0, 0.0), (1, 0.5), (3, 1.5), (4, 2.0), (8, 1.0), (6, 1 + 2**-0.5), (12, 0.0), (99, 0.0)],
)
def test_learning_rate(step, expected):
    rate = jax.jit(schedules.learning_rate)(step, peak=2.0, warmup_steps=4, total_steps=12)
    np.testing.assert_allclose(rate, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.9), (5, 0.95), (10, 1.0), (20, 1.0), (2.5, 0.9 + 0.05 * (1 - 2**-0.5))],
)
def test_target_rate(step, expected):
    rate = jax.jit(schedules.target_rate)(step, base=0.9, total_steps=10)
    np.testing.assert_allclose(1 - rate, expected, atol=1e-6)


# BYOL App. A and App. H: steps and tau_base.
@pytest.mark.parametrize(("total", "base"), [(312_784, 0.996), (2_502_279, 0.9995)])
def test_schedules_keep_their_digits_to_the_last_step(total, base):
    """float32 against float64: near the end tau rounds to 1, and a cosine to -1."""
    steps = np.unique(np.r_[np.linspace(0, total - 1, 500).astype(int), total - 20_000 : total])
    exact = np.cos(np.pi / 2 * steps / total) ** 2
    # float32 of 1 - tau_base has an error of 6e-8 / (1 - tau_base), a factor for all steps.
    rates = jax.jit(schedules.target_rate)(steps.astype(np.int32), base=base, total_steps=total)
    np.testing.assert_allclose(rates, (1 - base) * exact, rtol=1e-6 + 6e-8 / (1 - base))
    rates = jax.jit(schedules.learning_rate)(
        steps.astype(np.int32), peak=3.2, warmup_steps=0, total_steps=total
    )
    np.testing.assert_allclose(rates, 3.2 * exact, rtol=1e-6)


def test_no_warm_up_starts_at_the_peak():
    rate = schedules.learning_rate(0, peak=2.0, warmup_steps=0, total_steps=10)
    np.testing.assert_allclose(rate, 2.0)


def test_a_schedule_that_is_all_warm_up_is_finite():
    rate = schedules.learning_rate(3, peak=2.0, warmup_steps=3, total_steps=3)
    assert np.isfinite(rate)


def test_linear_scaling_of_the_paper():
    assert schedules.scaled_learning_rate(0.2, 4096) == pytest.approx(3.2)


@pytest.mark.parametrize("batch_size", [256, 4096, 8192])
def test_other_scalings_of_the_rate(batch_size):
    """SimCLR App. B.1: 0.075 sqrt(batch) and 0.3 batch / 256 are both 4.8 at 4096."""
    sqrt = schedules.scaled_learning_rate(0.075, batch_size, "sqrt")
    assert sqrt == pytest.approx(4.8 * (batch_size / 4096) ** 0.5)
    linear = schedules.scaled_learning_rate(0.3, batch_size, "linear")
    assert linear == pytest.approx(4.8 * batch_size / 4096)
    assert schedules.scaled_learning_rate(0.3, batch_size, "none") == 0.3


@pytest.mark.parametrize("step", [0, 3, 10])
def test_tau_can_be_constant(step):
    """Table 5a, stop gradient of online: tau = 0 throughout."""
    for tau in (0.0, 0.9):
        rate = schedules.target_rate(step, base=tau, end=tau, total_steps=10)
        np.testing.assert_allclose(1 - rate, tau, rtol=1e-6)
