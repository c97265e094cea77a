"""TensorFlow on the host's CPU: imported on demand, without log output or accelerators."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any


@functools.cache
def import_tensorflow() -> Any:
    """Imports TensorFlow without log output, and hides the accelerators, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN's results depend on the machine, and its banner ignores the log level.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # Fails if the program has already initialised TensorFlow's devices.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


def from_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """A JAX function as a TensorFlow function for the CPU, compiled by XLA at its first call."""
    import_tensorflow()
    from jax.experimental import jax2tf

    converted: Callable[..., Any] = jax2tf.convert(
        function, with_gradient=False, native_serialization_platforms=("cpu",)
    )
    return converted
