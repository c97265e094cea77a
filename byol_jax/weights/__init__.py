"""Trained weights, in and out."""

from byol_jax.weights.checkpoint import Weights, load

__all__ = ["Weights", "load"]
