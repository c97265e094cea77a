"""Learning rate, target decay rate, and the constants of the published recipes."""

import jax
import pytest

import golden_data
from byol_jax.data import pipeline
from byol_jax.optim import schedules
from experiments import byol

IMAGENET_TRAIN = 1_281_167


@jax.jit
def rates(
    step: jax.Array, peak: float, base: float, warmup_steps: int, total_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Learning rate and tau at one step; every number is traced, as in the update."""
    return (
        schedules.learning_rate(
            step, peak=peak, warmup_steps=warmup_steps, total_steps=total_steps
        ),
        1 - schedules.target_rate(step, base=base, total_steps=total_steps),
    )


def test_complete() -> None:
    golden_data.check_complete("schedules")


def test_schedules() -> None:
    golden = golden_data.load("schedules")
    results: golden_data.Results = {}
    for i, case in enumerate(golden.meta["cases"]):
        peak = schedules.scaled_learning_rate(case["base_lr"], case["batch"])
        numbers = (peak, case["base_ema"], case["warmup"], case["K"])
        values = [rates(step, *numbers) for step in golden.arrays[f"case{i}/step"]]
        results[f"case{i}/learning_rate"], results[f"case{i}/tau"] = zip(*values, strict=True)
    golden_data.check(golden, results, golden_data.compared_keys(golden), "jit")


def test_recipes() -> None:
    presets = golden_data.load("schedules").meta["presets"]
    assert presets
    for preset in presets:
        epochs, batch = preset["epochs"], preset["batch_size"]
        config = byol.get_config(f"epochs={epochs},batch={batch}")
        warmup_epochs = config.optimizer.warmup_epochs
        assert preset == {
            "epochs": config.num_epochs,
            "batch_size": config.batch_size,
            "max_steps": pipeline.steps_for(config.num_epochs, IMAGENET_TRAIN, config.batch_size),
            "warmup_steps": pipeline.steps_for(warmup_epochs, IMAGENET_TRAIN, config.batch_size),
            "base_learning_rate": pytest.approx(config.optimizer.base_learning_rate),
            "weight_decay": pytest.approx(config.optimizer.weight_decay),
            "base_target_ema": pytest.approx(config.tau_base),
        }
