"""Schedules of BYOL App. A. Step indices start at 0 (docs/deviations.md, 8 and 9)."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

RATE_SCALINGS = ("linear", "sqrt", "none")


def scaled_learning_rate(
    base: jax.Array | float, batch_size: int, scaling: str = "linear"
) -> jax.Array | float:
    """The peak learning rate for a batch size.

    Args:
      base: base rate, as in the config.
      batch_size: global, effective batch size.
      scaling: `linear`, base x batch size / 256 (BYOL App. A); `sqrt`, base x sqrt(batch size)
        (SimCLR App. B.1, base 0.075); `none`.

    Raises:
      KeyError: for any other scaling.
    """
    return {
        "linear": base * batch_size / 256,
        "sqrt": base * math.sqrt(batch_size),
        "none": base,
    }[scaling]


def _half_cosine(step: jax.Array, total: jax.Array | int) -> jax.Array:
    """(cos(pi step / total) + 1) / 2: from 1 at step 0 to 0 at step `total` and after.

    It is the squared sine of the steps that are left. Near the end the cosine is close to -1, and
    in float32 the sum would lose the digits of what is left.
    """
    # A schedule that is all warm-up has no steps left: it is at its end, not at 0 / 0.
    total = jnp.maximum(total, 1)
    # The float comes first: a quotient of two int32 would be float32 in a float64 program, too.
    angle = jnp.pi / 2 * (total - jnp.minimum(step, total)) / total
    return jnp.square(jnp.sin(angle))


def learning_rate(
    step: jax.Array,
    *,
    peak: jax.Array | float,
    warmup_steps: jax.Array | int,
    total_steps: jax.Array | int,
) -> jax.Array:
    """Linear warm-up from 0, then cosine decay to 0 without restarts (BYOL App. A).

    Args:
      step: index of the current step, from 0, scalar.
      peak: rate at the end of the warm-up, already scaled with the batch size.
      warmup_steps: W, the steps of the warm-up; step W runs at the peak.
      total_steps: K, the steps of the run.
    """
    warmup = peak * step / jnp.maximum(warmup_steps, 1)
    decay = peak * _half_cosine(step - warmup_steps, total_steps - warmup_steps)
    return jnp.where(step < warmup_steps, warmup, decay)


def constant_rate(
    step: jax.Array,
    *,
    peak: jax.Array | float,
    warmup_steps: jax.Array | int,
    total_steps: jax.Array | int,
) -> jax.Array:
    """The peak rate at every step (Lecture: the rate of SimSiam's predictor does not decay)."""
    del warmup_steps, total_steps
    return jnp.broadcast_to(jnp.asarray(peak), jnp.shape(step))


def step_rate(
    step: jax.Array,
    *,
    peak: jax.Array | float,
    warmup_steps: jax.Array | int,
    total_steps: jax.Array | int,
    milestones: Sequence[jax.Array | float],
) -> jax.Array:
    """Linear warm-up from 0, then the peak, divided by 10 at each milestone (MoCo v1's code).

    Args:
      step: index of the current step, from 0, scalar.
      peak: rate at the end of the warm-up, already scaled with the batch size.
      warmup_steps: steps of the warm-up.
      total_steps: K, the steps of the run.
      milestones: shares of the run, such as 0.6 and 0.8 for epochs 120 and 160 of 200.
    """
    rate = jnp.where(step < warmup_steps, peak * step / jnp.maximum(warmup_steps, 1), peak)
    for share in milestones:
        # A share such as 0.6 is rounded: half a step keeps the milestone at its step.
        rate = jnp.where(step + 0.5 >= share * total_steps, 0.1 * rate, rate)
    return rate


def whole_cosine_rate(
    step: jax.Array,
    *,
    peak: jax.Array | float,
    warmup_steps: jax.Array | int,
    total_steps: jax.Array | int,
    start: jax.Array | float,
    end: jax.Array | float,
) -> jax.Array:
    """A cosine over the whole run, whose first steps a warm-up replaces (SupCon's code).

    The warm-up is linear, from a rate above 0 to the value that the cosine has at its last step.

    Args:
      step: index of the current step, from 0, scalar.
      peak: rate of the cosine at step 0, already scaled with the batch size.
      warmup_steps: W, the steps of the warm-up; step W is on the cosine.
      total_steps: K, the steps of the run.
      start: rate at step 0 of the warm-up, as a share of the peak.
      end: rate at step K, as a share of the peak.
    """

    def cosine(step: jax.Array | int) -> jax.Array:
        return peak * (end + (1 - end) * _half_cosine(jnp.asarray(step), total_steps))

    rise = cosine(warmup_steps) - peak * start
    warmup = peak * start + rise * step / jnp.maximum(warmup_steps, 1)
    return jnp.where(step < warmup_steps, warmup, cosine(step))


# Schedules of a learning rate, by name.
RATES: Mapping[str, Callable[..., jax.Array]] = {
    "cosine": learning_rate,
    "constant": constant_rate,
    "step": step_rate,
    "whole_cosine": whole_cosine_rate,
}
# What a schedule takes beside peak, warm-up and length.
EXTRA: Mapping[str, tuple[str, ...]] = {
    "step": ("milestones",),
    "whole_cosine": ("start", "end"),
}


def target_rate(
    step: jax.Array,
    *,
    base: jax.Array | float,
    total_steps: jax.Array | int,
    end: jax.Array | float = 1.0,
) -> jax.Array:
    """1 - tau, where tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2 (BYOL App. A).

    Eq. 1 multiplies by 1 - tau. In float32 tau itself has no digits left near 1: for a run of
    2,502,279 steps it is exactly 1 in the last 12,297 (docs/deviations.md, 7).

    Args:
      step: k, from 0, scalar.
      base: tau_base, the value of tau at step 0.
      total_steps: K, the steps of the run.
      end: tau at step K, 1 in the paper. With the value of `base`, tau stays constant (Table 5a).
    """
    return (1 - end) + (end - base) * _half_cosine(step, total_steps)
