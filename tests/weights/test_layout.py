"""Torchvision's names: there, back, and which encoder has arrays of these names."""

import jax
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.networks.siamese import NetworkSpec
from byol_jax.weights import layout
from tiny_encoders import torch_arrays

DEEP = pytest.mark.slow
SPECS = (
    NetworkSpec("18", 0.125),
    NetworkSpec("34", 0.125, "small", shortcut="identity"),
    NetworkSpec("50", 0.125),
    NetworkSpec("tiny", 2, "small"),
    *(pytest.param(NetworkSpec(depth, 0.125), marks=DEEP) for depth in ("101", "152", "200")),
)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.depth}-{spec.stem}")
def test_names_and_values_come_back(spec: NetworkSpec) -> None:
    arrays = torch_arrays(spec)
    layout.require_fit(arrays, spec)
    params, state = layout.from_torch(arrays, spec)
    assert (params.keys(), state.keys()) == tuple(t.keys() for t in layout.shapes_of(spec))
    back = layout.to_torch(params, state)
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        assert back[name].dtype == value.dtype and back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.depth}-{spec.stem}")
def test_the_spec_is_that_of_the_arrays(spec: NetworkSpec) -> None:
    assert layout.spec_of(torch_arrays(spec)) == spec._replace(padding="torch")


@pytest.mark.slow
def test_names_are_those_of_torchvision() -> None:
    """Some of the 318 names of `torchvision.models.resnet50`, with their shapes."""
    shapes = layout.expected(NetworkSpec("50"))
    assert len(shapes) + 53 == 318  # a counter for each BatchNorm
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_mean"] == (64,)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.bias"] == (256,)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.2.bn3.weight"] == (2048,)
    identity = layout.expected(NetworkSpec("18", shortcut="identity"))
    assert not any(name.startswith("layer1.0.downsample") for name in identity)
    assert "layer2.0.downsample.0.weight" in identity


def test_averages_go_on_from_those_of_the_file() -> None:
    """Haiku's bias-corrected average of a constant stays that constant."""
    spec = NetworkSpec("tiny", 1)
    _, state = layout.from_torch(torch_arrays(spec), spec)
    for leaves in state.values():
        hidden = leaves["hidden"] * spec.bn_decay + leaves["average"] * (1 - spec.bn_decay)
        following = hidden / (1 - spec.bn_decay ** (int(leaves["counter"]) + 1))
        np.testing.assert_allclose(following, leaves["average"], rtol=1e-5)


def test_a_file_without_counters_has_seen_many_batches() -> None:
    spec = NetworkSpec("tiny", 1)
    arrays = {k: v for k, v in torch_arrays(spec).items() if not k.endswith("num_batches_tracked")}
    _, state = layout.from_torch(arrays, spec)
    for leaves in state.values():
        np.testing.assert_array_equal(leaves["hidden"], leaves["average"])
        assert leaves["counter"].dtype == np.int32


def test_trees_are_those_of_the_network() -> None:
    spec = NetworkSpec("18", 0.125)
    trees = layout.from_torch(torch_arrays(spec), spec)
    for tree, shapes in zip(trees, layout.shapes_of(spec), strict=True):
        jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), tree, dict(shapes))
        for module, leaves in shapes.items():
            for name, like in leaves.items():
                assert tree[module][name].dtype == like.dtype, f"{module}/{name}"


def without(arrays: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if name not in names}


ARRAYS = torch_arrays(NetworkSpec("50", 0.125))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fc.weight": np.zeros((2, 2))}, "no convolution conv1.weight"),
        (ARRAYS | {"conv1.weight": np.zeros((8, 3, 5, 5))}, "kernel of 5x5"),
        (ARRAYS | {"conv1.weight": np.zeros((9, 3, 7, 7))}, "9 channels"),
        (without(ARRAYS, "layer3.5.conv1.weight"), r"\[3, 4, 5, 3\] bottleneck blocks"),
    ],
)
def test_other_networks_have_no_spec(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout.spec_of(arrays)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without(ARRAYS, "layer2.0.bn1.bias"), "it has no layer2.0.bn1.bias"),
        (
            ARRAYS | {"layer1.0.conv2.weight": np.zeros((8, 1, 3, 3))},
            r"layer1.0.conv2.weight is \[8, 1, 3, 3\], and a ResNet-50 of width 0.125 has \[8, 8, "
            "3, 3\\]: grouped and wider 3x3 convolutions are not known",
        ),
        (ARRAYS | {"layer1.0.se.fc1.weight": np.zeros(3)}, "it has layer1.0.se.fc1.weight, which"),
        (ARRAYS | {"layer1.0.conv1.bias": np.zeros(8)}, "it has layer1.0.conv1.bias, which"),
    ],
)
def test_the_first_difference_is_named(arrays: dict[str, np.ndarray], message: str) -> None:
    spec = layout.spec_of(arrays)
    with pytest.raises(UserError, match=message):
        layout.require_fit(arrays, spec)
