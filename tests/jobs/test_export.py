"""The job `export`: what the folder holds and says, what is refused, what is left when it fails."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy
import yaml

import tiny_checkpoints
import tiny_encoders
from byol_jax import encoder, weights
from byol_jax.errors import GuardError, UserError
from byol_jax.evals import checkpoint
from byol_jax.jobs import card, export
from byol_jax.results.records import write_results
from byol_jax.weights import exported, hub, trained
from experiments import export as page
from tiny_encoders import SPECS
from tiny_records import make_record

STEP = tiny_checkpoints.STEP
TORCH = {"model.safetensors", "byol_resnet.py", "hubconf.py", "config.json", "README.md"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of pre-training with results of both networks and of an earlier step."""
    workdir = tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "digits", num_classes=10)
    records = [
        make_record(checkpoint_step=STEP, value=81.25, settings={"standard_error": 2.5}),
        make_record(checkpoint_step=STEP, value=77.0, protocol="knn", settings={"paper_value": 78}),
        make_record(checkpoint_step=STEP, value=61.0, network="target"),
        make_record(checkpoint_step=STEP - 3, value=51.0),
        make_record(checkpoint_step=None, value=41.0, network="pixels"),
    ]
    write_results(workdir / "results.json", records)
    return workdir


def config_of(run, **changes):
    config = page.get_config()
    config.checkpoint = str(run)
    config.update(changes)
    return config


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def weights_of(monkeypatch):
    """Makes the job read these weights, whatever `config.checkpoint` is."""

    def weights_of(given):
        monkeypatch.setattr(checkpoint, "load_weights", lambda config: given)
        return config_of("elsewhere")

    return weights_of


@pytest.mark.parametrize("network", ["online", "target"])
def test_the_folder_is_read_back_as_that_network(run, tmp_path, network, capsys):
    export.run(config_of(run, network=network), tmp_path / "out")
    assert names(tmp_path / "out") == TORCH
    back = exported.read(tmp_path / "out")
    expected = encoder.load_encoder(run, network=network)
    for path, leaves in expected.params.items():
        for leaf, value in leaves.items():
            np.testing.assert_array_equal(back.online_params[path][leaf], value)
    printed = capsys.readouterr().out
    assert f"written: {tmp_path / 'out' / 'model.safetensors'} (" in printed
    assert f'encoder = byol_resnet.load("{tmp_path / "out"}")' in printed
    assert "timm" not in printed and "onnx" not in printed


def test_the_card_has_the_numbers_of_that_network_at_that_step(run, tmp_path):
    export.run(config_of(run / "checkpoints" / str(STEP)), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert (matter["license"], matter["library_name"]) == ("unknown", "pytorch")
    assert "byol" in matter["tags"] and "datasets" not in matter
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    assert "81.2 +- 2.5 | -" in rows[2] and "| knn" in rows[3] and "77.0" in rows[3]
    assert rows[3].endswith("| 78    |") and "paper" in rows[0]
    assert "TinyResNet, width 2" in body and f"updates: {STEP} of {STEP}" in body
    assert "The owner of the weights has not chosen a licence" in body
    assert "timm cannot hold this network" in body and "byol_resnet.py" in body


def test_config_json_says_how_the_network_is_built_and_fed(run, tmp_path):
    export.run(config_of(run, licence="Apache 2.0"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    own = config["byol_jax"]
    assert set(config) == {"byol_jax"}  # no keys of timm, which has no such network
    assert own["encoder"]["depth"] == "tiny" and own["encoder"]["padding"] == "same"
    assert (own["dim"], own["image_size"], own["crop_pct"]) == (16, 8, 1.0)
    assert own["mean"] == [0.485, 0.456, 0.406] and own["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("changes", "size", "side"),
    [({}, 224, 225), ({}, 160, 161), ({"padding": "torch"}, 224, 224)],
)
def test_timm_gets_the_size_at_which_it_is_right(changes, size, side):
    spec = SPECS["bottleneck"]._replace(width=1, **changes)
    given = tiny_encoders.foreign(spec._replace(width=1 / 8))._replace(
        network=spec, image_size=size
    )
    config = hub.describe(given, "online", "mit")
    assert (config["architecture"], config["num_features"]) == ("resnet50", 2048)
    assert config["pretrained_cfg"]["input_size"] == [3, side, side]
    assert config["pretrained_cfg"]["crop_pct"] == 0.875
    assert ("remark" in config["byol_jax"]) == (side != size)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"depth": "18"}, "the first group of timm's resnet18 has no projection"),
        ({"depth": "tiny"}, "the depth tiny"),
        ({"width": 2}, "of width 2"),
        ({"stem": "small"}, "the stem small"),
        ({"bn_eps": 1e-3}, "an eps of 1e-05"),
    ],
)
def test_what_timm_cannot_hold(changes, reason):
    spec = SPECS["bottleneck"]._replace(width=1)
    assert hub.why_not_timm(spec) is None
    assert hub.why_not_timm(spec._replace(depth="34", shortcut="identity")) is None
    assert reason in hub.why_not_timm(spec._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, "config.checkpoint is needed"),
        ({"network": "random"}, "config.network='random' must be one of: online, target"),
        ({"formats": "onyx"}, r"'onyx' must be one of: torch.*did you mean 'onnx'\?.*joined by \+"),
        ({"formats": "onnx,timm"}, r"'onnx,timm' must be one of"),
        ({"formats": "timm"}, "the depth tiny; leave timm out and use byol_resnet.py"),
    ],
)
def test_mistakes_are_refused(run, refused, changes, words):
    refused(export.run, config_of(run, **changes), words)


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("onnx", "onnx", r"pip install 'byol_jax\[onnx\]'"),
        ("saved_model", "tensorflow", "pip install tensorflow"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_read(
    refused, monkeypatch, name, package, command
):
    monkeypatch.setitem(sys.modules, package, None)
    config = config_of("nowhere", formats=f"stablehlo+{name}")
    refused(export.run, config, f"{name} needs the package {package}: {command}")


def test_a_checkpoint_without_a_target_has_none_to_export(refused, weights_of):
    config = weights_of(tiny_encoders.foreign(SPECS["solo-learn"]))
    config.network = "target"
    refused(export.run, config, "this checkpoint has no target network, give network=online")


def test_dilation_and_too_large_files_are_refused(refused, weights_of, monkeypatch):
    config = weights_of(tiny_encoders.foreign(SPECS["solo-learn"]._replace(dilation=2)))
    refused(export.run, config, "network.dilation=2 .* use byol_jax.load_encoder")
    config = weights_of(tiny_encoders.foreign(SPECS["solo-learn"]))
    config.formats = "onnx"
    monkeypatch.setitem(export._LARGEST, "onnx", 10)
    refused(export.run, config, "onnx ends at 2 GiB .* use torch or saved_model")


def test_the_terms_of_other_peoples_weights_stay(refused, weights_of, tmp_path):
    config = weights_of(tiny_encoders.foreign(SPECS["solo-learn"]))
    config.licence = "mit"
    refused(export.run, config, "config.licence=mit contradicts .* its authors: CC BY-NC 4.0")
    config.licence = "cc-by-nc-4.0"  # the same in other letters
    export.run(config, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nc-4.0\n" in text and "trained from those of: its authors." in text
    config.licence = None
    export.run(config, tmp_path / "again")
    assert "The weights: CC BY-NC 4.0." in (tmp_path / "again" / "README.md").read_text()


def test_unknown_terms_may_be_told():
    given = tiny_encoders.foreign(SPECS["solo-learn"], licence=trained.UNKNOWN_LICENCE)
    assert "Their terms are unknown" in card.licence_of(given, None).sentence
    told = card.licence_of(given, "My terms")
    assert told.identifier == "my-terms" and "as the one who exported them says" in told.sentence


@pytest.mark.parametrize("name", sorted([*TORCH, "encoder.onnx", "saved_model"]))
def test_files_are_not_overwritten(run, tmp_path, name):
    """Not even those of a format that is not asked for: they would belong to other weights."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"already holds {name}: .*--config.overwrite=True"):
        export.run(config_of(run), tmp_path)
    assert names(tmp_path) == {name} and (tmp_path / name).read_text() == "mine"


def test_overwriting_replaces_the_whole_export(run, tmp_path):
    (tmp_path / "saved_model").mkdir()
    for name in ("saved_model/old", "encoder.onnx", "README.md", "notes.txt"):
        (tmp_path / name).write_text("old")
    export.run(config_of(run, overwrite=True), tmp_path)
    assert names(tmp_path) == {*TORCH, "notes.txt"}
    assert "old" not in (tmp_path / "README.md").read_text().split()


def test_the_workdir_of_a_run_is_never_written_to(run):
    before = names(run)
    with pytest.raises(UserError, match="holds checkpoints of a run: name another folder"):
        export.run(config_of(run, overwrite=True), run)
    assert names(run) == before


def test_a_file_is_no_workdir(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: name a folder"):
        export.run(config_of(run), tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), GuardError),
        (ValueError("a bug"), ValueError),
    ],
)
def test_a_failed_export_leaves_the_earlier_one(run, tmp_path, monkeypatch, error, raised):
    export.run(config_of(run), tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in TORCH}

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(card, "text", fail)
    for folder in ("out", "new"):
        with pytest.raises(raised):
            export.run(config_of(run, overwrite=True), tmp_path / folder)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in TORCH} == before
    assert names(tmp_path / "out") == TORCH and names(tmp_path / "new") == set()


def test_what_a_killed_export_left_is_no_obstacle(run, tmp_path):
    partial = tmp_path / export.PARTIAL
    partial.mkdir()
    (partial / "encoder.onnx").write_text("half")
    export.run(config_of(run), tmp_path)
    assert names(tmp_path) == TORCH


def test_programs_are_written_beside_the_weights(weights_of, tmp_path, capsys):
    config = weights_of(tiny_encoders.foreign(SPECS["solo-learn"], image_size=32))
    config.formats = "stablehlo+onnx"
    export.run(config, tmp_path)
    assert names(tmp_path) == {*TORCH, "encoder.onnx", "encoder.stablehlo"}
    text = (tmp_path / "README.md").read_text()
    assert "multiples of 8 pixels" in text
    for part in ("onnxruntime.InferenceSession", "export.deserialize"):
        assert (part in text and part in capsys.readouterr().out) or part in text
    assert "pad both sides alike, as PyTorch does" in text


def test_an_exported_folder_goes_where_checkpoints_go(run, tmp_path):
    """Evaluations take the rebuilt checkpoint: crops, views, data set."""
    export.run(config_of(run), tmp_path)
    back, original = exported.read(tmp_path), weights.load(run)
    for field in ("cropping", "view2", "dataset", "method", "seed", "step", "total_steps"):
        assert getattr(back, field) == getattr(original, field)


def test_an_export_is_a_checkpoint(run, tmp_path):
    """For `load_encoder`, by its folder or its file; nothing can follow it."""
    out = tmp_path / "out"
    export.run(config_of(run), out)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    expected = encoder.load_encoder(run)(images)
    for path in (out, out / "model.safetensors"):
        np.testing.assert_array_equal(encoder.load_encoder(path)(images), expected)
        assert weights.load(path).dataset == "digits"
        assert weights.is_single(path)
    again = tmp_path / "again"
    export.run(config_of(out), again)
    first, second = (safetensors.numpy.load_file(p / "model.safetensors") for p in (out, again))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (None, "not known"),
        ("digits", "digits"),
        ("npz:/data/x.npz", "npz:x.npz"),
        ("folder:/data/photos/", "folder:photos"),
        ("folder:/data/photos,labels=/x/labels.csv", "folder:photos,labels=labels.csv"),
    ],
)
def test_a_card_names_no_folder_above_the_images(dataset, name):
    assert card._set_name(dataset) == name
