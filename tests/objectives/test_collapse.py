import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives import collapse
from byol_jax.objectives.normalize import l2_norm, l2_normalize

VARIANTS = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


def signed_axes(dim: int) -> np.ndarray:
    """Rows +e_1, -e_1, ..., +e_D, -e_D."""
    return np.stack([np.eye(dim), -np.eye(dim)], axis=1).reshape(2 * dim, dim).astype(np.float32)


@VARIANTS
def test_l2_norm(transform):
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]])
    np.testing.assert_allclose(transform(l2_norm)(x), [5.0, 0.0, 13.0], rtol=1e-6)


@VARIANTS
def test_l2_normalize_floors_the_norm(transform):
    x = jnp.array([[3.0, -4.0], [0.0, 0.0], [1e-7, 0.0]])
    # The last row is shorter than the floor of 1e-6, so it is divided by 1e-6.
    np.testing.assert_allclose(
        transform(l2_normalize)(x), [[0.6, -0.8], [0.0, 0.0], [0.1, 0.0]], rtol=1e-5
    )


@VARIANTS
def test_normalized_moments_by_hand(transform):
    # Normalised rows: (1, 0), (0, -1), (0.6, 0.8).
    mean, mean_of_squares = transform(collapse.normalized_moments)(
        jnp.array([[2.0, 0.0], [0.0, -7.0], [3.0, 4.0]])
    )
    np.testing.assert_allclose(mean, [1.6 / 3, -0.2 / 3], rtol=1e-5)
    np.testing.assert_allclose(mean_of_squares, [1.36 / 3, 1.64 / 3], rtol=1e-5)


@VARIANTS
def test_std_sqrt_dim_by_hand(transform):
    # Variances 0.25 - 0.09 = 0.16 and 0.5 - 0.49 = 0.01: (0.4 + 0.1) / 2 * sqrt(2).
    value = transform(collapse.std_sqrt_dim)(jnp.array([0.3, -0.7]), jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(value, 0.25 * np.sqrt(2), rtol=1e-4)


@VARIANTS
@pytest.mark.parametrize("dim", [2, 8, 64])
def test_rows_along_all_axes_give_one(transform, dim):
    # Mean 0 and mean of squares 1 / D in each dimension.
    scale = np.linspace(0.1, 9.0, 2 * dim, dtype=np.float32)[:, None]
    value = transform(collapse.projection_std)(jnp.asarray(scale * signed_axes(dim)))
    np.testing.assert_allclose(value, 1.0, rtol=1e-4)


def test_rows_along_one_axis():
    # One dimension of standard deviation 1, three of 0: 1 / 4 * sqrt(4).
    x = jnp.asarray(signed_axes(4)[:2])
    np.testing.assert_allclose(collapse.projection_std(x), 0.5, rtol=1e-6)


@pytest.mark.parametrize("row", [np.zeros(128), np.linspace(-1, 3, 128)], ids=["zero", "point"])
def test_collapse_gives_zero(row):
    x = jnp.asarray(np.outer(np.linspace(1, 5, 50), row), jnp.float32)
    assert 0 <= float(collapse.projection_std(x)) < 1e-3


def test_variance_below_zero_is_clipped():
    value = collapse.std_sqrt_dim(jnp.array([0.5, 0.0]), jnp.array([0.25 - 1e-6, 0.04]))
    np.testing.assert_allclose(value, 0.1 * np.sqrt(2), rtol=1e-4)


def test_sphere_against_numpy():
    x = np.random.default_rng(0).normal(size=(500, 32)) + 0.3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = unit.std(axis=0).mean() * np.sqrt(32)
    np.testing.assert_allclose(collapse.projection_std(jnp.asarray(x)), expected, rtol=1e-4)


def test_moments_of_halves_average_to_the_whole():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(12, 5)) + 1.0, jnp.float32)
    halves = [collapse.normalized_moments(half) for half in (x[:6], x[6:])]
    averaged = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
    for actual, expected in zip(averaged, collapse.normalized_moments(x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
    whole = collapse.projection_std(x)
    np.testing.assert_allclose(collapse.std_sqrt_dim(*averaged), whole, rtol=1e-4)
    # The standard deviations themselves do not average: the reason for the moments.
    mean_of_stds = (collapse.projection_std(x[:6]) + collapse.projection_std(x[6:])) / 2
    assert abs(mean_of_stds - whole) > 1e-3


def test_half_precision_is_summed_in_float32():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(64, 16)), jnp.bfloat16)
    value = collapse.projection_std(x)
    chex.assert_type(value, jnp.float32)
    np.testing.assert_allclose(value, collapse.projection_std(x.astype(jnp.float32)), rtol=1e-6)
    chex.assert_type(l2_norm(x), jnp.float32)


def test_gradient_of_normalisation_is_finite_at_zero():
    gradient = jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_rank_is_checked():
    with pytest.raises(AssertionError):
        collapse.projection_std(jnp.zeros(4))


def test_effective_rank_by_hand() -> None:
    """Singular values 3, 1, 0: shares 3/4, 1/4, so 4 / 3^(3/4)."""
    rows = np.diag([3.0, 1.0, 0.0])
    np.testing.assert_allclose(collapse.effective_rank(rows), 4 / 3**0.75, rtol=1e-5)
    wide = np.concatenate([rows, np.zeros((3, 5))], axis=1)
    np.testing.assert_allclose(collapse.effective_rank(wide), 4 / 3**0.75, rtol=1e-5)
    np.testing.assert_allclose(collapse.effective_rank(wide.T), 4 / 3**0.75, rtol=1e-5)


def test_effective_rank_from_a_line_to_all_directions() -> None:
    line = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 6.0))
    np.testing.assert_allclose(collapse.effective_rank(line.astype(np.float32)), 1, atol=1e-3)
    axes = np.tile(np.eye(5), (4, 1))
    np.testing.assert_allclose(collapse.effective_rank(axes), 5, rtol=1e-5)
    svd = np.linalg.svd(np.random.default_rng(0).normal(size=(20, 6)), compute_uv=False)
    shares = svd / svd.sum()
    rows = np.random.default_rng(0).normal(size=(20, 6))
    expected = np.exp(-(shares * np.log(shares)).sum())
    np.testing.assert_allclose(collapse.effective_rank(rows), expected, rtol=1e-5)


def test_alignment_by_hand() -> None:
    """Directions that agree, are at a right angle, and are opposite: (0 + 2 + 4) / 3."""
    first = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    second = np.array([[5.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(collapse.alignment(first, second), 2.0, rtol=1e-12)


def test_uniformity_by_hand() -> None:
    """Pairs at distances squared of 2, 2 and 4."""
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    expected = np.log((2 * np.exp(-4.0) + np.exp(-8.0)) / 3)
    np.testing.assert_allclose(collapse.uniformity(rows), expected, rtol=1e-12)
    np.testing.assert_allclose(collapse.uniformity(np.ones((4, 3))), 0, atol=1e-12)


def test_health_is_of_one_view_or_two_and_of_finite_numbers() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    assert {*collapse.health(rows, None)} == {"embedding_rank", "uniformity"}
    both = collapse.health(rows, rows)
    assert {*both} == {"embedding_rank", "uniformity", "alignment"}
    assert both["alignment"] == pytest.approx(0, abs=1e-12)
    assert collapse.health(rows[:1], rows[:1]) == {}
    assert collapse.health(rows, rows * np.nan) == {}
