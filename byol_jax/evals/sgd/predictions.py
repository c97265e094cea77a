"""Predictions of trained classifiers, and their scores."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np

from byol_jax.errors import require
from byol_jax.evals.sgd import classifiers
from byol_jax.evals.sgd.labels import check_metric
from byol_jax.evals.splits import Split
from byol_jax.results import scores
from byol_jax.results.ranked import TOP
from byol_jax.runtime import spmd


class Predictions(NamedTuple):
    """Predictions of R classifiers for the N labelled images of a split.

    Attributes:
      ranked: int `[N, R, k]`, the k most likely classes, best first; None for several labels per
        image.
      logits: `[N, R, K]` for several labels per image, else None.
      labels: the labels of the split, `[N]` or `[N, K]`.
      ids: places of the images in the split, `[N]`.
    """

    ranked: np.ndarray | None
    logits: np.ndarray | None
    labels: np.ndarray
    ids: np.ndarray


@functools.lru_cache(maxsize=8)
def _outputs(network: hk.TransformedWithState, multi_label: bool) -> Any:
    """One function for all cells of a grid, so that it is compiled once."""

    def outputs(
        batch: jax.Array, encoder: classifiers.Encoder, heads: classifiers.Heads
    ) -> jax.Array:
        logits = classifiers.predict(batch, encoder, heads, network=network)
        return logits if multi_label else jax.lax.top_k(logits, min(TOP, logits.shape[-1]))[1]

    return outputs


def predict(
    network: hk.TransformedWithState,
    encoder: classifiers.Encoder,
    heads: classifiers.Heads,
    split: Split,
    batch_size: int,
) -> Predictions:
    """One pass over the evaluation crops of a split, BatchNorm on its averages.

    Raises:
      UserError: no image has a label, or a label is not a class of the classifiers.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []

    def pixels() -> Iterator[np.ndarray]:
        for batch in split.batches():
            parts.append((batch["labels"], batch["ids"]))
            yield batch["images"]

    outputs = spmd.map_batches(
        _outputs(network, split.multi_label), pixels(), batch_size, (encoder, heads)
    )
    labels, ids = map(np.concatenate, zip(*parts, strict=True))
    labelled = labels.reshape(len(labels), -1).max(axis=1) >= 0
    require(labelled.any(), f"no image of the {split.name} split has a label")
    outputs, labels, ids = outputs[labelled], labels[labelled], ids[labelled]
    if split.multi_label:
        return Predictions(None, outputs, labels, ids)
    classes = heads["w"].shape[-1]
    require(
        labels.max() < classes,
        f"the {split.name} split has the label {labels.max()}, outside of the {classes} classes "
        "that were learnt",
    )
    return Predictions(outputs, None, labels, ids)


def score(predictions: Predictions, head: int, metric: str) -> dict[str, float]:
    """The data set's own metric, then the other usual ones, in percent.

    Args:
      predictions: predictions of R classifiers.
      head: index of the classifier, 0 to R - 1.
      metric: `top1`, `mean_per_class` or `map_11`.

    Raises:
      UserError: that metric does not go with these labels.
    """
    labels = predictions.labels
    check_metric(metric, predictions.logits is not None)
    if predictions.logits is not None:
        return {"map_11": scores.map_11(predictions.logits[:, head], labels)}
    assert predictions.ranked is not None
    ranked = predictions.ranked[:, head]
    values = {"top1": scores.top1(ranked[:, 0], labels)}
    if metric == "mean_per_class":
        values = {metric: scores.mean_per_class(ranked[:, 0], labels), **values}
    if ranked.shape[1] == TOP:
        values["top5"] = scores.top_k(ranked, labels)
    return values
