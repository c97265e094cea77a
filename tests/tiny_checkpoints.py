"""A checkpoint of a tiny untrained network, and images of classes that are easy to tell apart."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import tiny_runs
from byol_jax import weights
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints

STEP = 6


def write_easy_npz(
    path: pathlib.Path, train: int = 45, test: int = 12, classes: int = 3, seed: int = 0
) -> str:
    """8x8 images, each class of one of three colours; returns the name for `config.dataset`."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % classes
        level = 60 + 140 * np.eye(3, dtype=int)[labels % 3]
        noise = rng.integers(-40, 41, (count, 8, 8, 3))
        arrays[f"{split}_images"] = (level[:, None, None] + noise).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)
    return f"npz:{path}"


def fill(shapes: Any, seed: int) -> Any:
    """Weights that keep the size of what passes, BatchNorm as the identity."""
    rng = np.random.default_rng(seed)

    def leaf_of(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        module, name = (entry.key for entry in path)
        if name == "w":
            fan_in = int(np.prod(leaf.shape[:-1]))
            return rng.normal(0, (3 / fan_in) ** 0.5, leaf.shape).astype(np.float32)
        is_one = name == "scale" or (name == "average" and "var" in module)
        return np.full(leaf.shape, is_one, leaf.dtype)

    return jax.tree_util.tree_map_with_path(leaf_of, shapes)


def save(
    workdir: pathlib.Path,
    dataset: str,
    steps: Sequence[int] = (STEP,),
    num_classes: int = 3,
    total_steps: int | None = STEP,
    marks: Mapping[str, Any] | None = None,
    **changes: Any,
) -> pathlib.Path:
    """Writes `workdir/checkpoints/STEP` as a pre-training run of `tiny_runs.tiny_config` would.

    Online and target network differ, but for their BatchNorm averages. With `total_steps=None` the
    record is that of the first version. `marks` are further entries of it.
    """
    config = tiny_runs.tiny_config(dataset, **{"network__width": 2.0} | changes).to_dict()
    network = siamese.siamese(siamese.make_spec(config["network"], num_classes))
    size = config["image_size"]
    init = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), True)
    )
    tree = {}
    for seed, name in enumerate(("online", "target")):
        tree[f"{name}_params"], tree[f"{name}_state"] = (fill(part, seed) for part in init)
    record = {"config": config, "num_classes": num_classes, **(marks or {})}
    if total_steps is not None:
        record["total_steps"] = total_steps
    return write(workdir, tree, record, steps)


def trained(dataset: str, **changes: Any) -> weights.Trained:
    """The networks that `save` writes, without their arrays."""
    config = tiny_runs.tiny_config(dataset, **changes).to_dict()
    record = {"config": config, "num_classes": 3, "total_steps": STEP}
    return weights.trained_of(record, STEP, {}, {}, {}, {})


def write(
    workdir: pathlib.Path, tree: Any, record: dict[str, Any], steps: Sequence[int] = (STEP,)
) -> pathlib.Path:
    """Writes any tree as the checkpoints of a workdir."""
    manager = checkpoints.saver(workdir / "checkpoints", None)
    for step in steps:
        checkpoints.save(manager, step, tree, record)
    checkpoints.finish(manager)
    checkpoints.close(manager)
    return workdir


def small(config: ml_collections.ConfigDict, **changes: Any) -> ml_collections.ConfigDict:
    """A page that learns from labels, cut down: batches of 8 and every step logged."""
    values = {"batch_size": 8, "eval_batch_size": 8, "log_every": 1, "num_epochs": 2.0} | changes
    config.update(values)
    return config
