"""BatchNorm over the images of each device: SimCLR's loss, and the averages for evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_steps import SLOW, empty_state, head_network, hparams_of, run, state_of

from byol_jax.objectives import simclr
from byol_jax.optim.groups import Group, everywhere
from byol_jax.program import Method, Program
from byol_jax.runtime import spmd

WIDTH, DIM, BATCH = 6, 4, 8
NETWORK = (WIDTH, 5, DIM)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, BATCH, 4, 4, 3))


def step_on_two_devices(statistics: str):
    """Parameters before the step; the state and the logs behind it."""
    axis = spmd.AXIS if statistics == "global" else None
    method = Method(
        objective=lambda **_: simclr.nt_xent(0.5, spmd.AXIS),
        target="online",
        bn_statistics=statistics,
        groups=everywhere(Group("sgd", "constant")),
    )
    view1, view2 = images()
    program = Program(head_network(*NETWORK, axis), method, spmd.AXIS)
    local = program._replace(network=head_network(*NETWORK, None))
    params = local.network.init(jax.random.key(0), view1, True)[0]
    state = state_of(local, view1, {"online_params": params, "objective_state": {}})
    numbers = hparams_of(peak_learning_rate=0.1, weight_decay=0.0, momentum=0.0)
    (result,) = run(program, state, [{1: view1, 2: view2}], [numbers], 2)
    return params, *result


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("statistics", ["local", pytest.param("global", marks=SLOW)])
def test_statistics_are_those_of_a_device_or_of_all(statistics: str) -> None:
    """SimCLR section 2.2. The loss is over the global batch in both cases."""
    with jax.enable_x64(True):
        params, after, logs = step_on_two_devices(statistics)
        network = head_network(*NETWORK, None)
        start = empty_state(network, images()[0])
        count = 2 if statistics == "local" else 1

        def loss(params):
            outputs = []
            states = [start] * count
            for view in images():
                parts = []
                for device, part in enumerate(np.split(view, count)):
                    out, states[device] = network.apply(params, states[device], None, part, True)
                    parts.append(out["projection"])
                outputs.append({"projection": jnp.concatenate(parts)})
                outputs[-1]["prediction"] = outputs[-1]["projection"]
            views = {1: outputs[0], 2: outputs[1]}
            result = simclr.nt_xent(0.5).loss({}, views, views, {}, {}, jax.random.key(0), 0)
            return jnp.mean(result.per_example), states

        results = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        (value, states), gradients = jax.tree.map(np.asarray, results)
        params = jax.tree.map(np.asarray, params)
    np.testing.assert_allclose(logs["loss"], value, rtol=1e-10)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        after.online_params,
        moved,
    )
    # Evaluations take the mean of the averages of the devices.
    means = jax.tree.map(lambda *x: sum(x) / len(x), *states)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        after.online_state,
        means,
    )


@pytest.mark.slow
@pytest.mark.ci
def test_the_two_differ() -> None:
    with jax.enable_x64(True):
        losses = [step_on_two_devices(which)[2]["loss"] for which in ("local", "global")]
    assert abs(losses[0] - losses[1]) > 1e-3
