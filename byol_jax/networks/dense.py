"""Networks of the dense transfers: f, and a head on each position of its last map.

Parameters of f have the names that they have in `siamese`, so any checkpoint fits.
"""

import functools

import haiku as hk
import jax

from byol_jax import checks
from byol_jax.networks import fcn, resnet, siamese, upproj
from byol_jax.networks.fcn import FCN
from byol_jax.networks.siamese import NetworkSpec
from byol_jax.networks.upproj import UpProjection

Head = FCN | UpProjection

_RULES = {
    FCN: {
        "classes": checks.at_least(1),
        "channels": checks.at_least(1),
        "dilation": checks.at_least(1),
        "init": checks.one_of(fcn.INITS),
    },
    UpProjection: {
        "channels": checks.each(checks.at_least(1)),
        "entry_channels": checks.at_least(1),
        "padding": checks.one_of(upproj.PADDINGS),
    },
}


def check_head(head: Head) -> None:
    """Raises `UserError`, which names the key `config.head.KEY`, if a value is not allowed."""
    checks.check_keys(head._asdict(), _RULES[type(head)], "config.head")


# Cached for the reason given in `siamese`.
@functools.lru_cache(maxsize=8)
def network(spec: NetworkSpec, head: Head) -> hk.TransformedWithState:
    """f and a head, as a pure `init` and `apply`.

    `init(key, images, True)` runs on one device, outside of any mapped axis.

    `apply(params, state, None, images [B, H, W, 3], is_training, encoder_training)` returns the
    outputs, float32, and the next BatchNorm state. Of an `FCN` the outputs are the logits
    `[B, H/16, W/16, classes]` at the positions of the last map; of an `UpProjection` depths
    `[B, H/2, W/2]` in the unit of the targets. Sizes are rounded up at each stride.

    `is_training` says whether BatchNorm of the head has the statistics of the batch, over all
    devices of `spec.bn_axis`; `encoder_training` says the same of f, and by default is equal. An
    encoder that is frozen, or whose BatchNorm is, has it False; which parameters are trained is up
    to the optimiser.

    The dilation of the last group of f is that of `spec`: BYOL has 2 for an `FCN` (App. E.4) and 1
    for an `UpProjection` (App. E.6). The network has no g, q or probe, and what `spec` says of them
    has no effect. `siamese.encoder_params` takes the parameters of f out of those of the network.
    """
    return siamese.with_init(functools.partial(_transform, head=head), spec)


def _transform(spec: NetworkSpec, head: Head) -> hk.TransformedWithState:
    @siamese.computing_in(spec.precision, (resnet.ResNet, fcn.FCNHead, upproj.DepthHead))
    def run(
        images: jax.Array, is_training: bool, encoder_training: bool | None = None
    ) -> jax.Array:
        encoder_training = is_training if encoder_training is None else encoder_training
        _, maps = siamese.make_encoder(spec)(images, encoder_training)
        bn_config = siamese.bn_config(spec)
        module: fcn.FCNHead | upproj.DepthHead = (
            fcn.FCNHead(head, bn_config)
            if isinstance(head, FCN)
            else upproj.DepthHead(head, bn_config)
        )
        return module(maps[resnet.LAST_MAP], is_training)

    return hk.transform_with_state(run)
