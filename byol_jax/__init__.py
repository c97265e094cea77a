"""BYOL (Bootstrap Your Own Latent, arXiv:2006.07733) in JAX and Haiku."""

__version__ = "0.1.0"
