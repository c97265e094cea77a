"""Each plausible mistake, made on purpose in a copy of the package, must fail a golden test."""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

import golden_data

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The cheapest tests that see each kind of mistake: (file, -k expression). Where float64
# serves, it is used, as it leaves no room for rounding.
LARS = ("test_lars.py", "test_steps")
LOSS = ("test_loss.py", "test_losses and one_device")
SCHEDULES = ("test_schedules.py", "test_schedules")
OPERATIONS = ("test_augment.py", "test_operations_on_two_devices")
SEQUENCES = ("test_augment.py", "test_recorded_sequences")
TINY = ("test_networks.py", "test_encoder_on_two_devices and tiny and float32")
RESNET_50 = ("test_networks.py", "test_encoder_on_two_devices and resnet50 and float32")
TRACE = ("test_traces.py", "test_float64 and trace_a")
TRACE_ON_TWO = ("test_traces.py", "test_two_devices and trace_a")
SELECTIONS = sorted(
    {LARS, LOSS, SCHEDULES, OPERATIONS, SEQUENCES, TINY, RESNET_50, TRACE, TRACE_ON_TWO}
)


class Mutation(NamedTuple):
    """A mistake: `old` becomes `new` in `file`, and the selected tests must fail."""

    name: str
    file: str
    old: str
    new: str
    selection: tuple[str, str]


_DECAY = "        optax.masked(optax.add_decayed_weights(weight_decay), decayed),\n"
_TRUST_RATIO = "        optax.masked(scale_by_trust_ratio(trust_coefficient), adapted),\n"
_TWO_TERMS = """\
    return regression_loss(online1["prediction"], target2["projection"]) + regression_loss(
        online2["prediction"], target1["projection"]
    )
"""

MUTATIONS = (
    Mutation(
        "excluded parameters are adapted",
        "byol_jax/optim/lars.py",
        "masked(scale_by_trust_ratio(trust_coefficient), adapted)",
        "masked(scale_by_trust_ratio(trust_coefficient), everything)",
        LARS,
    ),
    Mutation(
        "excluded parameters are decayed",
        "byol_jax/optim/lars.py",
        "masked(optax.add_decayed_weights(weight_decay), decayed)",
        "masked(optax.add_decayed_weights(weight_decay), everything)",
        LARS,
    ),
    Mutation(
        "decay after the trust ratio",
        "byol_jax/optim/lars.py",
        _DECAY + _TRUST_RATIO,
        _TRUST_RATIO + _DECAY,
        LARS,
    ),
    Mutation(
        "rate inside the momentum",
        "byol_jax/optim/lars.py",
        "        optax.trace(decay=momentum),\n        optax.scale(-learning_rate),\n",
        "        optax.scale(-learning_rate),\n        optax.trace(decay=momentum),\n",
        LARS,
    ),
    Mutation(
        "tau of step k + 1",
        "byol_jax/optim/schedules.py",
        "return (1 - end) + (end - base) * _half_cosine(step, total_steps)",
        "return (1 - end) + (end - base) * _half_cosine(step + 1, total_steps)",
        SCHEDULES,
    ),
    Mutation(
        "tau of step k + 1 in the update",
        "byol_jax/update.py",
        "_target_rate(state.step, hparams)",
        "_target_rate(state.step + 1, hparams)",
        TRACE,
    ),
    Mutation(
        "rate of step k + 1",
        "byol_jax/optim/schedules.py",
        "warmup = peak * step / jnp.maximum(warmup_steps, 1)",
        "warmup = peak * (step + 1) / jnp.maximum(warmup_steps, 1)",
        SCHEDULES,
    ),
    Mutation(
        "rate of step k + 1 in the update",
        "byol_jax/update.py",
        "    rates = groups.rates(method.groups, hparams.groups, state.step)\n    logs",
        "    rates = groups.rates(method.groups, hparams.groups, state.step + 1)\n    logs",
        TRACE,
    ),
    Mutation(
        "target averages the old online parameters",
        "byol_jax/update.py",
        "exponential_moving_average(target_params, online_params, target_rate)",
        "exponential_moving_average(target_params, state.online_params, target_rate)",
        TRACE,
    ),
    Mutation(
        "only one view predicts",
        "byol_jax/objectives/byol.py",
        _TWO_TERMS,
        '    return regression_loss(online1["prediction"], target2["projection"])\n',
        LOSS,
    ),
    Mutation(
        "the two terms are averaged",
        "byol_jax/objectives/byol.py",
        'return regression_loss(online1["prediction"], target2["projection"]) + regression_loss(',
        "return 0.5 * regression_loss(\n"
        '        online1["prediction"], target2["projection"]\n'
        "    ) + 0.5 * regression_loss(",
        LOSS,
    ),
    Mutation(
        "the same view twice",
        "byol_jax/update.py",
        "        views = make_views(batch)\n",
        "        views = dict.fromkeys((1, 2), make_views(batch)[1])\n",
        TRACE,
    ),
    Mutation(
        "BatchNorm over the concatenated views",
        "byol_jax/program.py",
        "online: tuple[tuple[int, ...], ...] = ((1,), (2,))",
        "online: tuple[tuple[int, ...], ...] = ((1, 2),)",
        TRACE,
    ),
    Mutation(
        "the target is moved before the step",
        "byol_jax/program.py",
        'target_update: str = "after"',
        'target_update: str = "before"',
        TRACE,
    ),
    Mutation(
        "symmetric padding in the blocks",
        "byol_jax/networks/resnet.py",
        'name=f"conv_{i}",',
        'name=f"conv_{i}", padding=[(kernel // 2, kernel // 2)] * 2,',
        TINY,
    ),
    Mutation(
        "symmetric padding in the stem",
        "byol_jax/networks/resnet.py",
        'name="initial_conv",',
        'name="initial_conv", padding=[(kernel // 2, kernel // 2)] * 2,',
        TINY,
    ),
    Mutation(
        "symmetric padding of the max-pool",
        "byol_jax/networks/resnet.py",
        'out = hk.max_pool(out, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")',
        "out = jnp.pad(out, ((0, 0), (1, 1), (1, 1), (0, 0)))\n"
        '            out = hk.max_pool(out, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")',
        TINY,
    ),
    Mutation(
        "stride in the first 1x1",
        "byol_jax/networks/resnet.py",
        "((inner, 1, 1), (inner, 3, stride), (channels, 1, 1))",
        "((inner, 1, stride), (inner, 3, 1), (channels, 1, 1))",
        RESNET_50,
    ),
    Mutation(
        "BatchNorm statistics of each device",
        "byol_jax/networks/siamese.py",
        '"cross_replica_axis": spec.bn_axis,',
        '"cross_replica_axis": None,',
        TRACE_ON_TWO,
    ),
    Mutation(
        "the probe trains the encoder",
        "byol_jax/networks/siamese.py",
        'probe(jax.lax.stop_gradient(outputs[0]["embedding"]))',
        'probe(outputs[0]["embedding"])',
        TRACE,
    ),
    Mutation(
        "the target continues the online BatchNorm averages",
        "byol_jax/update.py",
        "constants.target_params, carry.target_state, views",
        "constants.target_params, carry.online_state, views",
        TRACE,
    ),
    Mutation(
        "solarize the other side",
        "byol_jax/augment/byol.py",
        "jnp.where(image < threshold, image, 1 - image)",
        "jnp.where(image >= threshold, image, 1 - image)",
        OPERATIONS,
    ),
    Mutation(
        "hue and saturation exchanged",
        "byol_jax/augment/byol.py",
        "COLOR_OPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)",
        "COLOR_OPS = (adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation)",
        SEQUENCES,
    ),
    Mutation(
        "blur repeats the edge",
        "byol_jax/augment/byol.py",
        "padded = jnp.pad(image, padding)",
        'padded = jnp.pad(image, padding, mode="edge")',
        OPERATIONS,
    ),
)


def identifier(value: Mutation | tuple[str, str]) -> str:
    if isinstance(value, Mutation):
        return value.name.replace(" ", "_")
    return value[1].replace(" ", "_")


def copy_checkout(folder: pathlib.Path) -> None:
    """The package, the configs and the golden tests, without the golden arrays."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("byol_jax", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "tests" / "golden").mkdir(parents=True)
    tests = ROOT / "tests"
    for name in ("conftest.py", "golden_data.py", "numbered.py"):
        shutil.copy(tests / name, folder / "tests")
    for path in (tests / "golden").glob("test_*.py"):
        shutil.copy(path, folder / "tests" / "golden")
    shutil.copy(tests / "golden" / "tolerances.json", folder / "tests" / "golden")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")


def run_golden_tests(
    folder: pathlib.Path, selection: tuple[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs the selected tests of the copy, in a process of their own."""
    file, expression = selection
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BYOL_GOLDEN_DIR": str(golden_data.folder()),
    }
    command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "-p", "no:cacheprovider"]
    command += ["-q", "--tb=line", f"tests/golden/{file}", "-k", expression]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=identifier)
def test_code_to_mutate_exists_once(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file} changed: bring {mutation.name!r} back"
    assert mutation.old != mutation.new


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS, ids=identifier)
def test_unmutated_copy_passes(selection: tuple[str, str], tmp_path: pathlib.Path) -> None:
    copy_checkout(tmp_path)
    result = run_golden_tests(tmp_path, selection)
    assert result.returncode == pytest.ExitCode.OK, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=identifier)
def test_mutation_is_caught(mutation: Mutation, tmp_path: pathlib.Path) -> None:
    copy_checkout(tmp_path)
    path = tmp_path / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    result = run_golden_tests(tmp_path, mutation.selection)
    # Wrong numbers, not a crash.
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    messages = ("is off the golden numbers", "the replicas differ")
    caught = [line for line in result.stdout.splitlines() if any(m in line for m in messages)]
    assert caught, result.stdout
    print("\n".join(caught))
