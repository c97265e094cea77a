"""What a recipe comes to, and where it leaves what the papers support.

Each limit is a number of a table or an appendix, and is named with it. A warning stops nothing: a
paper that did not try a setting does not say that it fails.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from byol_jax.checks import flatten
from byol_jax.data import pipeline
from byol_jax.optim import schedules

_logger = logging.getLogger(__name__)

# BYOL Table 16 ends at 64 images per BatchNorm; half of them is outside of it for sure.
SMALLEST_GROUP = 32
# (1 - tau_base) K, the length of a run in time constants of its target. BYOL Table 5a, in 93,835
# steps, has tau_base 0.999 at 94 of them and 0.9 at 9,384. Runs of few steps have fewer: the limit
# is where the target ends with this share of its random start, and has more for most of the run.
MOST_TIME_CONSTANTS, FEWEST_OF_TABLE = 9_384, 94
LARGEST_REST = 0.2
LOWEST_TAU = 0.9  # of the moving averages of BYOL Table 5a
# The authors' preset for 40 epochs has a warm-up of 10; the papers' longest share is 10 of 100
# (SimCLR section 2.3).
LONGEST_WARMUP = 0.25
# Scaled rates of LARS: 0.3 at batch 256 (SimCLR Table B.1), 1.5 at batch 4096 (App. B.9).
LOWEST_RATE, HIGHEST_RATE = 0.3, 24.0
LARGEST_DECAY = 1e-5  # of BYOL Table 15b, with LARS
LARGE_BATCH = 4096


class Recipe(NamedTuple):
    """The numbers of a run that the papers have something to say on.

    Attributes:
      batch_size: images per update.
      accumulate: passes of an update.
      devices: number of devices.
      statistics: `config.bn_statistics`.
      optimizer: `config.optimizer.name`.
      base_rate: as in the config.
      scaling: `config.optimizer.rate_scaling`.
      decay: weight decay.
      warmup_epochs, warmup_steps: length of the warm-up.
      total_steps: K, updates of the whole run.
      target: `config.target`.
      tau_base: tau at step 0.
      tau_rises: whether it rises to 1 (App. A), or stays.
      needs_target: whether the objective, without negatives, compares with the target alone.
    """

    batch_size: int
    accumulate: int
    devices: int
    statistics: str
    optimizer: str
    base_rate: float
    scaling: str
    decay: float
    warmup_epochs: float
    warmup_steps: int
    total_steps: int
    target: str
    tau_base: float
    tau_rises: bool
    needs_target: bool = True

    @property
    def peak_rate(self) -> float:
        """The rate behind the warm-up."""
        return float(schedules.scaled_learning_rate(self.base_rate, self.batch_size, self.scaling))

    @property
    def group(self) -> int:
        """Images that BatchNorm takes its statistics of."""
        devices = 1 if self.statistics == "global" else self.devices
        return self.batch_size // self.accumulate // devices


def recipe_of(
    config: Mapping[str, Any], num_examples: int, total_steps: int, devices: int
) -> Recipe:
    """The numbers of a pre-training.

    Args:
      config: as plain values.
      num_examples: images that it trains on.
      total_steps: updates of the whole run.
      devices: number of devices.
    """
    flat = flatten(config)
    objective = flat["objective.name"]
    batch, epochs = flat["batch_size"], flat["optimizer.warmup_epochs"]
    return Recipe(
        batch_size=batch,
        accumulate=flat["accumulate"],
        devices=devices,
        statistics=flat["bn_statistics"],
        optimizer=flat["optimizer.name"],
        base_rate=flat["optimizer.base_learning_rate"],
        scaling=flat["optimizer.rate_scaling"],
        decay=flat["optimizer.weight_decay"],
        warmup_epochs=epochs,
        warmup_steps=pipeline.steps_for(epochs, num_examples, batch),
        total_steps=total_steps,
        target=flat["target"],
        tau_base=flat["tau_base"],
        tau_rises=flat["tau_schedule"] == "cosine",
        needs_target=objective == "byol"
        or (objective == "info_nce" and flat["objective.info_nce.beta"] == 0),
    )


def summary(recipe: Recipe) -> str:
    """What a recipe comes to, in one line."""
    parts = [f"effective batch {recipe.batch_size}"]
    if recipe.accumulate > 1:
        parts[0] += f" in {recipe.accumulate} passes of {recipe.batch_size // recipe.accumulate}"
    parts.append(f"{recipe.optimizer} at a rate of {recipe.peak_rate:.4g}")
    if recipe.warmup_steps:
        parts[1] += f" after {recipe.warmup_epochs:g} epochs ({recipe.warmup_steps} steps)"
    if recipe.target == "ema":
        end = "1" if recipe.tau_rises else f"{recipe.tau_base:g}"
        parts.append(f"tau {recipe.tau_base:g} to {end}")
    parts.append(f"{recipe.total_steps} steps in all")
    return ", ".join(parts)


def warnings(recipe: Recipe) -> list[str]:
    """Where a recipe leaves what the papers support, a line each."""
    return [
        words
        for check in (_small_group, _slow_target, _fast_target, _long_warmup, _rate, _decay)
        if (words := check(recipe))
    ]


def say(config: Mapping[str, Any], num_examples: int, total_steps: int, devices: int) -> None:
    """Logs what a recipe comes to, and where it leaves what the papers support."""
    recipe = recipe_of(config, num_examples, total_steps, devices)
    _logger.info("%s", summary(recipe))
    for words in warnings(recipe):
        _logger.warning("%s", words)


def _small_group(recipe: Recipe) -> str:
    if recipe.group >= SMALLEST_GROUP:
        return ""
    parts = [f"config.batch_size={recipe.batch_size}"]
    parts += [f"config.accumulate={recipe.accumulate}"] if recipe.accumulate > 1 else []
    if recipe.statistics != "global":
        parts.append(f"config.bn_statistics={recipe.statistics} on {recipe.devices} device(s)")
    remedy = "raise config.batch_size"
    if recipe.accumulate > 1:
        remedy = "lower config.accumulate"
    elif recipe.group < recipe.batch_size:
        remedy += ", or give config.bn_statistics=global"
    return (
        f"{', '.join(parts)}: BatchNorm takes its statistics of {recipe.group} images; BYOL Table "
        f"16 goes down to 64 of them, where top-1 falls from 72.5 to 59.7: {remedy}"
    )


def rest_of_start(recipe: Recipe) -> float:
    """The share of its random start that the target has at the end, by Eq. 1."""
    # The mean of 1 - tau over App. A's cosine is half of that at its start.
    constants = (1 - recipe.tau_base) * recipe.total_steps * (0.5 if recipe.tau_rises else 1.0)
    return math.exp(-constants)


def _slow_target(recipe: Recipe) -> str:
    rest = rest_of_start(recipe)
    if recipe.target != "ema" or rest <= LARGEST_REST:
        return ""
    better = max(LOWEST_TAU, 1 - FEWEST_OF_TABLE / recipe.total_steps)
    remedy = "train for more steps"
    if better < recipe.tau_base:
        remedy = f"give config.tau_base={math.floor(better * 1000) / 1000:g}, or more steps"
    return (
        f"config.tau_base={recipe.tau_base:g} is for longer runs: after {recipe.total_steps} steps "
        f"the target is still {rest:.0%} its random start (BYOL Eq. 1), and one that stays there "
        f"ends at 18.8 instead of 72.5 (Table 5a): {remedy}"
    )


def _fast_target(recipe: Recipe) -> str:
    if recipe.target != "ema" or not recipe.needs_target:
        return ""
    if recipe.tau_base < LOWEST_TAU:
        return (
            f"config.tau_base={recipe.tau_base:g}: BYOL Table 5a has 68.4 at 0.9 and 0.3 at 0, "
            "against 72.5 at 0.99: give 0.9 or more"
        )
    constants = (1 - recipe.tau_base) * recipe.total_steps
    if constants <= MOST_TIME_CONSTANTS:
        return ""
    better = 1 - MOST_TIME_CONSTANTS / recipe.total_steps
    return (
        f"config.tau_base={recipe.tau_base:g} is for shorter runs: {recipe.total_steps} steps are "
        f"{constants:.0f} time constants 1 / (1 - tau) of the target, and BYOL Table 5a has 68.4 "
        f"at {MOST_TIME_CONSTANTS} of them, 72.5 at 938: give config.tau_base="
        f"{math.ceil(better * 1e5) / 1e5:g} or more (App. A has 0.996 for 1000 epochs)"
    )


def _long_warmup(recipe: Recipe) -> str:
    share = recipe.warmup_steps / recipe.total_steps
    key = f"config.optimizer.warmup_epochs={recipe.warmup_epochs:g}"
    better = f"{recipe.warmup_epochs / share / 10:.2g}" if share else ""
    if share >= 1:
        return (
            f"{key}: the warm-up takes {recipe.warmup_steps} steps and the run {recipe.total_steps}"
            f", which never gets to its rate of {recipe.peak_rate:.4g}: give {better}, a tenth of "
            "the run (SimCLR section 2.3), or train longer"
        )
    if share > LONGEST_WARMUP:
        return (
            f"{key}: the warm-up takes {share:.0%} of the run; BYOL App. A has 10 of 1000 epochs, "
            f"SimCLR section 2.3 has 10 of 100: give {better}, or train longer"
        )
    return ""


def _rate(recipe: Recipe) -> str:
    peak = recipe.peak_rate
    key = (
        f"config.optimizer.base_learning_rate={recipe.base_rate:g} at config.batch_size="
        f"{recipe.batch_size} is a rate of {peak:.3g}"
    )
    if recipe.optimizer == "lars" and not LOWEST_RATE <= peak <= HIGHEST_RATE:
        return (
            f"{key}: LARS has rates from {LOWEST_RATE:g} (batch 256, SimCLR Table B.1) to "
            f"{HIGHEST_RATE:g} (batch 4096, App. B.9), and BYOL Table 15a has 34.8 at 0.16, 72.5 "
            "at 4.8: change the base rate"
        )
    is_linear = recipe.scaling == "linear"
    if recipe.optimizer == "sgd" and is_linear and recipe.batch_size >= LARGE_BATCH:
        return (
            f"{key}: SGD with linear scaling may be unstable at large batches (SimCLR section "
            "2.2): give config.optimizer.name=lars with its rates (experiments/simclr.py), or a "
            "smaller batch"
        )
    return ""


def _decay(recipe: Recipe) -> str:
    if recipe.optimizer != "lars" or 0 < recipe.decay <= LARGEST_DECAY:
        return ""
    key = f"config.optimizer.weight_decay={recipe.decay:g}"
    if recipe.decay == 0:
        return f"{key}: training may be unstable without any (BYOL Table 15): give 1e-6"
    return (
        f"{key} is for another optimiser: BYOL Table 15b has LARS at 1e-7 to {LARGEST_DECAY:g}, "
        "where top-1 falls from 72.6 to 69.6: give 1e-6"
    )
