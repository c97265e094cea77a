"""Algorithm 1 of BYOL: losses, the update of section 3.1, and Eq. 1.

Everything is a pure function of arrays, written for one device; `Program.axis` names the
mapped axis over which gradients, logs and batch statistics are averaged. `train`
maps `train_step` over the devices and donates the state.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax import keys
from byol_jax.augment import compose, simclr
from byol_jax.objectives import collapse
from byol_jax.objectives.base import Logs, Objective, Outputs, Rows, State
from byol_jax.objectives.normalize import l2_norm
from byol_jax.objectives.optimal_predictor import optimal_linear_predictor
from byol_jax.objectives.probe import probe_loss
from byol_jax.optim import groups, schedules
from byol_jax.program import Hyperparameters, Method, Program, Trainable, TrainState, Views, forward
from byol_jax.runtime import spmd

PyTree = Any
Batch = dict[str, jax.Array]


class _Carry(NamedTuple):
    """What one micro-batch hands to the next; of the objective's state, what it has changed."""

    online_state: hk.State
    target_state: hk.State
    objective_state: State


class _Constants(NamedTuple):
    """What all micro-batches of a step share."""

    target_params: hk.Params
    objective: Objective
    objective_state: State
    step: jax.Array


class _Results(NamedTuple):
    """What a micro-batch gives, beside its gradients.

    Attributes:
      logs: scalars.
      moments: first and second moment of the normalised projections `[D]`.
    """

    logs: Logs
    moments: tuple[jax.Array, jax.Array]


class _Rows(NamedTuple):
    """What a micro-batch gives per image, which is not averaged.

    Attributes:
      objective: rows of the objective's state.
      embeddings: y of some images `[n, C]`, by `EMBEDDINGS`.
    """

    objective: Mapping[str, Rows]
    embeddings: Mapping[str, jax.Array]


# Names in the logs of y of the same images, in the first and the second view of the online network,
# and how many images there are over all devices and micro-batches, but for rounding up.
EMBEDDINGS = ("embeddings1", "embeddings2")
NUM_EMBEDDINGS = 512


def losses(
    trainable: Trainable,
    carry: _Carry,
    constants: _Constants,
    views: Views,
    batch: Batch,
    key: jax.Array,
    program: Program,
    num_embeddings: int = 0,
) -> tuple[jax.Array, tuple[_Carry, _Results, _Rows]]:
    """Lines 5 to 8 of Algorithm 1 for one micro-batch, and the probe's loss.

    The passes are one after the other: for BYOL, BatchNorm statistics are those of one view
    (docs/deviations.md, 16).

    Args:
      trainable: theta and the objective's parameters.
      carry: BatchNorm and objective state before this micro-batch.
      constants: xi, which no gradient reaches, the objective, and its state before the step.
      views: normalised, by number: v from T and v' from T' for BYOL.
      batch: `labels` and `ids`, int32 `[B]`.
      key: the objective's key for this micro-batch.
      program: what is compiled.
      num_embeddings: of how many images the embeddings are returned.

    Returns:
      The loss to differentiate; and the next carry, the logs, and what there is per image.
    """
    network, method, axis = program
    passes = method.passes
    online, online_state = forward(
        network, trainable.online_params, carry.online_state, views, passes, "online"
    )
    target_state = carry.target_state
    if method.has_target_network:
        target, target_state = _target_outputs(constants, carry, views, key, program)
    else:
        # The outputs of the one forward pass.
        target = jax.lax.stop_gradient(online) if method.target == "stop_gradient" else online
    if method.optimal_predictor:
        # Each view predicts the other (BYOL section 3.1), so each has a predictor of its own.
        online = {
            view: online[view] | {"prediction": _optimal_prediction(online[view], other, axis)}
            for view, other in ((1, target[2]), (2, target[1]))
        }

    state = {**constants.objective_state, **carry.objective_state}
    result = constants.objective.loss(
        trainable.objective_params, online, target, batch, state, key, constants.step
    )
    loss = jnp.mean(result.per_example)
    logs = {"loss": loss, **result.logs}
    first = online[passes.online[0][0]]
    if "logits" in first:
        # View 1 alone trains the probe, as in the released code.
        probe, probe_logs = probe_loss(first["logits"], batch["labels"], axis)
        loss, logs = loss + probe, logs | probe_logs

    statistics, moments = _statistics(online)
    changed = {**carry.objective_state, **result.state}
    carry = _Carry(online_state, target_state, jax.lax.stop_gradient(changed))
    embeddings = _embeddings(online, num_embeddings)
    rows = jax.lax.stop_gradient(_Rows(dict(result.rows), embeddings))
    return loss, (carry, _Results(logs | statistics, moments), rows)


def _target_outputs(
    constants: _Constants, carry: _Carry, views: Views, key: jax.Array, program: Program
) -> tuple[dict[int, Outputs], hk.State]:
    """The passes of xi, which no gradient enters, and the next BatchNorm averages.

    Where its statistics are shuffled, each device computes the images that an order deals out to
    it, and the outputs go back to the devices of their images.
    """
    network, method, axis = program
    is_dealt_out = method.bn_statistics == "shuffled"
    if is_dealt_out:
        order = _order(key, len(views[1]) * spmd.axis_size(axis))
        used = {view for group in method.passes.target for view in group}
        views = {view: spmd.exchange(views[view], order, axis) for view in used}
    target, state = forward(
        network, constants.target_params, carry.target_state, views, method.passes, "target"
    )
    if is_dealt_out:
        back = jnp.argsort(order)
        target = jax.tree.map(lambda x: spmd.exchange(x, back, axis), target)
    return jax.lax.stop_gradient(target), state


def _order(key: jax.Array, count: int) -> jax.Array:
    """A permutation of the images of a global micro-batch, of its key."""
    return jax.random.permutation(keys.named(key, "order"), count)


def _statistics(online: Mapping[int, Outputs]) -> tuple[Logs, tuple[jax.Array, jax.Array]]:
    """Norms (BYOL Figure 7), and moments of the normalised projections, of all views."""
    logs = {}
    for name in ("embedding", "projection"):
        norms = [jnp.mean(l2_norm(outputs[name])) for outputs in online.values()]
        logs[f"{name}_norm"] = jnp.mean(jnp.stack(norms))
    moments = [collapse.normalized_moments(x["projection"]) for x in online.values()]
    mean, mean_of_squares = jax.tree.map(lambda *m: sum(m) / len(m), *moments)
    return logs, (mean, mean_of_squares)


def _embeddings(online: Mapping[int, Outputs], count: int) -> dict[str, jax.Array]:
    """y of some images; the online network of some methods sees one view alone."""
    pairs = zip(EMBEDDINGS, sorted(online), strict=False)
    return {name: online[view]["embedding"][:count] for name, view in pairs}


def _optimal_prediction(online: Outputs, target: Outputs, axis: str | None) -> jax.Array:
    """Z Q with the optimal linear predictor of this batch (BYOL App. J.2): `[B, D]`."""
    z = online["projection"]
    best = optimal_linear_predictor(z, target["projection"], axis)
    return jnp.matmul(z, best.astype(z.dtype), precision=jax.lax.Precision.HIGHEST)


def exponential_moving_average(target: PyTree, online: PyTree, rate: jax.Array) -> PyTree:
    """xi <- tau xi + (1 - tau) theta (BYOL Eq. 1), as xi + rate (theta - xi), rate = 1 - tau."""
    return jax.tree.map(lambda xi, theta: xi + rate * (theta - xi), target, online)


def step(
    state: TrainState,
    batch: Batch,
    seed: jax.Array | int,
    hparams: Hyperparameters,
    make_views: Callable[[Batch], Views],
    program: Program,
) -> tuple[TrainState, Logs]:
    """Lines 3 to 11 of Algorithm 1, whatever makes the views.

    Args:
      state: before the step.
      batch: leaves `[M, B, ...]`: M micro-batches, whose gradients are averaged before
        one update of the online and target network (App. G.2); with `labels` and `ids`,
        int32 `[M, B]`.
      seed: the run's seed.
      hparams: the run's numbers.
      make_views: maps one micro-batch to normalised views by number.
      program: what is compiled.

    Returns:
      The next state, and the logs: `loss` (of the objective alone), `probe_loss`,
      `probe_top1`, `probe_top5` (percent), `tau`, `learning_rate`, `embedding_norm`,
      `projection_norm` (Figure 7), `projection_std` (std x sqrt(D) of the normalised
      projection), `gradient_squares` (sum of squares of the gradient of each array, in the order
      of the leaves of `Trainable`), `finite`, and what the objective adds; and `EMBEDDINGS`, other
      ones per device.
    """
    method = program.method
    target_rate = _target_rate(state.step, hparams) if method.target == "ema" else None
    if target_rate is not None and method.target_update == "before":
        moved = exponential_moving_average(state.target_params, state.online_params, target_rate)
        before = state._replace(target_params=moved)
    else:
        before = state
    objective = method.objective(**(hparams.objective or {}))
    prepared = objective.prepare(state.objective_params)
    before = before._replace(objective_params=prepared)
    gradients, carry, results, rows = _differentiate(
        before, batch, seed, objective, make_views, program
    )
    new, logs = _update(before, gradients, carry, target_rate, hparams, method)
    logs |= results.logs | {"projection_std": collapse.std_sqrt_dim(*results.moments)}

    # Gradients, losses and the scalars of the update decide, before the update: so that its `where`
    # is part of the pass over the parameters that makes it. A rate of inf spoils no gradient.
    rates = groups.rates(method.groups, hparams.groups, state.step)
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)]
    scalars = [logs["loss"], logs.get("probe_loss", 0.0), sum(squares), target_rate]
    # A rate whose square overflows makes updates that do.
    scalars += [jnp.square(rate) for rate in rates]
    # BatchNorm's averages stay out: what spoils them spoils the losses, too, and with a reduction
    # for each of them XLA compiles five times as long on several devices.
    entries = {name: values for name, (_, values) in rows.objective.items()}
    small = (carry.objective_state, entries)
    # As one array: one by one, XLA on CPUs repeats all tests in the `where` of each parameter.
    numbers = jax.tree.leaves((scalars, hparams.groups))
    stacked = jnp.stack([jnp.asarray(number, float) for number in numbers])
    verdicts = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((stacked, small))]
    finite = state.finite & jnp.all(jnp.stack(verdicts))
    guarded = _guarded(new, state, rows.objective, finite)
    logs |= dict(rows.embeddings) | {"gradient_squares": jnp.stack(squares), "finite": finite}
    return guarded, logs


def _target_rate(step: jax.Array, hparams: Hyperparameters) -> jax.Array:
    return schedules.target_rate(
        step, base=hparams.tau_base, end=hparams.tau_end, total_steps=hparams.total_steps
    )


def _differentiate(
    state: TrainState,
    batch: Batch,
    seed: jax.Array | int,
    objective: Objective,
    make_views: Callable[[Batch], Views],
    program: Program,
) -> tuple[Trainable, _Carry, _Results, _Rows]:
    """Gradients and logs, averaged over micro-batches and devices, and the next carry."""
    key = jax.random.fold_in(keys.named_key(seed, "objective"), state.step)
    trainable = Trainable(state.online_params, state.objective_params)
    constants = _Constants(state.target_params, objective, state.objective_state, state.step)
    differentiate = jax.grad(losses, has_aux=True)

    count = batch["labels"].shape[0]
    num_embeddings = -(-NUM_EMBEDDINGS // (count * spmd.axis_size(program.axis)))

    def micro_batch(carry: _Carry, inputs: Any) -> tuple[_Carry, Any, _Rows]:
        batch, key = inputs
        views = make_views(batch)
        gradients, (carry, results, rows) = differentiate(
            trainable, carry, constants, views, batch, key, program, num_embeddings
        )
        return carry, (gradients, results), rows

    carry = _Carry(state.online_state, state.target_state, {})
    inputs = (batch, jax.random.split(key, count))
    first = jax.tree.map(lambda x: x[0], inputs)
    if count == 1:
        carry, sums, rows = micro_batch(carry, first)
    else:
        changed, shapes, _ = jax.eval_shape(micro_batch, carry, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        changes = {name: state.objective_state[name] for name in changed.objective_state}
        carry = carry._replace(objective_state=changes)

        def accumulate(total: Any, inputs: Any) -> tuple[Any, _Rows]:
            carry, sums = total
            carry, values, rows = micro_batch(carry, inputs)
            return (carry, jax.tree.map(jnp.add, sums, values)), rows

        (carry, sums), stacked = jax.lax.scan(accumulate, (carry, zeros), inputs)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)
    means = jax.tree.map(lambda x: x / count, sums)
    gradients, results = spmd.pmean(means, program.axis)
    if program.method.bn_statistics != "global":
        # Each device has averages of its own images: evaluations take their mean.
        averages = spmd.average((carry.online_state, carry.target_state), program.axis)
        carry = carry._replace(online_state=averages[0], target_state=averages[1])
    return gradients, carry, results, rows


def _update(
    state: TrainState,
    gradients: Trainable,
    carry: _Carry,
    target_rate: jax.Array | None,
    hparams: Hyperparameters,
    method: Method,
) -> tuple[TrainState, Logs]:
    """Lines 10 and 11 of Algorithm 1: theta first, then xi with the new theta.

    Args:
      state: before the step.
      gradients: averaged over devices.
      carry: BatchNorm and objective state after the step's forward passes.
      target_rate: 1 - tau of this step; None where xi do not follow.
      hparams: the run's numbers.
      method: how each group is trained, and when xi follow.

    Returns:
      The next state and the logs `learning_rate` and, where xi follow, `tau`.
    """
    rates = groups.rates(method.groups, hparams.groups, state.step)
    logs = {"learning_rate": rates.trunk}
    (online_params, objective_params), slots = groups.apply(
        groups.Update(method.groups, hparams.groups, rates, state.step),
        gradients,
        state.slots,
        Trainable(state.online_params, state.objective_params),
    )
    target_params = state.target_params
    if target_rate is not None:
        logs["tau"] = 1 - target_rate
        if method.target_update == "after":
            target_params = exponential_moving_average(target_params, online_params, target_rate)
    new = TrainState(
        step=state.step + 1,
        online_params=online_params,
        online_state=carry.online_state,
        target_params=target_params,
        target_state=carry.target_state,
        objective_params=objective_params,
        objective_state=carry.objective_state,
        slots=slots,
        finite=state.finite,
    )
    return new, logs


def _guarded(
    new: TrainState, old: TrainState, rows: Mapping[str, Rows], finite: jax.Array
) -> TrainState:
    """The new state if the step was finite, else the old one.

    The buffers of the old state are donated: a bad step is undone here or never.
    """

    def select(a: PyTree, b: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: jnp.where(finite, x, y), a, b)

    objective_state = dict(old.objective_state)
    for name, value in new.objective_state.items():
        objective_state[name] = select(value, old.objective_state[name])
    for name, (at, values) in rows.items():
        array = objective_state[name]
        nowhere = jnp.asarray(len(array), at.dtype)
        # A negative index would count from the end.
        place = jnp.where(finite & (at >= 0), at, nowhere)
        objective_state[name] = array.at[place].set(values.astype(array.dtype), mode="drop")
    guarded = select(
        new._replace(objective_state={}, finite=finite), old._replace(objective_state={})
    )
    return guarded._replace(objective_state=objective_state, finite=finite)


def train_step(
    state: TrainState,
    batch: Batch,
    seed: jax.Array | int,
    hparams: Hyperparameters,
    images: jax.Array | None = None,
    *,
    program: Program,
    sizes: tuple[int, ...] = (),
) -> tuple[TrainState, Logs]:
    """One pass of Algorithm 1's loop on a batch of crops.

    Args:
      state: before the step.
      batch: `view1`, `view2`, ..., uint8 crops `[B, S, S, 3]` or float32 views that the host
        has augmented and normalised, `labels`, `ids`, `epochs` int32 `[B]`; with a
        leading micro-batch axis when gradients are accumulated.
      seed: the run's seed, int32 scalar.
      hparams: the run's numbers, a column of Table 6 for each view among them.
      images: all images, uint8 `[N, H, W, 3]`, where they are kept on the device: the
        batch then has their boxes, `box1`, `box2`, ... int32 `[B, 4]`, in place of crops.
      program: what is compiled.
      sizes: side of each view in pixels, which `images` need.

    Returns:
      As `step`.
    """
    key = keys.named_key(seed, "augment")

    def make_views(batch: Batch) -> Views:
        ids, epochs = batch["ids"], batch["epochs"]
        views = {}
        for view, params in enumerate(hparams.views, start=1):
            if images is not None:
                crops = simclr.crop_levels(images, ids, batch[f"box{view}"], sizes[view - 1])
            else:
                crops = batch[f"view{view}"]
            is_augmented = crops.dtype != jnp.uint8
            views[view] = (
                crops if is_augmented else compose.make_views(crops, ids, epochs, key, view, params)
            )
        return views

    if batch["labels"].ndim == 1:
        batch = jax.tree.map(lambda x: x[None], batch)
    return step(state, batch, seed, hparams, make_views, program)
