"""A run of an earlier version goes on: the same images, the same numbers, then the same bits."""

import logging
import pathlib
import tarfile

import jax
import numpy as np
import pytest

import tiny_runs
from byol_jax import keys, prepare, resume, train, weights
from byol_jax.augment import compose
from byol_jax.errors import UserError
from byol_jax.runtime import checkpoints

FILES = pathlib.Path(__file__).parent / "golden_runs"


def config_of(**changes):
    return tiny_runs.tiny_config(
        "digits",
        num_steps=12,
        checkpoint_every=6,
        keep_checkpoints=0,
        accumulate=2,
        network__width=0.25,
        optimizer__base_learning_rate=1.0,
        objective__name="info_nce",
        objective__info_nce__beta=0.5,
        objective__info_nce__temperature=0.2,
        **changes,
    )


def unpack(folder: pathlib.Path) -> pathlib.Path:
    """The old workdir, stopped at step 6."""
    with tarfile.open(FILES / "run.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What the earlier version saw and gave in steps 7 to 12."""
    with np.load(FILES / "steps_7_to_12.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = unpack(tmp_path_factory.mktemp("old"))
    train.pretrain(config_of(), workdir)
    return workdir


def test_it_sees_the_same_images(expected) -> None:
    config = config_of()
    train_set = prepare.load_images(config)
    batches = list(train._batches(config, train_set, 6, 12))
    for name in ("ids", "epochs", "labels", "view1", "view2"):
        np.testing.assert_array_equal(
            np.stack([b[name] for b in batches]), expected[f"batch/{name}"]
        )
    key = keys.named_key(config.seed, "augment")
    drawn = [
        [
            [jax.random.key_data(compose.example_key(key, i, e, view)) for view in (1, 2)]
            for i, e in zip(batch["ids"], batch["epochs"], strict=True)
        ]
        for batch in batches
    ]
    np.testing.assert_array_equal(np.asarray(drawn), expected["keys"])


@pytest.mark.slow
@pytest.mark.ci
def test_it_goes_on_with_the_same_numbers(resumed, expected) -> None:
    losses = [line["loss"] for line in tiny_runs.metrics(resumed) if line["step"] > 6]
    np.testing.assert_allclose(losses, expected["loss"], rtol=0, atol=1e-5)
    flat, _ = checkpoints.read(resumed / "checkpoints", 12)
    old = {k.removeprefix("state/"): v for k, v in expected.items() if k.startswith("state/")}
    _, record = checkpoints.read(unpack(resumed / "again") / "checkpoints", 6)
    old, _ = weights.upgrade(old, record)
    assert flat.keys() == old.keys()
    networks = [n for n in flat if n.startswith(("online_", "target_"))]
    assert len(networks) > 100
    for name in networks:
        np.testing.assert_allclose(flat[name], old[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_from_there_stopping_changes_no_bit(resumed, tmp_path) -> None:
    workdir = unpack(tmp_path)
    train.pretrain(config_of(stop_at=9), workdir)
    train.pretrain(config_of(), workdir)
    stopped, _ = checkpoints.read(workdir / "checkpoints", 12)
    whole, _ = checkpoints.read(resumed / "checkpoints", 12)
    for name, value in whole.items():
        np.testing.assert_array_equal(stopped[name], value, err_msg=name)
    assert tiny_runs.metrics(workdir) == tiny_runs.metrics(resumed)


def test_what_came_later_is_known_of_it(tmp_path) -> None:
    """Each key that decides a number has its place in weights/upgrade.py."""
    record = checkpoints.read_record(unpack(tmp_path) / "checkpoints", 6)
    old = resume.compared(weights.upgrade_config(record["config"]))
    assert old == resume.compared(config_of().to_dict())


@pytest.mark.slow
@pytest.mark.ci
def test_it_goes_on_with_one_remark(tmp_path, caplog, monkeypatch) -> None:
    """Its record does not say which images it saw; the next one does."""
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    workdir = unpack(tmp_path)
    for stop in (7, 8):
        caplog.clear()
        with caplog.at_level("INFO", "byol_jax.resume"):
            train.pretrain(config_of(stop_at=stop), workdir)
        said = [r.getMessage() for r in caplog.records if r.name == "byol_jax.resume"]
        assert len(said) == (stop == 7)
    assert said == []
    record = checkpoints.read_record(workdir / "checkpoints", 8)
    assert record["data"]["count"] == 1438 and "pixels_crc32" in record["data"]
    # Of another seed it is refused as any other run, before anything is written.
    again = unpack(workdir / "again")
    before = (again / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"config\.seed=3 \(was 1337\)"):
        train.pretrain(config_of(seed=3), again)
    assert (again / "config.json").read_bytes() == before


def test_its_checkpoint_is_read_with_todays_keys(tmp_path) -> None:
    trained = weights.load(unpack(tmp_path))
    assert (trained.step, trained.total_steps, trained.method) == (6, 12, "info_nce")
    objective = trained.config["objective"]
    assert objective["info_nce"] == {"temperature": 0.2, "beta": 0.5, "l2": True}
    assert "temperature" not in objective
    assert trained.network.projector.output_norm == "none" and trained.network.width == 0.25
    flat, record = checkpoints.read(tmp_path / "checkpoints", 6)
    upgraded, _ = weights.upgrade(flat, record)
    momentum = [name for name in flat if "/trace/0/" in name]
    assert momentum
    for name in momentum:
        rest = name.partition("/trace/0/")[2]
        np.testing.assert_array_equal(upgraded[f"slots/momentum/online_params/{rest}"], flat[name])
    # Once is enough.
    again = weights.upgrade(*weights.upgrade(flat, record))
    assert again[0].keys() == upgraded.keys() and again[1] == weights.upgrade(flat, record)[1]
