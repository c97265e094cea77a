import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from byol_jax.errors import UserError
from byol_jax.evals import logistic


def make_set(n: int, num_classes: int, seed: int, dim: int = 6, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dim))
    labels = np.arange(n) % num_classes
    return centres[labels] + noise * rng.normal(size=(n, dim)), labels


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def gradients(model, features, labels, l2):
    """Of (1/N) sum CE + l2/(2N) |W|^2 with respect to weights and bias."""
    n = len(labels)
    error = softmax(features @ model.weights + model.bias)
    for i, label in enumerate(labels):
        error[i, list(model.classes).index(label)] -= 1
    return features.T @ error / n + l2 / n * model.weights, error.sum(axis=0) / n


def test_standardize_by_hand():
    train = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 2e-7]], np.float32)
    other = np.array([[4.0, 5.0, 1e-7]], np.float32)
    # Means 2, 5, 1e-7; deviations 1, 0 and 1e-7, the last two floored at 1e-6.
    a, b = logistic.standardize(train, other)
    np.testing.assert_allclose(a, [[-1, 0, -0.1], [1, 0, 0.1]], atol=1e-6)
    np.testing.assert_allclose(b, [[2, 0, 0]], atol=1e-6)
    assert a.dtype == b.dtype == np.float64


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [0.1, 30.0])
def test_gradient_vanishes_at_the_solution(num_classes, l2):
    features, labels = make_set(90, num_classes, seed=0)
    labels = 2 * labels + 1  # classes need not be 0 .. K - 1
    model = logistic.fit(features, labels, l2, max_iter=2000, tol=1e-9)
    assert model.weights.shape == (6, num_classes)
    assert np.abs(model.weights).max() > 0.05
    for gradient in gradients(model, features, labels, l2):
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
    # Elsewhere it does not: the penalty has this weight and no other.
    assert np.abs(gradients(model, features, labels, 2 * l2)[0]).max() > 1e-5


@pytest.mark.parametrize("shares", [(60, 30, 10), (70, 30)])
def test_bias_is_free_of_the_penalty(shares):
    labels = np.repeat(np.arange(len(shares)), shares)
    features = np.random.default_rng(1).normal(size=(100, 4)) + labels[:, None]
    features = features - features.mean(axis=0)
    model = logistic.fit(features, labels, 1e9, max_iter=2000, tol=1e-9)
    probabilities = softmax(features @ model.weights + model.bias)
    np.testing.assert_allclose(probabilities, np.tile(shares, (100, 1)) / 100, atol=1e-4)
    assert set(logistic.predict(model, features)) == {0}


def test_predict_and_top1_by_hand():
    model = logistic.Model(
        np.array([3, 7]), np.array([[1.0, -1.0], [0.0, 2.0]]), np.array([0.0, 0.5])
    )
    # Logits: (1, -0.5), (0, 2.5), (0, 0.5).
    predictions = logistic.predict(model, np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    assert predictions.tolist() == [3, 7, 7]
    assert logistic.top1(predictions, np.array([3, 7, 3])) == pytest.approx(200 / 3)


def test_validation_cut_is_balanced():
    labels = np.array([4] * 10 + [0] * 5 + [9] + [2] * 2)[np.random.default_rng(0).permutation(18)]
    kept, held_out = logistic.validation_cut(labels, 0.2, seed=0)
    assert sorted([*kept, *held_out]) == list(range(18))
    counts = {label: int((labels[held_out] == label).sum()) for label in (4, 0, 9, 2)}
    assert counts == {4: 2, 0: 1, 9: 0, 2: 1}
    np.testing.assert_array_equal(logistic.validation_cut(labels, 0.2, seed=0)[1], held_out)
    others = [logistic.validation_cut(labels, 0.2, seed=seed)[1] for seed in range(1, 6)]
    assert any(list(other) != list(held_out) for other in others)


def test_select_l2_against_a_plain_loop():
    features, labels = make_set(60, 3, seed=2, dim=30, noise=2.5)
    grid = [1e-3, 1.0, 30.0, 1e3, 1e5]
    kept, held_out = logistic.validation_cut(labels, 0.2, seed=3)
    scores = []
    for l2 in grid:
        model = logistic.fit(features[kept], labels[kept], l2, max_iter=5000, tol=1e-8)
        scores.append(np.mean(logistic.predict(model, features[held_out]) == labels[held_out]))
    assert len(set(scores)) > 1
    expected = max(l2 for l2, score in zip(grid, scores, strict=True) if score == max(scores))
    for candidates in (grid, grid[::-1]):
        chosen = logistic.select_l2(
            features, labels, l2_grid=candidates, seed=3, max_iter=5000, tol=1e-8
        )
        assert chosen == expected


def test_select_l2_takes_the_largest_of_equals():
    features, labels = make_set(60, 3, seed=2, noise=0.01)
    assert logistic.select_l2(features, labels, l2_grid=(0.01, 1.0, 0.1)) == 1.0


def test_linear_top1_refits_on_the_whole_training_set():
    train, train_labels = make_set(60, 3, seed=4, noise=2.0)
    test, test_labels = make_set(200, 3, seed=5, noise=2.0)
    accuracy, l2 = logistic.linear_top1(train, train_labels, test, test_labels, l2_grid=[2.0])
    assert l2 == 2.0
    mean, std = train.mean(axis=0), train.std(axis=0)
    model = logistic.fit((train - mean) / std, train_labels, 2.0)
    right = logistic.predict(model, (test - mean) / std) == test_labels
    assert accuracy == pytest.approx(100 * right.mean())
    assert 34 < accuracy < 100


def test_the_test_set_has_no_say():
    train, train_labels = make_set(90, 3, seed=6)
    rows = np.flatnonzero((train_labels == 1) | (np.arange(90) < 45))  # class 1 is the frequent one
    train, train_labels = train[rows], train_labels[rows]
    test, test_labels = make_set(60, 3, seed=7)
    grid = [1.0, 1e8]
    accuracy, l2 = logistic.linear_top1(train, train_labels, test, test_labels, l2_grid=grid)
    assert l2 == 1.0 and accuracy > 50
    # On a test set of nothing but class 1, l2=1e8 would be the better choice: it never says
    # anything else.
    ones = np.ones_like(test_labels)
    assert logistic.linear_top1(train, train_labels, test, ones, l2_grid=[1e8])[0] == 100
    adverse, l2 = logistic.linear_top1(train, train_labels, test, ones, l2_grid=grid)
    assert l2 == 1.0 and adverse < 100


def test_default_grid_is_the_range_of_the_paper():
    np.testing.assert_allclose(logistic.L2_GRID, [10.0**power for power in range(-6, 6)])


def test_only_convergence_warnings_are_silenced(monkeypatch):
    features, labels = make_set(60, 3, seed=8)
    solve = logistic.LogisticRegression.fit

    def warn_and_solve(*args):
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
        return solve(*args)

    monkeypatch.setattr(logistic.LogisticRegression, "fit", warn_and_solve)
    with pytest.warns(RuntimeWarning, match="something else") as caught:
        logistic.fit(features, labels, 1e-6, max_iter=2)
    assert len(caught) == 1
    with pytest.warns(ConvergenceWarning):
        solve(logistic.LogisticRegression(max_iter=2), features, labels)


def test_missing_labels_are_refused():
    features, labels = make_set(30, 3, seed=9)
    holed = np.where(np.arange(30) == 4, -1, labels)
    for call in (
        lambda: logistic.fit(features, holed, 1.0),
        lambda: logistic.select_l2(features, holed),
        lambda: logistic.linear_top1(features, holed, features, labels),
        lambda: logistic.linear_top1(features, labels, features, holed),
    ):
        with pytest.raises(ValueError, match="1 of 30 examples"):
            call()


def test_users_mistakes():
    features, labels = make_set(30, 3, seed=9)
    for message, call in (
        ("l2=0", lambda: logistic.fit(features, labels, 0)),
        ("l2=-1", lambda: logistic.select_l2(features, labels, l2_grid=[1.0, -1.0])),
        ("grid", lambda: logistic.select_l2(features, labels, l2_grid=[])),
        ("not 1", lambda: logistic.fit(features, labels * 0, 1.0)),
        ("fraction", lambda: logistic.select_l2(features, labels, validation_fraction=1.0)),
        ("two training", lambda: logistic.select_l2(features[:3], labels[:3])),
        ("labelled", lambda: logistic.fit(features[:0], labels[:0], 1.0)),
    ):
        with pytest.raises(UserError, match=message):
            call()
