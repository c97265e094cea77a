"""Networks of the dense transfers: sizes, names, statistics and number formats."""

import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.networks import dense, fcn, siamese, upproj
from byol_jax.networks.fcn import FCN
from byol_jax.networks.siamese import NetworkSpec
from byol_jax.networks.upproj import UpProjection
from byol_jax.runtime import spmd

TINY = NetworkSpec("tiny", 1, "small", dilation=2)
HEADS = {"fcn": FCN(5, 6, 2), "upproj": UpProjection((6,), 8)}


def shapes(spec, head, height, width):
    network, images = dense.network(spec, head), jnp.zeros((1, height, width, 3))

    def run(key):
        params, state = network.init(key, images, True)
        return params, state, network.apply(params, state, None, images, False)[0]

    return jax.eval_shape(run, jax.random.key(0))


def test_the_papers_fcn_has_a_stride_of_16():
    """BYOL App. E.4: crops of 513 and 21 classes."""
    params, _, logits = shapes(NetworkSpec("50", dilation=2), FCN(), 513, 513)
    assert (logits.shape, logits.dtype) == ((1, 33, 33, 21), jnp.float32)
    head = {k: {n: x.shape for n, x in v.items()} for k, v in params.items() if "fcn_head" in k}
    norm = {"scale": (1, 1, 1, 256), "offset": (1, 1, 1, 256)}
    assert head == {
        "fcn_head/conv_0": {"w": (3, 3, 2048, 256)},
        "fcn_head/batchnorm_0": norm,
        "fcn_head/conv_1": {"w": (3, 3, 256, 256)},
        "fcn_head/batchnorm_1": norm,
        "fcn_head/logits": {"w": (1, 1, 256, 21), "b": (21,)},
    }


@pytest.mark.parametrize("padding", upproj.PADDINGS)
def test_the_papers_decoder_gives_half_the_resolution(padding):
    """BYOL App. E.6: 228x304 pixels are 8x10 positions, and four blocks make 128x160 of them."""
    head = UpProjection(padding=padding)
    params, _, depths = shapes(NetworkSpec("50"), head, 228, 304)
    assert (depths.shape, depths.dtype) == ((1, 128, 160), jnp.float32)
    channels = [params[f"depth_head/block_{i}/conv"]["w"].shape[-1] for i in range(4)]
    assert channels == [512, 256, 128, 64]
    assert params["depth_head/entry_conv"]["w"].shape == (1, 1, 2048, 1024)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_encoder_is_that_of_any_checkpoint(head):
    params, state, _ = shapes(TINY, head, 32, 32)
    encoder = siamese.encoder(TINY._replace(dilation=1))
    expected = jax.eval_shape(
        lambda key: encoder.init(key, jnp.zeros((1, 32, 32, 3)), True), jax.random.key(0)
    )
    assert (siamese.encoder_params(params), siamese.encoder_params(state)) == expected
    assert siamese.encoder_params(params) != params


@functools.cache
def drawn(spec, head):
    """Parameters and state, and images with a size of 16."""
    network = dense.network(spec, head)
    params, state = siamese.init_network(0, "test", network, 16)
    return params, state, np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("head", "encoder_training"),
    [(HEADS["fcn"], True), (HEADS["fcn"], False), (HEADS["upproj"], False)],
)
def test_statistics_of_a_frozen_encoder_stay(head, encoder_training):
    params, state, images = drawn(TINY, head)
    network = dense.network(TINY, head)
    _, moved = jax.jit(lambda *args: network.apply(*args, True, encoder_training))(
        params, state, None, images
    )
    names = [m for m in state if not np.array_equal(state[m]["average"], moved[m]["average"])]
    is_encoder = {m: m.startswith("tiny_res_net") for m in state}
    assert sorted(names) == sorted(m for m in state if encoder_training or not is_encoder[m])


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_statistics_are_those_of_all_devices(head):
    params, state, images = drawn(TINY, head)
    one = dense.network(TINY, head)
    two = dense.network(TINY._replace(bn_axis=spmd.AXIS), head)
    expected, expected_state = jax.jit(lambda *args: one.apply(*args, True))(
        params, state, None, images
    )
    used = jax.local_devices()[:2]
    step = spmd.pmap(lambda p, s, x: two.apply(p, s, None, x, True), devices=used)
    outputs, moved = step(*spmd.replicate((params, state), used), spmd.shard(images, devices=used))
    outputs = np.asarray(outputs).reshape(expected.shape)
    # Rounding of float32 sums in another order, through a dozen layers of BatchNorm.
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(outputs, expected, atol=limit)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-4),
        moved,
        expected_state,
    )


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_convolutions_are_bfloat16_and_outputs_float32(head):
    network = dense.network(TINY._replace(precision="bfloat16"), head)
    params, state, images = drawn(TINY, head)
    lowered = jax.jit(lambda *args: network.apply(*args, True)).lower(params, state, None, images)
    lines = re.findall(r"stablehlo\.convolution\b.*?: \((.*?)\) ->", lowered.as_text())
    assert lines and all("f32" not in line for line in lines)
    assert lowered.out_info[0].dtype == jnp.float32
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(lowered.out_info[1]))


@pytest.mark.parametrize(
    ("init", "deviation"),
    # haiku: 1 / sqrt(fan-in); cut at two deviations, 0.88 of the deviation are left.
    [("normal", 0.01), ("haiku", 0.8796 / (9 * 8) ** 0.5)],
)
def test_initial_weights_of_the_fcn_head(init, deviation):
    head = FCN(5, 64, 2, init)
    module = hk.transform_with_state(lambda x: fcn.FCNHead(head, siamese.bn_config(TINY))(x, True))
    params, _ = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 4, 4, 8), np.float32))
    kernel = np.asarray(params["fcn_head/conv_0"]["w"])
    # The standard error of the deviation of 4,608 numbers is at most 1.1 % of it.
    assert abs(kernel.std() - deviation) < 0.05 * deviation


def test_phases_interleave():
    """The kernel of phase `b` makes odd rows, that of `c` odd columns."""
    phases = [jnp.full((1, 2, 3, 1), value) for value in (1.0, 2.0, 3.0, 4.0)]
    expected = np.tile([[1, 3], [2, 4]], (2, 3))
    np.testing.assert_array_equal(upproj.interleave(*phases)[0, ..., 0], expected)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (FCN(init="xavier"), r"config\.head\.init='xavier' must be one of: normal, haiku"),
        (FCN(classes=0), r"config\.head\.classes=0 must be 1 or more"),
        (FCN(dilation=0), r"config\.head\.dilation=0"),
        (UpProjection(channels=()), r"config\.head\.channels=\(\)"),
        (UpProjection(padding="same"), r"config\.head\.padding='same' must be one of"),
    ],
)
def test_other_values_are_refused(head, words):
    with pytest.raises(UserError, match=words):
        dense.check_head(head)
    for allowed in HEADS.values():
        dense.check_head(allowed)
