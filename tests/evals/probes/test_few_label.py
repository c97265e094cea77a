import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from byol_jax.errors import UserError
from byol_jax.evals.probes import few_label, logistic

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [31, 12, 20]))


def make_features(seed: int, labels=LABELS, dim: int = 8, noise: float = 1.5) -> np.ndarray:
    centres = np.random.default_rng(99).normal(size=(4, dim))
    return centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), dim))


def test_splits_are_disjoint_and_stratified():
    splits = few_label.label_splits(LABELS, 3, seed=0)
    rows = np.concatenate([rows for by_class in splits for rows in by_class])
    assert sorted(rows) == list(range(63))
    for by_class in splits:
        for label, (low, high), part in zip(
            [0, 1, 3], [(10, 11), (4, 4), (6, 7)], by_class, strict=True
        ):
            assert set(LABELS[part]) == {label}
            assert low <= len(part) <= high


@pytest.mark.parametrize("labels_per_class", [1, 2, 4])
def test_class_counts_of_draws(labels_per_class):
    drawn = few_label.draw_rows(LABELS, labels_per_class=labels_per_class, draws=5, splits=3)
    assert drawn.shape == (3, 5, 3 * labels_per_class)
    for rows in drawn.reshape(15, -1):
        assert len(set(rows)) == len(rows)
        assert sorted(LABELS[rows]) == sorted([0, 1, 3] * labels_per_class)


def test_draws_of_different_splits_share_no_label():
    drawn = few_label.draw_rows(LABELS, labels_per_class=2, draws=20, splits=3)
    seen = [set(split.ravel()) for split in drawn]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    for split, by_class in enumerate(few_label.label_splits(LABELS, 3, seed=0)):
        assert seen[split] <= set(np.concatenate(by_class))
    # 20 draws reach well beyond one draw of 6 rows.
    assert all(len(rows) > 15 for rows in seen)


def test_draws_are_keyed_on_seed_split_and_draw():
    drawn = few_label.draw_rows(LABELS, seed=4)
    np.testing.assert_array_equal(few_label.draw_rows(LABELS, seed=4), drawn)
    assert (few_label.draw_rows(LABELS, seed=5) != drawn).mean() > 0.5
    assert len({tuple(rows) for rows in drawn.reshape(60, -1)}) > 50
    # More draws begin with the same draws.
    np.testing.assert_array_equal(few_label.draw_rows(LABELS, seed=4, draws=7), drawn[:, :7])


def test_every_network_sees_the_same_draws(monkeypatch):
    by_network: list[np.ndarray] = []

    def spy(features, labels, rows, l2):
        np.testing.assert_array_equal(labels, LABELS)
        np.testing.assert_array_equal(features, logistic.standardize(values)[0])
        by_network.append(rows)
        return [logistic.Model(np.array([0]), np.zeros((8, 1)), np.zeros(1))] * len(rows)

    monkeypatch.setattr(few_label.logistic, "fit_draws", spy)
    for seed in (1, 2):
        values = make_features(seed)
        few_label.few_label_top1((values, LABELS), (values, LABELS), draws=3)
    np.testing.assert_array_equal(by_network[0], by_network[1])
    expected = few_label.draw_rows(LABELS, draws=3)
    np.testing.assert_array_equal(by_network[0].reshape(3, 3, 6), expected)


def test_mean_and_standard_error_by_hand():
    # Deviations -3, -1, 1, 3: variance 20 / 3, standard error sqrt(20 / 3) / sqrt(4).
    mean, error = few_label.mean_and_standard_error(np.array([[61.0, 63.0], [65.0, 67.0]]))
    assert mean == 64.0
    assert error == pytest.approx(np.sqrt(20 / 3) / 2)


def test_against_a_plain_loop():
    train, test_labels = make_features(1), np.arange(90) % 3
    test = make_features(2, test_labels)
    result = few_label.few_label_top1(
        (train, LABELS), (test, test_labels), labels_per_class=2, draws=4, splits=2, l2=0.5, seed=7
    )
    mean, std = train.mean(axis=0), train.std(axis=0)
    accuracies = []
    for rows in few_label.draw_rows(LABELS, draws=4, splits=2, seed=7).reshape(8, 6):
        oracle = LogisticRegression(C=2.0, max_iter=1000)
        oracle.fit((train[rows] - mean) / std, LABELS[rows])
        accuracies.append(100 * np.mean(oracle.predict((test - mean) / std) == test_labels))
    assert len(set(accuracies)) > 1
    np.testing.assert_allclose(result.top1.ravel(), accuracies)
    assert result.mean == pytest.approx(sum(accuracies) / 8)
    deviation = sum((accuracy - result.mean) ** 2 for accuracy in accuracies)
    assert result.standard_error == pytest.approx((deviation / 7) ** 0.5 / 8**0.5)
    np.testing.assert_allclose(
        result.split_means, [sum(accuracies[:4]) / 4, sum(accuracies[4:]) / 4]
    )


def test_is_deterministic_and_ignores_scale():
    train, test = make_features(1), make_features(2)
    first = few_label.few_label_top1((train, LABELS), (test, LABELS), draws=3)
    again = few_label.few_label_top1((train, LABELS), (test, LABELS), draws=3)
    scaled = few_label.few_label_top1((8 * train + 1, LABELS), (8 * test + 1, LABELS), draws=3)
    np.testing.assert_array_equal(first.top1, again.top1)
    np.testing.assert_allclose(first.top1, scaled.top1)


def test_too_few_examples_of_a_class():
    assert few_label.draw_rows(LABELS, labels_per_class=4, splits=3).shape == (3, 20, 12)
    with pytest.raises(UserError, match=r"15 training examples.* class 1 has 12"):
        few_label.draw_rows(LABELS, labels_per_class=5, splits=3)


@pytest.mark.parametrize("name", ["labels_per_class", "draws", "splits"])
def test_numbers_must_be_positive(name):
    with pytest.raises(UserError, match=name):
        few_label.draw_rows(LABELS, **{name: 0})


def test_one_draw_has_no_error_bar():
    features = make_features(1)
    with pytest.raises(UserError, match="one draw"):
        few_label.few_label_top1((features, LABELS), (features, LABELS), draws=1, splits=1)


@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_labels_are_refused(part):
    features = make_features(1)
    holed = np.where(np.arange(63) < 2, -1, LABELS)
    train_labels, test_labels = (holed, LABELS) if part == "train" else (LABELS, holed)
    with pytest.raises(ValueError, match="2 of 63 examples"):
        few_label.few_label_top1((features, train_labels), (features, test_labels))
