"""The measures of BYOL Table 10, in percent, and what chance has to do with them."""

from typing import NamedTuple

import chex
import numpy as np
import scipy.stats


def top_k(ranked: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples whose class is among the k best ones, in percent (BYOL App. D.1, E.1).

    Args:
      ranked: classes int `[M, k]`, the best one first.
      labels: int `[M]`.
    """
    chex.assert_rank([ranked, labels], [2, 1])
    chex.assert_equal_shape_prefix([ranked, labels], 1)
    return 100.0 * float(np.mean(np.any(ranked == labels[:, None], axis=1)))


def top1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of right predictions in percent (BYOL App. E.1): `[M]`, `[M]` -> scalar."""
    chex.assert_rank([predictions, labels], 1)
    chex.assert_equal_shape([predictions, labels])
    return 100.0 * float(np.mean(predictions == labels))


def mean_per_class(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of their top-1 accuracies in percent (BYOL App. E.1).

    Classes without a label are left out, whether they are predicted or not.

    Args:
      predictions, labels: int `[M]`.
    """
    chex.assert_rank([predictions, labels], 1)
    chex.assert_equal_shape([predictions, labels])
    _, rows, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 100.0 * float(np.mean(np.bincount(rows, predictions == labels) / counts))


def average_precision_11(scores: np.ndarray, relevant: np.ndarray) -> float:
    """11-point interpolated average precision in percent (PASCAL VOC 2007; BYOL Table 10).

    The mean over recalls r = 0, 0.1, ..., 1 of the best precision at a recall of r or more
    (Everingham et al., 2010, section 4.2). Examples of equal score are retrieved together, so
    their order does not matter.

    Args:
      scores: float `[M]`; the larger, the surer.
      relevant: int `[M]`: 1 if the class is present, 0 if not, -1 if the example is ignored.

    Raises:
      ValueError: no example is relevant, or a score is not a number.
    """
    chex.assert_rank([scores, relevant], 1)
    chex.assert_equal_shape([scores, relevant])
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are not numbers")
    counted = relevant >= 0
    if not np.any(relevant == 1):
        raise ValueError("average precision needs a relevant example: there is none")
    order = np.argsort(-scores[counted], kind="stable")
    ranked, hits = scores[counted][order], np.cumsum(relevant[counted][order])
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    retrieved, hits = 1 + np.flatnonzero(last_of_equals), hits[last_of_equals]
    precision = hits / retrieved
    # Recalls are compared as whole numbers, since 0.1 * 3 > 0.3 in floating point.
    points = [precision[10 * hits >= tenths * hits[-1]].max() for tenths in range(11)]
    return 100.0 * float(np.mean(points))


def map_11(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean of `average_precision_11` over the classes that occur, in percent (BYOL Table 10).

    Args:
      scores: float `[M, K]`.
      relevant: int `[M, K]` of 1, 0 and -1. A class without a 1 is left out.

    Raises:
      ValueError: no class occurs, or a score is not a number.
    """
    chex.assert_rank([scores, relevant], 2)
    chex.assert_equal_shape([scores, relevant])
    occur = np.flatnonzero((relevant == 1).any(axis=0))
    if not occur.size:
        raise ValueError("mean average precision needs a relevant example: there is none")
    return float(np.mean([average_precision_11(scores[:, k], relevant[:, k]) for k in occur]))


def binomial_error(accuracy: float, count: int) -> float:
    """Standard error of an accuracy on `count` examples, sqrt(p (1 - p) / N), both in percent.

    It is that of drawing other test examples, not that of training again.
    """
    share = accuracy / 100
    return 100.0 * (share * (1 - share) / count) ** 0.5


class Comparison(NamedTuple):
    """Two classifiers on the same N examples.

    Attributes:
      top1: accuracy of each in percent.
      only: number of examples that only the first, and only the second, gets right.
      p_value: probability of a difference as large or larger if both were equally good.
      standard_error: of the difference of the accuracies, in percent.
    """

    top1: tuple[float, float]
    only: tuple[int, int]
    p_value: float
    standard_error: float


def compare(first: np.ndarray, second: np.ndarray) -> Comparison:
    """The exact McNemar test of a difference in accuracy, two-sided.

    SimCLR App. B.8.1 exchanges the predictions of two models for each example at random, and notes
    that for top-1 accuracy "this procedure yields the same result as the exact McNemar test": of
    the examples that only one of both gets right, each is as likely to be right in either.

    Args:
      first, second: whether each example is right, bool `[N]`.
    """
    chex.assert_rank([first, second], 1)
    chex.assert_equal_shape([first, second])
    count = len(first)
    only = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    differing = sum(only)
    p_value = scipy.stats.binomtest(only[0], differing).pvalue if differing else 1.0
    variance = differing / count - ((only[0] - only[1]) / count) ** 2
    return Comparison(
        top1=(100.0 * float(np.mean(first)), 100.0 * float(np.mean(second))),
        only=only,
        p_value=float(p_value),
        standard_error=100.0 * (variance / count) ** 0.5,
    )
