"""Predictions of classifiers and their scores, beside plain products in float64."""

import jax
import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax.augment import byol
from byol_jax.errors import UserError
from byol_jax.evals.sgd import predictions, training
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
            ids = np.arange(len(crops))[part]
            yield {"images": crops[part], "labels": labels[part], "ids": ids}

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
    predicted = predictions.predict(network, encoder, heads, split_of(crops, labels), 8)
    logits = logits_of(network, encoder, heads, crops)
    expected = np.argsort(-logits, axis=-1)[..., :5]
    np.testing.assert_array_equal(predicted.ranked, expected)
    np.testing.assert_array_equal(predicted.labels, labels)
    for head in range(2):
        scores = predictions.score(predicted, head, "top1")
        assert list(scores) == ["top1", "top5"]
        right = [logits[i, head].argmax() == labels[i] for i in range(count)]
        assert scores["top1"] == pytest.approx(100 * np.mean(right))
        right = [labels[i] in expected[i, head] for i in range(count)]
        assert scores["top5"] == pytest.approx(100 * np.mean(right))
    assert list(predictions.score(predicted, 0, "mean_per_class")) == [
        "mean_per_class",
        "top1",
        "top5",
    ]


def test_images_without_labels_are_not_scored(network, encoder):
    heads = heads_of(network, encoder, 3)
    crops, labels = tiny_runs.images(17), (np.arange(17) % 4 - 1).astype(np.int32)
    predicted = predictions.predict(network, encoder, heads, split_of(crops, labels), 8)
    np.testing.assert_array_equal(predicted.labels, labels[labels >= 0])
    logits = logits_of(network, encoder, heads, crops)[labels >= 0]
    np.testing.assert_array_equal(predicted.ranked, np.argsort(-logits, axis=-1))
    assert list(predictions.score(predicted, 0, "top1")) == ["top1"]  # no top 5 of three classes


def test_several_labels_per_image_are_scored_by_average_precision(network, encoder):
    heads = heads_of(network, encoder, 3)
    crops = tiny_runs.images(17)
    labels = np.random.default_rng(0).integers(-1, 2, (17, 3)).astype(np.int32)
    labels[4] = -1
    predicted = predictions.predict(network, encoder, heads, split_of(crops, labels), 8)
    labelled = labels.max(axis=1) >= 0
    assert not labelled[4]
    logits = logits_of(network, encoder, heads, crops)[labelled]
    np.testing.assert_allclose(predicted.logits, logits, rtol=1e-3, atol=1e-4)
    assert predicted.ranked is None
    # The logits are the labels themselves.
    perfect = predicted._replace(logits=np.stack([labels[labelled]] * 2, axis=1).astype(np.float32))
    assert predictions.score(perfect, 1, "map_11") == {"map_11": 100.0}
    with pytest.raises(UserError, match=r"metric='top1'.*map_11"):
        predictions.score(predicted, 0, "top1")


def test_labels_that_were_not_learnt_are_refused(network, encoder):
    heads = heads_of(network, encoder, 3)
    labels = np.array([0, 1, 5], np.int32)
    with pytest.raises(UserError, match=r"test split.* 5.* 3 classes"):
        predictions.predict(network, encoder, heads, split_of(tiny_runs.images(3), labels), 8)
    with pytest.raises(UserError, match=r"test split.* label"):
        predictions.predict(
            network, encoder, heads, split_of(tiny_runs.images(3), labels * 0 - 1), 8
        )
