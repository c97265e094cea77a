"""Eq. 2 and its mirror, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.objectives import byol

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
    assert objective.init(jax.random.key(0)) == ({}, {})
    assert objective.refresh is None
