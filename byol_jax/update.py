"""Algorithm 1 of BYOL: views, losses, the update of section 3.1, and Eq. 1.

Everything is a pure function of arrays, written for one device; `axis` names the
mapped axis over which gradients, logs and batch statistics are averaged. `train`
maps `train_step` over the devices and donates the state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from byol_jax import keys
from byol_jax.augment import compose, simclr
from byol_jax.networks import siamese
from byol_jax.networks.siamese import Outputs
from byol_jax.objectives import byol, collapse
from byol_jax.objectives.base import Objective, label_weights
from byol_jax.objectives.normalize import l2_norm
from byol_jax.objectives.optimal_predictor import optimal_linear_predictor
from byol_jax.optim import groups, schedules
from byol_jax.runtime import spmd

PyTree = Any
Batch = dict[str, jax.Array]
Logs = dict[str, jax.Array]


# What the predictions are compared with: the moving average of Eq. 1; the online network itself,
# behind a stop-gradient or not (Table 19); the network of step 0 (Table 5a).
TARGETS = ("ema", "stop_gradient", "online", "constant")


class Method(NamedTuple):
    """Dials between BYOL and SimCLR that change the program; its numbers are `Hyperparameters`.

    Attributes:
      objective: makes the objective of its numbers, traced or by default.
      target: one of `TARGETS`.
      optimal_predictor: predicts with the best linear map of each batch (App. J.2).
      optimizer: one of `groups.OPTIMIZERS`.
    """

    objective: Callable[..., Objective] = byol.byol
    target: str = "ema"
    optimal_predictor: bool = False
    optimizer: str = "lars"

    @property
    def has_target_network(self) -> bool:
        """Whether xi are parameters of their own."""
        return self.target in ("ema", "constant")


BYOL = Method()


class TrainState(NamedTuple):
    """All that a run carries from one step to the next.

    Attributes:
      step: index of the next step, int32 scalar.
      online_params, online_state: theta, with the probe, and its BatchNorm averages.
      target_params, target_state: xi, a tree like theta; its own BatchNorm averages
        are never mixed with the online ones (docs/deviations.md, 15). Empty trees where the
        target is the online network.
      objective_params, objective_state: what the objective itself trains and carries.
      opt_state: of the online and objective parameters, for LARS their momentum.
      finite: whether every step so far was; once it is False no later step changes
        the state, which stays the last good one.
    """

    step: jax.Array
    online_params: hk.Params
    online_state: hk.State
    target_params: hk.Params
    target_state: hk.State
    objective_params: PyTree
    objective_state: PyTree
    opt_state: optax.OptState
    finite: jax.Array


class Hyperparameters(NamedTuple):
    """Numbers of a run; all traced, so that none of them costs a compilation.

    Attributes:
      peak_learning_rate: already scaled with the batch size.
      warmup_steps: steps of linear warm-up.
      total_steps: K.
      weight_decay, trust_coefficient, momentum: of `groups.optimizer`.
      tau_base: the target's decay rate at step 0.
      view1, view2: T and T', the columns of Table 6.
      tau_end: the target's decay rate at step K; `tau_base` keeps it constant (Table 5a).
      projector_rate, predictor_rate: mu and lambda of Tables 21 and 22.
      objective: keyword arguments of `Method.objective`.
    """

    peak_learning_rate: jax.Array | float
    warmup_steps: jax.Array | int
    total_steps: jax.Array | int
    weight_decay: jax.Array | float
    trust_coefficient: jax.Array | float
    momentum: jax.Array | float
    tau_base: jax.Array | float
    view1: compose.AugmentParams
    view2: compose.AugmentParams
    tau_end: jax.Array | float = 1.0
    projector_rate: jax.Array | float = 1.0
    predictor_rate: jax.Array | float = 1.0
    objective: dict[str, jax.Array | float] | None = None


class _Carry(NamedTuple):
    """What one micro-batch hands to the next."""

    online_state: hk.State
    target_state: hk.State
    objective_state: PyTree


def init(
    seed: int,
    network: hk.TransformedWithState,
    image_size: int,
    method: Method = BYOL,
    target_init: str = "paper",
) -> TrainState:
    """The state before step 0.

    Args:
      seed: keys of online, target and objective are derived from it by name.
      network: `siamese(spec)`.
      image_size: side of the views in pixels.
      method: which target and optimiser there are, and the objective's own parameters.
      target_init: `paper` starts the target as a copy of the online network
        (pseudo-code J.5), `released` independently of it (docs/deviations.md, 2).
    """
    online_params, online_state = siamese.init_network(seed, "online", network, image_size)
    target_params: hk.Params
    target_state: hk.State
    if not method.has_target_network:
        target_params, target_state = {}, {}
    elif target_init == "paper":
        target_params, target_state = jax.tree.map(jnp.copy, (online_params, online_state))
    else:
        target_params, target_state = siamese.init_network(seed, "target", network, image_size)
    key = keys.named_key(seed, "objective")
    objective_params, objective_state = method.objective().init(key)
    optimizer = groups.optimizer(
        method.optimizer, 0, weight_decay=0, trust_coefficient=0, momentum=0
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        online_params=online_params,
        online_state=online_state,
        target_params=target_params,
        target_state=target_state,
        objective_params=objective_params,
        objective_state=objective_state,
        opt_state=optimizer.init((online_params, objective_params)),
        finite=jnp.ones((), bool),
    )


def probe_loss(logits: jax.Array, labels: jax.Array, axis: str | None) -> tuple[jax.Array, Logs]:
    """Cross-entropy and accuracies of the online probe over the labelled examples.

    Args:
      logits: `[B, num_classes]`.
      labels: int32 `[B]`, -1 for none.
      axis: the mapped axis; the mean is over the labelled examples of all devices.

    Returns:
      The loss, and logs `probe_loss`, `probe_top1`, `probe_top5` (percent).
    """
    weights = label_weights(labels >= 0, logits.dtype, axis)
    targets = jnp.maximum(labels, 0)
    loss = jnp.mean(
        weights * optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    )
    _, ranked = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = ranked == targets[:, None]
    logs = {"probe_loss": loss}
    for name, top in (("probe_top1", hits[:, :1]), ("probe_top5", hits)):
        logs[name] = 100 * jnp.mean(weights * jnp.any(top, axis=-1))
    return loss, logs


def losses(
    trainable: tuple[hk.Params, PyTree],
    carry: _Carry,
    target_params: hk.Params,
    views: tuple[jax.Array, jax.Array],
    batch: Batch,
    key: jax.Array,
    *,
    network: hk.TransformedWithState,
    objective: Objective,
    method: Method,
    axis: str | None,
) -> tuple[jax.Array, tuple[_Carry, Logs, tuple[jax.Array, jax.Array]]]:
    """Lines 5 to 8 of Algorithm 1 for one micro-batch, and the probe's loss.

    The two views pass one after the other, so that BatchNorm statistics are those of
    one view (docs/deviations.md, 16).

    Args:
      trainable: (online parameters, objective parameters).
      carry: BatchNorm and objective state before this micro-batch.
      target_params: xi; no gradient reaches them. Empty where the target is the online
        network: its outputs are then those of the one forward pass.
      views: normalised views `[B, H, W, 3]`, v from T and v' from T'.
      batch: `labels` and `ids`, int32 `[B]`.
      key: the objective's key for this step.

    Returns:
      The loss to differentiate, and (next carry, logs, first and second moment of
      the normalised projections `[D]`).
    """
    online_params, objective_params = trainable
    online: list[Outputs] = []
    target: list[Outputs] = []
    online_state, target_state = carry.online_state, carry.target_state
    for view in views:
        outputs, online_state = network.apply(online_params, online_state, None, view, True)
        online.append(outputs)
    if method.has_target_network:
        for view in views:
            outputs, target_state = network.apply(target_params, target_state, None, view, True)
            target.append(jax.lax.stop_gradient(outputs))
    else:
        target = jax.lax.stop_gradient(online) if method.target == "stop_gradient" else online
    if method.optimal_predictor:
        # Each view predicts the other (BYOL section 3.1), so each has a predictor of its own.
        online = [
            outputs | {"prediction": _optimal_prediction(outputs, other, axis)}
            for outputs, other in zip(online, reversed(target), strict=True)
        ]

    result = objective.loss(objective_params, online, target, batch, carry.objective_state, key)
    loss = jnp.mean(result.per_example)
    logs = {"loss": loss, **result.logs}
    if "logits" in online[0]:
        # View 1 alone trains the probe, as in the released code.
        probe, probe_logs = probe_loss(online[0]["logits"], batch["labels"], axis)
        loss, logs = loss + probe, logs | probe_logs

    for name in ("embedding", "projection"):
        norms = [jnp.mean(l2_norm(outputs[name])) for outputs in online]
        logs[f"{name}_norm"] = jnp.mean(jnp.stack(norms))
    moments = [collapse.normalized_moments(outputs["projection"]) for outputs in online]
    mean, mean_of_squares = jax.tree.map(lambda *m: sum(m) / len(m), *moments)
    carry = _Carry(online_state, target_state, result.state)
    return loss, (carry, logs, (mean, mean_of_squares))


def _optimal_prediction(online: Outputs, target: Outputs, axis: str | None) -> jax.Array:
    """Z Q with the optimal linear predictor of this batch (BYOL App. J.2): `[B, D]`."""
    z = online["projection"]
    best = optimal_linear_predictor(z, target["projection"], axis)
    return jnp.matmul(z, best.astype(z.dtype), precision=jax.lax.Precision.HIGHEST)


def exponential_moving_average(target: PyTree, online: PyTree, tau: jax.Array) -> PyTree:
    """xi <- tau xi + (1 - tau) theta (BYOL Eq. 1), as xi + (1 - tau)(theta - xi)."""
    return jax.tree.map(lambda xi, theta: xi + (1 - tau) * (theta - xi), target, online)


def update(
    state: TrainState,
    gradients: tuple[PyTree, PyTree],
    carry: _Carry,
    hparams: Hyperparameters,
    method: Method,
) -> tuple[TrainState, Logs]:
    """Lines 10 and 11 of Algorithm 1: theta first, then xi with the new theta.

    Args:
      state: before the step.
      gradients: of (online parameters, objective parameters), averaged over devices.
      carry: BatchNorm and objective state after the step's forward passes.
      hparams: the run's numbers.
      method: which optimiser, and whether xi follow.

    Returns:
      The next state and the logs `learning_rate` and, where xi follow, `tau`.
    """
    learning_rate = schedules.learning_rate(
        state.step,
        peak=hparams.peak_learning_rate,
        warmup_steps=hparams.warmup_steps,
        total_steps=hparams.total_steps,
    )
    logs = {"learning_rate": learning_rate}
    # Its state does not depend on the numbers, so it is rebuilt with those of this step.
    optimizer = groups.optimizer(
        method.optimizer,
        learning_rate,
        weight_decay=hparams.weight_decay,
        trust_coefficient=hparams.trust_coefficient,
        momentum=hparams.momentum,
    )
    trainable = (state.online_params, state.objective_params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
    rates = {"projector": hparams.projector_rate, "predictor": hparams.predictor_rate}
    updates = groups.scale_heads(updates, rates)
    online_params, objective_params = optax.apply_updates(trainable, updates)
    target_params = state.target_params
    if method.target == "ema":
        logs["tau"] = tau = schedules.target_decay_rate(
            state.step,
            base=hparams.tau_base,
            end=hparams.tau_end,
            total_steps=hparams.total_steps,
        )
        target_params = exponential_moving_average(target_params, online_params, tau)
    new = TrainState(
        step=state.step + 1,
        online_params=online_params,
        online_state=carry.online_state,
        target_params=target_params,
        target_state=carry.target_state,
        objective_params=objective_params,
        objective_state=carry.objective_state,
        opt_state=opt_state,
        finite=state.finite & jnp.isfinite(optax.tree_utils.tree_norm(updates)),
    )
    return new, logs


def step(
    state: TrainState,
    batch: Batch,
    seed: jax.Array | int,
    hparams: Hyperparameters,
    *,
    make_views: Callable[[Batch], tuple[jax.Array, jax.Array]],
    network: hk.TransformedWithState,
    method: Method = BYOL,
    axis: str | None = None,
) -> tuple[TrainState, Logs]:
    """Lines 3 to 11 of Algorithm 1, for whatever makes the views.

    Args:
      state: before the step.
      batch: leaves `[M, B, ...]`: M micro-batches, whose gradients are averaged before
        one update of the online and target network (App. G.2); with `labels` and `ids`,
        int32 `[M, B]`.
      seed: the run's seed.
      hparams: the run's numbers.
      make_views: maps one micro-batch to two normalised views `[B, H, W, 3]`.
      network: `siamese(spec)` with `spec.bn_axis` equal to `axis`.
      method: the dials; BYOL by default.
      axis: mapped axis of the devices, or None.

    Returns:
      The next state, and the logs: `loss` (of the objective alone), `probe_loss`,
      `probe_top1`, `probe_top5` (percent), `tau`, `learning_rate`, `embedding_norm`,
      `projection_norm` (Figure 7), `projection_std` (std x sqrt(D) of the normalised
      projection), `finite`, and what the objective adds.
    """
    key = jax.random.fold_in(keys.named_key(seed, "objective"), state.step)
    differentiate = jax.grad(losses, has_aux=True)
    objective = method.objective(**(hparams.objective or {}))
    trainable = (state.online_params, state.objective_params)

    def micro_batch(carry: _Carry, inputs: Any) -> tuple[_Carry, Any]:
        batch, key = inputs
        gradients, (carry, logs, moments) = differentiate(
            trainable,
            carry,
            state.target_params,
            make_views(batch),
            batch,
            key,
            network=network,
            objective=objective,
            method=method,
            axis=axis,
        )
        return carry, (gradients, logs, moments)

    carry = _Carry(state.online_state, state.target_state, state.objective_state)
    count = batch["labels"].shape[0]
    inputs = (batch, jax.random.split(key, count))
    first = jax.tree.map(lambda x: x[0], inputs)
    if count == 1:
        carry, sums = micro_batch(carry, first)
    else:
        shapes = jax.eval_shape(micro_batch, carry, first)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def accumulate(total: Any, inputs: Any) -> tuple[Any, None]:
            carry, sums = total
            carry, values = micro_batch(carry, inputs)
            return (carry, jax.tree.map(jnp.add, sums, values)), None

        (carry, sums), _ = jax.lax.scan(accumulate, (carry, zeros), inputs)
    means = jax.tree.map(lambda x: x / count, sums)
    gradients, logs, moments = spmd.pmean(means, axis)

    new, schedule_logs = update(state, gradients, carry, hparams, method)
    logs |= schedule_logs | {"projection_std": collapse.std_sqrt_dim(*moments)}
    finite = new.finite & jnp.isfinite(logs["loss"] + logs.get("probe_loss", 0.0))
    # The buffers of the old state are donated: a bad step is undone here or never.
    guarded = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    return guarded._replace(finite=finite), logs | {"finite": finite}


def train_step(
    state: TrainState,
    batch: Batch,
    seed: jax.Array | int,
    hparams: Hyperparameters,
    images: jax.Array | None = None,
    *,
    network: hk.TransformedWithState,
    method: Method = BYOL,
    axis: str | None = None,
    image_size: int | None = None,
) -> tuple[TrainState, Logs]:
    """One pass of Algorithm 1's loop on a batch of crops.

    Args:
      state: before the step.
      batch: `view1`, `view2`, uint8 crops `[B, S, S, 3]` or float32 views that the host
        has augmented and normalised, `labels`, `ids`, `epochs` int32 `[B]`; with a
        leading micro-batch axis when gradients are accumulated.
      seed: the run's seed, int32 scalar.
      hparams, network, method, axis: as for `step`.
      images: all images, uint8 `[N, H, W, 3]`, where they are kept on the device: the
        batch then has their boxes, `box1`, `box2` int32 `[B, 4]`, in place of crops.
      image_size: S, which `images` need.

    Returns:
      As `step`.
    """
    key = keys.named_key(seed, "augment")

    def make_views(batch: Batch) -> tuple[jax.Array, jax.Array]:
        ids, epochs = batch["ids"], batch["epochs"]
        if images is not None:
            assert image_size is not None
            cropped = {
                f"view{view}": simclr.crop_levels(images, ids, batch[f"box{view}"], image_size)
                for view in (1, 2)
            }
            batch = {**batch, **cropped}
        if batch["view1"].dtype != jnp.uint8:
            return batch["view1"], batch["view2"]
        return (
            compose.make_views(batch["view1"], ids, epochs, key, 1, hparams.view1),
            compose.make_views(batch["view2"], ids, epochs, key, 2, hparams.view2),
        )

    if batch["labels"].ndim == 1:
        batch = jax.tree.map(lambda x: x[None], batch)
    return step(
        state,
        batch,
        seed,
        hparams,
        make_views=make_views,
        network=network,
        method=method,
        axis=axis,
    )
