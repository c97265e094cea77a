"""Frozen features: every row, in order, with the moving averages."""

import jax
import numpy as np
import pytest

import tiny_runs
from byol_jax.augment import byol
from byol_jax.evals import features
from byol_jax.networks.siamese import HeadSpec, NetworkSpec, init_network, siamese

SPEC = NetworkSpec("tiny", 0.5, "small", 0, HeadSpec(2, 8, 4), HeadSpec(2, 8, 4))


def in_batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.fixture(scope="module")
def network():
    net = siamese(SPEC)
    params, state = init_network(0, "online", net, 8)
    state = features.calibrate(net, params, state, in_batches(tiny_runs.images(16), 8))
    return net, params, state


def test_extract_equals_one_forward_pass(network):
    net, params, state = network
    images = tiny_runs.images(11)
    out = features.extract(
        net, params, state, in_batches(images, 4), outputs=("embedding", "projection"), batch_size=4
    )
    views = byol.evaluation_views(images)
    expected, _ = jax.jit(net.apply, static_argnums=4)(params, state, None, views, False)
    for name in ("embedding", "projection"):
        assert out[name].dtype == np.float32
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-5, atol=1e-6)


def test_calibration_averages_the_batches_and_moves_no_parameter(network):
    net, params, _ = network
    _, fresh = init_network(0, "online", net, 8)
    images = tiny_runs.images(16)
    state = features.calibrate(net, params, fresh, in_batches(images, 8))
    name = "tiny_res_net/~/initial_batchnorm/~/mean_ema"
    assert int(state[name]["counter"]) == 2
    views = byol.evaluation_views(images)
    stem = {k.rpartition("/")[2]: v for k, v in params.items() if "initial" in k}
    out = jax.lax.conv_general_dilated(
        views, stem["initial_conv"]["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first, second = (np.asarray(out[i : i + 8], np.float64).mean((0, 1, 2)) for i in (0, 8))
    # Zero-debiased moving average with decay 0.9 after two batches.
    expected = (0.9 * first + second) / 1.9
    np.testing.assert_allclose(state[name]["average"].ravel(), expected, rtol=1e-4, atol=1e-5)


def test_labelled_examples_of_one_and_of_several_classes():
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    one = features.Features(values, np.array([2, -1, 0, -1])).labelled()
    assert one.values.tolist() == [[0, 1], [4, 5]] and one.labels.tolist() == [2, 0]
    targets = np.array([[0, -1], [-1, -1], [1, 0], [-1, 0]])
    several = features.Features(values, targets).labelled()
    assert several.values.tolist() == [[0, 1], [4, 5], [6, 7]]
    assert several.labels.tolist() == [[0, -1], [1, 0], [-1, 0]]
