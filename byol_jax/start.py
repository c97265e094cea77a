"""A run that starts from trained weights: `config.init`."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from byol_jax import weights
from byol_jax.errors import UserError, require
from byol_jax.networks import siamese
from byol_jax.program import TrainState

_logger = logging.getLogger(__name__)

# Settings that an encoder must share with its source.
_SETTINGS = ("depth", "width", "stem", "padding", "shortcut")


def start_from(
    state: TrainState, trained: weights.Trained, spec: siamese.NetworkSpec, source: str
) -> TrainState:
    """A state at step 0 with the weights of trained networks.

    The encoders are those of the source; so is each head that it has in the same shapes. Other
    heads stay as they were drawn. A target that the source lacks starts from its online network.

    Args:
      state: the state that was drawn, as host arrays.
      trained: the source.
      spec: network of the run.
      source: name of the source, for messages.

    Raises:
      UserError: the encoder of the source is another one; names the first difference.
    """
    others = {
        name: getattr(trained.network, name)
        for name in _SETTINGS
        if getattr(spec, name) != getattr(trained.network, name)
    }
    flags = " ".join(f"--config.network.{name}={value}" for name, value in others.items())
    require(
        not others, f"config.init={source} has another encoder than config.network: give {flags}"
    )
    online = _taken(state.online_params, state.online_state, trained, "online", source)
    _say_drawn(state.online_params, online[0], source)
    target: dict[str, Any] = {}
    if state.target_params:
        name = "target" if trained.target_params else "online"
        drawn = (state.target_params, state.target_state)
        params, averages = _taken(*drawn, trained, name, source)
        target = {"target_params": params, "target_state": averages}
    return state._replace(online_params=online[0], online_state=online[1], **target)


def _taken(
    params: weights.Tree, state: weights.Tree, trained: weights.Trained, name: str, source: str
) -> tuple[Any, Any]:
    """Parameters and averages of one network, from the source where it has them."""
    theirs = (getattr(trained, f"{name}_params"), getattr(trained, f"{name}_state"))
    difference = _difference(siamese.encoder_params(params), siamese.encoder_params(theirs[0]))
    if difference:
        raise UserError(
            f"config.init={source} has another encoder than config.network: {difference}"
        )
    heads = {module.partition("/")[0] for module in params} & {*siamese.HEADS}
    # A head with a norm that has no parameters shows it in its averages alone.
    drawn = [
        head
        for head in sorted(heads)
        if any(
            _difference(_below(ours, head), _below(others, head))
            for ours, others in zip((params, state), theirs, strict=True)
        )
    ]

    def chosen(ours: weights.Tree, others: weights.Tree) -> dict[str, Any]:
        return {
            module: leaves if module.partition("/")[0] in drawn else dict(others[module])
            for module, leaves in ours.items()
        }

    return chosen(params, theirs[0]), chosen(state, theirs[1])


def _say_drawn(drawn: weights.Tree, taken: weights.Tree, source: str) -> None:
    """Names the heads that are still those that were drawn."""
    heads = {m.partition("/")[0] for m in drawn if drawn[m] is taken[m]} & {*siamese.HEADS}
    if heads:
        _logger.info("config.init: %s drawn: %s has none such", ", ".join(sorted(heads)), source)


def _below(tree: weights.Tree, head: str) -> weights.Tree:
    return {module: leaves for module, leaves in tree.items() if module.split("/")[0] == head}


def _shapes(tree: weights.Tree) -> Mapping[str, tuple[int, ...]]:
    return {
        f"{module}/{leaf}": np.shape(value)
        for module, leaves in tree.items()
        for leaf, value in leaves.items()
    }


def _difference(ours: weights.Tree, others: weights.Tree) -> str:
    """The first array that two trees do not have alike, in words; empty if there is none."""
    own, other = _shapes(ours), _shapes(others)
    for name in [*own, *other]:
        if own.get(name) != other.get(name):
            here, there = (
                [*shapes[name]] if name in shapes else "absent" for shapes in (own, other)
            )
            return f"{name} is {there} there and {here} in this config"
    return ""
