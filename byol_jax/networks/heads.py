"""Projector g and predictor q: the MLPs of BYOL App. A, G.1 and pseudo-code J.2."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax

from byol_jax.networks import norms

# What follows the last linear layer of a head: nothing (BYOL App. A); BatchNorm; BatchNorm without
# an offset (SimCLR's code); BatchNorm without scale and offset (SimSiam's code).
OUTPUT_NORMS = ("none", "full", "scale", "plain")


class HeadSpec(NamedTuple):
    """The layers of a head; the defaults are those of BYOL App. A.

    Attributes:
      depth: number of linear layers of an `mlp` (Table 14a).
      hidden_size: width of the hidden layers.
      output_size: D, the output width of a projector (Table 14b). A predictor ignores it and keeps
        the width of its input.
      kind: `mlp`; `linear`, one layer at any depth; `none`, which returns its input (Table 5b,
        SimCLR Figure 8); for a predictor also `optimal_linear` (App. J.2).
      hidden_norm: whether BatchNorm follows each hidden layer (MoCo's head has no norm).
      output_norm: one of `OUTPUT_NORMS`.
    """

    depth: int = 2
    hidden_size: int = 4096
    output_size: int = 256
    kind: str = "mlp"
    hidden_norm: bool = True
    output_norm: str = "none"


class MLP(hk.Module):
    """Linear, BatchNorm and ReLU per hidden layer, then a linear layer.

    A depth of 1 is a linear map (BYOL Table 14a). Axes between the first and the last are kept, so
    a dense head applies the same MLP at each position: it is a 1x1 convolution.

    Args:
      spec: depth, sizes and norms.
      output_size: D.
      final_bias: whether the last linear layer has a bias. It has one in pseudo-code J.2 and none
        in the released code and its checkpoints (docs/deviations.md, 1). Where BatchNorm follows
        the layer there is never a bias, since BatchNorm subtracts it again. Hidden layers always
        have a bias.
      bn_config: keyword arguments of every `norms.BatchNorm`.
    """

    def __init__(
        self,
        name: str,
        spec: HeadSpec,
        output_size: int,
        final_bias: bool,
        bn_config: Mapping[str, Any],
    ):
        super().__init__(name=name)
        depth = 1 if spec.kind == "linear" else spec.depth
        self.hidden_sizes = (spec.hidden_size,) * (depth - 1)
        self.hidden_norm, self.output_norm = spec.hidden_norm, spec.output_norm
        self.output_size = output_size
        self.final_bias = final_bias and spec.output_norm == "none"
        self.bn_config = dict(bn_config)

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps `[B, ..., C]` to `[B, ..., D]`."""
        out = inputs
        for size in self.hidden_sizes:
            out = hk.Linear(size)(out)
            if self.hidden_norm:
                out = norms.BatchNorm(name="batch_norm", **self.bn_config)(out, is_training)
            out = jax.nn.relu(out)
        out = hk.Linear(self.output_size, with_bias=self.final_bias)(out)
        if self.output_norm == "none":
            return out
        parts = {
            "create_scale": self.output_norm in ("full", "scale"),
            "create_offset": self.output_norm == "full",
        }
        return norms.BatchNorm(name="output_norm", **(self.bn_config | parts))(out, is_training)
