"""The objective, the online probe's loss, and the colour normalisation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden_data
from byol_jax.augment.byol import normalize, to_float
from byol_jax.objectives import byol, probe
from byol_jax.objectives.normalize import l2_normalize
from byol_jax.runtime import spmd
from numbered import numbered

VIEWS = (
    "prediction_view1",
    "prediction_view2",
    "target_projection_view1",
    "target_projection_view2",
)
RUNNERS = ("one_device", "two_devices")


def run(runner: str, function: Any, rows: np.ndarray) -> Any:
    """`function` of all rows `[N, ...]`, jitted, or mapped over two devices."""
    if runner == "one_device":
        return jax.tree.map(np.asarray, jax.jit(function)(rows))
    assert jax.local_device_count() == 2
    return spmd.map_batches(function, [rows], len(rows))


def regression(golden: golden_data.Golden, runner: str, case: str) -> golden_data.Results:
    x, y = golden.arrays[f"{case}/x"], golden.arrays[f"{case}/y"]

    def rows(pairs: jax.Array) -> Any:
        def total(x: jax.Array, y: jax.Array) -> Any:
            losses = byol.regression_loss(x, y)
            return jnp.sum(losses), losses

        gradients, losses = jax.grad(total, argnums=(0, 1), has_aux=True)(pairs[:, 0], pairs[:, 1])
        return losses, gradients

    losses, (grad_x, grad_y) = run(runner, rows, np.stack([x, y], axis=1))
    return {f"{case}/loss": losses, f"{case}/grad_x": grad_x, f"{case}/grad_y": grad_y}


def symmetric(golden: golden_data.Golden, runner: str, case: str) -> golden_data.Results:
    arrays = [golden.arrays[f"{case}/{view}"] for view in VIEWS]
    objective = byol.byol()
    params, state = objective.init(jax.random.key(0), {}, 1)

    def rows(stacked: jax.Array) -> Any:
        def total(stacked: jax.Array) -> Any:
            prediction1, prediction2, projection1, projection2 = jnp.moveaxis(stacked, 1, 0)
            online = [{"prediction": prediction1}, {"prediction": prediction2}]
            target = [{"projection": projection1}, {"projection": projection2}]
            result = objective.loss(
                params, numbered(online), numbered(target), {}, state, jax.random.key(0), 0
            )
            return jnp.sum(result.per_example), result.per_example

        gradients, losses = jax.grad(total, has_aux=True)(stacked)
        return losses, gradients

    losses, gradients = run(runner, rows, np.stack(arrays, axis=1))
    # The mean over the batch, and its gradient.
    results = {f"{case}/grad_{v}": gradients[:, i] / len(losses) for i, v in enumerate(VIEWS)}
    return results | {f"{case}/loss": np.mean(losses)}


def classifier(golden: golden_data.Golden, runner: str) -> golden_data.Results:
    logits = golden.arrays["classifier/logits"]
    labels = golden.arrays["classifier/labels"]
    assert logits.dtype == np.float32 and abs(labels).max() < 2**24

    def rows(table: jax.Array) -> Any:
        def one(logits: jax.Array, label: jax.Array) -> Any:
            return probe.probe_loss(logits[None], label[None], None)

        logits, labels = table[:, :-1], table[:, -1].astype(jnp.int32)
        return jax.vmap(jax.value_and_grad(one, has_aux=True))(logits, labels)

    table = np.concatenate([logits, labels[:, None].astype(np.float32)], axis=1)
    (losses, logs), gradients = run(runner, rows, table)
    np.testing.assert_array_equal(logs["probe_loss"], losses)
    return {
        "classifier/loss_per_example": losses,
        "classifier/loss_sum": np.sum(losses),
        "classifier/loss_mean": np.mean(losses),
        "classifier/grad_logits_of_mean": gradients / len(losses),
        # Percentages of a batch of one.
        "classifier/top1_correct": logs["probe_top1"] == 100,
        "classifier/top5_correct": logs["probe_top5"] == 100,
    }


def classifier_batch(golden: golden_data.Golden) -> golden_data.Results:
    """The probe's loss of the whole batch at once."""
    labels = jnp.asarray(golden.arrays["classifier/labels"])
    (loss, logs), gradient = jax.jit(
        jax.value_and_grad(lambda x: probe.probe_loss(x, labels, None), has_aux=True)
    )(golden.arrays["classifier/logits"])
    for k in (1, 5):
        correct = golden.arrays[f"classifier/top{k}_correct"]
        np.testing.assert_allclose(logs[f"probe_top{k}"], 100 * correct.mean(), rtol=1e-6)
    return {"classifier/loss_mean": loss, "classifier/grad_logits_of_mean": gradient}


def normalized(golden: golden_data.Golden, runner: str) -> golden_data.Results:
    images = golden.arrays["normalize/images_u8"]
    return {
        "normalize/out": run(runner, lambda x: normalize(to_float(x)), images),
    }


def cases(golden: golden_data.Golden, kind: str) -> list[str]:
    """`regression/d16` and the like."""
    found = {"/".join(key.split("/")[:2]) for key in golden.arrays if key.startswith(f"{kind}/")}
    assert found, f"no {kind} case in the file"
    return sorted(found)


def test_complete() -> None:
    golden_data.check_complete("loss")


@pytest.mark.parametrize("runner", RUNNERS)
def test_losses(runner: str) -> None:
    golden = golden_data.load("loss")
    results = classifier(golden, runner) | normalized(golden, runner)
    results["l2_normalize/out"] = run(runner, l2_normalize, golden.arrays["l2_normalize/x"])
    for case in cases(golden, "regression"):
        results |= regression(golden, runner, case)
    for case in cases(golden, "symmetric"):
        results |= symmetric(golden, runner, case)
    golden_data.check(golden, results, golden_data.compared_keys(golden), runner)


def test_probe_loss_of_a_batch() -> None:
    golden = golden_data.load("loss")
    results = classifier_batch(golden)
    golden_data.check(golden, results, list(results), "whole batch")
