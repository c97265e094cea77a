"""Fine-tuning on a grid: what is trained, chosen, kept, and trained again."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax import weights
from byol_jax.augment import byol
from byol_jax.errors import GuardError, Stopped, UserError
from byol_jax.evals import finetune, linear
from byol_jax.evals.sgd import recipes, search, training
from byol_jax.evals.sgd.identity import identity
from byol_jax.evals.splits import load_split
from byol_jax.results import ranked
from byol_jax.results.records import read_results, validate
from byol_jax.runtime import checkpoints, lock
from experiments import classification, semi, supervised
from experiments import finetune as transfer_page
from experiments import linear as linear_page


def config_of(source, **changes):
    """Two rates x two lengths; a rate of 1e-9 learns nothing. 36 images are 2 or 4 steps of 16."""
    values = {
        "checkpoint": source,
        "batch_size": 16,
        "learning_rates": (1e-9, 0.05),
        "sweep_epochs": (1.0, 2.0),
    }
    return tiny_checkpoints.small(classification.get_finetune_config(), **values | changes)


def scratch_config(dataset, **changes):
    """The supervised page on a tiny network, without a checkpoint to take it from."""
    config = supervised.get_config("epochs=2,augment=crop")
    # That of the checkpoint, as its programs are compiled already.
    config.encoder.update(tiny_runs.tiny_config(dataset, network__width=2.0).network)
    values = {"dataset": dataset, "image_size": 8, "eval_crop": "full", "batch_size": 16}
    return tiny_checkpoints.small(config, **values | {"warmup_epochs": 0.5} | changes)


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    finetune.run(config_of(checkpoint, refit=True), workdir)
    return workdir


def trainings(monkeypatch):
    """Names and sizes of what is trained from now on."""
    seen = []
    train = search.Job.train

    def train_and_tell(self, cell, train_set, name):
        seen.append((name, train_set.size))
        return train(self, cell, train_set, name)

    monkeypatch.setattr(search.Job, "train", train_and_tell)
    return seen


def test_the_share_of_labels_is_part_of_the_protocol():
    for fraction, protocol in (
        (0.01, "semi-supervised/1%"),
        (0.07, "semi-supervised/7%"),
        (0.005, "semi-supervised/0.5%"),
        (1.0, "semi-supervised"),
    ):
        assert finetune.protocol_of(semi.get_config(f"fraction={fraction}")) == protocol


# A whole grid.


def test_records_say_all_of_the_protocol(finished, dataset):
    (record,) = read_results(finished / "results.json")
    validate(record)
    assert (record.metric, record.unit, record.protocol) == ("top1", "percent", "finetune")
    assert (record.network, record.dataset, record.split) == ("online", dataset, "test")
    assert (record.n_examples, record.checkpoint_step, record.seed) == (12, 6, 1337)
    assert record.value > 80.0
    settings = dict(record.settings)
    cells = settings.pop("cells")
    assert list(cells) == [
        "rate=1e-09,epochs=1,decay=0",
        "rate=1e-09,epochs=2,decay=0",
        "rate=0.05,epochs=1,decay=0",
        "rate=0.05,epochs=2,decay=0",
    ]
    assert max(list(cells.values())[:2]) < 70.0 < max(list(cells.values())[2:])
    # Of equals the shorter one.
    best = max(cells, key=cells.get)
    assert settings.pop("epochs_at_end_of_grid") == ("low" if "epochs=1," in best else "high")
    assert settings.pop("standard_error") == pytest.approx(
        (record.value * (100 - record.value) / 12) ** 0.5
    )
    assert settings.pop("standard_error_of") == "12 examples, binomial"
    assert settings.pop("total_steps") == (2 if "epochs=1," in best else 5)
    assert settings.pop("epochs") == (32 if "epochs=1," in best else 80) / 45
    assert settings == {
        "solver": "sgd",
        "seed": 1337,
        "nesterov": True,
        "schedule": "cosine to 0",
        "image_size": 8,
        "batch_size": 16,
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
        "learning_rate": 0.05,
        "learning_rate_at_end_of_grid": "high",
        "labels": 45,
        "refit": True,
        "bn_decay": 0.9,
        "fit_split": "train",
        "valid_split": "valid",
        "eval_crop": "full",
    }


def test_the_best_network_and_the_last_one_are_kept_and_no_other(finished):
    (record,) = read_results(finished / "results.json")
    best = max(record.settings["cells"], key=record.settings["cells"].get)
    folder = finished / "training" / "finetune-online-6"
    kept = {path.name for path in folder.iterdir() if checkpoints.steps(path / "checkpoints")}
    assert kept == {best, f"refit,{best}"}
    # The curves of all stay.
    assert len(list(folder.glob("*/metrics.jsonl"))) == 5
    lines = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    assert {line["cell"]: line["value"] for line in lines} == record.settings["cells"]


def test_fine_tuning_moves_the_encoder_and_its_averages(finished, checkpoint):
    folder = next((finished / "training" / "finetune-online-6").glob("refit,*"))
    flat, _ = checkpoints.read(
        folder / "checkpoints", checkpoints.steps(folder / "checkpoints")[-1]
    )
    trained = weights.load(checkpoint)
    for part, tree in enumerate((trained.online_params, trained.online_state)):
        for module, leaves in tree.items():
            for leaf, value in leaves.items():
                name = f"encoder/{part}/{module}/{leaf}"
                if name in flat:
                    assert not np.array_equal(flat[name], value), name
    assert {name.split("/")[1] for name in flat if name.startswith("encoder/")} == {"0", "1"}


def test_a_finished_grid_is_not_trained_again(finished, checkpoint, no_training):
    before = read_results(finished / "results.json")

    # Threads change no bit, and so no training.
    finetune.run(config_of(checkpoint, refit=True, threads=3), finished)
    assert read_results(finished / "results.json") == before


def test_a_longer_grid_trains_what_is_new(checkpoint, tmp_path, monkeypatch):
    config = {"sweep_epochs": (1.0,), "refit": True}
    seen = trainings(monkeypatch)
    finetune.run(config_of(checkpoint, **config, learning_rates=(1e-9, 1e-8)), tmp_path)
    assert [size for _, size in seen] == [36, 36, 45]  # the last on train+valid
    assert seen[2][0] in {f"refit,{name}" for name, _ in seen[:2]}
    del seen[:]
    finetune.run(config_of(checkpoint, **config, learning_rates=(1e-9, 1e-8, 0.05)), tmp_path)
    name = "rate=0.05,epochs=1,decay=0"
    assert seen == [(name, 36), (f"refit,{name}", 45)]
    (record,) = read_results(tmp_path / "results.json")
    assert len(record.settings["cells"]) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "mean_per_class"},
        {"eval_crop": "released"},
        {"label_smoothing": 0.1},
        {"flip": 0.0},
        {"fraction": 0.5, "protocol": "other"},
        {"bn_decay": "0.5"},
    ],
)
def test_scores_of_other_settings_are_not_reused(finished, checkpoint, changes):
    """Nor those of another network, length or data set: `training_record` has them."""
    marks = []
    for more in ({}, changes):
        config = config_of(checkpoint, **more)
        trained = weights.load(checkpoint)
        data = recipes.data_of(config, trained)
        record = identity(config, trained, config.protocol)
        record |= {"bn_decay": config.bn_decay}
        job = search.Job(config, data, ({}, {}), trained.network, pathlib.Path(), record)
        size = int(36 * config.fraction)
        marks.append([job.fingerprint(cell, size) for cell in search.cells_of(config)])
    assert len({*marks[0], *marks[1]}) == 8


def test_a_stopped_grid_goes_on_with_its_cell(
    finished, checkpoint, tmp_path, monkeypatch, stop_after
):
    seen = trainings(monkeypatch)
    config = config_of(checkpoint, refit=True)
    stop_after(4)  # the second step of the second cell
    with pytest.raises(Stopped, match="SIGTERM"):
        finetune.run(config, tmp_path)
    folder = tmp_path / "training" / "finetune-online-6"
    (line,) = (folder / "cells.jsonl").read_text().splitlines()
    second = "rate=1e-09,epochs=2,decay=0"
    assert checkpoints.steps(folder / second / "checkpoints") == [3]
    # As a kill within a line would leave it.
    with (folder / "cells.jsonl").open("a") as file:
        file.write(line[:20])
    del seen[:]
    finetune.run(config, tmp_path)
    assert [name for name, _ in seen][:3] == [
        second,
        "rate=0.05,epochs=1,decay=0",
        "rate=0.05,epochs=2,decay=0",
    ]
    assert read_results(tmp_path / "results.json") == read_results(finished / "results.json")
    whole = finished / "training" / "finetune-online-6"
    for name in (second, seen[-1][0]):
        curve = (folder / name / "metrics.jsonl").read_text()
        assert curve == (whole / name / "metrics.jsonl").read_text()
    # The line after the torn one is whole.
    del seen[:]
    finetune.run(config, tmp_path)
    assert [name.split(",")[0] for name, _ in seen] == ["refit"]


def test_a_cell_that_diverges_is_the_worst(checkpoint, tmp_path, caplog):
    config = config_of(checkpoint, learning_rates=(1e38, 1e-9), sweep_epochs=(1.0,))
    with caplog.at_level("WARNING", logger="byol_jax"):
        finetune.run(config, tmp_path)
    assert "not finite" in caplog.text and "1e+38" in caplog.text
    (record,) = read_results(tmp_path / "results.json")
    diverged = "rate=1e+38,epochs=1,decay=0"
    assert record.settings["cells"][diverged] is None
    assert record.settings["learning_rate"] == 1e-9
    # Its last good state was saved, and is not kept.
    folder = tmp_path / "training" / "finetune-online-6" / diverged
    assert (folder / "metrics.jsonl").exists() and not (folder / "checkpoints").exists()


def test_a_grid_that_diverges_everywhere_ends_with_one_line(checkpoint, tmp_path):
    config = config_of(checkpoint, learning_rates=(1e37, 1e38), sweep_epochs=(1.0,))
    with pytest.raises(GuardError, match=r"all 2 cells.*config.learning_rates"):
        finetune.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "other"},
        {"fraction": 0.5, "protocol": "finetune"},
        {"train_dataset": "other"},
        {"label_smoothing": 0.1},
    ],
)
def test_another_grid_in_the_same_workdir_is_refused_before_its_first_training(
    finished, checkpoint, tmp_path, no_training, changes
):
    """Also where only the last cell is that of the network which is kept, or only the refit."""
    other = tiny_checkpoints.write_easy_npz(tmp_path / "other.npz", seed=1)
    changes = {key: other if value == "other" else value for key, value in changes.items()}
    if "fraction" in changes:  # another protocol has another folder, so here the old one is moved
        (tmp_path / "run" / "training").mkdir(parents=True)
        shutil.copytree(
            finished / "training" / "finetune-online-6",
            tmp_path / "run" / "training" / "finetune-50%-online-6",
        )
    else:
        shutil.copytree(finished, tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(UserError, match="another --workdir") as caught:
        finetune.run(config_of(checkpoint, refit=True, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_the_network_of_another_grid_is_never_deleted(finished, checkpoint, tmp_path, monkeypatch):
    """Of two grids that share a workdir, the second one's best cell is one the first one lost."""
    (record,) = read_results(finished / "results.json")
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "training" / "finetune-online-6"
    lost = folder / "rate=1e-09,epochs=1,decay=0" / "checkpoints"
    shutil.copytree(next(folder.glob("refit,*")) / "checkpoints", lost)
    finetune.run(config_of(checkpoint, refit=True), tmp_path)
    assert checkpoints.steps(lost)
    (again,) = read_results(tmp_path / "results.json")
    assert again == record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refit": False}, "labels=45.*labels=36"),
        ({"sweep_epochs": (1.0, 2.0, 3.0)}, "cells.rate=1e-09,epochs=3"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.0.*label_smoothing=0.1"),
        ({"bn_decay": "0.5"}, "bn_decay"),
    ],
)
def test_a_followed_run_is_evaluated_with_one_choice_of_settings(
    finished, checkpoint, no_training, changes, words
):
    values = {"refit": True, "follow": True}
    finetune.run(config_of(checkpoint, **values), finished)
    with pytest.raises(UserError, match=words):
        finetune.run(config_of(checkpoint, **values | changes), finished)


def test_predictions_are_kept_on_request(finished, checkpoint, tmp_path, no_training):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    finetune.run(config_of(checkpoint, refit=True, save_predictions=True), tmp_path)
    kept = ranked.read(tmp_path / "predictions.npz")
    (record,) = read_results(tmp_path / "results.json")
    assert np.mean(kept.ranked[:, 0] == kept.labels) * 100 == pytest.approx(record.value)
    assert kept.about == ranked.about_of(record)


# A share of the labels.


def test_a_fraction_of_the_labels(checkpoint, tmp_path, monkeypatch):
    seen = trainings(monkeypatch)
    changes = {"learning_rates": (0.05,), "sweep_epochs": (), "valid_split": "", "num_steps": 1}
    finetune.run(config_of(checkpoint, fraction=0.5, **changes), tmp_path)
    ((_, size),) = seen
    assert size == 18
    (record,) = read_results(tmp_path / "results.json")
    assert (record.protocol, record.settings["labels"]) == ("finetune/50%", 18)
    assert record.settings["subset"] == "class-balanced, seed 0"


def test_another_set_to_learn_from(checkpoint, tmp_path, monkeypatch):
    other = tiny_checkpoints.write_easy_npz(tmp_path / "other.npz", train=90, seed=1)
    seen = trainings(monkeypatch)
    changes = {"learning_rates": (0.05,), "sweep_epochs": (), "valid_split": "", "num_steps": 1}
    finetune.run(config_of(checkpoint, train_dataset=other, **changes), tmp_path / "a")
    assert [size for _, size in seen] == [72]
    (record,) = read_results(tmp_path / "a" / "results.json")
    assert record.settings["subset"] == other
    wrong = tiny_checkpoints.write_easy_npz(tmp_path / "wrong.npz", classes=4)
    with pytest.raises(UserError, match=r"config.train_dataset=.* 4 classes.* 3"):
        finetune.run(config_of(checkpoint, train_dataset=wrong, **changes), tmp_path / "b")


# From scratch, and as a network for other evaluations.


@pytest.fixture(scope="module")
def supervised_run(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("supervised")
    finetune.run(scratch_config(dataset), workdir)
    return workdir


def test_supervised_from_scratch(supervised_run):
    (record,) = read_results(supervised_run / "results.json")
    assert (record.protocol, record.network) == ("supervised", "random")
    assert record.checkpoint_step is None
    settings = record.settings
    assert settings["total_steps"] == 5  # 2 epochs of 45 images in batches of 16
    assert settings["warmup_steps"] == 1
    assert settings["weight_decay"] == 1e-4
    assert settings["learning_rate"] == pytest.approx(0.1 * 16 / 256)
    assert json.loads((supervised_run / "config.json").read_text())["job"] == "finetune"


def test_the_saved_network_predicts_what_was_scored(supervised_run, dataset):
    trained = weights.load(supervised_run)
    assert (trained.step, trained.total_steps, trained.network.num_classes) == (5, 5, 3)
    assert (trained.dataset, trained.image_size, trained.method) == (dataset, 8, "supervised")
    network = training.encoder_of(trained.network)
    params, state = training.encoder_weights(trained.online_params, trained.online_state)
    split = load_split(dataset, "test", image_size=8, eval_crop="full")
    (batch,) = split.batches()
    views = byol.normalize(byol.to_float(batch["images"]))
    outputs, _ = jax.jit(network.apply, static_argnums=4)(params, state, None, views, False)
    head = trained.online_params["classifier"]
    logits = np.asarray(outputs["embedding"]) @ head["w"] + head["b"]
    (record,) = read_results(supervised_run / "results.json")
    right = logits.argmax(axis=1) == batch["labels"]
    assert record.value == pytest.approx(100 * right.mean())


def test_the_saved_network_says_how_it_was_trained(supervised_run):
    """Length, batch, augmentation and crops: what jobs.pretrained compares, and later jobs use."""
    trained = weights.load(supervised_run)
    run = trained.config
    assert (run["protocol"], run["start"], run["augmentation"]) == (
        "supervised",
        "random",
        "spatial",
    )
    assert (run["batch_size"], run["num_epochs"], run["num_steps"]) == (16, 2, None)
    assert run["learning_rate"] == pytest.approx(0.1 * 16 / 256)
    assert trained.recipe == "supervised baseline, SimCLR App. B.3, crop"
    view = trained.cropping.view
    assert (view.flip, view.color_jitter, view.blur) == (0.5, 0, 0)
    assert trained.view2 == view


def test_the_saved_network_is_evaluated_like_any_other(supervised_run, tmp_path):
    config = tiny_checkpoints.small(
        linear_page.get_config(), checkpoint=str(supervised_run), num_steps=1, learning_rates=(0.2,)
    )
    config.valid_split = ""
    linear.run(config, tmp_path)
    (record,) = read_results(tmp_path / "results.json")
    assert (record.network, record.checkpoint_step) == ("online", 5)


def test_a_saved_network_is_kept(supervised_run, dataset, tmp_path):
    """The same settings find it; others are refused before they train."""
    shutil.copytree(supervised_run, tmp_path, dirs_exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="another --workdir"):
        finetune.run(scratch_config(dataset, learning_rates=(0.2,)), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    finetune.run(scratch_config(dataset), tmp_path)
    assert checkpoints.steps(tmp_path / "checkpoints") == [5]


def test_a_network_is_not_saved_among_those_of_a_pre_training(checkpoint, dataset):
    workdir = pathlib.Path(checkpoint)
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UserError, match="another --workdir"):
        finetune.run(scratch_config(dataset), workdir)
    assert sorted(workdir.rglob("*")) == before


def test_the_config_of_a_run_is_not_overwritten(dataset, tmp_path):
    tiny_checkpoints.save(tmp_path, dataset)
    (tmp_path / "config.json").write_text("{}")
    finetune.run(scratch_config(dataset, save_network=False, num_steps=1), tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"
    assert checkpoints.steps(tmp_path / "checkpoints") == [6]


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["randaugment", "simclr"])
def test_supervised_training_with_every_augmentation(dataset, tmp_path, augment):
    config = supervised.get_config(f"epochs=2,augment={augment}")
    config.encoder.update(tiny_runs.tiny_config(dataset).network)
    values = {"dataset": dataset, "image_size": 8, "eval_crop": "full", "num_steps": 2}
    finetune.run(tiny_checkpoints.small(config, **values), tmp_path)
    (record,) = read_results(tmp_path / "results.json")
    named = {"randaugment": "magnitude", "simclr": "view"}
    assert named[augment] in record.settings


@pytest.mark.slow
def test_the_transfer_page_on_a_small_grid(checkpoint, tmp_path):
    config = tiny_checkpoints.small(
        transfer_page.get_config(),
        checkpoint=checkpoint,
        num_steps=2,
        learning_rates=(0.01, 0.1),
        sweep_weight_decays=(0.0, 1e-3),
    )
    finetune.run(config, tmp_path)
    (record,) = read_results(tmp_path / "results.json")
    assert (record.protocol, record.settings["bn_decay"]) == ("transfer/finetune", "transfer")
    assert list(record.settings["cells"]) == [
        "rate=0.01,decay=0",
        "rate=0.01,decay=0.1",
        "rate=0.1,decay=0",
        "rate=0.1,decay=0.01",
    ]


# Mistakes.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, "config.checkpoint .*config.network=random"),
        ({"checkpoint": "/nowhere"}, "checkpoint=/nowhere"),
        ({"network": "offline"}, "config.network='offline'.*online"),
        ({"valid_split": ""}, "config.valid_split.*4 cells"),
        ({"valid_split": "", "learning_rates": (0.1,), "sweep_epochs": (), "refit": True}, "refit"),
        ({"score_split": "train"}, "config.fit_split=train.*config.score_split=train"),
        ({"valid_split": "validation"}, "'validation'"),
        ({"bn_decay": "never"}, "config.bn_decay='never'.*transfer"),
        ({"bn_decay": "1.5"}, "config.bn_decay='1.5'"),
        ({"sweep_weight_decays": (0.1, -0.1)}, "-0.1"),
        ({"sweep_weight_decays": ("(nan,)",)}, "config.sweep_weight_decays"),
        ({"sweep_weight_decays": (float("nan"),)}, "config.sweep_weight_decays"),
        ({"sweep_epochs": ("30",)}, "config.sweep_epochs"),
        ({"sweep_epochs": (0.0,)}, "config.sweep_epochs"),
        ({"protocol": ""}, "config.protocol"),
        ({"subset_seed": -1}, "config.subset_seed=-1"),
        ({"follow_hours": -1.0}, "config.follow_hours=-1.0"),
        ({"rate_scaling": "root"}, "config.rate_scaling='root'"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"fraction": 0.01}, "fraction=0.01 .*fraction=0.042 or more"),
        ({"fraction": 0.1}, "3 images.*config.batch_size"),
        ({"augmentation": "mixup"}, "config.augmentation='mixup'"),
        ({"metric": "accuracy"}, "metric='accuracy'.*top1"),
        ({"sweep_epochs": (0.1,)}, "0.1 epochs of 36 images"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(checkpoint, refused, changes, words):
    refused(finetune.run, config_of(checkpoint, **changes), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": None}, "config.dataset .*npz:FILE"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"image_size": None}, "config.image_size"),
    ],
)
def test_mistakes_without_a_checkpoint(dataset, refused, changes, words):
    config = scratch_config(dataset)
    with config.ignore_type():
        config.update(changes)
    refused(finetune.run, config, words)


def test_the_program_refuses_with_exit_code_2(tmp_path):
    arguments = (
        "--config=experiments/supervised.py",
        f"--workdir={tmp_path / 'finetune'}",
        "--config.dataset=digit",
        "--config.batch_size=16",
    )
    assert "config.dataset=digit: unknown data set" in tiny_runs.refusal(*arguments)
    assert not (tmp_path / "finetune").exists()


def test_a_second_grid_in_the_same_folder_is_refused(checkpoint, dataset, tmp_path):
    folder = tmp_path / "a" / "training" / "finetune-online-6"
    with lock.held(folder), pytest.raises(UserError, match=f"{folder} is in use by process"):
        finetune.run(config_of(checkpoint, protocol="finetune"), tmp_path / "a")
    # A network is saved beside its grid, where a pre-training may be at work.
    workdir = tmp_path / "b"
    with lock.held(workdir), pytest.raises(UserError, match=f"{workdir} is in use by process"):
        finetune.run(scratch_config(dataset, num_steps=1), workdir)
    assert not workdir.exists()
