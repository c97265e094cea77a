"""The optimiser of a run: a table of groups of parameters, each trained in its own way.

A group is a role in the network. `Group` says what its program is, `Numbers` has its numbers, and
both stand in a table `Groups`. The state of the optimiser, its slots, is a dict from the name of
the slot and the name of the parameter to an array, whatever chain of transforms fills it.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from byol_jax.optim import lars, schedules

PyTree = Any
Arrays = dict[str, jax.Array]
# By the name of the slot, then by the name of the parameter (a count: by the role of the group).
Slots = dict[str, Arrays]

OPTIMIZERS = ("lars", "sgd", "adam")
# Which parameters of a group: all, or those that are neither biases nor of a norm (BYOL App. A).
ALL, WEIGHTS = "all", "weights"
_MASKS = {ALL: lars.everything, WEIGHTS: lars.adaptation_mask}


class Group(NamedTuple):
    """How the parameters of one role are trained.

    Attributes:
      kind: `lars`, the papers'; `larc`, SwAV's; `sgd`, LARS without the trust ratio; `adam`, Adam
        with decoupled weight decay, which no table has.
      schedule: one of `schedules.RATES`.
      adapted: `all` or `weights`: which parameters have a trust ratio.
      decayed: `all` or `weights`: which parameters have weight decay. LARC decays what it adapts.
    """

    kind: str = "lars"
    schedule: str = "cosine"
    adapted: str = WEIGHTS
    decayed: str = WEIGHTS


class Numbers(NamedTuple):
    """Numbers of a group; all traced, so that none of them costs a compilation.

    Attributes:
      peak_learning_rate: rate at the end of the warm-up, already scaled with the batch size.
      warmup_steps: steps of linear warm-up.
      total_steps: K.
      weight_decay: of the parameters that are decayed.
      trust_coefficient: of LARS and LARC.
      momentum: of LARS, LARC and SGD; of Adam's first moment.
      factor: of the rate: mu and lambda of BYOL Tables 21 and 22. It comes after the trust ratio,
        which would cancel it, and after the momentum.
      frozen_until: the first step at which the group is trained; before it, parameters and slots
        stay as they are. None: always trained, and nothing of it is in the program.
    """

    peak_learning_rate: jax.Array | float
    warmup_steps: jax.Array | int
    total_steps: jax.Array | int
    weight_decay: jax.Array | float
    trust_coefficient: jax.Array | float
    momentum: jax.Array | float
    factor: jax.Array | float = 1.0
    frozen_until: jax.Array | int | None = None


T = TypeVar("T")


class Groups(NamedTuple, Generic[T]):
    """Something for each role of a parameter: of f, g, q, the dense head, the probe, the objective.

    Attributes:
      trunk: f, and what has no other role.
      projector: g.
      predictor: q.
      dense: the head on feature maps.
      probe: the online probe.
      objective: parameters of the objective itself.
    """

    trunk: T
    projector: T
    predictor: T
    dense: T
    probe: T
    objective: T


def everywhere(value: T) -> Groups[T]:
    """The same for all roles."""
    return Groups(*[value] * len(Groups._fields))


LARS = everywhere(Group())

# Modules by role; parameters of the objective have a root of their own.
_MODULES = {
    "projector": "projector",
    "predictor": "predictor",
    "dense": "dense",
    "classifier": "probe",
}
OBJECTIVE = "objective_params"
# Names of a kind's slots, and of optax's fields for them.
_MOMENTUM = {"momentum": "trace"}
_SLOTS = {
    "lars": _MOMENTUM,
    "larc": _MOMENTUM,
    "sgd": _MOMENTUM,
    "adam": {"first_moment": "mu", "second_moment": "nu", "count": "count"},
}


def role_of(name: str) -> str:
    """The role of a parameter, by its path name."""
    root, *modules = name.split("/")
    if root == OBJECTIVE:
        return "objective"
    return next((_MODULES[module] for module in modules if module in _MODULES), "trunk")


def named(tree: PyTree) -> Arrays:
    """Leaves by path name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {lars.path_name(path): leaf for path, leaf in leaves}


def _by_role(params: Arrays) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in params:
        names.setdefault(role_of(name), []).append(name)
    return names


def _chain(
    group: Group, numbers: Numbers, learning_rate: jax.Array | float
) -> optax.GradientTransformation:
    """The transforms of a group.

    The state holds none of the numbers, so that it can be rebuilt with traced ones in every step.

    Raises:
      ValueError: there is no such optimiser.
    """
    adapted, decayed = _MASKS[group.adapted], _MASKS[group.decayed]
    decay = optax.masked(optax.add_decayed_weights(numbers.weight_decay), decayed)
    trace, scale = optax.trace(decay=numbers.momentum), optax.scale(-learning_rate)
    if group.kind == "lars":
        return lars.lars(
            learning_rate,
            weight_decay=numbers.weight_decay,
            trust_coefficient=numbers.trust_coefficient,
            momentum=numbers.momentum,
            adapted=adapted,
            decayed=decayed,
        )
    if group.kind == "larc":
        larc = lars.scale_by_larc(numbers.weight_decay, numbers.trust_coefficient)
        return optax.chain(optax.masked(larc, adapted), trace, scale)
    if group.kind == "sgd":
        return optax.chain(decay, trace, scale)
    if group.kind == "adam":
        return optax.chain(optax.scale_by_adam(b1=numbers.momentum), decay, scale)
    raise ValueError(f"optimizer={group.kind!r} must be one of: {', '.join(_SLOTS)}")


def _with_slots(state: PyTree, kind: str, role: str, names: list[str], slots: Slots) -> PyTree:
    """A chain's state with the slots of a group in their places."""
    for slot, field in _SLOTS[kind].items():
        own = slots[slot]
        value = own[role] if slot == "count" else {name: own[name] for name in names}
        state = optax.tree_utils.tree_set(state, **{field: value})
    return state


def _add_slots(slots: Slots, kind: str, role: str, state: PyTree) -> None:
    for slot, field in _SLOTS[kind].items():
        value = optax.tree_utils.tree_get(state, field)
        slots.setdefault(slot, {}).update({role: value} if slot == "count" else value)


_NO_NUMBERS = Numbers(0.0, 0, 0, 0.0, 0.0, 0.0)


def init(table: Groups[Group], params: PyTree) -> Slots:
    """The slots before step 0."""
    arrays = named(params)
    slots: Slots = {}
    for role, names in _by_role(arrays).items():
        group = getattr(table, role)
        state = _chain(group, _NO_NUMBERS, 0.0).init({name: arrays[name] for name in names})
        _add_slots(slots, group.kind, role, state)
    return slots


def rates(table: Groups[Group], numbers: Groups[Numbers], step: jax.Array) -> Groups[jax.Array]:
    """The learning rate of each group at a step, its factor included."""
    return Groups(
        *(
            schedules.RATES[group.schedule](
                step,
                peak=own.peak_learning_rate,
                warmup_steps=own.warmup_steps,
                total_steps=own.total_steps,
            )
            * own.factor
            for group, own in zip(table, numbers, strict=True)
        )
    )


class Update(NamedTuple):
    """The part of an update that every group shares.

    Attributes:
      table: programs of the groups.
      numbers: their numbers.
      rates: their learning rates at this step.
      step: index of the step.
    """

    table: Groups[Group]
    numbers: Groups[Numbers]
    rates: Groups[jax.Array]
    step: jax.Array


def apply(update: Update, gradients: PyTree, slots: Slots, params: PyTree) -> tuple[PyTree, Slots]:
    """The parameters and slots after a step.

    Args:
      update: what is done.
      gradients: like `params`.
      slots: as of `init`.
      params: a tree whose path names say the roles; its root is `online_params` or `OBJECTIVE`.
    """
    arrays, derivatives = named(params), named(gradients)
    new: Arrays = {}
    new_slots: Slots = {}
    for role, names in _by_role(arrays).items():
        group: Group = getattr(update.table, role)
        numbers: Numbers = getattr(update.numbers, role)
        chain = _chain(group, numbers, getattr(update.rates, role))
        own = {name: arrays[name] for name in names}
        old = _with_slots(chain.init(own), group.kind, role, names, slots)
        updates, state = chain.update({name: derivatives[name] for name in names}, old, own)
        moved = optax.apply_updates(own, updates)
        if numbers.frozen_until is not None:
            is_frozen = update.step < numbers.frozen_until
            moved, state = jax.tree.map(
                lambda a, b, is_frozen=is_frozen: jnp.where(is_frozen, b, a),
                (moved, state),
                (own, old),
            )
        new.update(moved)
        _add_slots(new_slots, group.kind, role, state)
    definition = jax.tree.structure(params)
    return jax.tree.unflatten(definition, [new[name] for name in arrays]), new_slots
