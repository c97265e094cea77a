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
      signs: first words of names; a file of the project has at least one of them. Empty where the
        prefix tells enough.
      method: key of `jobs.pretrained.METHODS`, if the file's form tells it.
      licence: terms of the weights that the project's authors published.
      small_padding: one of `resnet.PADDINGS`, for networks with the small stem; all others have
        `torch`.
    """

    name: str
    online: str
    target: str | None = None
    beside: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    method: str | None = None
    licence: str = UNKNOWN_LICENCE
    small_padding: str = "torch"


_HEADS = ("fc", "head", "projector", "predictor", "classifier")
# The first row that fits is taken. A row without signs of one project says no more than where the
# encoder is.
FAMILIES = (
    Family(
        "MoCo v1 or v2",
        "encoder_q.",
        "encoder_k.",
        beside=("fc",),
        signs=("queue",),
        method="moco",
        licence=NON_COMMERCIAL,
    ),
    Family("another project (encoder_q.)", "encoder_q.", "encoder_k.", beside=_HEADS),
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
        "lightly",
        "backbone.",
        "backbone_momentum.",
        beside=_HEADS,
        signs=("backbone_momentum", "projection_head"),
    ),
    Family(
        "solo-learn",
        "backbone.",
        "momentum_backbone.",
        beside=_HEADS,
        signs=("momentum_backbone", "momentum_projector"),
        small_padding="solo-learn",
    ),
    Family("mmselfsup", "backbone.", beside=_HEADS, signs=("neck",)),
    Family("another project (backbone.)", "backbone.", beside=_HEADS),
    # SimSiam's projector is the encoder's fc. Old files of solo-learn have a projector of its own.
    Family(
        "solo-learn",
        "encoder.",
        "momentum_encoder.",
        beside=_HEADS,
        signs=("momentum_encoder", "momentum_projector"),
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
    Family("another project (encoder.)", "encoder.", beside=_HEADS),
    Family(
        "SwAV or DeepCluster v2",
        "",
        beside=("projection_head", "prototypes"),
        signs=("projection_head", "prototypes"),
        licence=NON_COMMERCIAL,
    ),
    Family("another project (torchvision's names)", "", beside=_HEADS),
)
NAMES = (
    "torchvision, timm, MoCo, SimSiam, SwAV, DeepCluster v2, VISSL, solo-learn, lightly, "
    "mmselfsup, lucidrains byol-pytorch"
)
# Parts of names that only say how a network was wrapped: data-parallel and compiled modules.
_WRAPPERS = ("module", "_orig_mod")
# Modules around a whole network, as in training scripts.
_OUTER = ("model.", "learner.", "net.")

# Modules of torchvision's network in their order, for files that count them (lightly's
# `nn.Sequential(*children)`); 2 and 3 are the ReLU and the pool.
_POSITIONS = {"0": "conv1", "1": "bn1"} | {str(i): f"layer{i - 3}" for i in range(4, 8)}


def plain_names(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by names without the words of wrappers, unless two of them would have one name."""
    plain = {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in arrays.items()
    }
    return plain if len(plain) == len(arrays) else dict(arrays)


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


def family_of(arrays: Mapping[str, Any]) -> tuple[Family, dict[str, Any]] | None:
    """The family of a file, by its names, and its arrays; None if no prefix fits.

    Args:
      arrays: as they are in the file.
    """
    plain = plain_names(arrays)
    for outer in ("", *_OUTER):
        inner = below(plain, outer) if outer else plain
        words = {name.partition(".")[0] for name in inner}
        for family in FAMILIES:
            is_one = not family.signs or not words.isdisjoint(family.signs)
            if is_one and "conv1.weight" in below(inner, family.online):
                return family, inner
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
