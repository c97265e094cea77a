"""What the lecture's methods refuse, in one line that names the key, and what they warn of."""

import importlib
import logging
import sys
import types
from typing import Any

import numpy as np
import pytest

import tiny_runs
from byol_jax import method, prepare, train
from byol_jax.entries import Entry
from byol_jax.errors import UserError
from byol_jax.jobs.preflight import pretraining
from byol_jax.objectives import simsiam
from byol_jax.program import Passes


def page(name: str, **changes: Any) -> Any:
    """A page on digits with other values; `__` stands for dots."""
    config = importlib.import_module(f"experiments.{name}").get_config(
        *(["base=digits"] if name not in ("digits", "byol") else [])
    )
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


REFUSED = {
    "queue_size": (
        page("moco", objective__moco__queue_size=500),
        r"objective\.moco\.queue_size=500 .* 64 keys .* give 512",
    ),
    "queue_size, both ways": (
        page("moco", objective__moco__symmetric=True, objective__moco__queue_size=64),
        r"objective\.moco\.queue_size=64 .* 128 keys .* give 128",
    ),
    "dense queue": (
        page("densecl", objective__densecl__queue_size=33),
        r"objective\.densecl\.queue_size=33 ",
    ),
    "no dense head": (
        page("densecl", network__dense__kind="none"),
        r"network\.dense\.kind=none makes no head .* give mlp",
    ),
    "one position": (page("densecl", image_size=8), r"image_size=8 .* one position"),
    "a dense head for nothing": (
        page("digits", network__dense__kind="mlp"),
        r"network\.dense\.kind=mlp: .*objective\.name=byol does not read",
    ),
    "a predictor for nothing": (
        page("moco", network__predictor__kind="mlp"),
        r"network\.predictor\.kind=mlp: .*objective\.name=moco reads projections",
    ),
    "a target for nothing": (
        page("supcon", target="ema"),
        r"target=ema: .*objective\.name=supcon compares .* give online",
    ),
    "keys without a network": (
        page("moco", target="stop_gradient"),
        r"target=stop_gradient has no network for the views",
    ),
    "temperature": (
        page("supcon", objective__supcon__temperature=0.0),
        r"objective\.supcon\.temperature=0\.0 must be above 0",
    ),
    "T_base": (
        page("supcon", objective__supcon__base_temperature=-1.0),
        r"objective\.supcon\.base_temperature=-1\.0 must be above 0",
    ),
    "anchors": (
        page("supcon", objective__supcon__anchors="two"),
        r"objective\.supcon\.anchors='two' must be one of",
    ),
    "lambda": (
        page("densecl", objective__densecl__dense_weight=1.5),
        r"objective\.densecl\.dense_weight=1\.5 must",
    ),
    "shuffled without a target": (
        page("simsiam", bn_statistics="shuffled"),
        r"bn_statistics=shuffled .* give local",
    ),
    "one image per device": (
        page("moco", bn_statistics="local", batch_size=2),
        r"bn_statistics=local .*batch_size=2 .*leaves it 1",
    ),
    "statistics": (page("moco", bn_statistics="split"), r"bn_statistics='split' must be one of"),
    "milestones without steps": (
        page("moco", optimizer__milestones=(0.5,)),
        r"optimizer\.milestones=\(0\.5,\) beside .*schedule=cosine",
    ),
    "milestones in epochs": (
        page("moco", optimizer__schedule="step", optimizer__milestones=(120, 160)),
        r"optimizer\.milestones=\(120, 160\) must be numbers, each a share of the run",
    ),
    "an optimal predictor for nothing": (
        page("moco", network__predictor__kind="optimal_linear"),
        r"network\.predictor\.kind=optimal_linear: .* give none",
    ),
    "one image per device of a micro-batch": (
        page("moco", bn_statistics="local", accumulate=32),
        r"bn_statistics=local .*config\.accumulate=32 leaves it 1",
    ),
    "steps without milestones": (
        page("moco", optimizer__schedule="step"),
        r"optimizer\.milestones=\(\) beside .*schedule=step",
    ),
    "an end of the cosine": (
        page("moco", optimizer__rate_end=0.1),
        r"optimizer\.rate_end=0\.1 is of schedule=whole_cosine",
    ),
    "schedule of the predictor": (
        page("digits", optimizer__schedule="whole_cosine"),
        r"optimizer\.predictor_schedule=cosine beside .*schedule=whole_cosine",
    ),
}


@pytest.mark.parametrize(("config", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused(config: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"config\.{words}") as caught:
        method.check(config, devices=2)
    assert "\n" not in str(caught.value)


def outside(name: str, passes: Any) -> str:
    """Puts an objective beside the page, with a queue of its own and these passes."""
    module = types.ModuleType(name)
    module.ENTRY = Entry(lambda queue_size=3, axis=None: simsiam.simsiam(), passes)  # type: ignore[attr-defined]
    sys.modules[name] = module
    return f"{name}:ENTRY"


def test_a_queue_from_outside_is_its_own_affair() -> None:
    name = outside("of_today", lambda count, switches: Passes(online=((1, 2),), target=()))
    config = page("digits", objective__name=name, target="online")
    config.objective.own.queue_size = 100
    method.check(config, devices=2)


def test_passes_of_an_earlier_version_are_refused() -> None:
    config = page("digits", objective__name=outside("of_before", lambda count: Passes()))
    with pytest.raises(
        UserError, match=r"config\.objective\.name=of_before:ENTRY: its passes must"
    ):
        method.check(config, devices=2)


def test_supcon_needs_labels(tmp_path: Any) -> None:
    file = tmp_path / "images.npz"
    images = {f"{split}_images": tiny_runs.images(16) for split in ("train", "test")}
    np.savez(
        file,
        **images,
        train_labels=np.full(16, -1),
        test_labels=np.full(16, -1),
    )
    config = page("supcon", dataset=f"npz:{file}", batch_size=8, num_steps=1)
    with pytest.raises(UserError, match=r"objective\.name=supcon learns from labels, .*nt_xent"):
        train.pretrain(config, tmp_path / "run")
    # As the pre-flight finds out.
    with pytest.raises(UserError, match="learns from labels"):
        prepare.check_labels(config, pretraining.data_of(config).num_classes)
    assert not (tmp_path / "run").exists()


def test_statistics_of_a_single_device_are_those_of_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        method.check(page("moco", bn_statistics="shuffled"), devices=1)
    assert "bn_statistics=shuffled is the same as global on one device" in caplog.text


@pytest.mark.parametrize("name", ["simsiam", "moco", "supcon", "densecl"])
def test_the_pages_say_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        method.check(page(name), devices=2)
    assert not caplog.records
