"""Splits as evaluation crops, and which of them may stand side by side."""

import numpy as np
import pytest

import tiny_runs
from byol_jax.errors import UserError
from byol_jax.evals import splits


@pytest.mark.parametrize("kept", [True, False])
def test_every_pass_over_a_split_sees_the_same(tmp_path, monkeypatch, kept: bool) -> None:
    monkeypatch.setattr(splits, "_KEPT_BYTES", 2**30 if kept else 0)
    dataset = tiny_runs.write_folder(tmp_path, train=20, test=7)
    fit, score = (
        splits.load_split(dataset, name, image_size=8, eval_crop="paper", batch_size=3)
        for name in ("train+valid", "test")
    )
    assert (fit.size, score.size, fit.num_classes) == (20, 7, 2)
    first, second = (list(score.batches()) for _ in range(2))
    assert [len(batch["labels"]) for batch in first] == [3, 3, 1]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a["images"], b["images"])
    # The order that calibrates BatchNorm mixes the classes, which the files do not.
    shuffled = np.concatenate([batch["labels"] for batch in fit.shuffled()])
    assert sorted(shuffled.tolist()) == [0] * 10 + [1] * 10 != shuffled.tolist()


def test_splits_that_share_images_are_refused():
    splits.check_disjoint({"a": "train", "b": "valid", "c": "test"})
    with pytest.raises(UserError, match=r"b=train\+test .*c=test share test"):
        splits.check_disjoint({"a": "valid", "b": "train+test", "c": "test"})


def test_an_empty_validation_split_shares_nothing():
    config = {"fit_split": "train+valid", "valid_split": "", "score_split": "test"}
    splits.check_splits(config)
    with pytest.raises(UserError, match=r"section\.fit_split=.*section\.valid_split=valid"):
        splits.check_splits(config | {"valid_split": "valid"}, "section")
