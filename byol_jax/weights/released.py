"""The checkpoints that BYOL's authors released: pickles, read without running what they name.

A pickle is a program. This reader knows the few names that such a file needs, each with a stand-in
that builds plain values; any other name is refused before anything is built. Sizes are compared
with the file's own before memory is taken for them.
"""

import collections
import pathlib
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.networks import resnet, siamese
from byol_jax.networks.heads import HeadSpec
from byol_jax.weights.layout import shapes_of, side_of
from byol_jax.weights.trained import NON_COMMERCIAL, Trained, Tree, of_weights

TREES = ("online_params", "online_state", "target_params", "target_state")
# Fields of the authors' named tuple, which some files name and others hold by value.
_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
# More fields than any named tuple of such a file has.
_MAX_FIELDS = 64


class _StandIn:
    """A function that a pickle may call. A pickle can set attributes, and not on this."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]):
        object.__setattr__(self, "build", build)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"a value for {name} of a function")

    def __call__(self, *args: object) -> Any:
        return self.build(*args)  # type: ignore[attr-defined]


class _Dtype:
    """Stand-in for `numpy.dtype`: numbers alone."""

    def __init__(self, code: str, *_: object):
        if not re.fullmatch(r"[<>|=]?[fiub][1248]", str(code)):
            raise pickle.UnpicklingError(f"arrays of dtype {code!r}")
        self.code, self.order = str(code).lstrip("<>|="), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">", "|", "=") else "="

    @property
    def value(self) -> np.dtype:
        order = "" if self.order == "|" else self.order
        return np.dtype(order + self.code)


class _Array:
    """Stand-in for an array: a view of bytes that are in the file."""

    def __init__(self) -> None:
        self.value = np.zeros(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of something else than numbers")
        # Raises where the bytes are not as many as the shape says.
        flat = np.frombuffer(content, dtype.value)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


class _Inert:
    """An object of optax or Haiku, of which nothing is kept."""

    def __new__(cls, *_: object) -> "_Inert":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        del state


def _new_array(*_: object) -> _Array:
    """For `numpy.core.multiarray._reconstruct`, whatever class and shape it is asked for."""
    return _Array()


_EMPTY_ARRAY = _StandIn(_new_array)


def _array(function: object, args: object, state: tuple[Any, ...], *_: object) -> _Array:
    """For dill's and JAX's functions that rebuild an array with another function."""
    if function is not _EMPTY_ARRAY:
        raise pickle.UnpicklingError("an array that is built by another function")
    array = _Array()
    array.__setstate__(state)
    return array


def _scalar(dtype: object, content: object = b"") -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a scalar that is no number")
    return np.frombuffer(content, dtype.value)[0]


def _encode(text: object, encoding: object = "") -> bytes:
    """For `_codecs.encode`, with which protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _named_tuple(_: object, fields: Any, *__: object) -> type:
    """For dill's `_create_namedtuple`; the name of the class is not needed."""
    names = fields.split() if isinstance(fields, str) else [*fields]
    if len(names) > _MAX_FIELDS:
        raise pickle.UnpicklingError(f"a named tuple of {len(names)} fields")
    return collections.namedtuple("_Fields", names, rename=True)  # type: ignore[misc]


def _plain_dict(values: Any = ()) -> dict[Any, Any]:
    return dict(values)


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_DILL = ("dill._dill", "dill.dill")
# Every name that is known, and what stands in for it.
NAMES: Mapping[tuple[str, str], Callable[..., Any]] = {
    **{(module, "_create_namedtuple"): _StandIn(_named_tuple) for module in _DILL},
    **{(module, "_create_array"): _StandIn(_array) for module in _DILL},
    **{(module, "_reconstruct"): _EMPTY_ARRAY for module in _NUMPY},
    **{(module, "scalar"): _StandIn(_scalar) for module in _NUMPY},
    ("numpy", "ndarray"): _StandIn(_new_array),
    ("numpy", "dtype"): _StandIn(_Dtype),
    ("_codecs", "encode"): _StandIn(_encode),
    ("jax._src.array", "_reconstruct_array"): _StandIn(_array),
    ("jax._src.device_array", "reconstruct_device_array"): _StandIn(_array),
    ("jax.interpreters.xla", "reconstruct_device_array"): _StandIn(_array),
    ("haiku._src.data_structures", "FlatMapping"): _StandIn(_plain_dict),
    ("collections", "OrderedDict"): collections.OrderedDict,
}
# Classes of these packages hold states of optimisers, which are not read.
_INERT = ("optax", "haiku")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in NAMES:
            return NAMES[module, name]
        # A pickle can change a class: each gets one of its own.
        if (module, name) == ("byol.byol_experiment", "_ByolExperimentState"):
            return _named_tuple(name, _FIELDS)
        is_class = re.fullmatch(r"[A-Z]\w*", name) is not None
        if is_class and module.partition(".")[0] in _INERT:
            return type("_Inert", (_Inert,), {})
        raise pickle.UnpicklingError(f"the name {module}.{name}")

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError(f"a reference to {pid!r} outside of the file")


def _check_sizes(path: pathlib.Path) -> None:
    """Walks through a pickle without building anything.

    Raises:
      ValueError: a value is longer than the file, or the table of values is.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for code, argument, _ in pickletools.genops(file):
            # The memo is a list that grows to the largest index.
            if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > size:
                raise ValueError(f"value number {argument} in a file of {size} bytes")
            if code.name.startswith("EXT"):
                raise ValueError("a class by its number")


def _content(path: pathlib.Path) -> Any:
    """The plain values of a pickle.

    Raises:
      UserError: it is not one of the authors'.
    """
    try:
        _check_sizes(path)
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except FileNotFoundError as error:
        raise UserError(f"checkpoint={path}: there is no such file") from error
    except Exception as error:  # whatever a damaged or hostile file makes a pickle raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"checkpoint={path} is not a pickle that BYOL's authors released, and nothing else is "
            f"read from pickles: it has {reason}"
        ) from error


def _tree(path: pathlib.Path, name: str, value: object) -> dict[str, dict[str, np.ndarray]]:
    """A tree of Haiku as plain dicts of arrays, without the suffix of later versions' stems."""
    whole = isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values())
    require(value and whole, f"checkpoint={path}: {name} is no tree of a Haiku network")
    assert isinstance(value, Mapping)
    tree = {}
    for module, leaves in value.items():
        plain = re.sub(r"(/initial_(?:conv|batchnorm))_1(?=/|$)", r"\1", str(module))
        arrays = {str(k): v.value if isinstance(v, _Array) else v for k, v in leaves.items()}
        for leaf, array in arrays.items():
            require(
                isinstance(array, np.ndarray | np.generic),
                f"checkpoint={path}: {name}/{module}/{leaf} is no array",
            )
        tree[plain] = {leaf: np.asarray(array) for leaf, array in arrays.items()}
    return tree


class _Sizes(NamedTuple):
    """What the arrays tell of the network's spec."""

    spec: siamese.NetworkSpec
    section: dict[str, Any]


def _sizes_of(path: pathlib.Path, params: Tree) -> _Sizes:
    """The network that has these parameters, as far as a few of them tell.

    Raises:
      UserError: it has none of the authors' encoders.
    """
    roots = {module.partition("/")[0] for module in params}
    depth = next((d for d, row in resnet.ARCHITECTURES.items() if row.name in roots), None)
    require(depth, f"checkpoint={path} has none of the authors' encoders: {', '.join(roots)}")
    assert depth is not None
    root = resnet.ARCHITECTURES[depth].name
    try:
        *kernel, _, channels = params[f"{root}/~/initial_conv"]["w"].shape
        heads = {
            name: (params[f"{name}/linear"]["w"].shape[1], params[f"{name}/linear_1"]["w"].shape[1])
            for name in ("projector", "predictor")
        }
        classes = params["classifier"]["w"].shape[1]
        bias = "paper" if "b" in params["projector/linear_1"] else "released"
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"checkpoint={path} lacks arrays of the authors' networks: {error}"
        ) from error
    head = {name: HeadSpec(2, hidden, size) for name, (hidden, size) in heads.items()}
    spec = siamese.NetworkSpec(
        depth=depth,
        width=channels / resnet.STEM_CHANNELS,
        stem="imagenet" if [*kernel] == [7, 7] else "small",
        num_classes=classes,
        projector=head["projector"],
        predictor=head["predictor"],
        head_bias=bias,
    )
    section: dict[str, Any] = {
        "depth": spec.depth,
        "width": spec.width,
        "stem": spec.stem,
        "head_bias": bias,
    }
    for name in ("projector", "predictor"):
        section[name] = {"kind": "mlp", "depth": 2, "hidden_size": head[name].hidden_size}
    section["projector"]["output_size"] = spec.projector.output_size
    return _Sizes(spec, section)


def read(path: pathlib.Path) -> Trained:
    """Both networks of a checkpoint in the format of those that BYOL's authors released.

    Args:
      path: a `.pkl` file.

    Raises:
      UserError: it names what such files do not need, or its arrays are not those of the authors'
        networks; names the first one.
    """
    content = _content(path)
    state = content.get("experiment_state") if isinstance(content, Mapping) else None
    values = {name: getattr(state, name, None) for name in TREES}
    require(
        all(value is not None for value in values.values()),
        f"checkpoint={path} holds no pre-training of BYOL's authors: such a file has an "
        f"experiment_state with {', '.join(TREES)}",
    )
    trees = {name: _tree(path, name, value) for name, value in values.items()}
    spec, section = _sizes_of(path, trees["online_params"])
    shapes = dict(zip(("params", "state"), shapes_of(spec, siamese.siamese), strict=True))
    for name, tree in trees.items():
        trees[name] = _checked(path, name, tree, shapes[name.partition("_")[2]])
    step = content.get("step", 0)
    return of_weights(
        network=spec,
        section=section,
        image_size=side_of(spec.stem),
        has_heads=True,
        step=int(np.asarray(step.value if isinstance(step, _Array) else step)),
        origin="BYOL's authors, or their code",
        licence=NON_COMMERCIAL,
        method="byol",
        trees=trees,
    )


def _checked(path: pathlib.Path, name: str, tree: Tree, shapes: Tree) -> Any:
    """A tree with the types of the network's own arrays.

    Raises:
      UserError: names the first array that is missing, too many, or of another shape.
    """
    own = {f"{module}/{leaf}": x for module, leaves in tree.items() for leaf, x in leaves.items()}
    wanted = {f"{m}/{leaf}": x.shape for m, leaves in shapes.items() for leaf, x in leaves.items()}
    for key, shape in wanted.items():
        require(key in own, f"checkpoint={path}: {name} lacks {key}")
        require(
            own[key].shape == shape,
            f"checkpoint={path}: {name}/{key} is {[*own[key].shape]} instead of {[*shape]}",
        )
    for key in own:
        require(key in wanted, f"checkpoint={path}: {name} has {key}, which such networks lack")
    return jax.tree.map(
        lambda leaf, like: np.array(leaf, jnp.dtype(like.dtype)), dict(tree), dict(shapes)
    )
