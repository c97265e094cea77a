"""The solver beside scikit-learn and naive loops, and how l2 is chosen."""

import logging
import warnings

import jax
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from byol_jax.errors import UserError
from byol_jax.evals.probes import logistic


@pytest.fixture(autouse=True)
def in_double_precision():
    """So that differences are those of the algorithm; float32 has tests of its own."""
    with jax.enable_x64(True):
        yield


def make_set(n: int, num_classes: int, seed: int, dim: int = 6, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dim))
    labels = np.arange(n) % num_classes
    return centres[labels] + noise * rng.normal(size=(n, dim)), labels


def relu_features(n: int, dim: int, num_classes: int, seed: int):
    """Like those of a network: correlated, none negative, of a spectrum that falls."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    rank = 64
    centres = fixed.normal(size=(num_classes, rank))
    mix = fixed.normal(size=(rank, dim)) / np.sqrt(4 * np.arange(1, rank + 1)[:, None])
    offset = 0.3 * fixed.normal(size=dim)
    labels = np.arange(n) % num_classes
    hidden = 0.35 * centres[labels] + rng.normal(size=(n, rank))
    return np.maximum(hidden @ mix + offset + 0.3 * rng.normal(size=(n, dim)), 0), labels


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def objective(model, features, labels, l2):
    """(1/N) sum CE + l2/(2N) |W|^2."""
    weights = model.weights.astype(np.float64)
    logits = features @ weights + model.bias
    shifted = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    right = shifted[rows, np.searchsorted(model.classes, labels)]
    cross_entropy = np.log(np.exp(shifted).sum(axis=1)) - right
    return cross_entropy.mean() + l2 / 2 / len(labels) * np.sum(weights**2)


def gradients(model, features, labels, l2):
    """Of the objective with respect to weights and bias, example by example."""
    n = len(labels)
    weights, bias = l2 / n * model.weights, np.zeros_like(model.bias)
    for row, label in zip(features, labels, strict=True):
        error = softmax((row @ model.weights + model.bias)[None])[0]
        error[list(model.classes).index(label)] -= 1
        weights = weights + np.outer(row, error) / n
        bias = bias + error / n
    return weights, bias


def oracle(features, labels, l2, max_iter=1000, tol=1e-4):
    """scikit-learn's solution as a `Model`."""
    # It minimises C * sum CE + |W|^2 / 2. For two classes it fits the one vector w = w1 - w0;
    # a softmax has w1 = -w0 = w / 2 at its optimum, hence |W|^2 = |w|^2 / 2.
    binary = len(np.unique(labels)) == 2
    regression = LogisticRegression(C=(2 if binary else 1) / l2, max_iter=max_iter, tol=tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ConvergenceWarning)
        regression.fit(features, labels)
    weights, bias = regression.coef_.T, regression.intercept_
    if binary:
        weights = np.concatenate([-weights, weights], axis=1) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return logistic.Model(regression.classes_, weights, bias)


@pytest.mark.parametrize(
    ("size", "dim", "grid"),
    [
        (300, 60, np.logspace(-6, 5, 12)),
        (60, 100, np.logspace(-6, 5, 6)),  # more features than examples
        pytest.param(2000, 512, logistic.L2_GRID, marks=pytest.mark.slow),
    ],
)
def test_no_worse_than_scikit_learn_at_any_penalty(size, dim, grid):
    features, labels = relu_features(size, dim, 10, seed=0)
    test, test_labels = relu_features(size, dim, 10, seed=1)
    models = logistic.fit_path(features, labels, grid)
    for model, l2 in zip(models, grid, strict=True):
        result = objective(model, features, labels, l2)
        for tol in (1e-4, 1e-8):
            reference = oracle(features, labels, l2, tol=tol)
            assert result <= objective(reference, features, labels, l2) + 1e-6, (l2, tol)
        if l2 >= 1:
            right = [logistic.predict(m, test) == test_labels for m in (model, reference)]
            assert abs(right[0].sum() - right[1].sum()) <= 1, l2


def test_float32_reaches_what_float64_does():
    features, labels = relu_features(300, 60, 10, seed=0)
    single = features.astype(np.float32)
    for l2, model, exact in zip(
        logistic.SHORT_GRID,
        logistic.fit_path(single, labels, logistic.SHORT_GRID),
        logistic.fit_path(features, labels, logistic.SHORT_GRID),
        strict=True,
    ):
        assert model.weights.dtype == model.bias.dtype == np.float32
        assert exact.weights.dtype == np.float64
        excess = objective(model, features, labels, l2) - objective(exact, features, labels, l2)
        assert -1e-9 < excess < 1e-6, l2


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("l2", [0.1, 30.0])
def test_gradient_vanishes_at_the_solution(num_classes, l2):
    features, labels = make_set(90, num_classes, seed=0)
    labels = 2 * labels + 1  # classes need not be 0 .. K - 1
    model = logistic.fit(features, labels, l2, tol=1e-9)
    assert model.classes.tolist() == list(range(1, 2 * num_classes, 2))
    assert model.weights.shape == (6, num_classes)
    assert np.abs(model.weights).max() > 0.05
    for gradient in gradients(model, features, labels, l2):
        np.testing.assert_allclose(gradient, 0, atol=1e-8)
    # Elsewhere it does not: the penalty has this weight and no other.
    assert np.abs(gradients(model, features, labels, 2 * l2)[0]).max() > 1e-5


@pytest.mark.parametrize(("num_classes", "dim"), [(2, 6), (4, 40)])
def test_weights_are_those_of_scikit_learn(num_classes, dim):
    features, labels = make_set(30, num_classes, seed=3, dim=dim)
    result = logistic.fit(features, labels, 0.7, tol=1e-9)
    reference = oracle(features, labels, 0.7, max_iter=5000, tol=1e-10)
    np.testing.assert_allclose(result.weights, reference.weights, atol=1e-5)
    np.testing.assert_allclose(result.bias - result.bias.mean(), reference.bias, atol=1e-5)


def test_two_examples_by_hand():
    model = logistic.fit(np.array([[-1.0], [1.0]]), np.array([0, 1]), 0.5, tol=1e-10)
    # With w1 = -w0 = u / 2 the objective is log(1 + exp(-u)) + (0.5 / 4) (u^2 / 2).
    u = 2 * model.weights[0, 1]
    assert model.weights[0, 0] == pytest.approx(-u / 2)
    assert 1 / (1 + np.exp(u)) == pytest.approx(0.5 / 4 * u)
    np.testing.assert_allclose(model.bias, 0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separable_classes_and_the_weakest_penalties(dtype):
    features, labels = make_set(60, 3, seed=1, noise=0.05)
    models = logistic.fit_path(features.astype(dtype), labels, [1e-6, 1e-12, 1e5])
    for model, loss in zip(models, [1e-5, 1e-5, 2], strict=True):
        assert np.isfinite(model.weights).all() and np.isfinite(model.bias).all()
        assert objective(model, features, labels, 0) < loss
    assert (logistic.predict(models[0], features) == labels).all()


def test_a_penalty_does_not_depend_on_its_company():
    features, labels = relu_features(60, 6, 3, seed=2)
    (alone,) = logistic.fit_path(features, labels, [3.0], tol=1e-10)
    grid = [1e-6, 3.0, 1e5, 1e-3, 1e3, *np.logspace(-2, 2, 8)]
    among = logistic.fit_path(features, labels, grid, tol=1e-10)
    assert len(among) == 13
    np.testing.assert_allclose(among[1].weights, alone.weights, atol=1e-7)
    sizes = [np.sum(model.weights**2) for model in among]
    assert np.argsort(sizes).tolist() == np.argsort([-l2 for l2 in grid]).tolist()


def test_small_groups_change_nothing(monkeypatch):
    features, labels = relu_features(60, 6, 3, seed=2)
    grid = np.logspace(-2, 2, 5)
    whole = logistic.fit_path(features, labels, grid, tol=1e-10)
    monkeypatch.setattr(logistic, "_GROUP_NUMBERS", 2 * 3 * (4 * 60 + 20 * 7) + 1)
    parts = logistic.fit_path(features, labels, grid, tol=1e-10)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_constant_and_repeated_features():
    features, labels = make_set(60, 3, seed=5)
    model = logistic.fit(features, labels, 1.0)
    doubled = np.concatenate([features, np.ones((60, 2)), features], axis=1)
    more = logistic.fit(doubled, labels, 2.0)  # w / 2 twice: half the squares
    np.testing.assert_allclose(more.weights[:6], model.weights / 2, atol=1e-5)
    np.testing.assert_allclose(more.weights[6:8], 0, atol=1e-6)
    np.testing.assert_allclose(more.weights[8:], model.weights / 2, atol=1e-5)


@pytest.mark.parametrize("shares", [(60, 30, 10), (70, 30)])
def test_bias_is_free_of_the_penalty(shares):
    labels = np.repeat(np.arange(len(shares)), shares)
    features = np.random.default_rng(1).normal(size=(100, 4)) + labels[:, None]
    model = logistic.fit(features, labels, 1e9, tol=1e-9)
    probabilities = softmax(features @ model.weights + model.bias)
    np.testing.assert_allclose(probabilities, np.tile(shares, (100, 1)) / 100, atol=1e-4)
    assert set(logistic.predict(model, features)) == {0}


def multi_label_set(n: int, seed: int):
    features, _ = make_set(n, 3, seed=seed, noise=1.5)
    rng = np.random.default_rng(seed)
    targets = (features[:, :4] + rng.normal(size=(n, 4)) > 0.5).astype(int)
    targets[rng.random((n, 4)) < 0.1] = -1
    return features, targets


@pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
def test_several_classes_an_example_are_one_versus_rest(l2):
    features, targets = multi_label_set(80, seed=4)
    assert {*targets.ravel()} == {-1, 0, 1}
    model = logistic.fit(features, targets, l2, loss="sigmoid", tol=1e-9)
    assert model.classes.tolist() == [0, 1, 2, 3]
    for k in range(4):
        is_given = targets[:, k] >= 0
        regression = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-10)
        regression.fit(features[is_given], targets[is_given, k])
        np.testing.assert_allclose(model.weights[:, k], regression.coef_[0], atol=1e-5)
        np.testing.assert_allclose(model.bias[k], regression.intercept_[0], atol=1e-5)


def test_a_class_that_no_example_shows_stays_finite():
    features, targets = multi_label_set(80, seed=4)
    targets[:, 2] = 0
    targets[:, 3] = -1
    model = logistic.fit(features, targets, 1e-6, loss="sigmoid")
    assert np.isfinite(model.weights).all() and np.isfinite(model.bias).all()
    assert (logistic.decision(model, features)[:, 2] < -5).all()


def test_a_class_missing_from_training_is_never_predicted():
    features, labels = make_set(60, 4, seed=0)
    model = logistic.fit(features[labels != 2], labels[labels != 2], 1.0)
    assert model.classes.tolist() == [0, 1, 3]
    predictions = logistic.predict(model, features)
    assert set(predictions) == {0, 1, 3}
    assert np.mean(predictions == labels) > 0.4


def test_draws_are_fitted_as_if_each_were_alone():
    features, labels = make_set(60, 3, seed=6, dim=30)
    rows = np.stack([np.random.default_rng(i).permutation(20)[:6] * 3 for i in range(5)])
    rows = np.concatenate([rows, rows + 1, rows + 2], axis=1)
    models = logistic.fit_draws(features, labels, rows, 0.5, tol=1e-10)
    for draw, model in zip(rows, models, strict=True):
        reference = oracle(features[draw], labels[draw], 0.5, max_iter=5000, tol=1e-10)
        assert model.classes.tolist() == reference.classes.tolist()
        np.testing.assert_allclose(model.weights, reference.weights, atol=1e-5)


def test_draws_in_small_groups(monkeypatch):
    features, labels = make_set(30, 3, seed=6)
    rows = np.stack([np.roll(np.arange(30), shift)[:6] for shift in range(5)])
    whole = logistic.fit_draws(features, labels, rows, 0.5, tol=1e-10)
    monkeypatch.setattr(logistic, "_GROUP_NUMBERS", 2 * (3 * (4 * 6 + 20 * 6) + 2 * 6 * 6))
    parts = logistic.fit_draws(features, labels, rows, 0.5, tol=1e-10)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)


def test_draws_of_different_classes_are_refused():
    features, labels = make_set(30, 3, seed=6)
    with pytest.raises(ValueError, match="different classes"):
        logistic.fit_draws(features, labels, np.array([[0, 1], [1, 2]]), 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardize_by_hand(dtype):
    train = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 2e-7]], dtype)
    other = np.array([[4.0, 5.0, 1e-7]], dtype)
    # Means 2, 5, 1e-7; deviations 1, 0 and 1e-7, the last two floored at 1e-6.
    a, b = logistic.standardize(train, other)
    np.testing.assert_allclose(a, [[-1, 0, -0.1], [1, 0, 0.1]], atol=1e-6)
    np.testing.assert_allclose(b, [[2, 0, 0]], atol=1e-6)
    assert a.dtype == b.dtype == dtype


def test_predict_by_hand():
    model = logistic.Model(
        np.array([3, 7]), np.array([[1.0, -1.0], [0.0, 2.0]]), np.array([0.0, 0.5])
    )
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert logistic.decision(model, features).tolist() == [[1, -0.5], [0, 2.5], [0, 0.5]]
    assert logistic.predict(model, features).tolist() == [3, 7, 7]


def test_validation_cut_is_balanced():
    labels = np.array([4] * 10 + [0] * 5 + [9] + [2] * 2)[np.random.default_rng(0).permutation(18)]
    kept, held_out = logistic.validation_cut(labels, 0.2, seed=0)
    assert sorted([*kept, *held_out]) == list(range(18))
    counts = {label: int((labels[held_out] == label).sum()) for label in (4, 0, 9, 2)}
    assert counts == {4: 2, 0: 1, 9: 0, 2: 1}
    np.testing.assert_array_equal(logistic.validation_cut(labels, 0.2, seed=0)[1], held_out)
    others = [logistic.validation_cut(labels, 0.2, seed=seed)[1] for seed in range(1, 6)]
    assert any(list(other) != list(held_out) for other in others)


@pytest.mark.parametrize(
    ("scores", "l2", "end"),
    [
        ([1, 3, 2, 0], 0.1, None),
        ([1, 3, 3, 0], 1.0, None),  # the largest of equals
        ([3, 2, 2, 0], 0.01, "low"),
        ([3, 3, 3, 3], 10.0, "high"),
    ],
)
def test_choice(scores, l2, end, caplog):
    grid = [0.01, 0.1, 1.0, 10.0]
    models = [logistic.Model(np.array([score]), np.zeros(1), np.zeros(1)) for score in scores]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            choice = logistic.choose(
                [models[i] for i in order], [grid[i] for i in order], lambda m: float(m.classes[0])
            )
        assert choice == (l2, max(scores), end)
        assert len(caplog.messages) == (end is not None)
        if end:
            assert caplog.messages[0].startswith(f"the best l2, {l2:g}, is at the {end} end of")


def test_one_candidate_is_no_end_of_a_grid(caplog):
    model = logistic.Model(np.array([0]), np.zeros(1), np.zeros(1))
    assert logistic.choose([model], [2.0], lambda _: 1.0).l2_at_end_of_grid is None
    assert not caplog.messages


def test_select_l2_against_a_plain_loop():
    features, labels = make_set(75, 3, seed=2, noise=2.5)
    grid = [1e-3, 1.0, 30.0, 1e3, 1e5]
    kept, held_out = logistic.validation_cut(labels, 0.2, seed=3)
    scores = []
    for l2 in grid:
        model = oracle(features[kept], labels[kept], l2, max_iter=5000, tol=1e-8)
        scores.append(np.mean(logistic.predict(model, features[held_out]) == labels[held_out]))
    assert len(set(scores)) > 1
    expected = max(l2 for l2, score in zip(grid, scores, strict=True) if score == max(scores))
    for candidates in (grid, grid[::-1]):
        choice = logistic.select_l2(features, labels, l2_grid=candidates, seed=3)
        assert choice.l2 == expected
        assert choice.score == pytest.approx(100 * max(scores))


def test_linear_top1_refits_on_the_whole_training_set():
    train, train_labels = make_set(75, 3, seed=4, noise=2.0)
    test, test_labels = make_set(200, 3, seed=5, noise=2.0)
    accuracy, choice = logistic.linear_top1(
        (train, train_labels), (test, test_labels), l2_grid=[2.0]
    )
    assert (choice.l2, choice.l2_at_end_of_grid) == (2.0, None)
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
    accuracy, choice = logistic.linear_top1(
        (train, train_labels), (test, test_labels), l2_grid=grid
    )
    assert choice.l2 == 1.0 and accuracy > 50
    # On a test set of nothing but class 1, l2=1e8 would be the better choice: it never says
    # anything else.
    ones = np.ones_like(test_labels)
    assert logistic.linear_top1((train, train_labels), (test, ones), l2_grid=[1e8]).top1 == 100
    adverse, choice = logistic.linear_top1((train, train_labels), (test, ones), l2_grid=grid)
    assert choice.l2 == 1.0 and adverse < 100


def test_grids_are_the_range_of_the_paper():
    np.testing.assert_allclose(logistic.SHORT_GRID, [10.0**power for power in range(-6, 6)])
    np.testing.assert_allclose(logistic.L2_GRID, [10 ** (-6 + i / 4) for i in range(45)])


def test_missing_labels_are_refused():
    features, labels = make_set(30, 3, seed=9)
    holed = np.where(np.arange(30) == 4, -1, labels)
    for call in (
        lambda: logistic.fit(features, holed, 1.0),
        lambda: logistic.fit_draws(features, holed, np.arange(30)[None], 1.0),
        lambda: logistic.select_l2(features, holed),
        lambda: logistic.linear_top1((features, holed), (features, labels)),
        lambda: logistic.linear_top1((features, labels), (features, holed)),
    ):
        with pytest.raises(ValueError, match="1 of 30 examples"):
            call()


def test_targets_that_mean_nothing_are_refused():
    features, targets = multi_label_set(20, seed=1)
    for wrong in (2, -2):
        with pytest.raises(ValueError, match="1, 0 or -1"):
            logistic.fit(features, np.where(targets == 1, wrong, targets), 1.0, loss="sigmoid")
    with pytest.raises(ValueError, match="loss='hinge'"):
        logistic.fit(features, targets, 1.0, loss="hinge")


def test_users_mistakes():
    features, labels = make_set(30, 3, seed=9)
    for message, call in (
        ("l2=0", lambda: logistic.fit(features, labels, 0)),
        ("l2=-1", lambda: logistic.select_l2(features, labels, l2_grid=[1.0, -1.0])),
        ("l2=nan", lambda: logistic.fit(features, labels, float("nan"))),
        ("grid", lambda: logistic.select_l2(features, labels, l2_grid=[])),
        ("not 1", lambda: logistic.fit(features, labels * 0, 1.0)),
        ("fraction", lambda: logistic.select_l2(features, labels, validation_fraction=1.0)),
        ("two training", lambda: logistic.select_l2(features[:3], labels[:3])),
        ("labelled", lambda: logistic.fit(features[:0], labels[:0], 1.0)),
        ("not finite", lambda: logistic.fit(np.where(features > 1, np.inf, features), labels, 1.0)),
        ("not finite", lambda: logistic.fit_path(features * np.nan, labels, [1.0, 2.0])),
    ):
        with pytest.raises(UserError, match=message):
            call()
