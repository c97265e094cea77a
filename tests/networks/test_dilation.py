"""The dilated last group (BYOL App. E.4): same parameters, twice the resolution."""

import json
import os
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.networks import siamese
from byol_jax.networks.siamese import NetworkSpec

HERE = pathlib.Path(__file__).resolve().parents[1] / "golden_dense"
FILE = pathlib.Path(os.environ.get("BYOL_GOLDEN_DENSE_DIR") or HERE) / "dilated.npz"
# Limit of the golden file, of the largest number: 8 times the rounding of another implementation.
TOLERANCE = 1e-5


def shapes(spec, size=64):
    """Shapes of parameters, state and outputs."""
    network, batch = siamese.encoder(spec), jnp.zeros((2, size, size, 3))

    def run(key):
        params, state = network.init(key, batch, True)
        return params, state, network.apply(params, state, None, batch, False)[0]

    return jax.eval_shape(run, jax.random.key(0))


@pytest.mark.parametrize("depth", ["tiny", "18", "50"])
def test_dilation_keeps_the_resolution_and_renames_nothing(depth):
    spec = NetworkSpec(depth, 0.125)
    params, state, outputs = shapes(spec)
    dilated_params, dilated_state, dilated = shapes(spec._replace(dilation=2))
    assert (dilated_params, dilated_state) == (params, state)
    for name, output in outputs.items():
        if name != "feature_map/group_3":
            assert dilated[name] == output
    *_, channels = outputs["feature_map/group_3"].shape
    assert outputs["feature_map/group_3"].shape == (2, 2, 2, channels)
    assert dilated["feature_map/group_3"].shape == (2, 4, 4, channels)


def test_convolutions_of_the_last_group_skip_positions():
    """A 3x3 kernel with dilation 2 sees 5x5; the stride of the group is 1."""
    network = siamese.encoder(NetworkSpec("tiny", 1, "small", dilation=2))
    batch = jnp.zeros((1, 32, 32, 3))
    text = str(jax.make_jaxpr(lambda k: network.init(k, batch, True))(jax.random.key(0)))
    assert text.count("rhs_dilation=(2, 2)") == 2
    # Convolutions of stride 2: the first 3x3 and the shortcut of groups 1 and 2.
    assert text.count("window_strides=(2, 2)") == 4


def recipe(meta, name, shape):
    """A parameter or average of the golden networks: random numbers keyed on its name."""
    text = meta["param_salt"] + name
    n = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(shape)
    leaf = name.rpartition("/")[2]
    if leaf == "average":
        value = 0.1 * n if "/mean_ema/" in name else 1 + 0.1 * np.abs(n)
    elif leaf == "w":
        value = meta["param_gain"] * n / np.sqrt(np.prod(shape[:-1]))
    else:
        value = {"scale": 1.0, "offset": 0.0}[leaf] + 0.1 * n
    return value.astype(np.float32)


def features_of(pixels, meta, **changes):
    """Feature maps of detectron2's ResNet-50; moving averages in BatchNorm."""
    spec = NetworkSpec("50", meta["width"], bn_eps=meta["bn_eps"], **changes)
    network = siamese.encoder(spec)
    inputs = (pixels.astype(np.float32) - 127.5) / 64
    params, state = jax.eval_shape(lambda key: network.init(key, inputs, True), jax.random.key(0))
    params, state = (
        {
            module: {
                name: recipe(meta, f"{module}/{name}", leaf.shape)
                if name not in ("counter", "hidden")
                else np.zeros(leaf.shape, leaf.dtype)
                for name, leaf in leaves.items()
            }
            for module, leaves in tree.items()
        }
        for tree in (params, state)
    )
    return jax.jit(network.apply, static_argnums=4)(params, state, None, inputs, False)[0]


def difference(outputs, name, value):
    """The largest difference, as a share of the largest number."""
    return np.abs(outputs[f"feature_map/{name}"] - value).max() / np.abs(value).max()


@pytest.mark.parametrize("images", ["odd", "even"])
@pytest.mark.parametrize(("dilation", "case"), [(1, "stride32"), (2, "dilated")])
def test_features_are_the_golden_ones(images, dilation, case):
    with np.load(FILE, allow_pickle=False) as arrays:
        outputs = features_of(
            arrays[f"images_{images}"], json.loads(str(arrays["__meta__"])), dilation=dilation
        )
        assert difference(outputs, "group_2", arrays[f"{images}/res4"]) <= TOLERANCE
        assert difference(outputs, "group_3", arrays[f"{images}/{case}/res5"]) <= TOLERANCE


@pytest.mark.parametrize(("padding", "is_right"), [("torch", True), ("same", False)])
def test_torchs_padding_is_the_golden_one(padding, is_right):
    """Without it, 224 pixels in place of 64, features are a few percent off."""
    with np.load(FILE, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays["__meta__"]))
        outputs = features_of(arrays["images_even"], meta, dilation=2, padding=padding)
        group_2 = difference(outputs, "group_2", arrays["even/symmetric_padding/res4"])
        expected = arrays["even/dilated/symmetric_padding/res5"]
        assert (group_2 <= TOLERANCE) == is_right
        assert (difference(outputs, "group_3", expected) <= TOLERANCE) == is_right
