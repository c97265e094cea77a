"""Checkpoints of earlier versions, brought up to today's names.

Each upgrade is a small pure function from the flat arrays and the JSON record of a checkpoint to
those of the next version. It leaves alone what is already up to date, so all of them are applied to
every checkpoint, oldest first. Nothing else in the package knows what earlier versions saved.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from byol_jax.optim.groups import role_of

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
    """Pre-training runs of the first version: BYOL on arrays, of an unrecorded length.

    Their only target was the moving average.
    """
    if record["config"].get("job") == "finetune":
        return flat, record
    defaults = {
        "total_steps": None,
        "config": {
            "data_dir": None,
            "data": {"exif": False},
            "objective": {"name": "byol"},
            "target": "ema",
        },
    }
    return flat, _filled(record, defaults)


# What later records say of a training on labels. None is unknown.
_OF_LABELS = dict.fromkeys(
    ("recipe", "protocol", "start", "augmentation", "batch_size", "num_epochs", "num_steps")
)


def add_recipe_of_supervised(flat: Flat, record: Record) -> tuple[Flat, Record]:
    """Networks trained on labels: earlier records have no recipe, no views and no random crops.

    For later trainings the crops stand at App. C's, which they were unless the config said
    otherwise.
    """
    if record["config"].get("job") != "finetune":
        return flat, record
    data = {"area_min": 0.08, "area_max": 1.0, "aspect_min": 3 / 4, "aspect_max": 4 / 3}
    return flat, _filled(record, {"config": {**_OF_LABELS, "augment": {}, "data": data}})


# The keys that each objective had of `config.objective` itself, before it had a section of its own.
_OBJECTIVE_KEYS = {
    "byol": ("normalization",),
    "info_nce": ("temperature", "beta", "l2"),
    "nt_xent": ("temperature", "l2"),
    "nt_logistic": ("temperature", "l2", "semi_hard"),
    "margin_triplet": ("margin", "l2", "semi_hard"),
}
# Dials that came later, at the values that they had all the time. A run that goes on compares its
# config with the record's, so each key that decides a number and comes later has its place here
# (tests/test_resume.py).
_DIALS = {
    "bn_statistics": "global",
    "optimizer": {
        "decayed": "weights",
        "milestones": [],
        "predictor_schedule": "cosine",
        "rate_end": 0.0,
        "rate_start": 0.0,
        "schedule": "cosine",
    },
    "augment": {"view1": {"jitter": "byol"}, "view2": {"jitter": "byol"}, "small": {"count": 0}},
    "objective": {"nt_xent": {"same_view": True}},
    "network": {
        "padding": "same",
        "shortcut": "projection",
        "dense": {"kind": "none"},
        "projector": {"hidden_norm": True, "output_norm": "none"},
        "predictor": {"hidden_norm": True, "output_norm": "none"},
    },
}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A pre-training config of commit 4d67216 or before with today's keys."""
    objective = config.get("objective", {"name": "byol"})
    if not any(isinstance(value, Mapping) for value in objective.values()):
        sections = {
            name: {key: objective[key] for key in keys if key in objective}
            for name, keys in _OBJECTIVE_KEYS.items()
        }
        config = {**config, "objective": {"name": objective["name"], **sections, "own": {}}}
    # Digits have no mirror images: classifiers on them had the flips and crops of their T.
    crops = "own" if config.get("dataset") == "digits" else "paper"
    data = {"largest_image": 178.0, "classifier_crops": crops}
    return _filled(config, {**_DIALS, "data": data})


def move_objective_keys(flat: Flat, record: Record) -> tuple[Flat, Record]:
    """One section of `config.objective` per method; dials that came later."""
    config = record["config"]
    if config.get("job") == "finetune":
        return flat, record
    # The identity of trainings on the checkpoint holds the section `network` as it was saved.
    config = {**upgrade_config(config), "network": config["network"]}
    return flat, {**record, "config": config}


# Slots under optax's nesting: the position in the chain, the field, then 0 for the online network's
# parameters and 1 for the objective's.
_OPTAX_SLOT = re.compile(r"opt_state/\d+/(trace|mu|nu)/([01])/(.+)")
_SLOTS = {"trace": "momentum", "mu": "first_moment", "nu": "second_moment"}
_ROOTS = ("online_params", "objective_params")


def rename_slots(flat: Flat, record: Record) -> tuple[Flat, Record]:
    """Slots of the optimiser by the names of slot and parameter, no longer by optax's nesting."""
    if record["config"].get("job") == "finetune":
        return flat, record
    renamed: Flat = {}
    for name, value in flat.items():
        match = _OPTAX_SLOT.fullmatch(name)
        if match:
            field, root, rest = match.groups()
            renamed[f"slots/{_SLOTS[field]}/{_ROOTS[int(root)]}/{rest}"] = value
        elif re.fullmatch(r"opt_state/\d+/count", name):
            roles = {role_of(other) for other in flat if other.startswith("online_params/")}
            renamed |= {f"slots/count/{role}": value for role in sorted(roles)}
        else:
            renamed[name] = value
    return renamed, record


# Oldest first.
UPGRADES: tuple[Upgrade, ...] = (
    add_keys_of_later_versions,
    add_recipe_of_supervised,
    move_objective_keys,
    rename_slots,
)


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


def upgrade_classifiers(flat: Flat) -> Flat:
    """The arrays of classifiers trained by SGD, with those of later versions; all were healthy."""
    if "healthy" in flat or "heads/b" not in flat:
        return flat
    return {**flat, "healthy": np.ones(flat["heads/b"].shape[0], bool)}
