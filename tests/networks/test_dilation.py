"""The dilated last group (BYOL App. E.4): same parameters, twice the resolution.

Its features are those of golden_dense/test_dilated.py.
"""

import jax
import jax.numpy as jnp
import pytest

from byol_jax.networks import siamese
from byol_jax.networks.siamese import NetworkSpec


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
