"""The update of a network with an output per pixel, and its outputs (BYOL App. E.4 and E.6).

Everything is a pure function of arrays on one device; `axis` names the mapped axis, as in `update`.
"""

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from byol_jax import keys
from byol_jax.augment import byol
from byol_jax.augment.dense import DepthColours, depth_inputs
from byol_jax.dense import bilinear, depth, pixels, segmentation
from byol_jax.networks import dense
from byol_jax.networks.fcn import FCN
from byol_jax.networks.siamese import HEADS, NetworkSpec
from byol_jax.optim import schedules
from byol_jax.runtime import spmd

Batch = dict[str, jax.Array]
Logs = dict[str, jax.Array]

# What is trained beside the head. finetune: all of f. frozen_bn: f without its BatchNorm, which has
# the averages, scales and offsets that it came with. frozen: nothing of f.
BACKBONES = ("finetune", "frozen_bn", "frozen")
# Which parameters have weight decay: all of them, or the kernels alone.
DECAYS = ("all", "weights")


class Program(NamedTuple):
    """What shapes the compiled update.

    Attributes:
      spec: f, with its dilation and without a mapped axis.
      head: the layers on it.
      backbone: one of `BACKBONES`.
      decay: one of `DECAYS`.
      align_corners: how logits become pixels; see `bilinear`.
      accumulate: micro-batches per step.
    """

    spec: NetworkSpec
    head: dense.Head
    backbone: str = "finetune"
    decay: str = "all"
    align_corners: bool = True
    accumulate: int = 1

    @property
    def is_segmentation(self) -> bool:
        """Whether the outputs are logits of classes, not depths."""
        return isinstance(self.head, FCN)


class State(NamedTuple):
    """The state of a training between two steps.

    Attributes:
      step: index of the next step, int32 scalar.
      params: the parameters that are trained.
      bn_state: BatchNorm averages of the whole network.
      opt_state: momentum.
      finite: whether every step so far was; once False, the state stays the last good one.
    """

    step: jax.Array
    params: hk.Params
    bn_state: hk.State
    opt_state: optax.OptState
    finite: jax.Array


class Hyperparameters(NamedTuple):
    """Numbers of a run; all are traced, so none of them costs a compilation.

    Attributes:
      learning_rate: rate of the first steps, already scaled with the batch size.
      total_steps: steps of the schedule.
      milestones: shares of the run at which the rate is divided by 10.
      momentum: coefficient of the momentum.
      weight_decay: l2 of the parameters, added to the gradient.
      colours: colour transformations of the images of depth.
    """

    learning_rate: jax.Array | float
    total_steps: jax.Array | int
    milestones: tuple[jax.Array | float, ...]
    momentum: jax.Array | float
    weight_decay: jax.Array | float
    colours: DepthColours = DepthColours()


def parts(params: hk.Params, backbone: str) -> tuple[hk.Params, hk.Params]:
    """The parameters that are trained, and those that are not."""

    def is_trained(module: str, name: str, value: Any) -> bool:
        del value
        if backbone == "finetune" or module.split("/")[0] in HEADS:
            return True
        return backbone == "frozen_bn" and name not in ("scale", "offset")

    trained, fixed = hk.data_structures.partition(is_trained, params)
    return trained, fixed


def init(params: hk.Params, bn_state: hk.State) -> State:
    """The state before step 0; `params` are those that are trained."""
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        bn_state=bn_state,
        opt_state=_optimizer(0.0).init(params),
        finite=jnp.ones((), bool),
    )


def _optimizer(momentum: jax.Array | float) -> optax.GradientTransformation:
    return optax.trace(decay=momentum)


def counted(targets: jax.Array, program: Program) -> jax.Array:
    """Which pixels have a target: bool, in the shape of the targets."""
    return targets != segmentation.VOID if program.is_segmentation else targets > 0


def pixel_loss(
    outputs: jax.Array, targets: jax.Array, program: Program, axis: str | None
) -> pixels.PixelSum:
    """The loss of the pixels of this device.

    Args:
      outputs: of the network: logits `[b, h, w, K]`, or depths `[b, h, w]` in metres.
      targets: uint8 `[b, H, W]` of classes and void, or depths `[b, h, w]`, 0 where there is none.
      program: which of the two.
      axis: mapped axis; c of the reverse Huber loss is that of all devices.
    """
    if program.is_segmentation:
        size = targets.shape[1], targets.shape[2]
        logits = bilinear.resize(outputs, size, program.align_corners)
        return segmentation.pixel_cross_entropy(logits, targets)
    valid = counted(targets, program)
    threshold = depth.berhu_threshold(outputs, targets, valid, axis)
    return depth.berhu(outputs, targets, valid, threshold)


def _decay(params: hk.Params, weight_decay: jax.Array | float, decay: str) -> hk.Params:
    """Gradient of weight_decay / 2 |p|^2 over the parameters that have it; 0 for all others."""

    def term(module: str, name: str, value: jax.Array) -> jax.Array:
        del module
        return weight_decay * value if decay == "all" or name == "w" else jnp.zeros_like(value)

    return hk.data_structures.map(term, params)


def gradients_of(
    state: State,
    fixed: hk.Params,
    views: jax.Array,
    targets: jax.Array,
    *,
    program: Program,
    axis: str | None,
) -> tuple[hk.Params, hk.State, jax.Array]:
    """Gradient of the mean loss over the pixels of all micro-batches and devices.

    BatchNorm has the statistics of a micro-batch, over all devices (docs/deviations.md, 50).

    Args:
      state, fixed: the network.
      views: normalised `[A, b, h, w, 3]` of A micro-batches.
      targets: `[A, b, H, W]`.
      program, axis: as for `step`.

    Returns:
      The gradient, to be averaged over devices; the next BatchNorm averages; the share of this
      device in the loss, likewise.
    """
    network = dense.network(program.spec._replace(bn_axis=axis), program.head)
    # The whole batch has one denominator, so that each pixel counts the same.
    number = jnp.sum(counted(targets, program), dtype=jnp.int32).astype(views.dtype)
    encoder_training = program.backbone == "finetune"

    def loss(params: hk.Params, bn_state: hk.State, views: jax.Array, targets: jax.Array) -> Any:
        merged = hk.data_structures.merge(params, fixed)
        outputs, bn_state = network.apply(merged, bn_state, None, views, True, encoder_training)
        total = pixel_loss(outputs, targets, program, axis).total
        return pixels.mean(pixels.PixelSum(total, number), axis), bn_state

    def add(carry: Any, rows: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        gradient, bn_state, so_far = carry
        (value, bn_state), more = jax.value_and_grad(loss, has_aux=True)(
            state.params, bn_state, *rows
        )
        return (jax.tree.map(jnp.add, gradient, more), bn_state, so_far + value), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    carry = zeros, state.bn_state, jnp.zeros((), views.dtype)
    if len(views) == 1:  # without a loop, in which XLA would keep more
        return add(carry, (views[0], targets[0]))[0]
    sums: tuple[hk.Params, hk.State, jax.Array] = jax.lax.scan(add, carry, (views, targets))[0]
    return sums


def step(
    state: State,
    views: jax.Array,
    targets: jax.Array,
    hparams: Hyperparameters,
    fixed: hk.Params,
    *,
    program: Program,
    axis: str | None = None,
) -> tuple[State, Logs]:
    """One step of SGD with momentum: mu <- m mu + g, p <- p - lr mu.

    Args:
      state: before the step.
      views: normalised `[A, b, h, w, 3]` of A micro-batches.
      targets: `[A, b, H, W]`, as for `pixel_loss`.
      hparams: the run's numbers.
      fixed: the parameters that are not trained.
      program: the network and what is trained of it.
      axis: mapped axis of the devices, or None.

    Returns:
      The next state, and the logs `loss` (per pixel: nats, or metres), `learning_rate`, `finite`.
    """
    gradients, bn_state, loss = gradients_of(
        state, fixed, views, targets, program=program, axis=axis
    )
    gradients, loss = spmd.pmean((gradients, loss), axis)
    decay = _decay(state.params, hparams.weight_decay, program.decay)
    gradients = jax.tree.map(jnp.add, gradients, decay)
    updates, opt_state = _optimizer(hparams.momentum).update(gradients, state.opt_state)
    rate = schedules.step_rate(
        state.step,
        peak=hparams.learning_rate,
        warmup_steps=0,
        total_steps=hparams.total_steps,
        milestones=hparams.milestones,
    )
    norm = optax.tree_utils.tree_norm(updates)
    finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(rate * norm)
    new = State(
        step=state.step + 1,
        params=jax.tree.map(lambda p, u: p - rate * u, state.params, updates),
        bn_state=bn_state,
        opt_state=opt_state,
        finite=finite,
    )
    # The buffers of the old state are donated, so a bad step is undone here or never.
    last_good: State = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    logs = {"loss": loss, "learning_rate": rate, "finite": finite}
    return last_good._replace(finite=finite), logs


def train_step(
    state: State,
    batch: Batch,
    seed: jax.Array | int,
    hparams: Hyperparameters,
    fixed: hk.Params,
    *,
    program: Program,
    axis: str | None = None,
) -> tuple[State, Logs]:
    """`step` on a batch of crops.

    Args:
      batch: `image` uint8 `[b, h, w, 3]`, `target` `[b, H, W]`, and `ids`, `epochs` int32 `[b]`,
        all with a leading axis of micro-batches where there are several.
      seed: seed of the colour transformations.
      state, hparams, fixed, program, axis: as for `step`.
    """
    if program.accumulate == 1:
        batch = {name: rows[None] for name, rows in batch.items()}
    images, targets = batch["image"], batch["target"]
    if program.is_segmentation:
        views = byol.evaluation_views(images)
    else:
        key = keys.named_key(seed, "augment")

        def recoloured(images: jax.Array, ids: jax.Array, epochs: jax.Array) -> jax.Array:
            return depth_inputs(images, ids, epochs, key, hparams.colours)

        views = jax.vmap(recoloured)(images, batch["ids"], batch["epochs"])
    return step(state, views, targets, hparams, fixed, program=program, axis=axis)


def outputs_of(
    images: jax.Array, params: hk.Params, bn_state: hk.State, *, program: Program
) -> jax.Array:
    """What a trained network says of images, BatchNorm on its averages.

    Args:
      images: uint8 `[b, h, w, 3]`.
      params: all parameters.
      bn_state: BatchNorm averages.
      program: the network.

    Returns:
      The most likely class of each pixel, uint8 `[b, h, w]`; or depths `[b, h', w']` in metres.
    """
    network = dense.network(program.spec._replace(bn_axis=None), program.head)
    views = byol.evaluation_views(images)
    outputs, _ = network.apply(params, bn_state, None, views, False)
    if not program.is_segmentation:
        depths: jax.Array = outputs
        return depths
    size = images.shape[1], images.shape[2]
    logits = bilinear.resize(outputs, size, program.align_corners)
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def output_size(program: Program, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the outputs of the network for images of a size."""
    network = dense.network(program.spec._replace(bn_axis=None), program.head)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)

    def outputs(images: jax.Array) -> jax.Array:
        params, state = network.init(jax.random.key(0), images, True)
        return network.apply(params, state, None, images, False)[0]

    height, width = jax.eval_shape(outputs, images).shape[1:3]
    return int(height), int(width)
