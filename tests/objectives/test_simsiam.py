"""SimSiam's loss beside BYOL's, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives import byol, simsiam


def test_negative_cosine_by_hand() -> None:
    """Cosines of 4/5, 0 and -1: the lengths of the vectors do not count."""
    p = jnp.array([[3.0, 4.0], [2.0, 0.0], [1e3, 0.0]])
    z = jnp.array([[0.0, 10.0], [0.0, 1e-3], [-1.0, 0.0]])
    np.testing.assert_allclose(simsiam.negative_cosine(p, z), [-0.8, 0, 1], atol=1e-6)


def test_byols_loss_of_both_directions_is_four_times_it_plus_four() -> None:
    rng = np.random.default_rng(0)
    p1, p2, z1, z2 = (jnp.asarray(rng.normal(size=(5, 7)), jnp.float32) for _ in range(4))
    online = {1: {"prediction": p1}, 2: {"prediction": p2}}
    target = {1: {"projection": z1}, 2: {"projection": z2}}
    rest = ({}, {}, jax.random.key(0), jnp.int32(0))
    ours, byols = (
        make().loss({}, online, target, *rest).per_example for make in (simsiam.simsiam, byol.byol)
    )
    np.testing.assert_allclose(byols, 4 + 4 * ours, rtol=1e-5, atol=1e-6)


def test_shapes_must_be_equal() -> None:
    with pytest.raises(AssertionError):
        simsiam.negative_cosine(jnp.ones((2, 3)), jnp.ones((2, 4)))
