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


@pytest.mark.skipif(
    not FILE.is_file(), reason=f"{FILE} is not there: BYOL_GOLDEN_DENSE_DIR names its folder"
)
@pytest.mark.parametrize("images", ["odd", "even"])
@pytest.mark.parametrize(("dilation", "case"), [(1, "stride32"), (2, "dilated")])
def test_features_are_the_golden_ones(images, dilation, case):
    """Detectron2's ResNet-50 with SAME padding; moving averages in BatchNorm."""
    with np.load(FILE, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays["__meta__"]))
        pixels = arrays[f"images_{images}"]
        expected = {
            "feature_map/group_2": arrays[f"{images}/res4"],
            "feature_map/group_3": arrays[f"{images}/{case}/res5"],
        }
    spec = NetworkSpec("50", meta["width"], bn_eps=meta["bn_eps"], dilation=dilation)
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
    outputs, _ = jax.jit(network.apply, static_argnums=4)(params, state, None, inputs, False)
    for name, value in expected.items():
        difference = np.abs(outputs[name] - value).max()
        assert difference <= TOLERANCE * np.abs(value).max(), name
