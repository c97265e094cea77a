"""The reverse Huber loss, measures and evaluation crops: hand-computed numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.dense import depth, pixels


def row(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1)


def loss_of(prediction, target, valid):
    threshold = depth.berhu_threshold(prediction, target, valid, None)
    return pixels.mean(depth.berhu(prediction, target, valid, threshold), None)


def test_berhu_by_hand():
    """Errors 1, -2, 10 and c = 2: |e| up to c, then (e^2 + c^2) / 2c."""
    prediction, target = row(2, 1, 13, 5), row(1, 3, 3, np.nan)
    valid = row(1, 1, 1, 0) > 0
    assert depth.berhu_threshold(prediction, target, valid, None) == 2
    sums = depth.berhu(prediction, target, valid, jnp.float32(2))
    assert (sums.total, sums.number) == (1 + 2 + 104 / 4, 3)
    # Slopes 1, -1 and e / c; c has none.
    gradient = jax.grad(loss_of)(prediction, target, valid)
    np.testing.assert_allclose(gradient, row(1 / 3, -1 / 3, 5 / 3, 0), rtol=1e-6)


@pytest.mark.parametrize("valid", [True, False])
def test_no_error_and_no_pixel_have_loss_and_gradient_0(valid):
    maps = row(1, 2, 3)
    value, gradient = jax.value_and_grad(loss_of)(maps, maps, jnp.full(maps.shape, valid))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_measures_by_hand():
    target = np.array([[1.0, 2.0, 4.0, 1.0, 0.0]])
    prediction = np.array([[1.0, 2.6, 2.0, 10.0, 7.0]])  # ratios 1, 1.3, 2, 10
    scores = depth.depth_scores(depth.depth_sums(prediction, target, target > 0))
    np.testing.assert_allclose(scores.within, [25, 50, 50])
    np.testing.assert_allclose(scores.rms, math.sqrt((0.36 + 4 + 81) / 4))
    np.testing.assert_allclose(scores.rel, (0.3 + 0.5 + 9) / 4)
    np.testing.assert_allclose(scores.log10, (math.log10(1.3) + math.log10(2) + 1) / 4)


def test_the_limits_of_the_ratios_are_not_within():
    target = np.array([1.0, 1.0])
    sums = depth.depth_sums(np.array([1.25, 1.25**2]), target, target > 0)
    np.testing.assert_array_equal(sums.within, [0, 1, 2])


def test_a_prediction_of_0_has_a_finite_logarithm():
    sums = depth.depth_sums(np.zeros(1), np.ones(1), np.ones(1, bool))
    assert depth.depth_scores(sums) == depth.DepthScores((0, 0, 0), 1, 1, 3)


def test_measures_without_a_pixel_are_nan():
    nothing = depth.depth_sums(np.ones((2, 2)), np.ones((2, 2)), np.zeros((2, 2), bool))
    scores = depth.depth_scores(nothing)
    assert all(math.isnan(value) for value in (*scores.within, *scores[1:]))


@pytest.mark.parametrize(
    ("target", "words"),
    [([1.0, 0.0], "not above 0"), ([1.0, np.nan], "not above 0"), ([1.0], r"the target \(1,\)")],
)
def test_what_cannot_be_measured_is_refused(target, words):
    target = np.array(target)
    with pytest.raises(ValueError, match=words):
        depth.depth_sums(np.ones(2), target, np.ones(target.shape, bool))


def test_a_crop_is_compared_where_it_was():
    frame = np.tile(np.arange(1.0, 9.0), (8, 1))  # depth is the column, from 1
    valid = frame < 8
    box = depth.Box(top=2, left=2, height=4, width=4)
    # Columns 3 to 6 halved: the means of two pixels each.
    prediction = np.array([[3.5, 5.5], [3.5, 5.5]])
    ours, target, mask = depth.compared(prediction, frame, valid, box, "crop")
    np.testing.assert_allclose(ours, np.tile([3.5, 4, 5, 5.5], (4, 1)))
    np.testing.assert_array_equal(target, frame[2:6, 2:6])
    assert mask.all()


def test_a_stretched_crop_is_compared_with_the_whole_frame():
    frame = np.ones((2, 8, 8))
    box = depth.Box(top=2, left=2, height=4, width=4)
    prediction = np.array([[[3.5, 5.5]] * 2] * 2)
    ours, target, mask = depth.compared(prediction, frame, frame > 0, box, "stretch")
    # Two pixels become eight: centres at -3/8, -1/8, 1/8, ... of the old ones.
    expected = 3.5 + 2 * np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    np.testing.assert_allclose(ours, np.broadcast_to(expected, (2, 8, 8)))
    assert target.shape == mask.shape == (2, 8, 8)
