"""The whole network: heads, probe, names of parameters, settings."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.networks import siamese
from byol_jax.networks.siamese import HeadSpec, NetworkSpec

TINY = NetworkSpec(
    depth="tiny",
    stem="small",
    num_classes=3,
    projector=HeadSpec(2, 12, 6),
    predictor=HeadSpec(2, 12, 6),
)
CONFIG = {
    "depth": "tiny",
    "width": 1.0,
    "stem": "small",
    "projector": {"depth": 2, "hidden_size": 12, "output_size": 6},
    "predictor": {"depth": 2, "hidden_size": 12},
    "head_bias": "released",
    "last_bn_scale": "paper",
    "bn_decay": 0.9,
    "bn_eps": 1e-5,
}


def init(spec, size=8):
    network = siamese.siamese(spec)
    return network, *network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), True)


def init_shapes(spec, size=8):
    return jax.eval_shape(lambda: init(spec, size)[1:])


def test_outputs_and_their_shapes():
    images = jnp.zeros((4, 8, 8, 3))
    apply = siamese.siamese(TINY).apply
    outputs, _ = jax.eval_shape(
        lambda *trees: apply(*trees, None, images, True), *init_shapes(TINY)
    )
    got = {k: v.shape for k, v in outputs.items() if not k.startswith("feature_map")}
    assert got == {
        "embedding": (4, 8),
        "projection": (4, 6),
        "prediction": (4, 6),
        "logits": (4, 3),
    }
    assert outputs["feature_map/group_3"].shape == (4, 1, 1, 8)


def test_no_classes_no_probe():
    params, _ = init_shapes(TINY._replace(num_classes=0))
    assert "classifier" not in params


def test_make_spec_reads_a_config_section():
    assert siamese.make_spec(CONFIG, 3) == TINY


def naive_mlp(x, layers, norms, eps=1e-5):
    """Linear, BatchNorm with batch statistics, ReLU; a bare linear at the end, in float64."""
    for (w, b), (scale, offset) in zip(layers[:-1], norms, strict=True):
        x = x @ w + b
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + eps) * scale + offset
        x = np.maximum(x, 0)
    w, b = layers[-1]
    return x @ w + b


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("head_bias", ["paper", "released"])
def test_heads_of_table_14_against_numpy(depth, head_bias):
    head = HeadSpec(depth, 12, 6)
    network, params, state = init(TINY._replace(projector=head, head_bias=head_bias))
    generator = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: x + 0.3 * generator.standard_normal(x.shape, np.float32), params
    )
    images = generator.standard_normal((5, 8, 8, 3), np.float32)
    outputs, _ = network.apply(params, state, None, images, True)

    def names(kind, number):
        return [f"projector/{kind}" + (f"_{i}" if i else "") for i in range(number)]

    double = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    layers = [(double[n]["w"], double[n].get("b", 0.0)) for n in names("linear", depth)]
    norms = [(double[n]["scale"], double[n]["offset"]) for n in names("batch_norm", depth - 1)]
    assert ("b" in params[names("linear", depth)[-1]]) == (head_bias == "paper")
    expected = naive_mlp(np.asarray(outputs["embedding"], np.float64), layers, norms)
    # float32 sums of at most 12 terms and a division by a batch deviation.
    np.testing.assert_allclose(outputs["projection"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("projector", "predictor", "sizes", "modules"),
    [
        ("mlp", "optimal_linear", (6, 6), {"projector"}),
        ("none", "mlp", (8, 8), {"predictor"}),
        pytest.param(
            *("linear", "linear", (6, 6), {"projector", "predictor"}), marks=pytest.mark.slow
        ),
    ],
)
def test_kinds_of_heads(projector, predictor, sizes, modules):
    """Tables 5b and 19, SimCLR Figure 8; a predictor keeps the size of its input."""
    spec = TINY._replace(projector=HeadSpec(2, 12, 6, projector), num_classes=0)
    network, params, state = init(spec._replace(predictor=HeadSpec(2, 12, 99, predictor)))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    outputs, _ = network.apply(params, state, None, images, True)
    assert (outputs["projection"].shape[1], outputs["prediction"].shape[1]) == sizes
    heads = [name for name in params if name not in siamese.encoder_params(params)]
    assert {name.split("/")[0] for name in heads} == modules
    for name, before, after in (
        (projector, "embedding", "projection"),
        (predictor, "projection", "prediction"),
    ):
        if name in ("none", "optimal_linear"):
            assert outputs[before] is outputs[after]
        elif name == "linear":
            head = {"projection": "projector", "prediction": "predictor"}[after]
            expected = np.asarray(outputs[before]) @ np.asarray(params[f"{head}/linear"]["w"])
            np.testing.assert_allclose(outputs[after], expected, rtol=1e-4, atol=1e-5)


def test_scale_of_the_initial_weights():
    """App. G: only weights are scaled; parameters that start as 0 or 1 stay."""
    _, params, _ = init(TINY)
    _, scaled, _ = init(TINY._replace(init_scale=3.0))
    for module, leaves in params.items():
        for name, value in leaves.items():
            factor = 3.0 if name == "w" else 1.0
            np.testing.assert_allclose(scaled[module][name], factor * value, rtol=1e-6)


@pytest.mark.parametrize(("knob", "value"), [("paper", 1.0), ("released", 0.0)])
def test_last_scale_of_a_bottleneck(knob, value):
    network = siamese.siamese(TINY._replace(depth="50", width=0.125, last_bn_scale=knob))
    block = "res_net50/~/block_group_1/~/block_1/~/"

    @jax.jit  # only the two scales are outputs, so no random weights are drawn
    def scales(key):
        params, _ = network.init(key, jnp.zeros((1, 8, 8, 3)), True)
        return [params[f"{block}batchnorm_{i}"]["scale"] for i in (1, 2)]

    middle, last = scales(jax.random.key(0))
    np.testing.assert_array_equal(middle, 1.0)
    np.testing.assert_array_equal(last, value)


def test_probe_sends_no_gradient_to_the_encoder():
    network, params, state = init(TINY)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

    def loss(params):
        return jnp.sum(network.apply(params, state, None, images, True)[0]["logits"] ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    norms = {
        name: float(sum(jnp.abs(g).sum() for g in tree.values()))
        for name, tree in gradients.items()
    }
    assert norms.pop("classifier") > 0
    assert set(norms.values()) == {0.0}


def test_encoder_params_leave_heads_and_probe_out():
    params, _ = init_shapes(TINY)
    names = siamese.encoder_params(params)
    assert all(name.startswith("tiny_res_net/") for name in names)
    assert len(params) - len(names) == 3 + 3 + 1


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"depth": "5"}, "network.depth='5'"),
        ({"width": 0.3}, "network.width=0.3"),
        ({"stem": "big"}, "network.stem='big'"),
        ({"head_bias": "both"}, "network.head_bias"),
        ({"last_bn_scale": "2"}, "network.last_bn_scale"),
        ({"predictor": {"depth": 0, "hidden_size": 12}}, "network.predictor.depth=0"),
        ({"init_scale": 0.0}, "network.init_scale=0.0"),
        (
            {"predictor": {"kind": "best", "depth": 2, "hidden_size": 12}},
            "network.predictor.kind='best'",
        ),
    ],
)
def test_make_spec_refuses(change, key):
    with pytest.raises(UserError, match=key):
        siamese.make_spec(CONFIG | change, 3)


def test_init_needs_no_mapped_axis():
    network, params, _ = init(TINY._replace(bn_axis="batch"))
    same = init(TINY)[1]
    assert isinstance(network, hk.TransformedWithState)
    jax.tree.map(np.testing.assert_array_equal, params, same)
