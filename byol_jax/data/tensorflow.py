"""TensorFlow on the host's CPU: imported on demand, without log output or accelerators."""

import contextlib
import functools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Standard error is one for all threads.
_lock = threading.Lock()
# What TensorFlow's libraries write of accelerators that it is not to have, and of its own build.
# They do so while they are loaded, before any log level counts.
_NOISE = (
    b"All log messages before absl::InitializeLog() is called",
    b"Could not find cuda drivers on your machine",
    b"Could not find TensorRT",
    b"failed call to cuInit",
    b"Cannot dlopen some GPU libraries",
    b"factory for plugin cu",
    b"computation placer already registered",
    b"oneDNN custom operations are on",
    b"This TensorFlow binary is optimized",
    b"To enable the following instructions",
)


@functools.cache
def import_tensorflow() -> Any:
    """Imports TensorFlow without log output, and hides the accelerators, which are JAX's.

    Its errors are exceptions. A user's own `TF_CPP_MIN_LOG_LEVEL` shows its log.
    """
    # oneDNN's results depend on the machine.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with _lock, _log_level(), _without_noise():
        import tensorflow as tf

        for kind in ("GPU", "TPU"):
            # Fails if the program has already initialised TensorFlow's devices.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], kind)
    return tf


@contextlib.contextmanager
def _log_level() -> Iterator[None]:
    """Sets TensorFlow's log level to fatal errors, unless the user has set one.

    TensorFlow reads it once. JAX reads the same variable when it finds its devices, and gets it
    back as it was.
    """
    level = os.environ.get(_LEVEL)
    if not (level is None or (level == "1" and "jax" in sys.modules)):  # 1 is what JAX sets itself
        yield
        return
    os.environ[_LEVEL] = "3"
    try:
        yield
    finally:
        if level is None:
            del os.environ[_LEVEL]
        else:
            os.environ[_LEVEL] = level


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Holds back what is written to standard error, and then writes all lines but the noise."""
    with contextlib.ExitStack() as stack:
        try:
            stderr = os.dup(2)
            stack.callback(os.close, stderr)
            heard = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # there is no standard error, or no folder for the file
            yield
            return
        _redirect(heard.fileno())
        try:
            yield
        finally:
            _redirect(stderr)
            heard.seek(0)
            for line in heard:
                if not any(words in line for words in _NOISE):
                    os.write(2, line)


def _redirect(descriptor: int) -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
    os.dup2(descriptor, 2)


def from_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """A JAX function as a TensorFlow function for the CPU, compiled by XLA at its first call."""
    import_tensorflow()
    from jax.experimental import jax2tf

    converted: Callable[..., Any] = jax2tf.convert(
        function, with_gradient=False, native_serialization_platforms=("cpu",)
    )
    return converted
