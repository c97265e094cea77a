"""The MLP of SimCLR Table 3 on made features."""

import numpy as np
import pytest

from byol_jax.evals.probes import mlp


def made_features(kind, seed):
    """1,000 examples of 6 numbers on an offset, a thousandth in size, and labels of two classes."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(1000, 6))
    labels = {
        "given away": values[:, 2] > 0.3,
        "product": values[:, 0] * values[:, 1] > 0,
        "independent": rng.random(1000) < 0.5,
    }[kind]
    return (0.001 * values + 5).astype(np.float32), labels.astype(np.int32)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    # A linear classifier is at chance on the product.
    [("given away", 98, 100), ("product", 93, 100), ("independent", 43, 57)],
)
def test_the_mlp_learns_what_there_is_to_learn(kind, low, high):
    prediction = mlp.predict(
        made_features(kind, 0),
        made_features(kind, 1),
        2,
        mlp.Recipe(hidden_size=32, num_epochs=40, batch_size=64, learning_rate=1e-2, seed=1),
    )
    assert low <= prediction.top1 <= high
    assert prediction.fit_top1 >= low


def test_accuracies_are_those_of_what_they_name():
    """With the scored labels swapped, right is wrong, and the fit has not changed."""
    recipe = mlp.Recipe(hidden_size=8, num_epochs=5, batch_size=4096, learning_rate=3e-2, seed=1)
    fit, (values, labels) = made_features("given away", 0), made_features("given away", 1)
    right = mlp.predict(fit, (values[:30], labels[:30]), 2, recipe)
    wrong = mlp.predict(fit, (values[:30], 1 - labels[:30]), 2, recipe)
    assert right.top1 + wrong.top1 == pytest.approx(100)
    assert right.fit_top1 == wrong.fit_top1
