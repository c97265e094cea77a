"""Reading trained networks: this project's checkpoints of pre-training and of fine-tuning."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints
from byol_jax.weights.trained import Trained, Tree, trained_of
from byol_jax.weights.upgrade import upgrade


def locate(path: str | pathlib.Path) -> tuple[pathlib.Path, int]:
    """The checkpoint folder and step that `path` means.

    Args:
      path: a workdir (its newest step), its `checkpoints` folder, or one step of it.

    Raises:
      UserError: if there is no checkpoint.
    """
    path = pathlib.Path(path)
    require(path.is_dir(), f"checkpoint={path} is no folder: give a workdir or checkpoints/STEP")
    if path.name.isdigit() and (path / "record").is_dir():
        return path.parent, int(path.name)
    for folder in (path / "checkpoints", path):
        steps = checkpoints.steps(folder)
        if steps:
            return folder, steps[-1]
    raise UserError(f"checkpoint={path} holds no checkpoint: expected {path}/checkpoints/STEP")


def haiku_tree(flat: Mapping[str, np.ndarray], prefix: str) -> Tree:
    """The two-level tree below `prefix` of arrays named `prefix/module/path/leaf`."""
    tree: dict[str, dict[str, np.ndarray]] = {}
    for name, value in flat.items():
        if name.startswith(prefix + "/"):
            module, _, leaf = name.removeprefix(prefix + "/").rpartition("/")
            tree.setdefault(module, {})[leaf] = value
    return tree


def _require_encoder(condition: object, path: str | pathlib.Path) -> None:
    require(
        condition,
        f"checkpoint={path} holds no encoder: give one of a pre-training or supervised run",
    )


def read_record(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """The record of one step, with today's keys; reads no array.

    Raises:
      UserError: if it is not a checkpoint of a network.
    """
    record = checkpoints.read_record(folder, step)
    _require_encoder("config" in record, folder / str(step))
    return upgrade({}, record)[1]


def read(path: str | pathlib.Path) -> Trained:
    """Reads a checkpoint of this project.

    Args:
      path: as in `locate`.

    Raises:
      UserError: if there is none, it is damaged, or it holds no encoder.
    """
    folder, step = locate(path)
    flat, record = checkpoints.read(folder, step)
    # Classifiers and cells of a grid are saved without a config.
    _require_encoder("config" in record, path)
    _require_encoder(siamese.encoder_params(haiku_tree(flat, "online_params")), path)
    flat, record = upgrade(flat, record)
    trees = {
        name: haiku_tree(flat, name)
        for name in ("online_params", "online_state", "target_params", "target_state")
    }
    return trained_of(record, step, **trees)
