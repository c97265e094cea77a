"""Hyperparameters of a test's step: the same numbers for every group of parameters."""

from typing import Any

from byol_jax.augment.compose import AugmentParams
from byol_jax.optim import groups
from byol_jax.program import Hyperparameters

TABLE_6 = (AugmentParams(), AugmentParams(blur=0.1, solarize=0.2))


def hyperparameters(
    views: tuple[AugmentParams, ...] = TABLE_6, tau_base: float = 0.9, **changes: Any
) -> Hyperparameters:
    """T and T', tau, and `changes` of a constant rate of 1 over ten steps without momentum."""
    numbers = {
        "peak_learning_rate": 1.0,
        "warmup_steps": 0,
        "total_steps": 10,
        "weight_decay": 0.0,
        "trust_coefficient": 1e-3,
        "momentum": 0.0,
    }
    own = groups.Numbers(**(numbers | changes))
    return Hyperparameters(groups.everywhere(own), own.total_steps, tau_base, views)


def with_numbers(hparams: Hyperparameters, **changes: Any) -> Hyperparameters:
    """Other numbers for every group."""
    table = groups.Groups(*(numbers._replace(**changes) for numbers in hparams.groups))
    return hparams._replace(groups=table)
