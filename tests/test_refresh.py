"""What an objective makes anew between two steps, on features of the whole set."""

import pathlib

import jax
import numpy as np
import pytest

import tiny_runs
from byol_jax import prepare, refresh, train
from byol_jax.augment import byol
from byol_jax.data import pipeline
from byol_jax.networks import siamese
from byol_jax.program import init_state
from byol_jax.runtime import checkpoints, spmd


def config_of(dataset: str, which: str = "eval", **changes):
    return tiny_runs.tiny_config(
        dataset,
        objective__name="guests:CLUSTERS",
        objective__own={"which": which, "every": 2},
        target="online",
        checkpoint_every=100,
        **changes,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_runs.write_npz(tmp_path_factory.mktemp("images") / "images.npz")


def saved(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    return checkpoints.read(workdir / "checkpoints", step)[0]


@pytest.mark.slow
@pytest.mark.ci
def test_it_runs_again_where_a_run_starts(dataset, tmp_path) -> None:
    """Due before steps 1, 3 and 5: stopped at 2, where it is due, and at 3, where it is not."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train.pretrain(config_of(dataset), whole)
    for step in (2, 3):
        train.pretrain(config_of(dataset, stop_at=step), stopped)
    train.pretrain(config_of(dataset), stopped)
    expected, flat = saved(whole, 6), saved(stopped, 6)
    assert flat["objective_state/rows"] == 24
    assert set(np.unique(flat["objective_state/side"])) == {-1.0, 1.0}
    for name, value in expected.items():
        np.testing.assert_array_equal(flat[name], value, err_msg=name)
    assert tiny_runs.metrics(stopped) == tiny_runs.metrics(whole)
    # What is saved at 2 is the state before it: sides of the features before step 1.
    before = saved(stopped, 2)
    assert before["objective_state/side"].tolist() != flat["objective_state/side"].tolist()


def test_slots_of_what_is_replaced_start_anew(dataset, tmp_path) -> None:
    """The momentum of the plane has one step behind it, that of f all of them."""
    train.pretrain(config_of(dataset, stop_at=3), tmp_path / "run")
    flat = saved(tmp_path / "run", 3)
    momentum = flat["slots/momentum/objective_params/plane/w"]
    assert np.any(momentum != 0)
    # LARS: after one step the momentum is as long as trust times the plane, whatever came before.
    trust = config_of(dataset).optimizer.trust_coefficient
    assert np.linalg.norm(momentum) == pytest.approx(trust, rel=1e-4)


@pytest.fixture(scope="module")
def trained(dataset):
    """Config, program, images and a drawn state on the devices."""
    config = config_of(dataset)
    train_set = prepare.load_images(config)
    program = prepare.program_of(config, train_set.num_classes)
    state = init_state(config.seed, program, prepare.sizes_of(config), train_set.size)
    return config, program, train_set, spmd.replicate(jax.device_get(state))


@pytest.mark.slow
def test_evaluation_features_are_in_id_order(trained) -> None:
    config, program, train_set, state = trained
    values, ids = refresh.evaluation_features(config, program, train_set, state)
    assert ids.tolist() == list(range(24))
    crops = np.concatenate(
        [
            batch["images"]
            for batch in pipeline.evaluation_batches(
                train_set, image_size=8, mode="full", batch_size=24
            )
        ]
    )
    host = jax.tree.map(lambda x: np.asarray(x[0]), state)
    network = siamese.siamese(siamese.make_spec(config.network.to_dict(), train_set.num_classes))
    views = byol.evaluation_views(crops)
    outputs, _ = network.apply(host.online_params, host.online_state, None, views, False)
    np.testing.assert_allclose(values["projection"], outputs["projection"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_training_features_are_those_of_an_epoch(trained) -> None:
    config, program, train_set, state = trained
    values, ids = refresh.training_features(config, program, train_set, state)
    assert sorted(ids.tolist()) == list(range(24))  # three whole batches, two devices
    assert values.keys() == {
        f"view{v}/{name}" for v in (1, 2) for name in ("embedding", "projection")
    }
    assert all(len(rows) == 24 and np.isfinite(rows).all() for rows in values.values())
    # An image that changes changes its own row, and by the statistics of its batch others of it.
    position = int(np.flatnonzero(ids == 5)[0])
    pixels = np.array(train_set.images)
    pixels[5] = 255 - pixels[5]
    other, again = refresh.training_features(
        config, program, train_set._replace(images=pixels), state
    )
    np.testing.assert_array_equal(again, ids)
    moved = np.abs(other["view1/projection"] - values["view1/projection"]).max(axis=1) > 1e-6
    batch = position // 8
    assert moved[position]
    assert not moved[np.arange(24) // 8 != batch].any()
