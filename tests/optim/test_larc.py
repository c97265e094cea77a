"""LARC beside NVIDIA's code with the settings of SwAV: golden_methods/README.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_methods_data
from byol_jax.optim import groups

# Limits of the golden files; those in float32 are 8 times the rounding of two implementations.
PARAMS_TOLERANCE, MOMENTUM_TOLERANCE, FLOAT64_TOLERANCE = 1e-6, 2e-6, 1e-9
TABLE = groups.everywhere(groups.Group("larc", "constant", groups.ALL, groups.ALL))


@pytest.fixture(scope="module")
def golden():
    """The arrays of swav.npz by key."""
    arrays = golden_methods_data.load("swav").arrays
    return {key: value for key, value in arrays.items() if "larc/" in key}


def tree(golden, prefix, dtype):
    """The arrays under a prefix as online parameters: a weight, a bias and two special cases."""
    arrays = {
        key.removeprefix(prefix): jnp.asarray(value, dtype)
        for key, value in golden.items()
        if key.startswith(prefix)
    }
    assert arrays.keys() == {"w", "b", "zero_w", "zero_g"}
    return {"online_params": {"linear": arrays}}


@jax.jit
def step(rate, decay, gradients, slots, params):
    numbers = groups.everywhere(groups.Numbers(rate, 0, 10, decay, 1e-3, 0.9))
    rates = groups.rates(TABLE, numbers, jnp.asarray(0))
    update = groups.Update(TABLE, numbers, rates, jnp.asarray(0))
    return groups.apply(update, gradients, slots, params)


def run(golden, dtype):
    """Parameters after each step, and the momentum after the last, by the keys of the file."""
    params = tree(golden, "larc/init/", dtype)
    slots, results = groups.init(TABLE, params), {}
    for index, rate in enumerate(golden["larc/lr"]):
        gradients = tree(golden, f"larc/grads/{index}/", dtype)
        rate, decay = jnp.asarray(rate, dtype), jnp.asarray(golden["larc/weight_decay"], dtype)
        params, slots = step(rate, decay, gradients, slots, params)
        for name, value in params["online_params"]["linear"].items():
            results[f"larc/after/{index}/{name}"] = value
    for name, value in slots["momentum"].items():
        results[f"larc/momentum/{name.rpartition('/')[2]}"] = value
    return {key: np.asarray(value, np.float64) for key, value in results.items()}


def distance(arrays, reference):
    """L2 norm of the difference of two mappings over all their arrays."""
    return np.sqrt(sum(np.sum((arrays[key] - reference[key]) ** 2) for key in reference))


def check(golden, results, prefix, params_tolerance, momentum_tolerance):
    """Errors of a step relative to the distance from the start, of momentum to its maximum."""
    expected = {key: np.float64(golden[prefix + key]) for key in results}
    for index in range(len(golden["larc/lr"])):
        stage = f"larc/after/{index}/"
        keys = [key for key in expected if key.startswith(stage)]
        now = {key: expected[key] for key in keys}
        start = {key: golden["larc/init/" + key.removeprefix(stage)] for key in keys}
        assert distance(results, now) <= params_tolerance * distance(start, now)
    for key in (key for key in expected if key.startswith("larc/momentum/")):
        difference = np.abs(results[key] - expected[key]).max()
        assert difference <= momentum_tolerance * np.abs(expected[key]).max(), key


def test_steps(golden):
    check(golden, run(golden, jnp.float32), "", PARAMS_TOLERANCE, MOMENTUM_TOLERANCE)


def test_float64_steps(golden):
    with jax.enable_x64(True):
        results = run(golden, jnp.float64)
    check(golden, results, "float64/", FLOAT64_TOLERANCE, FLOAT64_TOLERANCE)


def test_the_special_cases_are_in_the_file(golden):
    """For a weight or a gradient of norm 0, the gradient is used without a ratio or decay."""
    assert not golden["larc/init/zero_w"].any()
    assert any(not golden[f"larc/grads/{i}/zero_g"].any() for i in range(len(golden["larc/lr"])))
