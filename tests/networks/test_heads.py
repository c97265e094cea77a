"""Norms of heads, dense heads, and batches of several image sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.networks import siamese
from byol_jax.networks.siamese import HeadSpec, NetworkSpec

HEAD = HeadSpec(2, 12, 6)
TINY = NetworkSpec("tiny", 1, "small", 0, HEAD, HEAD)
EPS = 1e-5


def init(spec, size=8):
    """The network, with random numbers in place of the constants of its initialisation."""
    network = siamese.siamese(spec)
    params, state = network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), True)
    generator = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: x + 0.3 * generator.standard_normal(x.shape, np.float32), params
    )
    return network, params, state


def images(count, size, seed=1):
    return np.random.default_rng(seed).standard_normal((count, size, size, 3), np.float32)


def shapes_of(params, head):
    """Shapes of a head's parameters, by module and name."""
    return {
        module.removeprefix(f"{head}/"): {name: value.shape for name, value in leaves.items()}
        for module, leaves in params.items()
        if module.startswith(f"{head}/")
    }


def batch_norm(x, scale=1.0, offset=0.0):
    """With the statistics of the batch; the last axis holds the channels."""
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + EPS) * scale + offset


def naive_head(inputs, params, head, spec):
    """A head of two layers in float64: linear, norm, ReLU, linear, norm."""
    double = {
        module.removeprefix(f"{head}/"): {k: np.float64(v) for k, v in leaves.items()}
        for module, leaves in params.items()
        if module.startswith(f"{head}/")
    }
    x = np.float64(inputs) @ double["linear"]["w"] + double["linear"]["b"]
    if spec.hidden_norm:
        x = batch_norm(x, **double["batch_norm"])
    x = np.maximum(x, 0) @ double["linear_1"]["w"] + double["linear_1"].get("b", 0.0)
    return x if spec.output_norm == "none" else batch_norm(x, **double.get("output_norm", {}))


HIDDEN = {
    "linear": {"w": (8, 12), "b": (12,)},
    "batch_norm": {"scale": (1, 12), "offset": (1, 12)},
}
SCALE, OFFSET = {"scale": (1, 6)}, {"offset": (1, 6)}


@pytest.mark.parametrize("head_bias", ["paper", "released"])
@pytest.mark.parametrize("hidden_norm", [True, False])
@pytest.mark.parametrize(
    ("output_norm", "norm_shapes"),
    [
        ("none", {}),
        ("full", {"output_norm": SCALE | OFFSET}),
        ("scale", {"output_norm": SCALE}),
        ("plain", {}),
    ],
)
def test_parameters_of_norms(output_norm, norm_shapes, hidden_norm, head_bias):
    head = HEAD._replace(hidden_norm=hidden_norm, output_norm=output_norm)
    spec = TINY._replace(projector=head, head_bias=head_bias)
    params, _ = jax.eval_shape(lambda: init(spec)[1:])
    expected = HIDDEN if hidden_norm else {"linear": HIDDEN["linear"]}
    # An offset or a mean of BatchNorm would take the bias away.
    has_bias = head_bias == "paper" and output_norm == "none"
    last = {"w": (12, 6)} | ({"b": (6,)} if has_bias else {})
    assert shapes_of(params, "projector") == expected | {"linear_1": last} | norm_shapes


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("hidden_norm", [True, False])
@pytest.mark.parametrize("output_norm", ["none", "full", "scale", "plain"])
def test_norms_against_numpy(output_norm, hidden_norm):
    head = HEAD._replace(hidden_norm=hidden_norm, output_norm=output_norm)
    network, params, state = init(TINY._replace(projector=head))
    outputs, _ = network.apply(params, state, None, images(16, 8), True)
    expected = naive_head(outputs["embedding"], params, "projector", head)
    # float32 sums of at most 12 terms and a division by a batch deviation.
    np.testing.assert_allclose(outputs["projection"], expected, rtol=1e-4, atol=1e-4)
    if output_norm == "plain":
        np.testing.assert_allclose(np.mean(outputs["projection"], axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(np.var(outputs["projection"], axis=0), 1, rtol=1e-3)


def test_a_plain_output_uses_the_averages_in_evaluation():
    head = HEAD._replace(output_norm="plain")
    network, params, state = init(TINY._replace(projector=head))
    name = "projector/output_norm/~/{}_ema"
    state[name.format("mean")]["average"] = jnp.full((1, 6), 3.0)
    state[name.format("var")]["average"] = jnp.full((1, 6), 4.0 - EPS)
    plain, _ = network.apply(params, state, None, images(5, 8), False)
    without = siamese.siamese(TINY)
    bare = {m: v for m, v in params.items() if m != "projector/output_norm"}
    outputs, _ = without.apply(bare, state, None, images(5, 8), False)
    np.testing.assert_allclose(
        plain["projection"], (outputs["projection"] - 3) / 2, rtol=1e-5, atol=1e-5
    )


def test_norms_of_a_linear_head():
    head = HeadSpec(2, 12, 6, "linear", output_norm="full")
    params, _ = jax.eval_shape(lambda: init(TINY._replace(projector=head))[1:])
    expected = {"linear": {"w": (8, 6)}, "output_norm": SCALE | OFFSET}
    assert shapes_of(params, "projector") == expected


@pytest.mark.parametrize("kind", ["none", "optimal_linear"])
def test_a_head_without_layers_has_no_output_to_normalise(kind):
    section = {"depth": 2, "hidden_size": 12, "kind": kind, "output_norm": "plain"}
    network = TINY._asdict() | {"projector": HEAD._asdict(), "predictor": section}
    for name in ("num_classes", "bn_axis", "precision"):
        del network[name]
    with pytest.raises(UserError, match=r"network\.predictor\.output_norm=plain"):
        siamese.make_spec(network, 0)


def test_a_dense_head_is_one_mlp_at_every_position():
    dense = HeadSpec(2, 12, 5)
    network, params, state = init(TINY._replace(dense=dense), 32)
    outputs, next_state = network.apply(params, state, None, images(4, 32), True)
    maps = outputs["feature_map/group_3"]
    assert maps.shape == (4, 4, 4, 8)
    assert outputs["dense"].shape == (4, 4, 4, 5)
    hidden = {"w": (8, 12), "b": (12,)}
    norm = {"scale": (1, 1, 1, 12), "offset": (1, 1, 1, 12)}
    expected = {"linear": hidden, "batch_norm": norm, "linear_1": {"w": (12, 5)}}
    assert shapes_of(params, "dense") == expected
    # Its BatchNorm takes statistics over images and positions.
    expected = naive_head(maps, params, "dense", dense)
    np.testing.assert_allclose(outputs["dense"], expected, rtol=1e-4, atol=1e-4)
    assert "dense/batch_norm/~/mean_ema" in next_state
    assert not any(name.startswith("dense") for name in siamese.encoder_params(params))


def test_a_network_without_a_dense_head_has_no_dense_output():
    network, params, state = init(TINY)
    outputs, _ = network.apply(params, state, None, images(2, 8), True)
    assert "dense" not in outputs


SIZES = ((4, 16), (6, 8))


@pytest.fixture(scope="module")
def groups():
    """Two sizes of images through one network at once, and each size by itself."""
    spec = TINY._replace(num_classes=3)
    network, params, state = init(spec)
    batches = tuple(images(count, size, size) for count, size in SIZES)
    outputs, next_state = network.apply(params, state, None, batches, True)
    alone = [network.apply(params, state, None, batch, True) for batch in batches]
    return params, outputs, next_state, alone


def test_each_size_passes_the_trunk_by_itself(groups):
    _, outputs, _, alone = groups
    for group, (expected, _), (count, _) in zip(outputs, alone, SIZES, strict=True):
        assert group["embedding"].shape == (count, 8)
        names = [name for name in expected if name.startswith("feature_map/")]
        for name in ["embedding", *names]:
            np.testing.assert_allclose(group[name], expected[name], rtol=1e-5, atol=1e-5)


def test_heads_take_their_statistics_over_all_sizes(groups):
    params, outputs, _, alone = groups
    chain = (("embedding", "projector", "projection"), ("projection", "predictor", "prediction"))
    for inputs, head, name in chain:
        joined = np.concatenate([group[inputs] for group in outputs])
        expected = np.split(naive_head(joined, params, head, HEAD), [SIZES[0][0]])
        for group, values, (separate, _) in zip(outputs, expected, alone, strict=True):
            np.testing.assert_allclose(group[name], values, rtol=1e-4, atol=1e-4)
            assert np.abs(group[name] - separate[name]).max() > 0.1


def test_only_the_first_size_has_logits(groups):
    _, outputs, _, alone = groups
    np.testing.assert_allclose(outputs[0]["logits"], alone[0][0]["logits"], rtol=1e-5, atol=1e-5)
    assert ["logits" in group for group in outputs] == [True, False]


def test_averages_follow_every_size(groups):
    """The trunk's BatchNorm updates once per size, that of a head once."""
    _, _, state, alone = groups
    stem, head = "tiny_res_net/~/initial_batchnorm/~/mean_ema", "projector/batch_norm/~/mean_ema"
    assert int(state[stem]["counter"]) == 2
    assert int(state[head]["counter"]) == 1
    first, second = (after[stem]["hidden"] for _, after in alone)
    # Decay 0.9 from zero: 0.1 of the first, then 0.9 of that and 0.1 of the second.
    np.testing.assert_allclose(state[stem]["hidden"], 0.9 * first + second, rtol=1e-4, atol=1e-6)


def test_a_tuple_of_one_size_is_a_tuple_of_its_outputs():
    network, params, state = init(TINY)
    batch = images(4, 8)
    (group,), _ = network.apply(params, state, None, (batch,), True)
    expected, _ = network.apply(params, state, None, batch, True)
    jax.tree.map(np.testing.assert_array_equal, group, expected)
