"""Raw pixels as features, what an evaluation refuses, and what it does when one protocol fails."""

import logging
import types

import numpy as np
import pytest
from PIL import Image

import tiny_checkpoints
import tiny_runs
from byol_jax import prepare, train
from byol_jax.errors import UserError
from byol_jax.evals import evaluate, features
from byol_jax.evals.probes import few_label, knn, logistic
from byol_jax.evals.splits import Split
from byol_jax.jobs import ablate
from byol_jax.results.records import read_results
from experiments import ablate as ablate_page
from experiments import evaluate as page


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


SECTION = [
    ({"knn_k": 0}, "config.evaluation.knn_k=0"),
    ({"knn_temperature": 0.0}, "config.evaluation.knn_temperature=0.0"),
    ({"knn_every": -1}, "config.evaluation.knn_every=-1"),
    ({"labels_per_class": 0}, "config.evaluation.labels_per_class=0"),
    ({"draws": 0}, "config.evaluation.draws=0"),
    ({"batch_size": 0}, "config.evaluation.batch_size=0"),
    ({"fit_split": "train+test"}, r"config.evaluation.fit_split=train\+test.*share test"),
]


def config_of(source, **changes):
    config = page.get_config()
    config.update({"checkpoint": str(source), "evaluation": {"draws": 2}} | changes)
    return config


@pytest.mark.parametrize(("changes", "words"), SECTION)
def test_the_section_is_checked_by_the_job_and_by_a_pre_training(
    tmp_path, refused, monkeypatch, changes, words
) -> None:
    monkeypatch.setattr(prepare, "load_images", lambda config: pytest.fail("loaded"))
    refused(evaluate.run, config_of(tmp_path, evaluation=changes), words)
    config = tiny_runs.tiny_config("digits", **{f"evaluation__{k}": v for k, v in changes.items()})
    refused(train.pretrain, config, words)


def test_the_section_of_a_row_is_checked_with_its_table(tmp_path) -> None:
    config = ablate_page.get_config("table=5b,base=digits")
    config.override = "evaluation.knn_k=0"
    with pytest.raises(UserError, match=r"config\.evaluation\.knn_k=0"):
        ablate.run(config, tmp_path / "table")
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": -3}, "config.image_size=-3"),
        ({"eval_crop": "half"}, "config.eval_crop='half'"),
        ({"follow_hours": -1.0}, "config.follow_hours=-1.0"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, refused, changes, words) -> None:
    refused(evaluate.run, config_of(tmp_path, **changes), words)


def test_a_protocol_that_fails_leaves_the_others(monkeypatch) -> None:
    """Of made-up protocols; records tell what was done: 20 neighbours among 12 images are 12."""
    settings = page.get_config().evaluation.to_dict()
    part = features.Features(np.zeros((12, 4), np.float32), np.arange(12) % 3)
    split = Split("train", 12, 3, False, lambda: iter(()), lambda: iter(()))
    data = evaluate.Data("digits", 8, "full", 3, split, split._replace(name="test"))
    few = few_label.FewLabelResult(50.0, 1.0, np.full(3, 50.0), np.full((3, 20), 50.0))
    choice = logistic.Choice(1.0, 50.0, None)
    made_up = {
        "knn": (knn, "knn_predict", np.zeros(12)),
        "linear": (logistic, "linear_top1", logistic.Linear(50.0, choice)),
        "linear/2-per-class": (few_label, "few_label_top1", few),
    }
    for place, name, value in made_up.values():
        monkeypatch.setattr(place, name, lambda *_, value=value, **__: value)

    def fail(*arguments, **settings):
        raise UserError("nothing near")

    for failing, (place, name, _) in made_up.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            results, reasons = evaluate._accuracies(part, part, data, settings)
        assert [r.protocol for r in results] == [p for p in made_up if p != failing]
        assert reasons == ["nothing near"]
    results, reasons = evaluate._accuracies(part, part, data, settings)
    assert reasons == []
    assert results[0].settings["k"] == 12
    assert results[2].settings["standard_error_of"] == "60 draws of the labels"


def test_features_that_are_not_finite_give_no_number(caplog) -> None:
    """Nor do they end the evaluation of the other networks."""
    settings = page.get_config().evaluation.to_dict()
    bad = np.full((12, 4), np.inf, np.float32)
    part = features.Features(bad, np.arange(12) % 3, bad)
    split = Split("train", 12, 3, False, lambda: iter(()), lambda: iter(()))
    data = evaluate.Data("digits", 8, "full", 3, split, split._replace(name="test"))
    with caplog.at_level("INFO", logger="byol_jax"):
        assert evaluate._spread(part) is None
    assert "not finite" in caplog.text
    results, (reason,) = evaluate._accuracies(part, part, data, settings)
    assert results == [] and "not finite" in reason


@pytest.fixture
def evaluated(monkeypatch, caplog):
    """Evaluates made-up features, and returns records, what the log says, and what was embedded."""
    settings = page.get_config().evaluation.to_dict()
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")

    def evaluated(labels, num_classes, multi_label=False, has_heads=True):
        embedded = []

        def embeddings(*_, split, batch_size, projection=False, **__):
            embedded.append(split.name)
            values = np.eye(12, dtype=np.float32)
            return features.Features(values, labels, values if projection else None)

        monkeypatch.setattr(evaluate.features, "embeddings", embeddings)
        monkeypatch.setattr(
            evaluate, "_pixels", lambda split: embeddings(split=split, batch_size=1)
        )
        monkeypatch.setattr(evaluate.checkpoint, "siamese_of", lambda trained: None)
        monkeypatch.setattr(evaluate.checkpoint, "network_of", lambda *_: ({}, {}))
        split = Split("train", 12, num_classes, multi_label, lambda: iter(()), lambda: iter(()))
        data = evaluate.Data("digits", 8, "full", num_classes, split, split._replace(name="test"))
        trained = types.SimpleNamespace(step=5, seed=0, target_params={"w": 1}, has_heads=has_heads)
        records = evaluate.evaluate(trained, data, settings)
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return records, [line for line in said if not line.startswith("evaluating ")], embedded

    return evaluated


def test_without_labels_that_is_said_once_and_the_spread_is_measured(evaluated) -> None:
    """Nothing is fitted, and pixels have no projection."""
    records, said, embedded = evaluated(np.full(12, -1), 0)
    assert [(r.network, r.protocol) for r in records] == [
        (network, "projection") for network in ("random", "target", "online")
    ]
    (line,) = said
    assert "no labels in digits" in line and "the spread of the projections is measured" in line
    assert embedded == ["test"] * 3
    records, (line,), _ = evaluated(np.full(12, -1), 0, has_heads=False)
    assert records == [] and line.endswith("nothing else to measure")


def test_several_labels_per_image_are_said_once(evaluated) -> None:
    records, (line,), embedded = evaluated(np.ones((12, 3), np.int32), 3, multi_label=True)
    assert {r.protocol for r in records} == {"projection"} and "experiments/transfer.py" in line
    assert embedded == ["test"] * 3


def test_why_accuracies_are_left_out_is_said_once_for_all_networks(evaluated) -> None:
    """Classes of the set without an image in either split, or with one image in each."""
    records, said, embedded = evaluated(np.full(12, -1), 3)
    assert {r.protocol for r in records} == {"projection"}
    assert said == ["left out: accuracies, as the train split of digits has no labels"]
    assert embedded == ["train", "test"] * 4
    records, said, _ = evaluated(np.arange(12), 12)
    assert {"knn"} < {r.protocol for r in records}
    assert [line.partition(" needs ")[0].partition(" draws ")[0] for line in said] == [
        *("left out: choosing l2", "left out: few-label regression")
    ]


def test_the_job_sees_the_depth_of_the_training(tmp_path, monkeypatch) -> None:
    """The images alone would be taken as 8 bits."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            pixels = np.full((8, 8), 200, np.uint16)
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
    run = tiny_checkpoints.save(
        tmp_path / "run", f"folder:{tmp_path}", marks={"depth": {"bits": 12}}
    )
    seen: list[int] = []

    def spy(trained, data, settings):
        seen.extend(int(batch["images"].max()) for batch in data.score.batches())
        return []

    monkeypatch.setattr(evaluate, "evaluate", spy)
    evaluate.run(config_of(run), tmp_path / "out")
    assert seen == [200 >> 4]


@pytest.mark.slow
def test_a_followed_run_is_evaluated_with_one_choice_of_settings(
    checkpoint, tmp_path, monkeypatch
) -> None:
    config = {"follow": True}
    evaluate.run(config_of(checkpoint, **config), tmp_path)
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("computed"))
    evaluate.run(config_of(checkpoint, **config), tmp_path)
    for changes, words in (
        ({"evaluation": {"draws": 4}}, "draws=6.*draws=12"),
        ({"evaluation": {"draws": 2, "knn_k": 3}}, "k=20.*k=3"),
        ({"evaluation": {"draws": 2, "labels_per_class": 1}}, "labels_per_class=2"),
        ({"image_size": 9}, "image_size=8.*image_size=9"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate.run(config_of(checkpoint, **config, **changes), tmp_path)
    for record in read_results(tmp_path / "results.json"):
        assert (record.settings["image_size"], record.settings["eval_crop"]) == (8, "full")
        assert ("standard_error" in record.settings) == (record.metric == "top1")
        if record.protocol == "knn":
            assert record.settings["standard_error_of"] == "12 examples, binomial"


@pytest.mark.slow
def test_a_network_without_heads_has_no_spread(dataset, tmp_path) -> None:
    """One that was trained on labels."""
    source = tiny_checkpoints.save(tmp_path / "run", dataset, job="finetune")
    evaluate.run(config_of(source), tmp_path / "out")
    records = read_results(tmp_path / "out" / "results.json")
    assert {"knn", "linear"} <= {r.protocol for r in records if r.network == "online"}
