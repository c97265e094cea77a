"""What ends a training; its curves, resumption and results are those of the jobs (test_linear)."""

import jax
import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax.errors import UserError
from byol_jax.evals import trainings
from byol_jax.evals.sgd import classifiers, training
from byol_jax.evals.sgd.recipes import Recipe
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints


def test_labels_outside_of_the_classes_end_a_training(tmp_path):
    network = siamese.encoder(siamese.NetworkSpec(depth="tiny", stem="small"))
    init = jax.eval_shape(
        lambda: network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), True)
    )
    encoder = tuple(tiny_checkpoints.fill(part, 0) for part in init)
    train_set = tiny_runs.labelled_set([8, 8])._replace(images=tiny_runs.images(16))
    train_set.labels[3] = 2
    state = classifiers.init(classifiers.init_heads(0, 1, 8, 2))
    recipe = Recipe(
        seed=0, image_size=8, batch_size=8, total_steps=2, warmup_steps=0, learning_rates=(0.1,)
    )
    place = trainings.Place(tmp_path, {}, "test")
    with pytest.raises(UserError, match=r"label is 2.* 2 classes"):
        training.fit(network, train_set, state, encoder, recipe, place)


def test_a_training_on_other_images_is_refused(tmp_path, monkeypatch):
    train_set = tiny_runs.labelled_set([8, 8])
    recipe = Recipe(
        seed=0, image_size=8, batch_size=8, total_steps=2, warmup_steps=0, learning_rates=(0.1,)
    )
    place = trainings.Place(tmp_path, {"protocol": "linear"}, "test")
    saved = training.record_of(place, recipe, train_set)

    def check(place, recipe, train_set):
        trainings.check_place(place, training.record_of(place, recipe, train_set))

    monkeypatch.setattr(checkpoints, "steps", lambda _: [1])
    monkeypatch.setattr(checkpoints, "read_record", lambda *_: saved)
    check(place, recipe, train_set)
    other = train_set._replace(images=train_set.images + 1)
    with pytest.raises(UserError, match="other images, these are 16 images of other pixels: give"):
        check(place, recipe, other)
    del saved["data"]  # of an earlier version
    check(place, recipe, other)
    with pytest.raises(UserError, match="a training with seed=0, this one has seed=1"):
        check(place, recipe._replace(seed=1), train_set)
