"""What tells one training from another in the same workdir."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.checks import NO_NUMBERS
from byol_jax.evals import checkpoint
from byol_jax.evals.sgd.recipes import Recipe, named_numbers


def identity(
    config: ml_collections.ConfigDict, trained: weights.Trained | None, protocol: str
) -> dict[str, Any]:
    """What tells the training of one job from that of another in the same workdir."""
    return {
        "protocol": protocol,
        "network": config.network,
        "checkpoint": config.checkpoint,
        "checkpoint_step": trained.step if trained else None,
        # The same path and step may by now hold another run.
        "weights": checkpoint.checksum(trained) if trained else None,
        "dataset": config.dataset or (trained.dataset if trained else None),
        "benchmark": config.benchmark,
        "fit_split": config.fit_split,
    }


def training_record(identity: Mapping[str, Any], recipe: Recipe, num_images: int) -> dict[str, Any]:
    """All that decides the result of a training, with lists for tuples, as JSON has it.

    Grids that were begun earlier compare it with their own: its keys and their forms stay.
    """
    numbers = {k: v for k, v in recipe._asdict().items() if k not in NO_NUMBERS}
    record = {**identity, **numbers, "num_images": num_images}
    # App. C's numbers are a list, SimCLR's a dict that is left out when it is empty.
    view = named_numbers(recipe.view)
    names = ("simclr_jitter", *compose.EXTRAS)
    extras = {name: value for name in names if (value := view.pop(name, 0.0))}
    record["view"] = [*view.values()]
    if extras:
        record["extras"] = extras
    return json.loads(json.dumps(record))
