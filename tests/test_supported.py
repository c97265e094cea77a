"""What a recipe comes to, and where it leaves the papers."""

import importlib
import re

import numpy as np
import pytest

from byol_jax import supported
from byol_jax.jobs.recipe import Facts, choose
from experiments import ablations, base, byol, folder

# The paper's run of section 5: 300 epochs of 1,281,167 images at batch 4096.
PAPER = supported.Recipe(
    batch_size=4096,
    accumulate=1,
    devices=64,
    statistics="global",
    optimizer="lars",
    base_rate=0.3,
    scaling="linear",
    decay=1e-6,
    warmup_epochs=10.0,
    warmup_steps=3127,
    total_steps=93835,
    target="ema",
    tau_base=0.99,
    tau_rises=True,
)
# Images that each page trains on.
IMAGES = {
    **dict.fromkeys(("byol", "simclr", "simsiam", "moco", "densecl", "supcon"), 1_281_167),
    **{"cifar10": 50_000, "digits": 1438, "imagenette": 9469, "places365": 1_803_460},
}
OPTIONS = [
    *(("byol", f"epochs={epochs}") for epochs in (1000, 300, 100, 40)),
    *(("byol", "epochs=1000,batch=512"), ("cifar10", ""), ("digits", ""), ("imagenette", "")),
    *(("places365", ""), ("places365", "method=simclr"), ("simclr", "")),
    *(("simclr", "epochs=1000"), ("simclr", "data=cifar10")),
    *(("moco", "version=1"),),
    *(
        (page, f"base={data}")
        for page in ("simsiam", "moco", "densecl", "supcon")
        for data in ("imagenet", "cifar10", "digits")
    ),
]


def recipe_of(config, images, devices=8):
    steps = config.num_steps or int(config.num_epochs * images / config.batch_size)
    return supported.recipe_of(config.to_dict(), images, steps, devices)


def test_the_recipe_in_a_line() -> None:
    assert supported.summary(PAPER) == (
        "effective batch 4096, lars at a rate of 4.8 after 10 epochs (3127 steps), tau 0.99 to 1, "
        "93835 steps in all"
    )
    other = PAPER._replace(accumulate=4, target="online", warmup_steps=0, optimizer="sgd")
    assert supported.summary(other) == (
        "effective batch 4096 in 4 passes of 1024, sgd at a rate of 4.8, 93835 steps in all"
    )
    constant = PAPER._replace(tau_rises=False)
    assert "tau 0.99 to 0.99" in supported.summary(constant)


def test_numbers_come_from_the_config() -> None:
    config = byol.get_config("epochs=300")
    assert recipe_of(config, 1_281_167, 64) == PAPER
    config.objective.name = "nt_xent"
    assert not recipe_of(config, 1_281_167).needs_target
    config.objective.name, config.objective.info_nce.beta = "info_nce", 0.0
    assert recipe_of(config, 1_281_167).needs_target


@pytest.mark.parametrize(("page", "options"), OPTIONS)
def test_shipped_pages_are_supported(page, options) -> None:
    module = importlib.import_module(f"experiments.{page}")
    config = module.get_config(*filter(None, [options]))
    images = IMAGES[page]
    for data in ("cifar10", "digits"):
        images = IMAGES[data] if f"={data}" in options else images
    assert supported.warnings(recipe_of(config, images)) == []


@pytest.mark.parametrize(
    ("images", "platform", "devices"),
    [
        *((200, "cpu", 1), (1000, "cpu", 1), (50_000, "cpu", 1), (1000, "gpu", 1)),
        *((10_000, "gpu", 1), (1_000_000, "gpu", 8)),
    ],
)
def test_chosen_recipes_are_supported(images, platform, devices) -> None:
    """Below 64 images a batch is smaller than any of the papers."""
    config = folder.get_config()
    chosen = choose(Facts(images, 256, platform=platform, devices=devices), {})
    config.update_from_flattened_dict({choice.key: choice.value for choice in chosen})
    assert supported.warnings(recipe_of(config, images, devices)) == []


# Rows that leave what works on purpose, by table, and the first words of the warning.
ROWS = {
    ("5a", 1): [],  # the constant target is none that follows
    ("5a", 2): [],
    ("5a", 4): [],
    ("15a", 1): ["config.optimizer.base_learning_rate=0.01"],
    ("15a", 3): [],
    ("15b", 5): [],
    ("G", 3): ["config.optimizer.weight_decay=0"],
    ("16", 7): [],
}


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_rows_of_the_papers(table, row) -> None:
    config = ablations.get_config(f"table={table},row={row}")
    found = supported.warnings(recipe_of(config, 1_281_167))
    assert [words.split(" ")[0].rstrip(":,") for words in found] == ROWS[table, row]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # BatchNorm: the images of a pass, or of a device.
        ({"batch_size": 32, "base_rate": 2.4}, ""),
        ({"batch_size": 31, "base_rate": 2.5}, "config.batch_size=31: BatchNorm .* of 31 images"),
        ({"accumulate": 128}, ""),
        ({"accumulate": 256}, "config.accumulate=256: .* 16 images.*lower config.accumulate"),
        ({"statistics": "local"}, ""),
        ({"statistics": "shuffled", "devices": 256}, "shuffled on 256 .* of 16 images.*=global"),
        # A target for another length.
        ({"total_steps": 9383, "warmup_steps": 0}, ""),
        ({"total_steps": 330, "warmup_steps": 9, "tau_base": 0.99}, ""),
        ({"total_steps": 300, "warmup_steps": 9, "tau_base": 0.99}, "0.99 is for longer .* 22% "),
        ({"total_steps": 40, "warmup_steps": 1, "tau_base": 0.98}, "0.98 .* give .*tau_base=0.9,"),
        ({"total_steps": 30, "warmup_steps": 1, "tau_base": 0.9}, "0.9 .*: train for more steps"),
        ({"total_steps": 40, "warmup_steps": 1, "target": "online"}, ""),
        ({"tau_base": 0.999}, ""),
        ({"tau_base": 0.9}, ""),
        ({"tau_base": 0.89}, "tau_base=0.89: BYOL Table 5a has 68.4 at 0.9"),
        ({"tau_base": 0.96, "total_steps": 312784}, "0.96 is for shorter runs: .* 12511 .*=0.97 "),
        ({"tau_base": 0.96, "total_steps": 312784, "needs_target": False}, ""),
        # Warm-up.
        ({"warmup_steps": 23458}, ""),
        ({"warmup_steps": 23500, "warmup_epochs": 75.2}, "takes 25% of the run.*give 30,"),
        ({"warmup_steps": 93835, "warmup_epochs": 300.0}, "never gets to its rate.*give 30,"),
        # Rates.
        ({"base_rate": 0.01}, "base_learning_rate=0.01 at .*=4096 is a rate of 0.16: LARS"),
        ({"base_rate": 1.5}, ""),
        ({"base_rate": 1.6}, "is a rate of 25.6: LARS"),
        ({"base_rate": 0.075, "scaling": "sqrt"}, ""),
        ({"optimizer": "sgd", "decay": 1e-4}, "SGD with linear scaling .*section 2.2"),
        ({"optimizer": "sgd", "decay": 1e-4, "batch_size": 2048}, ""),
        ({"optimizer": "sgd", "decay": 1e-4, "scaling": "none"}, ""),
        # Weight decay.
        ({"decay": 1e-5}, ""),
        ({"decay": 1e-4}, "weight_decay=0.0001 is for another optimiser"),
        ({"decay": 0.0}, "weight_decay=0: training may be unstable"),
    ],
)
def test_what_is_warned_of(changes, expected) -> None:
    found = supported.warnings(PAPER._replace(**changes))
    assert len(found) == bool(expected), found
    if expected:
        (words,) = found
        assert words.startswith("config.") and "\n" not in words
        assert re.search(expected, words), words


@pytest.mark.parametrize(("tau_base", "steps", "rises"), [(0.99, 700, True), (0.9, 40, False)])
def test_the_rest_of_the_start_is_that_of_eq_1(tau_base, steps, rises) -> None:
    """xi of a single weight that starts at 1 beside an online network at 0."""
    xi = 1.0
    for k in range(steps):
        tau = 1 - (1 - tau_base) * (np.cos(np.pi * k / steps) + 1) / 2 if rises else tau_base
        xi *= tau
    recipe = PAPER._replace(tau_base=tau_base, total_steps=steps, tau_rises=rises)
    assert supported.rest_of_start(recipe) == pytest.approx(xi, rel=0.25)


def test_the_defaults_are_supported() -> None:
    assert supported.warnings(recipe_of(base.get_config(), 1_281_167)) == []
