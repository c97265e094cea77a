"""The part of a report that looks at representations: nearest neighbours, PCA and t-SNE."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from byol_jax import keys, weights
from byol_jax.data import images, pipeline
from byol_jax.evals import checkpoint, features
from byol_jax.results import html, maps
from byol_jax.runtime import metrics

# Most images of a report: their small pictures and names take most of its 3 MB.
POINTS = 2000
# Images whose neighbours are shown, and how many of them.
_QUERIES, _NEIGHBOURS = 6, 6
# Sides in pixels of the pictures beside neighbours, and of those that a point shows.
_TILE, _THUMBNAIL = 96, 32
# Side of a map, and its margin.
_SIDE, _MARGIN = 500, 12
_LEGEND = 20  # most classes that get a legend
_GREY = "#8a97a3"
_LONGEST = 60  # characters of a name that a page shows


class Shown(NamedTuple):
    """What is looked at.

    Attributes:
      images: the images.
      name_of: function from an id to the name of the image.
      words: which images these are.
      network: `online` or `target`.
      points: most images.
      batch_size: images per call, over all local devices.
    """

    images: images.ImageSet
    name_of: Callable[[int], str]
    words: str
    network: str
    points: int
    batch_size: int


class _Sample(NamedTuple):
    """Some of the images that could be read.

    Attributes:
      values: representations `[N, D]`.
      crops: evaluation crops, uint8 `[N, S, S, 3]`.
      names: names of the images.
      labels: int `[N]`, -1 for none.
    """

    values: np.ndarray
    crops: np.ndarray
    names: list[str]
    labels: np.ndarray


def contents(trained: weights.Trained, shown: Shown) -> dict[str, Any]:
    """What the template shows of representations; it says so where there is too little to show."""
    sample = _sampled(trained, shown)
    count, total = len(sample.names), shown.images.size
    share = f"All {total}" if count == total else f"{count:,} of the {total:,}"
    words = f"{share} images {shown.words}."
    if count < maps.FEWEST or not np.isfinite(sample.values).all():
        why = "there are too few images" if count < maps.FEWEST else "some are not finite"
        return {"sample": words, "missing": f"No representations are shown: {why}."}
    return {
        "sample": words,
        "neighbours": _neighbours(sample, shown.images.classes),
        **_maps(sample, shown.images.classes),
    }


def _sampled(trained: weights.Trained, shown: Shown) -> _Sample:
    """Images of a fixed draw, in the order of the set, as evaluations see them."""
    size = shown.images.size
    drawn = np.sort(keys.permutation(size, "report", 0)[: shown.points])
    network = checkpoint.siamese_of(trained)
    params, state = checkpoint.network_of(
        trained, shown.network, trained.image_size, shuffled=lambda: iter(())
    )
    crops: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    ids: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        with contextlib.closing(metrics.Progress(len(drawn), "report")) as progress:
            for batch in pipeline.evaluation_batches(
                images.select(shown.images, drawn),
                image_size=trained.image_size,
                mode=trained.cropping.eval_crop,
                batch_size=min(shown.batch_size, len(drawn)),
                exif=trained.cropping.exif,
            ):
                crops.append(batch["images"])
                labels.append(batch["labels"])
                ids.extend(drawn[batch["ids"]].tolist())
                yield batch["images"]
                progress.advance(len(ids), "")

    embeddings = features.extract(
        network, params, state, batches(), batch_size=min(shown.batch_size, len(drawn))
    )["embedding"]
    # Of several classes per image none is that of a point.
    has_one = not shown.images.multi_label
    return _Sample(
        values=embeddings,
        crops=np.concatenate(crops),
        names=[_shortened(shown.name_of(i)) for i in ids],
        labels=np.concatenate(labels) if has_one else np.full(len(ids), -1),
    )


def _shortened(name: str) -> str:
    """The end of a long name: names of 2,000 images have to fit into the page."""
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"


def _word(label: int, classes: tuple[str, ...]) -> str:
    """The name of a class, or its number; empty for no label."""
    return "" if label < 0 else classes[label] if classes else str(label)


def _neighbours(sample: _Sample, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The nearest images of a few, of as many classes as there are."""
    labels = sample.labels
    firsts = [int(np.argmax(labels == label)) for label in np.unique(labels)]
    queries = np.array(firsts) if len(firsts) > 1 else np.arange(len(labels))
    count = min(_QUERIES, len(queries))
    chosen = queries[np.linspace(0, len(queries) - 1, count).astype(int)]

    def cell(i: int) -> dict[str, str]:
        picture = html.data_uri(html.shrunk(sample.crops[i], _TILE))
        word = _word(int(labels[i]), classes)
        return {"name": sample.names[i], "image": picture, "label": word}

    near = maps.neighbours(sample.values, chosen, _NEIGHBOURS)
    return [
        {**cell(query), "others": [cell(other) for other in others]}
        for query, others in zip(chosen.tolist(), near.tolist(), strict=True)
    ]


def palette(classes: list[int]) -> dict[int, str]:
    """A colour per class; -1, no label, is grey."""
    known = [label for label in classes if label >= 0]
    name = "tab10" if len(known) <= 10 else "tab20" if len(known) <= 20 else "hsv"
    colours = matplotlib.colormaps[name]
    picked = {
        label: matplotlib.colors.to_hex(colours(rank / len(known) if name == "hsv" else rank))
        for rank, label in enumerate(known)
    }
    return {-1: _GREY, **picked}


def _maps(sample: _Sample, classes: tuple[str, ...]) -> dict[str, Any]:
    """Both maps, and what a point shows."""
    labels = [int(label) for label in sample.labels]
    present = sorted({*labels} - {-1})
    colours = palette(present)
    sprite = html.sprite(list(sample.crops), _THUMBNAIL)
    components = maps.principal(sample.values)
    places = {
        "pca": placed(components.coordinates[:, :2]),
        "tsne": placed(maps.tsne(components)),
    }
    legend = [
        {"name": _word(label, classes) or "no label", "colour": colours[label]}
        for label in ([*present, -1] if -1 in labels else present)
    ]
    return {
        "maps": [
            {"key": "pca", "title": "PCA"},
            {"key": "tsne", "title": "t-SNE of the first 50 principal components"},
        ],
        "variance": f"{100 * components.shares[:2].sum():.0f}",
        "labelled": bool(present),
        "legend": legend if present and len(present) <= _LEGEND else [],
        "points": {
            **sprite._asdict(),
            "maps": places,
            "names": sample.names,
            "labels": [_word(label, classes) for label in labels],
            "colours": [colours[label] for label in labels],
        },
    }


def placed(coordinates: np.ndarray) -> list[list[float]]:
    """Coordinates `[N, 2]` on a map, both axes at one scale, y upwards, with a margin around."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    extent = max(float((high - low).max()), 1e-12)
    offset = (coordinates - (low + high) / 2) / extent * (_SIDE - 2 * _MARGIN)
    x, y = _SIDE / 2 + offset[:, 0], _SIDE / 2 - offset[:, 1]
    return [[round(float(a), 1), round(float(b), 1)] for a, b in zip(x, y, strict=True)]
