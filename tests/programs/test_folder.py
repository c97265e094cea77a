"""From a folder of photographs to a report, an encoder and embeddings, in one command."""

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import tiny_runs


@pytest.mark.slow
def test_one_command(tmp_path):
    images, run = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(21):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(images / f"{i}.jpg")
    command = (
        *("--config=experiments/folder.py", f"--config.dataset=folder:{images}"),
        *(f"--workdir={run}", "--config.num_epochs=2", "--config.network.depth=tiny"),
        *("--config.network.projector.hidden_size=16", "--config.network.predictor.hidden_size=16"),
    )
    done = tiny_runs.program(*command)
    assert done.returncode == 0, done.stderr
    said = done.stderr
    # 2 epochs of 21 images are 5 updates of 8.
    assert "21 images of 40 pixels" in said and "steps 0 to 5 of 5" in said
    assert "optimizer.base_learning_rate=64.0" in said  # a rate of 2 at a batch of 8
    assert "set aside" not in said
    for product in ("report.html", "encoder/byol_resnet.py", "embeddings"):
        assert (run / product).exists(), said
    assert pyarrow.parquet.read_table(run / "embeddings").num_rows == 21
    assert "Next: python -m byol_jax.main" in done.stdout

    again = tiny_runs.program(*command)
    assert again.returncode == 0, again.stderr
    assert "already finished (step 5 of 5)" in again.stderr
    assert f"the recipe of the run in {run}" in again.stderr
    assert "compiling" not in again.stderr
