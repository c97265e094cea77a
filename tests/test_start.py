"""`config.init`: a fresh run from trained weights."""

import logging
import pathlib

import jax
import ml_collections
import numpy as np
import pytest

import golden_data
import tiny_checkpoints
import tiny_runs
from byol_jax import prepare, train, weights
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints
from byol_jax.weights import layout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_checkpoints.save(tmp_path_factory.mktemp("source"), "digits", num_classes=10)


def config_of(source: object, **changes: object) -> ml_collections.ConfigDict:
    """A run with the network of `tiny_checkpoints`."""
    config = tiny_runs.tiny_config("digits", network__width=2.0)
    config.init = str(source) if source else None
    config.update_from_flattened_dict(changes)
    return config


def started(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> tuple:
    return prepare.started(prepare.plan(config, workdir))


def assert_same(one: object, other: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, dict(one), dict(other))  # type: ignore[call-overload]


def test_both_networks_are_those_of_a_checkpoint(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run, state = started(config_of(source), tmp_path)
    trained = weights.load(source)
    assert int(state.step) == 0 and run.marks.keys() == {"run"}
    for name in ("online_params", "online_state", "target_params", "target_state"):
        assert_same(getattr(state, name), getattr(trained, name))
    drawn = started(config_of(""), tmp_path)[1]
    for name in ("slots", "objective_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(drawn, name))


def test_heads_of_other_shapes_are_drawn(
    source: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"network.projector.hidden_size": 24}
    drawn = started(config_of("", **changes), tmp_path)[1]
    with caplog.at_level(logging.INFO):
        state = started(config_of(source, **changes), tmp_path)[1]
    trained = weights.load(source)
    for module, leaves in state.online_params.items():
        origin = drawn if module.startswith("projector") else trained
        assert_same(leaves, origin.online_params[module])
    assert "config.init: projector drawn" in caplog.text


def test_a_head_that_differs_in_its_averages_alone_is_drawn(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """BatchNorm without scale and offset behind the output has no parameters."""
    changes = {"network.projector.output_norm": "plain"}
    drawn = started(config_of("", **changes), tmp_path)[1]
    state = started(config_of(source, **changes), tmp_path)[1]
    for module, leaves in state.online_params.items():
        if module.startswith("projector"):
            assert_same(leaves, drawn.online_params[module])


def test_a_run_without_a_target_takes_the_online_network(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    state = started(config_of(source, target="stop_gradient"), tmp_path)[1]
    assert not state.target_params
    assert_same(state.online_params, weights.load(source).online_params)


@pytest.mark.slow
def test_a_source_without_a_target_starts_both(tmp_path: pathlib.Path) -> None:
    """Weights of another project: f from the file, heads drawn, target a copy of both."""
    import safetensors.numpy

    spec = weights.load(tiny_checkpoints.save(tmp_path / "run", "digits")).network
    shapes = layout.expected(spec)
    rng = np.random.default_rng(0)
    arrays = {k: abs(rng.normal(0.1, 0.02, v)).astype(np.float32) for k, v in shapes.items()}
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(arrays, path)
    config = config_of(path)
    with pytest.raises(UserError, match=r"config.network: give --config\.network\.padding=torch"):
        started(config, tmp_path / "new")
    config.network.padding = "torch"
    run, state = started(config, tmp_path / "new")
    assert_same(state.online_params, state.target_params)
    assert_same(state.online_state, state.target_state)
    kernel = next(v["w"] for k, v in state.online_params.items() if k.endswith("initial_conv"))
    np.testing.assert_array_equal(kernel, arrays["conv1.weight"].transpose(2, 3, 1, 0))
    assert run.record["licence"] == "unknown: ask its authors"


@pytest.mark.slow
def test_another_encoder_is_refused(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = config_of(source, **{"network.width": 1.0})
    message = r"another encoder than config.network: give --config.network.width=2.0"
    with pytest.raises(UserError, match=r"config\.init=nowhere: there is no such path"):
        started(config_of("nowhere"), tmp_path)
    with pytest.raises(UserError, match=message):
        started(config, tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_a_run_keeps_the_licence_of_its_start(tmp_path: pathlib.Path) -> None:
    """Two steps from a released pickle, then one more: the terms are in every checkpoint."""
    pickle = golden_data.folder() / "released_style.pkl"
    changes = {"network.width": 1.0, "network.stem": "imagenet", "num_steps": 3}
    for stop in (2, 3):
        train.pretrain(config_of(pickle, stop_at=stop, **changes), tmp_path)
        trained = weights.load(tmp_path)
        assert (trained.step, trained.licence) == (stop, "CC BY-NC 4.0")
        assert trained.origin == "BYOL's authors, or their code"
        changes["num_steps"] = 3
    # Going on needs neither the key nor the file, and another one is refused.
    config = config_of(None, **changes | {"num_steps": 4, "resume_changed": True})
    train.pretrain(config, tmp_path)
    record = checkpoints.read_record(tmp_path / "checkpoints", 4)
    assert (record["config"]["init"], record["licence"]) == (str(pickle), "CC BY-NC 4.0")
    with pytest.raises(UserError, match=r"config\.init=elsewhere: the run in .* is at step 4 and"):
        train.pretrain(config_of("elsewhere", **changes | {"num_steps": 5}), tmp_path)
