"""An encoder as a SavedModel of TensorFlow: a plain graph of TensorFlow's own operations.

TensorFlow's SAME is what the network was trained with, so images may have any size. A program of
JAX inside a SavedModel would be bound to versions: TensorFlow 2.21 cannot read those of JAX 0.12
whose sizes are open.
"""

import pathlib
from typing import Any

import numpy as np

from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.networks import siamese
from byol_jax.weights import layers, layout


def write(folder: pathlib.Path, arrays: layout.Flat, spec: siamese.NetworkSpec) -> None:
    """Writes a SavedModel with one function, `embed`, which is also its signature for serving.

    Its argument `images` is float32 `[N, H, W, 3]`, normalised; its result `embedding` `[N, dim]`.

    Args:
      folder: the folder to be made.
      arrays: as `layout.to_torch` returns them.
      spec: the encoder.
    """
    tf = import_tensorflow()
    module = tf.Module()
    # Variables, as the constants of a graph end at 2 GiB.
    module.arrays = {
        name: tf.Variable(_for_tensorflow(value), trainable=False, name=name)
        for name, value in arrays.items()
        if value.ndim
    }
    ops = _ops(tf, module.arrays, spec.padding, spec.bn_eps)

    def embed(images: Any) -> Any:
        return {"embedding": layers.build(ops, spec, module.arrays, images)}

    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    module.embed = tf.function(embed, autograph=False, input_signature=[images])
    tf.saved_model.save(module, str(folder), signatures=module.embed)


def _for_tensorflow(value: np.ndarray) -> np.ndarray:
    """Kernels OIHW to HWIO."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _ops(tf: Any, arrays: Any, padding: str, eps: float) -> layers.Ops:
    """The layers as operations of TensorFlow."""

    def around(zeros: int) -> list[list[int]]:
        return [[0, 0], [zeros, zeros], [zeros, zeros], [0, 0]]

    def conv_bn(conv: str, norm: str, inputs: Any, stride: int, zeros: int) -> Any:
        pads = "SAME" if padding == "same" else around(zeros)
        out = tf.nn.conv2d(inputs, arrays[f"{conv}.weight"], stride, pads, name=_scope(conv))
        mean, variance, offset, scale = (
            arrays[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "bias", "weight")
        )
        return tf.nn.batch_normalization(out, mean, variance, offset, scale, eps, name=_scope(norm))

    def pool(name: str, inputs: Any) -> Any:
        if padding == "same":
            return tf.nn.max_pool2d(inputs, 3, 2, "SAME", name=name)
        # Behind a ReLU zeros do as well as -inf.
        return tf.nn.max_pool2d(tf.pad(inputs, around(1)), 3, 2, "VALID", name=name)

    return layers.Ops(
        conv_bn=conv_bn,
        relu=lambda name, inputs: tf.nn.relu(inputs, name=_scope(name)),
        add=lambda name, inputs, others: tf.add(inputs, others, name=_scope(name)),
        pool=pool,
        mean=lambda name, inputs: tf.reduce_mean(inputs, [1, 2], name=name),
    )


def _scope(name: str) -> str:
    return name.replace(".", "/")
