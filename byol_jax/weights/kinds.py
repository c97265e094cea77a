"""`load`: trained networks from a path, of whatever kind it is."""

import logging
import pathlib

from byol_jax.errors import require
from byol_jax.weights import checkpoint, pytorch, released
from byol_jax.weights.trained import Trained

_logger = logging.getLogger(__name__)

# What a path of trained networks may be, in words.
KINDS = (
    "a workdir, one checkpoints/STEP of it, a released .pkl, or weights of PyTorch "
    f"({pytorch.SAFETENSORS}, {', '.join(pytorch.TORCH)})"
)


def is_file_of_weights(path: pathlib.Path) -> bool:
    """Whether a path names a file of weights, by its ending, and no folder of this project."""
    return path.suffix in (".pkl", pytorch.SAFETENSORS, *pytorch.TORCH)


def load(path: str | pathlib.Path) -> Trained:
    """Reads trained networks.

    Args:
      path: a workdir, whose newest checkpoint is read, or one of its `checkpoints/STEP`; a `.pkl`
        in the format of BYOL's authors; or a file of another project's weights (`pytorch.read`).

    Raises:
      UserError: there is no such thing, it is damaged, or it holds no encoder of this project's.
    """
    path = pathlib.Path(path)
    if not is_file_of_weights(path):
        require(path.is_dir(), f"checkpoint={path} must be {KINDS}")
        trained = checkpoint.read(path)
    elif path.suffix == ".pkl":
        trained = released.read(path)
    else:
        trained = pytorch.read(path)
    if trained.origin:
        _logger.info("weights of %s; licence: %s", trained.origin, trained.licence)
    return trained
