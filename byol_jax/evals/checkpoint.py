"""What evaluations take from a checkpoint: its networks, and how its run cropped images."""

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import ml_collections

from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.errors import require
from byol_jax.evals import features
from byol_jax.evals.splits import Batches
from byol_jax.networks import siamese
from byol_jax.networks.siamese import init_network

_logger = logging.getLogger(__name__)

# What a checkpoint gives: `random` is its network as it was drawn, with calibrated BatchNorm.
NETWORKS = ("random", "target", "online")


class Cropping(NamedTuple):
    """How a run made views of images.

    Attributes:
      view: T.
      area_range, aspect_range: of the random crops (`boxes`).
      eval_crop: one of `crops.EVALUATION_MODES`.
      exif: whether images are turned as EXIF says.
    """

    view: compose.AugmentParams
    area_range: tuple[float, float]
    aspect_range: tuple[float, float]
    eval_crop: str
    exif: bool


def cropping_of(config: Mapping[str, Any], **view: Any) -> Cropping:
    """The cropping of a run, from its config; what that lacks is App. C's.

    Args:
      config: of a checkpoint: early ones lack keys, released ones all of them.
      **view: entries of T that stand in place of the run's own.
    """
    data = config.get("data", {})
    return Cropping(
        compose.from_config({**config.get("augment", {}).get("view1", {}), **view}),
        (data.get("area_min", 0.08), data.get("area_max", 1.0)),
        (data.get("aspect_min", 3 / 4), data.get("aspect_max", 4 / 3)),
        data.get("eval_crop", "paper"),
        data.get("exif", False),
    )


def load_weights(config: ml_collections.ConfigDict) -> weights.Weights:
    """What `config.checkpoint` holds.

    Raises:
      UserError: it is not given, or is no checkpoint with an encoder.
    """
    require(config.checkpoint, "config.checkpoint is needed: a workdir or checkpoints/STEP of it")
    return _with_encoder(weights.load(config.checkpoint), config.checkpoint)


def _with_encoder(trained: weights.Weights, source: str | pathlib.Path) -> weights.Weights:
    require(
        siamese.encoder_params(trained.online_params),
        f"checkpoint={source} holds no encoder: give one of a pre-training or supervised run",
    )
    return trained


def siamese_of(trained: weights.Weights) -> hk.TransformedWithState:
    """The function of both networks of a checkpoint, or of its encoder if it has no heads."""
    spec = siamese.make_spec(trained.config["network"], trained.num_classes)
    # A network trained on labels has neither g nor q.
    is_supervised = trained.config.get("job") == "finetune"
    return siamese.encoder(spec) if is_supervised else siamese.siamese(spec)


def network_of(
    trained: weights.Weights, name: str, image_size: int, shuffled: Callable[[], Batches]
) -> tuple[features.Tree, features.Tree]:
    """Parameters and BatchNorm state of one of `NETWORKS`.

    Args:
      trained: the checkpoint.
      name: `online`, `target`, or `random`: as the run's own seed draws the online network,
        its BatchNorm averages from `features.calibrate`.
      image_size: side of the crops in pixels.
      shuffled: `Split.shuffled` of the images that are fitted; read for `random` alone.

    Raises:
      UserError: there is no such network.
    """
    require(name in NETWORKS, f"network={name!r} must be one of: {', '.join(NETWORKS)}")
    if name == "online":
        return trained.online_params, trained.online_state
    if name == "target":
        require(
            trained.target_params,
            "network=target: this checkpoint has no network of that name; its only one is online",
        )
        return trained.target_params, trained.target_state
    network = siamese_of(trained)
    params, state = init_network(trained.config["seed"], "online", network, image_size)
    crops = (batch["images"] for batch in shuffled())
    return params, features.calibrate(network, params, state, crops)
