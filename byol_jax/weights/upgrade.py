"""Checkpoints of earlier versions, brought up to today's names.

Each upgrade is a small pure function from the flat arrays and the JSON record of a checkpoint to
those of the next version. It leaves alone what is already up to date, so all of them are applied to
every checkpoint, oldest first. Nothing else in the package knows what earlier versions saved.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Flat = dict[str, np.ndarray]
Record = dict[str, Any]
Upgrade = Callable[[Flat, Record], tuple[Flat, Record]]


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the defaults of the keys that they lack, in sections too."""
    full = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(full[key], Mapping):
            full[key] = _filled(full[key], default)
    return full


def add_keys_of_later_versions(flat: Flat, record: Record) -> tuple[Flat, Record]:
    """Pre-training runs of the first version: BYOL on arrays, of an unrecorded length."""
    if record["config"].get("job") == "finetune":
        return flat, record
    defaults = {
        "total_steps": None,
        "config": {"data_dir": None, "data": {"exif": False}, "objective": {"name": "byol"}},
    }
    return flat, _filled(record, defaults)


def add_views_of_supervised(flat: Flat, record: Record) -> tuple[Flat, Record]:
    """Networks trained on labels: their records have no views, and random crops were App. C's."""
    if record["config"].get("job") != "finetune":
        return flat, record
    data = {"area_min": 0.08, "area_max": 1.0, "aspect_min": 3 / 4, "aspect_max": 4 / 3}
    return flat, _filled(record, {"config": {"recipe": None, "augment": {}, "data": data}})


# Oldest first.
UPGRADES: tuple[Upgrade, ...] = (add_keys_of_later_versions, add_views_of_supervised)


def upgrade(flat: Flat, record: Record) -> tuple[Flat, Record]:
    """The arrays and the record of a checkpoint, with today's names and keys.

    Args:
      flat: arrays by path name; may be empty where the record alone is read.
      record: JSON record of the checkpoint, with its section `config`.

    Returns:
      Both, upgraded; the arguments are left as they are.
    """
    for step in UPGRADES:
        flat, record = step(flat, record)
    return flat, record
