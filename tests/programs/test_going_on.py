"""Going on in a workdir with other settings or images, through the program."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax.runtime import checkpoints

# It starts from a page with published settings, and changes one of them.
PAGE = """
from experiments import imagenette


def get_config():
    config = imagenette.get_config()
    config.optimizer.momentum = 0.8
    return config
"""


def arguments(root: pathlib.Path, *flags: str, images: str = "images", run: str = "run"):
    """24 images in batches of 8: 9 steps are 3 epochs."""
    return (
        *(f"--config={root / 'mine.py'}", f"--workdir={root / run}"),
        *(f"--config.dataset=folder:{root / images}", "--config.data.split=train+valid+test"),
        *(*tiny_runs.TINY_FLAGS, "--config.num_steps=9", "--config.image_size=16"),
        *(f"--config.{flag}" for flag in flags),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """A run that was stopped at step 4, and other images."""
    root = tmp_path_factory.mktemp("going_on")
    (root / "mine.py").write_text(PAGE)
    tiny_runs.write_folder(root / "images", test=0)
    shutil.copytree(root / "images", root / "moved")
    shutil.copytree(root / "images", root / "renamed")
    (path,) = (root / "renamed").rglob("0.*")
    path.rename(path.with_name(f"another{path.suffix}"))
    shutil.copytree(root / "images", root / "more")
    more = root / "more" / "train" / "class0" / "more.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(more)
    done = tiny_runs.program(*arguments(root, "stop_at=4"))
    assert done.returncode == 0, done.stderr
    assert "effective batch 8, lars at a rate of 0.0625" in done.stderr
    assert "config.batch_size=8: BatchNorm takes its statistics of 8 images" in done.stderr
    assert "config.tau_base=0.996 is for longer runs" in done.stderr
    (recipe,) = (line for line in done.stderr.splitlines() if line.startswith("recipe: "))
    words, _, changes = recipe.partition("; changed: ")
    assert words == "recipe: the README of the authors' released code, Imagenette"
    assert {"batch_size", "num_steps", "optimizer.momentum"} < {*changes.split(";")[0].split(", ")}
    return root


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["batch_size=4"], "config.batch_size=4 (was 8)"),
        (["optimizer.base_learning_rate=1"], "config.optimizer.base_learning_rate=1.0 (was 2.0)"),
        (["seed=1"], "config.seed=1 (was 1337)"),
        (["tau_base=0.9"], "config.tau_base=0.9 (was 0.996)"),
        (["image_size=24"], "config.image_size=24 (was 16)"),
        (["objective.name=info_nce"], "config.objective.name=info_nce (was byol)"),
        (["precision=bfloat16"], "config.precision=bfloat16 (was float32)"),
        (["accumulate=2"], "config.accumulate=2 (was 1)"),
        (["network.width=1"], "config.network.width=1.0 (was 0.5)"),
        (["augment.view2.blur=0.2"], "config.augment.view2.blur=0.2 (was 0.1)"),
        (["num_steps=12"], "12 steps in all (was 9; config.num_steps=12)"),
        (["num_steps=None", "num_epochs=4"], "12 steps in all (was 9"),
        (["num_steps=3"], "config.num_steps=3 makes 3 steps, and the run in "),
        (["num_steps=3", "resume_changed=True"], "has done 4: give as many or more"),
    ],
)
def test_other_settings_are_refused(root, flags, words):
    before = contents(root / "run")
    assert words in tiny_runs.refusal(*arguments(root, *flags))
    assert contents(root / "run") == before


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("renamed", "24 images of other names in config.dataset=folder:"),
        ("more", "25 images (was 24) in config.dataset=folder:"),
    ],
)
def test_other_images_are_refused(root, images, words):
    before = contents(root / "run")
    line = tiny_runs.refusal(*arguments(root, images=images))
    assert words in line and f"--config.init={root / 'run'}" in line
    assert contents(root / "run") == before


@pytest.mark.slow
def test_what_changes_no_number_is_silent(root):
    """And so is another place of the same images, of which a line tells."""
    before = contents(root / "run")
    silent = (
        *("stop_at=4", "log_every=3", "checkpoint_every=7", "keep_checkpoints=1"),
        *("data.threads=1", "data.prefetch=1", "data.cache=True", "data.eval_crop=paper"),
        *("evaluation.knn_k=3", "evaluation.draws=1", "finish.embed=True", "network.remat=True"),
        *("objective.moco.temperature=0.9", "num_steps=None", "num_epochs=3"),
        *("augment.placement=host", "profile.steps=2", "recipe=mine", "resume_changed=True"),
    )
    done = tiny_runs.program(*arguments(root, *silent, images="moved"))
    assert done.returncode == 0, done.stderr
    assert "already stopped by config.stop_at=4 (step 4 of 9)" in done.stderr
    assert "has the images of the run, which were in folder:" in done.stderr
    assert "changed from step" not in done.stderr
    assert contents(root / "run") == before


@pytest.mark.slow
def test_resume_changed_goes_on_and_tells(root):
    shutil.copytree(root / "run", root / "changed")
    command = arguments(root, "resume_changed=True", "stop_at=6", "tau_base=0.9", run="changed")
    done = tiny_runs.program(*command)
    assert done.returncode == 0, done.stderr
    assert "changed from step 4 on: config.tau_base=0.9 (was 0.996)" in done.stderr
    workdir = root / "changed"
    old = json.loads((workdir / "config-4.json").read_text())
    new = json.loads((workdir / "config.json").read_text())
    assert (old["tau_base"], new["tau_base"]) == (0.996, 0.9)
    # A second change, back to what it was: the record has both.
    command = arguments(root, "resume_changed=True", run="changed")
    done = tiny_runs.program(*command)
    assert done.returncode == 0, done.stderr
    record = checkpoints.read_record(workdir / "checkpoints", 9)
    assert [(entry["step"], entry["changed"]) for entry in record["changes"]] == [
        (4, ["config.tau_base=0.9 (was 0.996)"]),
        (6, ["config.tau_base=0.996 (was 0.9)"]),
    ]
    assert "tau_base" in record["config"]["recipe"]
    assert json.loads((workdir / "config-6.json").read_text())["tau_base"] == 0.9
    assert [line["step"] for line in tiny_runs.metrics(workdir)][-1] == 9
