"""Encoders that other projects trained with PyTorch, from `.safetensors` and `.pth` files."""

import argparse
import collections
import importlib.util
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.networks import siamese
from byol_jax.weights import families, layout
from byol_jax.weights.trained import Trained, Tree, of_weights

_logger = logging.getLogger(__name__)

# Endings of files that `torch.save` wrote.
TORCH = (".pth", ".pt", ".tar", ".ckpt", ".torch", ".bin")
SAFETENSORS = ".safetensors"
# Where the arrays may be in a file: keys of nested dicts.
_PLACES = (
    (),
    ("state_dict",),
    ("model",),
    ("model_state_dict",),
    ("classy_state_dict", "base_model", "model", "trunk"),
)


def read(path: pathlib.Path) -> Trained:
    """The encoder of another project, with its moving average where that is saved.

    Args:
      path: a file that ends as `SAFETENSORS` or one of `TORCH`.

    Raises:
      UserError: it cannot be read, or its arrays are not those of a plain ResNet; names the first
        one that does not fit.
    """
    require(path.is_file(), f"checkpoint={path}: there is no such file")
    whole = _safetensors(path) if path.suffix == SAFETENSORS else _torch(path)
    arrays = next(filter(families.family_of, (_at(whole, place) for place in _PLACES)), None)
    require(
        arrays is not None,
        f"checkpoint={path} has no first convolution conv1.weight where one of these would have "
        f"it: {families.NAMES}",
    )
    assert arrays is not None
    family = families.family_of(arrays)
    assert family is not None
    trees: dict[str, Tree] = {}
    online = families.encoder_of(arrays, family, family.online)
    try:
        spec = layout.spec_of(online)
        is_small = spec.stem == "small"
        spec = spec._replace(padding=family.small_padding if is_small else family.padding)
        layout.require_fit(online, spec)
        trees["online_params"], trees["online_state"] = layout.from_torch(online, spec)
        if family.target and families.below(arrays, family.target):
            target = families.encoder_of(arrays, family, family.target)
            layout.require_fit(target, spec)
            trees["target_params"], trees["target_state"] = layout.from_torch(target, spec)
    except UserError as error:
        raise UserError(f"checkpoint={path} ({family.name}) is no plain ResNet: {error}") from error
    _logger.info("%s: ResNet-%s, weights of %s", path, spec.depth, family.name)
    return of_weights(
        network=spec,
        section=section_of(spec),
        trees=trees,
        image_size=layout.side_of(spec.stem),
        has_heads=False,
        step=0,
        method=family.method,
        origin=family.name,
        licence=family.licence,
    )


def section_of(spec: siamese.NetworkSpec) -> dict[str, Any]:
    """The section `network` of a config whose encoder is that of `spec`, and which has no heads."""
    return {
        "depth": spec.depth,
        "width": spec.width,
        "stem": spec.stem,
        "padding": spec.padding,
        "shortcut": spec.shortcut,
        "projector": {"kind": "none"},
        "predictor": {"kind": "none"},
    }


def _at(whole: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays in one of `_PLACES`; none if there is no such place."""
    values: Any = whole
    for key in place:
        values = values.get(key) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping):
        return {}
    arrays = {str(key): value for key, value in values.items() if isinstance(value, np.ndarray)}
    return families.plain_names(arrays)


def _safetensors(path: pathlib.Path) -> dict[str, Any]:
    import safetensors.numpy

    try:
        arrays: dict[str, Any] = safetensors.numpy.load_file(path)
    except Exception as error:  # the library has no error of its own for each way to be damaged
        raise UserError(f"checkpoint={path} is no whole safetensors file: {error}") from error
    return arrays


def _torch(path: pathlib.Path) -> dict[str, Any]:
    """The content of a file of `torch.save`, with arrays in place of tensors.

    Nothing in the file is executed: only tensors, plain values and records of settings are read.
    """
    require(
        importlib.util.find_spec("torch"),
        f"checkpoint={path} needs torch to be read: pip install torch, or give a .safetensors file",
    )
    import torch

    numpy_scalar = np.float64(0).__reduce__()[0]
    known: list[Any] = [argparse.Namespace, collections.defaultdict, np.dtype, numpy_scalar]
    known += [(numpy_scalar, "numpy.core.multiarray.scalar")]
    known += [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip, torch: whatever is wrong with the file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise UserError(
            f"checkpoint={path} is no file of torch.save that can be read without running code: "
            f"{reason}"
        ) from error
    require(isinstance(content, Mapping), f"checkpoint={path} holds no weights by name")
    plain: dict[str, Any] = _plain(content)
    return plain


def _plain(value: Any) -> Any:
    """Arrays for tensors, in nested dicts."""
    import torch

    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if not isinstance(value, torch.Tensor) or value.is_sparse:
        return value
    is_half = value.dtype in (torch.bfloat16, torch.float16)
    return (value.float() if is_half else value).detach().numpy()
