"""berHu, measures and up-projection against FCRN's authors, and the mistakes that are caught."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_dense_data as golden_dense
from byol_jax.dense import depth, pixels
from byol_jax.networks import upproj
from byol_jax.runtime import spmd
from golden_dense_data import FLOAT32, FLOAT64, Results, Tree

pytestmark = pytest.mark.golden_dense

PREFIXES = pytest.mark.parametrize("prefix", [FLOAT32, FLOAT64], ids=["float32", "float64"])
COMPARED = (
    r"(float64/)?berhu/\w+/(loss|c|grad)",
    r"metrics/\w+/(pooled|mean_over_images)",
    r"up_projection/\w+/(unpool5x5_)?(eval|train)_y",
    r"up_projection/\w+/(eval|train)_input_grad",
)
GIVEN = (
    r"(berhu|metrics)/\w+/(prediction|target|mask)",
    r"up_projection/\w+/(x|cotangent|names|shapes)",
)
OFF = "off the golden numbers"


def golden() -> golden_dense.Golden:
    return golden_dense.load("depth")


def cases(pattern: str) -> list[str]:
    return golden_dense.cases(golden(), pattern)


def test_every_key_is_compared_or_given() -> None:
    golden_dense.check_keys(golden(), COMPARED, GIVEN)


def maps_of(case: str, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, target and mask of a case; the target is nan where there is no depth."""
    prediction, target, mask = (
        golden().arrays[f"{case}/{name}"] for name in ("prediction", "target", "mask")
    )
    return prediction.astype(dtype), np.where(mask, target, np.nan).astype(dtype), mask


# ---------------------------------------------------------------- berHu


def berhu_results(prefix: str, devices: int = 1) -> Results:
    """Loss, c and gradient of every case; a batch that does not divide is filled up."""
    results: Results = {}
    dtype = np.float64 if prefix else np.float32
    with jax.enable_x64(bool(prefix)):
        for case in cases(r"(berhu/\w+)/mask"):
            maps = maps_of(case, dtype)
            count = len(maps[0])
            padding = [(0, -count % devices), (0, 0), (0, 0)]
            used = jax.local_devices()[:devices]
            assert len(used) == devices
            step = spmd.pmap(jax.value_and_grad(loss_and_c, has_aux=True), devices=used)
            padded = tuple(np.pad(x, padding) for x in maps)
            (losses, thresholds), gradients = step(*spmd.shard(padded, devices=used))
            results[f"{case}/loss"] = np.mean(np.asarray(losses))
            results[f"{case}/c"] = np.asarray(thresholds)[0]
            rows = np.asarray(gradients).reshape(-1, *maps[0].shape[1:])[:count]
            results[f"{case}/grad"] = rows / devices
    return results


def loss_and_c(
    prediction: jax.Array, target: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    threshold = depth.berhu_threshold(prediction, target, valid, spmd.AXIS)
    return pixels.mean(depth.berhu(prediction, target, valid, threshold), spmd.AXIS), threshold


@PREFIXES
@pytest.mark.parametrize("devices", [1, 2])
def test_berhu(prefix: str, devices: int) -> None:
    golden_dense.check(golden(), berhu_results(prefix, devices), prefix, "berhu/.*/(loss|c|grad)")


# ---------------------------------------------------------------- measures


def sums_of(case: str) -> list[depth.DepthSums]:
    """The sums of each image."""
    return [depth.depth_sums(*image) for image in zip(*maps_of(case, np.float32), strict=True)]


def in_order(scores: depth.DepthScores) -> np.ndarray:
    """Measures in the order of the file."""
    values = dict(zip(("pct<1.25", "pct<1.25^2", "pct<1.25^3"), scores.within, strict=True))
    values |= {"rms": scores.rms, "rel": scores.rel, "log10": scores.log10}
    return np.array([values[name] for name in golden().meta["metrics"]])


def pooled(case: str) -> np.ndarray:
    first, *others = sums_of(case)
    for other in others:
        first = depth.add(first, other)
    return in_order(depth.depth_scores(first))


def mean_over_images(case: str) -> np.ndarray:
    return np.mean([in_order(depth.depth_scores(sums)) for sums in sums_of(case)], axis=0)


def test_measures() -> None:
    results: Results = {}
    for case in cases(r"(metrics/\w+)/mask"):
        results[f"{case}/pooled"] = pooled(case)
        results[f"{case}/mean_over_images"] = mean_over_images(case)
        whole = depth.depth_scores(depth.depth_sums(*maps_of(case, np.float32)))
        np.testing.assert_allclose(in_order(whole), pooled(case), rtol=1e-12)
    golden_dense.check(golden(), results, complete=COMPARED[1])


# ---------------------------------------------------------------- up-projection


def weights_of(case: str) -> tuple[Tree, Tree]:
    """Parameters and averages of a block under the names of this package."""
    params: Tree = {}
    state: Tree = {}
    arrays = golden().arrays
    for name, text in zip(arrays[f"{case}/names"], arrays[f"{case}/shapes"], strict=True):
        array = golden_dense.recipe(golden(), str(name), golden_dense.shape_of(text))
        layer, leaf = str(name).split("/")[1:]
        module = f"block/{ours(layer)}"
        if leaf in ("mean", "var"):
            average = array.reshape(1, 1, 1, -1)
            state[f"{module}/~/{leaf}_ema"] = {
                "average": average,
                "hidden": average,
                "counter": np.zeros((), np.int32),
            }
        else:
            is_norm = leaf in ("scale", "offset")
            params.setdefault(module, {})[leaf] = array.reshape(1, 1, 1, -1) if is_norm else array
    return params, state


def ours(layer: str) -> str:
    """`layer2x_br1_ConvA` is `branch1_conv_a`, `layer2x_BN` is `batchnorm`."""
    words = [word.lower() for word in layer.split("_")[1:]]
    branch = {"br1": "branch1_", "br2": "branch2_"}.get(words[0], "")
    kind = words[-1]
    return branch + ("batchnorm" if kind == "bn" else f"conv_{kind[4:]}".rstrip("_"))


def with_gradient(function: Any, x: jax.Array, cotangent: jax.Array) -> tuple[Any, Any]:
    y, transpose = jax.vjp(function, x)
    return y, transpose(cotangent)[0]


@functools.cache
def block_results(padding: str) -> Results:
    """Outputs and input gradients of every case, under the keys of the file."""
    results: Results = {}
    start = "" if padding == "authors" else f"{padding}_"
    bn_config = {"create_scale": True, "create_offset": True, "decay_rate": 0.9}
    bn_config["eps"] = golden().meta["bn_eps"]
    for case in cases(r"(up_projection/\w+)/x"):
        x, cotangent = (golden().arrays[f"{case}/{name}"] for name in ("x", "cotangent"))

        def block(x: jax.Array, is_training: bool, size: int = cotangent.shape[-1]) -> jax.Array:
            return upproj.UpProjectionBlock(size, padding, bn_config, "block")(x, is_training)

        params, state = weights_of(case)
        apply = hk.transform_with_state(block).apply
        for mode in ("eval", "train"):

            def up(x: jax.Array, m: str = mode, p: Any = (params, state), a: Any = apply) -> Any:
                return a(*p, None, x, m == "train")[0]

            if padding == "authors":
                y, gradient = jax.jit(lambda x, c, up=up: with_gradient(up, x, c))(x, cotangent)
                results[f"{case}/{mode}_input_grad"] = gradient
            else:
                y = jax.jit(up)(x)
            results[f"{case}/{start}{mode}_y"] = y
    return results


@pytest.mark.parametrize("padding", upproj.PADDINGS)
def test_up_projection(padding: str) -> None:
    kinds = {"unpool5x5": "unpool5x5_.*", "authors": "(eval|train)_(y|input_grad)"}
    keys = rf"up_projection/\w+/{kinds[padding]}"
    golden_dense.check(golden(), block_results(padding), complete=keys)


# ---------------------------------------------------------------- mistakes


def test_c_of_one_device_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spmd, "pmax", lambda tree, axis: tree)
    mistaken = berhu_results(FLOAT32, devices=2)
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), mistaken)


def test_invalid_depth_counted_is_off() -> None:
    """As depth 0, which is what most files have there."""
    (case,) = (case for case in cases(r"(berhu/\w+)/mask") if case.endswith("/masked"))
    prediction, target, valid = maps_of(case, np.float32)
    everywhere = jnp.ones_like(valid)
    everything = jnp.nan_to_num(target)
    threshold = depth.berhu_threshold(prediction, target, valid, None)
    sums = depth.berhu(prediction, everything, everywhere, threshold)
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), {f"{case}/loss": pixels.mean(sums, None)})


def test_measures_averaged_over_images_are_off() -> None:
    for case in cases(r"(metrics/\w+)/mask"):
        with pytest.raises(AssertionError, match=OFF):
            golden_dense.check(golden(), {f"{case}/pooled": mean_over_images(case)})


def test_the_other_padding_is_off() -> None:
    results = block_results("unpool5x5")
    renamed = {key.replace("unpool5x5_", ""): value for key, value in results.items()}
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), renamed)
