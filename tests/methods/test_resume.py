"""Runs of the lecture's methods that were stopped: the bits of uninterrupted ones."""

import importlib
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

import tiny_runs
from byol_jax import train
from byol_jax.runtime import checkpoints

pytestmark = pytest.mark.slow

# 20 images in batches of 8, and a queue of 16: it is full after two steps, and goes round in the
# third, the first one behind the stop.
QUEUE = 16


def config_of(name: str, dataset: str, **changes: Any) -> Any:
    config = importlib.import_module(f"experiments.{name}").get_config("base=digits")
    side = config.image_size
    tiny = tiny_runs.tiny_config(dataset, checkpoint_every=2)
    for key in ("dataset", "batch_size", "num_steps", "log_every", "checkpoint_every"):
        config[key] = tiny[key]
    config.update(
        {
            "image_size": side,
            "network": {"depth": "tiny", "width": 0.5},
            "objective": {"moco": {"queue_size": QUEUE}, "densecl": {"queue_size": QUEUE}},
            "evaluation": {"at_end": False},
        }
    )
    for head in ("projector", "predictor", "dense"):
        config.network[head].hidden_size = 16
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("simsiam", {}),
        ("supcon", {}),
        ("moco", {}),
        pytest.param("moco", {"bn_statistics": "shuffled", "accumulate": 2}, marks=pytest.mark.ci),
        ("densecl", {}),
    ],
    ids=["simsiam", "supcon", "moco", "moco shuffled", "densecl"],
)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    name: str, changes: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    dataset = tiny_runs.write_npz(tmp_path / "images.npz", train=20)
    config = config_of(name, dataset, **changes)

    def run(workdir: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
        train.pretrain(config, workdir)
        return checkpoints.read(workdir / "checkpoints", 6)[0], tiny_runs.metrics(workdir)

    whole, lines = run(tmp_path / "whole")
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "2", killed / "checkpoints" / "2")
    shutil.copy(tmp_path / "whole" / "metrics.jsonl", killed / "metrics.jsonl")
    resumed, resumed_lines = run(killed)
    assert resumed_lines == lines and len(lines) == 6
    assert resumed.keys() == whole.keys()
    for array, values in whole.items():
        np.testing.assert_array_equal(resumed[array], values, err_msg=array)
    if "queue" in str(whole.keys()):
        assert whole["objective_state/next"] == 6 * 8 % QUEUE
