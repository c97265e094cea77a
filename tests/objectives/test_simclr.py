"""Algorithm 1 and Table 2 of SimCLR: loops, gradients as printed, and triplets by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives import simclr, similarities
from numbered import numbered

MAKERS = {
    "nt_xent": lambda number, **kw: simclr.nt_xent(number, **kw),
    "nt_logistic": lambda number, **kw: simclr.nt_logistic(number, **kw),
    "nt_logistic_sh": lambda number, **kw: simclr.nt_logistic(number, semi_hard=True, **kw),
    "margin": lambda number, **kw: simclr.margin_triplet(number, **kw),
    "margin_sh": lambda number, **kw: simclr.margin_triplet(number, semi_hard=True, **kw),
}


@functools.partial(jax.jit, static_argnums=0)
def run(objective, online, target):
    result = objective.loss({}, numbered(online), numbered(target), {}, {}, jax.random.key(0), 0)
    return result.per_example, result.logs


def cosine(a, b, l2=True):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if l2 else a @ b


def algorithm_1(views1, views2, tau, l2=True, same_view=True):
    """The loss of SimCLR's Algorithm 1, from its line about z on; indices start at 1 as there.

    Without `same_view` the sum below is over the other view alone (footnote 8).
    """
    count = len(views1)
    z = {}
    for k in range(1, count + 1):
        z[2 * k - 1] = views1[k - 1]
        z[2 * k] = views2[k - 1]
    s = {(i, j): cosine(z[i], z[j], l2) for i in z for j in z}

    def ell(i, j):
        others = [k for k in range(1, 2 * count + 1) if k != i and (same_view or (k - i) % 2)]
        below = sum(np.exp(s[i, k] / tau) for k in others)
        return -np.log(np.exp(s[i, j] / tau) / below)

    total = sum(ell(2 * k - 1, 2 * k) + ell(2 * k, 2 * k - 1) for k in range(1, count + 1))
    return total / (2 * count)


def naive(name, online, target, number):
    """Losses over the triplets of Table 2, one triplet after the other: `[B]`."""
    count = len(online[0]["prediction"])
    losses = np.zeros(count)
    for a, b in ((0, 1), (1, 0)):
        for i in range(count):
            u = np.asarray(online[a]["prediction"][i])
            candidates = np.asarray(target[b]["projection"])
            plus = cosine(u, candidates[i])
            minus = [cosine(u, candidates[j]) for j in range(count) if j != i]
            if name.endswith("_sh"):
                floor = plus - number if name == "margin_sh" else -np.inf
                minus = sorted(s for s in minus if floor < s < plus)[-1:]
            if name.startswith("margin"):
                terms = [max(s - plus + number, 0) for s in minus]
            else:
                losses[i] += np.log(1 + np.exp(-plus / number))
                terms = [np.log(1 + np.exp(s / number)) for s in minus]
            losses[i] += sum(terms) / max(len(terms), 1)
    return losses / 2


@pytest.mark.parametrize("same_view", [True, False])
@pytest.mark.parametrize(("tau", "l2"), [(0.1, True), (1.0, True), (1.0, False)])
def test_nt_xent_is_algorithm_1(tau, l2, same_view):
    views = np.random.default_rng(0).normal(size=(2, 5, 4))
    with jax.enable_x64(True):
        online = [{"prediction": jnp.asarray(v)} for v in views]
        target = [{"projection": jnp.asarray(v)} for v in views]
        losses, logs = run(simclr.nt_xent(tau, l2=l2, same_view=same_view), online, target)
    assert losses.shape == (5,)
    losses = np.asarray(losses)
    assert losses.min() > 0
    expected = algorithm_1(*views, tau, l2, same_view)
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-12)
    assert logs.keys() == {"contrastive_top1", "contrastive_entropy", "mi_bound"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0.4, 1.6])
@pytest.mark.parametrize("name", [name for name in MAKERS if name != "nt_xent"])
def test_relatives_are_loops_over_triplets(make_outputs, name, number):
    with jax.enable_x64(True):
        online, target = make_outputs(1, 6, 3)
        losses, logs = run(MAKERS[name](number), online, target)
        flipped, _ = run(MAKERS[name](number), online[::-1], target[::-1])
    expected = naive(name, online, target, number)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(flipped, losses, rtol=1e-12)
    assert logs.keys() == {"contrastive_top1"}


def table_2_gradient(name, u, plus, minus, number):
    """The last column of Table 2 (gradient of minus the loss), averaged over the negatives."""

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    if name == "nt_xent":
        z = np.exp(u @ plus / number) + sum(np.exp(u @ v / number) for v in minus)
        return (1 - np.exp(u @ plus / number) / z) / number * plus - sum(
            np.exp(u @ v / number) / z / number * v for v in minus
        )
    if name == "nt_logistic":
        rows = [
            sigma(-u @ plus / number) / number * plus - sigma(u @ v / number) / number * v
            for v in minus
        ]
    else:
        rows = [plus - v if u @ plus - u @ v < number else 0 * u for v in minus]
    return sum(rows) / len(rows)


@pytest.mark.parametrize("name", ["nt_xent", "nt_logistic", "margin"])
def test_gradients_of_table_2(name):
    """Vectors of norm 1 are not normalised, so the gradient of the normalisation plays no part."""
    rng = np.random.default_rng(3)
    arrays = rng.normal(size=(4, 4, 3))
    arrays /= np.linalg.norm(arrays, axis=-1, keepdims=True)
    phi, psi = arrays[:2], arrays[2:]
    with jax.enable_x64(True):

        def total(phi1):
            online = [{"prediction": phi1}, {"prediction": jnp.asarray(phi[1])}]
            target = [{"projection": jnp.asarray(view)} for view in psi]
            # The loss is the mean of two directions; this is the gradient of one of them.
            return 2 * jnp.sum(run(MAKERS[name](0.5, l2=False), online, target)[0])

        gradient = jax.jit(jax.grad(total))(jnp.asarray(phi[0]))
    for i in range(4):
        minus = [psi[1, j] for j in range(4) if j != i]
        if name == "nt_xent":
            minus += [psi[0, j] for j in range(4) if j != i]
        expected = -table_2_gradient(name, phi[0, i], psi[1, i], minus, 0.5)
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-10, atol=1e-12)


def one_anchor(*row):
    """An anchor with its positive first, then negatives."""
    other = jnp.array([row])
    return similarities.Similarities(
        other, jnp.full_like(other, 9.0), jnp.arange(len(row))[None, :] == 0
    )


def test_margin_triplet_by_hand():
    similarity = one_anchor(0.5, 0.45, 0.2, 0.8, 0.0)
    # 0.35, 0.1, 0.7 and, beyond the margin, 0.
    loss = simclr.margin_triplet_loss(similarity, ~similarity.own, 0.4)
    np.testing.assert_allclose(loss, [1.15 / 4], rtol=1e-6)


def test_margin_triplet_at_the_margin_has_no_gradient():
    def loss(other):
        similarity = similarities.Similarities(other, other, jnp.array([[True, False, False]]))
        return jnp.sum(simclr.margin_triplet_loss(similarity, ~similarity.own, 0.5))

    # u v+ - u v- is 0.5, which is not below the margin, and 0.25.
    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([[0.5, 0.0, 0.25]])), [[-0.5, 0, 0.5]])


def test_nt_logistic_by_hand():
    # sigma(0) = 1 / 2, and sigma(-ln 3) = 1 / 4.
    similarity = one_anchor(0.0, 0.0, math.log(3))
    loss = simclr.nt_logistic_loss(similarity, ~similarity.own, 1.0)
    np.testing.assert_allclose(loss, [math.log(2) + (math.log(2) + math.log(4)) / 2], rtol=1e-6)
    # The temperature divides all similarities.
    similarity = one_anchor(0.0, 0.0, 0.1 * math.log(3))
    same = simclr.nt_logistic_loss(similarity, ~similarity.own, 0.1)
    np.testing.assert_allclose(same, loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "margin", "chosen"),
    [
        # 0.45 and 0.2 lie within (0.1, 0.5): the closest. 0.8 is harder than the positive.
        ((0.5, 0.2, 0.45, 0.8, 0.0), 0.4, 2),
        ((0.5, 0.2, 0.45, 0.8, 0.0), np.inf, 2),
        # A negative at the distance of the positive, or exactly at the margin, does not count.
        ((0.5, 0.5, 0.25, 0.75), 0.25, None),
        ((0.5, 0.2, 0.3), 0.125, None),
        ((0.5, 0.6, 0.7), np.inf, None),
        ((0.5, 0.4, 0.6), 0.0, None),
        ((0.5, 0.1, 0.25, 0.25), 0.5, 2),
        ((0.5,), 1.0, None),
    ],
)
def test_semi_hard_negatives_by_hand(row, margin, chosen):
    expected = [[j == chosen for j in range(len(row))]]
    negatives = simclr.semi_hard_negatives(one_anchor(*row), margin)
    np.testing.assert_array_equal(negatives, expected)


def test_semi_hard_losses_by_hand():
    with_negative, without = one_anchor(0.5, 0.45, 0.2, 0.8), one_anchor(0.5, 0.6, 0.8, 0.9)
    negatives = simclr.semi_hard_negatives(with_negative, 0.4)
    np.testing.assert_allclose(
        simclr.margin_triplet_loss(with_negative, negatives, 0.4), [0.35], rtol=1e-6
    )
    negatives = simclr.semi_hard_negatives(without, 0.4)
    np.testing.assert_allclose(simclr.margin_triplet_loss(without, negatives, 0.4), [0], atol=0)
    # The positive still attracts: -ln sigma(0.5 / 0.5).
    loss = simclr.nt_logistic_loss(without, negatives, 0.5)
    np.testing.assert_allclose(loss, [math.log(1 + math.exp(-1))], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_replicas_agree(check_replicas, name):
    check_replicas(lambda axis: MAKERS[name](1.2, axis=axis))


@pytest.mark.parametrize("name", MAKERS)
def test_numbers_are_traced(make_outputs, name):
    online, target = make_outputs(4, 4, 3)
    traces = []

    @jax.jit
    def losses(number):
        traces.append(1)
        return run(MAKERS[name](number), online, target)[0]

    results = [losses(number) for number in (0.3, 1.5)]
    assert len(traces) == 1
    assert np.max(np.abs(results[0] - results[1])) > 0.01
    fixed, _ = run(MAKERS[name](1.5), online, target)
    np.testing.assert_allclose(results[1], fixed, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_numbers_are_finite(make_outputs, name, sign):
    online, _ = make_outputs(5, 4, 2)
    z = online[0]["prediction"]

    def loss(z):
        views = [z, sign * z]
        online, target = [{"prediction": v} for v in views], [{"projection": v} for v in views]
        return jnp.sum(run(MAKERS[name](0.01), online, target)[0])

    with jax.debug_nans(True):
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_of_one_has_no_negatives(name):
    online = [{"prediction": jnp.array([[1.0, 0.0]])}] * 2
    target = [{"projection": jnp.array([[3.0, 4.0]])}] * 2

    def loss(online):
        return jnp.sum(run(MAKERS[name](0.2), online, target)[0])

    with jax.debug_nans(True):
        value, gradient = jax.jit(jax.value_and_grad(loss))(online)
    # NT-Logistic still attracts: the cosine is 0.6.
    expected = math.log(1 + math.exp(-3)) if name.startswith("nt_logistic") else 0
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
