"""BYOL (Bootstrap Your Own Latent, arXiv:2006.07733) in JAX and Haiku."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byol_jax.encoder import load_encoder

__all__ = ["__version__", "load_encoder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads JAX with the first use of what needs it, so that `import byol_jax` costs nothing."""
    if name == "load_encoder":
        from byol_jax import encoder

        return encoder.load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
