"""Eq. 5 beside loops over its printed sums, and its limits: Eq. 2 and SimCLR's Eq. 1."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives import byol, info_nce, similarities
from numbered import numbered

LOGS = {"contrastive_top1", "contrastive_entropy", "mi_bound"}


def similarity(u1, u2, l2):
    """S of Eq. 6."""
    product = jnp.dot(u1, u2)
    return product / (jnp.linalg.norm(u1) * jnp.linalg.norm(u2)) if l2 else product


def equation_5(phi, psi, psi_other, alpha, beta, l2=True):
    """InfoNCE of BYOL Eq. 5, to be maximised: phi(v), psi(v), psi(v')."""
    rows = len(phi)
    value = 2 / rows * sum(similarity(phi[i], psi_other[i], l2) for i in range(rows))
    for i in range(rows):
        inner = 0.0
        for j in range(rows):
            if j != i:
                inner += jnp.exp(similarity(phi[i], psi[j], l2) / alpha)
        for j in range(rows):
            inner += jnp.exp(similarity(phi[i], psi_other[j], l2) / alpha)
        value -= beta * 2 * alpha / rows * jnp.log(inner)
    return value


def naive_loss(online, target, alpha, beta, l2=True):
    (phi1, phi2), (psi1, psi2) = (
        [view["prediction"] for view in online],
        [view["projection"] for view in target],
    )
    return -equation_5(phi1, psi1, psi2, alpha, beta, l2) - equation_5(
        phi2, psi2, psi1, alpha, beta, l2
    )


def mean_loss(objective, online, target):
    return jnp.mean(
        objective.loss(
            {}, numbered(online), numbered(target), {}, {}, jax.random.key(0), 0
        ).per_example
    )


@pytest.mark.parametrize(("beta", "l2"), [(0.5, True), (1.0, True), (1.0, False)])
def test_values_and_gradients_are_those_of_equation_5(make_outputs, beta, l2):
    with jax.enable_x64(True):
        outputs = make_outputs(0, 3, 4)
        value, gradient = jax.jit(
            jax.value_and_grad(
                lambda o, t: mean_loss(info_nce.info_nce(0.2, beta, l2=l2), o, t), argnums=(0, 1)
            )
        )(*outputs)
        expected, expected_gradient = jax.jit(
            jax.value_and_grad(lambda o, t: naive_loss(o, t, 0.2, beta, l2), argnums=(0, 1))
        )(*outputs)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
            gradient,
            expected_gradient,
        )


def relative_difference(values, expected):
    pairs = list(zip(jax.tree.leaves(values), jax.tree.leaves(expected), strict=True))
    assert pairs and all(np.linalg.norm(b) > 0.01 for _, b in pairs)
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
def test_beta_0_is_byol_lowered_by_4(make_outputs, temperature):
    for x64 in (False, True):
        with jax.enable_x64(x64):
            online, target = make_outputs(1, 6, 8)

            @jax.jit
            def loss(online, target, temperature, beta):
                objective = info_nce.info_nce(temperature, beta)
                return jax.value_and_grad(mean_loss, argnums=1)(objective, online, target)

            value, gradient = loss(online, target, temperature, 0.0)
            expected, eq2 = jax.jit(jax.value_and_grad(lambda o, t: mean_loss(byol.byol(), o, t)))(
                online, target
            )
            np.testing.assert_allclose(value, expected - 4, rtol=1e-12 if x64 else 1e-6)
            # float32 has some ten roundings of 6e-8 on the way.
            assert relative_difference(gradient, eq2) < (1e-12 if x64 else 1e-6)


def test_beta_1_is_simclr_times_twice_the_temperature(make_outputs):
    """Eq. 1 of SimCLR over one list of 2N outputs, without predictor and target."""
    alpha = 0.3

    def equation_1(z):
        total = 0.0
        for i in range(len(z)):
            sims = jnp.stack([similarity(z[i], z[k], True) for k in range(len(z)) if k != i])
            j = (i + len(z) // 2) % len(z)
            positive = jnp.exp(similarity(z[i], z[j], True) / alpha)
            total -= jnp.log(positive / jnp.sum(jnp.exp(sims / alpha)))
        return total / len(z)

    def loss(z):
        views = z.reshape(2, len(z) // 2, -1)
        online, target = [{"prediction": v} for v in views], [{"projection": v} for v in views]
        return mean_loss(info_nce.info_nce(alpha, 1.0), online, target)

    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)))
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
        expected, expected_gradient = jax.jit(jax.value_and_grad(equation_1))(z)
        # Two directions are summed here; Eq. 1 averages them.
        np.testing.assert_allclose(value, 2 * 2 * alpha * expected, rtol=1e-12)
        assert relative_difference(gradient, 4 * alpha * expected_gradient) < 1e-10


@pytest.mark.parametrize("l2", [True, False])
def test_replicas_agree(check_replicas, l2):
    check_replicas(lambda axis: info_nce.info_nce(0.3, 0.7, axis, l2=l2), devices=not l2)


def test_logs_are_those_of_a_loop_over_the_other_view(make_outputs):
    alpha = 0.4
    with jax.enable_x64(True):
        online, target = make_outputs(3, 5, 3)
        loss = info_nce.info_nce(alpha, 1.0).loss
        logs = jax.jit(
            lambda o, t: loss({}, numbered(o), numbered(t), {}, {}, jax.random.key(0), 0).logs
        )(online, target)
    assert logs.keys() == LOGS
    hits, entropies, bounds = [], [], []
    for a, b in ((0, 1), (1, 0)):
        for i in range(5):
            phi = np.asarray(online[a]["prediction"][i])
            sims = np.array(
                [
                    phi @ psi / np.linalg.norm(phi) / np.linalg.norm(psi)
                    for psi in np.asarray(target[b]["projection"])
                ]
            )
            p = np.exp(sims / alpha) / np.exp(sims / alpha).sum()
            hits.append(np.argmax(sims) == i)
            entropies.append(-np.sum(p * np.log(p)))
            bounds.append(np.log(5) + np.log(p[i]))
    assert 0 < np.mean(hits) < 1
    np.testing.assert_allclose(logs["contrastive_top1"], 100 * np.mean(hits), rtol=1e-6)
    np.testing.assert_allclose(logs["contrastive_entropy"], np.mean(entropies), rtol=1e-12)
    np.testing.assert_allclose(logs["mi_bound"], np.mean(bounds), rtol=1e-12)


@pytest.mark.parametrize(
    ("other", "top1", "entropy", "bound"),
    [
        (np.eye(4), 100, 0, math.log(4)),
        (np.ones((4, 4)), 0, math.log(4), 0),
        # Two images look the same, so that the choice between them is a coin toss.
        (np.kron(np.eye(2), np.ones((2, 2))), 0, math.log(2), math.log(2)),
        # Each image is taken for the next one, at a distance of 1 / temperature = 100.
        (np.roll(np.eye(4), 1, axis=1), 0, 0, math.log(4) - 100),
    ],
)
def test_logs_by_hand(other, top1, entropy, bound):
    # The same view is not among the candidates.
    similarity = similarities.Similarities(
        jnp.asarray(other, jnp.float32), jnp.full((4, 4), 7.0), jnp.eye(4, dtype=bool)
    )
    logs = jax.jit(info_nce.contrastive_logs)([similarity] * 2, 0.01)
    np.testing.assert_allclose(logs["contrastive_top1"], top1)
    np.testing.assert_allclose(logs["contrastive_entropy"], entropy, atol=1e-6)
    np.testing.assert_allclose(logs["mi_bound"], bound, atol=1e-5)


def test_numbers_are_traced(make_outputs):
    online, target = make_outputs(4, 3, 4)
    naive = jax.jit(naive_loss)
    traces = []

    @jax.jit
    def loss(temperature, beta):
        traces.append(1)
        return mean_loss(info_nce.info_nce(temperature, beta), online, target)

    for temperature, beta in ((0.1, 0.0), (0.1, 1.0), (2.0, 0.5)):
        expected = naive(online, target, temperature, beta)
        np.testing.assert_allclose(loss(temperature, beta), expected, rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_temperature_of_a_hundredth_is_finite(make_outputs, sign, beta):
    # Positives and negatives are at the ends of [-1, 1]. Each anchor equals a candidate that does
    # not count, the anchor itself. exp(200) is beyond float32.
    online, _ = make_outputs(5, 4, 2)
    z = online[0]["prediction"]
    target = [{"projection": z}, {"projection": sign * z}]
    online = [{"prediction": z}] * 2

    def loss(online, target):
        return mean_loss(info_nce.info_nce(0.01, beta), online, target)

    with jax.debug_nans(True):
        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(online, target)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (online, target))
        expected = jax.jit(lambda o, t: naive_loss(o, t, 0.01, beta))(*wide)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


def test_a_batch_of_one_has_no_negatives(make_outputs):
    online, target = make_outputs(6, 1, 4)

    def loss(online, target):
        result = info_nce.info_nce(0.1, 1.0).loss(
            {}, numbered(online), numbered(target), {}, {}, jax.random.key(0), 0
        )
        return jnp.sum(result.per_example), result.logs

    with jax.debug_nans(True):
        (value, logs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(online, target)
    # -2 S + 2 alpha ln exp(S / alpha)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    jax.tree.map(lambda x: np.testing.assert_allclose(x, 0, atol=1e-6), gradient)
    np.testing.assert_allclose([logs[name] for name in sorted(LOGS)], [0, 100, 0], atol=1e-6)
