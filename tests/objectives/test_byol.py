"""Eq. 2 and its mirror, with every normaliser, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.objectives import byol
from byol_jax.objectives.normalize import NORMALIZATIONS, l2_normalize
from numbered import numbered

E1, E2 = [1.0, 0.0], [0.0, 1.0]


def test_regression_loss_of_known_angles():
    prediction = jnp.array([E1, E1, E1, [3.0, 0.0]])
    target = jnp.array([E1, E2, [-2.0, 0.0], [1.0, 1.0]])
    loss = jax.jit(byol.regression_loss)(prediction, target)
    np.testing.assert_allclose(loss, [0, 2, 4, 2 - 2**0.5], atol=1e-6)


def test_each_view_predicts_the_other_and_the_terms_are_summed():
    online = [{"prediction": jnp.array([E1])}, {"prediction": jnp.array([E2])}]
    target = [{"projection": jnp.array([E1])}, {"projection": jnp.array([E1])}]
    # q1 against z'2 = E1: 0. q2 against z'1 = E1: 2. Same-view pairs would give the same sum,
    # so the second case tells them apart.
    np.testing.assert_allclose(byol.symmetric_loss(online, target), [2.0], atol=1e-6)
    target = [{"projection": jnp.array([E2])}, {"projection": jnp.array([E1])}]
    np.testing.assert_allclose(byol.symmetric_loss(online, target), [0.0], atol=1e-6)
    np.testing.assert_allclose(byol.symmetric_loss(online, target[::-1]), [4.0], atol=1e-6)


def test_objective_has_nothing_to_train_or_carry():
    objective = byol.byol()
    assert objective.init(jax.random.key(0), {}, 1) == ({}, {})
    assert objective.refresh is None


def test_default_normalisation_is_the_expression_of_equation_2_to_the_bit():
    prediction, target = jax.random.normal(jax.random.key(1), (2, 32, 16))

    def equation_2(prediction, target):
        return jnp.sum((l2_normalize(prediction) - l2_normalize(target)) ** 2, axis=-1)

    def run(function):
        values, pull = jax.vjp(function, prediction, target)
        return values, pull(jnp.ones_like(values))

    values = jax.jit(run, static_argnums=0)(byol.regression_loss)
    expected = jax.jit(run, static_argnums=0)(equation_2)
    jax.tree.map(np.testing.assert_array_equal, values, expected)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        # q1 = (3, 4), (-1, 0) against z'2 = (1, 0), (3, 4); q2 = z'2 against z'1 = q1.
        ("l2", [2 - 2 * 0.6, 2 + 2 * 0.6]),
        # Both rows of q1 become (-1, 1) / sqrt(2); those of z'2 (1, -1) / sqrt(2) and the same.
        ("layer", [4, 0]),
        # Columns of q1 become (1, -1) / sqrt(2), those of z'2 (-1, 1) / sqrt(2).
        ("batch", [4, 4]),
        ("none", [4 + 16, 16 + 16]),
    ],
)
def test_normalisations_of_table_20_by_hand(normalization, expected):
    view1, view2 = jnp.array([[3.0, 4.0], [-1.0, 0.0]]), jnp.array([[1.0, 0.0], [3.0, 4.0]])
    online = [{"prediction": view1}, {"prediction": view2}]
    target = [{"projection": view1}, {"projection": view2}]
    objective = byol.byol(normalization)
    result = objective.loss({}, numbered(online), numbered(target), {}, {}, jax.random.key(0), 0)
    np.testing.assert_allclose(result.per_example, 2 * np.array(expected), rtol=1e-5, atol=1e-5)
    assert (result.state, result.logs) == ({}, {})


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_replicas_agree(check_replicas, normalization):
    check_replicas(lambda axis: byol.byol(normalization, axis), devices=normalization == "batch")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_collapsed_batch_has_finite_gradients(normalization):
    def loss(prediction):
        online, target = [{"prediction": prediction}] * 2, [{"projection": jnp.zeros((4, 3))}] * 2
        result = byol.byol(normalization).loss(
            {}, numbered(online), numbered(target), {}, {}, jax.random.key(0), 0
        )
        return jnp.mean(result.per_example)

    run = jax.jit(jax.value_and_grad(loss))
    for fill in (0.0, 2.0):
        value, gradient = run(jnp.full((4, 3), fill))
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_unknown_normalisation():
    with pytest.raises(UserError, match=r"normalization=l1 .*l2, layer, batch, none"):
        byol.byol("l1")
