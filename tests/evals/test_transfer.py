"""The protocol of BYOL App. E.2 beside a plain loop with scikit-learn, and the job on digits."""

import json
import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tiny_checkpoints
from byol_jax import weights
from byol_jax.data import table10
from byol_jax.errors import UserError
from byol_jax.evals import features, transfer
from byol_jax.evals.checkpoint import siamese_of
from byol_jax.evals.probes import logistic
from byol_jax.evals.splits import load_split
from byol_jax.results import ranked, scores
from byol_jax.results.records import read_results
from experiments import transfer as page

GRID = (1e-4, 1.0, 10.0, 1e4)


def make_part(n: int, seed: int) -> features.Features:
    """Three classes of uneven size, ten features of uneven scale."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.zeros(n // 2, int), np.ones(n // 3, int), np.full(n // 6, 2)])
    centres = np.random.default_rng(99).normal(size=(3, 10))
    values = centres[labels] + 1.5 * rng.normal(size=(len(labels), 10))
    return features.Features((values * np.linspace(0.1, 3, 10) + 2).astype(np.float32), labels)


@pytest.fixture(scope="module")
def parts() -> tuple[features.Features, ...]:
    return make_part(60, 0), make_part(60, 1), make_part(300, 2)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("standardize", [False, True])
def test_against_a_plain_loop(parts, metric, standardize):
    train_part, valid, test = parts
    score = getattr(scores, metric)

    def fitted(l2, values, labels):
        mean, std = values.mean(axis=0), values.std(axis=0)
        mean, std = (mean, std) if standardize else (0, 1)
        model = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8)
        model.fit((values - mean) / std, labels)
        return lambda part: score(model.predict((part.values - mean) / std), part.labels)

    on_valid = [fitted(l2, *train_part[:2])(valid) for l2 in GRID]
    best = max(zip(on_valid, GRID, strict=True))
    both = [np.concatenate([train_part[i], valid[i]]) for i in range(2)]
    result = transfer.transfer(*parts, metric, l2_grid=GRID, standardize=standardize)
    assert result.choice[:2] == (best[1], pytest.approx(best[0]))
    assert result.value == pytest.approx(fitted(best[1], *both)(test))
    assert 40 < result.value < 100


def test_the_two_metrics_differ_on_uneven_classes(parts):
    values = {
        m: transfer.transfer(*parts, m, l2_grid=[1e3]).value
        for m in transfer.METRICS
        if m != "map_11"
    }
    assert values["top1"] > values["mean_per_class"] + 5


def test_several_classes_per_image(parts):
    """One versus rest, by mean average precision; an unknown target counts nowhere."""
    shown = [part._replace(labels=np.eye(3, dtype=int)[part.labels]) for part in parts]
    for part in shown:
        part.labels[::7, 0] = -1
    result = transfer.transfer(*shown, "map_11", l2_grid=GRID)
    both = [np.concatenate([shown[0][i], shown[1][i]]) for i in range(2)]
    logits = []
    for k in range(3):
        labelled = both[1][:, k] >= 0
        model = LogisticRegression(C=1 / result.choice.l2, max_iter=5000, tol=1e-8)
        model.fit(both[0][labelled], both[1][labelled, k])
        logits.append(model.decision_function(shown[2].values))
    expected = scores.map_11(np.stack(logits, axis=1), shown[2].labels)
    assert result.value == pytest.approx(expected, abs=0.5)
    assert 40 < result.value < 100


def test_the_test_split_has_no_say(parts):
    adverse = parts[2]._replace(labels=np.full_like(parts[2].labels, 2))
    first = transfer.transfer(*parts, "top1", l2_grid=GRID)
    second = transfer.transfer(*parts[:2], adverse, "top1", l2_grid=GRID)
    assert first.choice == second.choice
    assert first.value != second.value


def test_mistakes(parts):
    shown = [part._replace(labels=np.eye(3, dtype=int)[part.labels]) for part in parts]
    empty = features.Features(np.zeros((0, 10), np.float32), np.zeros(0, int))
    for words, call in (
        ("metric='mean_iou'", lambda: transfer.transfer(*parts, "mean_iou")),
        ("train split has several", lambda: transfer.transfer(*shown, "top1")),
        ("train split has one", lambda: transfer.transfer(*parts, "map_11")),
        ("valid split", lambda: transfer.transfer(parts[0], empty, parts[2], "top1")),
    ):
        with pytest.raises(UserError, match=words):
            call()


def test_every_metric_of_a_classification_set_is_known():
    metrics = {row.metric for row in table10.TABLE_10} - {"mean_iou"}  # segmentation
    assert metrics == set(transfer.METRICS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    tiny_checkpoints.save(workdir, "digits", (2,), 10, 2)
    return workdir


def small_page(workdir, **changes):
    config = page.get_config()
    config.update({"checkpoint": str(workdir), "dataset": "digits", "l2_grid": GRID} | changes)
    return config


def test_the_page_has_the_grid_of_the_paper():
    np.testing.assert_allclose(page.get_config().l2_grid, logistic.L2_GRID)


@pytest.mark.slow
@pytest.mark.ci
def test_the_job(checkpoint, tmp_path, capsys):
    transfer.run(small_page(checkpoint, network="random+online"), tmp_path)
    records = json.loads((tmp_path / "results.json").read_text())
    assert [r["network"] for r in records] == ["random", "online"]
    assert [r["checkpoint_step"] for r in records] == [None, 2]
    for record in records:
        assert (record["protocol"], record["metric"]) == ("transfer/linear", "top1")
        assert (record["dataset"], record["split"]) == ("digits", "test")
        assert record["n_examples"] == 359
        assert 20 < record["value"] < 100
        settings = record["settings"]
        assert settings["solver"] == "lbfgs"
        assert settings["standardize"] == "no"
        assert settings["l2"] in GRID and settings["l2_grid"] == list(GRID)
        ends = {GRID[0]: "low", GRID[-1]: "high"}
        assert settings["l2_at_end_of_grid"] == ends.get(settings["l2"])
        assert settings["refit"] == "train+valid"
        assert settings["eval_crop"] == "full" and settings["image_size"] == 8
    assert "transfer/linear top1 (%)" in capsys.readouterr().out

    # The same from the parts.
    trained = weights.load(checkpoint)
    network = siamese_of(trained)
    splits = [
        load_split("digits", split, image_size=8, eval_crop="full")
        for split in ("train", "valid", "test")
    ]
    values = [
        features.embeddings(network, trained.online_params, trained.online_state, split, 256)
        for split in splits
    ]
    again = transfer.transfer(*values, "top1", l2_grid=GRID)
    assert (again.value, again.choice.l2) == (records[1]["value"], settings["l2"])


def test_an_end_of_the_grid_is_warned_of_and_recorded(checkpoint, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        transfer.run(small_page(checkpoint, l2_grid=(1.0, 1e7)), tmp_path)
    assert [r for r in caplog.records if "low end of the grid" in r.getMessage()]
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["settings"]["l2_at_end_of_grid"] == "low"


@pytest.mark.slow
def test_a_benchmark_is_named(checkpoint, tmp_path):
    """Digits are not CIFAR-10, but they have ten classes too."""
    transfer.run(small_page(checkpoint, benchmark="cifar10", metric="mean_per_class"), tmp_path)
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["metric"] == "mean_per_class"
    assert record["settings"]["benchmark"] == "cifar10"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": ""}, "config.dataset"),
        ({"network": "offline"}, "config.network='offline'.*online"),
        ({"metric": "accuracy"}, "metric='accuracy'"),
        ({"benchmark": "voc2012"}, "metric='mean_iou'"),
        ({"benchmark": "flower"}, "did you mean 'flowers'"),
        ({"fit_split": "train+valid"}, "share valid"),
        ({"eval_crop": "half"}, "config.eval_crop='half'"),
        ({"image_size": 0}, "config.image_size=0"),
        ({"l2_grid": ()}, "config.l2_grid"),
        ({"l2_grid": (1.0, -1.0)}, "config.l2_grid"),
        ({"network": "online+online"}, r"config.network='online\+online'"),
        ({"follow_seconds": -1.0}, "config.follow_seconds"),
        ({"save_predictions": True, "network": "random+online"}, "save_predictions.*2 networks"),
        ({"follow": True, "network": "random"}, "config.follow .*config.network=random"),
        ({"checkpoint": ""}, "config.checkpoint"),
    ],
)
def test_mistakes_in_the_config(tmp_path, refused, changes, words):
    refused(transfer.run, small_page(tmp_path, **changes), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "map_11"}, "metric='map_11'.*one label"),
        ({"network": "random+target"}, "no target network"),
        ({"score_split": "exam"}, "'exam'"),
    ],
)
def test_what_only_data_and_checkpoint_can_tell_comes_before_any_feature(
    tmp_path, refused, monkeypatch, changes, words
):
    workdir = tiny_checkpoints.save(tmp_path / "run", "digits", (2,), 10, 2)
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda *args: load(*args)._replace(target_params={}))
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("computed"))
    refused(transfer.run, small_page(workdir, **changes), words)


def test_a_followed_run_is_evaluated_with_one_choice_of_settings(checkpoint, tmp_path, monkeypatch):
    values = {"follow": True, "l2_grid": (10.0,)}
    transfer.run(small_page(checkpoint, **values), tmp_path)
    before = (tmp_path / "results.json").read_text()
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("computed"))
    transfer.run(small_page(checkpoint, **values), tmp_path)
    for changes, words in (
        ({"standardize": True}, "standardize=no"),
        ({"l2_grid": (1.0,)}, "l2_grid="),
        ({"valid_split": "valid", "fit_split": "test", "score_split": "test"}, "share test"),
    ):
        with pytest.raises(UserError, match=words):
            transfer.run(small_page(checkpoint, **values | changes), tmp_path)
    assert (tmp_path / "results.json").read_text() == before


def test_predictions_are_kept_on_request(checkpoint, tmp_path):
    transfer.run(small_page(checkpoint, save_predictions=True, l2_grid=(1.0,)), tmp_path)
    kept = ranked.read(tmp_path / "predictions.npz")
    (record,) = read_results(tmp_path / "results.json")
    assert kept.ids.tolist() == list(range(359)) and kept.ranked.shape == (359, 5)
    assert 100 * np.mean(kept.ranked[:, 0] == kept.labels) == pytest.approx(record.value)
    assert all(len({*row}) == 5 for row in kept.ranked)
    assert kept.about == ranked.about_of(record)
