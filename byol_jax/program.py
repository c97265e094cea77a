"""What a run is: the dials of its method, its state, its numbers, and its forward passes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.networks import siamese
from byol_jax.objectives import byol
from byol_jax.objectives.base import Objective, Outputs, State
from byol_jax.optim import groups as groups_of
from byol_jax.optim.groups import Group, Groups, Numbers, Slots

PyTree = Any
# Normalised views `[B, H, W, 3]` by number, from 1; sizes may differ.
Views = Mapping[int, jax.Array]


# What the predictions are compared with: the moving average of Eq. 1; the online network itself,
# behind a stop-gradient or not (Table 19); the network of step 0 (Table 5a).
TARGETS = ("ema", "stop_gradient", "online", "constant")
# When Eq. 1 moves the target: behind the online network (lines 10 and 11 of Algorithm 1), or ahead
# of the forward passes, by the online parameters that the step starts from (MoCo).
TARGET_UPDATES = ("after", "before")
# Whose images BatchNorm takes its statistics of: those of all devices (pseudo-code J.1); of each
# device by itself (SimCLR section 2.2 calls it local); of each device, after the target's images
# were dealt out to the devices anew (MoCo's shuffled BatchNorm).
BN_STATISTICS = ("global", "local", "shuffled")


class Passes(NamedTuple):
    """Which views go through which network, and together with which.

    A group is one forward pass of f, its views concatenated in their order, so BatchNorm statistics
    are those of the group.

    Attributes:
      online, target: groups of view numbers.
      head: `group`, g and q pass each group by itself; `all`, all groups of a network at once.
    """

    online: tuple[tuple[int, ...], ...] = ((1,), (2,))
    target: tuple[tuple[int, ...], ...] = ((1,), (2,))
    head: str = "group"


class Method(NamedTuple):
    """Dials that change the program; its numbers are `Hyperparameters`. BYOL by default.

    Attributes:
      objective: makes the objective of its numbers, traced or by default.
      target: one of `TARGETS`.
      target_update: one of `TARGET_UPDATES`.
      optimal_predictor: predicts with the best linear map of each batch (App. J.2).
      passes: which views go through which network.
      groups: how each group of parameters is trained.
      bn_statistics: one of `BN_STATISTICS`.
    """

    objective: Callable[..., Objective] = byol.byol
    target: str = "ema"
    target_update: str = "after"
    optimal_predictor: bool = False
    passes: Passes = Passes()
    groups: Groups[Group] = groups_of.LARS
    bn_statistics: str = "global"

    @property
    def has_target_network(self) -> bool:
        """Whether xi are parameters of their own."""
        return self.target in ("ema", "constant")


BYOL = Method()


class Program(NamedTuple):
    """What is compiled.

    Attributes:
      network: `siamese(spec)`, with `spec.bn_axis` equal to `axis`, or None where statistics of
        BatchNorm are not global.
      method: the dials.
      axis: mapped axis of the devices, or None.
    """

    network: hk.TransformedWithState
    method: Method = BYOL
    axis: str | None = None


class Trainable(NamedTuple):
    """What the optimiser trains: theta, with the probe, and the objective's own parameters."""

    online_params: hk.Params
    objective_params: PyTree


class TrainState(NamedTuple):
    """All that a run carries from one step to the next.

    Attributes:
      step: index of the next step, int32 scalar.
      online_params, online_state: theta, with the probe, and its BatchNorm averages.
      target_params, target_state: xi, a tree like theta; its own BatchNorm averages
        are never mixed with the online ones (docs/deviations.md, 15). Empty trees where the
        target is the online network.
      objective_params, objective_state: what the objective itself trains and carries.
      slots: state of the optimiser, by the names of slot and parameter; for LARS the momentum.
      finite: whether every step so far was; once it is False no later step changes
        the state, which stays the last good one.
    """

    step: jax.Array
    online_params: hk.Params
    online_state: hk.State
    target_params: hk.Params
    target_state: hk.State
    objective_params: PyTree
    objective_state: State
    slots: Slots
    finite: jax.Array


class Hyperparameters(NamedTuple):
    """Numbers of a run; all traced, so that none of them costs a compilation.

    Attributes:
      groups: rates, decay, momentum of each group of parameters.
      total_steps: K.
      tau_base: the target's decay rate at step 0.
      views: for each view its column of Table 6: T, T', ...
      tau_end: the target's decay rate at step K; `tau_base` keeps it constant (Table 5a).
      objective: keyword arguments of `Method.objective`.
    """

    groups: Groups[Numbers]
    total_steps: jax.Array | int
    tau_base: jax.Array | float
    views: tuple[compose.AugmentParams, ...]
    tau_end: jax.Array | float = 1.0
    objective: Mapping[str, jax.Array | float] | None = None


def init_state(
    seed: int,
    program: Program,
    sizes: tuple[int, ...],
    num_examples: int = 1,
    target_init: str = "paper",
    objective: Mapping[str, float] | None = None,
) -> TrainState:
    """The state before step 0; may be traced.

    Args:
      seed: keys of online, target and objective are derived from it by name.
      program: the network, and which target, optimiser and objective there are.
      sizes: side of each view in pixels.
      num_examples: N, images in the data set.
      target_init: `paper` starts the target as a copy of the online network
        (pseudo-code J.5), `released` independently of it (docs/deviations.md, 2).
      objective: keyword arguments of `Method.objective`, as in `Hyperparameters`.
    """
    network, method, _ = program
    online_params, online_state = siamese.init_network(seed, "online", network, sizes[0])
    target_params: hk.Params = {}
    target_state: hk.State = {}
    if method.has_target_network and target_init == "paper":
        target_params, target_state = jax.tree.map(jnp.copy, (online_params, online_state))
    elif method.has_target_network:
        target_params, target_state = siamese.init_network(seed, "target", network, sizes[0])
    views = {v: jnp.zeros((1, size, size, 3)) for v, size in enumerate(sizes, start=1)}
    shapes: dict[int, Outputs] = {}
    for which in ("target", "online"):
        # Not in training: there is no mapped axis here, whose statistics would be shared.
        outputs = functools.partial(forward, passes=method.passes, which=which, is_training=False)
        shapes |= jax.eval_shape(
            lambda outputs=outputs: outputs(network, online_params, online_state, views)[0]
        )
    objective_params, objective_state = method.objective(**(objective or {})).init(
        keys.named_key(seed, "objective"), shapes, num_examples
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        online_params=online_params,
        online_state=online_state,
        target_params=target_params,
        target_state=target_state,
        objective_params=objective_params,
        objective_state=objective_state,
        slots=groups_of.init(method.groups, Trainable(online_params, objective_params)),
        finite=jnp.ones((), bool),
    )


def forward(
    network: hk.TransformedWithState,
    params: hk.Params,
    state: hk.State,
    views: Views,
    passes: Passes,
    which: str,
    is_training: bool = True,
) -> tuple[dict[int, Outputs], hk.State]:
    """The passes of one network.

    Args:
      network: `siamese(spec)`.
      params, state: of the network.
      views: by number; those that no pass names are left out.
      passes: the groups.
      which: `online` or `target`.
      is_training: whether BatchNorm uses the statistics of each pass, and moves its averages.

    Returns:
      Outputs by view number, and the next BatchNorm averages.
    """
    numbers: tuple[tuple[int, ...], ...] = getattr(passes, which)
    # A view by itself is not copied.
    inputs = [
        jnp.concatenate([views[v] for v in group]) if len(group) > 1 else views[group[0]]
        for group in numbers
    ]
    results: list[Outputs] = []
    if passes.head == "all" and inputs:
        together, state = network.apply(params, state, None, tuple(inputs), is_training)
        results = list(together)
    else:
        for group_views in inputs:
            outputs, state = network.apply(params, state, None, group_views, is_training)
            results.append(outputs)
    by_view: dict[int, Outputs] = {}
    for group, outputs in zip(numbers, results, strict=True):
        start = 0
        for view in group:
            rows = slice(start, start + len(views[view]))
            whole = len(group) == 1
            by_view[view] = outputs if whole else {k: x[rows] for k, x in outputs.items()}
            start = rows.stop
    return by_view, state


class Refreshed(NamedTuple):
    """What the objective made anew: its parameters, its state, and the slots of the former."""

    objective_params: PyTree
    objective_state: State
    slots: Slots


def refresh(
    objective: Objective,
    method: Method,
    seed: int,
    step: int,
    old: tuple[PyTree, State],
    features: dict[str, np.ndarray] | None = None,
    ids: np.ndarray | None = None,
) -> Refreshed:
    """What an objective makes anew between two steps, such as clusters (Lecture, DeepCluster).

    A pure function of the state at that step. The slots of the objective's parameters start anew.

    Args:
      objective: whose `when` says that it is due.
      method: the dials.
      seed: the run's seed; the key is made of it and the step.
      step: number of finished updates.
      old: parameters and state of the objective.
      features: float32 `[N, ...]` by name, if `when` asks for some.
      ids: int32 `[N]`: of which images.
    """
    assert objective.refresh is not None
    key = jax.random.fold_in(keys.named_key(seed, "refresh"), step)
    params, state = objective.refresh(key, *old, features, ids)
    return Refreshed(params, state, groups_of.init(method.groups, Trainable({}, params)))
