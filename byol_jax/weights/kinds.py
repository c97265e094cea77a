"""`load`: trained networks from a path of any kind."""

import logging
import pathlib

from byol_jax.errors import require
from byol_jax.networks import resnet
from byol_jax.runtime import paths
from byol_jax.weights import checkpoint, exported, pytorch, released
from byol_jax.weights.trained import Trained

_logger = logging.getLogger(__name__)

# What a path of trained networks may be, in words.
KINDS = (
    "a workdir, one checkpoints/STEP of it, the folder of an export, a released .pkl, or weights "
    f"of PyTorch ({pytorch.SAFETENSORS}, {', '.join(pytorch.TORCH)})"
)


def is_single(path: str | pathlib.Path) -> bool:
    """Whether a path names one network of fixed weights: a file, by its ending, or an export."""
    path = paths.outside(str(path).partition(":padding=")[0], "checkpoint")
    is_file = path.suffix in (".pkl", pytorch.SAFETENSORS, *pytorch.TORCH) and not path.is_dir()
    return is_file or exported.is_export(path)


def _options(path: str) -> tuple[pathlib.Path, str | None]:
    """A path, and the padding that follows it as `:padding=VALUE`, if one does.

    Raises:
      UserError: there is no such padding.
    """
    file, colon, padding = path.rpartition(":padding=")
    if not colon:
        return paths.outside(path, "checkpoint"), None
    require(
        padding in resnet.PADDINGS,
        f"checkpoint={path}: padding={padding} must be one of: {', '.join(resnet.PADDINGS)}",
    )
    return paths.outside(file, "checkpoint"), padding


def load(path: str | pathlib.Path, arrays: bool = True) -> Trained:
    """Reads trained networks.

    Args:
      path: a workdir, whose newest checkpoint is read, or one of its `checkpoints/STEP`; what the
        job `export` wrote, the folder or its `model.safetensors`; a `.pkl` in the format of BYOL's
        authors; or a file of another project's weights (`pytorch.read`), perhaps with
        `:padding=VALUE` behind it, since names and shapes do not tell its padding.
      arrays: whether arrays are needed. If not, those of a run of this project stay on the disk:
        their shapes and types, which its record has, are in their place.

    Raises:
      UserError: there is no such thing, it is damaged, or it holds no encoder of this project's.
    """
    path, padding = _options(str(path))
    require(
        not padding or (is_single(path) and not exported.is_export(path) and path.suffix != ".pkl"),
        f"checkpoint={path}:padding={padding}: this path says its own padding, leave it out",
    )
    if exported.is_export(path):
        trained = exported.read(path)
    elif not is_single(path):
        if not checkpoint.names_step(path):
            require(path.exists(), f"checkpoint={path}: there is no such path; give {KINDS}")
            require(path.is_dir(), f"checkpoint={path} must be {KINDS}")
        trained = checkpoint.read(path, arrays)
    elif path.suffix == ".pkl":
        trained = released.read(path)
    else:
        trained = pytorch.read(path, padding)
    if trained.origin:
        _logger.info("weights of %s; licence: %s", trained.origin, trained.licence)
    return trained
