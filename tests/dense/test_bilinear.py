"""Bilinear resizing: hand-computed weights of both conventions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.dense import bilinear


@pytest.mark.parametrize(
    ("old", "new", "align_corners", "expected"),
    [
        (2, 3, True, [[1, 0], [0.5, 0.5], [0, 1]]),
        # Centres at -1/4, 1/4, 3/4 and 5/4 of old pixels; beyond 0 and 1 the outermost goes on.
        (2, 4, False, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),
        (3, 3, True, np.eye(3)),
        (3, 3, False, np.eye(3)),
        (1, 2, True, [[1], [1]]),
        (1, 2, False, [[1], [1]]),
        (2, 1, True, [[1, 0]]),
    ],
)
def test_weights(old, new, align_corners, expected):
    np.testing.assert_allclose(bilinear.weights(old, new, align_corners), expected, atol=1e-15)


def test_33_positions_become_513_pixels_at_a_stride_of_16():
    matrix = bilinear.weights(33, 513, True)
    np.testing.assert_array_equal(matrix[::16], np.eye(33))
    np.testing.assert_array_equal(matrix[8][:3], [0.5, 0.5, 0])
    np.testing.assert_array_equal(matrix.sum(axis=1), 1)


def test_rows_and_columns_are_not_exchanged():
    maps = np.arange(6.0).reshape(1, 2, 3, 1)
    rows = bilinear.resize(jnp.asarray(maps), (3, 3))[0, ..., 0]
    np.testing.assert_allclose(rows, [[0, 1, 2], [1.5, 2.5, 3.5], [3, 4, 5]])
    np.testing.assert_allclose(bilinear.resize_on_host(maps[0, ..., 0], (3, 3), True), rows)


def test_half_precision_is_widened():
    maps = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.bfloat16)
    resized = jax.eval_shape(lambda x: bilinear.resize(x, (4, 6)), maps)
    assert (resized.shape, resized.dtype) == ((1, 4, 6, 3), jnp.float32)
