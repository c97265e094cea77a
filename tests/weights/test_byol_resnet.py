"""The ResNet in plain PyTorch that exported folders hold."""

import sys

import pytest

import tiny_encoders
from byol_jax.jobs import card, export
from byol_jax.networks import resnet
from tiny_encoders import SPECS

pytestmark = [pytest.mark.slow, pytest.mark.ci]


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
