"""Half precision: which parts compute in it, and how far results then differ."""

import collections
import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

import tiny_numbers
from byol_jax import update
from byol_jax.networks import norms, resnet, siamese
from byol_jax.networks.siamese import HeadSpec, NetworkSpec, init_network
from byol_jax.program import Program, init_state

HEAD = HeadSpec(2, 12, 6)
FULL = NetworkSpec("tiny", 1, "small", 3, HEAD, HEAD)
HALF = FULL._replace(precision="bfloat16")
SIZE, BATCH = 8, 4
HPARAMS = tiny_numbers.hyperparameters(peak_learning_rate=0.2, weight_decay=1e-6, momentum=0.9)


def step_of(spec):
    """The whole update step and its arguments; the state is given by its shapes."""
    network = siamese.siamese(spec)
    ids = np.arange(BATCH, dtype=np.int32)
    crops = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    batch = {"view1": crops, "view2": crops, "labels": ids % 3, "ids": ids, "epochs": 0 * ids}
    program = Program(network)
    step = functools.partial(update.train_step, program=program)
    state = jax.eval_shape(lambda: init_state(0, program, (SIZE, SIZE)))
    return jax.jit(step), (state, batch, 0, HPARAMS)


def operands(program, operation):
    """Counts the number formats of the operands of an operation of StableHLO."""
    lines = re.findall(rf"stablehlo\.{operation}\b.*?: \((.*?)\) ->", program)
    types = (tuple(re.findall(r"(\w+?)>", re.sub(r"\d+x", "", line))) for line in lines)
    return collections.Counter(types)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_every_convolution_of_the_step_is_bfloat16(remat):
    step, arguments = step_of(HALF._replace(remat=remat))
    program = step.lower(*arguments).as_text()
    convolutions = operands(program, "convolution")
    # 13 convolutions per view and network. The online ones have two gradients each, except that the
    # images need none.
    forward, backward = 2 * 2 * 13, 2 * (2 * 13 - 1)
    again = 2 * 12 if remat else 0  # per view, all except the stem
    assert convolutions == {("bf16", "bf16"): forward + backward + again}
    # g and q of both networks; the probe reads the first view forward and backward (weights).
    assert set(operands(program, "dot_general")) == {("bf16", "bf16"), ("f32", "f32")}
    assert operands(program, "dot_general")["f32", "f32"] == 2


def test_a_float32_step_has_no_half_precision():
    step, arguments = step_of(FULL)
    program = step.lower(*arguments).as_text()
    assert "bf16" not in program and "f16" not in program
    assert set(operands(program, "convolution")) == {("f32", "f32")}


def test_state_and_logs_stay_float32():
    step, arguments = step_of(HALF)
    state, logs = jax.eval_shape(step, *arguments)
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, arguments[0])
    floats = {x.dtype for x in jax.tree.leaves((state, logs)) if x.dtype.kind == "f"}
    assert floats == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def outputs():
    """Outputs and BatchNorm averages of both precisions, from the same parameters and images."""
    params, state = init_network(0, "online", siamese.siamese(FULL), SIZE)
    images = np.random.default_rng(1).normal(size=(32, SIZE, SIZE, 3)).astype(np.float32)
    return (
        images,
        params,
        {
            spec.precision: jax.jit(siamese.siamese(spec).apply, static_argnums=4)(
                params, state, None, images, True
            )
            for spec in (FULL, HALF)
        },
    )


@pytest.mark.parametrize("name", ["embedding", "projection", "prediction", "logits"])
def test_outputs_differ_from_float32_by_rounding(outputs, name):
    """Each of fourteen layers rounds weights, inputs, products and outputs to 8 bits."""
    _, _, results = outputs
    full, half = results["float32"][0][name], results["bfloat16"][0][name]
    assert half.dtype == jnp.float32
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 2**-12 < error < (4 * 14) ** 0.5 * 2**-8


def test_batch_statistics_are_summed_in_float32(outputs):
    """Averages of the first BatchNorm, beside the statistics of its input in double precision."""
    images, params, results = outputs
    weights = params["tiny_res_net/~/initial_conv"]["w"]
    convolved = jax.lax.conv_general_dilated(
        images.astype(jnp.bfloat16),
        weights.astype(jnp.bfloat16),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    values = np.asarray(convolved, np.float64)
    state = results["bfloat16"][1]
    for name, expected in (
        ("mean_ema", values.mean((0, 1, 2))),
        ("var_ema", values.var((0, 1, 2))),
    ):
        got = state[f"tiny_res_net/~/initial_batchnorm/~/{name}"]["average"]
        assert got.dtype == jnp.float32
        # XLA may skip the rounding of values that it fuses: an error of 2**-9 in 2,048 numbers of
        # about 1, so 4e-5 in their mean. The error of a sum in bfloat16 would be 100 times larger.
        np.testing.assert_allclose(np.ravel(got), expected, rtol=5e-4, atol=2e-4)


def test_the_policy_ends_with_the_network(outputs):
    del outputs
    for module in (resnet.ResNet, norms.BatchNorm):
        assert hk.mixed_precision.get_policy(module) is None


def loss_of(spec):
    """A loss as a function of a network's parameters and state."""
    network = siamese.siamese(spec)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, SIZE, SIZE, 3)), jnp.float32)

    def loss(params, state):
        outputs, _ = network.apply(params, state, None, images, True)
        return jnp.sum(jnp.square(outputs["projection"]))

    return loss


@pytest.mark.ci
@pytest.mark.slow
def test_remat_changes_no_gradient():
    drawn = init_network(0, "online", siamese.siamese(FULL), SIZE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        *(jax.jit(jax.grad(loss_of(FULL._replace(remat=r))))(*drawn) for r in (False, True)),
    )


@pytest.mark.slow
@pytest.mark.ci
def test_remat_keeps_little_more_than_the_inputs_of_blocks(capsys):
    """Counts the numbers that ResNet-18 keeps for its gradient, without its parameters."""
    kept = {}
    for remat in (False, True):
        spec = FULL._replace(depth="18", width=1 / 8, remat=remat)
        network = siamese.siamese(spec)
        shapes = jax.eval_shape(lambda n=network: init_network(0, "online", n, SIZE))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        print_saved_residuals(loss_of(spec), *zeros)
        printed = capsys.readouterr().out
        shapes = re.findall(r"^f32\[(4[\d,]+)\] (?!from the argument)", printed, re.M)
        kept[remat] = sum(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)
    assert kept[True] < kept[False] / 2
