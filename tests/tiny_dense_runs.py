"""Small sets on disk with a target per pixel, and pages cut down for them."""

import pathlib
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

import tiny_runs
from experiments import depth as depth_page
from experiments import segmentation as segmentation_page
from tiny_dense import picture, save_image

COUNTS = {"train": 10, "val": 4, "test": 5}


def write_masks(root: pathlib.Path) -> str:
    """Bright things on a dark ground, with a border of void; returns the name of the set."""
    for split, count in COUNTS.items():
        for i in range(count):
            height, width = 18 + i % 3, 21 - i % 2
            mask = np.zeros((height, width), np.uint8)
            mask[4 + i % 5 : 14, 5:15] = 1 + i % 2
            mask[0] = 255
            image = picture(i, height, width) // 4
            image[mask == 1, 0] += 150
            image[mask == 2, 1] += 150
            save_image(root / split / f"{i}.png", image)
            save_image(root / f"{split}_masks" / f"{i}.png", mask)
    (root / "classes.txt").write_text("ground\nred\ngreen\n")
    return f"masks:{root}"


def write_depths(root: pathlib.Path) -> str:
    """Frames of 24 x 32 whose brightness falls with their depth; returns the name of the set."""
    for split, count in COUNTS.items():
        for i in range(count):
            metres = np.linspace(1, 3 + i % 3, 24)[:, None] + np.zeros((24, 32))
            metres[:2, :3] = 0
            image = (240 - 40 * metres[..., None] + np.zeros(3)).clip(0, 255).astype(np.uint8)
            save_image(root / split / f"{i}.png", image)
            path = root / f"{split}_depth" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((1000 * metres).astype(np.uint16)).save(path)
    return f"depth:{root}"


def _small(config: ml_collections.ConfigDict, dataset: str, changes: dict[str, Any]) -> Any:
    network = tiny_runs.tiny_config(dataset).network
    config.encoder.update(network)
    values = {
        "dataset": dataset,
        "network": "random",
        "batch_size": 4,
        "eval_batch_size": 4,
        "num_steps": 4,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    config.update_from_flattened_dict(values | changes)
    return config


def segmentation(dataset: str, **changes: Any) -> Any:
    """The page on a tiny network, without a checkpoint; `__` is a dot of a key."""
    values = {"crop": 17, "head.channels": 4, "head.dilation": 1, "learning_rates": (0.05,)}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return _small(segmentation_page.get_config("preset=small"), dataset, values)


def depth(dataset: str, **changes: Any) -> Any:
    """As `segmentation`."""
    values = {
        "frame": (16, 20),
        "crop": (14, 18),
        "head.channels": (4,),
        "head.entry_channels": 4,
        "learning_rates": (0.01,),
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return _small(depth_page.get_config("preset=small"), dataset, values)
