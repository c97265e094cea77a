"""Normalisers, the optimal linear predictor and similarities, by hand and beside numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives import base, optimal_predictor, similarities
from byol_jax.objectives.normalize import NORMALIZATIONS, batch_normalize, normalize
from byol_jax.runtime import spmd

HALF = 0.5**0.5
predictor = jax.jit(optimal_predictor.optimal_linear_predictor)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("l2", [[0.6, 0.8], [-1, 0]]),
        # Rows minus their means 3.5 and -0.5, that is -+0.5, over a norm of 0.5 sqrt(2).
        ("layer", [[-HALF, HALF], [-HALF, HALF]]),
        # Columns have means 1 and 2 and deviations 2 and 2, times sqrt(2).
        ("batch", [[HALF, HALF], [-HALF, -HALF]]),
        ("none", [[3, 4], [-1, 0]]),
    ],
)
def test_normalisers_by_hand(normalization, expected):
    out = normalize(jnp.array([[3.0, 4.0], [-1.0, 0.0]]), normalization)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def naive_normalize(x: np.ndarray, normalization: str) -> np.ndarray:
    """The formulas of App. G.6, entry by entry."""
    rows, width = x.shape
    out = np.zeros_like(x)
    for i in range(rows):
        for j in range(width):
            if normalization == "batch":
                mean = sum(x[k, j] for k in range(rows)) / rows
                deviation = np.sqrt(sum(x[k, j] ** 2 for k in range(rows)) / rows - mean**2)
            else:
                mean = sum(x[i, k] for k in range(width)) / width
                deviation = np.linalg.norm(x[i] - mean) / np.sqrt(width)
            out[i, j] = (x[i, j] - mean) / (deviation * np.sqrt(width))
    return out


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_normalisers_are_those_of_the_paper(normalization):
    x = np.random.default_rng(0).normal(2, 3, size=(7, 5))
    with jax.enable_x64(True):
        out = normalize(jnp.asarray(x), normalization)
    np.testing.assert_allclose(out, naive_normalize(x, normalization), rtol=1e-12)


def test_every_normalisation_has_a_name():
    x = jnp.ones((2, 3), jnp.bfloat16)
    assert NORMALIZATIONS == ("l2", "layer", "batch", "none")
    assert {normalize(x, name).dtype for name in NORMALIZATIONS} == {jnp.dtype("float32")}
    with pytest.raises(KeyError):
        normalize(x, "group")


@pytest.mark.parametrize(("normalization", "fill"), [("layer", 3.0), ("batch", 3.0), ("l2", 0.0)])
def test_norms_of_zero_give_zeros(normalization, fill):
    @jax.jit
    def run(x):
        out, pull = jax.vjp(lambda x: normalize(x, normalization), x)
        return out, pull(jnp.ones_like(out))

    out, (gradient,) = run(jnp.full((4, 3), fill))
    np.testing.assert_array_equal(out, np.zeros((4, 3)))
    assert np.all(np.isfinite(gradient))


def test_batch_statistics_survive_large_outputs():
    # Figure 7 reaches norms of 3e6. In float32 the mean square minus the squared mean, each 1e13
    # with an error of about 1e6, would leave nothing of a variance of 1e6.
    x = (3e6 + 1e3 * np.random.default_rng(1).normal(size=(64, 2))).astype(np.float32)
    out = batch_normalize(jnp.asarray(x))
    # The rounding of the mean, 3e6 x 2^-24 per sum, is below a thousandth of the deviation.
    np.testing.assert_allclose(out, naive_normalize(x.astype(np.float64), "batch"), atol=1e-3)


@pytest.mark.parametrize("spread", [1.0, 150.0])
def test_optimal_linear_predictor_is_least_squares(spread):
    rng = np.random.default_rng(2)
    scales = np.geomspace(1, 1 / spread, 6)
    z = (rng.normal(size=(64, 6)) * scales).astype(np.float32)
    target = rng.normal(size=(64, 6)).astype(np.float32)
    best, *_, singular = np.linalg.lstsq(z.astype(np.float64), target.astype(np.float64))
    out = predictor(z, target)
    condition = singular[0] / singular[-1]
    assert spread / 2 < condition < 3 * spread
    tolerance = 6 * np.finfo(np.float32).eps * condition**2
    assert np.linalg.norm(out - best, 2) < tolerance * np.linalg.norm(best, 2)


def test_optimal_linear_predictor_by_hand():
    # Z^T Z = 5, Z^T Z' = 1 x 3 + 2 x 1 = 5 and 1 x 0 + 2 x 5 = 10.
    z, target = jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 0.0], [1.0, 5.0]])
    np.testing.assert_allclose(predictor(z, target), [[1, 2]], rtol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(4096, 16), (1000, 2), (5, 8)])
def test_a_singular_batch_has_the_predictor_of_least_norm(rows, width):
    rng = np.random.default_rng(3)
    rank = min(rows, width) // 2 + 1 if rows < width else width // 2
    mix = np.linalg.qr(rng.normal(size=(width, width)))[0][:rank]
    z = (rng.normal(size=(rows, rank)) @ mix).astype(np.float32)
    target = rng.normal(size=(rows, width)).astype(np.float32)
    # In the other directions there is only float32 rounding.
    best, _, numerical_rank, _ = np.linalg.lstsq(z.astype(np.float64), target, rcond=1e-5)
    assert numerical_rank == rank < width
    out = predictor(z, target)
    np.testing.assert_allclose(out, best, atol=1e-4 * np.abs(best).max())


def test_a_collapsed_batch_has_a_finite_predictor():
    zeros = jnp.zeros((6, 3))
    np.testing.assert_array_equal(predictor(zeros, zeros + 1), np.zeros((3, 3)))
    # All rows are z = (1, 2) and z' = (5, 0): z Q = z' has the least solution z^T z' / 5.
    z, target = jnp.tile(jnp.array([[1.0, 2.0]]), (6, 1)), jnp.tile(jnp.array([[5.0, 0.0]]), (6, 1))
    out = predictor(z, target)
    np.testing.assert_allclose(out, [[1, 0], [2, 0]], atol=1e-5)


def test_gradient_reaches_z_through_the_product_alone():
    z, target = jnp.asarray(np.random.default_rng(4).normal(size=(2, 9, 4)), jnp.float32)

    def error(z, target, q):
        return jnp.sum((z @ q(z, target) - target) ** 3)

    gradients = jax.jit(jax.grad(lambda z, t: error(z, t, predictor), argnums=(0, 1)))(z, target)
    q = np.asarray(predictor(z, target))
    slope = 3 * (z @ q - target) ** 2
    np.testing.assert_allclose(gradients[0], slope @ q.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], -slope, rtol=1e-4, atol=1e-5)


def test_optimal_linear_predictor_is_that_of_all_devices(check_replicas):
    def make(axis):
        def loss(online, target):
            z, other = online[0]["prediction"], target[1]["projection"]
            q = optimal_predictor.optimal_linear_predictor(z, other, axis)
            return jnp.sum((z @ q - other) ** 2, axis=1), {"trace": jnp.trace(q)}

        return base.stateless(loss)

    check_replicas(make)


def test_similarities_by_hand():
    online = [{"prediction": jnp.array([[2.0, 0], [0, 1]])}] * 2
    target = [
        {"projection": jnp.array([[0, 3.0], [1, 0]])},
        {"projection": jnp.array([[3.0, 4], [-1, 0]])},
    ]
    first, second = similarities.similarities(online, target)
    np.testing.assert_allclose(first.other, [[0.6, -1], [0.8, 0]], atol=1e-6)
    np.testing.assert_allclose(first.same, [[0, 1], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(second.other, first.same)
    np.testing.assert_allclose(second.same, first.other)
    np.testing.assert_array_equal(first.own, [[True, False], [False, True]])
    np.testing.assert_allclose(similarities.positives(first), [0.6, 0], atol=1e-6)
    products, _ = similarities.similarities(online, target, l2=False)
    np.testing.assert_allclose(products.other, [[6, -2], [4, 0]])


def test_each_device_marks_its_own_images():
    rows = jnp.arange(8.0).reshape(4, 2, 1) - 3.5
    online, target = [{"prediction": rows}] * 2, [{"projection": rows}] * 2
    mapped = jax.vmap(
        lambda *views: similarities.similarities(*views, spmd.AXIS, l2=False)[0],
        axis_name=spmd.AXIS,
    )
    similarity = mapped(online, target)
    np.testing.assert_array_equal(similarity.own.reshape(8, 8), np.eye(8, dtype=bool))
    x = np.arange(8) - 3.5
    np.testing.assert_array_equal(similarity.other.reshape(8, 8), np.outer(x, x))


def test_top1_counts_ties_as_misses():
    own = jnp.eye(4, dtype=bool)
    other = jnp.array([[0.5, 0.4, -1, 0], [0.3, 0.2, 0, 0], [0, 0, 1, 1], [0, 0, -0.1, 0.1]])
    similarity = similarities.Similarities(other, jnp.zeros((4, 4)), own)
    assert float(similarities.top1(similarity)) == 50
    collapsed = similarities.Similarities(jnp.ones((4, 4)), jnp.ones((4, 4)), own)
    assert float(similarities.top1(collapsed)) == 0
