"""Three views of two sizes through the whole pipeline: host, device, micro-batches, two devices."""

import pathlib

import jax
import numpy as np
import pytest

import tiny_runs
from byol_jax import method, train
from byol_jax.data.views import examples
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints


def config_of(dataset: str, **changes):
    return tiny_runs.tiny_config(
        dataset,
        num_steps=2,
        accumulate=2,
        objective__name="guests:THREE_VIEWS",
        augment__small__count=1,
        augment__small__size=6,
        augment__small__area_min=0.1,
        augment__small__area_max=0.4,
        **changes,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_runs.write_npz(tmp_path_factory.mktemp("images") / "images.npz")


def losses(config, workdir: pathlib.Path) -> list[float]:
    train.pretrain(config, workdir)
    return [line["loss"] for line in tiny_runs.metrics(workdir)]


@pytest.mark.slow
def test_they_train_on_two_devices(dataset, tmp_path) -> None:
    assert jax.device_count() == 2
    config = config_of(dataset)
    assert [view.size for view in method.views_of(config)] == [8, 8, 6]
    found = losses(config, tmp_path / "device")
    assert len(found) == 2 and np.isfinite(found).all()
    flat, _ = checkpoints.read(tmp_path / "device" / "checkpoints", 2)
    # Rows that both micro-batches of both steps wrote: one per image of the stream.
    ids = examples(config.seed, 24, 0, 16).ids
    assert np.flatnonzero(flat["objective_state/seen"]).tolist() == sorted(set(ids.tolist()))


@pytest.mark.slow
def test_they_are_the_same_wherever_they_are_made(dataset, tmp_path) -> None:
    """On the device, on the host, and cut from resident images, but for rounding."""
    found = losses(config_of(dataset), tmp_path / "device")
    host = losses(config_of(dataset, augment__placement="host"), tmp_path / "host")
    np.testing.assert_allclose(host, found, rtol=1e-3)
    resident = losses(config_of(dataset, data__resident=True), tmp_path / "resident")
    np.testing.assert_allclose(resident, found, rtol=1e-2)


def test_a_method_that_has_no_use_for_them_refuses_small_views(dataset) -> None:
    config = tiny_runs.tiny_config(dataset, augment__small__count=2)
    with pytest.raises(UserError, match=r"config\.augment\.small\.count=2"):
        method.check(config)
