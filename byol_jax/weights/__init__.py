"""Trained weights, in and out."""

from byol_jax.weights.checkpoint import read_newest_record, read_record
from byol_jax.weights.kinds import KINDS, is_single, load
from byol_jax.weights.trained import PER_PIXEL, Cropping, Trained, Tree, terms_of, trained_of
from byol_jax.weights.upgrade import upgrade, upgrade_classifiers, upgrade_config

__all__ = [
    "KINDS",
    "PER_PIXEL",
    "Cropping",
    "Trained",
    "Tree",
    "is_single",
    "load",
    "read_newest_record",
    "read_record",
    "terms_of",
    "trained_of",
    "upgrade",
    "upgrade_classifiers",
    "upgrade_config",
]
