"""The networks of a checkpoint, as evaluations use them."""

from collections.abc import Callable, Sequence

import haiku as hk
import ml_collections

from byol_jax import weights
from byol_jax.data import sources
from byol_jax.errors import UserError, require
from byol_jax.evals import features
from byol_jax.evals.splits import Batches
from byol_jax.networks import siamese
from byol_jax.networks.siamese import init_network

# Networks of a checkpoint; `random` is its online network at initialisation, with calibrated
# BatchNorm averages.
NETWORKS = ("random", "target", "online")


def load_weights(config: ml_collections.ConfigDict) -> weights.Trained:
    """The networks in `config.checkpoint`.

    Raises:
      UserError: it is not given, or is not a checkpoint with an encoder.
    """
    require(config.checkpoint, f"config.checkpoint is needed: {weights.KINDS}")
    try:
        return weights.load(config.checkpoint)
    except UserError as error:  # which knows the path alone
        raise UserError(str(error).replace("checkpoint=", "config.checkpoint=", 1)) from error


def siamese_of(trained: weights.Trained) -> hk.TransformedWithState:
    """The function of both networks of a checkpoint, or of its encoder if it has no heads."""
    return (siamese.siamese if trained.has_heads else siamese.encoder)(trained.network)


def dataset_of(
    config: ml_collections.ConfigDict, trained: weights.Trained | None
) -> tuple[str, str | None]:
    """The data set of a job and its folder of TFDS: the training's own where none is named.

    Args:
      config: `dataset` and `data_dir`, each of which may be open.
      trained: the checkpoint that the job reads, if it reads one.

    Raises:
      UserError: neither names a data set.
    """
    if config.dataset or trained is None:
        dataset, data_dir = config.dataset or "", None
    else:
        dataset, data_dir = trained.dataset or "", trained.data_dir
    require(dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    return dataset, config.data_dir or data_dir


def check_networks(trained: weights.Trained, names: Sequence[str]) -> None:
    """Refuses names of networks that a checkpoint does not have.

    Raises:
      UserError: there is no such network.
    """
    for name in names:
        require(name in NETWORKS, f"network={name!r} must be one of: {', '.join(NETWORKS)}")
        require(
            name != "target" or trained.target_params,
            "network=target: this checkpoint has no target network, give network=online",
        )


def network_of(
    trained: weights.Trained, name: str, image_size: int, shuffled: Callable[[], Batches]
) -> tuple[features.Tree, features.Tree]:
    """Parameters and BatchNorm state of one of `NETWORKS`.

    Args:
      trained: the checkpoint.
      name: `online`, `target`, or `random`, which the training's own seed draws and
        `features.calibrate` gives its BatchNorm averages.
      image_size: side of the crops in pixels.
      shuffled: `Split.shuffled` of the fitted images; read for `random` alone.

    Raises:
      UserError: there is no such network.
    """
    check_networks(trained, [name])
    if name == "online":
        return trained.online_params, trained.online_state
    if name == "target":
        return trained.target_params, trained.target_state
    network = siamese_of(trained)
    params, state = init_network(trained.seed, "online", network, image_size)
    crops = (batch["images"] for batch in shuffled())
    return params, features.calibrate(network, params, state, crops)
