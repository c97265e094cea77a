"""Representations as something to look at: their nearest neighbours, and maps in the plane."""

from typing import NamedTuple

import numpy as np
from sklearn.manifold import TSNE

# Fewer images make no map.
FEWEST = 8
# Numbers of an image that t-SNE sees: more of them cost time and change little.
_COMPONENTS = 50
_PERPLEXITY = 30.0


def directions(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64 `[N, D]`; a row of zeros stays one."""
    rows = values.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def neighbours(values: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The nearest other rows by cosine, nearest first: int64 `[Q, min(count, N - 1)]`.

    Args:
      values: features `[N, D]`.
      queries: positions of the rows whose neighbours are looked for, `[Q]`.
      count: neighbours per query.
    """
    rows = directions(values)
    cosines = rows[queries] @ rows.T
    cosines[np.arange(len(queries)), queries] = -np.inf  # an image is no neighbour of itself
    order = np.argsort(-cosines, axis=1, kind="stable")
    return order[:, : min(count, len(rows) - 1)]


class Components(NamedTuple):
    """Rows along their principal components.

    Attributes:
      coordinates: `[N, k]`, the components with the most variance first.
      shares: share of the variance that each of them has, `[k]`; zeros if there is none.
    """

    coordinates: np.ndarray
    shares: np.ndarray


def principal(values: np.ndarray, components: int = _COMPONENTS) -> Components:
    """Principal components of l2-normalised rows; further ones than there are, are 0.

    Args:
      values: features `[N, D]`.
      components: k.
    """
    rows = directions(values)
    left, singular, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    # Rows that agree up to rounding have no directions.
    singular = np.where(singular > len(rows) * np.finfo(np.float64).eps, singular, 0.0)
    shares = np.square(singular) / max(float(np.square(singular).sum()), np.finfo(np.float64).tiny)
    coordinates = (left * singular)[:, :components]
    missing = components - coordinates.shape[1]
    return Components(
        np.pad(coordinates, ((0, 0), (0, missing))), np.pad(shares[:components], (0, missing))
    )


def tsne(components: Components) -> np.ndarray:
    """t-SNE of principal components in the plane, `[N, 2]`, as SimCLR Figure B.4; N >= `FEWEST`.

    The same rows give the same map: it starts from the principal components. Rows that all agree,
    as those of a collapsed network, have one place.
    """
    rows = components.coordinates
    if not rows.any():
        return np.zeros((len(rows), 2))
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    coordinates = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(rows)
    return np.asarray(coordinates, np.float64)
