"""Where the checkpoints of other projects keep their encoder: one row per family."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from byol_jax.weights.layout import ROOTS
from byol_jax.weights.trained import NON_COMMERCIAL, UNKNOWN_LICENCE


class Family(NamedTuple):
    """How one project saves its networks with PyTorch.

    Attributes:
      name: the project, or projects that save alike, in words.
      online: prefix of the names of the encoder.
      target: prefix of the names of its moving average, where it is saved.
      beside: first words of other names behind the prefix of the encoder, of heads that are left
        out.
      signs: first words of names, of which a file has at least one; none are needed where the
        prefix tells enough.
      method: key of `jobs.pretrained.METHODS`, if the file's form tells it.
      licence: terms of the weights that the project's authors published.
      padding: of convolutions and pools, one of `resnet.PADDINGS`.
      small_padding: the same, of networks with the small stem.
    """

    name: str
    online: str
    target: str | None = None
    beside: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    method: str | None = None
    licence: str = UNKNOWN_LICENCE
    padding: str = "torch"
    small_padding: str = "torch"


_HEADS = ("fc", "head", "projector", "predictor", "classifier")
# The first row that fits is taken. `module.`, which data-parallel training puts before all names,
# has been left out of them.
FAMILIES = (
    Family(
        "byol-convert (weights of BYOL's authors)",
        "encoder_q.",
        "encoder_k.",
        beside=_HEADS,
        signs=("predict_q",),
        method="byol",
        licence=NON_COMMERCIAL,
        padding="same",
        small_padding="same",
    ),
    Family(
        "MoCo v1 and v2",
        "encoder_q.",
        "encoder_k.",
        beside=("fc",),
        method="moco",
        licence=NON_COMMERCIAL,
    ),
    Family(
        "MoCo v3",
        "base_encoder.",
        "momentum_encoder.",
        beside=("fc", "head"),
        licence=NON_COMMERCIAL,
    ),
    Family("lucidrains byol-pytorch", "online_encoder.net.", "target_encoder.net.", beside=_HEADS),
    Family("VISSL", "trunk._feature_blocks.", beside=_HEADS),
    Family("VISSL", "_feature_blocks.", beside=_HEADS),
    Family(
        "solo-learn",
        "backbone.",
        "momentum_backbone.",
        beside=_HEADS,
        signs=("momentum_backbone", "momentum_projector", "projector", "classifier", "predictor"),
        small_padding="solo-learn",
    ),
    Family("lightly", "backbone.", "backbone_momentum.", beside=_HEADS, signs=("projection_head",)),
    Family("mmselfsup", "backbone.", beside=_HEADS, signs=("neck", "head")),
    Family("a network under backbone.", "backbone.", beside=_HEADS),
    # SimSiam's projector is the encoder's fc. Old files of solo-learn have a projector of its own.
    Family(
        "solo-learn",
        "encoder.",
        "momentum_encoder.",
        beside=_HEADS,
        signs=("projector", "classifier", "momentum_encoder"),
        small_padding="solo-learn",
    ),
    Family(
        "SimSiam",
        "encoder.",
        beside=("fc",),
        signs=("predictor",),
        method="simsiam",
        licence=NON_COMMERCIAL,
    ),
    Family("a network under encoder.", "encoder.", beside=_HEADS),
    Family(
        "SwAV and DeepCluster v2",
        "",
        beside=("projection_head", "prototypes"),
        signs=("projection_head", "prototypes"),
        licence=NON_COMMERCIAL,
    ),
    Family("torchvision or timm", "", beside=_HEADS),
)
NAMES = ", ".join(dict.fromkeys(family.name for family in FAMILIES if " under " not in family.name))

# Modules of torchvision's network in their order, for files that count them (lightly's
# `nn.Sequential(*children)`); 2 and 3 are the ReLU and the pool.
_POSITIONS = {"0": "conv1", "1": "bn1"} | {str(i): f"layer{i - 3}" for i in range(4, 8)}


def plain_names(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays without the prefix `module.` that data-parallel training gives to all of them."""
    if arrays and all(name.startswith("module.") for name in arrays):
        return {name.removeprefix("module."): value for name, value in arrays.items()}
    return dict(arrays)


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with a prefix, without it; positions become names."""
    own = {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
    if "conv1.weight" not in own and "0.weight" in own:
        named = {}
        for name, value in own.items():
            position, _, rest = name.partition(".")
            named[f"{_POSITIONS.get(position, position)}.{rest}"] = value
        return named
    return own


def family_of(arrays: Mapping[str, Any]) -> Family | None:
    """The family of a file, by its names; None if it has no first convolution under any prefix.

    Args:
      arrays: by `plain_names`.
    """
    words = {name.partition(".")[0] for name in arrays}
    for family in FAMILIES:
        is_one = not family.signs or not words.isdisjoint(family.signs)
        if is_one and "conv1.weight" in below(arrays, family.online):
            return family
    return None


def encoder_of(arrays: Mapping[str, Any], family: Family, prefix: str) -> dict[str, Any]:
    """The arrays below a prefix that belong to the encoder, or might.

    What is named like a head of the family is left out; other names stay, so that a network with
    further layers is not taken for a plain one.
    """
    own = below(arrays, prefix)
    return {
        name: value
        for name, value in own.items()
        if name.partition(".")[0] in ROOTS or name.partition(".")[0] not in family.beside
    }
