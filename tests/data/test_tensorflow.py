"""TensorFlow without accelerators, and JAX functions inside it."""

import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.data import tensorflow

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("started", [False, True])
def test_tensorflow_gets_no_accelerator(monkeypatch, started: bool) -> None:
    hidden = []

    def set_visible_devices(devices: list, kind: str) -> None:
        hidden.append((devices, kind))
        if started:
            raise RuntimeError("cannot be modified after being initialized")

    fake = types.ModuleType("tensorflow")
    fake.config = types.SimpleNamespace(set_visible_devices=set_visible_devices)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert tensorflow.import_tensorflow.__wrapped__() is fake
    assert hidden == [([], "GPU"), ([], "TPU")]
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_importing_the_module_imports_no_tensorflow() -> None:
    program = "import sys, byol_jax.data.tensorflow; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def noisy(images: jax.Array, ids: jax.Array, strength: jax.Array) -> dict[str, jax.Array]:
    """uint8 -> float32, with noise of a key that the function makes itself, one per image."""
    key = jax.random.key(7)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)
    noise = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:]))(keys)
    return {"sum": images / jnp.float32(255) + strength * noise, "words": noise > 0.5}


def test_a_jax_function_inside_tensorflow() -> None:
    """Called as it is, and from the threads of tf.data."""
    tf = tensorflow.import_tensorflow()
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    ids = np.array([5, 0, 2**31 - 1], np.int32)
    strength = np.float32(0.5)
    expected = jax.jit(noisy)(images, ids, strength)
    function = tf.function(tensorflow.from_jax(noisy), autograph=False)
    called = tf.nest.map_structure(np.asarray, function(images, ids, tf.constant(strength)))
    dataset = tf.data.Dataset.from_tensors((images, ids, strength)).repeat(2)
    mapped = dataset.map(function, num_parallel_calls=2)
    for actual in (called, *mapped.as_numpy_iterator()):
        assert actual["sum"].dtype == np.float32 and actual["sum"].shape == (3, 4, 4, 3)
        assert np.array_equal(actual["words"], expected["words"])
        # One rounding: XLA may or may not fuse the product into the sum.
        np.testing.assert_allclose(actual["sum"], expected["sum"], rtol=0, atol=2**-23)
    words = np.asarray(expected["words"])
    assert 0.3 < words.mean() < 0.7 and np.any(words[0] != words[1])
