"""Barlow Twins (Zbontar et al. 2021) on digits, a method from outside of byol_jax.

    python -m byol_jax.main --config=barlow.py --workdir=runs/barlow

Cost: seconds a step at most; nobody published it on digits.
"""

import jax.numpy as jnp

from byol_jax.objectives.base import stateless
from byol_jax.objectives.normalize import batch_normalize
from byol_jax.runtime import spmd
from experiments import digits


def objective(off_diagonal: float = 0.005, axis: str | None = None):
    """sum_i (1 - C_ii)^2 + off_diagonal sum_ij C_ij^2, C the correlation of both views.

    Args:
      off_diagonal: lambda of the paper; a float, so it is traced.
      axis: mapped axis of the devices, whose images are one batch.
    """

    def loss(online, target):
        del target
        # Columns of mean 0, and of mean square 1 / D over all devices.
        z1, z2 = (batch_normalize(outputs["prediction"], axis) for outputs in online)
        size = z1.shape[1]
        correlation = spmd.pmean(size * z1.T @ z2 / len(z1), axis)
        diagonal = jnp.eye(size)
        terms = jnp.where(diagonal, (1 - correlation) ** 2, off_diagonal * correlation**2)
        return jnp.full(len(z1), jnp.sum(terms)), {"on_diagonal": jnp.trace(correlation) / size}

    return stateless(loss)


def get_config():
    config = digits.get_config()
    config.recipe = "not published: Barlow Twins on digits"
    config.objective.name = "barlow:objective"
    config.objective.own.off_diagonal = 0.01
    config.target = "online"
    config.network.predictor.kind = "none"
    return config
