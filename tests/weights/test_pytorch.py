"""Weights of other projects: which family they are of, and the numbers that PyTorch has."""

import argparse
import builtins
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from byol_jax import weights
from byol_jax.errors import UserError
from byol_jax.networks import siamese
from byol_jax.networks.siamese import NetworkSpec
from byol_jax.weights import families, layout, pytorch
from tiny_encoders import torch_arrays

SPEC = NetworkSpec("tiny", 1, padding="torch")
ARRAYS, OTHERS = torch_arrays(SPEC), torch_arrays(SPEC, seed=1)
HEAD = np.zeros((4, 4), np.float32)


def under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in arrays.items()}


def in_order(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The names of `nn.Sequential(*children)`: positions for the first words."""
    positions = {"conv1": 0, "bn1": 1} | {f"layer{i}": i + 3 for i in range(1, 5)}
    split = {name: name.partition(".") for name in arrays}
    return {f"{positions[word]}.{rest}": arrays[n] for n, (word, _, rest) in split.items()}


# By the family's name: what a file holds, and whether it has a moving average.
FILES: Mapping[str, tuple[Mapping[str, Any], bool]] = {
    "another project (torchvision's names)": (ARRAYS | {"fc.weight": HEAD}, False),
    "MoCo v1 or v2": (
        under("module.encoder_q.", ARRAYS | {"fc.0.weight": HEAD})
        | under("module.encoder_k.", OTHERS | {"fc.0.weight": HEAD})
        | {"module.queue": HEAD},
        True,
    ),
    "MoCo v3": (
        under("module.base_encoder.", ARRAYS | {"fc.0.weight": HEAD})
        | under("module.momentum_encoder.", OTHERS | {"fc.0.weight": HEAD})
        | {"module.predictor.0.weight": HEAD},
        True,
    ),
    "SimSiam": (
        under("module.encoder.", ARRAYS | {"fc.0.weight": HEAD})
        | {"module.predictor.0.weight": HEAD},
        False,
    ),
    "SwAV or DeepCluster v2": (
        under("module.", ARRAYS)
        | {"module.projection_head.0.weight": HEAD, "module.prototypes.weight": HEAD},
        False,
    ),
    "VISSL": (under("trunk._feature_blocks.", ARRAYS) | {"heads.0.weight": HEAD}, False),
    "solo-learn": (
        under("backbone.", ARRAYS)
        | under("momentum_backbone.", OTHERS)
        | {"projector.0.weight": HEAD, "classifier.weight": HEAD},
        True,
    ),
    "lightly": (
        under("backbone.", in_order(ARRAYS))
        | under("backbone_momentum.", in_order(OTHERS))
        | {"projection_head.layers.0.weight": HEAD},
        True,
    ),
    "mmselfsup": (under("backbone.", ARRAYS) | {"neck.fc0.weight": HEAD}, False),
    "lucidrains byol-pytorch": (
        under("online_encoder.net.", ARRAYS | {"fc.weight": HEAD})
        | under("target_encoder.net.", OTHERS | {"fc.weight": HEAD})
        | {"online_predictor.net.0.weight": HEAD},
        True,
    ),
    "another project (encoder_q.)": (
        under("encoder_q.module.", ARRAYS)
        | under("encoder_k.module.", OTHERS)
        | {"predict_q.0.weight": HEAD},
        True,
    ),
    "another project (backbone.)": (
        under("model.backbone.", ARRAYS) | {"model.projector.0.weight": HEAD},
        False,
    ),
    "another project (encoder.)": (under("_orig_mod.encoder.", ARRAYS), False),
}


def saved(path: pathlib.Path, arrays: Mapping[str, Any]) -> pathlib.Path:
    safetensors.numpy.save_file(dict(arrays), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_family_is_told_by_its_names(tmp_path: pathlib.Path, name: str) -> None:
    arrays, has_target = FILES[name]
    trained = weights.load(saved(tmp_path / "weights.safetensors", arrays))
    assert trained.origin == name
    family = next(family for family in families.FAMILIES if family.name == name)
    assert trained.network == SPEC
    assert (trained.licence, trained.method) == (family.licence, family.method)
    assert trained.network == siamese.make_spec(trained.config["network"], 0)._replace(
        projector=SPEC.projector, predictor=SPEC.predictor
    )
    back = layout.to_torch(trained.online_params, trained.online_state)
    jax.tree.map(np.testing.assert_array_equal, back, ARRAYS)
    assert bool(trained.target_params) == has_target
    if has_target:
        back = layout.to_torch(trained.target_params, trained.target_state)
        jax.tree.map(np.testing.assert_array_equal, back, OTHERS)


def test_every_family_is_tested() -> None:
    assert {family.name for family in families.FAMILIES} == {*FILES}


def test_the_small_stem_of_solo_learn_has_its_own_padding(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = torch_arrays(SPEC._replace(stem="small"))
    arrays = under("backbone.", small) | {"momentum_projector.0.weight": HEAD}
    path = saved(tmp_path / "weights.safetensors", arrays)
    trained = weights.load(path)
    assert (trained.network.padding, trained.image_size) == ("solo-learn", 32)
    assert "give " + f"{path}:padding=torch" in caplog.text
    assert weights.load(f"{path}:padding=torch").network.padding == "torch"
    caplog.clear()
    path = saved(tmp_path / "others.safetensors", small)
    trained = weights.load(path)
    assert (trained.network.padding, trained.image_size) == ("torch", 32)
    assert f"{path}:padding=solo-learn" in caplog.text


def test_the_padding_of_a_file_can_be_given(tmp_path: pathlib.Path) -> None:
    """As for weights of BYOL's authors that were converted, which look like torchvision's."""
    path = saved(tmp_path / "weights.safetensors", ARRAYS)
    assert weights.load(path).network.padding == "torch"
    assert weights.load(f"{path}:padding=same").network.padding == "same"
    assert weights.is_single(f"{path}:padding=same")
    with pytest.raises(UserError, match="padding=other must be one of: same, torch, solo-learn"):
        weights.load(f"{path}:padding=other")
    with pytest.raises(UserError, match="this path says its own padding, leave it out"):
        weights.load(f"{tmp_path}:padding=same")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weight": HEAD}, r"no encoder where one of these projects has it: .*; it has weight$"),
        (
            FILES["SimSiam"][0] | {"module.encoder.attention.weight": HEAD},
            r"\(SimSiam\) is no plain ResNet: it has attention.weight, which",
        ),
        (
            {k: v for k, v in ARRAYS.items() if k != "layer2.0.bn2.weight"},
            r"\(torchvision's names\)\) is no plain ResNet: it has no layer2.0.bn2.weight",
        ),
        (
            {k: v for k, v in ARRAYS.items() if k != "conv1.weight"} | {"conv1.0.weight": HEAD},
            r"no encoder where one of these projects has it: .*; it has ",
        ),
        (
            ARRAYS | {"bn1.num_batches_tracked": np.array([1, 2])},
            "bn1.num_batches_tracked is no number of batches",
        ),
        (
            ARRAYS | {"bn1.bias": np.full(64, np.nan, np.float32)},
            "bn1.bias has numbers that are not finite",
        ),
        (
            ARRAYS | {"bn1.bias": np.zeros(64, np.int8)},
            "bn1.bias is int8, and must be floating-point numbers",
        ),
        (
            under("conv1.", {"0.weight": HEAD}) | ARRAYS,
            "it has conv1.0.weight, which a ResNet-tiny",
        ),
    ],
)
def test_other_networks_are_refused(
    tmp_path: pathlib.Path, arrays: Mapping[str, Any], message: str
) -> None:
    path = saved(tmp_path / "weights.safetensors", arrays)
    with pytest.raises(UserError, match=message) as caught:
        weights.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "none.pkl", "nowhere"])
def test_a_missing_file_is_named(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(UserError, match=f"checkpoint=.*{name}"):
        weights.load(tmp_path / name)


def test_a_damaged_file_is_refused(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path / "weights.safetensors", ARRAYS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        weights.load(path)


def test_files_of_torch_need_torch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs torch to be read: pip install torch"):
        weights.load(path)


# ---------------------------------------------------------------- with torch itself


def torch_() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: make test-ci installs it")


def torch_features(
    arrays: Mapping[str, np.ndarray], spec: NetworkSpec, images: np.ndarray
) -> np.ndarray:
    """The representation by torch's own operations, with torch's own paddings.

    Args:
      arrays: by torchvision's names.
      spec: depth is not read: blocks are counted.
      images: float32 `[B, 3, H, W]`.
    """
    torch = torch_()
    functional = torch.nn.functional
    w = {name: torch.from_numpy(value) for name, value in arrays.items()}

    def norm(x: Any, name: str) -> Any:
        averages = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return functional.batch_norm(x, *averages, w[f"{name}.weight"], w[f"{name}.bias"])

    def conv(x: Any, name: str, stride: int = 1, padding: int | None = None) -> Any:
        kernel = w[f"{name}.weight"]
        side = kernel.shape[-1] // 2 if padding is None else padding
        return functional.conv2d(x, kernel, stride=stride, padding=side)

    is_wide = spec.padding == "solo-learn" and spec.stem == "small"
    x = conv(
        torch.from_numpy(images),
        "conv1",
        stride=2 if spec.stem == "imagenet" else 1,
        padding=2 if is_wide else None,
    )
    x = functional.relu(norm(x, "bn1"))
    if spec.stem == "imagenet":
        x = functional.max_pool2d(x, 3, 2, 1)
    names = {name.rpartition(".conv1")[0] for name in w if name.endswith(".conv1.weight")}
    for block in sorted(names):
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        layers = 3 if f"{block}.conv3.weight" in w else 2
        out = x
        for i in range(1, layers + 1):
            has_stride = i == (2 if layers == 3 else 1)
            out = norm(conv(out, f"{block}.conv{i}", stride if has_stride else 1), f"{block}.bn{i}")
            out = functional.relu(out) if i < layers else out
        if f"{block}.downsample.0.weight" in w:
            x = norm(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
        x = functional.relu(x + out)
    features: np.ndarray = x.mean((2, 3)).numpy()
    return features


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (NetworkSpec("18", 0.25, padding="torch", shortcut="identity"), 64),
        (NetworkSpec("50", 0.125, padding="torch"), 64),
        (NetworkSpec("50", 0.125, padding="torch"), 65),
        (NetworkSpec("18", 0.25, "small", padding="torch", shortcut="identity"), 32),
        (NetworkSpec("18", 0.25, "small", padding="solo-learn", shortcut="identity"), 32),
    ],
)
def test_the_numbers_are_those_of_torch(
    tmp_path: pathlib.Path, spec: NetworkSpec, size: int
) -> None:
    torch = torch_()
    arrays = torch_arrays(spec)
    prefix = "backbone." if spec.padding == "solo-learn" else ""
    content = under(prefix, {name: torch.from_numpy(value) for name, value in arrays.items()})
    if prefix:
        content["momentum_projector.0.weight"] = torch.zeros(2, 2)
    path = tmp_path / "weights.pth.tar"
    settings = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": content, "args": settings, "best": np.float64(1.0)}, path)
    trained = weights.load(path)
    assert trained.network == spec
    images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    network = siamese.encoder(trained.network)
    params, state = trained.online_params, trained.online_state

    def difference(network: Any) -> float:
        views = images.transpose(0, 2, 3, 1)
        outputs, _ = jax.jit(network.apply, static_argnums=4)(params, state, None, views, False)
        expected = torch_features(arrays, spec, images)
        return float(np.linalg.norm(outputs["embedding"] - expected) / np.linalg.norm(expected))

    assert difference(network) < 1e-5
    if size % 32 == 0 and spec.stem == "imagenet":  # the measure sees a wrong padding
        assert difference(siamese.encoder(spec._replace(padding="same"))) > 1e-2
    back = layout.to_torch(params, state)
    jax.tree.map(np.testing.assert_array_equal, back, arrays)


@pytest.mark.slow
@pytest.mark.ci
def test_nothing_in_a_file_of_torch_is_executed(tmp_path: pathlib.Path) -> None:
    torch = torch_()

    class Hostile:
        def __reduce__(self) -> Any:
            return builtins.open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "more": Hostile()}, path)
    with pytest.raises(UserError, match="which is neither weights nor plain values, and is n"):
        weights.load(path)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.slow
@pytest.mark.ci
def test_places_and_number_formats(tmp_path: pathlib.Path) -> None:
    torch = torch_()
    half = {name: torch.from_numpy(value) for name, value in ARRAYS.items()}
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in half.items()}
    trunk = under("_feature_blocks.", half)
    path = tmp_path / "model.torch"
    torch.save({"classy_state_dict": {"base_model": {"model": {"trunk": trunk}}}}, path)
    trained = weights.load(path)
    assert trained.origin == "VISSL"
    empty = torch.zeros(64, device="meta")
    torch.save({"state_dict": half | {"bn1.bias": empty}, "more": empty}, path)
    with pytest.raises(UserError, match=r"bn1\.bias is a tensor that numpy cannot hold"):
        weights.load(path)
    kernel = trained.online_params["tiny_res_net/~/initial_conv"]["w"]
    expected = ARRAYS["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, rtol=2**-8)
    assert kernel.dtype == np.float32
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no weights by name"):
        weights.load(path)


def test_endings_of_files() -> None:
    assert pytorch.SAFETENSORS == ".safetensors"
    for name in ("a.pth", "a.pth.tar", "a.pt", "a.ckpt", "a.safetensors", "a.pkl"):
        assert weights.is_single(pathlib.Path(name))
    assert not weights.is_single(pathlib.Path("runs/byol"))
