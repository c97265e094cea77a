"""Scores worked out by hand, against scikit-learn and naive loops."""

import itertools

import numpy as np
import pytest
import sklearn.metrics

from byol_jax.results import scores


def test_top_k_by_hand() -> None:
    ranked = np.array([[3, 1], [0, 2], [2, 0], [1, 1]])
    labels = np.array([1, 2, 2, 0])
    assert scores.top_k(ranked, labels) == 75.0
    assert scores.top_k(ranked[:, :1], labels) == 25.0
    assert scores.top_k(ranked[:1, :1], labels[:1]) == 0.0


def test_top_k_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 7)), np.arange(200) % 7
    ranked = np.argsort(-logits, axis=1)
    for k in (1, 3, 5):
        reference = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k)
        assert scores.top_k(ranked[:, :k], labels) == pytest.approx(100 * reference, rel=1e-12)


def test_top1_by_hand() -> None:
    assert scores.top1(np.array([0, 2, 1]), np.array([0, 2, 0])) == pytest.approx(200 / 3)
    assert scores.top1(np.array([4]), np.array([4])) == 100.0


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((3, 1), (3,)), ((3, 1), (3, 1))])
@pytest.mark.parametrize("score", [scores.top1, scores.mean_per_class])
def test_shapes_that_numpy_would_broadcast(score, shapes) -> None:
    with pytest.raises(AssertionError):
        score(*(np.zeros(shape, int) for shape in shapes))


def test_mean_per_class_by_hand() -> None:
    """Classes 0, 1 and 7 occur: 3 of 4, 0 of 1 and 1 of 1 are right; 5 is only predicted."""
    labels = np.array([0, 0, 0, 0, 1, 7])
    predictions = np.array([0, 0, 5, 0, 0, 7])
    assert scores.mean_per_class(predictions, labels) == pytest.approx(100 * 1.75 / 3, rel=1e-15)
    assert scores.mean_per_class(labels, labels) == 100.0
    assert scores.mean_per_class(predictions[:4], labels[:4]) == 75.0  # a single class


def test_mean_per_class_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(9, 300, p=np.arange(1, 10) / 45)
    predictions = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 9, 300))
    reference = sklearn.metrics.balanced_accuracy_score(labels, predictions)
    result = scores.mean_per_class(predictions, labels)
    assert result == pytest.approx(100 * reference, rel=1e-12)
    assert abs(result - scores.top1(predictions, labels)) > 0.1


def naive_11(values: np.ndarray, relevant: np.ndarray) -> float:
    """Precision and recall at each score as a threshold, from scikit-learn."""
    kept = relevant >= 0
    precision, recall, _ = sklearn.metrics.precision_recall_curve(relevant[kept], values[kept])
    # The last point, precision 1 at recall 0, is of no threshold.
    pairs = list(zip(precision[:-1], recall[:-1], strict=True))
    best = [max(p for p, r in pairs if r >= tenths / 10 - 1e-9) for tenths in range(11)]
    return 100 * sum(best) / 11


def test_average_precision_by_hand() -> None:
    """Hits at ranks 1 and 3 of 4: precision 1 up to recall 1/2, 2/3 from there on."""
    values, relevant = np.array([0.1, 0.9, 0.5, 0.7]), np.array([0, 1, 1, 0])
    expected = 100 * (6 * 1 + 5 * 2 / 3) / 11
    assert scores.average_precision_11(values, relevant) == pytest.approx(expected, rel=1e-15)


def test_average_precision_takes_the_best_precision_from_a_recall_on() -> None:
    """Hits at ranks 2 and 3: precisions 1/2 and 2/3, and 2/3 is the best from every recall on."""
    values, relevant = np.array([3.0, 2.0, 1.0]), np.array([0, 1, 1])
    assert scores.average_precision_11(values, relevant) == pytest.approx(200 / 3, rel=1e-15)


def test_average_precision_at_a_recall_that_is_a_tenth() -> None:
    """Of 10 relevant ones the third is the last before 90 others: 4 points of 1, 7 of 10/100."""
    relevant = np.array([1] * 3 + [0] * 90 + [1] * 7)
    expected = 100 * (4 + 7 * 10 / 100) / 11
    result = scores.average_precision_11(-np.arange(100.0), relevant)
    assert result == pytest.approx(expected, rel=1e-14)


def test_average_precision_ignores_what_is_ignored() -> None:
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    relevant = np.array([-1, 1, -1, 0, 1])
    kept = relevant >= 0
    whole = scores.average_precision_11(values[kept], relevant[kept])
    assert scores.average_precision_11(values, relevant) == whole
    assert scores.average_precision_11(values, np.maximum(relevant, 0)) < whole


def test_average_precision_does_not_depend_on_the_order_of_equals() -> None:
    """All scores equal: precision is the share of relevant examples in any order."""
    for relevant in itertools.permutations([1, 0, 0, 1, 0]):
        result = scores.average_precision_11(np.zeros(5), np.array(relevant))
        assert result == pytest.approx(40.0, rel=1e-15)


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevant = rng.choice([-1, 0, 1], 60, p=[0.1, 0.6, 0.3])
    values = rng.normal(size=60) + relevant
    if seed % 2:
        values = np.round(values)  # many equals
    expected = naive_11(values, relevant)
    assert 0 < expected < 100
    assert scores.average_precision_11(values, relevant) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("relevant", [[0, 0, 0], [0, -1, 0], [-1, -1, -1]])
def test_nothing_relevant(relevant: list[int]) -> None:
    with pytest.raises(ValueError, match="there is none"):
        scores.average_precision_11(np.arange(3.0), np.array(relevant))
    with pytest.raises(ValueError, match="there is none"):
        scores.map_11(np.arange(3.0)[:, None], np.array(relevant)[:, None])


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="1 of 3 scores are not numbers"):
        scores.average_precision_11(np.array([1, np.nan, 0]), np.array([1, 0, 1]))


def test_map_is_the_mean_over_classes_that_occur() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 4))
    relevant = rng.choice([-1, 0, 1], (40, 4), p=[0.1, 0.6, 0.3])
    relevant[:, 2] = np.minimum(relevant[:, 2], 0)
    expected = np.mean([naive_11(values[:, k], relevant[:, k]) for k in (0, 1, 3)])
    assert scores.map_11(values, relevant) == pytest.approx(expected, rel=1e-12)
    single = scores.map_11(values[:, :1], relevant[:, :1])
    assert single == pytest.approx(naive_11(values[:, 0], relevant[:, 0]), rel=1e-12)
