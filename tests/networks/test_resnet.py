"""The encoder: sizes of the paper, stems, feature maps, padding."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.networks import resnet


def transformed(depth, width=1.0, stem="imagenet"):
    def network(images, is_training):
        return resnet.ResNet(depth, width, stem)(images, is_training)

    return hk.transform_with_state(network)


def shapes(depth, width=1.0, stem="imagenet", size=64):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(
        lambda key: transformed(depth, width, stem).init(key, images, True), jax.random.key(0)
    )


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# BYOL Table 9, column "Weights", in millions.
TABLE_9 = [
    ("50", 1, 24),
    ("101", 1, 43),
    ("152", 1, 58),
    ("200", 1, 63),
    ("50", 2, 94),
    ("101", 2, 170),
    ("50", 3, 211),
    ("152", 2, 232),
    ("200", 2, 250),
    ("50", 4, 375),
    ("101", 3, 382),
    ("152", 3, 522),
]


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width", "millions"), TABLE_9)
def test_parameter_counts_round_to_table_9(depth, width, millions):
    params, _ = shapes(depth, width)
    assert round(count(params) / 1e6) == millions


def bottleneck_count(blocks, width):
    """Number of parameters of a bottleneck ResNet v1, added up layer by layer."""
    channels = 64 * width
    total = 7 * 7 * 3 * channels + 2 * channels
    for i, number in enumerate(blocks):
        outputs = 256 * 2**i * width
        inner = outputs // 4
        for j in range(number):
            total += channels * inner + 9 * inner * inner + inner * outputs
            total += 2 * inner + 2 * inner + 2 * outputs
            if j == 0:
                total += channels * outputs + 2 * outputs
            channels = outputs
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "width", "blocks"),
    [("50", 1, (3, 4, 6, 3)), ("101", 2, (3, 4, 23, 3)), ("200", 2, (3, 24, 36, 3))],
)
def test_parameter_counts_are_exact(depth, width, blocks):
    params, _ = shapes(depth, width)
    assert count(params) == bottleneck_count(blocks, width)


def test_resnet34_has_the_blocks_of_its_row():
    params, _ = shapes("34")
    convolutions = [name for name in params if name.rpartition("/")[2].startswith("conv_")]
    assert len(convolutions) == 2 * (3 + 4 + 6 + 3)


@pytest.mark.parametrize("width", [0.125, 0.25, 1.5])
def test_width_scales_every_channel_count(width):
    params, _ = shapes("18", width)
    assert params["res_net18/~/initial_conv"]["w"].shape[-1] == 64 * width
    last = params["res_net18/~/block_group_3/~/block_1/~/conv_1"]["w"]
    assert last.shape == (3, 3, 512 * width, 512 * width)


@pytest.mark.parametrize("width", [0, -1, 0.3, 1 / 16])
def test_width_must_be_a_multiple_of_an_eighth(width):
    with pytest.raises(UserError, match=f"network.width={width} "):
        shapes("18", width)


def test_an_unknown_depth_lists_the_encoders():
    with pytest.raises(UserError, match=r"network\.depth='51' .*tiny, 18, 34, 50, 101, 152, 200"):
        shapes("51")


@pytest.mark.parametrize(
    ("stem", "sizes"), [("imagenet", (16, 16, 8, 4, 2)), ("small", (64, 64, 32, 16, 8))]
)
def test_feature_maps_have_the_strides_of_the_stem(stem, sizes):
    network = transformed("tiny", 1, stem)
    images = jnp.zeros((2, 64, 64, 3))

    def forward(key):
        params, state = network.init(key, images, True)
        return network.apply(params, state, None, images, False)[0]

    embedding, maps = jax.eval_shape(forward, jax.random.key(0))
    assert embedding.shape == (2, 8)
    names, channels = ("stem", "group_0", "group_1", "group_2", "group_3"), (64, 8, 8, 8, 8)
    expected = {n: (2, s, s, c) for n, s, c in zip(names, sizes, channels, strict=True)}
    assert {name: m.shape for name, m in maps.items()} == expected


def test_embedding_is_the_mean_over_positions_of_the_last_map():
    network = transformed("tiny", 1, "small")
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    params, state = network.init(jax.random.key(0), images, True)
    (embedding, maps), _ = network.apply(params, state, None, images, True)
    expected = np.asarray(maps["group_3"], np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-6)
