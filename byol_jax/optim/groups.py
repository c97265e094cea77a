"""The optimiser of a run: a table of groups of parameters, each trained in its own way.

A group holds the parameters of one role, such as the projector. `Group` says how they are trained,
`Numbers` with which numbers, and a table `Groups` has an entry per role. The state of the
optimiser, its slots, maps the name of a slot and the name of a parameter to an array. It does not
depend on the chain of transforms that fills it.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from byol_jax.optim import lars, schedules

PyTree = Any
Arrays = dict[str, jax.Array]
# By name of the slot, then by name of the parameter. A count is kept per group, by its role.
Slots = dict[str, Arrays]

OPTIMIZERS = ("lars", "sgd", "adam")
# Parameters of a group: all, or all except biases and those of normalisations (BYOL App. A).
ALL, WEIGHTS = "all", "weights"
_MASKS = {ALL: lars.everything, WEIGHTS: lars.adaptation_mask}


class Group(NamedTuple):
    """How the parameters of one role are trained.

    Attributes:
      kind: `lars`, the optimiser of BYOL and SimCLR; `larc`, that of SwAV; `sgd`, LARS without the
        trust ratio; `adam`, Adam with decoupled weight decay, which no table of the papers uses.
      schedule: schedule of the learning rate, a key of `schedules.RATES`.
      adapted: which parameters have a trust ratio, `all` or `weights`.
      decayed: which parameters have weight decay, `all` or `weights`. LARC ignores it and decays
        the parameters that have a trust ratio.
    """

    kind: str = "lars"
    schedule: str = "cosine"
    adapted: str = WEIGHTS
    decayed: str = WEIGHTS


class Numbers(NamedTuple):
    """Numbers of a group. All are traced, so other values need no compilation.

    Attributes:
      peak_learning_rate: rate at the end of the warm-up, already scaled with the batch size.
      warmup_steps: number of steps of linear warm-up.
      total_steps: K, the number of steps of the schedule.
      weight_decay: coefficient of weight decay.
      trust_coefficient: trust coefficient of LARS and LARC.
      momentum: momentum of LARS, LARC and SGD; decay rate of Adam's first moment.
      factor: factor on the learning rate: mu and lambda of BYOL Tables 21 and 22. It applies after
        the trust ratio, which would cancel it, and after the momentum.
      frozen_until: index of the first step that trains the group. Before it, parameters and slots
        stay as they are. None trains the group from the start, and the compiled step then has no
        test for it.
      start, end: rates at the first and the last step, as shares of the peak, for
        `schedules.whole_cosine_rate`.
      milestones: shares of the run, for `schedules.step_rate`.
    """

    peak_learning_rate: jax.Array | float
    warmup_steps: jax.Array | int
    total_steps: jax.Array | int
    weight_decay: jax.Array | float
    trust_coefficient: jax.Array | float
    momentum: jax.Array | float
    factor: jax.Array | float = 1.0
    frozen_until: jax.Array | int | None = None
    start: jax.Array | float = 0.0
    end: jax.Array | float = 0.0
    milestones: tuple[jax.Array | float, ...] = ()


T = TypeVar("T")


class Groups(NamedTuple, Generic[T]):
    """An entry per role that a parameter can have.

    Attributes:
      trunk: entry of f, and of all parameters without another role.
      projector: entry of g.
      predictor: entry of q.
      dense: entry of the head on feature maps.
      probe: entry of the online probe.
      objective: entry of the parameters of the objective itself.
    """

    trunk: T
    projector: T
    predictor: T
    dense: T
    probe: T
    objective: T


def everywhere(value: T) -> Groups[T]:
    """A table with the same entry for every role."""
    return Groups(*[value] * len(Groups._fields))


LARS = everywhere(Group())

# Role by module. Parameters of the objective have a root of their own.
_MODULES = {
    "projector": "projector",
    "predictor": "predictor",
    "dense": "dense",
    "classifier": "probe",
}
OBJECTIVE = "objective_params"
# Slots of each kind: their names here, and the names of optax's fields for them.
_MOMENTUM = {"momentum": "trace"}
_SLOTS = {
    "lars": _MOMENTUM,
    "larc": _MOMENTUM,
    "sgd": _MOMENTUM,
    "adam": {"first_moment": "mu", "second_moment": "nu", "count": "count"},
}


def role_of(name: str) -> str:
    """The role of a parameter, from its path name."""
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

    Their state holds none of the numbers, so each step can build the chain from traced numbers.

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
    """The state of a chain, filled with the slots of a group."""
    for slot, field in _SLOTS[kind].items():
        arrays = slots[slot]
        value = arrays[role] if slot == "count" else {name: arrays[name] for name in names}
        state = optax.tree_utils.tree_set(state, **{field: value})
    return state


def _add_slots(slots: Slots, kind: str, role: str, state: PyTree) -> None:
    """Adds the slots of a group, from the state of its chain."""
    for slot, field in _SLOTS[kind].items():
        value = optax.tree_utils.tree_get(state, field)
        slots.setdefault(slot, {}).update({role: value} if slot == "count" else value)


_NO_NUMBERS = Numbers(0.0, 0, 0, 0.0, 0.0, 0.0)


def init(table: Groups[Group], params: PyTree) -> Slots:
    """The slots before step 0, all zero."""
    arrays = named(params)
    slots: Slots = {}
    for role, names in _by_role(arrays).items():
        group = getattr(table, role)
        state = _chain(group, _NO_NUMBERS, 0.0).init({name: arrays[name] for name in names})
        _add_slots(slots, group.kind, role, state)
    return slots


def rates(table: Groups[Group], numbers: Groups[Numbers], step: jax.Array) -> Groups[jax.Array]:
    """The learning rate of each group at a step, including its factor."""
    return Groups(
        *(
            schedules.RATES[group.schedule](
                step,
                peak=values.peak_learning_rate,
                warmup_steps=values.warmup_steps,
                total_steps=values.total_steps,
                **{name: getattr(values, name) for name in schedules.EXTRA.get(group.schedule, ())},
            )
            * values.factor
            for group, values in zip(table, numbers, strict=True)
        )
    )


class Update(NamedTuple):
    """The part of an update that all groups share.

    Attributes:
      table: how each group is trained.
      numbers: numbers of each group.
      rates: learning rate of each group at this step.
      step: index of the step, from 0.
    """

    table: Groups[Group]
    numbers: Groups[Numbers]
    rates: Groups[jax.Array]
    step: jax.Array


def apply(update: Update, gradients: PyTree, slots: Slots, params: PyTree) -> tuple[PyTree, Slots]:
    """The parameters and slots after a step.

    Args:
      update: table, numbers and rates of the groups at this step.
      gradients: gradients, in the structure of `params`.
      slots: slots of all groups, in the structure that `init` returns.
      params: parameters. Their path names give their roles and start with `online_params` or
        `OBJECTIVE`.
    """
    arrays, derivatives = named(params), named(gradients)
    new: Arrays = {}
    new_slots: Slots = {}
    for role, names in _by_role(arrays).items():
        group: Group = getattr(update.table, role)
        numbers: Numbers = getattr(update.numbers, role)
        chain = _chain(group, numbers, getattr(update.rates, role))
        before = {name: arrays[name] for name in names}
        old = _with_slots(chain.init(before), group.kind, role, names, slots)
        updates, state = chain.update({name: derivatives[name] for name in names}, old, before)
        moved = optax.apply_updates(before, updates)
        if numbers.frozen_until is not None:
            is_frozen = update.step < numbers.frozen_until
            moved, state = jax.tree.map(
                lambda a, b, is_frozen=is_frozen: jnp.where(is_frozen, b, a),
                (moved, state),
                (before, old),
            )
        new.update(moved)
        _add_slots(new_slots, group.kind, role, state)
    definition = jax.tree.structure(params)
    return jax.tree.unflatten(definition, [new[name] for name in arrays]), new_slots
