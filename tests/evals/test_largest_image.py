"""The largest image that a training reads is that of its evaluations too."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import tiny_checkpoints
import tiny_runs
from byol_jax import encoder, jobs, prepare
from byol_jax.data.images import LARGEST
from byol_jax.errors import UserError
from byol_jax.evals import splits
from experiments import embed, evaluate, finetune, linear, transfer, transformations

# Of 20 x 21 pixels each.
REFUSED = r"c0/0\.png .*20 x 21 pixels, .*largest_image=0\.0004"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("images")
    for i in range(16):
        file = root / ("train" if i < 8 else "test") / f"c{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((21, 20, 3), np.uint8)).save(file)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("run")
    return tiny_checkpoints.save(root, dataset, num_classes=2, data__largest_image=0.0004)


@pytest.mark.parametrize(
    "page", [embed, evaluate, finetune, linear, transfer, transformations], ids=lambda p: p.__name__
)
def test_jobs_on_a_checkpoint(run, dataset, tmp_path, page) -> None:
    config = page.get_config()
    config.checkpoint = str(run)
    config.dataset = dataset
    with pytest.raises(UserError, match=REFUSED):
        jobs.job_of(config.job)(config, tmp_path)


def test_a_run_that_evaluates_itself(dataset) -> None:
    changes = {"data__largest_image": 0.0004, "evaluation__at_end": True}
    config = tiny_runs.tiny_config(dataset, **changes)
    with pytest.raises(UserError, match=REFUSED):
        prepare._evaluation_data(config)


def test_an_encoder(run, dataset) -> None:
    encode = encoder.load_encoder(run)
    root = pathlib.Path(dataset.removeprefix("folder:"))
    with pytest.raises(UserError, match=r"largest_image=0\.0004"):
        encode([root / "train" / "c0" / "0.png"])


def test_checkpoints_without_the_key_have_the_default() -> None:
    assert tiny_checkpoints.trained("digits").cropping.largest == LARGEST
    config = tiny_runs.tiny_config("digits").to_dict()
    del config["data"]["largest_image"]
    record = {"config": config, "num_classes": 3, "total_steps": 6}
    old = tiny_checkpoints.weights.trained_of(record, 6, {}, {}, {}, {})
    assert old.cropping.largest == LARGEST


def test_a_split_is_read_as_it_is_told(dataset) -> None:
    arguments = {"image_size": 8, "eval_crop": "full"}
    assert splits.load_split(dataset, "test", **arguments).size == 8
    with pytest.raises(UserError, match=r"largest_image=0\.0004"):
        splits.load_split(
            dataset, "test", **arguments, decoding=splits.images.Decoding(largest=0.0004)
        )
