"""Predictions and scores of classifiers, and labels that no training can use."""

import jax
import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax.augment import byol
from byol_jax.errors import UserError
from byol_jax.evals.sgd import classifiers, training
from byol_jax.evals.splits import Split
from byol_jax.networks import siamese


@pytest.fixture(scope="module")
def network():
    return siamese.encoder(siamese.NetworkSpec(depth="tiny", stem="small"))


@pytest.fixture(scope="module")
def encoder(network):
    init = jax.eval_shape(
        lambda: network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), True)
    )
    return tuple(tiny_checkpoints.fill(part, 0) for part in init)


def heads_of(network, encoder, classes):
    features = training.feature_size(network, encoder, 8)
    rng = np.random.default_rng(1)
    return {
        "w": rng.normal(size=(2, features, classes)).astype(np.float32),
        "b": rng.normal(size=(2, classes)).astype(np.float32),
    }


def split_of(crops, labels, batch_size=8):
    def batches():
        for start in range(0, len(crops), batch_size):
            part = slice(start, start + batch_size)
            yield {"images": crops[part], "labels": labels[part]}

    return Split("test", len(crops), 6, labels.ndim == 2, batches, batches)


def logits_of(network, encoder, heads, crops):
    views = byol.normalize(byol.to_float(crops))
    outputs, _ = jax.jit(network.apply, static_argnums=4)(*encoder, None, views, False)
    embedding = np.float64(outputs["embedding"])
    return np.einsum("bc,rck->brk", embedding, heads["w"]) + heads["b"]


@pytest.mark.parametrize("count", [1, 7, 17])
def test_any_number_of_images_is_ranked_and_scored(network, encoder, count):
    heads = heads_of(network, encoder, 6)
    crops, labels = tiny_runs.images(17)[:count], (np.arange(count) * 5 % 6).astype(np.int32)
    found = training.predict(network, encoder, heads, split_of(crops, labels), 8)
    logits = logits_of(network, encoder, heads, crops)
    expected = np.argsort(-logits, axis=-1)[..., :5]
    np.testing.assert_array_equal(found.ranked, expected)
    np.testing.assert_array_equal(found.labels, labels)
    for head in range(2):
        scores = training.score(found, head, "top1")
        assert list(scores) == ["top1", "top5"]
        right = [logits[i, head].argmax() == labels[i] for i in range(count)]
        assert scores["top1"] == pytest.approx(100 * np.mean(right))
        right = [labels[i] in expected[i, head] for i in range(count)]
        assert scores["top5"] == pytest.approx(100 * np.mean(right))
    assert list(training.score(found, 0, "mean_per_class")) == ["mean_per_class", "top1", "top5"]


def test_images_without_labels_are_not_scored(network, encoder):
    heads = heads_of(network, encoder, 3)
    crops, labels = tiny_runs.images(17), (np.arange(17) % 4 - 1).astype(np.int32)
    found = training.predict(network, encoder, heads, split_of(crops, labels), 8)
    np.testing.assert_array_equal(found.labels, labels[labels >= 0])
    logits = logits_of(network, encoder, heads, crops)[labels >= 0]
    np.testing.assert_array_equal(found.ranked, np.argsort(-logits, axis=-1))
    assert list(training.score(found, 0, "top1")) == ["top1"]  # no top 5 of three classes


def test_several_labels_an_image_are_scored_by_average_precision(network, encoder):
    heads = heads_of(network, encoder, 3)
    crops = tiny_runs.images(17)
    labels = np.random.default_rng(0).integers(-1, 2, (17, 3)).astype(np.int32)
    labels[4] = -1
    found = training.predict(network, encoder, heads, split_of(crops, labels), 8)
    known = np.arange(17) != 4
    known &= labels.max(axis=1) >= 0
    logits = logits_of(network, encoder, heads, crops)[known]
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert found.ranked is None
    # A head that says the labels themselves.
    perfect = found._replace(logits=np.stack([labels[known]] * 2, axis=1).astype(np.float32))
    assert training.score(perfect, 1, "map_11") == {"map_11": 100.0}
    with pytest.raises(UserError, match="metric='top1' must be map_11 for several labels"):
        training.score(found, 0, "top1")


def test_labels_that_were_not_learnt_are_refused(network, encoder):
    heads = heads_of(network, encoder, 3)
    labels = np.array([0, 1, 5], np.int32)
    with pytest.raises(UserError, match="test split has the label 5, outside of the 3 classes"):
        training.predict(network, encoder, heads, split_of(tiny_runs.images(3), labels), 8)
    with pytest.raises(UserError, match="no image of the test split has a label"):
        training.predict(network, encoder, heads, split_of(tiny_runs.images(3), labels * 0 - 1), 8)


def test_labels_outside_of_the_classes_end_a_training(network, encoder, tmp_path):
    train_set = tiny_runs.labelled_set([8, 8])._replace(images=tiny_runs.images(16))
    train_set.labels[3] = 2
    state = classifiers.init(classifiers.init_heads(0, 1, 8, 2))
    recipe = training.Recipe(0, 8, 8, 2, 0, (0.1,))
    frozen_network = siamese.encoder(siamese.NetworkSpec(depth="tiny", stem="small"))
    with pytest.raises(UserError, match="a label is 2, outside of the 2 classes 0 to 1"):
        training.fit(
            *(frozen_network, train_set, state, encoder, recipe),
            description="x",
            directory=tmp_path,
            record={},
        )


@pytest.mark.parametrize(
    ("metric", "several", "message"),
    [
        ("top1", True, "metric='top1' must be map_11 for several labels an image"),
        ("map_11", False, "metric='map_11' must be top1 or mean_per_class for one label an image"),
        ("top5", False, "metric='top5' must be top1 or mean_per_class"),
    ],
)
def test_metrics_go_with_labels(metric, several, message):
    with pytest.raises(UserError, match=message):
        training.check_metric(metric, several)
    for right, kind in (("top1", False), ("mean_per_class", False), ("map_11", True)):
        training.check_metric(right, kind)
