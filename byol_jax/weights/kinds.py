"""`load`: trained networks from a path, of whatever kind it is."""

import logging
import pathlib

from byol_jax.errors import require
from byol_jax.weights import checkpoint, exported, pytorch, released
from byol_jax.weights.trained import Trained

_logger = logging.getLogger(__name__)

# What a path of trained networks may be, in words.
KINDS = (
    "a workdir, one checkpoints/STEP of it, the folder of an export, a released .pkl, or weights "
    f"of PyTorch ({pytorch.SAFETENSORS}, {', '.join(pytorch.TORCH)})"
)


def is_single(path: pathlib.Path) -> bool:
    """Whether a path names one network of fixed weights: a file, by its ending, or an export."""
    is_file = path.suffix in (".pkl", pytorch.SAFETENSORS, *pytorch.TORCH)
    return is_file or exported.is_export(path)


def load(path: str | pathlib.Path) -> Trained:
    """Reads trained networks.

    Args:
      path: a workdir, whose newest checkpoint is read, or one of its `checkpoints/STEP`; what the
        job `export` wrote, the folder or its `model.safetensors`; a `.pkl` in the format of BYOL's
        authors; or a file of another project's weights (`pytorch.read`).

    Raises:
      UserError: there is no such thing, it is damaged, or it holds no encoder of this project's.
    """
    path = pathlib.Path(path)
    if exported.is_export(path):
        trained = exported.read(path)
    elif not is_single(path):
        require(path.is_dir(), f"checkpoint={path} must be {KINDS}")
        trained = checkpoint.read(path)
    elif path.suffix == ".pkl":
        trained = released.read(path)
    else:
        trained = pytorch.read(path)
    if trained.origin:
        _logger.info("weights of %s; licence: %s", trained.origin, trained.licence)
    return trained
