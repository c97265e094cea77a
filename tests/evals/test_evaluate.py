"""Raw pixels as features, and splits that an evaluation refuses."""

import numpy as np
import pytest

import tiny_runs
from byol_jax.errors import UserError
from byol_jax.evals import evaluate


def test_small_crops_are_features_as_they_are() -> None:
    crops = tiny_runs.images(3, 32)
    expected = crops.reshape(3, -1) / np.float32(255)
    np.testing.assert_allclose(evaluate.pixel_features(crops), expected, rtol=1e-6)


def test_large_crops_are_averaged_over_squares() -> None:
    """70 pixels: 23 x 23 squares of 3 pixels; row and column 69 are left out."""
    crops = tiny_runs.images(2, 70)
    pixels = evaluate.pixel_features(crops)
    assert pixels.shape == (2, 23 * 23 * 3) and pixels.dtype == np.float32
    expected = [
        [
            [crops[n, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean((0, 1)) / 255 for j in range(23)]
            for i in range(23)
        ]
        for n in range(2)
    ]
    np.testing.assert_allclose(pixels, np.reshape(expected, (2, -1)), atol=1e-6)


def test_what_is_scored_is_not_fitted(tmp_path) -> None:
    dataset = tiny_runs.write_npz(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"fit_split=train\+test .*share test"):
        evaluate.load(dataset, image_size=8, eval_crop="full", fit_split="train+test")
