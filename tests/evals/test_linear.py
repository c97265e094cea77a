"""Linear evaluation by SGD: choice on the validation split, one reading of the test split."""

import json
import shutil

import jax
import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax.errors import Diverged, Stopped, UserError
from byol_jax.evals import linear
from byol_jax.evals.sgd import predictions, recipes
from byol_jax.evals.splits import load_split
from byol_jax.results import ranked
from byol_jax.results.records import read_results, validate
from byol_jax.runtime import checkpoints, lock
from experiments import linear as page


def config_of(source, **changes):
    """Two rates, one far too low; two epochs of 36 images are 9 steps of 8."""
    return tiny_checkpoints.small(
        page.get_config(),
        **{"checkpoint": source, "learning_rates": (1e-9, 0.2), "checkpoint_every": 4} | changes,
    )


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    linear.run(config_of(checkpoint), workdir)
    return workdir


def only_training(workdir):
    (folder,) = (workdir / "training").iterdir()
    flat, _ = checkpoints.read(
        folder / "checkpoints", checkpoints.steps(folder / "checkpoints")[-1]
    )
    return flat


def test_records_say_all_of_the_protocol(finished, dataset):
    (record,) = read_results(finished / "results.json")
    validate(record)
    assert record[:1] + record[2:10] == (
        "top1",
        "percent",
        "linear",
        "online",
        dataset,
        "test",
        12,
        6,
        1337,
    )
    settings = dict(record.settings)
    # The untrained network still sees brightness; a rate of 1e-9 learns nothing.
    low, high = settings.pop("valid_top1")
    assert high > 80.0 > low
    assert record.value > 80.0
    assert settings.pop("standard_error") == pytest.approx(
        (record.value * (100 - record.value) / 12) ** 0.5
    )
    assert settings.pop("standard_error_of") == "12 examples, binomial"
    assert settings == {
        "solver": "sgd",
        "seed": 1337,
        "nesterov": True,
        "schedule": "cosine to 0",
        "image_size": 8,
        "batch_size": 8,
        "total_steps": 9,
        "warmup_steps": 0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "logit_clip": 0.0,
        "logit_penalty": 0.0,
        "augmentation": "spatial",
        "crops": "paper",
        "flip": 0.5,
        "area_range": [0.08, 1.0],
        "aspect_range": [0.75, 4 / 3],
        "learning_rates": [1e-9, 0.2],
        "learning_rate": 0.2,
        "learning_rate_at_end_of_grid": "high",
        "epochs": 2.0,
        "fit_split": "train",
        "valid_split": "valid",
        "eval_crop": "full",
    }


def test_the_workdir_keeps_the_curves_and_the_last_state(finished):
    folder = finished / "training" / "linear-online-6"
    assert checkpoints.steps(folder / "checkpoints") == [8, 9]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert {"loss_0", "loss_1", "top1_0", "top1_1", "learning_rate"} <= lines[0].keys()
    assert lines[0]["learning_rate"] == pytest.approx(1e-9)  # no warm-up
    assert json.loads((finished / "config.json").read_text())["job"] == "linear"


def test_the_best_rate_is_named_when_it_ends_the_sweep(checkpoint, tmp_path, caplog):
    config = config_of(checkpoint, learning_rates=(0.2, 1e-9))
    with caplog.at_level("WARNING", logger="byol_jax"):
        linear.run(config, tmp_path)
    assert "the best learning_rate, 0.2, is at the high end of the grid 1e-09 .. 0.2" in caplog.text
    (record,) = read_results(tmp_path / "results.json")
    assert record.settings["learning_rate"] == 0.2
    assert np.argmax(record.settings["valid_top1"]) == 0


def test_the_test_split_is_read_once_after_the_choice(checkpoint, finished, tmp_path, monkeypatch):
    events = []
    load, predict, score = load_split, predictions.predict, predictions.score

    def load_and_tell(dataset, name, **settings):
        split = load(dataset, name, **settings)

        def batches():
            events.append(name)
            return split.batches()

        return split._replace(batches=batches)

    def predict_and_tell(network, encoder, heads, split, batch_size):
        events.append(("heads", heads["b"].shape[0]))
        return predict(network, encoder, heads, split, batch_size)

    def score_and_tell(predicted, head, metric):
        events.append(("score", head))
        return score(predicted, head, metric)

    monkeypatch.setattr(recipes, "load_split", load_and_tell)
    monkeypatch.setattr(predictions, "predict", predict_and_tell)
    monkeypatch.setattr(predictions, "score", score_and_tell)
    linear.run(config_of(checkpoint), tmp_path)
    assert events == [
        *(("heads", 2), "valid", ("score", 0), ("score", 1)),
        *(("heads", 1), "test", ("score", 0)),
    ]
    assert read_results(tmp_path / "results.json") == read_results(finished / "results.json")


def test_one_device_gives_what_two_give(checkpoint, finished, tmp_path, monkeypatch):
    devices = jax.local_devices()
    assert len(devices) == 2
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:1])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    linear.run(config_of(checkpoint), tmp_path)
    assert read_results(tmp_path / "results.json") == read_results(finished / "results.json")
    one, two = only_training(tmp_path), only_training(finished)
    assert one.keys() == two.keys()
    for name, value in two.items():
        rounding = 1e-4 * max(1, np.abs(value).max())
        np.testing.assert_allclose(one[name], value, rtol=0, atol=rounding, err_msg=name)


def test_a_stopped_training_goes_on_bit_for_bit(checkpoint, finished, tmp_path, stop_after):
    stop_after(2)
    with pytest.raises(Stopped, match="SIGTERM"):
        linear.run(config_of(checkpoint), tmp_path)
    folder = tmp_path / "training" / "linear-online-6"
    # Logs come one step late.
    assert checkpoints.steps(folder / "checkpoints") == [3]
    assert not (tmp_path / "results.json").exists()
    # Threads and prefetching change no bit, and so do not count as another training.
    linear.run(config_of(checkpoint, threads=2, prefetch=1), tmp_path)
    resumed, whole = only_training(tmp_path), only_training(finished)
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    curves = "training/linear-online-6/metrics.jsonl"
    assert (tmp_path / curves).read_text() == (finished / curves).read_text()


def test_a_damaged_checkpoint_is_passed_over_on_request(checkpoint, finished, tmp_path, caplog):
    workdir = shutil.copytree(finished, tmp_path / "copied")
    folder = workdir / "training" / "linear-online-6" / "checkpoints"
    (folder / "9" / "record" / "metadata").write_bytes(b"{")
    with pytest.raises(UserError, match=r"9 is damaged .*continue from step 8"):
        linear.run(config_of(checkpoint), workdir)
    linear.run(config_of(checkpoint, skip_damaged=True), workdir)
    assert [m for m in caplog.messages if "goes on from step 8" in m]
    resumed, whole = only_training(workdir), only_training(finished)
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert (folder / "9.damaged").is_dir()


def test_a_second_training_is_refused_and_another_one_beside_it_is_not(
    checkpoint, finished, no_training
):
    folder = finished / "training" / "linear-online-6"
    with lock.held(folder), pytest.raises(UserError, match=f"{folder} is in use by process"):
        linear.run(config_of(checkpoint), finished)
    with lock.held(finished):
        linear.run(config_of(checkpoint), finished)


def test_a_finished_training_is_not_repeated(checkpoint, finished, no_training):
    before = read_results(finished / "results.json")
    linear.run(config_of(checkpoint), finished)
    assert read_results(finished / "results.json") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": (0.1, 0.2)}, r"learning_rates=\[1e-09, 0.2\]"),
        ({"flip": 0.0}, "view="),
        ({"batch_size": 12}, "batch_size=8.*batch_size=12"),
        ({"fit_split": "train+valid", "valid_split": "", "learning_rates": (0.2,)}, "fit_split"),
    ],
)
def test_another_training_in_the_same_workdir_is_refused(checkpoint, finished, changes, message):
    before = (finished / "results.json").read_text()
    with pytest.raises(UserError, match=message) as caught:
        linear.run(config_of(checkpoint, **changes), finished)
    assert "\n" not in str(caught.value) and "another --workdir" in str(caught.value)
    assert (finished / "results.json").read_text() == before


def test_another_run_under_the_same_path_is_another_training(dataset, tmp_path):
    checkpoint = tiny_checkpoints.save(tmp_path / "run", dataset)
    config = config_of(str(checkpoint), num_steps=1)
    linear.run(config, tmp_path / "linear")
    (checkpoint / "checkpoints").rename(tmp_path / "old")
    tiny_checkpoints.save(tmp_path / "run", dataset, network__width=1.0)
    with pytest.raises(UserError, match="weights="):
        linear.run(config, tmp_path / "linear")


@pytest.mark.parametrize(
    ("network", "step"), [("target", 6), pytest.param("random", None, marks=pytest.mark.slow)]
)
def test_other_networks_have_encoders_of_their_own(checkpoint, tmp_path, network, step):
    for name in ("online", network):
        config = config_of(checkpoint, network=name, num_steps=1, learning_rates=(0.2,))
        config.valid_split = ""
        linear.run(config, tmp_path)
    records = read_results(tmp_path / "results.json")
    assert [(r.network, r.checkpoint_step) for r in records] == [("online", 6), (network, step)]
    folders = [tmp_path / "training" / f"linear-{r.network}-6" / "checkpoints" for r in records]
    one, other = (checkpoints.read(folder, 1)[0]["heads/w"] for folder in folders)
    assert not np.allclose(one, other)
    # Without a validation split no setting names one.
    assert not [key for key in records[0].settings if key.startswith("valid")]


def test_the_frozen_encoder_is_not_in_the_saved_state(finished):
    names = set(only_training(finished))
    assert {name.split("/")[0] for name in names} == {
        *("step", "heads", "opt_state", "healthy", "finite")
    }
    assert not [name for name in names if "encoder" in name]


@pytest.mark.slow
def test_the_variation_of_table_7_is_trained_and_recorded(checkpoint, tmp_path):
    config = tiny_checkpoints.small(
        page.get_config("augment=pretrain,logits=regularized"), checkpoint=checkpoint, num_steps=2
    )
    linear.run(config, tmp_path)
    (record,) = read_results(tmp_path / "results.json")
    assert (record.settings["logit_clip"], record.settings["logit_penalty"]) == (20.0, 1e-2)
    assert record.settings["augmentation"] == "pretrain"
    assert record.settings["view"]["color_jitter"] == 0.8
    assert record.settings["learning_rates"] == [0.4, 0.3, 0.2, 0.1, 0.05]
    assert len(record.settings["valid_top1"]) == 5


def test_a_rate_that_diverges_leaves_the_others(checkpoint, tmp_path, caplog):
    config = config_of(checkpoint, learning_rates=(1e38, 0.2))
    with caplog.at_level("WARNING", logger="byol_jax"):
        linear.run(config, tmp_path / "a")
    assert "1e+38" in caplog.text
    (record,) = read_results(tmp_path / "a" / "results.json")
    diverged, healthy = record.settings["valid_top1"]
    assert diverged is None and healthy > 80.0
    assert record.settings["learning_rate"] == 0.2
    assert all(np.isfinite(value).all() for value in only_training(tmp_path / "a").values())
    # The other one is what it is alone.
    linear.run(config_of(checkpoint, learning_rates=(0.1, 0.2)), tmp_path / "b")
    (other,) = read_results(tmp_path / "b" / "results.json")
    assert other.settings["valid_top1"][1] == healthy


def test_numbers_that_are_not_finite_at_any_rate_end_the_evaluation(checkpoint, tmp_path):
    config = config_of(checkpoint, learning_rates=(2e38, 1e38))
    with pytest.raises(Diverged, match=r"not finite.*2e\+38"):
        linear.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    # The first update is too large, and a state of step 0 is drawn again.
    assert not checkpoints.steps(tmp_path / "training" / "linear-online-6" / "checkpoints")


def test_a_training_of_an_earlier_version_goes_on(checkpoint, finished, tmp_path, no_training):
    """Its state did not say which classifiers are healthy: all of them were."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "training" / "linear-online-6" / "checkpoints"
    flat, record = checkpoints.read(folder, 9)
    del flat["healthy"], record["step"], record["arrays"]
    shutil.rmtree(folder)
    tiny_checkpoints.write(folder.parent, flat, record, (9,))
    linear.run(config_of(checkpoint), tmp_path)
    assert read_results(tmp_path / "results.json") == read_results(finished / "results.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_epochs": 1.0}, "total_steps=9.*total_steps=4"),
        ({"learning_rates": (0.4, 0.1)}, "learning_rates="),
        ({"fit_split": "train", "valid_split": "", "learning_rates": (0.2,)}, "learning_rates"),
        ({"crops": "own", "area_min": 0.3}, "area_range"),
        ({"eval_crop": "released"}, "eval_crop"),
        ({"image_size": 9}, "image_size"),
    ],
)
def test_a_followed_run_is_evaluated_with_one_choice_of_settings(
    checkpoint, finished, no_training, changes, words
):
    """The same settings find all steps done; others are refused before anything is computed."""
    before = (finished / "results.json").read_text()
    linear.run(config_of(checkpoint, follow=True), finished)
    with pytest.raises(UserError, match=words) as caught:
        linear.run(config_of(checkpoint, follow=True, **changes), finished)
    assert "another --workdir" in str(caught.value) and "\n" not in str(caught.value)
    assert (finished / "results.json").read_text() == before


def test_predictions_are_kept_on_request(checkpoint, finished, tmp_path):
    assert not (finished / "predictions.npz").exists()
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    linear.run(config_of(checkpoint, save_predictions=True), tmp_path)
    kept = ranked.read(tmp_path / "predictions.npz")
    (record,) = read_results(tmp_path / "results.json")
    assert kept.ids.tolist() == list(range(12)) and kept.ranked.shape == (12, 3)
    assert np.mean(kept.ranked[:, 0] == kept.labels) * 100 == pytest.approx(record.value)
    assert kept.about == ranked.about_of(record)
    with pytest.raises(UserError, match=r"network=online.*network=target"):
        linear.run(config_of(checkpoint, save_predictions=True, network="target"), tmp_path)
    assert not (tmp_path / "training" / "linear-target-6").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, "config.checkpoint"),
        ({"checkpoint": "/nowhere"}, "checkpoint=/nowhere"),
        ({"valid_split": ""}, "config.valid_split.*config.learning_rates"),
        ({"score_split": "valid"}, "config.valid_split=valid.*config.score_split=valid"),
        ({"fit_split": "train+test"}, r"config.fit_split=train\+test.*share test"),
        ({"score_split": "tests"}, "'tests'"),
        ({"augmentation": "cutmix"}, "config.augmentation='cutmix'.*spatial"),
        ({"metric": "top7"}, "metric='top7'.*mean_per_class"),
        ({"metric": "map_11"}, "metric='map_11'.*top1"),
        ({"benchmark": "flowerz"}, "did you mean 'flowers'"),
        ({"network": "offline"}, "config.network='offline'.*online"),
        ({"eval_crop": "half"}, "config.eval_crop='half'"),
        ({"batch_size": 40}, "config.batch_size=40: "),
        ({"batch_size": 7}, "batch_size=7 .*batch_size=8 would"),
        ({"batch_size": 80}, "36 images.*80"),
        ({"rate_scaling": "root"}, "config.rate_scaling='root'.*sqrt"),
        ({"learning_rates": ()}, "config.learning_rates"),
        ({"learning_rates": (0.1, 0.0)}, "config.learning_rates"),
        ({"learning_rates": ("fast",)}, "config.learning_rates"),
        ({"magnitude": 11.0}, "config.magnitude=11.0.*10"),
        ({"flip": 2.0}, "config.flip=2.0"),
        ({"area_min": 2.0}, "config.area_min=2.0"),
        ({"image_size": 0}, "config.image_size=0"),
        ({"momentum": 1.0}, "config.momentum=1.0"),
        ({"label_smoothing": 1.0}, "config.label_smoothing=1.0"),
        ({"weight_decay": -0.1}, "config.weight_decay=-0.1"),
        ({"num_steps": 0}, "config.num_steps=0"),
        ({"num_epochs": 0.0}, "config.num_epochs=0.0"),
        ({"eval_batch_size": 0}, "config.eval_batch_size=0"),
        ({"seed": -1}, "config.seed=-1"),
        ({"crops": "mine"}, "config.crops='mine'.*own"),
        ({"threads": -1}, "config.threads=-1"),
        ({"learning_rates": (float("inf"),)}, "config.learning_rates"),
        ({"follow_seconds": -1.0}, "config.follow_seconds=-1.0"),
        ({"view": {"blur": 2.0}}, "config.view.blur=2.0"),
        ({"follow": True, "save_predictions": True}, "config.save_predictions.*config.follow"),
        ({"follow": True, "checkpoint": "run/checkpoints/6"}, "config.follow.*run/checkpoints/6"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(checkpoint, refused, changes, words):
    refused(linear.run, config_of(checkpoint, **changes), words)


def test_a_checkpoint_of_classifiers_is_refused(finished, refused):
    refused(linear.run, config_of(str(finished / "training" / "linear-online-6")), "no encoder")


def test_images_without_labels_are_refused(checkpoint, tmp_path, refused):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((40, 8, 8, 3), np.uint8))
    config = config_of(checkpoint, dataset=f"npz:{tmp_path / 'x.npz'}")
    refused(linear.run, config, "0 classes")


def test_the_program_refuses_with_exit_code_2(checkpoint, tmp_path):
    arguments = (
        "--config=experiments/linear.py",
        f"--workdir={tmp_path / 'linear'}",
        f"--config.checkpoint={checkpoint}",
        "--config.fit_split=train+test",
    )
    assert "config.fit_split=train+test" in tiny_runs.refusal(*arguments)
    assert not (tmp_path / "linear").exists()
