"""The pre-training job: resume, stop_at, guard, refusals, outputs."""

import functools
import json
import logging
import pathlib
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import prepare, train, weights
from byol_jax.data.views import Stream, View
from byol_jax.errors import GuardError, Stopped, UserError
from byol_jax.evals import evaluate
from byol_jax.method import check
from byol_jax.results.records import with_standard_error
from byol_jax.runtime import checkpoints, metrics


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_runs.write_npz(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """The workdir of a run of six steps, which cross the epoch boundary at step 3."""
    workdir = tmp_path_factory.mktemp("finished")
    train.pretrain(tiny_runs.tiny_config(dataset), workdir)
    return workdir


def test_outputs_of_a_run(finished):
    lines = tiny_runs.metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    names = {
        "loss",
        "probe_loss",
        "probe_top1",
        "probe_top5",
        "tau",
        "learning_rate",
        "embedding_norm",
        "projection_norm",
        "projection_std",
        "embedding_rank",
        "alignment",
        "uniformity",
    }
    for line in lines:
        assert set(line) == names | {"step", "split"}
        assert line["split"] == "train"
    # The first update runs at rate 0 (step index 0 of the warm-up) and tau_base.
    assert lines[0]["learning_rate"] == 0.0
    assert lines[0]["tau"] == pytest.approx(0.996)
    assert lines[-1]["tau"] > 0.999
    assert checkpoints.steps(finished / "checkpoints") == [3, 6]
    config = json.loads((finished / "config.json").read_text())
    assert config["network"]["depth"] == "tiny"
    assert config["stop_at"] is None
    assert list(finished.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "stop", [2, *(pytest.param(k, marks=[pytest.mark.slow, pytest.mark.ci]) for k in (3, 5))]
)
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(dataset, finished, tmp_path, stop):
    train.pretrain(tiny_runs.tiny_config(dataset, stop_at=stop), tmp_path)
    assert checkpoints.steps(tmp_path / "checkpoints")[-1] == stop
    train.pretrain(tiny_runs.tiny_config(dataset), tmp_path)
    ours, _ = checkpoints.read(tmp_path / "checkpoints", 6)
    whole, _ = checkpoints.read(finished / "checkpoints", 6)
    assert ours.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert tiny_runs.metrics(tmp_path) == tiny_runs.metrics(finished)


def test_threads_change_no_bit(dataset, finished, tmp_path):
    train.pretrain(tiny_runs.tiny_config(dataset, data__threads=3), tmp_path)
    assert tiny_runs.metrics(tmp_path) == tiny_runs.metrics(finished)


@pytest.mark.slow
def test_a_trace_changes_no_bit(dataset, finished, tmp_path):
    config = tiny_runs.tiny_config(dataset, profile__steps=2, profile__first=3)
    train.pretrain(config, tmp_path)
    assert tiny_runs.metrics(tmp_path) == tiny_runs.metrics(finished)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_half_precision_is_what_the_step_computes_in(dataset, finished, tmp_path):
    """Until the first update that has a rate, losses are those of float32 but for rounding."""
    train.pretrain(tiny_runs.tiny_config(dataset, precision="bfloat16"), tmp_path)
    half, full = (
        np.array([line["loss"] for line in tiny_runs.metrics(folder)])
        for folder in (tmp_path, finished)
    )
    assert np.all(np.abs(half - full) > 1e-6)
    np.testing.assert_allclose(half[:2], full[:2], rtol=0.03)
    flat, _ = checkpoints.read(tmp_path / "checkpoints", 6)
    assert {value.dtype.kind + str(value.dtype.itemsize) for value in flat.values()} == {
        *("f4", "i4", "b1"),
    }


def test_a_run_with_a_cache_reads_each_image_once(tmp_path, monkeypatch):
    """24 training images, 6 batches of 8: two epochs."""
    config = tiny_runs.tiny_config(tiny_runs.write_folder(tmp_path / "images"), data__split="train")
    uncached = prepare.load_images(config)
    seen = []

    def read(i):
        seen.append(i)
        return uncached.images.read(i)

    counted = uncached._replace(images=uncached.images._replace(read=read))
    monkeypatch.setattr(prepare.sources, "load", lambda *_, **__: counted)
    config.data.cache = True
    given = Stream(0, uncached.size, 8, stop=6), (View(8), View(8))
    ours = list(train.pipeline.train_batches(prepare.load_images(config), *given))
    assert sorted(seen) == list(range(uncached.size))
    for batch, expected in zip(ours, train.pipeline.train_batches(uncached, *given), strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values, err_msg=name)


@pytest.fixture
def said(caplog, monkeypatch):
    """What the log has said since the last call."""
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")

    def said() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return said


@pytest.fixture
def no_step(monkeypatch):
    """Nothing is compiled, written or shown."""
    for module, name in ((train, "mapped_step"), (metrics, "Writer"), (metrics, "Progress")):
        monkeypatch.setattr(module, name, lambda *_, name=name: pytest.fail(name))


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "already finished (step 6 of 6)"),
        (
            {"num_steps": 9, "stop_at": 4, "resume_changed": True},
            "already stopped by config.stop_at=4 (step 6 of 9)",
        ),
    ],
)
def test_a_run_without_a_step_left_is_not_trained(dataset, finished, said, no_step, changes, words):
    before = contents(finished)
    train.pretrain(tiny_runs.tiny_config(dataset, **changes), finished)
    assert said()[-1] == words
    assert contents(finished) == before


def test_what_a_run_says_before_its_first_step(dataset, tmp_path, said, monkeypatch):
    """Each thing once; minutes are normal on a CPU alone."""
    images = f"24 images in {dataset}, 2 classes (train+valid); splits of its own: train, test"
    for steps, backend, patience in (
        (1, "cpu", " (minutes are normal on a CPU)"),
        (2, "gpu", ""),
    ):
        monkeypatch.setattr(train.jax, "default_backend", lambda backend=backend: backend)
        train.pretrain(tiny_runs.tiny_config(dataset, num_steps=steps), tmp_path / backend)
        what, summary, *warnings, recipe, compiling = said()
        assert what == images
        assert summary == (
            "effective batch 8, lars at a rate of 0.125 after 0.5 epochs (1 steps), tau 0.996 to "
            f"1, {steps} steps in all"
        )
        # Of a batch, a tau, a warm-up and a rate that are nobody's.
        assert len(warnings) == 4 and all(line.startswith("config.") for line in warnings)
        assert recipe.startswith("recipe: ")
        assert compiling == f"compiling the update step{patience}"


def test_reading_is_announced_if_it_takes_a_while(dataset, said, monkeypatch):
    load = train.sources.load

    def slow(*arguments, **named):
        time.sleep(1.2)
        return load(*arguments, **named)

    config = tiny_runs.tiny_config(dataset)
    prepare.load_images(config)
    assert said() == []
    monkeypatch.setattr(prepare.sources, "load", slow)
    prepare.load_images(config)
    assert said() == [f"reading images of {dataset}"]


def test_the_time_that_is_left_is_said_once(dataset, tmp_path, said, monkeypatch):
    monkeypatch.setattr(metrics.Pace, "_SECONDS", 0.0)
    train.pretrain(tiny_runs.tiny_config(dataset), tmp_path)
    (estimate,) = (line for line in said() if "per step" in line)
    assert re.fullmatch(r"[\d.]+ s per step: about \d+ s to go", estimate)


@pytest.mark.slow
@pytest.mark.ci
def test_accumulated_batches_run_and_resume(dataset, tmp_path):
    config = functools.partial(tiny_runs.tiny_config, dataset, accumulate=2, num_steps=3)
    train.pretrain(config(), tmp_path / "whole")
    train.pretrain(config(stop_at=1), tmp_path / "parts")
    train.pretrain(config(), tmp_path / "parts")
    assert tiny_runs.metrics(tmp_path / "parts") == tiny_runs.metrics(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.ci
def test_guard_saves_the_last_good_state(dataset, tmp_path):
    # The second update is the first with a rate above 0, and its weights overflow.
    config = tiny_runs.tiny_config(dataset, optimizer__base_learning_rate=1e38)
    with pytest.raises(GuardError, match="not finite: the state before it is saved in"):
        train.pretrain(config, tmp_path)
    (step,) = checkpoints.steps(tmp_path / "checkpoints")
    flat, _ = checkpoints.read(tmp_path / "checkpoints", step)
    assert int(flat["step"]) == step
    assert all(np.isfinite(v).all() for v in flat.values())
    # With a rate that is right the same workdir goes on.
    train.pretrain(tiny_runs.tiny_config(dataset, resume_changed=True), tmp_path)
    assert tiny_runs.metrics(tmp_path)[-1]["step"] == 6


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_that_diverges_at_once_leaves_its_workdir_usable(dataset, tmp_path):
    changes = {"optimizer__warmup_epochs": 0.0, "checkpoint_every": 2}
    config = tiny_runs.tiny_config(dataset, **changes, optimizer__base_learning_rate=1e38)
    with pytest.raises(GuardError, match=r"nothing is saved; .*the same workdir can be used again"):
        train.pretrain(config, tmp_path)
    assert not checkpoints.steps(tmp_path / "checkpoints")
    (repro,) = tmp_path.glob("diverged-*.json")
    assert json.loads(repro.read_text())["checkpoint"] is None
    train.pretrain(tiny_runs.tiny_config(dataset, **changes, stop_at=3), tmp_path)
    train.pretrain(tiny_runs.tiny_config(dataset, **changes), tmp_path)
    assert checkpoints.steps(tmp_path / "checkpoints")[-1] == 6


def test_a_finished_run_is_not_changed(dataset, copied):
    """It would be evaluated as what it is not."""
    before = sorted(copied.rglob("*"))
    config = tiny_runs.tiny_config(dataset, resume_changed=True, tau_base=0.9)
    with pytest.raises(UserError, match="is at step 6 of 6, and no step is left to change"):
        train.pretrain(config, copied)
    assert sorted(copied.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_steps_saves_and_stops(dataset, tmp_path, monkeypatch, number):
    write = metrics.Writer.write

    def write_and_signal(self, step, split, values):
        write(self, step, split, values)
        if step == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(metrics.Writer, "write", write_and_signal)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as caught:
        train.pretrain(tiny_runs.tiny_config(dataset), tmp_path)
    assert caught.value.number == number
    # Logs come one step late: step 3 was running when those of step 2 were written.
    assert checkpoints.steps(tmp_path / "checkpoints") == [3]
    assert signal.getsignal(number) is before


@pytest.mark.slow
@pytest.mark.ci
def test_evaluation_at_the_end_and_while_training(dataset, tmp_path):
    config = tiny_runs.tiny_config(
        dataset,
        num_steps=2,
        evaluation__at_end=True,
        evaluation__knn_every=1,
        evaluation__draws=2,
        evaluation__knn_k=3,
    )
    train.pretrain(config, tmp_path)
    tests = [line for line in tiny_runs.metrics(tmp_path) if line["split"] == "test"]
    assert [line["step"] for line in tests] == [1, 2]
    records = json.loads((tmp_path / "results.json").read_text())
    rows = {(r["network"], r["protocol"], r["metric"]) for r in records}
    protocols = {("knn", "top1"), ("linear", "top1"), ("linear/2-per-class", "top1")}
    std = ("projection", "std_sqrt_dim")
    assert rows == {
        (network, *row)
        for network in ("pixels", "random", "target", "online")
        for row in (protocols if network == "pixels" else protocols | {std})
    }
    by_row = {(r["network"], r["protocol"]): r for r in records}
    assert by_row["online", "knn"]["value"] == tests[-1]["knn_top1"]
    assert by_row["online", "knn"]["checkpoint_step"] == 2
    assert by_row["online", "knn"]["n_examples"] == 12

    # The job `evaluate` reads the same checkpoint and finds the same values.
    data = evaluate.load(dataset, image_size=8, eval_crop="full")
    again = evaluate.evaluate(weights.load(tmp_path), data, config.evaluation.to_dict())
    assert [with_standard_error(record)._asdict() for record in again] == records


@pytest.mark.slow
def test_host_placement_trains_on_the_same_views(dataset, finished, tmp_path):
    """Its first update differs by rounding alone: the same crops, keys and operations."""
    train.pretrain(tiny_runs.tiny_config(dataset, augment__placement="host", num_steps=2), tmp_path)
    ours, theirs = tiny_runs.metrics(tmp_path)[0], tiny_runs.metrics(finished)[0]
    for name in ("loss", "probe_loss", "embedding_norm", "projection_norm", "projection_std"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


@pytest.mark.slow
@pytest.mark.ci
def test_runs_on_a_folder_and_evaluates_its_splits(tmp_path, said, monkeypatch):
    dataset = tiny_runs.write_folder(tmp_path / "images")
    config = tiny_runs.tiny_config(
        dataset, num_steps=2, evaluation__at_end=True, evaluation__draws=1, evaluation__knn_k=3
    )
    train.pretrain(config, tmp_path / "run")
    records = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {r["split"] for r in records} == {"test"}
    assert {r["n_examples"] for r in records} == {12}
    fitted = {r["settings"]["fit_split"] for r in records if r["metric"] == "top1"}
    assert fitted == {"train+valid"}
    assert {r["network"] for r in records} == {"pixels", "random", "target", "online"}

    # Started again it is not evaluated again, unless its records are gone or other ones are asked.
    evaluated = []
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: evaluated.append(True) or [])
    before = contents(tmp_path / "run")
    results = tmp_path / "run" / "results.json"
    said()
    train.pretrain(config, tmp_path / "run")
    assert said()[-1] == f"already finished (step 2 of 2): its results are in {results}"
    assert evaluated == [] and contents(tmp_path / "run") == before
    config.evaluation.knn_k = 4
    train.pretrain(config, tmp_path / "run")
    assert evaluated == [True]
    config.evaluation.knn_k = 3
    results.unlink()
    train.pretrain(config, tmp_path / "run")
    assert evaluated == [True, True] and results.exists()
    assert said()[-1] == "already finished (step 2 of 2)"


def test_too_many_unreadable_files_are_refused_before_anything_is_written(tmp_path):
    dataset = tiny_runs.write_folder(tmp_path / "images")
    for file in sorted((tmp_path / "images" / "train").rglob("*.*"))[:2]:
        file.write_text("not an image")
    with pytest.raises(UserError, match=r"config\.dataset=folder:\S+: 2 of 24 images cannot"):
        train.pretrain(tiny_runs.tiny_config(dataset), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_large_set_is_left_to_the_evaluation_job(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "LARGEST", 23)
    train.pretrain(tiny_runs.tiny_config(dataset, num_steps=1, evaluation__at_end=True), tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_images_without_labels_train_without_a_probe(tmp_path, said, capsys):
    np.savez(tmp_path / "x.npz", train_images=tiny_runs.images(16), test_images=tiny_runs.images(8))
    config = tiny_runs.tiny_config(
        f"npz:{tmp_path / 'x.npz'}", num_steps=2, evaluation__at_end=True
    )
    train.pretrain(config, tmp_path / "run")
    assert "probe_loss" not in tiny_runs.metrics(tmp_path / "run")[-1]
    records = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {r["metric"] for r in records} == {"std_sqrt_dim"}
    lines = said()
    what = f"16 images in {config.dataset}, no labels (train+valid)"
    assert f"{what}; splits of its own: train, test" in lines
    assert sum("no labels in" in line for line in lines) == 1
    assert "0 = collapsed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "does not divide over 2 devices"),
        ({"accumulate": 3}, "does not divide into accumulate=3"),
        ({"batch_size": 26}, "fewer images than one batch: 24 images"),
        ({"network__depth": "19"}, "network.depth"),
        ({"network__width": 0.3}, "multiple of 1/8"),
        ({"precision": "float16"}, "precision"),
        ({"profile__steps": -1}, "profile.steps"),
        ({"profile__first": 1}, "profile.first"),
        ({"log_every": 0}, "log_every"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"seed": -1}, "seed"),
        ({"tau_base": 1.5}, "tau_base"),
        ({"target_init": "zeros"}, "target_init"),
        ({"data__eval_crop": "left"}, "eval_crop"),
        ({"augment__view2__blur": 1.1}, "augment.view2.blur"),
        ({"augment__view1__blur_sigma_min": 0.0}, "blur_sigma_min"),
        ({"data__area_min": 1.5}, "area"),
        ({"dataset": "digit"}, "digits"),
        ({"dataset": "npz:absent.npz"}, "absent.npz"),
        ({"dataset": "folder:absent"}, "there is no folder absent"),
        ({"data_dir": "somewhere"}, "data_dir=somewhere is for tfds:NAME only"),
        ({"data__split": "trian"}, "has no split 'trian'; its splits are train, valid, test"),
        *(
            ({"data__service": "localhost:1", key: value}, f"data.service .*config.{words}")
            for key, value, words in (
                ("data__resident", True, "data.resident"),
                ("data__cache", True, "data.cache"),
                ("data__exif", True, "data.exif"),
                ("data__scaled_decoding", True, "data.scaled_decoding"),
                ("augment__placement", "host", "augment.placement=host"),
            )
        ),
        ({"data__service": "localhost:1"}, "data.service"),
        ({"data__resident": True, "data__scaled_decoding": True}, "data.scaled_decoding"),
        ({"augment__placement": "gpu"}, "augment.placement='gpu'"),
        (
            {"target": "momentum"},
            "config.target='momentum'",
        ),
        ({"tau_schedule": "linear"}, "tau_schedule"),
        ({"objective__name": "swav"}, "objective.name='swav'"),
        (
            {"objective__byol__normalization": "l1"},
            "objective.byol.normalization='l1'",
        ),
        (
            {"objective__name": "nt_xent", "objective__nt_xent__temperature": 0.0},
            "nt_xent.temperature=0",
        ),
        ({"objective__name": "info_nce", "objective__info_nce__beta": 1.5}, "info_nce.beta=1.5"),
        (
            {"objective__name": "margin_triplet", "objective__margin_triplet__margin": -1.0},
            "margin_triplet.margin=-1.0",
        ),
        (
            {
                "objective__name": "margin_triplet",
                "objective__margin_triplet__semi_hard": True,
                "objective__margin_triplet__margin": 0.0,
            },
            "margin_triplet.margin=0",
        ),
        ({"network__predictor__kind": "best"}, "network.predictor.kind='best'"),
        ({"network__projector__kind": "optimal_linear"}, "network.projector.kind"),
        (
            {"network__predictor__kind": "optimal_linear", "network__projector__output_size": 16},
            "network.predictor.kind=optimal_linear",
        ),
        ({"optimizer__name": "lamb"}, "optimizer.name='lamb'"),
        ({"optimizer__rate_scaling": "root"}, "optimizer.rate_scaling"),
        ({"optimizer__predictor_rate": -1.0}, "optimizer.predictor_rate=-1.0"),
        (
            {"optimizer__name": "adam", "optimizer__rate_scaling": "none"},
            "optimizer.name=adam",
        ),
        (
            {"evaluation__at_end": True, "evaluation__score_split": "valid"},
            "score_split=valid",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(dataset, tmp_path, changes, message):
    changes = {"dataset": dataset} | changes
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=message) as caught:
        train.pretrain(tiny_runs.tiny_config(**changes), workdir)
    assert "\n" not in str(caught.value)
    assert not workdir.exists()


def test_negatives_need_other_images(dataset):
    config = tiny_runs.tiny_config(dataset, objective__name="nt_xent", accumulate=8)
    with pytest.raises(UserError, match=r"objective\.name=nt_xent"):
        check(config, devices=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network__predictor__kind": "none"}, "no predictor and no negatives: this collapses"),
        ({"target": "online"}, "gradients through the target and no negatives: this collapses"),
        (
            {"target": "online", "objective__name": "info_nce", "objective__info_nce__beta": 0.0},
            "gradients through the target and no negatives",
        ),
        ({"target": "online", "objective__name": "nt_xent"}, None),
        ({"target": "stop_gradient"}, None),
        ({}, None),
        (
            {"target": "online", "objective__name": "simsiam"},
            "gradients through the target and no negatives: this collapses (at once: SimSiam",
        ),
        (
            {"network__predictor__kind": "none", "objective__name": "simsiam"},
            "no predictor and no negatives: this collapses (0.1 % top-1: SimSiam Table 1",
        ),
        ({"target": "stop_gradient", "objective__name": "simsiam"}, None),
    ],
)
def test_dials_that_are_known_to_collapse_are_warned_of(dataset, changes, message, caplog):
    with caplog.at_level("WARNING"):
        check(tiny_runs.tiny_config(dataset, **changes))
    assert [m.startswith(message) for m in caplog.messages] == ([True] if message else [])


@pytest.mark.slow
def test_a_run_without_a_target_network(dataset, tmp_path):
    """SimCLR, resumed: its target is the online network, which is saved and evaluated once."""
    simclr = {
        "target": "online",
        "objective__name": "nt_xent",
        "network__predictor__kind": "none",
        "num_steps": 2,
        "evaluation__at_end": True,
    }
    train.pretrain(tiny_runs.tiny_config(dataset, **simclr, stop_at=1), tmp_path)
    train.pretrain(tiny_runs.tiny_config(dataset, **simclr), tmp_path)
    lines = [line for line in tiny_runs.metrics(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"contrastive_top1", "contrastive_entropy", "mi_bound"} < lines[1].keys()
    assert "tau" not in lines[1]
    flat, _ = checkpoints.read(tmp_path / "checkpoints", 2)
    assert not [name for name in flat if name.startswith("target")]
    records = json.loads((tmp_path / "results.json").read_text())
    assert {record["network"] for record in records} == {"pixels", "random", "online"}


def test_missing_dataset_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match="dataset"):
        train.pretrain(tiny_runs.tiny_config(None), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.ci
def test_workdir_of_another_architecture_is_left_alone(dataset, finished):
    def contents():
        return {p.relative_to(finished): p.read_bytes() for p in finished.rglob("*") if p.is_file()}

    before = contents()
    # With steps to go, as changes of a finished run are refused for that.
    other = tiny_runs.tiny_config(dataset, network__width=1.0, num_steps=9)
    with pytest.raises(UserError, match=r"config\.network\.width=1\.0 \(was 0\.5\)"):
        train.pretrain(other, finished)
    other.resume_changed = True
    with pytest.raises(UserError, match=r"another architecture: online_params/\S+ is float32"):
        train.pretrain(other, finished)
    assert contents() == before


def test_to_be_saved_state_is_not_the_donated_one(finished):
    """A view of donated memory would make both checkpoints of the run alike."""
    first, _ = checkpoints.read(finished / "checkpoints", 3)
    last, _ = checkpoints.read(finished / "checkpoints", 6)
    assert int(first["step"]) == 3
    moved = [k for k in first if k.startswith("online_params") and k.endswith("/w")]
    assert all(not np.array_equal(first[k], last[k]) for k in moved)


@pytest.mark.slow
def test_one_compilation_for_a_whole_run(dataset, tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **kwargs: compiled.append(event)
    )
    try:
        jax.clear_caches()  # of other runs
        train.pretrain(tiny_runs.tiny_config(dataset, num_steps=2), tmp_path / "two")
        two = sum("backend_compile" in event for event in compiled)
        jax.clear_caches()
        compiled.clear()
        train.pretrain(tiny_runs.tiny_config(dataset, num_steps=12), tmp_path / "twelve")
        twelve = sum("backend_compile" in event for event in compiled)
    finally:
        jax.monitoring.clear_event_listeners()
    assert two > 0
    assert twelve == two


def damage(workdir: pathlib.Path, step: int) -> None:
    (workdir / "checkpoints" / str(step) / "record" / "metadata").write_bytes(b"{")


@pytest.fixture
def copied(finished, tmp_path):
    """The steps 3 and 6 of a run of 6."""
    return shutil.copytree(finished, tmp_path / "copied")


def test_a_run_passes_over_a_damaged_checkpoint_if_it_is_asked_to(
    dataset, copied, finished, caplog
):
    damage(copied, 6)
    with pytest.raises(UserError, match=r"6 is damaged \(record/metadata.* continue from step 3"):
        train.pretrain(tiny_runs.tiny_config(dataset), copied)
    before = (copied / "metrics.jsonl").read_text()
    train.pretrain(tiny_runs.tiny_config(dataset, skip_damaged=True), copied)
    (line,) = (m for m in caplog.messages if "goes on from step 3" in m)
    assert "6 is damaged (record/metadata" in line
    ours, record = checkpoints.read(copied / "checkpoints", 6)
    whole, original = checkpoints.read(finished / "checkpoints", 6)
    assert record["run"] == original["run"]
    for name, value in whole.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert (copied / "metrics.jsonl").read_text() == before
    aside = copied / "checkpoints" / "6.damaged" / "record" / "metadata"
    assert aside.read_bytes() == b"{"


def test_a_run_never_passes_over_its_only_checkpoint(dataset, copied):
    damage(copied, 6)
    shutil.rmtree(copied / "checkpoints" / "3")
    before = sorted(copied.rglob("*"))
    with pytest.raises(UserError, match="never starts again from step 0"):
        train.pretrain(tiny_runs.tiny_config(dataset, skip_damaged=True), copied)
    assert sorted(copied.rglob("*")) == before


def test_a_renamed_or_foreign_checkpoint_is_refused(dataset, copied, tmp_path):
    folder = copied / "checkpoints"
    (folder / "6").rename(folder / "58")
    with pytest.raises(UserError, match=r"58 is damaged .*step 6, not of 58"):
        train.pretrain(tiny_runs.tiny_config(dataset, num_steps=60), copied)
    shutil.rmtree(folder / "58")
    other = tmp_path / "other"
    train.pretrain(tiny_runs.tiny_config(dataset, seed=2, stop_at=4), other)
    shutil.copytree(other / "checkpoints" / "4", folder / "4")
    with pytest.raises(UserError, match="steps of 2 runs, such as 3 and 4"):
        train.pretrain(tiny_runs.tiny_config(dataset), copied)


def test_knn_needs_labels_and_says_so_before_the_first_step(tmp_path, no_step):
    np.savez(tmp_path / "x.npz", train_images=tiny_runs.images(16), test_images=tiny_runs.images(8))
    config = tiny_runs.tiny_config(f"npz:{tmp_path / 'x.npz'}", evaluation__knn_every=3)
    with pytest.raises(
        UserError, match=r"config\.evaluation\.knn_every=3: .* has no labels; give 0"
    ):
        train.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_split_is_checked_before_the_first_step(tmp_path, no_step):
    """Two of seven files of the test split are empty."""
    dataset = tiny_runs.write_folder(tmp_path / "images", train=24, test=7)
    bad = sorted((tmp_path / "images" / "test").rglob("*.*"))[:2]
    for file in bad:
        file.write_bytes(b"")
    config = tiny_runs.tiny_config(dataset, evaluation__at_end=True)
    with pytest.raises(UserError) as error:
        train.pretrain(config, tmp_path / "run")
    message = str(error.value)
    assert "2 of 7 images cannot be read, more than one" in message
    assert all(str(file) in message for file in bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_one_bad_file_of_a_small_split_is_named_and_left_out(tmp_path, said):
    dataset = tiny_runs.write_folder(tmp_path / "images", train=24, test=7)
    bad, *_ = sorted((tmp_path / "images" / "test").rglob("*.*"))
    bad.write_bytes(b"")
    config = tiny_runs.tiny_config(dataset, num_steps=1, evaluation__at_end=True)
    train.pretrain(config, tmp_path / "run")
    records = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {record["n_examples"] for record in records} == {6}
    assert any(str(bad) in line and "left out" in line for line in said())


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("error", [UserError("no reason"), OSError(28, "No space left on device")])
def test_an_evaluation_that_fails_ends_a_finished_training_with_3(
    dataset, tmp_path, monkeypatch, error
):
    """It has its last step; the same command, once it can, evaluates it."""

    def fail(*_):
        raise error

    config = tiny_runs.tiny_config(dataset, num_steps=1, evaluation__at_end=True)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", fail)
        with pytest.raises(GuardError) as guard:
            train.pretrain(config, tmp_path)
    message = str(guard.value)
    assert message.startswith("the training is finished and saved, step 1 in")
    assert str(error.args[-1]) in message and message.endswith("the same command evaluates it")
    assert checkpoints.steps(tmp_path / "checkpoints") == [1]
    train.pretrain(config, tmp_path)
    assert (tmp_path / "results.json").exists()


def test_small_classes_without_a_test_split_say_the_way_out(tmp_path, no_step):
    """A fifth of two images is none. A training that evaluates nothing takes them."""
    for i in range(60):
        file = tmp_path / "images" / f"c{i % 30}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny_runs.images(1, seed=i)[0]).save(file)
    dataset = f"folder:{tmp_path / 'images'}"
    config = tiny_runs.tiny_config(dataset, evaluation__at_end=True)
    with pytest.raises(UserError, match=r"no test images; .*--config\.evaluation\.at_end=False"):
        train.pretrain(config, tmp_path / "run")
    assert prepare.load_images(tiny_runs.tiny_config(dataset)).size == 60


def test_the_largest_image_is_a_setting_of_the_run(tmp_path, no_step):
    """Of 12 images, three have more than 400 pixels."""
    for i in range(12):
        pixels = np.zeros((21 if i % 4 == 0 else 20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    settings = {"data__largest_image": 0.0004, "data__split": "train+valid+test"}
    config = tiny_runs.tiny_config(f"folder:{tmp_path}", **settings)
    with pytest.raises(
        UserError, match=r"3 of 12 .*00\.png \(20 x 21 pixels, .*largest_image=0\.0004"
    ):
        prepare.load_images(config)
    config.data.largest_image = 179.0
    with pytest.raises(UserError, match=r"config\.data\.largest_image=179\.0 must be above 0"):
        prepare.check(config)
