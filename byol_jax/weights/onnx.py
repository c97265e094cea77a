"""An encoder as an ONNX file, one node per layer, with the names of PyTorch's state dict.

`auto_pad=SAME_UPPER` is SAME in TensorFlow's sense at any size of the images, so numbers of images,
rows and columns are all left open.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from byol_jax.networks import siamese
from byol_jax.weights import layers, layout

# The first ones that have all that is needed; newer programs read them, too.
_OPSET, _IR = 17, 8
# A file is one protocol buffer, which ends at 2 GiB; the rest is for nodes and names.
LARGEST = 2**31 - 2**20
INPUT, OUTPUT = "images", "embedding"


class _Graph(NamedTuple):
    """A graph under construction.

    Attributes:
      nodes: the nodes so far.
      names: names of arrays that they use.
    """

    nodes: list[Any]
    names: list[str]


def _ops(graph: _Graph, arrays: layout.Flat, spec: siamese.NetworkSpec) -> layers.Ops:
    """The layers as nodes; what stands for a value is the name of the node that makes it."""
    import onnx

    def add(kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        node = onnx.helper.make_node(kind, inputs, [name], name=name, **attributes)
        graph.nodes.append(node)
        return name

    def window(kernel: int, stride: int, zeros: int) -> dict[str, Any]:
        pads = {"auto_pad": "SAME_UPPER"} if spec.padding == "same" else {"pads": [zeros] * 4}
        return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, **pads}

    def conv_bn(conv: str, norm: str, inputs: str, stride: int, zeros: int) -> str:
        kernel = f"{conv}.weight"
        sizes = window(arrays[kernel].shape[2], stride, zeros)
        out = add("Conv", conv, inputs, kernel, **sizes)
        leaves = [f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
        graph.names.extend([kernel, *leaves])
        return add("BatchNormalization", norm, out, *leaves, epsilon=spec.bn_eps)

    return layers.Ops(
        conv_bn=conv_bn,
        relu=lambda name, inputs: add("Relu", name, inputs),
        add=lambda name, inputs, others: add("Add", name, inputs, others),
        pool=lambda name, inputs: add("MaxPool", name, inputs, **window(3, 2, 1)),
        mean=lambda name, inputs: add(
            "Flatten", OUTPUT, add("GlobalAveragePool", name, inputs), axis=1
        ),
    )


def model_of(
    arrays: layout.Flat, spec: siamese.NetworkSpec, dim: int, description: Mapping[str, Any]
) -> Any:
    """The encoder `spec` as an `onnx.ModelProto`.

    Its input `images` is float32 `[N, 3, H, W]`, normalised; its output `embedding` `[N, dim]`.

    Args:
      arrays: as `layout.to_torch` returns them.
      spec: the encoder.
      dim: numbers per image.
      description: JSON values for the model's metadata.
    """
    import onnx

    graph = _Graph([], [])
    layers.build(_ops(graph, arrays, spec), spec, arrays, INPUT)
    kind = onnx.TensorProto.FLOAT
    proto = onnx.helper.make_graph(
        graph.nodes,
        "byol_jax",
        [onnx.helper.make_tensor_value_info(INPUT, kind, ["N", 3, "H", "W"])],
        [onnx.helper.make_tensor_value_info(OUTPUT, kind, ["N", dim])],
        [onnx.numpy_helper.from_array(np.asarray(arrays[name]), name) for name in graph.names],
    )
    model = onnx.helper.make_model(
        proto,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="byol_jax",
    )
    onnx.helper.set_model_props(model, {"byol_jax": json.dumps(description, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return model


def write(
    path: pathlib.Path,
    arrays: layout.Flat,
    spec: siamese.NetworkSpec,
    dim: int,
    description: Mapping[str, Any],
) -> None:
    """Writes the model of `model_of`."""
    path.write_bytes(model_of(arrays, spec, dim, description).SerializeToString())
