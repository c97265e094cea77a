"""The network of pseudo-code J.2: encoder f, projector g, predictor q, and the probe."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from byol_jax import keys
from byol_jax.errors import require
from byol_jax.networks import heads, resnet

Outputs = dict[str, jax.Array]

# What f, g and q compute in.
PRECISIONS = ("float32", "bfloat16")
PROJECTORS = ("mlp", "linear", "none")
# The optimal one is no module: `update` computes it from each batch (BYOL App. J.2).
PREDICTORS = ("mlp", "linear", "optimal_linear", "none")


class HeadSpec(NamedTuple):
    """A head: BYOL App. A's by default.

    Attributes:
      depth: number of linear layers of an `mlp` (Table 14a).
      hidden_size: width of its hidden layers.
      output_size: D, of a projector (Table 14b); a predictor keeps that of its input.
      kind: one of `PROJECTORS` or `PREDICTORS`; `linear` has one layer whatever the depth,
        and `none` hands its input on (Table 5b, SimCLR Figure 8).
    """

    depth: int = 2
    hidden_size: int = 4096
    output_size: int = 256
    kind: str = "mlp"


class NetworkSpec(NamedTuple):
    """Everything that shapes the network.

    Attributes:
      depth: a key of `resnet.ARCHITECTURES`.
      width: channel multiplier, a multiple of 1/8.
      stem: `imagenet` or `small`.
      num_classes: outputs of the online probe; 0 leaves the probe out.
      head_bias: `paper` gives the heads' last linear layer a bias, `released` none.
      last_bn_scale: initial scale of the last BatchNorm of a bottleneck: `paper` 1,
        `released` 0.
      bn_decay: decay of the BatchNorm moving averages.
      bn_eps: added to the variance.
      bn_axis: mapped axis that shares batch statistics; None keeps them local.
      init_scale: times the initial weights (BYOL App. G).
      remat: computes each residual block once more on the way back, so that only what goes
        into the blocks is kept for it: less memory for about a third more time.
      precision: `float32`, or `bfloat16` for convolutions, matrix products and what is
        between them; parameters, BatchNorm with its statistics, the probe and all outputs
        stay float32.
    """

    depth: str = "50"
    width: float = 1
    stem: str = "imagenet"
    num_classes: int = 0
    projector: HeadSpec = HeadSpec()
    predictor: HeadSpec = HeadSpec()
    head_bias: str = "released"
    last_bn_scale: str = "paper"
    bn_decay: float = 0.9
    bn_eps: float = 1e-5
    bn_axis: str | None = None
    init_scale: float = 1.0
    remat: bool = False
    precision: str = "float32"


def make_spec(
    network: Mapping[str, Any],
    num_classes: int,
    bn_axis: str | None = None,
    precision: str = "float32",
) -> NetworkSpec:
    """The spec of a config's `network` section, as the config or a checkpoint has it.

    Raises:
      UserError: for a value that names no network.
    """
    values = dict(network)
    projector = HeadSpec(**values.pop("projector"))
    predictor = HeadSpec(output_size=projector.output_size, **values.pop("predictor"))
    for knob in ("head_bias", "last_bn_scale"):
        require(
            values[knob] in ("paper", "released"),
            f"network.{knob}={values[knob]!r} must be paper or released",
        )
    resnet.architecture(values["depth"])
    resnet.scaled(1, values["width"])
    require(
        values["stem"] in resnet.STEMS,
        f"network.stem={values['stem']!r} is unknown: choose one of {', '.join(resnet.STEMS)}",
    )
    for name, head, kinds in (
        ("projector", projector, PROJECTORS),
        ("predictor", predictor, PREDICTORS),
    ):
        require(
            min(head.depth, head.hidden_size, head.output_size) >= 1,
            f"network.{name} needs a depth of 1 (linear) or more and sizes of at least 1",
        )
        require(
            head.kind in kinds,
            f"network.{name}.kind={head.kind!r} must be one of: {', '.join(kinds)}",
        )
    scale = values.get("init_scale", 1.0)
    require(scale > 0, f"network.init_scale={scale} must be above 0")
    return NetworkSpec(
        projector=projector,
        predictor=predictor,
        num_classes=num_classes,
        bn_axis=bn_axis,
        precision=precision,
        **values,
    )


# Both are cached, as JAX compiles anew for another function object of the same spec.
@functools.lru_cache(maxsize=8)
def siamese(spec: NetworkSpec) -> hk.TransformedWithState:
    """Online and target network alike, as a pure `init` and `apply`.

    `init(key, images, True)` runs on one device, outside of any mapped axis.

    `apply(params, state, None, images [B, H, W, 3], is_training)` returns the named
    outputs and the next BatchNorm state. The outputs are `embedding` y `[B, C]`,
    `projection` z `[B, D]`, `prediction` q(z) `[B, D]`, the probe's `logits`
    `[B, num_classes]`, and `feature_map/NAME` `[B, h, w, c]`, of which XLA computes
    only those that are used. Without a predictor, and with the optimal one, `prediction` is z.

    The probe reads the embedding behind a stop-gradient, so that no label reaches
    the encoder (docs/deviations.md, 6).
    """
    return _with_init(_transform, spec)


@functools.lru_cache(maxsize=8)
def encoder(spec: NetworkSpec) -> hk.TransformedWithState:
    """f alone, with the `embedding` and the feature maps among the outputs of `siamese`.

    Its parameters are `encoder_params` of those of `siamese`; `init` and `apply` as there.
    """
    return _with_init(_transform_encoder, spec)


def init_network(
    seed: int, name: str, network: hk.TransformedWithState, image_size: int
) -> tuple[hk.Params, hk.State]:
    """Parameters and BatchNorm state of the network called `name`, at initialisation."""
    return _draw(keys.named_key(seed, name), network, image_size)


# Drawing hundreds of arrays one by one is slow.
@functools.partial(jax.jit, static_argnames=("network", "image_size"))
def _draw(
    key: jax.Array, network: hk.TransformedWithState, image_size: int
) -> tuple[hk.Params, hk.State]:
    return network.init(key, jnp.zeros((1, image_size, image_size, 3), jnp.float32), True)


def _with_init(
    transform: Callable[[NetworkSpec], hk.TransformedWithState], spec: NetworkSpec
) -> hk.TransformedWithState:
    # Shapes do not depend on the axis, which only exists inside a mapped function.
    drawn = transform(spec._replace(bn_axis=None, remat=False, precision="float32")).init

    def init(
        key: jax.Array, images: jax.Array, is_training: bool
    ) -> tuple[hk.MutableParams, hk.MutableState]:
        params, state = drawn(key, images, is_training)
        if spec.init_scale != 1:
            params = hk.data_structures.map(
                lambda _, name, value: value * spec.init_scale if name == "w" else value, params
            )
        return params, state

    return hk.TransformedWithState(init, transform(spec).apply)


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    """The policy of the modules that are made and called inside."""
    if precision == "float32":
        yield
        return
    half, full = jnp.bfloat16, jnp.float32
    narrow = jmp.Policy(param_dtype=full, compute_dtype=half, output_dtype=full)
    # A policy holds for the modules inside one, too, unless their class has its own.
    norm = jmp.Policy(param_dtype=full, compute_dtype=full, output_dtype=half)
    with contextlib.ExitStack() as stack:
        for module, policy in ((resnet.ResNet, narrow), (heads.MLP, narrow), (hk.BatchNorm, norm)):
            stack.enter_context(hk.mixed_precision.push_policy(module, policy))
        yield


def _transform_encoder(spec: NetworkSpec) -> hk.TransformedWithState:
    @_computing_in(spec.precision)
    def network(images: jax.Array, is_training: bool) -> Outputs:
        return _named(*_encoder(spec)(images, is_training))

    return hk.transform_with_state(network)


def _named(embedding: jax.Array, feature_maps: Mapping[str, jax.Array]) -> Outputs:
    named = {f"feature_map/{name}": value for name, value in feature_maps.items()}
    return {"embedding": embedding, **named}


def _bn_config(spec: NetworkSpec) -> Mapping[str, Any]:
    return {
        "decay_rate": spec.bn_decay,
        "eps": spec.bn_eps,
        "create_scale": True,
        "create_offset": True,
        "cross_replica_axis": spec.bn_axis,
    }


def _encoder(spec: NetworkSpec) -> resnet.ResNet:
    last_bn_scale = {"paper": 1.0, "released": 0.0}[spec.last_bn_scale]
    return resnet.ResNet(
        spec.depth,
        spec.width,
        spec.stem,
        _bn_config(spec),
        last_bn_scale=last_bn_scale,
        remat=spec.remat,
    )


def _transform(spec: NetworkSpec) -> hk.TransformedWithState:
    final_bias = {"paper": True, "released": False}[spec.head_bias]
    bn_config = _bn_config(spec)

    @_computing_in(spec.precision)
    def network(images: jax.Array, is_training: bool) -> Outputs:
        encoder = _encoder(spec)

        def head(name: str, chosen: HeadSpec, size: int, inputs: jax.Array) -> jax.Array:
            if chosen.kind in ("none", "optimal_linear"):
                return inputs
            depth = 1 if chosen.kind == "linear" else chosen.depth
            mlp = heads.MLP(name, depth, chosen.hidden_size, size, final_bias, bn_config)
            return mlp(inputs, is_training)

        outputs = _named(*encoder(images, is_training))
        embedding = outputs["embedding"]
        projection = head("projector", spec.projector, spec.projector.output_size, embedding)
        prediction = head("predictor", spec.predictor, projection.shape[-1], projection)
        outputs |= {"projection": projection, "prediction": prediction}
        if spec.num_classes:
            probe = hk.Linear(spec.num_classes, name="classifier")
            outputs["logits"] = probe(jax.lax.stop_gradient(embedding))
        return outputs

    return hk.transform_with_state(network)


def encoder_params(params: hk.Params) -> hk.Params:
    """The parameters of f alone, which is all that BYOL keeps after training.

    Likewise its BatchNorm averages, of the state of the whole network.
    """
    heads_and_probe = ("projector", "predictor", "classifier")
    return {k: v for k, v in params.items() if k.split("/")[0] not in heads_and_probe}
