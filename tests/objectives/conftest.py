"""Outputs for an objective, and a check that its results do not depend on the devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives.base import Objective
from byol_jax.runtime import spmd
from numbered import numbered


@pytest.fixture(autouse=True)
def no_silent_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def make_outputs() -> Callable[..., tuple[list[Any], list[Any]]]:
    """`make_outputs(seed, rows, width)`: online and target outputs of two views."""

    def make(seed: int, rows: int, width: int) -> tuple[list[Any], list[Any]]:
        arrays = np.random.default_rng(seed).normal(size=(4, rows, width))
        online = [{"prediction": jnp.asarray(x)} for x in arrays[:2]]
        return online, [{"projection": jnp.asarray(x)} for x in arrays[2:]]

    return make


@pytest.fixture
def check_replicas() -> Callable[..., None]:
    """`check_replicas(make)`: 4 replicas of `make(axis)`, or 2 real devices, agree with 1.

    The check is in float64. As in the update step, the gradients of each device's mean loss are
    averaged. They reach the shared network through anchors and candidates alike.
    """

    def check(make: Callable[[str | None], Objective], devices: bool = False) -> None:
        with jax.enable_x64(True):
            rng = np.random.default_rng(7)
            images = jnp.asarray(rng.normal(size=(8, 2, 5)))
            params = tuple(jnp.asarray(rng.normal(size=(5, 4))) for _ in range(2))

            def run(params: Any, images: jax.Array, axis: str | None) -> Any:
                objective = make(axis)

                def mean_loss(params: Any) -> Any:
                    projector, predictor = params
                    views = [images[:, view] for view in range(2)]
                    target = [{"projection": view @ projector} for view in views]
                    online = [{"prediction": view @ predictor} for view in views]
                    empty, state = objective.init(jax.random.key(0), {}, 1)
                    loss = objective.loss(
                        empty, numbered(online), numbered(target), {}, state, jax.random.key(0), 0
                    )
                    return jnp.mean(loss.per_example), (loss.per_example, loss.logs)

                gradients, (losses, logs) = jax.grad(mean_loss, has_aux=True)(params)
                return losses, spmd.pmean((gradients, logs), axis)

            losses, (gradients, logs) = jax.jit(lambda p, x: run(p, x, None))(params, images)
            assert np.ptp(losses) > 1e-3
            assert all(np.max(np.abs(gradient)) > 1e-3 for gradient in gradients)

            def mapped(params: Any, images: jax.Array) -> Any:
                return run(params, images, spmd.AXIS)

            if devices:
                function = spmd.pmap(mapped, in_axes=(None, 0))
            else:
                function = jax.jit(jax.vmap(mapped, (None, 0), axis_name=spmd.AXIS))
            replicas = 2 if devices else 4
            shares = images.reshape(replicas, -1, *images.shape[1:])
            shared_losses, averages = function(params, shares)
            np.testing.assert_allclose(shared_losses.reshape(-1), losses, rtol=1e-11)

            def compare(shared: jax.Array, whole: jax.Array) -> None:
                for replica in np.asarray(shared):
                    np.testing.assert_allclose(replica, whole, rtol=1e-10, atol=1e-12)

            jax.tree.map(compare, averages, (gradients, logs))

    return check
