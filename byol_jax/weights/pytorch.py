"""Encoders that other projects trained with PyTorch, from `.safetensors` and `.pth` files."""

import argparse
import collections
import importlib.util
import logging
import pathlib
import re
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
    ("model", "state_dict"),
    ("teacher",),
    ("model_state_dict",),
    ("classy_state_dict", "base_model", "model", "trunk"),
)


def read(path: pathlib.Path, padding: str | None = None) -> Trained:
    """The encoder of another project, with its moving average where that is saved.

    Args:
      path: a file that ends as `SAFETENSORS` or one of `TORCH`.
      padding: of convolutions and pools, one of `resnet.PADDINGS`; by default that of the family.

    Raises:
      UserError: it cannot be read, or its arrays are not those of a plain ResNet; names the first
        one that does not fit.
    """
    require(path.is_file(), f"checkpoint={path}: there is no such file")
    whole = _safetensors(path) if path.suffix == SAFETENSORS else _torch(path)
    family, arrays = _found(path, whole)
    trees: dict[str, Tree] = {}
    online = families.encoder_of(arrays, family, family.online)
    try:
        spec = layout.spec_of(online)
        is_small = spec.stem == "small"
        usual = family.small_padding if is_small else "torch"
        spec = spec._replace(padding=padding or usual)
        trees["online_params"], trees["online_state"] = _trees(online, spec)
        if family.target and families.below(arrays, family.target):
            target = families.encoder_of(arrays, family, family.target)
            trees["target_params"], trees["target_state"] = _trees(target, spec)
    except UserError as error:
        raise UserError(f"checkpoint={path} ({family.name}) is no plain ResNet: {error}") from error
    if is_small and not padding:
        other, zeros = ("solo-learn", 1) if usual == "torch" else ("torch", 2)
        words = "%s: the small stem is taken to pad by %d, which no file says; otherwise give %s"
        _logger.warning(words, path, zeros, f"{path}:padding={other}")
    return of_weights(
        network=spec,
        section=section_of(spec),
        trees=trees,
        image_size=layout.side_of(spec.stem),
        step=0,
        method=family.method,
        origin=family.name,
        licence=family.licence,
    )


def _found(path: pathlib.Path, whole: Mapping[str, Any]) -> tuple[families.Family, dict[str, Any]]:
    """The family of a file and its arrays, wherever in the file they are.

    Raises:
      UserError: there are none of any family.
    """
    for place in _PLACES:
        found = families.family_of(_at(whole, place))
        if found:
            if place:
                _logger.info("%s: the weights under %s", path, ".".join(place))
            return found
    names = [name for place in _PLACES for name in _at(whole, place)]
    stems = [name for name in names if name.endswith("conv1.weight")] or names or [*whole]
    own = ", ".join(map(str, stems[:3])) + ", ..." * (len(stems) > 3)
    raise UserError(
        f"checkpoint={path} has no encoder where one of these projects has it: {families.NAMES}, "
        f"all with a plain ResNet; it has {own or 'nothing'}"
    )


def _trees(tensors: Mapping[str, Any], spec: siamese.NetworkSpec) -> tuple[Tree, Tree]:
    """Parameters and averages of an encoder, from tensors or arrays of these names.

    Raises:
      UserError: they are others, or some are no finite floating-point numbers.
    """
    layout.require_fit(tensors, spec)
    arrays = {}
    for name, value in tensors.items():
        array = value if isinstance(value, np.ndarray) else _array(name, value)
        if name.endswith(layout.COUNTER):
            is_count = array.size == 1 and array.dtype.kind in "iuf" and array.reshape(())[()] >= 0
            require(is_count, f"{name} is no number of batches")
            array = array.reshape(())
        else:
            is_float = array.dtype.kind == "f"
            require(is_float, f"{name} is {array.dtype}, and must be floating-point numbers")
            require(np.isfinite(array).all(), f"{name} has numbers that are not finite")
        arrays[name] = array
    return layout.from_torch(arrays, spec)


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


def _at(whole: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """The arrays or tensors in one of `_PLACES`; none if there is no such place."""
    values: Any = whole
    for key in place:
        values = values.get(key) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping):
        return {}
    return {str(key): value for key, value in values.items() if hasattr(value, "shape")}


def _safetensors(path: pathlib.Path) -> dict[str, Any]:
    import safetensors.numpy

    try:
        arrays: dict[str, Any] = safetensors.numpy.load_file(path)
    except Exception as error:  # the library has no error of its own for each way to be damaged
        raise UserError(f"checkpoint={path} cannot be read as safetensors: {error}") from error
    return arrays


def _torch(path: pathlib.Path) -> dict[str, Any]:
    """The content of a file of `torch.save`.

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
    except Exception as error:  # pickle, zip and torch each have their own
        raise UserError(f"checkpoint={path} {_reason(error)}") from error
    require(isinstance(content, Mapping), f"checkpoint={path} holds no weights by name")
    plain: dict[str, Any] = dict(content)
    return plain


def _reason(error: Exception) -> str:
    """Why torch did not read a file, in words."""
    other = re.search(r"Unsupported (?:global|class|operand)[^\n]*?(\w+(?:\.\w+)+)", str(error))
    if other:
        return (
            f"holds {other[1]}, which is neither weights nor plain values, and is not run: save "
            "the state_dict alone, or as .safetensors"
        )
    reason = re.sub(r"\x1b\[\d*m", "", " ".join(str(error).split()))
    return f"is no whole file of torch.save: {reason[:200] or type(error).__name__}"


def _array(name: str, tensor: Any) -> np.ndarray:
    """The numbers of a tensor of torch.

    Raises:
      UserError: they are in a format that numpy lacks.
    """
    import torch

    try:
        half = tensor.dtype in (torch.bfloat16, torch.float16)
        array: np.ndarray = (tensor.float() if half else tensor).detach().cpu().numpy()
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise UserError(f"{name} is a tensor that numpy cannot hold") from error
    return array
