"""A checkpoint as the papers' tables name networks: method, architecture, data, and departures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax import weights
from byol_jax.data import table10
from byol_jax.evals import checkpoint

METHODS = {"byol": "BYOL", "simclr": "SimCLR", "supervised": "supervised"}
# How both papers pre-train for their tables (BYOL App. A, SimCLR section 6).
_EPOCHS, _BATCH, _SIZE = 1000, 4096, 224


class Checkpoint(NamedTuple):
    """A checkpoint without its arrays.

    Attributes:
      step: number of finished updates.
      depth: depth of the ResNet, as in `config.network.depth`.
      width: channel multiplier of the ResNet.
      data_dir: folder of TFDS that its training read; None for the default one.
      method: a key of `METHODS`.
      data: key of the row of Table 10 that it was trained on, or the name of another data set.
      data_name: the same data set in words.
      departures: where its training is not that of the paper, in words.
    """

    step: int
    depth: str
    width: float
    data_dir: str | None
    method: str
    data: str
    data_name: str
    departures: tuple[str, ...]

    @property
    def words(self) -> str:
        """The checkpoint in words, as in `words_of`."""
        return words_of(self.method, self.depth, self.width, self.data_name)


def words_of(method: str, depth: str, width: float, data: str) -> str:
    """As in `a BYOL ResNet-50 (2x) trained on ImageNet`; `method` is a key of `METHODS`."""
    wide = "" if width == 1 else f" ({width:g}x)"
    return f"a {METHODS[method]} ResNet-{depth}{wide} trained on {data}"


def read(config: ml_collections.ConfigDict, given: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint in `config.checkpoint`, if it is given.

    Raises:
      UserError: it is not a checkpoint.
    """
    if not config.checkpoint:
        return None
    trained = checkpoint.load_weights(config)
    dataset = trained.dataset or "unknown images"
    row = table10.of_dataset(dataset)
    names = {source: key for key, source in given.items()}
    return Checkpoint(
        step=trained.step,
        depth=trained.network.depth,
        width=trained.network.width,
        data_dir=trained.data_dir,
        method=config.method or ("supervised" if trained.method == "supervised" else "byol"),
        data=row.key if row else names.get(dataset, dataset),
        data_name=row.name if row else dataset,
        departures=departures_of(trained),
    )


def departures_of(trained: weights.Trained) -> tuple[str, ...]:
    """Where a training is not that of the papers' tables, in words."""
    run, departures = trained.config, []
    if (trained.recipe or "").startswith("not published"):
        departures.append(f"recipe {trained.recipe}")
    if trained.image_size != _SIZE:
        departures.append(f"pre-trained at {trained.image_size} pixels")
    if trained.network.stem != "imagenet":
        departures.append(f"stem {trained.network.stem}")
    if run.get("num_steps"):
        departures.append(f"pre-trained for {run['num_steps']} steps")
    elif run.get("num_epochs", _EPOCHS) != _EPOCHS:
        departures.append(f"pre-trained for {run['num_epochs']:g} epochs")
    if run.get("batch_size", _BATCH) != _BATCH:
        departures.append(f"pre-trained at batch {run['batch_size']}")
    if trained.total_steps is not None and trained.step < trained.total_steps:
        departures.append(f"pre-training at step {trained.step} of {trained.total_steps}")
    return tuple(departures)


def fits(need: Mapping[str, Any], source: Checkpoint) -> bool:
    """Whether a checkpoint is the network that a cell is about, its method aside."""
    values = source.depth, source.width, source.data
    return values == (need["depth"], need["width"], need["data"])
