"""config.json of an exported folder: how its network is built and fed, for any reader.

The section `byol_jax` is for `byol_resnet.py` and for everyone else. Where timm can hold the
network, the other keys are those that timm reads of a folder (`local-dir:`) or of a model hub.
"""

from typing import Any

from byol_jax.augment import byol
from byol_jax.networks import resnet, siamese
from byol_jax.weights import exported
from byol_jax.weights.trained import Trained

# timm's BatchNorm has no other.
_TIMM_EPS = 1e-5
# Side of the evaluation crop divided by the short side that it is cut from (`crops`).
CROP_SHARES = {"paper": 224 / 256, "released": 0.875, "full": 1.0}
# In a network with the 7x7 stem, SAME pads both sides alike at sides of 32 k + 1 pixels.
_STRIDES = 32


def why_not_timm(spec: siamese.NetworkSpec) -> str | None:
    """Why timm has no such network; None if it has, `resnet` and the depth."""
    if spec.depth == "tiny":
        return "timm has no ResNet of the depth tiny"
    if spec.width != 1:
        return f"timm has no ResNet of width {spec.width:g}"
    if spec.stem != "imagenet":
        return f"timm has no ResNet with the stem {spec.stem}"
    if not resnet.architecture(spec.depth).bottleneck and spec.shortcut == "projection":
        return (
            f"the first group of timm's resnet{spec.depth} has no projection, and the one here has"
        )
    if spec.bn_eps != _TIMM_EPS:
        return f"timm's BatchNorm has an eps of {_TIMM_EPS:g}, and the one here of {spec.bn_eps:g}"
    return None


def timm_size(spec: siamese.NetworkSpec, image_size: int) -> int:
    """Side of the images, in pixels, at which timm's network has the numbers of this one.

    PyTorch pads both sides alike. SAME does at sides of 32 k + 1, so the nearest of them is taken.
    """
    if spec.padding != "same":
        return image_size
    return _STRIDES * max(1, round(image_size / _STRIDES)) + 1


def dim_of(spec: siamese.NetworkSpec) -> int:
    """Numbers in the representation of an image."""
    return resnet.scaled(resnet.architecture(spec.depth).channels[-1], spec.width)


def describe(trained: Trained, name: str, licence_id: str) -> dict[str, Any]:
    """The content of config.json.

    Args:
      trained: the checkpoint.
      name: the network that is exported, `online` or `target`.
      licence_id: the licence as model hubs write it.
    """
    spec, crop = trained.network, trained.cropping.eval_crop
    dim = dim_of(spec)
    colours = {"mean": [*byol.IMAGENET_MEAN], "std": [*byol.IMAGENET_STD]}
    own: dict[str, Any] = {
        "version": exported.VERSION,
        "network": name,
        "step": trained.step,
        "method": trained.method,
        "encoder": exported.spec_section(spec),
        "dim": dim,
        "image_size": trained.image_size,
        "eval_crop": crop,
        "crop_pct": CROP_SHARES[crop],
        "interpolation": "bicubic",
        "antialias": False,
        **colours,
        "license": licence_id,
    }
    if why_not_timm(spec):
        return {exported.KEY: own}
    side = timm_size(spec, trained.image_size)
    if side != trained.image_size:
        own["remark"] = (
            f"pretrained_cfg has {side} pixels and not {trained.image_size}: the padding is SAME, "
            "which at sides of 32 k + 1 pixels is symmetric, as PyTorch's padding always is; at "
            "other sides timm's network gives other numbers, and byol_resnet.py the right ones"
        )
    return {
        "architecture": f"resnet{spec.depth}",
        "num_classes": 0,
        "num_features": dim,
        "global_pool": "avg",
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "fixed_input_size": False,
            "crop_pct": CROP_SHARES[crop],
            "interpolation": "bicubic",
            **colours,
            "num_classes": 0,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": licence_id,
        },
        exported.KEY: own,
    }
