import chex
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from byol_jax.errors import UserError
from byol_jax.evals.probes import knn
from byol_jax.evals.probes.knn import knn_predict


def make_set(n_train: int, n_test: int, num_classes: int, seed: int):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, 12))
    labels = rng.integers(0, num_classes, n_train + n_test)
    features = centres[labels] + 1.5 * rng.normal(size=(n_train + n_test, 12))
    features = (features * rng.uniform(0.1, 10, size=(len(labels), 1))).astype(np.float32)
    return features[:n_train], labels[:n_train], features[n_train:]


def naive_knn(train, labels, test, num_classes, k, temperature):
    predictions = []
    for row in test.astype(np.float64):
        similarities = [
            row @ other / np.linalg.norm(row) / np.linalg.norm(other)
            for other in train.astype(np.float64)
        ]
        votes = [0.0] * num_classes
        for i in sorted(range(len(train)), key=lambda i: -similarities[i])[:k]:
            votes[labels[i]] += np.exp(similarities[i] / temperature)
        predictions.append(max(range(num_classes), key=lambda c: (votes[c], -c)))
    return np.array(predictions)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_against_naive_loop(k, temperature):
    train, labels, test = make_set(60, 37, 4, seed=0)
    predictions = knn_predict(
        train, labels, test, num_classes=4, k=k, temperature=temperature, batch_size=16
    )
    assert len(set(predictions)) > 1
    expected = naive_knn(train, labels, test, 4, k, temperature)
    np.testing.assert_array_equal(predictions, expected)


def test_against_scikit_learn():
    train, labels, test = make_set(300, 100, 7, seed=1)
    oracle = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = oracle.fit(train.astype(np.float64), labels).predict(test.astype(np.float64))
    predictions = knn_predict(train, labels, test, num_classes=7)
    np.testing.assert_array_equal(predictions, expected)


def test_weights_decide_by_hand():
    # Two neighbours of class 1 at cosine 0.8, one of class 0 at cosine 1: class 0 wins when
    # exp(0.2 / t) > 2, that is t < 0.2 / log 2 = 0.2885.
    train = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]], np.float32)
    labels = np.array([0, 1, 1])
    test = np.array([[2.0, 0.0]], np.float32)
    for temperature, expected in ((0.28, 0), (0.30, 1)):
        predictions = knn_predict(train, labels, test, num_classes=2, k=3, temperature=temperature)
        assert predictions.tolist() == [expected]


@pytest.mark.parametrize("batch_size", [1, 4, 5, 11, 64])
def test_batches_do_not_matter(batch_size):
    train, labels, test = make_set(40, 11, 3, seed=2)
    expected = knn_predict(train, labels, test, num_classes=3, batch_size=11)
    assert len(set(expected)) > 1
    predictions = knn_predict(train, labels, test, num_classes=3, batch_size=batch_size)
    np.testing.assert_array_equal(predictions, expected)


def test_equal_votes_go_to_the_lowest_class():
    train = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    test = np.array([[1.0, 1.0]], np.float32)
    for labels in ([2, 1], [1, 2]):
        assert knn_predict(train, np.array(labels), test, num_classes=4, k=2).tolist() == [1]


def test_k_is_cut_to_the_training_set():
    train, labels, test = make_set(15, 9, 3, seed=3)
    predictions = knn_predict(train, labels, test, num_classes=3, k=200)
    np.testing.assert_array_equal(predictions, naive_knn(train, labels, test, 3, 15, 0.07))


def test_small_temperature_does_not_overflow():
    train, labels, test = make_set(30, 10, 3, seed=4)
    nearest = knn_predict(train, labels, test, num_classes=3, k=1)
    sharp = knn_predict(train, labels, test, num_classes=3, k=20, temperature=1e-4)
    np.testing.assert_array_equal(sharp, nearest)


def test_jax_arrays_and_types():
    train, labels, test = make_set(20, 6, 3, seed=5)
    predictions = knn_predict(
        jnp.asarray(train), jnp.asarray(labels), jnp.asarray(test), num_classes=3
    )
    assert isinstance(predictions, np.ndarray)
    chex.assert_shape(predictions, (6,))
    assert np.issubdtype(predictions.dtype, np.integer)
    np.testing.assert_array_equal(predictions, knn_predict(train, labels, test, num_classes=3))
    assert knn_predict(train, labels, test[:0], num_classes=3).shape == (0,)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes(label):
    train, labels, test = make_set(20, 6, 3, seed=5)
    labels[7] = label
    with pytest.raises(ValueError, match=str(label)):
        knn_predict(train, labels, test, num_classes=3)


@pytest.mark.parametrize("settings", [{"k": 0}, {"temperature": 0.0}, {"batch_size": 0}])
def test_settings_out_of_range(settings):
    train, labels, test = make_set(20, 6, 3, seed=5)
    with pytest.raises(UserError, match=next(iter(settings))):
        knn_predict(train, labels, test, num_classes=3, **settings)


def test_nothing_labelled():
    with pytest.raises(UserError, match="labelled"):
        knn_predict(np.zeros((0, 2)), np.zeros(0, int), np.ones((1, 2)), num_classes=2)


@pytest.mark.parametrize(("rows", "numbers"), [(1, 2**20), (7, 2**20), (2**20, 12 * 16)])
def test_pieces_of_the_training_set_do_not_matter(monkeypatch, rows, numbers):
    train, labels, test = make_set(60, 37, 4, seed=0)
    monkeypatch.setattr(knn, "_PIECE_ROWS", rows)
    monkeypatch.setattr(knn, "_PIECE_NUMBERS", numbers)
    predictions = knn_predict(train, labels, test, num_classes=4, k=5, batch_size=16)
    np.testing.assert_array_equal(predictions, naive_knn(train, labels, test, 4, 5, 0.07))
    # Of equal rows the first one counts, in whichever piece the others are.
    doubled = np.concatenate([train, train]), np.concatenate([labels, (labels + 1) % 4])
    nearest = knn_predict(*doubled, test, num_classes=4, k=1)
    np.testing.assert_array_equal(nearest, naive_knn(train, labels, test, 4, 1, 0.07))
