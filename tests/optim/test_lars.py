"""LARS against the paper's description, written out as a loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax.optim import lars

PARAMS = {
    "encoder/~/conv": {"w": np.array([[3.0, 4.0]])},
    "encoder/~/initial_batchnorm": {"scale": np.array([1.0, 2.0]), "offset": np.array([0.5, 0.0])},
    "projector/linear": {"w": np.array([[0.0, 0.0]]), "b": np.array([1.0, -1.0])},
}
GRADIENTS = {
    "encoder/~/conv": {"w": np.array([[0.6, 0.8]])},
    "encoder/~/initial_batchnorm": {"scale": np.array([0.1, 0.2]), "offset": np.array([0.3, 0.4])},
    "projector/linear": {"w": np.array([[1.0, 2.0]]), "b": np.array([0.5, 0.25])},
}


def test_first_step_by_hand():
    optimizer = lars.lars(10.0, weight_decay=0.1, trust_coefficient=0.01, momentum=0.9)
    params, gradients = jax.tree.map(jnp.float32, (PARAMS, GRADIENTS))
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # u = (0.6, 0.8) + 0.1 (3, 4) = (0.9, 1.2), |u| = 1.5, |p| = 5: ratio 0.01 * 5 / 1.5.
    np.testing.assert_allclose(updates["encoder/~/conv"]["w"], [[-0.3, -0.4]], rtol=1e-6)
    # Excluded parameters have neither decay nor ratio.
    np.testing.assert_allclose(
        updates["encoder/~/initial_batchnorm"]["scale"], [-1.0, -2.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        updates["encoder/~/initial_batchnorm"]["offset"], [-3.0, -4.0], rtol=1e-6
    )
    np.testing.assert_allclose(updates["projector/linear"]["b"], [-5.0, -2.5], rtol=1e-6)
    # A weight of norm 0 has ratio 1.
    np.testing.assert_allclose(updates["projector/linear"]["w"], [[-10.0, -20.0]], rtol=1e-6)


def naive_lars(params, gradients, rates, decay, trust, momentum):
    """App. A's optimiser over several steps, one leaf after another, in float64."""
    out = {}
    for module, leaves in params.items():
        for leaf, value in leaves.items():
            p, m = np.asarray(value, np.float64), 0.0
            adapted = leaf != "b" and "norm" not in module
            for gradient, rate in zip(gradients, rates, strict=True):
                u = np.asarray(gradient[module][leaf], np.float64)
                if adapted:
                    u = u + decay * p
                    norms = np.linalg.norm(p), np.linalg.norm(u)
                    if min(norms) > 0:
                        u = u * trust * norms[0] / norms[1]
                m = momentum * m + u
                p = p - rate * m
            out[module, leaf] = p
    return out


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_scheduled_rate_multiplies_after_the_momentum(decay):
    rates = (1.0, 0.1, 2.0)
    generator = np.random.default_rng(0)
    gradients = [jax.tree.map(lambda x: generator.standard_normal(x.shape), PARAMS) for _ in rates]

    @jax.jit
    def step(params, state, gradient, rate, decay):
        optimizer = lars.lars(rate, weight_decay=decay, trust_coefficient=0.2, momentum=0.9)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.float32, PARAMS)
    state = lars.lars(0, weight_decay=0, trust_coefficient=0, momentum=0).init(params)
    for gradient, rate in zip(gradients, rates, strict=True):
        params, state = step(params, state, jax.tree.map(jnp.float32, gradient), rate, decay)
    assert step._cache_size() == 1  # rate and decay are traced: no step compiles again
    expected = naive_lars(PARAMS, gradients, rates, decay, 0.2, 0.9)
    for (module, leaf), value in expected.items():
        # float32 sums of terms of order 4.
        np.testing.assert_allclose(params[module][leaf], value, rtol=2e-6, atol=1e-6)


def test_the_momentum_is_shaped_like_the_parameters():
    state = lars.lars(0, weight_decay=0, trust_coefficient=0, momentum=0).init(PARAMS)
    momentum = optax.tree_utils.tree_get(state, "trace")
    assert jax.tree.structure(momentum) == jax.tree.structure(PARAMS)


def test_trust_ratios_are_those_of_optax():
    """Norms here are square roots of sums of squares, so only their rounding may differ."""
    generator = np.random.default_rng(1)
    shapes = {"kernel": (3, 3, 16, 32), "matrix": (100, 7), "vector": (5,), "scalar": ()}
    params, updates = (
        {name: jnp.asarray(generator.normal(size=s), jnp.float32) for name, s in shapes.items()}
        for _ in range(2)
    )
    values, expected = (
        jax.jit(transform(trust_coefficient=0.01).update)(updates, (), params)[0]
        for transform in (lars.scale_by_trust_ratio, optax.scale_by_trust_ratio)
    )
    for name, value in values.items():
        # Two norms, two products and a quotient: each rounding is at most 2**-24.
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)


@pytest.mark.parametrize("zero", ["param", "update", "both"])
def test_a_norm_of_zero_gives_a_trust_ratio_of_1(zero):
    param = jnp.zeros(3) if zero in ("param", "both") else jnp.ones(3)
    update = jnp.zeros(3) if zero in ("update", "both") else jnp.array([1.0, -2.0, 0.0])
    with jax.debug_nans(True):
        scaled, _ = lars.scale_by_trust_ratio(0.01).update(update, None, param)
    np.testing.assert_array_equal(scaled, update)


@pytest.mark.parametrize(
    ("module", "leaf", "adapted"),
    [
        ("res_net50/~/initial_conv", "w", True),
        ("projector/linear", "b", False),
        ("projector/batch_norm", "scale", False),
        ("res_net50/~/block_group_0/~/block_0/~/shortcut_batchnorm", "offset", False),
        ("classifier", "w", True),
    ],
)
def test_exclusion_rule(module, leaf, adapted):
    mask = lars.adaptation_mask(({module: {leaf: 0.0}}, {}))
    assert mask[0][module][leaf] is adapted
