"""The network of pseudo-code J.2: encoder f, projector g, predictor q, and the probe."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from byol_jax import checks, keys
from byol_jax.errors import require
from byol_jax.networks import heads, norms, resnet
from byol_jax.networks.heads import HeadSpec

Outputs = dict[str, jax.Array]

# Number formats in which f, g and q compute.
PRECISIONS = ("float32", "bfloat16")
PROJECTORS = ("mlp", "linear", "none")
# `optimal_linear` is no module: `update` computes that predictor from each batch (BYOL App. J.2).
PREDICTORS = ("mlp", "linear", "optimal_linear", "none")
# Names of all modules except f: g, q, the dense head and the probe; heads of `dense.network`.
HEADS = ("projector", "predictor", "dense", "classifier", "fcn_head", "depth_head")


class NetworkSpec(NamedTuple):
    """Everything that shapes the network.

    Attributes:
      depth: a key of `resnet.ARCHITECTURES`.
      width: channel multiplier, a multiple of 1/8.
      stem: `imagenet` or `small`.
      num_classes: number of outputs of the online probe; 0 leaves the probe out.
      projector: layers of g.
      predictor: layers of q.
      head_bias: `paper` gives the last linear layer of each head a bias, `released` gives none.
      last_bn_scale: initial scale of the last BatchNorm of a bottleneck: 1 for `paper`, 0 for
        `released`.
      bn_decay: decay of the BatchNorm moving averages.
      bn_eps: constant added to the variance in BatchNorm.
      bn_axis: mapped axis that shares batch statistics; None keeps them local.
      init_scale: factor on the initial weights (BYOL App. G).
      remat: whether the backward pass computes each residual block again. Then only the inputs of
        blocks are kept for it: less memory for about a third more time.
      precision: `float32`, or `bfloat16` for convolutions, matrix products and the values between
        them. Parameters, BatchNorm with its statistics, the probe and all outputs stay float32.
      dense: layers of a head on each position of the last feature map, or None (Lecture, DenseCL).
        The head is part of the network, since the target averages it too.
      dilation: dilation of the last group of f; see `resnet.ResNet`.
      padding: one of `resnet.PADDINGS`.
      shortcut: one of `resnet.SHORTCUTS`.
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
    dense: HeadSpec | None = None
    dilation: int = 1
    padding: str = "same"
    shortcut: str = "projection"


def make_spec(
    network: Mapping[str, Any],
    num_classes: int,
    bn_axis: str | None = None,
    precision: str = "float32",
) -> NetworkSpec:
    """The spec for a config's `network` section, from a config or a checkpoint.

    Raises:
      UserError: a value is not allowed; the message names its key.
    """
    values = dict(network)
    given_in: dict[str, tuple[Mapping[str, Any], Any]] = {
        "": (values, NetworkSpec),
        "projector.": (values["projector"], HeadSpec),
        "predictor.": (values["predictor"], HeadSpec),
        "dense.": (values.get("dense") or {}, HeadSpec),
    }
    for section, (given, kind) in given_in.items():
        for key in given:
            require(
                key in kind._fields,
                f"network.{section}{key} is no key of a network{checks.nearest(key, kind._fields)}",
            )
    projector = HeadSpec(**values.pop("projector"))
    predictor = HeadSpec(output_size=projector.output_size, **values.pop("predictor"))
    # Checkpoints of earlier versions have no dense head.
    dense = HeadSpec(**(values.pop("dense", None) or {"kind": "none"}))
    spec = NetworkSpec(
        projector=projector,
        predictor=predictor,
        dense=None if dense.kind == "none" else dense,
        num_classes=num_classes,
        bn_axis=bn_axis,
        precision=precision,
        **values,
    )
    resnet.architecture(spec.depth)
    resnet.scaled(1, spec.width)
    heads_by_name = {"projector": projector, "predictor": predictor, "dense": dense}
    sections = {name: head._asdict() for name, head in heads_by_name.items()}
    checks.check_keys({**spec._asdict(), **sections}, _RULES, "network")
    checks.check_keys({"precision": precision}, {"precision": checks.one_of(PRECISIONS)})
    for name, head in heads_by_name.items():
        require(
            head.output_norm == "none" or head.kind in ("mlp", "linear"),
            f"network.{name}.output_norm={head.output_norm} needs a last linear layer, and "
            f"network.{name}.kind={head.kind} has none: set output_norm to none",
        )
    return spec


_RULES = {
    "stem": checks.one_of(resnet.STEMS),
    "padding": checks.one_of(resnet.PADDINGS),
    "shortcut": checks.one_of(resnet.SHORTCUTS),
    "head_bias": checks.one_of(("paper", "released")),
    "last_bn_scale": checks.one_of(("paper", "released")),
    "init_scale": checks.above(0),
    "projector.kind": checks.one_of(PROJECTORS),
    "projector.depth": checks.at_least(1),
    "projector.hidden_size": checks.at_least(1),
    "projector.output_size": checks.at_least(1),
    "projector.output_norm": checks.one_of(heads.OUTPUT_NORMS),
    "predictor.kind": checks.one_of(PREDICTORS),
    "predictor.depth": checks.at_least(1),
    "predictor.hidden_size": checks.at_least(1),
    "predictor.output_norm": checks.one_of(heads.OUTPUT_NORMS),
    "dense.kind": checks.one_of(PROJECTORS),
    "dense.depth": checks.at_least(1),
    "dense.hidden_size": checks.at_least(1),
    "dense.output_size": checks.at_least(1),
    "dense.output_norm": checks.one_of(heads.OUTPUT_NORMS),
}


# Both functions are cached: JAX compiles again for a new function object of the same spec.
@functools.lru_cache(maxsize=8)
def siamese(spec: NetworkSpec) -> hk.TransformedWithState:
    """The network, online and target alike, as a pure `init` and `apply`.

    `init(key, images, True)` runs on one device, outside of any mapped axis.

    `apply(params, state, None, images [B, H, W, 3], is_training)` returns named outputs and the
    next BatchNorm state. The outputs are:

    - `embedding`: y `[B, C]`;
    - `projection`: z `[B, D]`;
    - `prediction`: q(z) `[B, D]`; z itself without a predictor and with the optimal one;
    - `dense`: `[B, h, w, D]`, with a dense head;
    - `logits`: `[B, num_classes]`, with a probe;
    - `feature_map/NAME`: `[B, h, w, c]` per feature map.

    XLA computes only the outputs that are used.

    Given a tuple of image arrays, `apply` returns a tuple of outputs. The arrays may differ in
    size, except with a dense head. f runs on one array after the other; g, q and the dense head
    run on all arrays at once, so their BatchNorm statistics cover all images. Only the first
    outputs have `logits`.

    The probe reads the embedding behind a stop-gradient, so no label reaches the encoder through
    it (docs/deviations.md, 6). Labels train the encoder where the objective takes them: SupCon's.
    """
    return with_init(_transform, spec)


@functools.lru_cache(maxsize=8)
def encoder(spec: NetworkSpec) -> hk.TransformedWithState:
    """f alone; its outputs are the `embedding` and the feature maps of `siamese`.

    Its parameters are `encoder_params` of those of `siamese`; `init` and `apply` work as there.
    """
    return with_init(_transform_encoder, spec)


def init_network(
    seed: int, name: str, network: hk.TransformedWithState, image_size: int
) -> tuple[hk.Params, hk.State]:
    """Initial parameters and BatchNorm state of the network called `name`."""
    return _draw(keys.named_key(seed, name), network, image_size)


# Without jit, hundreds of arrays would be drawn one by one, which is slow.
@functools.partial(jax.jit, static_argnames=("network", "image_size"))
def _draw(
    key: jax.Array, network: hk.TransformedWithState, image_size: int
) -> tuple[hk.Params, hk.State]:
    return network.init(key, jnp.zeros((1, image_size, image_size, 3), jnp.float32), True)


def with_init(
    transform: Callable[[NetworkSpec], hk.TransformedWithState], spec: NetworkSpec
) -> hk.TransformedWithState:
    """The network of a spec, with an `init` that runs on one device, outside of any mapped axis."""
    # Shapes do not depend on the axis, which exists inside mapped functions only.
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
def computing_in(
    precision: str, narrow_modules: Sequence[type[hk.Module]] = (resnet.ResNet, heads.MLP)
) -> Iterator[None]:
    """Sets the number formats of modules that are made and called inside the context.

    Args:
      precision: one of `PRECISIONS`.
      narrow_modules: classes that compute in it, and give float32.
    """
    if precision == "float32":
        yield
        return
    half, full = jnp.bfloat16, jnp.float32
    narrow = jmp.Policy(param_dtype=full, compute_dtype=half, output_dtype=full)
    # A policy also holds for nested modules, unless their class has a policy of its own.
    norm = jmp.Policy(param_dtype=full, compute_dtype=full, output_dtype=half)
    with contextlib.ExitStack() as stack:
        for module in narrow_modules:
            stack.enter_context(hk.mixed_precision.push_policy(module, narrow))
        stack.enter_context(hk.mixed_precision.push_policy(norms.BatchNorm, norm))
        yield


def _transform_encoder(spec: NetworkSpec) -> hk.TransformedWithState:
    @computing_in(spec.precision)
    def network(images: jax.Array, is_training: bool) -> Outputs:
        return _named(*make_encoder(spec)(images, is_training))

    return hk.transform_with_state(network)


def _named(embedding: jax.Array, feature_maps: Mapping[str, jax.Array]) -> Outputs:
    named = {f"feature_map/{name}": value for name, value in feature_maps.items()}
    return {"embedding": embedding, **named}


def bn_config(spec: NetworkSpec) -> Mapping[str, Any]:
    """Keyword arguments of every `norms.BatchNorm` of a network."""
    return {
        "decay_rate": spec.bn_decay,
        "eps": spec.bn_eps,
        "create_scale": True,
        "create_offset": True,
        "cross_replica_axis": spec.bn_axis,
    }


def make_encoder(spec: NetworkSpec) -> resnet.ResNet:
    """The module f, inside a transformed function."""
    last_bn_scale = {"paper": 1.0, "released": 0.0}[spec.last_bn_scale]
    return resnet.ResNet(
        spec.depth,
        spec.width,
        spec.stem,
        bn_config(spec),
        last_bn_scale=last_bn_scale,
        remat=spec.remat,
        variant=resnet.Variant(spec.dilation, spec.padding, spec.shortcut),
    )


Images = jax.Array | tuple[jax.Array, ...]


def _transform(spec: NetworkSpec) -> hk.TransformedWithState:
    @computing_in(spec.precision)
    def network(images: Images, is_training: bool) -> Outputs | tuple[Outputs, ...]:
        groups = images if isinstance(images, tuple) else (images,)
        encoder = make_encoder(spec)
        outputs = [_named(*encoder(group, is_training)) for group in groups]
        _add_heads(spec, outputs, is_training)
        if spec.num_classes:
            probe = hk.Linear(spec.num_classes, name="classifier")
            outputs[0]["logits"] = probe(jax.lax.stop_gradient(outputs[0]["embedding"]))
        return tuple(outputs) if isinstance(images, tuple) else outputs[0]

    return hk.transform_with_state(network)


def _add_heads(spec: NetworkSpec, outputs: Sequence[Outputs], is_training: bool) -> None:
    """Adds the outputs of g, q and the dense head, each applied to all groups at once."""
    final_bias = {"paper": True, "released": False}[spec.head_bias]

    def head(name: str, layers: HeadSpec, size: int, inputs: jax.Array) -> jax.Array:
        if layers.kind in ("none", "optimal_linear"):
            return inputs
        mlp = heads.MLP(name, layers, size, final_bias, bn_config(spec))
        return mlp(inputs, is_training)

    sizes = [len(group["embedding"]) for group in outputs]
    # A single group, as in BYOL, is neither concatenated nor split.
    embedding = _joined([group["embedding"] for group in outputs])
    projection = head("projector", spec.projector, spec.projector.output_size, embedding)
    prediction = head("predictor", spec.predictor, projection.shape[-1], projection)
    results = {"projection": projection, "prediction": prediction}
    if spec.dense:
        maps = _joined([group[f"feature_map/{resnet.LAST_MAP}"] for group in outputs])
        results["dense"] = head("dense", spec.dense, spec.dense.output_size, maps)
    for name, values in results.items():
        start = 0
        for group, size in zip(outputs, sizes, strict=True):
            group[name] = values if len(outputs) == 1 else values[start : start + size]
            start += size


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def encoder_params(params: hk.Params) -> hk.Params:
    """The parameters of f alone, which is all that BYOL keeps after training.

    Given the state of the whole network, it returns the BatchNorm averages of f. It takes f out of
    the networks of `dense.network`, too.
    """
    return {k: v for k, v in params.items() if k.split("/")[0] not in HEADS}
