"""The objectives by name, and the dials that come with each.

Methods are points on dials. An objective of this package is a row of `OBJECTIVES`; one from outside
of it is named `module:function` in `config.objective.name`.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax.checks import nearest
from byol_jax.errors import UserError, require
from byol_jax.objectives import byol, densecl, info_nce, moco, simclr, simsiam, supcon
from byol_jax.objectives.base import Objective
from byol_jax.program import Passes

# The keywords of an objective that are part of the program.
Switches = Mapping[str, Any]


def two_views(count: int, switches: Switches) -> Passes:
    """BYOL's passes: each of two views by itself, online and target."""
    del count, switches
    return Passes()


def query_and_key(count: int, switches: Switches) -> Passes:
    """MoCo's passes: view 1 online and view 2 target, or both ways."""
    del count
    return Passes() if switches.get("symmetric") else Passes(online=((1,),), target=((2,),))


def together(count: int, switches: Switches) -> Passes:
    """SupCon's passes: both views online in one, so they share statistics of BatchNorm."""
    del count, switches
    return Passes(online=((1, 2),), target=())


class Entry(NamedTuple):
    """An objective, and the dials that come with it.

    Attributes:
      make: its constructor. Of its keywords, floats are traced, `axis` is the mapped axis, and all
        others are part of the program.
      passes: `passes(count, switches)` returns the passes for a number of views, given the keywords
        that are part of the program.
      target_update: one of `program.TARGET_UPDATES`.
      has_negatives: whether it compares an image with others of its micro-batch.
      needs_labels: whether it learns from labels.
      needs_dense: whether it reads the outputs of the dense head.
      reads_prediction: whether it reads the outputs of the predictor.
    """

    make: Callable[..., Objective]
    passes: Callable[[int, Switches], Passes] = two_views
    target_update: str = "after"
    has_negatives: bool = True
    needs_labels: bool = False
    needs_dense: bool = False
    reads_prediction: bool = True


OBJECTIVES: Mapping[str, Entry] = {
    "byol": Entry(byol.byol, has_negatives=False),
    "info_nce": Entry(info_nce.info_nce),
    "nt_xent": Entry(simclr.nt_xent),
    "nt_logistic": Entry(simclr.nt_logistic),
    "margin_triplet": Entry(simclr.margin_triplet),
    "simsiam": Entry(simsiam.simsiam, has_negatives=False),
    "supcon": Entry(supcon.supcon, together, needs_labels=True, reads_prediction=False),
    # Their negatives are in the queue.
    "moco": Entry(moco.moco, query_and_key, "before", has_negatives=False, reads_prediction=False),
    "densecl": Entry(
        *(densecl.densecl, query_and_key, "before"),
        has_negatives=False,
        needs_dense=True,
        reads_prediction=False,
    ),
}


def entry_of(config: ml_collections.ConfigDict) -> Entry:
    """The objective that a config names.

    Only pre-training asks for it: a module from outside is never imported because a checkpoint
    names it.

    Raises:
      UserError: there is no such objective, its module cannot be imported, or it does not take a
        keyword that the config has for it.
    """
    name: str = config.objective.name
    if name in OBJECTIVES:
        entry, section = OBJECTIVES[name], name
    elif ":" in name:
        entry, section = _from_outside(name), "own"
    else:
        raise UserError(
            f"config.objective.name={name!r} must be one of: {', '.join(OBJECTIVES)}; or "
            f"module:function, an objective of your own{nearest(name, OBJECTIVES)}"
        )
    allowed = [key for key in inspect.signature(entry.make).parameters if key != "axis"]
    for key in config.objective[section]:
        require(
            key in allowed,
            f"config.objective.{section}.{key} is no keyword of config.objective.name={name}, "
            f"whose keywords are: {', '.join(allowed) or 'none'}{nearest(key, allowed)}",
        )
    return entry


@functools.lru_cache(maxsize=8)
def _from_outside(name: str) -> Entry:
    module, _, function = name.partition(":")
    key = f"config.objective.name={name}"
    try:
        value: Any = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # any error of the user's module
        reason = " ".join(str(error).split()) or "no message"
        raise UserError(
            f"{key}: importing {module} failed with {type(error).__name__}: {reason}"
        ) from error
    require(
        isinstance(value, Entry) or callable(value),
        f"{key}: {module} has no function {function!r}; it must make an objective (docs/adding.md)",
    )
    return value if isinstance(value, Entry) else Entry(value, has_negatives=False)


def keywords_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the config has for the constructor of its objective."""
    name = config.objective.name
    return config.objective[name if name in OBJECTIVES else "own"].to_dict()


def switches_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The keywords of the objective that are part of the program: all that are no floats."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in keywords_of(config).items()
        if not isinstance(value, float)
    }


def numbers_of(config: ml_collections.ConfigDict) -> dict[str, float]:
    """The keywords of the objective that are numbers, traced in the step."""
    return {k: v for k, v in keywords_of(config).items() if isinstance(v, float)}
