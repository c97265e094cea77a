"""`predictions.npz`: what a network predicts for each image, so that two can be compared."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.results.records import Record
from byol_jax.runtime import disk

FILE = "predictions.npz"
# Number of ranked classes that are kept per image: enough for top-1 and top-5.
TOP = 5
_ABOUT = ("protocol", "network", "dataset", "split", "checkpoint_step", "seed")


class Ranked(NamedTuple):
    """Predictions for the N labelled images of a split, one label each.

    Attributes:
      ids: places of the images in the split, int `[N]`.
      labels: int `[N]`.
      ranked: the `TOP` most likely classes, or all of fewer, best first, int `[N, k]`.
      about: fields of the record that they belong to.
    """

    ids: np.ndarray
    labels: np.ndarray
    ranked: np.ndarray
    about: dict[str, Any]


def about_of(record: Record) -> dict[str, Any]:
    """The fields of a record that its predictions are kept with."""
    return {field: getattr(record, field) for field in _ABOUT}


def rank(classes: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The `TOP` most likely classes, best first: classes `[K]`, logits `[N, K]` -> `[N, k]`."""
    return classes[np.argsort(-logits, axis=1, kind="stable")[:, :TOP]]


def require_free(path: pathlib.Path, about: dict[str, Any]) -> None:
    """Refuses a file with the predictions of something else.

    Raises:
      UserError: names the first field that differs.
    """
    if not path.exists():
        return
    old = read(path).about
    for field, value in about.items():
        require(
            old.get(field) == value,
            f"{path} has predictions with {field}={old.get(field)}, and these would have "
            f"{field}={value}: give another --workdir, or move that file away",
        )


def write(path: pathlib.Path, predictions: Ranked) -> None:
    """Writes a file atomically."""
    with disk.replacing(path) as file:
        arrays = predictions._asdict() | {"about": np.array(json.dumps(predictions.about))}
        np.savez_compressed(file, **arrays)


def read(path: pathlib.Path) -> Ranked:
    """Reads a file that `write` wrote.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    require(
        path.is_file(),
        f"{path} does not exist: an evaluation with --config.save_predictions=True writes it",
    )
    try:
        with np.load(path) as arrays:
            about = json.loads(str(arrays["about"]))
            return Ranked(arrays["ids"], arrays["labels"], arrays["ranked"], about)
    except Exception as error:  # whatever numpy says of a file that is not its own
        raise UserError(f"{path} does not hold predictions ({error}): name another") from error
