"""The optimiser: five steps of LARS on given gradients."""

from typing import Any

import jax
import optax

import golden_data
from byol_jax.optim import lars


@jax.jit
def step(
    params: Any, gradients: Any, opt_state: Any, learning_rate: jax.Array, case: Any
) -> tuple[Any, Any, Any]:
    """One step; every number is traced, as in the update."""
    optimizer = lars.lars(
        learning_rate,
        weight_decay=case["weight_decay"],
        trust_coefficient=case["eta"],
        momentum=case["momentum"],
    )
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return updates, optax.apply_updates(params, updates), opt_state


def test_complete() -> None:
    golden_data.check_complete("lars")


def test_exclusions() -> None:
    golden = golden_data.load("lars")
    params = golden_data.tree(golden, "init/")
    assert list(golden_data.flatten(params)) == golden.meta["names"]
    adapted = golden_data.flatten(lars.adaptation_mask(params))
    assert [name for name in adapted if not adapted[name]] == golden.meta["excluded"]


def test_steps() -> None:
    golden = golden_data.load("lars")
    results: golden_data.Results = {}
    for name, case in golden.meta["cases"].items():
        params = golden_data.tree(golden, "init/")
        opt_state = lars.lars(0, weight_decay=0, trust_coefficient=0, momentum=0).init(params)
        for t, learning_rate in enumerate(golden.arrays["learning_rates"]):
            gradients = golden_data.tree(golden, f"grad/{t}/")
            updates, params, opt_state = step(params, gradients, opt_state, learning_rate, case)
            trees = {
                "update": updates,
                "params": params,
                "mu": optax.tree_utils.tree_get(opt_state, "trace"),
            }
            for kind, tree in trees.items():
                for leaf, array in golden_data.flatten(tree).items():
                    results[f"{name}/{kind}/{t}/{leaf}"] = array
    golden_data.check(golden, results, golden_data.compared_keys(golden), "jit")
