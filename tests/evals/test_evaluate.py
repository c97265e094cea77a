"""Splits as the networks see them, and raw pixels as features."""

import numpy as np
import pytest

import tiny_runs
from byol_jax.errors import UserError
from byol_jax.evals import evaluate, splits


def test_small_crops_are_features_as_they_are() -> None:
    crops = tiny_runs.images(3, 32)
    expected = crops.reshape(3, -1) / np.float32(255)
    np.testing.assert_allclose(evaluate.pixel_features(crops), expected, rtol=1e-6)


def test_large_crops_are_averaged_over_squares() -> None:
    """70 pixels: squares of 3, 23 a side; row and column 69 are left out."""
    crops = tiny_runs.images(2, 70)
    ours = evaluate.pixel_features(crops)
    assert ours.shape == (2, 23 * 23 * 3) and ours.dtype == np.float32
    expected = [
        [
            [crops[n, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean((0, 1)) / 255 for j in range(23)]
            for i in range(23)
        ]
        for n in range(2)
    ]
    np.testing.assert_allclose(ours, np.reshape(expected, (2, -1)), atol=1e-6)


@pytest.mark.parametrize("kept", [True, False])
def test_every_pass_over_a_split_sees_the_same(tmp_path, monkeypatch, kept: bool) -> None:
    monkeypatch.setattr(splits, "_KEPT_BYTES", 2**30 if kept else 0)
    dataset = tiny_runs.write_folder(tmp_path, train=20, test=7)
    data = evaluate.load(dataset, image_size=8, eval_crop="paper", batch_size=3)
    assert (data.fit.size, data.score.size, data.num_classes) == (20, 7, 2)
    first, second = (list(data.score.batches()) for _ in range(2))
    assert [len(batch["labels"]) for batch in first] == [3, 3, 1]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a["images"], b["images"])
    # The order that calibrates BatchNorm mixes the classes, which the files do not.
    shuffled = np.concatenate([batch["labels"] for batch in data.fit.shuffled()])
    assert sorted(shuffled.tolist()) == [0] * 10 + [1] * 10 != shuffled.tolist()


def test_what_is_scored_is_not_fitted(tmp_path) -> None:
    dataset = tiny_runs.write_npz(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"fit_split=train\+test and .* share test"):
        evaluate.load(dataset, image_size=8, eval_crop="full", fit_split="train+test")
