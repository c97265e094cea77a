"""Trained weights, in and out."""

from byol_jax.weights.checkpoint import load, read_record
from byol_jax.weights.trained import Cropping, Trained, Tree, trained_of
from byol_jax.weights.upgrade import upgrade, upgrade_classifiers, upgrade_config

__all__ = [
    "Cropping",
    "Trained",
    "Tree",
    "load",
    "read_record",
    "trained_of",
    "upgrade",
    "upgrade_classifiers",
    "upgrade_config",
]
