"""The networks of a checkpoint, as evaluations use them."""

import contextlib
import contextvars
import functools
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence

import haiku as hk
import ml_collections

from byol_jax import weights
from byol_jax.data import sources
from byol_jax.errors import UserError, require
from byol_jax.evals import features
from byol_jax.evals.splits import Batches
from byol_jax.networks import siamese
from byol_jax.networks.siamese import init_network
from byol_jax.runtime import checkpoints

_logger = logging.getLogger(__name__)

# Networks of a checkpoint; `random` is its online network at initialisation, with calibrated
# BatchNorm averages.
NETWORKS = ("random", "target", "online")


def load_weights(config: ml_collections.ConfigDict, arrays: bool = True) -> weights.Trained:
    """The networks in `config.checkpoint`.

    Args:
      config: config of the job.
      arrays: whether arrays are needed; see `weights.load`.

    Raises:
      UserError: it is not given, or is not a checkpoint with an encoder.
    """
    require(config.checkpoint, f"config.checkpoint is needed: {weights.KINDS}")
    try:
        return weights.load(config.checkpoint, arrays)
    except UserError as error:  # which knows the path alone
        raise UserError(str(error).replace("checkpoint=", "config.checkpoint=", 1)) from error


def require_start(config: ml_collections.ConfigDict) -> None:
    """Refuses a training without a network to start from.

    Raises:
      UserError: there is neither a checkpoint nor `config.network=random`.
    """
    require(
        config.checkpoint or config.network == "random",
        f"config.checkpoint is needed: {weights.KINDS} (only config.network=random can do without)",
    )


def siamese_of(trained: weights.Trained) -> hk.TransformedWithState:
    """The function of both networks of a checkpoint, or of its encoder if it has no heads."""
    return (siamese.siamese if trained.has_heads else siamese.encoder)(trained.network)


def dataset_of(
    config: ml_collections.ConfigDict, trained: weights.Trained | None
) -> tuple[str, str | None]:
    """The data set of a job and its folder of TFDS: the training's own where none is named.

    A checkpoint may be a stranger's. So what it names on this disk is said before it is opened, and
    no name of it brings code of others.

    Args:
      config: `dataset` and `data_dir`, each of which may be open.
      trained: the checkpoint that the job reads, if it reads one.

    Raises:
      UserError: neither names a data set; or the checkpoint names one of a namespace of TFDS.
    """
    given = config.dataset or trained is None
    dataset = (config.dataset if given or trained is None else trained.dataset) or ""
    require(dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    if given or trained is None:
        return dataset, config.data_dir
    _check_namespace(dataset)
    if not _IS_OWN.get():
        _tell(dataset, None if config.data_dir else trained.data_dir)
    return dataset, config.data_dir or trained.data_dir


# `tfds:NAME[/CONFIG][:VERSION]`. Before NAME there may be a namespace, whose code TFDS would fetch.
_TFDS_NAME = re.compile(r"tfds:[^:]*(:[0-9.*]+)?")
_IS_OWN = contextvars.ContextVar("_IS_OWN", default=False)


@contextlib.contextmanager
def own_run() -> Iterator[None]:
    """Within it, a checkpoint is of the run that the user has just started: nothing is said."""
    token = _IS_OWN.set(True)
    try:
        yield
    finally:
        _IS_OWN.reset(token)


def _check_namespace(dataset: str) -> None:
    """Refuses a data set of a namespace, unless the command line names it.

    Raises:
      UserError: there is a colon in its name.
    """
    require(
        not dataset.startswith("tfds:") or _TFDS_NAME.fullmatch(dataset),
        f"the checkpoint names the data set {dataset}, and TFDS would fetch and run code of that "
        f"namespace: give --config.dataset={dataset} if you trust it, or another",
    )


@functools.cache  # said once, not for each checkpoint of a run
def _tell(dataset: str, data_dir: str | None) -> None:
    """Says which place on this disk a checkpoint names."""
    if dataset.partition(":")[0] in ("folder", "npz"):
        what = f"{dataset}, which the checkpoint names: give --config.dataset"
    elif data_dir:
        what = f"{dataset} in {data_dir}, which the checkpoint names: give --config.data_dir"
    else:
        return
    _logger.info("reading %s to read another", what)


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


def checksum(trained: weights.Trained) -> int:
    """A checksum of all weights of a checkpoint."""
    trees = {
        name: tree
        for name, tree in trained._asdict().items()
        if name.endswith(("_params", "_state"))
    }
    checksum = 0
    for name, leaf in sorted(checkpoints.flatten(trees).items()):
        checksum = zlib.crc32(leaf.tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum
