"""Optimisers against plain numpy, and the heads' own learning rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax.optim import groups, lars

RNG = np.random.default_rng(0)
PARAMS = {
    "res_net/conv": {"w": RNG.normal(size=(3, 4))},
    "projector/linear": {"w": RNG.normal(size=(4, 2)), "b": RNG.normal(size=2)},
    "projector/batch_norm": {"scale": RNG.normal(size=2)},
    "predictor/linear": {"w": RNG.normal(size=(2, 2))},
    "classifier": {"w": RNG.normal(size=(4, 3))},
}
GRADIENTS = [jax.tree.map(lambda x: RNG.normal(size=x.shape), PARAMS) for _ in range(3)]
RATES = (1.0, 0.1, 2.0)
DECAY = 0.3


def float32(tree):
    return jax.tree.map(jnp.float32, tree)


def trained(name):
    """Three steps at changing rates, which compile once."""

    @jax.jit
    def step(params, state, gradient, rate, decay):
        optimizer = groups.optimizer(
            name, rate, weight_decay=decay, trust_coefficient=0.2, momentum=0.9
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = float32(PARAMS)
    zero = groups.optimizer(name, 0, weight_decay=0, trust_coefficient=0, momentum=0)
    state = zero.init(params)
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        params, state = step(params, state, float32(gradient), rate, DECAY)
    assert step._cache_size() == 1
    return params


def leaves(tree):
    return {(m, n): np.float64(v) for m, parts in tree.items() for n, v in parts.items()}


def naive_sgd():
    p, momentum = leaves(PARAMS), dict.fromkeys(leaves(PARAMS), 0.0)
    for gradient, rate in zip(map(leaves, GRADIENTS), RATES, strict=True):
        for key, g in gradient.items():
            momentum[key] = 0.9 * momentum[key] + g + (DECAY * p[key] if key[1] == "w" else 0.0)
            p[key] = p[key] - rate * momentum[key]
    return p


def naive_adam():
    p = leaves(PARAMS)
    first, second = (dict.fromkeys(p, 0.0) for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(map(leaves, GRADIENTS), RATES, strict=True), start=1):
        for key, g in gradient.items():
            first[key] = 0.9 * first[key] + 0.1 * g
            second[key] = 0.999 * second[key] + 0.001 * g**2
            ratio = first[key] / (1 - 0.9**t) / (np.sqrt(second[key] / (1 - 0.999**t)) + 1e-8)
            p[key] = p[key] - rate * (ratio + (DECAY * p[key] if key[1] == "w" else 0.0))
    return p


@pytest.mark.parametrize(("name", "naive"), [("sgd", naive_sgd), ("adam", naive_adam)])
def test_against_plain_numpy(name, naive):
    expected = naive()
    for key, value in leaves(trained(name)).items():
        # float32 sums of terms of order 10; Adam's bias correction loses three digits.
        np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5, err_msg=str(key))


def test_lars_is_that_of_the_papers():
    params, state = float32(PARAMS), None
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        optimizer = lars.lars(rate, weight_decay=DECAY, trust_coefficient=0.2, momentum=0.9)
        state = optimizer.init(params) if state is None else state
        updates, state = jax.jit(optimizer.update)(float32(gradient), state, params)
        params = optax.apply_updates(params, updates)
    for key, value in leaves(trained("lars")).items():
        np.testing.assert_allclose(value, leaves(params)[key], rtol=1e-6, atol=1e-7)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="must be one of: lars, sgd, adam"):
        groups.optimizer("rmsprop", 0.1, weight_decay=0, trust_coefficient=0, momentum=0)


def test_heads_have_rates_of_their_own():
    """Whole heads, biases and BatchNorm included, and nothing else."""
    updates = (float32(PARAMS), {"queue": jnp.ones(2)})
    scale = jax.jit(lambda u, mu, lam: groups.scale_heads(u, {"projector": mu, "predictor": lam}))
    online, objective = scale(updates, 2.0, 10.0)
    factors = {"projector": 2.0, "predictor": 10.0}
    for (module, leaf), value in leaves(online).items():
        factor = factors.get(module.split("/")[0], 1.0)
        np.testing.assert_array_equal(value, np.float32(PARAMS[module][leaf]) * np.float32(factor))
    np.testing.assert_array_equal(objective["queue"], [1.0, 1.0])
    scale(updates, 1.0, 1.0)
    assert scale._cache_size() == 1
