"""What the lecture's methods refuse, in one line that names the key, and what they warn of."""

import importlib
import logging
from typing import Any

import numpy as np
import pytest

import tiny_runs
from byol_jax import method, train
from byol_jax.errors import UserError


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
        r"bn_statistics=local .*batch_size=2 leaves it 1",
    ),
    "statistics": (page("moco", bn_statistics="split"), r"bn_statistics='split' must be one of"),
    "milestones without steps": (
        page("moco", optimizer__milestones=(0.5,)),
        r"optimizer\.milestones=\(0\.5,\) beside .*schedule=cosine",
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
