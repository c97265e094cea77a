"""Training steps of a program from given weights on given views, and what they leave."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import update
from byol_jax.optim import groups
from byol_jax.program import Hyperparameters, Program, Trainable, TrainState
from byol_jax.runtime import spmd

# Prefixes of keys: a run in 32 and in 64 bits.
FLOAT32, FLOAT64 = "", "float64/"
SLOW = [pytest.mark.slow, pytest.mark.ci]
RUNS = pytest.mark.parametrize(
    ("prefix", "devices"),
    [
        pytest.param(FLOAT32, 1, id="float32-1"),
        pytest.param(FLOAT64, 2, id="float64-2"),
        pytest.param(FLOAT32, 2, id="float32-2", marks=SLOW),
        pytest.param(FLOAT64, 1, id="float64-1", marks=SLOW),
    ],
)


def empty_state(network: Any, example: Any) -> Any:
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(lambda: network.init(jax.random.key(0), example, True)[1]),
    )


def state_of(program: Program, example: Any, given: dict[str, Any]) -> TrainState:
    online_params, objective_params = given["online_params"], given.get("objective_params", {})
    bn_state = empty_state(program.network._replace(), example)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        online_params=online_params,
        online_state=bn_state,
        target_params=given.get("target_params", {}),
        target_state=bn_state if "target_params" in given else {},
        objective_params=objective_params,
        objective_state=given["objective_state"],
        slots=groups.init(program.method.groups, Trainable(online_params, objective_params)),
        finite=jnp.ones((), bool),
    )


def hparams_of(
    roles: Mapping[str, Mapping[str, Any]] | None = None, tau: float = 1.0, **numbers: Any
) -> Hyperparameters:
    """Numbers of a step at given rates; `roles` have other numbers of single groups."""
    own = groups.Numbers(
        **({"warmup_steps": 0, "total_steps": 1, "trust_coefficient": 1e-3} | numbers)
    )
    others = {role: own._replace(**changes) for role, changes in (roles or {}).items()}
    table = groups.everywhere(own)._replace(**others)
    return Hyperparameters(table, 1, tau, (), tau_end=tau)


def run(
    program: Program,
    state: TrainState,
    views: list[dict[int, np.ndarray]],
    hparams: list[Hyperparameters],
    devices: int,
) -> list[tuple[TrainState, dict[str, Any]]]:
    """The states and logs after each step, on one device or split over two."""
    step = functools.partial(
        update.step,
        make_views=lambda batch: {int(k[4:]): x for k, x in batch.items() if k.startswith("view")},
        program=program,
    )
    used = jax.local_devices()[:devices]
    mapped = spmd.pmap(step, in_axes=(0, 0, None, None), devices=used)
    replicas = spmd.replicate(jax.device_get(state), used)
    results = []
    for given, numbers in zip(views, hparams, strict=True):
        count = len(given[1])
        batch = {f"view{v}": x for v, x in given.items()}
        batch |= {"labels": np.full(count, -1, np.int32), "ids": np.arange(count, dtype=np.int32)}
        sharded = jax.tree.map(lambda x: x[:, None], spmd.shard(batch, devices=used))
        replicas, logs = mapped(replicas, sharded, 0, numbers)
        for leaf in map(np.asarray, jax.tree.leaves(replicas)):
            assert (leaf == leaf[0]).all(), "the replicas differ"
        results.append(jax.tree.map(lambda x: np.asarray(x[0]), (replicas, logs)))
    assert results[-1][0].finite
    return results


def flat(tree: Any, prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}/{m}/{n}": x for m, leaves in tree.items() for n, x in leaves.items()}
