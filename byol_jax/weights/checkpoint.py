"""Reading trained networks: this project's checkpoints of pre-training and of fine-tuning."""

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints, newest, paths
from byol_jax.weights.trained import Trained, Tree, trained_of
from byol_jax.weights.upgrade import upgrade

# Looks for a step in a folder where a run may just be putting one in the place of another.
_LOOKS = 3


def names_step(path: pathlib.Path) -> bool:
    """Whether a path means one step of a run, whatever is left of it."""
    if not path.name.isdigit() or (path / "checkpoints").is_dir():
        return False
    return (path / "record").is_dir() or path.parent.name == "checkpoints"


def locate(path: str | pathlib.Path) -> tuple[pathlib.Path, int]:
    """The checkpoint folder and step that `path` means.

    Args:
      path: a workdir (its newest step), its `checkpoints` folder, or one step of it.

    Raises:
      UserError: if there is no checkpoint.
    """
    path = paths.outside(path, "checkpoint")
    if names_step(path):
        return path.parent, int(path.name)
    require(path.is_dir(), f"checkpoint={path} is no folder: give a workdir or checkpoints/STEP")
    for _ in range(_LOOKS):
        for folder in (path / "checkpoints", path):
            steps = checkpoints.steps(folder)
            if steps:
                return folder, steps[-1]
        time.sleep(0.05)
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
    return _upgraded({}, record, folder / str(step))[1]


def read_newest_record(folder: pathlib.Path) -> tuple[int, dict[str, Any]] | None:
    """The newest step of a folder in which a run may be at work, and its record; None if empty.

    Raises:
      UserError: as in `read_record`.
    """
    return newest.read(folder, read_record)


def _read_shapes(folder: pathlib.Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes and types of the arrays of a step in their place, from its record alone."""
    record = checkpoints.read_record(folder, step)
    shapes = {
        name: jax.ShapeDtypeStruct(array["shape"], np.dtype(array["dtype"]))
        for name, array in record["arrays"].items()
    }
    return shapes, record


def read(path: str | pathlib.Path, arrays: bool = True) -> Trained:
    """Reads a checkpoint of this project.

    Args:
      path: as in `locate`. Of a workdir the newest step is read, also if its run deletes the one
        that was the newest meanwhile.
      arrays: see `kinds.load`.

    Raises:
      UserError: if there is none, it is damaged, or it holds no encoder.
    """
    folder, step = locate(path)
    reader = checkpoints.read if arrays else _read_shapes
    if names_step(paths.outside(path, "checkpoint")):
        flat, record = reader(folder, step)
    else:
        found = newest.read(folder, reader)
        require(found, f"checkpoint={path} holds no checkpoint: its last one was just deleted")
        assert found
        step, (flat, record) = found
    # Classifiers and cells of a grid are saved without a config.
    _require_encoder("config" in record, path)
    _require_encoder(siamese.encoder_params(haiku_tree(flat, "online_params")), path)
    flat, record = _upgraded(flat, record, folder / str(step))
    trees = {
        name: haiku_tree(flat, name)
        for name in ("online_params", "online_state", "target_params", "target_state")
    }
    with _understood(folder / str(step)):
        return trained_of(record, step, **trees)


def _upgraded(
    flat: dict[str, np.ndarray], record: dict[str, Any], path: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with _understood(path):
        return upgrade(flat, record)


@contextlib.contextmanager
def _understood(path: pathlib.Path) -> Iterator[None]:
    """Refuses a record that lacks what every version saved: only one without a checksum can."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} has a record that this version does not understand "
            f"({type(error).__name__}: {error}): it is damaged, or of a later version"
        ) from error
