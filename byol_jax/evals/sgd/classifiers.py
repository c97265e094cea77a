"""Classifiers on an encoder, frozen or fine-tuned: BYOL App. D.1, D.2 and E.3.

Several linear classifiers share one encoder and one pass over the data, each with its own learning
rate, so a sweep of rates on a frozen encoder costs about as much as a single rate. Everything is a
pure function of arrays on one device; `axis` names the mapped axis, as in `update`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from byol_jax import keys
from byol_jax.augment import byol, compose, randaugment
from byol_jax.objectives.base import label_weights
from byol_jax.optim import schedules
from byol_jax.runtime import spmd

Batch = dict[str, jax.Array]
Logs = dict[str, jax.Array]
# {"w": [R, C, K], "b": [R, K]}: R linear classifiers, from C features to K classes.
Heads = dict[str, jax.Array]
# Parameters and BatchNorm averages of f.
Encoder = tuple[hk.Params, hk.State]
# (crops `[B, H, W, 3]`, ids, epochs, key of the run, its numbers) -> normalised views.
MakeViews = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, "Hyperparameters"], jax.Array]


class State(NamedTuple):
    """The state of a training between two steps.

    Attributes:
      step: index of the next step, int32 scalar.
      encoder: the encoder if it is fine-tuned; empty trees if it is frozen.
      heads: the classifiers.
      opt_state: Nesterov momentum of both.
      healthy: which classifiers were finite at every step so far, bool `[R]`; one that was not
        stays what it was before, and the others go on.
      finite: whether any classifier is left; once False, the state stays the last good one.
    """

    step: jax.Array
    encoder: Encoder
    heads: Heads
    opt_state: optax.OptState
    healthy: jax.Array
    finite: jax.Array


class Hyperparameters(NamedTuple):
    """Numbers of a run; all are traced, so none of them costs a compilation.

    Attributes:
      learning_rates: peak rate of each classifier, `[R]`, already scaled with the batch size.
      warmup_steps: steps of linear warm-up.
      total_steps: steps of the schedule.
      momentum: coefficient of Nesterov's method.
      weight_decay: l2 of the weights `w`, added to the gradient; BatchNorm and biases have none.
      label_smoothing: share of the target that is spread over all classes (App. D.2: 0.1).
      logit_clip: alpha of tclip (App. D.1); 0 leaves the logits as they are.
      logit_penalty: beta of App. D.1.
      view: T, the column of Table 6: its flips, and for Table 7 all of it.
      magnitude: magnitude of RandAugment.
    """

    learning_rates: jax.Array
    warmup_steps: jax.Array | int
    total_steps: jax.Array | int
    momentum: jax.Array | float
    weight_decay: jax.Array | float
    label_smoothing: jax.Array | float
    logit_clip: jax.Array | float
    logit_penalty: jax.Array | float
    view: compose.AugmentParams
    magnitude: jax.Array | float


def spatial_views(
    images: jax.Array, ids: jax.Array, epochs: jax.Array, key: jax.Array, hparams: Hyperparameters
) -> jax.Array:
    """Random flips; the random crop is the pipeline's (App. D.1)."""

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        return byol.random_flip(image, key, hparams.view.flip)

    return compose.map_examples(one, images, ids, epochs, key, 1)


def pretrain_views(
    images: jax.Array, ids: jax.Array, epochs: jax.Array, key: jax.Array, hparams: Hyperparameters
) -> jax.Array:
    """T, the augmentations of pre-training (Table 7)."""
    return compose.make_views(images, ids, epochs, key, 1, hparams.view)


def randaugment_views(
    images: jax.Array, ids: jax.Array, epochs: jax.Array, key: jax.Array, hparams: Hyperparameters
) -> jax.Array:
    """Random flips, then RandAugment with two operations (App. D.2)."""

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        flipped = byol.random_flip(image, key, hparams.view.flip)
        return randaugment.randaugment(flipped, key, magnitude=hparams.magnitude)

    return compose.map_examples(one, images, ids, epochs, key, 1)


AUGMENTATIONS: dict[str, MakeViews] = {
    "spatial": spatial_views,
    "pretrain": pretrain_views,
    "randaugment": randaugment_views,
}


def init_heads(seed: int, count: int, features: int, classes: int) -> Heads:
    """`count` equal classifiers, drawn as `hk.Linear` draws its own (docs/deviations.md, 29)."""
    shape = (features, classes)
    draw = jax.random.truncated_normal(keys.named_key(seed, "classifier"), -2, 2, shape)
    heads = {"w": draw * features**-0.5, "b": jnp.zeros((classes,))}
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), heads)


def init(heads: Heads, encoder: Encoder | None = None) -> State:
    """The state before step 0; an encoder that is given is fine-tuned."""
    encoder = ({}, {}) if encoder is None else encoder
    return State(
        step=jnp.zeros((), jnp.int32),
        encoder=encoder,
        heads=heads,
        opt_state=_optimizer(0.0).init((encoder[0], heads)),
        healthy=jnp.ones(heads["b"].shape[:1], bool),
        finite=jnp.ones((), bool),
    )


def _optimizer(momentum: jax.Array | float) -> optax.GradientTransformation:
    return optax.trace(decay=momentum, nesterov=True)


def apply_heads(heads: Heads, embedding: jax.Array) -> jax.Array:
    """Logits of every classifier: `[B, C]` -> `[R, B, K]`."""
    # By default accelerators round the products to 10 bits of mantissa.
    logits = jnp.einsum("bc,rck->rbk", embedding, heads["w"], precision=jax.lax.Precision.HIGHEST)
    return logits + heads["b"][:, None]


def clip_logits(logits: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """tclip(x) = alpha tanh(x / alpha) (BYOL App. D.1); x itself for alpha = 0."""
    safe = jnp.where(alpha > 0, alpha, 1.0)
    return jnp.where(alpha > 0, safe * jnp.tanh(logits / safe), logits)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each example, and whether it has labels.

    Args:
      logits: `[..., B, K]`.
      labels: int32 `[B]`, -1 for none, for a softmax; or `[B, K]` of 1, 0 and -1 (ignored), for
        several labels per image: one sigmoid per class, summed over the classes.
      smoothing: share of the target that is spread over all classes (softmax only).

    Returns:
      `[..., B]`, and bool `[B]`.
    """
    if labels.ndim == 2:
        is_given = labels >= 0
        losses = optax.losses.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
        return jnp.sum(jnp.where(is_given, losses, 0), axis=-1), jnp.any(is_given, axis=-1)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, smoothing)
    return optax.losses.softmax_cross_entropy(logits, targets), labels >= 0


def losses(
    trainable: tuple[hk.Params, Heads],
    encoder: Encoder,
    views: jax.Array,
    labels: jax.Array,
    hparams: Hyperparameters,
    *,
    network: hk.TransformedWithState,
    frozen: bool,
    axis: str | None,
) -> tuple[jax.Array, tuple[hk.State, Logs]]:
    """The sum over classifiers of their losses, whose gradients do not mix.

    Args:
      trainable: (parameters of the encoder if it is fine-tuned, classifiers).
      encoder: parameters of the encoder if it is frozen, and its BatchNorm averages.
      views: normalised `[B, H, W, 3]`.
      labels: as in `cross_entropy`; examples without a label have no weight.
      hparams: the run's numbers.
      network: `siamese.encoder(spec)`.
      frozen: whether the encoder is frozen: BatchNorm then uses its averages and leaves them.
      axis: mapped axis; the mean is over the labelled examples of all devices.

    Returns:
      The sum; the next BatchNorm averages, and the logs `loss` `[R]`, `top1` `[R]` (percent).
    """
    params, heads = trainable
    outputs, bn_state = network.apply(
        encoder[0] if frozen else params, encoder[1], None, views, not frozen
    )
    logits = clip_logits(apply_heads(heads, outputs["embedding"]), hparams.logit_clip)
    entropy, labelled = cross_entropy(logits, labels, hparams.label_smoothing)
    penalty = hparams.logit_penalty * jnp.mean(jnp.square(logits), axis=-1)

    weights = label_weights(labelled, logits.dtype, axis)
    loss = jnp.mean(weights * (entropy + penalty), axis=-1)
    logs = {"loss": loss}
    if labels.ndim == 1:
        logs["top1"] = 100 * jnp.mean(weights * (jnp.argmax(logits, axis=-1) == labels), axis=-1)
    return jnp.sum(loss), (bn_state, logs)


def decay(params: Any, weight_decay: jax.Array | float) -> Any:
    """Gradient of weight_decay / 2 |w|^2 over the leaves named `w`; 0 for all others."""

    def term(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return weight_decay * leaf if path[-1].key == "w" else jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(term, params)


def _scaled(updates: tuple[hk.Params, Heads], rates: jax.Array) -> tuple[hk.Params, Heads]:
    """The updates times the rates of their classifiers `[R]`."""
    # A fine-tuned encoder has one classifier, whose rate is its own.
    return (
        jax.tree.map(lambda u: rates[0] * u, updates[0]),
        jax.tree.map(lambda u: rates.reshape(-1, *[1] * (u.ndim - 1)) * u, updates[1]),
    )


def _finite(moves: tuple[hk.Params, Heads]) -> jax.Array:
    """Whether the update of each classifier has a finite norm, and that of the encoder: `[R]`."""
    heads = jnp.isfinite(jax.vmap(optax.tree_utils.tree_norm)(moves[1]))
    return heads & jnp.isfinite(optax.tree_utils.tree_norm(moves[0])) if moves[0] else heads


def _where(chosen: jax.Array, new: Heads, old: Heads) -> Heads:
    """`new` for the chosen classifiers, `old` for the others."""
    return jax.tree.map(
        lambda a, b: jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old
    )


def step(
    state: State,
    views: jax.Array,
    labels: jax.Array,
    hparams: Hyperparameters,
    frozen: Encoder,
    *,
    network: hk.TransformedWithState,
    axis: str | None = None,
) -> tuple[State, Logs]:
    """One step of SGD with Nesterov momentum: mu <- m mu + g, p <- p - lr (g + m mu).

    Args:
      state: before the step.
      views: normalised `[B, H, W, 3]`.
      labels: as in `cross_entropy`.
      hparams: the run's numbers.
      frozen: the encoder; empty trees if it is fine-tuned and part of the state.
      network: `siamese.encoder(spec)`.
      axis: mapped axis of the devices, or None.

    Returns:
      The next state, and the logs `loss`, `top1` `[R]` (NaN for a classifier that stands still),
      `learning_rate` (of the first), `finite`.
    """
    is_frozen = not state.encoder[0]
    trainable = (state.encoder[0], state.heads)
    encoder = frozen if is_frozen else state.encoder
    gradients, (bn_state, logs) = jax.grad(losses, has_aux=True)(
        trainable, encoder, views, labels, hparams, network=network, frozen=is_frozen, axis=axis
    )
    gradients, logs = spmd.pmean((gradients, logs), axis)
    gradients = jax.tree.map(jnp.add, gradients, decay(trainable, hparams.weight_decay))
    updates, opt_state = _optimizer(hparams.momentum).update(gradients, state.opt_state)

    rates = schedules.learning_rate(
        state.step,
        peak=hparams.learning_rates,
        warmup_steps=hparams.warmup_steps,
        total_steps=hparams.total_steps,
    )
    moves = _scaled(updates, rates)
    healthy = state.healthy & jnp.isfinite(logs["loss"]) & _finite(moves)
    params, heads = jax.tree.map(jnp.subtract, trainable, moves)
    new = State(
        step=state.step + 1,
        encoder=({}, {}) if is_frozen else (params, bn_state),
        heads=heads,
        opt_state=opt_state,
        healthy=healthy,
        finite=state.finite & jnp.any(healthy),
    )
    # A classifier that stands still has no curve.
    logs = {name: jnp.where(state.healthy, values, jnp.nan) for name, values in logs.items()}
    logs |= {"learning_rate": rates[0], "finite": new.finite}
    return _guarded(new, state), logs


def _guarded(new: State, old: State) -> State:
    """`new` with its unhealthy classifiers as they were in `old`; all of `old` if none is left.

    The buffers of the old state are donated, so a bad step is undone here or never.
    """
    of_encoder, of_heads = new.opt_state.trace
    momentum = of_encoder, _where(new.healthy, of_heads, old.opt_state.trace[1])
    kept = new._replace(
        heads=_where(new.healthy, new.heads, old.heads),
        opt_state=new.opt_state._replace(trace=momentum),
    )
    last_good: State = jax.tree.map(lambda a, b: jnp.where(new.finite, a, b), kept, old)
    return last_good._replace(finite=new.finite)


def train_step(
    state: State,
    batch: Batch,
    seed: jax.Array | int,
    hparams: Hyperparameters,
    frozen: Encoder,
    *,
    network: hk.TransformedWithState,
    augmentation: str = "spatial",
    axis: str | None = None,
) -> tuple[State, Logs]:
    """`step` on a batch of crops.

    Args:
      batch: `view1` uint8 crops `[B, H, W, 3]`, `labels`, and `ids`, `epochs` int32 `[B]`.
      seed: seed of the augmentation.
      augmentation: a key of `AUGMENTATIONS`.
      state, hparams, frozen, network, axis: as for `step`.
    """
    key = keys.named_key(seed, "augment")
    views = AUGMENTATIONS[augmentation](batch["view1"], batch["ids"], batch["epochs"], key, hparams)
    return step(state, views, batch["labels"], hparams, frozen, network=network, axis=axis)


def predict(
    images: jax.Array, encoder: Encoder, heads: Heads, *, network: hk.TransformedWithState
) -> jax.Array:
    """Logits of the classifiers for evaluation crops, BatchNorm on its averages.

    Args:
      images: uint8 `[B, H, W, 3]`.
      encoder, heads: the trained weights.
      network: `siamese.encoder(spec)`.

    Returns:
      `[B, R, K]`, without tclip, which does not change their order.
    """
    views = byol.evaluation_views(images)
    outputs, _ = network.apply(*encoder, None, views, False)
    return jnp.swapaxes(apply_heads(heads, outputs["embedding"]), 0, 1)
