"""The checkpoints that BYOL's authors released: pickles, read without running what they name.

`pickles` gives plain values; here names and shapes of all arrays are compared with those of the
authors' network.
"""

import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.errors import UserError, require
from byol_jax.networks import resnet, siamese
from byol_jax.networks.heads import HeadSpec
from byol_jax.weights import pickles
from byol_jax.weights.layout import shapes_of, side_of
from byol_jax.weights.trained import NON_COMMERCIAL, Trained, Tree, of_weights

TREES = ("online_params", "online_state", "target_params", "target_state")


def content_of(path: pathlib.Path) -> Any:
    """The plain values of a pickle.

    Raises:
      UserError: it is not one of the authors'.
    """
    try:
        return pickles.read(path)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint={path}: there is no such file") from error
    except (OSError, pickles.Refused) as error:
        raise UserError(
            f"checkpoint={path} is not a pickle that BYOL's authors released, and no other pickles "
            f"are read: it has {error}"
        ) from error


def _tree(path: pathlib.Path, name: str, value: object) -> dict[str, dict[str, np.ndarray]]:
    """A tree of Haiku as plain dicts of arrays, without the suffix of later versions' stems."""
    whole = isinstance(value, dict) and all(isinstance(leaves, dict) for leaves in value.values())
    require(value and whole, f"checkpoint={path}: {name} is no tree of a Haiku network")
    assert isinstance(value, dict)
    tree: dict[str, dict[str, np.ndarray]] = {}
    for module, leaves in value.items():
        plain = re.sub(r"(/initial_(?:conv|batchnorm))_1(?=/|$)", r"\1", module)
        tree[plain] = {}
        for leaf, own in leaves.items():
            array = own.value if isinstance(own, pickles.Array) else own
            require(
                isinstance(array, np.ndarray | np.generic),
                f"checkpoint={path}: {name}/{plain!r}/{leaf!r} is no array",
            )
            tree[plain][leaf] = np.asarray(array)
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
    content = content_of(path)
    state = content.get("experiment_state") if isinstance(content, dict) else None
    values = {name: state.get(name) if isinstance(state, dict) else None for name in TREES}
    require(
        all(value is not None for value in values.values()),
        f"checkpoint={path} holds no pre-training of BYOL's authors: such a file has an "
        f"experiment_state with {', '.join(TREES)}",
    )
    trees = {name: _tree(path, name, value) for name, value in values.items()}
    # Arrays may share bytes of the file, and each is copied.
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    require(
        total <= path.stat().st_size,
        f"checkpoint={path} has arrays of {total} bytes, more than the file",
    )
    spec, section = _sizes_of(path, trees["online_params"])
    shapes = dict(zip(("params", "state"), shapes_of(spec, siamese.siamese), strict=True))
    for name, tree in trees.items():
        trees[name] = _checked(path, name, tree, shapes[name.partition("_")[2]])
    return of_weights(
        network=spec,
        section=section,
        image_size=side_of(spec.stem),
        step=_step(path, content.get("step", 0)),
        origin="BYOL's authors, or their code",
        licence=NON_COMMERCIAL,
        method="byol",
        trees=trees,
    )


def _step(path: pathlib.Path, value: object) -> int:
    """The number of finished updates."""
    array = np.asarray(value.value if isinstance(value, pickles.Array) else value)
    is_count = array.size == 1 and array.dtype.kind in "iu" and int(array.reshape(())) >= 0
    require(is_count, f"checkpoint={path}: its step is no whole number from 0 on")
    return int(array.reshape(()))


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
        require(key in wanted, f"checkpoint={path}: {name} has {key!r}, and the network has not")
    return jax.tree.map(
        lambda leaf, like: np.array(leaf, jnp.dtype(like.dtype)), dict(tree), dict(shapes)
    )
