"""Reading trained encoders: this project's checkpoints."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.runtime import checkpoints

# A haiku tree of numpy arrays: module path -> leaf -> value.
Tree = Mapping[str, Mapping[str, Any]]


class Weights(NamedTuple):
    """A trained pair of networks and what is needed to rebuild and judge it.

    Attributes:
      config: the resolved config of the run, as plain dicts.
      num_classes: outputs of the online probe.
      step: finished updates.
      online_params, online_state, target_params, target_state: haiku trees of numpy
        arrays.
      total_steps: updates of the whole run; None in checkpoints of the first version.
    """

    config: dict[str, Any]
    num_classes: int
    step: int
    online_params: Tree
    online_state: Tree
    target_params: Tree
    target_state: Tree
    total_steps: int | None = None


def locate(path: str | pathlib.Path) -> tuple[pathlib.Path, int]:
    """The checkpoint folder and step that `path` means.

    Args:
      path: a workdir (its newest step), its `checkpoints` folder, or one step of it.

    Raises:
      UserError: if there is no checkpoint.
    """
    path = pathlib.Path(path)
    require(
        path.suffix != ".pkl",
        f"checkpoint={path}: released .pkl files cannot be read yet; give a workdir or one "
        "checkpoints/STEP folder of it",
    )
    require(path.is_dir(), f"checkpoint={path} is no folder: give a workdir or checkpoints/STEP")
    if path.name.isdigit() and (path / "record").is_dir():
        return path.parent, int(path.name)
    for folder in (path / "checkpoints", path):
        found = checkpoints.steps(folder)
        if found:
            return folder, found[-1]
    raise UserError(f"checkpoint={path} holds no checkpoint: expected {path}/checkpoints/STEP")


def haiku_tree(flat: Mapping[str, np.ndarray], prefix: str) -> Tree:
    """The two-level tree below `prefix` of arrays named `prefix/module/path/leaf`."""
    tree: dict[str, dict[str, np.ndarray]] = {}
    for name, value in flat.items():
        if name.startswith(prefix + "/"):
            module, _, leaf = name.removeprefix(prefix + "/").rpartition("/")
            tree.setdefault(module, {})[leaf] = value
    return tree


def load(path: str | pathlib.Path) -> Weights:
    """Reads a checkpoint of this project.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    folder, step = locate(path)
    flat, record = checkpoints.read(folder, step)
    return Weights(
        config=record["config"],
        num_classes=record["num_classes"],
        step=step,
        online_params=haiku_tree(flat, "online_params"),
        online_state=haiku_tree(flat, "online_state"),
        target_params=haiku_tree(flat, "target_params"),
        target_state=haiku_tree(flat, "target_state"),
        total_steps=record.get("total_steps"),
    )
