"""TensorFlow without accelerators, and JAX functions inside it."""

import os
import pathlib
import subprocess
import sys
import threading
import types
from importlib import machinery

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_runs
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


def imported(monkeypatch, exec_module) -> None:
    """Imports a TensorFlow whose loading is `exec_module()`, and which then logs an error."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            return machinery.ModuleSpec(name, self) if name == "tensorflow" else None

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            exec_module()

            def hide(devices: list, kind: str) -> None:
                os.write(2, b"E0000 x.cc:52] failed call to cuInit: 303\n")

            module.config = types.SimpleNamespace(set_visible_devices=hide)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "tensorflow")
    tensorflow.import_tensorflow.__wrapped__()


NOISE = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1 1 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU\n"
)


def test_known_noise_is_left_out_and_all_else_comes_through(monkeypatch, capfd) -> None:
    """Of libraries and of Python, in their order; later lines are nobody's noise."""

    def load() -> None:
        print("from Python", file=sys.stderr)
        os.write(2, NOISE + b"E0000 x.cc:1] a library is broken\n")

    imported(monkeypatch, load)
    os.write(2, NOISE)
    own = "from Python\nE0000 x.cc:1] a library is broken\n"
    assert capfd.readouterr().err == own + NOISE.decode()


def test_an_error_while_it_is_loaded(monkeypatch, capfd) -> None:
    def load() -> None:
        os.write(2, NOISE + b"symbol not found\n")
        raise ImportError("libtensorflow is missing")

    with pytest.raises(ImportError, match="libtensorflow is missing"):
        imported(monkeypatch, load)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "symbol not found\nafter\n"


@pytest.mark.parametrize(
    ("given", "jax_is_imported", "while_loading"),
    [(None, True, "3"), ("1", True, "3"), ("1", False, "1"), ("0", True, "0"), ("2", True, "2")],
)
def test_the_log_level_is_the_users_or_fatal(
    monkeypatch, given, jax_is_imported, while_loading
) -> None:
    """1 beside JAX is JAX's own; a worker of the tf.data service has it without JAX."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given or "")
    if given is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    if not jax_is_imported:
        monkeypatch.delitem(sys.modules, "jax")
    seen = []
    imported(monkeypatch, lambda: seen.append(os.environ["TF_CPP_MIN_LOG_LEVEL"]))
    assert seen == [while_loading]
    assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == given


def test_threads_that_import_it_at_once_share_standard_error(monkeypatch, capfd) -> None:
    """A second one that came in while the first was at work, and left after it."""
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def hide(devices: list, kind: str) -> None:
        if threading.current_thread() is first:
            first_is_in.set()
            second_is_in.wait(0.2)
        else:
            second_is_in.set()
            first.join()

    fake = types.ModuleType("tensorflow")
    fake.config = types.SimpleNamespace(set_visible_devices=hide)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    first, second = (
        threading.Thread(target=tensorflow.import_tensorflow.__wrapped__) for _ in range(2)
    )
    first.start()
    first_is_in.wait()
    second.start()
    second.join()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_without_a_standard_error(monkeypatch) -> None:
    def closed(descriptor: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    loaded = []
    imported(monkeypatch, lambda: loaded.append(True))
    assert loaded


READING = """
import logging, sys
import jax
from byol_jax.data import pipeline, sources
from byol_jax.data.views import Reading, Stream, View
from byol_jax.runtime import metrics

metrics.show_messages()
images = sources.load(sys.argv[1], "train")
for on_host in (False, True):
    stream = Stream(0, images.size, 8, stop=2)
    batches = pipeline.train_batches(images, stream, [View(8)], Reading(on_host=on_host))
    assert sum(len(batch["ids"]) for batch in batches) == 16
logging.getLogger("byol_jax").info("read")
"""


@pytest.mark.slow
def test_reading_images_writes_nothing_to_standard_error(tmp_path) -> None:
    """With the devices that there are, JAX imported first, and T and T' on the host too."""
    dataset = tiny_runs.write_folder(tmp_path / "images", train=16, test=0)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", READING, dataset],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "read\n")


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
