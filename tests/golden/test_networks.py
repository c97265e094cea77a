"""Encoders, the names and shapes of all parameters, and fresh initialisations."""

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_data
from byol_jax.networks import resnet, siamese
from byol_jax.runtime import spmd

MODES = ("train", "eval")
FLOAT32, FLOAT64 = "", "float64/"
STEM_OR_BLOCK = r"[^/]+/~/(initial_(conv|batchnorm)|block_group_\d+(/~/block_\d+)?)"


def only_small(name: str, always: str = "") -> Any:
    """Always the network `always`, in CI those of 64 pixels, and the others in slow runs."""
    in_ci = [pytest.mark.ci] * name.endswith("_64")
    return pytest.param(name, marks=[] if name == always else [pytest.mark.slow, *in_ci])


def encoder(golden: golden_data.Golden, axis: str | None) -> hk.TransformedWithState:
    """f alone; its output is the embedding and every stem or block module's output."""
    meta = golden.meta
    assert not meta["resnet_v2"]

    def network(images: jax.Array, is_training: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        activations = {}

        def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            name = context.module.module_name
            if context.method_name == "__call__" and re.fullmatch(STEM_OR_BLOCK, name):
                activations[name] = output
            return output

        net = resnet.ResNet(
            golden_data.depth_of(meta["encoder"]),
            meta["width_multiplier"],
            bn_config={**meta["bn"], "cross_replica_axis": axis},
        )
        with hk.intercept_methods(record):
            embedding, _ = net(images, is_training)
        return embedding, activations

    return hk.transform_with_state(network)


@functools.lru_cache(maxsize=1)
def weights(name: str) -> tuple[hk.Params, hk.State]:
    """Parameters and BatchNorm state for one file, by the recipe, under our own names."""
    golden = golden_data.load(name)
    images = jnp.zeros(golden.arrays["images_u8"].shape)
    init = functools.partial(encoder(golden, None).init, is_training=True)
    shapes = jax.eval_shape(init, jax.random.key(0), images)

    def fill(tree: Any) -> Any:
        return {
            module: {
                leaf: golden_data.recipe(golden.meta["param_salt"], f"{module}/{leaf}", array.shape)
                for leaf, array in leaves.items()
            }
            for module, leaves in tree.items()
        }

    params, state = map(fill, shapes)
    return params, state


def l2_norms(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.array([np.linalg.norm(np.float64(array)) for array in arrays])


@functools.lru_cache(maxsize=1)
def compiled(
    name: str, mode: str, devices: int, prefix: str, gradients: bool
) -> Callable[..., Any]:
    """Outputs, BatchNorm state and gradients, as a function of the weights and a batch."""
    axis = spmd.AXIS if devices > 1 else None
    network = encoder(golden_data.load(name), axis)

    def scalar(params: Any, images: Any, state: Any, cotangent: Any) -> Any:
        outputs, new_state = network.apply(params, state, None, images, mode == "train")
        return jnp.sum(outputs[0] * cotangent), (outputs, new_state)

    def function(params: Any, state: Any, images: Any, cotangent: Any) -> Any:
        differentiate = jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)
        if gradients:
            (value, (outputs, new_state)), (by_params, by_images) = differentiate(
                params, images, state, cotangent
            )
        else:
            value, (outputs, new_state) = scalar(params, images, state, cotangent)
            by_params, by_images = {}, images[:0]
        # The sum over the devices; the package itself needs only means.
        value, by_params = jax.tree.map(lambda x: devices * x, spmd.pmean((value, by_params), axis))
        return value, outputs, new_state, by_params, by_images

    if devices == 1:
        return jax.jit(function)
    return spmd.pmap(function, devices=jax.local_devices()[:devices])


def compute(
    name: str,
    mode: str,
    devices: int,
    prefix: str,
    gradients: bool = True,
    order: np.ndarray | None = None,
) -> golden_data.Results:
    """Everything that the file holds for one mode, on one device or on several.

    Args:
      name: the file.
      mode: `train` or `eval`.
      devices: over which the batch is split.
      prefix: `float64/` for a 64-bit run.
      gradients: whether they are needed.
      order: of the batch; the results are put back.
    """
    golden = golden_data.load(name)
    dtype: Any = np.float64 if prefix == FLOAT64 else np.float32
    params, state = jax.tree.map(
        lambda x: x if x.dtype == np.int32 else x.astype(dtype), weights(name)
    )
    images = (golden.arrays["images_u8"].astype(dtype) - dtype(127.5)) / dtype(64)
    cotangent = golden.arrays["cotangent"].astype(dtype)
    order = np.arange(len(images)) if order is None else order
    images, cotangent = images[order], cotangent[order]
    with jax.enable_x64(prefix == FLOAT64):
        function = compiled(name, mode, devices, prefix, gradients)
        if devices == 1:
            result = function(params, state, images, cotangent)
        else:
            used = jax.local_devices()[:devices]
            assert len(used) == devices
            result = function(
                *spmd.replicate((params, state), used),
                *spmd.shard((images, cotangent), devices=used),
            )
        result = jax.tree.map(np.asarray, result)
    value, outputs, new_state, by_params, by_images = result
    if devices > 1:
        outputs, by_images = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]), (outputs, by_images)
        )
        for replica in jax.tree.leaves((value, new_state, by_params)):
            np.testing.assert_array_equal(replica[0], replica[1])
        value, new_state, by_params = jax.tree.map(lambda x: x[0], (value, new_state, by_params))
    embedding, activations = outputs
    assert embedding.dtype == dtype
    back = np.argsort(order)

    salt = golden.meta["param_salt"]
    activations = dict(sorted(activations.items()))
    results = {
        "embedding": embedding[back],
        "scalar": value,
        "act_names": list(activations),
        "act_l2": l2_norms(activations.values()),
    }
    if gradients:
        by_name = golden_data.flatten(by_params)
        results |= {
            "grad_l2": l2_norms(by_name.values()),
            "grad_proj": [golden_data.projection(salt, k, x) for k, x in by_name.items()],
            "input_grad_l2": l2_norms(by_images[back]),
            **{f"grad/{k}": x for k, x in by_name.items()},
        }
    if mode == "train":
        averages = golden_data.flatten(new_state)
        results |= {
            "new_state_l2": l2_norms(averages.values()),
            "new_state_proj": [golden_data.projection(salt, k, x) for k, x in averages.items()],
            **{f"new_state/{k}": x for k, x in averages.items()},
        }
    return {f"{prefix}{mode}/{key}": array for key, array in results.items()}


def names_and_sums(name: str) -> golden_data.Results:
    """What the file says about the weights: our names, the recipe's values."""
    results: golden_data.Results = {}
    for kind, tree in zip(("param", "state"), weights(name), strict=True):
        flat = golden_data.flatten(tree)
        results |= {
            f"{kind}_names": list(flat),
            f"{kind}_shapes": [",".join(map(str, array.shape)) for array in flat.values()],
            f"{kind}_sum": [np.sum(np.float64(array)) for array in flat.values()],
            f"{kind}_first": [array.ravel()[0] for array in flat.values()],
        }
    return results


@pytest.mark.parametrize("name", golden_data.NETWORKS)
def test_complete(name: str) -> None:
    golden_data.check_complete(name, (FLOAT32, FLOAT64))


@pytest.mark.parametrize("name", [only_small(n, "net_tiny_64") for n in golden_data.NETWORKS])
def test_encoder(name: str) -> None:
    golden = golden_data.load(name)
    fixed = names_and_sums(name) | compute(name, "eval", devices=1, prefix=FLOAT32)
    roundings = (
        fixed | compute(name, "train", devices=1, prefix=FLOAT32, order=order)
        for order in golden_data.orders(golden.meta["batch"])
    )
    golden_data.check_any(golden, roundings, golden_data.compared_keys(golden), "1 device")


@pytest.mark.parametrize("name", [only_small(name) for name in golden_data.NETWORKS])
def test_encoder_in_float64(name: str) -> None:
    golden = golden_data.load(name)
    results: golden_data.Results = {}
    for mode in MODES:
        results |= compute(name, mode, devices=1, prefix=FLOAT64)
    golden_data.check(golden, results, golden_data.compared_keys(golden, FLOAT64), "1 device")


def splits_in_two(name: str) -> bool:
    """Whether the batch can be halved; a missing file is kept, for its test to fail."""
    path = golden_data.folder() / f"{name}.npz"
    return not path.is_file() or golden_data.load(name).meta["batch"] % 2 == 0


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [FLOAT32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", [n for n in golden_data.NETWORKS if splits_in_two(n)])
def test_encoder_on_two_devices(name: str, prefix: str) -> None:
    golden = golden_data.load(name)
    keys = golden_data.compared_keys(golden, prefix)
    keys = [key for key in keys if key.startswith(f"{prefix}train/")]
    if prefix == FLOAT32:
        # Gradients depend on the side of zero on which a ReLU's input is rounded
        # (`check_any`), and the float64 ones are compared a hundred times closer.
        keys = [key for key in keys if "grad" not in key]
    results = compute(name, "train", devices=2, prefix=prefix, gradients=prefix == FLOAT64)
    golden_data.check(golden, results, keys, "2 devices")


def contract_spec(entry: dict[str, Any]) -> siamese.NetworkSpec:
    output_size = entry["projector_output_size"]
    return siamese.NetworkSpec(
        depth=golden_data.depth_of(entry["encoder"]),
        width=entry["width_multiplier"],
        num_classes=entry["num_classes"],
        projector=siamese.HeadSpec(2, entry["projector_hidden_size"], output_size),
        predictor=siamese.HeadSpec(2, entry["predictor_hidden_size"], output_size),
        head_bias="released",
    )


def shapes_of(tree: Any) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in golden_data.flatten(tree).items()}


def test_parameter_contract() -> None:
    contract = golden_data.load_json("param_contract")
    assert contract
    for name, entry in contract.items():
        init = functools.partial(siamese.siamese(contract_spec(entry)).init, is_training=True)
        images = jnp.zeros((1, 64, 64, 3))
        params, state = jax.eval_shape(init, jax.random.key(0), images)
        encoder_shapes = shapes_of(siamese.encoder_params(params))
        given = (
            "encoder",
            "width_multiplier",
            "projector_hidden_size",
            "projector_output_size",
            "predictor_hidden_size",
            "num_classes",
        )
        assert {key: entry[key] for key in given} | {
            "params": shapes_of(params),
            "state": shapes_of(state),
            "num_params": len(shapes_of(params)),
            "num_state": len(shapes_of(state)),
            "total_params": sum(map(math.prod, shapes_of(params).values())),
            "encoder_params": sum(map(math.prod, encoder_shapes.values())),
        } == entry, name


def init_spec(encoder_name: str, parameters: dict[str, Any]) -> siamese.NetworkSpec:
    """The network of an entry of init_stats.json, as told by the shapes of its arrays."""
    shapes = {name: entry["shape"] for name, entry in parameters.items()}
    (stem,) = (name for name in shapes if name.endswith("/initial_conv/w"))

    def head(name: str) -> siamese.HeadSpec:
        return siamese.HeadSpec(2, *shapes[f"{name}/linear_1/w"])

    return siamese.NetworkSpec(
        depth=golden_data.depth_of(encoder_name),
        width=shapes[stem][-1] / resnet.STEM_CHANNELS,
        num_classes=shapes["classifier/w"][-1],
        projector=head("projector"),
        predictor=head("predictor"),
        head_bias="released",
        last_bn_scale="released",
    )


def kind_of(array: np.ndarray) -> str:
    if not array.any():
        return "zeros"
    return "ones" if (array == 1).all() else "random"


# Second and fourth moment of a standard normal cut at 2: 1 - 2 a phi / Z and
# 3 m2 - 2 a^3 phi / Z with a = 2, phi = exp(-2) / sqrt(2 pi), Z = erf(sqrt(2)).
_DENSITY_AT_2 = math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
_SECOND_MOMENT = 1 - 4 * _DENSITY_AT_2
_FOURTH_MOMENT = 3 * _SECOND_MOMENT - 16 * _DENSITY_AT_2


@pytest.mark.slow
def test_fresh_initialisation() -> None:
    stats = golden_data.load_json("init_stats")
    assert stats
    for encoder_name, parameters in stats.items():
        network = siamese.siamese(init_spec(encoder_name, parameters))
        init = functools.partial(network.init, is_training=True)
        # Hundreds of generators to compile and each runs once.
        compiler_options = {"xla_backend_optimization_level": 0}
        params, _ = jax.jit(init, compiler_options=compiler_options)(
            jax.random.key(0), jnp.zeros((1, 32, 32, 3))
        )
        flat = {k: np.asarray(x) for k, x in golden_data.flatten(params).items()}
        assert list(flat) == sorted(parameters)
        for name, array in flat.items():
            entry, where = parameters[name], f"{encoder_name}: {name}"
            assert list(array.shape) == entry["shape"], where
            assert kind_of(array) == entry["kind"], where
            if entry["kind"] != "random":
                continue
            fan_in = math.prod(array.shape[:-1])
            assert fan_in == entry["fan_in"], where
            scaled = np.float64(array) * math.sqrt(fan_in)
            # Standard error of a standard deviation: sqrt((m4 - m2^2) / (4 m2 n)). Ours
            # and the stored one both have it; six of them are never exceeded by chance.
            variance = (_FOURTH_MOMENT - _SECOND_MOMENT**2) / (4 * _SECOND_MOMENT * array.size)
            limit = 6 * math.sqrt(2 * variance)
            assert abs(scaled.std() - entry["std_times_sqrt_fan_in"]) < limit, where
            # The cut is at 2, and the largest of n draws misses the last 20 / (density n)
            # below it with probability exp(-20).
            gap = 20 / (2 * _DENSITY_AT_2 * array.size)
            for largest in (np.abs(scaled).max(), entry["max_abs_times_sqrt_fan_in"]):
                assert 2 - gap < largest < 2 + 1e-6, where
