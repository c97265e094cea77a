"""Projector g and predictor q: the MLPs of BYOL App. A, G.1 and pseudo-code J.2."""

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax


class MLP(hk.Module):
    """Linear, BatchNorm, ReLU for each hidden layer, then a bare linear layer.

    A depth of 1 is a linear map (BYOL Table 14a); the output is never normalised.

    Args:
      depth: number of linear layers, at least 1.
      hidden_size: width of the hidden layers (4096 in the paper).
      output_size: D (256 in the paper).
      final_bias: whether the last linear layer has a bias: yes in pseudo-code J.2,
        no in the released code and its checkpoints (docs/deviations.md, 1). Hidden
        layers have one.
      bn_config: keyword arguments of every `hk.BatchNorm`.
    """

    def __init__(
        self,
        name: str,
        depth: int,
        hidden_size: int,
        output_size: int,
        final_bias: bool,
        bn_config: Mapping[str, Any],
    ):
        super().__init__(name=name)
        self.hidden_sizes = (hidden_size,) * (depth - 1)
        self.output_size = output_size
        self.final_bias = final_bias
        self.bn_config = dict(bn_config)

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps `[B, C]` to `[B, D]`."""
        out = inputs
        for size in self.hidden_sizes:
            out = hk.Linear(size)(out)
            out = hk.BatchNorm(name="batch_norm", **self.bn_config)(out, is_training)
            out = jax.nn.relu(out)
        return hk.Linear(self.output_size, with_bias=self.final_bias)(out)
