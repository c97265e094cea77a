"""The update of a dense network, beside the same formulas written out; one device and two."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.augment.dense import DepthColours
from byol_jax.dense import segmentation
from byol_jax.evals.dense import steps
from byol_jax.networks import dense
from byol_jax.networks.fcn import FCN
from byol_jax.networks.siamese import NetworkSpec
from byol_jax.networks.upproj import UpProjection
from byol_jax.runtime import spmd

SPEC = NetworkSpec(depth="tiny", width=0.5, stem="small")
SEGMENT = steps.Program(SPEC._replace(dilation=2), FCN(classes=3, channels=4, dilation=1))
DEPTH = steps.Program(SPEC, UpProjection((4,), 4))
SLOW, IN_CI = pytest.mark.slow, (pytest.mark.slow, pytest.mark.ci)


def both(*of_depth: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """Segmentation, and depth with some marks, as each program takes seconds to compile."""
    programs = [
        pytest.param(SEGMENT, id="segmentation"),
        pytest.param(DEPTH, id="depth", marks=of_depth),
    ]
    return pytest.mark.parametrize("program", programs)


HPARAMS = steps.Hyperparameters(
    learning_rate=0.1,
    total_steps=10,
    milestones=(0.7, 0.9),
    momentum=0.9,
    weight_decay=0.01,
    colours=DepthColours(0.0, 0.0, 0.0, 0.0),
)
SIDE, IMAGES = 17, 4


def batch_of(program: steps.Program, seed: int = 0) -> dict[str, np.ndarray]:
    """Four images; the first two have many pixels without a target, and large errors."""
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8),
        "ids": np.arange(IMAGES, dtype=np.int32),
        "epochs": np.zeros(IMAGES, np.int32),
    }
    if program.is_segmentation:
        target = rng.integers(0, 3, (IMAGES, SIDE, SIDE)).astype(np.uint8)
        target[0, 2:] = segmentation.VOID
        target[1, :, 3:] = segmentation.VOID
    else:
        size = steps.output_size(program, (SIDE, SIDE))
        target = rng.uniform(1, 3, (IMAGES, *size)).astype(np.float32)
        target[:2] *= 5
        target[0, 1:] = 0
    return {**batch, "target": target}


@functools.cache
def network_of(program: steps.Program) -> tuple[hk.Params, hk.State]:
    network = dense.network(program.spec, program.head)
    images = jnp.zeros((1, SIDE, SIDE, 3))
    params, state = jax.jit(network.init, static_argnums=2)(jax.random.key(1), images, True)
    # Depths of 0 would have no gradient behind the last ReLU.
    params = hk.data_structures.to_mutable_dict(params)
    for module in params:
        if module.endswith("depth"):
            params[module] = {**params[module], "b": params[module]["b"] + 2.0}
    # A backbone that is frozen needs averages.
    images = jax.random.normal(jax.random.key(2), (8, SIDE, SIDE, 3))
    return params, jax.jit(network.apply, static_argnums=4)(params, state, None, images, True)[1]


def started(program: steps.Program) -> tuple[steps.State, hk.Params]:
    params, bn_state = network_of(program)
    trained, fixed = steps.parts(params, program.backbone)
    return steps.init(trained, bn_state), fixed


def run(
    program: steps.Program,
    batch: dict[str, np.ndarray],
    state: steps.State | None = None,
    hparams: steps.Hyperparameters = HPARAMS,
) -> tuple[steps.State, dict[str, Any]]:
    """One step on one device."""
    first, fixed = started(program)
    rows = {k: v.reshape(program.accumulate, -1, *v.shape[1:]) for k, v in batch.items()}
    if program.accumulate == 1:
        rows = batch
    return step_of(program)(first if state is None else state, rows, 0, hparams, fixed)


@functools.cache
def step_of(program: steps.Program) -> Any:
    return jax.jit(functools.partial(steps.train_step, program=program))


def on_two_devices(
    program: steps.Program, batch: dict[str, np.ndarray]
) -> tuple[steps.State, dict[str, Any]]:
    state, fixed = started(program)
    devices = jax.local_devices()[:2]
    assert len(devices) == 2
    step = functools.partial(steps.train_step, program=program, axis=spmd.AXIS)
    shared = spmd.replicate((np.int32(0), HPARAMS, fixed), devices)
    replicas = spmd.replicate(state, devices)
    sharded = spmd.shard(batch, program.accumulate, devices)
    return spmd.to_host(spmd.pmap(step, devices=devices)(replicas, sharded, *shared))


def naive_loss(program: steps.Program, outputs: jax.Array, target: np.ndarray) -> jax.Array:
    """The mean over all pixels that count, pixel by pixel as the paper's sources have it."""
    if program.is_segmentation:
        up = outputs
        for axis in (1, 2):  # DeepLab: corners on corners
            old = outputs.shape[axis]
            places = np.linspace(0, old - 1, SIDE)
            low = np.minimum(places.astype(int), old - 2)
            share = (places - low).reshape([-1 if k == axis else 1 for k in range(4)])
            up = jnp.take(up, low, axis) * (1 - share) + jnp.take(up, low + 1, axis) * share
        chosen = np.nonzero(target != segmentation.VOID)
        return -jnp.mean(jax.nn.log_softmax(up)[(*chosen, target[chosen])])
    chosen = np.nonzero(target > 0)
    errors = jnp.abs(outputs[chosen] - target[chosen])
    c = jax.lax.stop_gradient(errors.max() / 5)
    return jnp.mean(jnp.where(errors <= c, errors, (errors**2 + c**2) / (2 * c)))


def naive_step(
    program: steps.Program, batch: dict[str, np.ndarray], parts: int = 1
) -> tuple[hk.Params, float]:
    """Parameters behind one step of SGD with momentum from a momentum of 0, and the loss."""
    params, bn_state = network_of(program)
    network = dense.network(program.spec, program.head)
    mean = np.array([0.485, 0.456, 0.406])
    views = (batch["image"] / 255.0 - mean) / np.array([0.229, 0.224, 0.225])

    def loss(params: hk.Params) -> jax.Array:
        total, state = jnp.zeros(()), bn_state
        count = jnp.sum(counted(program, batch["target"]))
        for images, target in zip(
            np.split(views.astype(np.float32), parts), np.split(batch["target"], parts), strict=True
        ):
            outputs, state = network.apply(params, state, None, images, True)
            own = jnp.sum(counted(program, target))
            total += naive_loss(program, outputs, target) * own / count
        return total

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    decayed = jax.tree.map(lambda g, p: g + 0.01 * p, gradient, params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, decayed), float(value)


def counted(program: steps.Program, target: np.ndarray) -> np.ndarray:
    return target != segmentation.VOID if program.is_segmentation else target > 0


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=tolerance)


def differs(actual: Any, expected: Any, by: float = 1e-3) -> bool:
    leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return any(float(np.max(np.abs(a - b))) > by for a, b in leaves)


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=IN_CI)])
@both()
def test_a_step_is_that_of_the_formulas(program: steps.Program, parts: int) -> None:
    """Micro-batches of very different numbers of pixels have one denominator."""
    batch = batch_of(program)
    state, logs = run(program._replace(accumulate=parts), batch)
    params, loss = naive_step(program, batch, parts)
    assert float(logs["loss"]) == pytest.approx(loss, rel=1e-5)
    assert_close(state.params, params)
    assert int(state.step) == 1
    assert bool(state.finite)


@both(*IN_CI)
def test_two_devices_are_as_one(program: steps.Program) -> None:
    batch = batch_of(program)
    one, two = run(program, batch), on_two_devices(program, batch)
    assert float(one[1]["loss"]) == pytest.approx(float(two[1]["loss"]), rel=1e-5)
    assert_close(two[0].params, one[0].params)
    assert_close(two[0].bn_state, one[0].bn_state, 1e-4)


@both(SLOW)
def test_a_mean_over_devices_of_their_means_is_off(
    program: steps.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(program)
    right = run(program, batch)[0]

    def of_device(tree: Any, axis: str | None) -> Any:
        """The number of pixels of a device is a scalar; gradients come in trees."""
        return tree if hasattr(tree, "ndim") and not tree.ndim else jax.lax.pmean(tree, axis)

    monkeypatch.setattr(spmd, "pmean", of_device)
    assert differs(on_two_devices(program, batch)[0].params, right.params, 1e-4)


@pytest.mark.slow
@pytest.mark.ci
def test_c_of_one_device_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(DEPTH)
    right = run(DEPTH, batch)[1]["loss"]
    monkeypatch.setattr(spmd, "pmax", lambda tree, axis: tree)
    wrong = on_two_devices(DEPTH, batch)[1]["loss"]
    assert float(wrong) != pytest.approx(float(right), rel=1e-3)


def test_decay_of_kernels_alone() -> None:
    batch = batch_of(SEGMENT)
    all_, _ = run(SEGMENT, batch)
    kernels, _ = run(SEGMENT._replace(decay="weights"), batch)
    for module, leaves in all_.params.items():
        for name, value in leaves.items():
            before = network_of(SEGMENT)[0][module][name]
            # Of the others p - lr (g + d p) has the last term no more.
            expected = value if name == "w" else value + 0.1 * 0.01 * before
            np.testing.assert_allclose(kernels.params[module][name], expected, atol=1e-6)


def test_momentum_and_milestones() -> None:
    """Ten steps: the rate is divided by 10 before steps 7 and 9."""
    batch = batch_of(SEGMENT)
    state, rates = None, []
    for _ in range(10):
        state, logs = run(SEGMENT, batch, state)
        rates.append(float(logs["learning_rate"]))
    np.testing.assert_allclose(rates, [0.1] * 7 + [0.01] * 2 + [0.001], rtol=1e-6)
    # mu <- 0.9 mu + g with a rate of 0: the gradient is the same twice, so mu is 1.9 g.
    still = HPARAMS._replace(learning_rate=0.0)
    frozen = SEGMENT._replace(backbone="frozen")
    once, _ = run(frozen, batch, None, still)
    twice, _ = run(frozen, batch, once, still)
    for a, b in zip(jax.tree.leaves(once.opt_state), jax.tree.leaves(twice.opt_state), strict=True):
        np.testing.assert_allclose(b, 1.9 * a, rtol=1e-4, atol=1e-6)


@both(SLOW)
@pytest.mark.parametrize("backbone", steps.BACKBONES)
def test_what_a_backbone_trains(program: steps.Program, backbone: str) -> None:
    program = program._replace(backbone=backbone)
    before, fixed = started(program)
    after, _ = run(program, batch_of(program))
    moved = {
        (module.split("/")[0], name)
        for module, leaves in after.params.items()
        for name, value in leaves.items()
        if np.any(value != before.params[module][name])
    }
    head = "fcn_head" if program.is_segmentation else "depth_head"
    encoder = {name for module, name in moved if module != head}
    assert (
        encoder
        == {
            "finetune": {"w", "scale", "offset"},
            "frozen_bn": {"w"},
            "frozen": set(),
        }[backbone]
    )
    assert {(head, "w"), (head, "scale"), (head, "offset")} <= moved
    assert bool(fixed) == (backbone != "finetune")
    averages = {
        module.split("/")[0]
        for module, leaves in after.bn_state.items()
        if np.any(leaves["average"] != before.bn_state[module]["average"])
    }
    assert head in averages
    assert (len(averages) > 1) == (backbone == "finetune")


@both()
def test_a_step_that_is_not_finite_changes_nothing(program: steps.Program) -> None:
    before, _ = started(program)
    after, logs = run(program, batch_of(program), None, HPARAMS._replace(learning_rate=np.nan))
    assert not bool(logs["finite"])
    assert not bool(after.finite)
    for a, b in zip(
        jax.tree.leaves(before._replace(finite=0)),
        jax.tree.leaves(after._replace(finite=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@both()
def test_without_a_pixel_that_counts_decay_alone_is_left(program: steps.Program) -> None:
    batch = batch_of(program)
    batch["target"][:] = segmentation.VOID if program.is_segmentation else 0
    state, logs = run(program, batch)
    assert float(logs["loss"]) == 0
    assert bool(state.finite)
    expected = jax.tree.map(lambda p: p - 0.1 * 0.01 * p, network_of(program)[0])
    assert_close(state.params, expected, 1e-7)


@pytest.mark.slow
def test_float64_agrees_with_float32() -> None:
    batch = batch_of(SEGMENT)
    narrow = run(SEGMENT, batch)[1]["loss"]
    with jax.enable_x64(True):
        state, fixed = started(SEGMENT)
        wide = jax.tree.map(
            lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, (state, fixed)
        )
        views = jnp.asarray(batch["image"], jnp.float64) / 255.0
        views = (views - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225])
        logs = steps.step(
            wide[0], views[None], batch["target"][None], HPARAMS, wide[1], program=SEGMENT
        )[1]
        assert logs["loss"].dtype == np.float64
    assert float(narrow) == pytest.approx(float(logs["loss"]), rel=1e-5)


def test_outputs_are_classes_of_pixels_and_depths() -> None:
    for program in (SEGMENT, DEPTH):
        params, bn_state = network_of(program)
        images = batch_of(program)["image"]
        found = steps.outputs_of(images, params, bn_state, program=program)
        if program.is_segmentation:
            assert found.shape == (IMAGES, SIDE, SIDE)
            assert found.dtype == np.uint8
            assert int(found.max()) < 3
        else:
            assert found.shape[1:] == steps.output_size(program, (SIDE, SIDE))
