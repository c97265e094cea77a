"""An encoder in one file for other programs, `model.safetensors`, and read back from it.

The arrays have torchvision's names (`layout`), so PyTorch reads them as they are. The metadata of
the file hold, as JSON, what is known of the training: all that a checkpoint needs to be evaluated.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from byol_jax.data.depth import of_record, to_record
from byol_jax.errors import UserError, require
from byol_jax.networks import siamese
from byol_jax.runtime import paths
from byol_jax.weights import layout
from byol_jax.weights.trained import Trained, Tree, of_weights, trained_of
from byol_jax.weights.upgrade import upgrade

FILE = "model.safetensors"
# Of the metadata's JSON; a reader refuses a later one.
VERSION = 1
# Name of the metadata's entry, and of the section in config.json.
KEY = "byol_jax"

# What shapes the encoder and its numbers, of `siamese.NetworkSpec`.
_ENCODER = ("depth", "width", "stem", "padding", "shortcut", "bn_eps", "bn_decay")


def encoder_of(trained: Trained, name: str) -> tuple[Tree, Tree]:
    """Parameters of f alone and its BatchNorm averages, of the network `online` or `target`."""
    params, state = {
        "online": (trained.online_params, trained.online_state),
        "target": (trained.target_params, trained.target_state),
    }[name]
    return siamese.encoder_params(params), siamese.encoder_params(state)


def arrays_of(trained: Trained, name: str) -> dict[str, np.ndarray]:
    """The arrays of `encoder_of` by torchvision's names (`layout.to_torch`)."""
    return layout.to_torch(*encoder_of(trained, name))


def spec_section(spec: siamese.NetworkSpec) -> dict[str, Any]:
    """What another program needs to build the encoder `spec`."""
    return {key: getattr(spec, key) for key in _ENCODER}


def about(trained: Trained, name: str) -> dict[str, Any]:
    """The metadata of an exported encoder, as plain values.

    Args:
      trained: the checkpoint.
      name: the network that is exported, `online` or `target`.
    """
    return {
        "version": VERSION,
        "network": name,
        "encoder": spec_section(trained.network),
        "step": trained.step,
        "total_steps": trained.total_steps,
        "image_size": trained.image_size,
        "method": trained.method,
        "recipe": trained.recipe,
        "origin": trained.origin,
        "licence": trained.licence,
        "config": dict(trained.config),
        **to_record(trained.depth),
    }


def write(path: pathlib.Path, trained: Trained, name: str) -> None:
    """Writes `model.safetensors` at `path`, of the network `online` or `target`."""
    metadata = {"format": "pt", KEY: json.dumps(about(trained, name), sort_keys=True)}
    # `save_file` would hide the file from everyone but its owner.
    path.write_bytes(safetensors.numpy.save(arrays_of(trained, name), metadata=metadata))


def is_export(path: pathlib.Path) -> bool:
    """Whether a path is the folder of an export, or its `model.safetensors`."""
    if path.is_dir():
        return (path / FILE).is_file()
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, framework="numpy") as content:
            return KEY in (content.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False  # its reader says what is wrong with it


def read(path: str | pathlib.Path) -> Trained:
    """An exported encoder as a checkpoint: `online` is the network that was exported.

    Args:
      path: the folder of an export, or its `model.safetensors`.

    Raises:
      UserError: it is no export, a damaged one, or one of a later version.
    """
    file = paths.outside(path, "checkpoint")
    file = file / FILE if file.is_dir() else file
    require(file.is_file(), f"checkpoint={path}: there is no file {file}")
    try:
        with safetensors.safe_open(file, framework="numpy") as content:
            metadata = content.metadata() or {}
            arrays = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"checkpoint={file} cannot be read ({error}): export it again") from error
    require(
        KEY in metadata,
        f"checkpoint={file} was not written by the job `export`: its metadata have no {KEY}",
    )
    try:
        values = json.loads(metadata[KEY])
        version = values["version"]
        require(
            version <= VERSION,
            f"checkpoint={file} is of version {version} and this byol_jax reads up to {VERSION}: "
            "install a later one",
        )
        return _rebuilt(values, arrays)
    except UserError as error:
        raise (
            error if str(file) in str(error) else UserError(f"checkpoint={file}: {error}")
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"checkpoint={file} has metadata that no export writes ({reason}): export it again"
        ) from error


def _rebuilt(values: Mapping[str, Any], arrays: layout.Flat) -> Trained:
    """The checkpoint of these metadata and arrays."""
    config = values["config"]
    if "job" in config:  # a training of this project
        # An export holds neither a probe nor heads.
        record = {"config": config, "num_classes": 0, "total_steps": values["total_steps"]}
        record |= {key: values[key] for key in ("origin", "licence")}
        _, record = upgrade({}, record)
        trained = trained_of(record, values["step"], {}, {}, {}, {})._replace(has_heads=False)
    else:
        trained = of_weights(
            network=siamese.NetworkSpec(**values["encoder"]),
            section=config["network"],
            trees={"online_params": {}, "online_state": {}},
            **{key: values[key] for key in ("image_size", "step", "method", "origin", "licence")},
        )
    layout.require_fit(arrays, trained.network)
    params, state = layout.from_torch(arrays, trained.network, untold=0)
    return trained._replace(online_params=params, online_state=state, depth=of_record(values))
