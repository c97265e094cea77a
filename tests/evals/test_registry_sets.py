"""Every protocol on every set of BYOL Table 10 that TFDS has, of random images (`mock_sets`).

What is checked is what random images can show: that features, splits and labels of each set go
through each job, how many images are validated and scored on, and by which measure.
"""

import functools
import logging
import pathlib
from collections.abc import Callable

import ml_collections
import numpy as np
import pytest

import mock_sets
import tiny_checkpoints
import tiny_runs
from byol_jax import jobs, train
from byol_jax.data import images, sources, table10
from byol_jax.errors import UserError
from byol_jax.evals import evaluate as evaluation
from byol_jax.evals import transfer as evals_transfer
from byol_jax.evals.sgd import recipes
from byol_jax.evals.splits import Split, load_split
from byol_jax.results.records import Record, read_results
from experiments import evaluate, finetune, linear, semi, supervised, transfer

# Images in train, valid and test, from `mock_sets.TRAIN_PER_CLASS` and the rule of each row:
# 12,000 - 10,009; round(0.1 * 6) = 1 per class, round(0.2 * 4) = 1; 12 - 10, 22 - 20 and 7 - 5 per
# class; 40 * 2,119 / 10,582 = 8.01. Other splits have one image per class.
SIZES = {
    "imagenet": (1991, 10009, 1000),
    "food101": (505, 101, 101),
    "cifar10": (50, 10, 10),
    "cifar100": (500, 100, 100),
    "sun397": (794, 3970, 397),
    "cars": (588, 196, 196),
    "voc2007": (40, 20, 20),
    "voc2012": (32, 8, 20),
    "dtd": (94, 47, 47),
    "pets": (74, 740, 37),
    "caltech101": (204, 510, 102),
    "places365": (730, 0, 365),
    "flowers": (204, 102, 102),
}
MEAN_PER_CLASS = ("pets", "caltech101", "flowers")
SEVERAL = ("voc2007", "voc2012")
# All of them take half an hour; these see each kind of set, of metric and of validation split.
FAST_SETS = ("cifar10", "voc2007", "flowers")
IN_CI = (("cifar10", "linear"), ("voc2007", "transfer"))

TINY = {"batch_size": 16, "eval_batch_size": 64, "num_steps": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    """Where the indices of the records are; never in the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """Prepares a row's set once, and says what a config needs to know of it."""
    root = tmp_path_factory.mktemp("sets")

    @functools.cache
    def of(key: str) -> dict[str, str]:
        mock_sets.write(key, root)
        return {"dataset": f"tfds:{table10.by_name(key).tfds}", "data_dir": str(root)}

    return of


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """As of a pre-training on other images."""
    return str(tiny_checkpoints.save(tmp_path_factory.mktemp("pretrained"), "digits"))


def page(protocol: str, key: str) -> ml_collections.ConfigDict:
    """The page of a protocol with a few steps and two settings to choose from, if any."""
    # Places365 has no validation split (Table 10): nothing is chosen.
    choice = key != "places365"
    several_rates = {"learning_rates": (0.1, 0.01)} if choice else {}
    if protocol == "evaluate":
        config, changes = evaluate.get_config(), {"evaluation": {"draws": 2}}
    elif protocol == "linear":
        config = linear.get_config("" if choice else "protocol=simclr")
        changes = TINY | several_rates
    elif protocol == "transfer":
        config, changes = transfer.get_config(), {"l2_grid": (1e-2, 1.0)}
    elif protocol == "semi":
        # Of one image round(0.6), one, of two round(1.2), one as well; a set of several classes an
        # image has no balanced share.
        share = 1.0 if key in SEVERAL else 0.6
        config = semi.get_config(f"fraction={share},protocol={'byol' if choice else 'simclr'}")
        changes = TINY | several_rates
    elif protocol == "finetune":
        config = finetune.get_config()
        changes = TINY | several_rates | {"sweep_weight_decays": (1e-3,)}
    else:
        config = supervised.get_config("depth=tiny")
        network = tiny_runs.tiny_config("digits").network
        changes = TINY | {"image_size": 8, "encoder": network}
    config.update(changes)
    return config


def cases() -> list:
    return [
        pytest.param(key, protocol, marks=[pytest.mark.ci] * ((key, protocol) in IN_CI))
        for key in SIZES
        for protocol in ("evaluate", "linear", "transfer", "semi", "finetune", "supervised")
        if key != "voc2012"  # of segmentation
    ]


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Record]:
    jobs.job_of(config.job)(config, workdir)
    return read_results(workdir / "results.json")


@pytest.mark.slow
@pytest.mark.parametrize(("key", "protocol"), cases())
def test_protocol(prepared, checkpoint, tmp_path, monkeypatch, key: str, protocol: str) -> None:
    config = page(protocol, key)
    config.update(prepared(key))
    if protocol != "supervised":
        config.checkpoint = checkpoint
    seen: dict[str, int] = {}

    def spy(dataset: str, name: str, **crops) -> Split:
        split = load_split(dataset, name, **crops)
        seen[name] = split.size
        return split

    for module in (evaluation, recipes, evals_transfer):
        monkeypatch.setattr(module, "load_split", spy)
    if key == "imagenet":
        # No regression in the job `evaluate`, as on the real set: these images would allow it, but
        # a thousand classes take minutes.
        monkeypatch.setattr(evaluation, "_REGRESSION_NUMBERS", 2**16)
    train_size, valid_size, test_size = SIZES[key]

    if key == "places365" and protocol in ("transfer", "finetune"):
        with pytest.raises(UserError, match="has no valid images"):
            run(config, tmp_path)
        return

    records = run(config, tmp_path)
    assert {record.n_examples for record in records} == {test_size}
    assert {(record.dataset, record.split) for record in records} == {(config.dataset, "test")}
    assert seen["test"] == test_size
    metric = "mean_per_class" if key in MEAN_PER_CLASS else "top1"
    metric = "map_11" if key in SEVERAL else metric
    chooses = protocol in ("linear", "transfer", "semi", "finetune") and key != "places365"
    if chooses:
        assert seen["valid"] == valid_size
    else:
        assert "valid" not in seen

    if protocol == "evaluate":
        # All of them by top-1 accuracy, which is not defined for several classes per image.
        assert seen["train+valid"] == train_size + valid_size
        protocols = {(record.protocol, record.metric) for record in records}
        single = {("knn", "top1")} | (set() if key == "imagenet" else {("linear", "top1")})
        assert protocols - {("linear/2-per-class", "top1")} == {("projection", "std_sqrt_dim")} | (
            set() if key in SEVERAL else single
        )
        return
    assert metric in {record.metric for record in records}
    assert all(0 <= record.value <= 100 for record in records)
    if key in SEVERAL:
        assert {record.metric for record in records} == {"map_11"}
    (record,) = (record for record in records if record.metric == metric)
    if protocol == "transfer":
        assert seen.get("train") == (train_size if chooses else None)
    if protocol == "linear" and chooses:
        assert len(record.settings[f"valid_{metric}"]) == 2
    if protocol in ("semi", "finetune") and chooses:
        assert len(record.settings["cells"]) == 2
    if protocol == "finetune":
        assert record.settings["labels"] == train_size + valid_size and record.settings["refit"]
    if protocol == "supervised":
        assert record.settings["labels"] == train_size + valid_size


@pytest.mark.parametrize(
    "key",
    [pytest.param(key, marks=() if key in FAST_SETS else pytest.mark.slow) for key in SIZES],
)
def test_splits(prepared, key: str) -> None:
    """Sizes of the splits, and images of every class in each except in ImageNet's last ones."""
    row, where = table10.by_name(key), prepared(key)
    for name, size in zip(sources.SPLITS, SIZES[key], strict=True):
        if not size:
            with pytest.raises(UserError, match=f"has no {name} images"):
                sources.load(where["dataset"], name, where["data_dir"])
            continue
        split = sources.load(where["dataset"], name, where["data_dir"])
        labels = images.all_labels(split)
        assert split.size == len(labels) == size
        assert split.num_classes == (row.stored_classes or row.classes)
        assert split.multi_label == (key in SEVERAL)
        if split.multi_label:
            # Two classes per image, and one with difficult examples only.
            assert {tuple(np.unique(r, return_counts=True)[1]) for r in labels} == {(1, 17, 2)}
            continue
        per_class = np.bincount(labels, minlength=split.num_classes)
        if key == "imagenet" and name != "test":
            assert per_class.sum() == size and per_class.max() <= 12
        else:
            assert set(per_class.tolist()) == {size // split.num_classes}


def test_no_balanced_share_of_several_classes(prepared, checkpoint, tmp_path) -> None:
    config = semi.get_config("fraction=0.6")
    config.update(TINY | prepared("voc2007") | {"checkpoint": checkpoint})
    with pytest.raises(UserError, match="several labels"):
        run(config, tmp_path)


def test_no_neighbours_of_several_classes(prepared, tmp_path) -> None:
    config = tiny_runs.tiny_config(evaluation__knn_every=1, **prepared("voc2007"))
    with pytest.raises(UserError, match="knn_every=1"):
        train.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pretraining_on_several_classes_evaluates_what_it_can(
    prepared, tmp_path, monkeypatch, caplog
) -> None:
    """The spread of the projection needs no label; the rest is left out, with one log line."""
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    config = tiny_runs.tiny_config(
        num_steps=1, data__split="train", evaluation__at_end=True, **prepared("voc2007")
    )
    train.pretrain(config, tmp_path)
    records = read_results(tmp_path / "results.json")
    assert [(r.network, r.metric) for r in records] == [
        (network, "std_sqrt_dim") for network in ("random", "target", "online")
    ]
    assert caplog.text.count("several classes per image") == 1
