"""The training behind a network of the papers' tables, as the config of the page that makes it."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from experiments import (
    base,
    byol,
    densecl,
    moco,
    places365,
    simclr,
    simsiam,
    supcon,
    supervised,
)
from experiments.papers.cells import Network

# The pages of the lecture's methods, and the batch of its table where they have another.
_PAGES = {
    "moco": (moco.get_config, ",batch=256"),
    "simsiam": (simsiam.get_config, ",batch=256"),
    "supcon": (supcon.get_config, ""),
    "densecl": (densecl.get_config, ""),
}
# Variants of a method, in words.
VARIANTS: Mapping[str, str] = {
    # Table 17 takes blur and solarization out of its T' (docs/deviations.md, 59).
    "repro": "T and T' of BYOL Table 6, as BYOL's reproduction of SimCLR",
    "baseline": "1000 epochs of crops, colors and blur (SimCLR App. B.8.1)",
    "broader": "broader augmentations (SimCLR App. B.2): simclr.py:augment=broader",
    "v1": "MoCo's first version: moco.py:version=1",
    "usual": "a training that the paper does not describe: here 90 epochs of crops and flips",
}


def page(network: Network) -> str:
    """The page that trains a network, with its options: `byol.py:epochs=1000,depth=50,width=1`."""
    size = f"epochs={network.epochs},depth={network.depth},width={network.width:g}"
    if network.method == "supervised":
        return f"supervised.py:{size},{_labels_of(network)}"
    if network.data == "places365":
        return "places365.py" + ":method=simclr" * (network.method == "simclr")
    if network.method in _PAGES:
        return f"{network.method}.py:{size}{_more_of(network)}"
    return f"{network.method}.py:{size}" + ",augment=broader" * (network.variant == "broader")


def _labels_of(network: Network) -> str:
    """The augmentation of a supervised network.

    That of its "baseline" is the crops, colours and blur of SimCLR's pre-training (SimCLR App.
    B.8.1).
    """
    return "augment=crop" if network.variant == "usual" else "augment=simclr"


def _more_of(network: Network) -> str:
    """The options of the pages of the lecture's methods, behind those of the size."""
    return ",version=1" if network.variant == "v1" else _PAGES[network.method][1]


def _config_of(network: Network) -> ml_collections.ConfigDict:
    """The config of a network's training, its data set aside."""
    size = f"epochs={network.epochs},depth={network.depth},width={network.width:g}"
    if network.method == "supervised":
        return supervised.get_config(f"{size},{_labels_of(network)}")
    if network.data == "places365":
        return places365.get_config(f"method={network.method}")
    if network.method in _PAGES:
        return _PAGES[network.method][0](size + _more_of(network))
    if network.method == "byol":
        return byol.get_config(size)
    config = simclr.get_config(size + ",augment=broader" * (network.variant == "broader"))
    if network.variant == "repro":
        config.augment = base.get_config().augment
    return config


def resolved(network: Network) -> dict[str, Any]:
    """A network of the tables as plain values, with what `jobs.pretrained` needs.

    `page` trains it, `training` is a name for the config of that page, `words` say what its variant
    is, and `operations` are those that its T must have.
    """
    variant = VARIANTS.get(network.variant, "")
    trained_by = "" if network.method == "random" else page(network)
    return {
        **network._asdict(),
        "page": trained_by,
        "training": " ".join(filter(None, (trained_by, network.variant))),
        "words": variant,
        # SimCLR App. B.2 gives no probabilities: any will do.
        "operations": tuple(simclr.BROADER) if network.variant == "broader" else (),
    }


def configs_of(networks: Iterable[Network]) -> tuple[dict[str, Any], ...]:
    """The configs of networks, each once: `name` as in `resolved`, and `config`."""
    named = {resolved(one)["training"]: one for one in networks if one.method != "random"}
    return tuple({"name": name, "config": _config_of(one).to_dict()} for name, one in named.items())
