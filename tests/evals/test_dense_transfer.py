"""The jobs segmentation and depth: what is trained, chosen, kept and refused."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_dense_runs as tiny
from PIL import Image

import byol_jax
import tiny_checkpoints
from byol_jax import weights
from byol_jax.errors import Stopped, UserError
from byol_jax.evals import dense_transfer, depth, segmentation
from byol_jax.evals.dense import saved, training
from byol_jax.networks import siamese
from byol_jax.results.records import read_results, validate
from byol_jax.runtime import checkpoints

JOBS = {"segmentation": segmentation, "depth": depth}
IN_CI = (pytest.mark.slow, pytest.mark.ci)
BOTH = pytest.mark.parametrize("name", ["segmentation", pytest.param("depth", marks=IN_CI)])


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return {
        "segmentation": tiny.write_masks(tmp_path_factory.mktemp("masks")),
        "depth": tiny.write_depths(tmp_path_factory.mktemp("depth")),
    }


def page(name, sets, **changes):
    dataset = changes.pop("dataset", sets[name])
    return getattr(tiny, name)(dataset, **changes)


def arrays(workdir):
    folder = workdir / "checkpoints"
    (step,) = checkpoints.steps(folder)
    return checkpoints.read(folder, step)[0]


def same_bits(one, two):
    first, second = arrays(one), arrays(two)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert (one / "results.json").read_bytes() == (two / "results.json").read_bytes()


# A whole job.

SWEEP = {"learning_rates": (1e-9, 0.05), "valid_split": "valid", "fit_split": "train"}


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    """Two rates, refitted with two seeds."""
    workdir = tmp_path_factory.mktemp("finished")
    segmentation.run(page("segmentation", sets, **SWEEP, seeds=(3, 5), refit=True), workdir)
    return workdir


def test_records_of_a_sweep(finished):
    records = {record.metric: record for record in read_results(finished / "results.json")}
    assert [*records] == ["mIoU", "pixel_accuracy", "mean_accuracy", "weighted_iou"]
    miou = records["mIoU"]
    validate(miou)
    assert (miou.protocol, miou.unit, miou.network) == ("fcn16s", "percent", "random")
    assert (miou.n_examples, miou.split, miou.checkpoint_step) == (5, "test", None)
    values = miou.settings["by_seed"]
    assert [*values] == ["3", "5"]
    assert miou.value == pytest.approx(np.mean([*values.values()]))
    error = np.std([*values.values()], ddof=1) / 2**0.5
    assert miou.settings["standard_error"] == pytest.approx(error)
    assert miou.settings["standard_error_of"] == "2 seeds"
    assert miou.settings["labels"] == 14  # train and valid
    assert miou.settings["valid_names"] == ["0", "1", "2", "3"]
    assert "valid_names" not in records["pixel_accuracy"].settings
    assert [*miou.settings["class_iou_of_first_seed"]] == ["ground", "red", "green"]
    scores = miou.settings["cells"]
    assert miou.settings["learning_rate"] in (1e-9, 0.05)
    chosen = max(scores, key=lambda name: (scores[name], -float(name.split(",")[0][5:])))
    assert chosen == f"rate={miou.settings['learning_rate']:.6g},decay=0.0001"


def test_what_a_sweep_keeps(finished):
    folder = finished / "training" / "fcn16s-random-0"
    lines = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    assert [line["metric"] for line in lines] == ["mIoU"] * 2
    best = max(lines, key=lambda line: line["value"])["cell"]
    refits = sorted(path.name for path in folder.glob("refit*"))
    assert refits == [f"refit,{best},seed=3", f"refit,{best},seed=5"]
    (worse,) = {line["cell"] for line in lines} - {best}
    assert not (folder / worse / "checkpoints").exists()
    with Image.open(finished / "predictions.png") as image:
        assert image.size[1] > 800  # five rows


def test_the_network_is_that_of_the_first_seed(finished):
    found = saved.load(str(finished))
    assert found.task == "segmentation"
    assert found.classes == ("ground", "red", "green")
    record = read_results(finished / "results.json")[0]
    folder = finished / "training" / "fcn16s-random-0"
    rate = record.settings["learning_rate"]
    place = folder / f"refit,rate={rate:.6g},decay=0.0001,seed=3" / "checkpoints"
    flat, _ = checkpoints.read(place, 4)
    for module, leaves in found.params.items():
        for name, value in leaves.items():
            np.testing.assert_array_equal(flat[f"params/{module}/{name}"], value)


def test_its_encoder_is_one_for_all_other_jobs(finished):
    trained = weights.load(str(finished))
    assert (trained.method, trained.has_heads) == ("segmentation", False)
    assert trained.network.dilation == 2
    encode = byol_jax.load_encoder(finished)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    features = encode(images)
    assert features.shape == (2, encode.dim)
    own = siamese.encoder_params(trained.online_params)
    assert not any("fcn_head" in module for module in own)


def test_a_finished_job_trains_nothing(sets, finished, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    monkeypatch.setattr(training, "mapped_step", lambda program: pytest.fail("trained again"))
    segmentation.run(page("segmentation", sets, **SWEEP, seeds=(3, 5), refit=True), workdir)
    same_bits(workdir, finished)


@pytest.mark.parametrize("line", [2, pytest.param(6, marks=IN_CI), pytest.param(11, marks=IN_CI)])
def test_a_stopped_sweep_goes_on_bit_for_bit(sets, finished, tmp_path, stop_after, line):
    """In the first rate, in the second, and in the first seed of the refit."""
    config = page("segmentation", sets, **SWEEP, seeds=(3, 5), refit=True)
    stop_after(line)
    with pytest.raises(Stopped):
        segmentation.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    segmentation.run(config, tmp_path)
    same_bits(tmp_path, finished)


@BOTH
def test_threads_change_no_bit(name, sets, tmp_path):
    for threads in (1, 3):
        JOBS[name].run(page(name, sets, threads=threads), tmp_path / str(threads))
    same_bits(tmp_path / "1", tmp_path / "3")


@pytest.fixture(scope="module")
def deep(sets, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("deep")
    depth.run(page("depth", sets), workdir)
    return workdir


def test_records_of_depth(deep):
    records = {record.metric: record for record in read_results(deep / "results.json")}
    units = {"rms": "m", "rel": "1", "log10": "1", "pct1.25": "percent"}
    assert units.items() <= {name: record.unit for name, record in records.items()}.items()
    assert next(iter(records)) == "rms"
    rms = records["rms"]
    assert (rms.protocol, rms.n_examples) == ("upproj/stretch", 5)
    assert rms.settings["labels"] == 14  # nothing is held out
    assert "standard_error" not in rms.settings
    found = saved.load(str(deep))
    assert (found.task, found.eval_crop) == ("depth", "stretch")
    assert found.frames.crop == (14, 18)


def test_the_other_crop_trains_nothing(sets, deep, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(deep, workdir)
    monkeypatch.setattr(training, "mapped_step", lambda program: pytest.fail("trained again"))
    depth.run(page("depth", sets, eval_crop="crop"), workdir)
    protocols = [record.protocol for record in read_results(workdir / "results.json")]
    assert {*protocols} == {"upproj/stretch", "upproj/crop"}


@pytest.mark.slow
@pytest.mark.ci
def test_the_rate_of_depth_is_that_of_the_lowest_rms(sets, tmp_path, monkeypatch):
    scores = {0.01: 0.5, 0.02: 0.4, 0.03: 0.6}

    def score(of, cell):
        return scores[round(cell.learning_rate, 6)]

    monkeypatch.setattr("byol_jax.evals.cells._score", score)
    rates = {"learning_rates": (0.01, 0.02, 0.03), "fit_split": "train", "valid_split": "valid"}
    depth.run(page("depth", sets, **rates), tmp_path)
    settings = read_results(tmp_path / "results.json")[0].settings
    assert settings["learning_rate"] == 0.02
    assert settings["learning_rate_at_end_of_grid"] is None


# From a checkpoint.


@pytest.fixture(scope="module")
def encoder(sets, tmp_path_factory):
    dataset = tiny_checkpoints.write_easy_npz(tmp_path_factory.mktemp("data") / "images.npz")
    workdir = tmp_path_factory.mktemp("run")
    return str(tiny_checkpoints.save(workdir, dataset, network__width=0.5))


@pytest.mark.parametrize("network", ["online", "random"])
def test_a_frozen_encoder(network, sets, encoder, tmp_path):
    """An untrained one has averages of the images, without which it is not finite."""
    changes = {"checkpoint": encoder, "network": network, "backbone": "frozen"}
    segmentation.run(page("segmentation", sets, **changes), tmp_path)
    record = read_results(tmp_path / "results.json")[0]
    assert record.protocol == "fcn16s/frozen"
    assert record.checkpoint_step == (6 if network == "online" else None)
    if network == "online":
        own = siamese.encoder_params(weights.load(encoder).online_params)
        kept = weights.load(str(tmp_path)).online_params
        for module, leaves in own.items():
            for name, value in leaves.items():
                np.testing.assert_array_equal(kept[module][name], value)


@pytest.mark.slow
@pytest.mark.ci
def test_following_a_run(sets, tmp_path, monkeypatch):
    dataset = tiny_checkpoints.write_easy_npz(tmp_path / "images.npz")
    source = tiny_checkpoints.save(tmp_path / "run", dataset, steps=(3, 6), network__width=0.5)
    changes = {"checkpoint": str(source), "network": "online", "save_network": False}
    config = page("segmentation", sets, **changes, follow=True)
    segmentation.run(config, tmp_path / "out")
    records = read_results(tmp_path / "out" / "results.json")
    assert {record.checkpoint_step for record in records} == {3, 6}
    assert (tmp_path / "out" / "predictions-3.png").exists()
    monkeypatch.setattr(dense_transfer, "evaluate", lambda *_, **__: pytest.fail("again"))
    segmentation.run(config, tmp_path / "out")


# What is refused.


def test_another_network_in_a_workdir(sets, finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    before = (workdir / "results.json").read_bytes()
    config = page("segmentation", sets, **SWEEP, seeds=(3, 5), refit=True, num_steps=5)
    with pytest.raises(UserError, match=r"trained with other settings: give this one another"):
        segmentation.run(config, workdir)
    config.save_network = False
    with pytest.raises(
        UserError, match="a training with total_steps=4, this one has total_steps=5"
    ):
        segmentation.run(config, workdir)
    assert (workdir / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("segmentation", {"dataset": None}, "config.dataset is needed: one of voc:DIR, masks:DIR"),
        ("depth", {"dataset": None}, "config.dataset is needed: one of nyu:PATH"),
        ("segmentation", {"dataset": "depth:/x"}, "it has depth, and this job needs masks"),
        ("segmentation", {"crop": 18}, r"config.crop=18 must be .* give 17 or 21"),
        ("segmentation", {"eval_crop": 18}, r"config.eval_crop=18 must be .* give 17 or 21"),
        ("segmentation", {"scale_range": (2.0, 1.0)}, "config.scale_range"),
        ("segmentation", {"scale_step": 9.0}, "config.scale_step"),
        ("segmentation", {"flip": 1.5}, "config.flip"),
        ("segmentation", {"head__init": "zero"}, "config.head.init='zero' must be one of"),
        ("segmentation", {"backbone": "half"}, "config.backbone='half' must be one of"),
        ("segmentation", {"backbone": "frozen"}, "config.backbone=frozen keeps BatchNorm's"),
        ("segmentation", {"decay": "some"}, "config.decay='some'"),
        ("segmentation", {"seeds": (1, 1)}, r"config.seeds=\(1, 1\) must be .* each once"),
        ("segmentation", {"seeds": ()}, "config.seeds"),
        ("segmentation", {"batch_size": 5}, "batch_size=5 does not divide"),
        ("segmentation", {"accumulate": 3}, "batch_size=4 does not divide into accumulate=3"),
        ("segmentation", {"milestones": (0.9, 0.7)}, "in the order of the run"),
        ("segmentation", {"learning_rates": (1e39,)}, "more than float32 holds"),
        (
            "segmentation",
            {"learning_rates": (0.1, 0.2), "valid_split": ""},
            "config.valid_split is empty, and config.learning_rates has 2 rates",
        ),
        ("segmentation", {"refit": True, "valid_split": ""}, "config.refit trains again"),
        ("segmentation", {"valid_split": "train"}, "share train"),
        ("segmentation", {"network": "online"}, "config.checkpoint is needed"),
        ("segmentation", {"held_out": 4}, "it has a validation split of its own"),
        ("segmentation", {"batch_size": 12, "num_steps": None}, "10 images"),
        ("depth", {"crop": (17, 18)}, r"config.crop=\(17, 18\) must not be larger than"),
        ("depth", {"frame": (0, 18)}, "config.frame"),
        ("depth", {"eval_crop": "eigen"}, "config.eval_crop='eigen' must be one of"),
        ("depth", {"head__padding": "same"}, "config.head.padding"),
        ("depth", {"head__channels": ()}, "config.head.channels"),
        ("depth", {"colours__hue_max": 0.7}, "config.colours.hue_max"),
    ],
)
def test_a_config_that_does_not_fit(name, changes, words, sets, refused):
    refused(JOBS[name].run, page(name, sets, **changes), words)


def test_a_crop_of_any_size_without_aligned_corners(sets, tmp_path):
    changes = {"crop": 18, "align_corners": False, "num_steps": 1, "save_network": False}
    segmentation.run(page("segmentation", sets, **changes), tmp_path)
    assert read_results(tmp_path / "results.json")[0].settings["align_corners"] is False


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", [*JOBS])
def test_half_precision_micro_batches_and_blocks_computed_again(name, sets, tmp_path):
    changes = {"precision": "bfloat16", "accumulate": 2, "remat": True, "milestones": ()}
    JOBS[name].run(page(name, sets, **changes, backbone="finetune"), tmp_path)
    settings = read_results(tmp_path / "results.json")[0].settings
    assert (settings["precision"], settings["accumulate"]) == ("bfloat16", 2)
    # What is saved is computed with in full precision by others.
    assert all(v.dtype != np.float16 for v in arrays(tmp_path).values())


def test_following_keeps_no_network(sets, encoder, refused):
    config = page("segmentation", sets, checkpoint=encoder, network="online", follow=True)
    refused(segmentation.run, config, "config.save_network=True keeps one network")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: other_size(root), "0.png has 3 x 3 pixels, but its image .* has 21 x 18"),
        (lambda root: outside(root), r"has the index 7 in row 0, column 0, but .* has 3 classes"),
        (lambda root: (root / "train_masks/3.png").unlink(), "1 of 10 images have no mask in"),
    ],
    ids=["size", "index", "missing"],
)
def test_masks_that_do_not_fit(break_it, words, tmp_path, refused):
    root = tmp_path / "set"
    dataset = tiny.write_masks(root)
    break_it(root)
    refused(segmentation.run, tiny.segmentation(dataset), words)


def other_size(root: pathlib.Path) -> None:
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(root / "train_masks/0.png")


def outside(root: pathlib.Path) -> None:
    path = root / "test_masks/1.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = 7
    Image.fromarray(mask).save(path)


def test_depth_without_a_valid_pixel(tmp_path, refused):
    dataset = tiny.write_depths(tmp_path / "set")
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(tmp_path / "set/test_depth/2.png")
    refused(depth.run, tiny.depth(dataset), r"test_depth/2.png has no pixel with a valid depth")


def test_a_devkit_without_train_aug(tmp_path, refused):
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "VOC2012" / name).mkdir(parents=True)
    (tmp_path / "VOC2012/ImageSets/Segmentation/val.txt").write_text("a\n")
    config = tiny.segmentation(f"voc:{tmp_path}")
    refused(segmentation.run, config, r"has no train_aug .* unpack SBD \(www2.eecs.berkeley.edu")


# The keys of the pages.

# Another value of each key that decides a training, for both jobs.
DECIDING = {
    **{"seed": 1, "seeds": (1,), "network": "target", "checkpoint": "runs/x", "fit_split": "valid"},
    **{"encoder.width": 1.0, "backbone": "frozen_bn", "bn_decay": 0.5, "precision": "bfloat16"},
    **{"accumulate": 2, "batch_size": 6, "num_steps": 5, "learning_rates": (0.3,)},
    **{"momentum": 0.5, "decay": "weights", "weight_decay": 0.1, "milestones": (0.5,)},
    **{"flip": 0.2, "protocol": "other", "refit": True, "held_out": 3, "rate_scaling": "linear"},
}
OWN = {
    "segmentation": {
        **{"crop": 21, "scale_range": (1.0, 1.5), "scale_step": 0.25, "align_corners": False},
        **{"head.channels": 5, "head.dilation": 2, "head.init": "haiku", "eval_crop": 21},
        "valid_split": "test",
    },
    "depth": {
        **{"frame": (15, 20), "crop": (13, 18), "head.channels": (5,), "head.entry_channels": 5},
        **{"head.padding": "authors", "colours.grayscale": 0.1, "colours.hue_max": 0.1},
        **{"colours.brightness_max": 0.2, "colours.saturation_max": 0.2, "eval_crop": "crop"},
        "valid_split": "valid",
    },
}
# What is measured of a network, what is told elsewhere (the images by their names), and what
# changes no number; `num_epochs` decides where `num_steps` is open.
SILENT = frozenset(
    (
        *("recipe", "job", "follow", "follow_seconds", "follow_hours", "score_split"),
        *("eval_batch_size", "threads", "prefetch", "save_network", "log_every"),
        *("checkpoint_every", "skip_damaged", "remat", "data_dir", "exif", "num_epochs"),
        "dataset",
    )
)


def keys_of(config) -> set[str]:
    flat = {key for key, _ in _flat(config.to_dict())}
    return {key for key in flat if not key.startswith("encoder.") or key == "encoder.width"}


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("name", [*JOBS])
def test_each_key_decides_or_is_silent(name, sets):
    assert keys_of(page(name, sets)) == {*DECIDING, *OWN[name]} | SILENT


def marks(name, config, tmp_path, monkeypatch):
    """What the trainings of a config are known by; nothing is read of checkpoints."""
    monkeypatch.setattr(dense_transfer, "_start", lambda *_: ({}, {}))
    task = JOBS[name].TASK
    job = dense_transfer._job_of(task, None, config, tmp_path)
    place = job.place("x")
    return job.mark, [job.fingerprint(cell) for cell in job.cells], place.directory


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("segmentation", key) for key in (*DECIDING, *OWN["segmentation"])),
        *(("depth", key) for key in OWN["depth"]),
    ],
)
def test_what_decides_a_training_is_in_its_marks(name, key, sets, tmp_path, monkeypatch):
    config = page(name, sets)
    if key == "held_out":  # of a set without a validation split
        root = pathlib.Path(config.dataset.partition(":")[2])
        shutil.copytree(root, tmp_path / "set")
        for part in ("val", "val_masks"):
            shutil.rmtree(tmp_path / "set" / part)
        config.dataset = f"masks:{tmp_path / 'set'}"
    before = marks(name, config, tmp_path, monkeypatch)
    config.update_from_flattened_dict({key: {**DECIDING, **OWN[name]}[key]})
    assert marks(name, config, tmp_path, monkeypatch) != before


def test_the_presets_are_those_of_the_paper():
    from experiments import depth as depth_page
    from experiments import segmentation as segmentation_page

    config = segmentation_page.get_config()
    assert (config.num_steps, config.batch_size, config.crop, config.weight_decay) == (
        *(30_000, 16, 513),
        1e-4,
    )
    assert [round(config.num_steps * share) for share in config.milestones] == [21_000, 27_000]
    np.testing.assert_allclose(np.log10(config.learning_rates), [-3, -2.5, -2, -1.5, -1])
    assert len(config.seeds) == 5
    moco = segmentation_page.get_config("preset=moco")
    assert moco.learning_rates == (0.003,)
    config = depth_page.get_config()
    assert (config.num_steps, config.batch_size, config.weight_decay) == (7500, 256, 5e-4)
    job_rates = dense_transfer.recipes.scaled_rates(config)
    assert job_rates == pytest.approx((0.16,))
    config.batch_size = 16
    assert dense_transfer.recipes.scaled_rates(config) == pytest.approx((0.01,))


def test_one_device_and_two_agree(sets, tmp_path, monkeypatch):
    """Two steps of the whole job, to rounding."""
    program_arrays = []
    for count in (1, 2):
        devices = jax.local_devices()[:count]
        monkeypatch.setattr(jax, "local_devices", lambda devices=devices: devices)
        monkeypatch.setattr(jax, "local_device_count", lambda count=count: count)
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        training.mapped_step.cache_clear()
        workdir = tmp_path / str(count)
        segmentation.run(page("segmentation", sets, num_steps=2), workdir)
        program_arrays.append(arrays(workdir))
    training.mapped_step.cache_clear()
    one, two = program_arrays
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=2e-3, atol=2e-4)
