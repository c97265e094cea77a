"""Training steps of a program from given weights on given views, and what they leave."""

import functools
from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import update
from byol_jax.networks import heads, norms
from byol_jax.optim import groups
from byol_jax.program import Hyperparameters, Program, Trainable, TrainState
from byol_jax.runtime import spmd

# Prefixes of keys: a run in 32 and in 64 bits.
FLOAT32, FLOAT64 = "", "float64/"
SLOW = [pytest.mark.slow, pytest.mark.ci]
# Those that run with `make test-slow` alone.
SLOWER = [pytest.mark.slow]
RUNS = pytest.mark.parametrize(
    ("prefix", "devices"),
    [
        pytest.param(FLOAT64, 2, id="float64-2"),
        pytest.param(FLOAT32, 1, id="float32-1", marks=SLOW),
        pytest.param(FLOAT64, 4, id="float64-4", marks=SLOW),
        pytest.param(FLOAT32, 2, id="float32-2", marks=SLOWER),
        pytest.param(FLOAT64, 1, id="float64-1", marks=SLOWER),
    ],
)


def bn_config(axis: str | None) -> dict[str, Any]:
    """Keyword arguments of every BatchNorm of the files."""
    return {
        "create_scale": True,
        "create_offset": True,
        "decay_rate": 0.9,
        "eps": 1e-5,
        "cross_replica_axis": axis,
    }


def tiny_encoder(x: jax.Array, is_training: bool, width: int, axis: str | None) -> jax.Array:
    """The encoder of the files: the image flattened, linear without bias, BatchNorm, ReLU."""
    with hk.name_scope("encoder"):
        x = hk.Linear(width, with_bias=False, name="linear")(x.reshape(len(x), -1))
        return jax.nn.relu(norms.BatchNorm(name="batch_norm", **bn_config(axis))(x, is_training))


@functools.cache
def head_network(width: int, hidden: int, dim: int, axis: str | None) -> hk.TransformedWithState:
    """The tiny encoder, and MoCo's and SupCon's head of this package: two layers, no BatchNorm."""
    spec = heads.HeadSpec(2, hidden, dim, hidden_norm=False)

    def network(x: jax.Array, is_training: bool) -> dict[str, jax.Array]:
        y = tiny_encoder(x, is_training, width, axis)
        z = heads.MLP("projector", spec, dim, True, bn_config(axis))(y, is_training)
        return {"embedding": y, "projection": z, "prediction": z}

    return hk.transform_with_state(network)


def ours(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the files under the names of this package."""
    return {name.replace("head/", "projector/"): leaves for name, leaves in given.items()}


def theirs(found: Mapping[str, Any]) -> dict[str, Any]:
    """Results under the names of the files."""
    return {name.replace("/projector/", "/head/"): value for name, value in found.items()}


def momentum(state: TrainState) -> dict[str, np.ndarray]:
    """Momentum buffers under the names of the parameters."""
    return {
        f"trace/final/momentum/{name.removeprefix('online_params/')}": value
        for name, value in state.slots["momentum"].items()
    }


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
    labels: list[np.ndarray] | None = None,
    micro_batches: int = 1,
) -> list[tuple[TrainState, dict[str, Any]]]:
    """The states and logs after each step, split over devices, or over replicas on one of them.

    Without labels, they are all -1.
    """
    step = functools.partial(
        update.step,
        make_views=lambda batch: {int(k[4:]): x for k, x in batch.items() if k.startswith("view")},
        program=program,
    )
    count = len(views[0][1])
    if count % (devices * micro_batches):
        pytest.skip(f"batches of {count} do not divide over {devices} devices")
    used = jax.local_devices()[:devices]
    if devices <= len(used):
        mapped = spmd.pmap(step, in_axes=(0, 0, None, None), devices=used)
    else:
        mapped = jax.jit(jax.vmap(step, (0, 0, None, None), axis_name=spmd.AXIS))
    replicas = jax.tree.map(lambda x: np.stack([x] * devices), jax.device_get(state))
    results = []
    labels = labels or [np.full(len(given[1]), -1, np.int32) for given in views]
    for given, classes, numbers in zip(views, labels, hparams, strict=True):
        batch = {f"view{v}": x for v, x in given.items()}
        batch |= {"labels": classes, "ids": np.arange(len(classes), dtype=np.int32)}
        sharded = jax.tree.map(
            lambda x: x.reshape(micro_batches, devices, -1, *x.shape[1:]).swapaxes(0, 1), batch
        )
        replicas, logs = mapped(replicas, sharded, 0, numbers)
        for leaf in map(np.asarray, jax.tree.leaves(replicas)):
            assert (leaf == leaf[0]).all(), "the replicas differ"
        results.append(jax.tree.map(lambda x: np.asarray(x[0]), (replicas, logs)))
    assert results[-1][0].finite
    return results


def flat(tree: Any, prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}/{m}/{n}": x for m, leaves in tree.items() for n, x in leaves.items()}
