"""Weights of others in every evaluation: the authors' pickles, and files of PyTorch."""

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np
import pytest
import safetensors.numpy

import golden_data
import tiny_checkpoints
from byol_jax import jobs
from byol_jax.errors import UserError
from byol_jax.networks.siamese import NetworkSpec
from byol_jax.results.records import Record, read_results
from experiments import classification, evaluate, linear, transfer, transformations
from tiny_encoders import torch_arrays

# Each job on a few images, once over them.
PAGES: Mapping[str, Callable[[], ml_collections.ConfigDict]] = {
    "evaluate": evaluate.get_config,
    "linear": lambda: tiny_checkpoints.small(
        linear.get_config(), num_epochs=1.0, learning_rates=(0.2,)
    ),
    "transfer": transfer.get_config,
    "finetune": lambda: tiny_checkpoints.small(
        classification.get_finetune_config(), num_epochs=1.0, learning_rates=(0.1,)
    ),
    "transformations": transformations.get_config,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, pathlib.Path]:
    """A released pickle, and a moving average beside its encoder as MoCo saves them."""
    folder = tmp_path_factory.mktemp("weights")
    spec = NetworkSpec("tiny", 1, "small", padding="torch")
    arrays = {f"encoder_q.{name}": value for name, value in torch_arrays(spec).items()}
    arrays |= {f"encoder_k.{name}": value for name, value in torch_arrays(spec, seed=1).items()}
    arrays["queue"] = np.zeros((2, 2), np.float32)
    safetensors.numpy.save_file(arrays, folder / "moco.safetensors")
    return {
        "released": golden_data.folder() / "released_style.pkl",
        "torch": folder / "moco.safetensors",
    }


def run(job: str, source: pathlib.Path, folder: pathlib.Path, **changes: Any) -> list[Record]:
    config = PAGES[job]()
    config.checkpoint = str(source)
    config.dataset = tiny_checkpoints.write_easy_npz(folder / "images.npz")
    config.image_size = 8
    with config.unlocked():
        config.update(changes)
    jobs.job_of(job)(config, folder / "out")
    return read_results(folder / "out" / "results.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("torch", marks=pytest.mark.ci), "released"])
def test_frozen_features(
    files: Mapping[str, pathlib.Path],
    tmp_path: pathlib.Path,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        records = run("evaluate", files[kind], tmp_path)
    assert "licence: CC BY-NC 4.0" in caplog.text
    rows = {record.network for record in records if record.protocol == "knn"}
    assert rows == {"pixels", "random", "online", "target"}
    for record in records:
        is_theirs = record.network in ("online", "target")
        assert ("licence" in record.settings) == is_theirs
    has_projector = any(record.protocol == "projection" for record in records)
    assert has_projector == (kind == "released")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "kind"),
    [
        *(("linear", "torch"), pytest.param("finetune", "torch", marks=pytest.mark.ci)),
        *(("transfer", "released"), ("transformations", "released")),
    ],
)
def test_every_evaluation(
    files: Mapping[str, pathlib.Path], tmp_path: pathlib.Path, job: str, kind: str
) -> None:
    records = run(job, files[kind], tmp_path)
    assert {record.network for record in records} >= {"online"}


def test_what_a_file_does_not_say_is_asked_for(
    files: Mapping[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=r"config\.dataset is needed"):
        run("evaluate", files["torch"], tmp_path, dataset=None)
    with pytest.raises(UserError, match=r"config\.follow needs the workdir of a run"):
        run("evaluate", files["torch"], tmp_path, follow=True)
    with pytest.raises(UserError, match=r"give --config\.representations=embedding"):
        run("transformations", files["torch"], tmp_path)
