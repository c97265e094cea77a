"""What every test relies on: import paths, two virtual CPU devices, full precision."""

import os
import pathlib
import shutil
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent
# The checkout itself, installed or not, and the plain modules beside this file.
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# All of these are read when JAX or TensorFlow is first imported.
DEVICES_FLAG = "--xla_force_host_platform_device_count"
flags = os.environ.get("XLA_FLAGS", "")
if DEVICES_FLAG not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {DEVICES_FLAG}=2".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The same programs are compiled by many tests, workers and subprocesses: once is enough.
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
own_cache = None if CACHE_VARIABLE in os.environ else tempfile.mkdtemp(prefix="byol_jax_tests_")
if own_cache:
    os.environ[CACHE_VARIABLE] = own_cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Most of the time of the tests is LLVM's. Set to 0, it may take its time everywhere.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if workers > 1:
    # Each worker gets its share of the cores, as XLA sizes its thread pools by this.
    os.environ.setdefault("NPROC", str(max(1, (os.cpu_count() or 1) // workers)))

import jax  # noqa: E402
import pytest  # noqa: E402

from byol_jax.errors import UserError  # noqa: E402

unoptimized = jax.config.values["jax_disable_most_optimizations"]
# The golden numbers are full float32.
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="module", autouse=True)
def optimizations(request: pytest.FixtureRequest) -> None:
    """The golden numbers are compared with those of programs as users run them."""
    disabled = jax.config.values["jax_disable_most_optimizations"]
    wanted = unoptimized and request.path.parent.name != "golden"
    if wanted != disabled:
        jax.config.update("jax_disable_most_optimizations", wanted)
        jax.clear_caches()  # what was compiled the other way


@pytest.fixture
def refused(tmp_path):
    """Runs a job that must refuse its config in one line, before it writes anything."""

    def refused(job, config, words):
        with pytest.raises(UserError, match=words) as caught:
            job(config, tmp_path / "refused")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "refused").exists()

    return refused


def pytest_unconfigure() -> None:
    """Removes the compilation cache, in the process that made it."""
    if own_cache:
        shutil.rmtree(own_cache, ignore_errors=True)
