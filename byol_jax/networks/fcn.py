"""The head of the fully-convolutional network for segmentation (BYOL App. E.4)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax

from byol_jax.networks import norms

# normal: a standard deviation of 0.01 for every kernel. haiku: 1 / sqrt(fan-in), cut at two
# deviations, as in f.
INITS = ("normal", "haiku")
_NORMAL_DEVIATION = 0.01


class FCN(NamedTuple):
    """The layers of the head; the defaults are those of BYOL App. E.4 on VOC2012.

    Attributes:
      classes: number of classes, the background included.
      channels: output channels of both 3x3 convolutions.
      dilation: dilation of both 3x3 convolutions.
      init: one of `INITS`.
    """

    classes: int = 21
    channels: int = 256
    dilation: int = 6
    init: str = "normal"


class FCNHead(hk.Module):
    """Two dilated 3x3 convolutions, each with BatchNorm and ReLU, and a 1x1 to the classes.

    A convolution in front of BatchNorm has no bias; the last one has one. Padding is SAME, which is
    symmetric at stride 1.

    Args:
      spec: the layers.
      bn_config: keyword arguments of every `norms.BatchNorm`.
    """

    def __init__(self, spec: FCN, bn_config: Mapping[str, Any], name: str = "fcn_head"):
        super().__init__(name=name)
        self.spec, self.bn_config = spec, dict(bn_config)

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps features `[B, h, w, C]` to logits `[B, h, w, classes]`."""
        spec = self.spec
        init = {"normal": hk.initializers.RandomNormal(_NORMAL_DEVIATION), "haiku": None}[spec.init]
        out = inputs
        for i in range(2):
            conv = hk.Conv2D(
                spec.channels, 3, rate=spec.dilation, with_bias=False, w_init=init, name=f"conv_{i}"
            )
            norm = norms.BatchNorm(name=f"batchnorm_{i}", **self.bn_config)
            out = jax.nn.relu(norm(conv(out), is_training))
        return hk.Conv2D(spec.classes, 1, w_init=init, name="logits")(out)
