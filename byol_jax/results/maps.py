"""Representations as something to look at: their nearest neighbours, and maps in the plane."""

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


def principal(values: np.ndarray, components: int = 2) -> np.ndarray:
    """Coordinates of l2-normalised rows along their principal components, `[N, components]`."""
    left, singular, _ = _decomposed(values)
    coordinates = left[:, :components] * singular[:components]
    return np.pad(coordinates, ((0, 0), (0, components - coordinates.shape[1])))


def share_of_variance(values: np.ndarray, components: int = 2) -> float:
    """How much of the variance of l2-normalised rows the first principal components have, in %."""
    variances = np.square(_decomposed(values)[1])
    total = float(variances.sum())
    return 100 * float(variances[:components].sum()) / total if total else 0.0


def _decomposed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The singular value decomposition of centred, l2-normalised rows; rounding counts as 0."""
    rows = directions(values)
    left, singular, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    rounding = len(rows) * np.finfo(np.float64).eps
    return left, np.where(singular > rounding, singular, 0.0), right


def tsne(values: np.ndarray) -> np.ndarray:
    """t-SNE of l2-normalised rows in the plane, `[N, 2]`, as SimCLR Figure B.4; N >= `FEWEST`.

    The same rows give the same map: it starts from the principal components. Rows that all agree,
    as those of a collapsed network, have one place.
    """
    rows = principal(values, min(_COMPONENTS, *values.shape))
    if not rows.any():
        return np.zeros((len(rows), 2))
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    coordinates = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(rows)
    return np.asarray(coordinates, np.float64)
