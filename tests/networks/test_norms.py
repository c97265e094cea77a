"""BatchNorm: Haiku's numbers, and a finite output where Haiku's is NaN."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.networks import norms

FULL = {"create_scale": True, "create_offset": True, "decay_rate": 0.9}


def apply(layer, inputs, is_training, **changes):
    """Outputs and state of a layer in its second step, compiled."""
    transformed = hk.transform_with_state(
        lambda x, is_training: layer(name="norm", **(FULL | changes))(x, is_training)
    )

    @jax.jit
    def run(x):
        params, state = transformed.init(jax.random.key(0), x, True)
        params = jax.tree.map(lambda p: p + 0.5, params)
        _, state = transformed.apply(params, state, None, x, True)
        return transformed.apply(params, state, None, x, is_training)

    return run(jnp.asarray(inputs, jnp.float32))


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("create_offset", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 5, 4)])
def test_numbers_are_haikus(shape, create_offset, is_training):
    inputs = np.random.default_rng(0).normal(1, 2, size=shape)
    ours, theirs = (
        apply(layer, inputs, is_training, create_offset=create_offset)
        for layer in (norms.BatchNorm, hk.BatchNorm)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, theirs)


def test_equal_rows_are_finite():
    """A collapsed network: thousands of equal rows on one device, units of values up to 30."""
    inputs = np.broadcast_to(np.linspace(1, 30, 512), (5000, 512))
    outputs, state = apply(norms.BatchNorm, inputs, True, create_scale=False, create_offset=False)
    assert np.isfinite(outputs).all()
    assert np.min(state["norm/~/var_ema"]["average"]) >= 0
    of_haiku, _ = apply(hk.BatchNorm, inputs, True, create_scale=False, create_offset=False)
    assert np.isnan(of_haiku).any(), "the case is no longer one that rounds below -eps"
