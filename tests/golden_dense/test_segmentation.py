"""Upsampling, loss and mIoU against detectron2 and torch, and the mistakes that are caught."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_dense_data as golden_dense
from byol_jax.dense import bilinear, pixels, segmentation
from byol_jax.runtime import spmd
from golden_dense_data import FLOAT32, FLOAT64, Results

pytestmark = pytest.mark.golden_dense

CONVENTIONS = {"align_corners": True, "half_pixel": False}
PREFIXES = pytest.mark.parametrize("prefix", [FLOAT32, FLOAT64], ids=["float32", "float64"])

COMPARED = (
    r"miou/\w+/(confusion_pred_gt|iou|miou|fw_iou|mean_acc|pixel_acc|miou_of_classes_in_union)",
    r"upsample/\w+/(half_pixel|align_corners)(_input_grad)?",
    r"(float64/)?loss/\w+/(half_pixel|align_corners)_(loss|grad)",
    r"resize/\w+_image_bilinear_float_no_antialias",
)
GIVEN = (
    r"miou/\w+/(gt_\d+|pred_\d+|n)",
    r"upsample/\w+/(x|cotangent)",
    r"loss/\w+/(logits|labels)",
    "resize/(image|labels)",
)
LEFT_OUT = {
    r"resize/\w+_image_bilinear(_float)?": "Pillow's own resizing, which reads images for training",
    r"resize/\w+_labels_nearest": "resizing of labels for training, not of predictions",
}


def golden() -> golden_dense.Golden:
    return golden_dense.load("segmentation")


def cases(pattern: str) -> list[str]:
    return golden_dense.cases(golden(), pattern)


def test_every_key_is_compared_given_or_left_out() -> None:
    golden_dense.check_keys(golden(), COMPARED, GIVEN, LEFT_OUT)


def labels_of(array: np.ndarray, g: golden_dense.Golden) -> np.ndarray:
    """Labels with this package's void."""
    return np.where(array == g.meta["void"], segmentation.VOID, array.astype(np.int32))


# ---------------------------------------------------------------- upsampling


def test_upsampling_and_its_transpose() -> None:
    arrays, results = golden().arrays, {}
    for case in cases(r"(upsample/\w+)/x"):
        cotangent = arrays[f"{case}/cotangent"]
        for name, align_corners in CONVENTIONS.items():

            def up(x: jax.Array, size: Any = cotangent.shape[1:3], c: bool = align_corners) -> Any:
                return bilinear.resize(x, size, c)

            results[f"{case}/{name}"], transpose = jax.vjp(up, arrays[f"{case}/x"])
            (results[f"{case}/{name}_input_grad"],) = transpose(jnp.asarray(cotangent))
    golden_dense.check(golden(), results, complete=COMPARED[1])


def test_upsampling_on_the_host() -> None:
    arrays, results = golden().arrays, {}
    for case in cases(r"(upsample/\w+)/x"):
        maps = np.moveaxis(arrays[f"{case}/x"], -1, 1)
        size = arrays[f"{case}/cotangent"].shape[1:3]
        for name, align_corners in CONVENTIONS.items():
            resized = bilinear.resize_on_host(maps, size, align_corners)
            results[f"{case}/{name}"] = np.moveaxis(resized, 1, -1)
    image = np.moveaxis(arrays["resize/image"].astype(np.float64), -1, 0)
    for key in cases(rf"({COMPARED[3]})"):
        resized = bilinear.resize_on_host(image, arrays[key].shape[:2])
        results[key] = np.moveaxis(resized, 0, -1)
    golden_dense.check(golden(), results, complete=COMPARED[3])


# ---------------------------------------------------------------- loss


def loss_results(
    prefix: str, devices: int = 1, conventions: Mapping[str, bool] = CONVENTIONS
) -> Results:
    """Loss and gradient of every case; a batch that does not divide is filled up with void."""
    results: Results = {}
    dtype = np.float64 if prefix else np.float32
    for case in cases(r"(loss/\w+)/logits"):
        logits = golden().arrays[f"{case}/logits"].astype(dtype)
        labels = labels_of(golden().arrays[f"{case}/labels"], golden())
        for name, align_corners in conventions.items():

            def loss(x: jax.Array, y: jax.Array, axis: str | None, c: bool = align_corners) -> Any:
                up = bilinear.resize(x, y.shape[1:], c)
                return pixels.mean(segmentation.pixel_cross_entropy(up, y), axis)

            value, gradient = mean_over_devices(loss, devices, dtype, logits, labels)
            results[f"{case}/{name}_loss"], results[f"{case}/{name}_grad"] = value, gradient
    return results


def mean_over_devices(
    loss: Any, devices: int, dtype: type, first: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A loss of a batch that is split over devices, and its gradient by the first array."""
    with jax.enable_x64(dtype is np.float64):
        if devices == 1:
            value, gradient = jax.jit(
                jax.value_and_grad(lambda x, *rest: loss(x, *rest, axis=None))
            )(first, *others)
            return np.asarray(value), np.asarray(gradient)
        used = jax.local_devices()[:devices]
        assert len(used) == devices
        missing = -len(first) % devices
        padded = [
            np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
            for x, fill in zip((first, *others), (0, segmentation.VOID), strict=True)
        ]
        step = spmd.pmap(
            jax.value_and_grad(lambda x, *rest: loss(x, *rest, axis=spmd.AXIS)), devices=used
        )
        values, gradients = step(*spmd.shard(tuple(padded), devices=used))
        rows = np.asarray(gradients).reshape(-1, *first.shape[1:])[: len(first)]
    # The gradient of each device's loss by its own images: the mean over devices divides it.
    return np.mean(np.asarray(values)), rows / devices


@PREFIXES
def test_loss(prefix: str) -> None:
    golden_dense.check(golden(), loss_results(prefix), prefix, "loss/.*_(loss|grad)")


@PREFIXES
def test_loss_on_two_devices(prefix: str) -> None:
    golden_dense.check(golden(), loss_results(prefix, 2), prefix, "loss/.*_(loss|grad)")


# ---------------------------------------------------------------- measures


def miou_results(cases_of: Any = None) -> Results:
    results: Results = {}
    for case in cases(r"(miou/\w+)/n"):
        confused = sum(cases_of(case) if cases_of else confusions(case))
        scores = segmentation.scores(confused)
        results |= {f"{case}/confusion_pred_gt": confused} | named(case, scores)
    return results


def confusions(case: str) -> list[np.ndarray]:
    arrays, classes = golden().arrays, golden().meta["classes"]
    return [
        segmentation.confusion(
            arrays[f"{case}/pred_{i}"], labels_of(arrays[f"{case}/gt_{i}"], golden()), classes
        )
        for i in range(int(arrays[f"{case}/n"]))
    ]


def named(case: str, scores: segmentation.Scores) -> Results:
    return {
        f"{case}/iou": scores.class_iou,
        f"{case}/miou": scores.mean_iou,
        f"{case}/miou_of_classes_in_union": scores.mean_iou_of_predicted,
        f"{case}/fw_iou": scores.weighted_iou,
        f"{case}/mean_acc": scores.mean_accuracy,
        f"{case}/pixel_acc": scores.pixel_accuracy,
    }


def test_measures() -> None:
    golden_dense.check(golden(), miou_results(), complete=COMPARED[0])


# ---------------------------------------------------------------- mistakes


OFF = "off the golden numbers"
ONE = {"align_corners": True}


def test_void_counted_in_the_loss_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # No pixel has this label.
    monkeypatch.setattr(segmentation, "VOID", segmentation.VOID + 1)
    monkeypatch.setitem(golden().meta, "void", -1)
    for key, value in loss_results(FLOAT32, conventions=ONE).items():
        with pytest.raises(AssertionError, match=OFF):
            golden_dense.check(golden(), {key: value})


def test_a_mean_over_devices_of_their_means_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a case differ in how many of their pixels are void."""
    monkeypatch.setattr(spmd, "pmean", lambda tree, axis: tree)
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), loss_results(FLOAT32, 2, ONE))


def test_the_other_convention_of_upsampling_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = bilinear.resize
    monkeypatch.setattr(bilinear, "resize", lambda x, size, c: resize(x, size, not c))
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), loss_results(FLOAT32, conventions=ONE))


def test_miou_averaged_over_images_is_off() -> None:
    for case in cases(r"(miou/\w+)/n"):
        of_images = [segmentation.scores(confused).mean_iou for confused in confusions(case)]
        with pytest.raises(AssertionError, match=OFF):
            golden_dense.check(golden(), {f"{case}/miou": np.mean(of_images)})


def test_rows_and_columns_exchanged_are_off() -> None:
    results = miou_results(lambda case: [confused.T for confused in confusions(case)])
    with pytest.raises(AssertionError, match=OFF):
        golden_dense.check(golden(), results)
