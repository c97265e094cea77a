"""The dials between BYOL and SimCLR in the update step, against gradients written out here.

Plain SGD at rate 1 moves the parameters by minus the gradient, which shows it whole.
"""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_numbers
from byol_jax import update
from byol_jax.networks import heads
from byol_jax.objectives import byol, info_nce, simclr
from byol_jax.optim import groups
from byol_jax.program import Method, Program, init_state
from byol_jax.runtime import spmd
from numbered import numbered

SIZE, BATCH = 4, 8
VIEWS = ("view1", "view2")
HPARAMS = tiny_numbers.hyperparameters()


def l2(x):
    """With the floor of docs/deviations.md, 5."""
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=1, keepdims=True), 1e-12))


def squares(online, target):
    """BYOL Eq. 2 and its mirror."""
    pairs = ((online[0], target[1]), (online[1], target[0]))
    return sum(jnp.sum((l2(q["prediction"]) - l2(z["projection"])) ** 2, 1) for q, z in pairs)


def cross_entropy(online, target):
    """SimCLR Eq. 1 at temperature 0.5, an anchor at a time."""
    phi = [l2(outputs["prediction"]) for outputs in online]
    psi = [l2(outputs["projection"]) for outputs in target]
    losses = []
    for i in range(len(phi[0])):
        for own, other in ((0, 1), (1, 0)):
            same = jnp.delete(psi[own], i, axis=0)
            scores = jnp.concatenate([psi[other], same]) @ phi[own][i] / 0.5
            losses.append(jnp.log(jnp.sum(jnp.exp(scores))) - scores[i])
    return jnp.mean(jnp.stack(losses)) * jnp.ones(len(phi[0]))


def least_squares(z, goal):
    return np.float32(np.linalg.lstsq(np.float64(z), np.float64(goal))[0])


def with_optimal_predictor(online, target):
    """Q by numpy's least squares, a constant to the gradient (BYOL App. J.2)."""
    found = []
    for outputs, other in zip(online, reversed(target), strict=True):
        z, goal = (jax.lax.stop_gradient(o["projection"]) for o in (outputs, other))
        shape = jax.ShapeDtypeStruct((z.shape[1],) * 2, jnp.float32)
        best = jax.pure_callback(
            lambda z, t: np.float32(np.linalg.lstsq(np.float64(z), np.float64(t))[0]),
            shape,
            z,
            goal,
        )
        found.append(outputs | {"prediction": outputs["projection"] @ best})
    return squares(found, target)


# Target, predictor, projector, objective and its numbers, the same written out.
DIALS = {
    "BYOL": ("ema", "mlp", "mlp", byol.byol, {}, squares),
    "stop-gradient": ("stop_gradient", "mlp", "mlp", byol.byol, {}, squares),
    "both gradients": ("online", "linear", "linear", byol.byol, {}, squares),
    "constant": ("constant", "mlp", "none", byol.byol, {}, squares),
    "optimal": ("stop_gradient", "optimal_linear", "mlp", byol.byol, {}, with_optimal_predictor),
    "SimCLR": ("online", "none", "mlp", simclr.nt_xent, {"temperature": 0.5}, cross_entropy),
}


@functools.cache
def network_of(name, axis=None):
    """The heads of a row on one layer in place of an encoder, which compiles at once."""
    _, predictor, projector, *_ = DIALS[name]
    bn = {
        "decay_rate": 0.9,
        "create_scale": True,
        "create_offset": True,
        "cross_replica_axis": axis,
    }

    def head(module, kind, size, inputs):
        if kind in ("none", "optimal_linear"):
            return inputs
        spec = heads.HeadSpec(2, 12, size, kind)
        return heads.MLP(module, spec, size, True, bn)(inputs, True)

    def network(images, is_training):
        embedding = hk.Linear(6, name="encoder")(images.reshape(len(images), -1))
        embedding = jax.nn.relu(hk.BatchNorm(name="norm", **bn)(embedding, is_training))
        projection = head("projector", projector, 3, embedding)
        prediction = head("predictor", predictor, projection.shape[1], projection)
        return {"embedding": embedding, "projection": projection, "prediction": prediction}

    return hk.transform_with_state(network)


def method_of(name, axis=None):
    target, predictor, _, objective, _, _ = DIALS[name]
    return Method(
        objective=functools.partial(objective, axis=axis),
        target=target,
        optimal_predictor=predictor == "optimal_linear",
        groups=groups.everywhere(groups.Group("sgd")),
    )


def program_of(name, axis=None):
    return Program(network_of(name, axis), method_of(name, axis), axis)


def hparams_of(name, **changes):
    return HPARAMS._replace(objective=DIALS[name][4], **changes)


def batch_of(size=BATCH):
    rng = np.random.default_rng(0)
    views = {v: rng.normal(size=(1, size, SIZE, SIZE, 3)).astype(np.float32) for v in VIEWS}
    integers = np.arange(size, dtype=np.int32)[None]
    return views | {"labels": integers, "ids": integers}


@functools.cache
def step_of(name, axis=None):
    step = functools.partial(
        update.step,
        make_views=lambda batch: numbered([batch[view] for view in VIEWS]),
        program=program_of(name, axis),
    )
    return step if axis else jax.jit(step)


@functools.cache
def initial(name):
    return init_state(0, program_of(name), (SIZE, SIZE), target_init="released")


def gradient(name):
    """Of the loss of step 0, by a plain function of the parameters."""
    target_mode, *_, loss = DIALS[name]
    network, state, batch = network_of(name), initial(name), batch_of()

    def outputs_of(params, bn_state):
        found = []
        for view in VIEWS:
            outputs, bn_state = network.apply(params, bn_state, None, batch[view][0], True)
            found.append({key: outputs[key] for key in ("prediction", "projection")})
        return found

    @jax.jit
    def total(params):
        online = outputs_of(params, state.online_state)
        if target_mode == "online":
            target = online
        elif target_mode == "stop_gradient":
            target = jax.lax.stop_gradient(online)
        else:
            target = outputs_of(state.target_params, state.target_state)
        return jnp.mean(loss(online, target))

    return jax.value_and_grad(total)(state.online_params)


def close(found, expected):
    """float32 sums of some hundred terms of the size of the largest."""
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5 * largest),
        found,
        expected,
    )


@pytest.mark.parametrize("name", DIALS)
def test_a_step_goes_down_the_gradient_of_its_loss(name):
    state = initial(name)
    new, logs = step_of(name)(state, batch_of(), 0, hparams_of(name))
    loss, expected = gradient(name)
    np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
    moved = jax.tree.map(jnp.subtract, state.online_params, new.online_params)
    close(moved, expected)
    assert bool(logs["finite"])


def test_the_target_is_a_network_of_its_own_or_none():
    for name, (target, *_) in DIALS.items():
        before = initial(name)
        after, logs = step_of(name)(before, batch_of(), 0, hparams_of(name))
        assert ("tau" in logs) == (target == "ema")
        if target in ("online", "stop_gradient"):
            assert not before.target_params and not after.target_params
            continue
        pairs = zip(*map(jax.tree.leaves, (before.target_params, after.target_params)), strict=True)
        same = [bool(np.array_equal(x, y)) for x, y in pairs]
        assert all(same) if target == "constant" else not any(same)


@pytest.mark.parametrize(("tau_base", "end"), [(0.0, 0.0), (0.7, 0.7), (0.9, 1.0)])
def test_tau_rises_or_stays(tau_base, end):
    """Table 5a: tau = 0 is the new online network, whatever the step."""
    state = initial("BYOL")._replace(step=jnp.int32(5))
    hparams = hparams_of("BYOL", tau_base=tau_base, tau_end=end)
    new, logs = step_of("BYOL")(state, batch_of(), 0, hparams)
    np.testing.assert_allclose(logs["tau"], (tau_base + end) / 2, rtol=1e-6)  # half of 10 steps
    if tau_base == 0:
        close(new.target_params, new.online_params)


def test_heads_have_rates_of_their_own():
    """Tables 21 and 22: lambda of the predictor, mu of the projector; the encoder keeps its own."""
    plain, _ = step_of("BYOL")(initial("BYOL"), batch_of(), 0, hparams_of("BYOL"))
    hparams = hparams_of("BYOL")
    own = hparams.groups
    hparams = hparams._replace(
        groups=own._replace(
            predictor=own.predictor._replace(factor=10.0),
            projector=own.projector._replace(factor=0.0),
        )
    )
    new, _ = step_of("BYOL")(initial("BYOL"), batch_of(), 0, hparams)
    for module, leaves in initial("BYOL").online_params.items():
        factor = {"predictor": 10.0, "projector": 0.0}.get(module.split("/")[0], 1.0)
        for leaf, value in leaves.items():
            step = plain.online_params[module][leaf] - value
            np.testing.assert_allclose(
                new.online_params[module][leaf] - value, factor * step, rtol=1e-4, atol=1e-5
            )


def test_the_numbers_of_an_objective_are_traced():
    step, state = step_of("SimCLR"), initial("SimCLR")
    _, first = step(state, batch_of(), 0, hparams_of("SimCLR"))
    before = step._cache_size()
    changed = hparams_of("SimCLR")._replace(objective={"temperature": 0.1})
    _, second = step(state, batch_of(), 0, changed)
    assert step._cache_size() == before
    assert float(first["loss"]) != float(second["loss"])


@pytest.mark.parametrize("name", ["optimal", "SimCLR"])
def test_two_devices_are_one_batch(name):
    """Negatives and the optimal predictor are those of the whole batch."""
    one, one_logs = step_of(name)(initial(name), batch_of(), 0, hparams_of(name))
    devices = jax.local_devices()[:2]
    assert len(devices) == 2
    batch = jax.tree.map(lambda x: x.reshape(1, 2, BATCH // 2, *x.shape[2:]), batch_of())
    batch = jax.tree.map(lambda x: x.swapaxes(0, 1), batch)
    state = spmd.replicate(jax.device_get(initial(name)), devices)
    step = spmd.pmap(step_of(name, spmd.AXIS), in_axes=(0, 0, None, None), devices=devices)
    two, two_logs = jax.tree.map(lambda x: x[0], step(state, batch, 0, hparams_of(name)))
    np.testing.assert_allclose(two_logs["loss"], one_logs["loss"], rtol=1e-5)
    before = initial(name).online_params
    moved = [jax.tree.map(jnp.subtract, before, s.online_params) for s in (two, one)]
    close(*moved)


def test_an_objective_between_the_two_is_their_mixture():
    """At beta 0 Eq. 5 is BYOL but for a constant (App. G.4)."""
    both = {}
    for objective in (byol.byol, functools.partial(info_nce.info_nce, beta=0.0)):
        method = method_of("BYOL")._replace(objective=objective)
        program = program_of("BYOL")._replace(method=method)
        step = jax.jit(functools.partial(step_of("BYOL").__wrapped__, program=program))
        both[objective] = step(initial("BYOL"), batch_of(), 0, HPARAMS)
    (first, logs), (second, others) = both.values()
    np.testing.assert_allclose(logs["loss"] - 4, others["loss"], rtol=1e-5)
    close(second.online_params, first.online_params)
