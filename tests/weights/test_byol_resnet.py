"""The ResNet in plain PyTorch that exported folders hold."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

import tiny_encoders
from byol_jax.data import crops, folder, pipeline
from byol_jax.jobs import card, export
from byol_jax.networks import resnet
from tiny_encoders import SPECS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not here: `make test-ci` installs it")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder per spec."""
    root = tmp_path_factory.mktemp("exports")
    for name, spec in SPECS.items():
        (root / name).mkdir()
        weights = tiny_encoders.foreign(spec)
        export.write_torch(root / name, weights, "online", card.licence_of(weights, None))
    return root


def run(torch, network, images):
    with torch.no_grad():
        return network(torch.from_numpy(tiny_encoders.channels_first(images))).numpy()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [64, 65, 96])
def test_it_has_the_numbers_of_the_encoder_at_any_size(torch, folders, name, size):
    """Through torch.hub, as a user loads it."""
    network = torch.hub.load(str(folders / name), "encoder", source="local")
    images, expected = tiny_encoders.embedded(SPECS[name], size)
    assert not network.training and expected.shape == (2, network.dim)
    assert tiny_encoders.distance(run(torch, network, images), expected) < tiny_encoders.TOLERANCE


@pytest.mark.ci
def test_symmetric_padding_is_seen_by_the_same_measure(torch, folders):
    network = torch.hub.load(str(folders / "basic"), "encoder", source="local")
    network.conv1.is_same = False
    network.conv1.padding = (3, 3)
    for size, differs in ((64, True), (65, False)):
        images, expected = tiny_encoders.embedded(SPECS["basic"], size)
        distance = tiny_encoders.distance(run(torch, network, images), expected)
        assert distance > 1e-2 if differs else distance < tiny_encoders.TOLERANCE


def test_every_depth_is_here(torch, folders):
    network = torch.hub.load(str(folders / "basic"), "encoder", source="local")
    table = sys.modules[type(network).__module__].ARCHITECTURES
    rows = resnet.ARCHITECTURES.items()
    assert table == {depth: (row.blocks, row.channels) for depth, row in rows}


@pytest.mark.parametrize("mode", crops.EVALUATION_MODES)
@pytest.mark.parametrize(("height", "width"), [(90, 61), (40, 100), (24, 24)])
def test_files_become_the_crops_of_evaluations(torch, folders, tmp_path, mode, height, width):
    """Of a PNG, whose pixels every decoder has alike; antialiasing would be seen."""
    from byol_jax.weights import byol_resnet

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(pixels).save(file)
    about = {"image_size": 24, "eval_crop": mode, "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"byol_jax": about}))
    own = byol_resnet.prepare(tmp_path, [file])
    assert own.shape == (1, 3, 24, 24) and own.dtype == torch.float32
    levels = np.rint((own.numpy() * 0.25 + 0.5) * 255).transpose(0, 2, 3, 1)
    image_set = folder.files_set("image", [str(file)])
    (batch,) = pipeline.evaluation_batches(image_set, image_size=24, mode=mode, batch_size=1)
    # Sums in another order may round to the next level.
    differs = np.abs(levels - batch["images"])
    assert differs.max() <= 1 and (differs > 0).mean() < 1e-2
    short = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC)
    assert height == 24 or np.abs(np.asarray(short) - levels[0]).mean() > 10


def test_files_of_sixteen_bits_keep_their_high_byte(torch, tmp_path):
    from byol_jax.weights import byol_resnet

    values = np.random.default_rng(0).integers(0, 2**16, (24, 24), np.uint16)
    Image.fromarray(values).save(tmp_path / "image.png")
    about = {"image_size": 24, "eval_crop": "full", "mean": [0.0] * 3, "std": [1.0] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"byol_jax": about}))
    own = byol_resnet.prepare(tmp_path, [tmp_path / "image.png"]).numpy() * 255
    assert np.array_equal(np.rint(own[0, 1]).astype(int), values >> 8)
    image_set = folder.files_set("image", [str(tmp_path / "image.png")])
    (batch,) = pipeline.evaluation_batches(image_set, image_size=24, mode="full", batch_size=1)
    assert np.array_equal(batch["images"][0, ..., 0], values >> 8)
