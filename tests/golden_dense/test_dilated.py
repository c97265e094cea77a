"""The dilated ResNet-50 and the FCN on it against detectron2's network."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_dense_data as golden_dense
from byol_jax.dense import bilinear, pixels, segmentation
from byol_jax.networks import dense, fcn, resnet, siamese
from byol_jax.networks.fcn import FCN
from byol_jax.networks.siamese import NetworkSpec
from golden_dense_data import FLOAT32, FLOAT64, Results, Tree

pytestmark = pytest.mark.golden_dense

COMPARED = (
    "(odd|even)/(symmetric_padding/)?res4",
    r"(odd|even)/(stride32|dilated(_first_block_1)?)/(symmetric_padding/)?res5",
    "head/(eval|train)_logits",
    "(float64/)?fcn/(eval|train)/(logits|(align_corners|half_pixel)_loss|grad_l2)",
    "((float64/)?fcn/eval|float64/fcn/train)/grad_proj",
    "fcn/param_(names|shapes|sum)",
)
GIVEN = ("images_(odd|even)", "fcn/labels", "head/x")
LEFT_OUT = {"fcn/train/grad_proj": "noise in float32; its float64 twin is compared"}
SLOW = [pytest.mark.slow, pytest.mark.ci]
MODES = pytest.mark.parametrize("mode", ["eval", "train"])
OFF = "off the golden numbers"


def golden() -> golden_dense.Golden:
    return golden_dense.load("dilated")


def test_every_key_is_compared_given_or_left_out() -> None:
    golden_dense.check_keys(golden(), COMPARED, GIVEN, LEFT_OUT)


def spec_of(dilation: int, padding: str = "same") -> NetworkSpec:
    meta = golden().meta
    depth = meta["encoder"].removeprefix("ResNet")
    return NetworkSpec(
        depth, meta["width"], bn_eps=meta["bn_eps"], dilation=dilation, padding=padding
    )


def head_of() -> FCN:
    meta = golden().meta
    return FCN(meta["classes"], meta["head_channels"], meta["head_dilation"])


def weights(network: hk.TransformedWithState, inputs: np.ndarray) -> tuple[Tree, Tree]:
    """Parameters and averages by the recipe of the file."""
    shapes = jax.eval_shape(lambda key: network.init(key, inputs, True), jax.random.key(0))
    params, state = (
        {
            module: {
                name: golden_dense.recipe(golden(), f"{module}/{name}", leaf.shape)
                if name not in ("counter", "hidden")
                else np.zeros(leaf.shape, leaf.dtype)
                for name, leaf in leaves.items()
            }
            for module, leaves in tree.items()
        }
        for tree in shapes
    )
    return params, state


def flat(tree: Any) -> dict[str, np.ndarray]:
    """By name, sorted."""
    by_name = {f"{m}/{leaf}": value for m, leaves in tree.items() for leaf, value in leaves.items()}
    return {name: np.asarray(by_name[name]) for name in sorted(by_name)}


# ---------------------------------------------------------------- features


def features(images: str, spec: NetworkSpec) -> dict[str, jax.Array]:
    """Feature maps of f; moving averages in BatchNorm."""
    network = siamese.encoder.__wrapped__(spec)
    inputs = golden_dense.inputs(golden().arrays[f"images_{images}"], np.float32)
    params, state = weights(network, inputs)
    outputs, _ = jax.jit(lambda *args: network.apply(*args, False))(params, state, None, inputs)
    return {"res4": outputs["feature_map/group_2"], "res5": outputs["feature_map/group_3"]}


def by_images(pattern: str) -> list[Any]:
    """What a pattern matches, as parameters; one of the two sizes of images is slow."""
    return [
        pytest.param(case, marks=SLOW if case.startswith("odd") else [])
        for case in golden_dense.cases(golden(), pattern)
    ]


PATTERN = r"((odd|even)/(stride32|dilated)/(symmetric_padding/)?)res5"


@pytest.mark.parametrize("case", by_images(PATTERN))
def test_features(case: str) -> None:
    images, kind, *padding = case.rstrip("/").split("/")
    spec = spec_of(dilation=2 if kind == "dilated" else 1, padding="torch" if padding else "same")
    maps = features(images, spec)
    results = {f"{case}res5": maps["res5"]}
    results[f"{images}/{'symmetric_padding/' if padding else ''}res4"] = maps["res4"]
    golden_dense.check(golden(), results)


def undilated_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's flag: the first block of the last group has dilation 1."""
    block = resnet.Block

    def mistaken(spec: resnet.BlockSpec, *args: Any, name: str) -> resnet.Block:
        return block(spec._replace(dilation=1) if name == "block_0" else spec, *args, name=name)

    monkeypatch.setattr(resnet, "Block", mistaken)


@pytest.mark.parametrize("images", by_images("(odd|even)/dilated_first_block_1/res5"))
def test_an_undilated_first_block_is_off(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another network, whose golden numbers it has."""
    undilated_first(monkeypatch)
    maps = features(images, spec_of(dilation=2))
    golden_dense.check(golden(), {f"{images}/dilated_first_block_1/res5": maps["res5"]})
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), {f"{images}/dilated/res5": maps["res5"]})


def test_the_other_padding_is_off() -> None:
    maps = features("even", spec_of(dilation=2))
    for key in ("even/symmetric_padding/res4", "even/dilated/symmetric_padding/res5"):
        with pytest.raises(AssertionError, match=OFF):
            golden_dense.check(golden(), {key: maps[key.rpartition("/")[2]]})


# ---------------------------------------------------------------- head


@functools.cache
def head_results(mode: str, head: FCN) -> Results:
    """Logits of the head alone."""
    bn_config = dict(siamese.bn_config(spec_of(dilation=2)))

    def run(x: jax.Array, is_training: bool) -> jax.Array:
        return fcn.FCNHead(head, bn_config)(x, is_training)

    network, x = hk.transform_with_state(run), golden().arrays["head/x"]
    params, state = weights(network, x)
    logits, _ = jax.jit(lambda *args: network.apply(*args, mode == "train"))(params, state, None, x)
    return {f"head/{mode}_logits": logits}


@MODES
def test_head(mode: str) -> None:
    golden_dense.check(golden(), head_results(mode, head_of()))


def test_an_undilated_head_is_off() -> None:
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), head_results("eval", head_of()._replace(dilation=1)))


# ---------------------------------------------------------------- the whole network


def fcn_results(mode: str, prefix: str) -> Results:
    """Logits, losses and gradients of the whole network, and the names of its parameters."""
    dtype: Any = np.float64 if prefix else np.float32
    network = dense.network(spec_of(dilation=2), head_of())
    inputs = golden_dense.inputs(golden().arrays["images_odd"], dtype)
    labels = golden().arrays["fcn/labels"]
    params, state = jax.tree.map(
        lambda x: x if x.dtype == np.int32 else x.astype(dtype),
        weights(network, inputs.astype(np.float32)),
    )

    def losses(params: Tree, state: Tree, inputs: jax.Array) -> tuple[jax.Array, Any]:
        logits, _ = network.apply(params, state, None, inputs, mode == "train")
        values = [
            pixels.mean(
                segmentation.pixel_cross_entropy(
                    bilinear.resize(logits, labels.shape[1:], align_corners), jnp.asarray(labels)
                ),
                None,
            )
            for align_corners in (True, False)
        ]
        return values[0], (logits, values[1])

    with jax.enable_x64(bool(prefix)):
        (loss, (logits, half_pixel)), gradients = jax.jit(jax.value_and_grad(losses, has_aux=True))(
            params, state, inputs
        )
        assert logits.dtype == dtype
        by_name = flat(gradients)
        given = flat(params)
    here = f"fcn/{mode}/"
    results = {
        f"{here}logits": logits,
        f"{here}align_corners_loss": loss,
        f"{here}half_pixel_loss": half_pixel,
        f"{here}grad_l2": [np.linalg.norm(np.float64(x)) for x in by_name.values()],
        f"{here}grad_proj": [golden_dense.projection(golden(), *item) for item in by_name.items()],
    }
    if not prefix:
        results |= {
            "fcn/param_names": np.array(list(given)),
            "fcn/param_shapes": np.array([",".join(map(str, x.shape)) for x in given.values()]),
            "fcn/param_sum": [np.sum(np.float64(x)) for x in given.values()],
        }
    return results


@pytest.mark.parametrize(
    ("mode", "prefix"),
    [
        pytest.param("eval", FLOAT32, id="eval-float32", marks=SLOW),
        pytest.param("train", FLOAT64, id="train-float64"),
        pytest.param("eval", FLOAT64, id="eval-float64", marks=SLOW),
        pytest.param("train", FLOAT32, id="train-float32", marks=SLOW),
    ],
)
def test_fcn(mode: str, prefix: str) -> None:
    names = "" if prefix else "|fcn/param_.*"
    golden_dense.check(golden(), fcn_results(mode, prefix), prefix, f"(fcn/{mode}/.*{names})")
