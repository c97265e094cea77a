"""The picture of T and T': the run's own views, beside the untouched image."""

import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import augment, train, views
from byol_jax.data import pipeline
from byol_jax.errors import UserError

IDENTITY = dict.fromkeys(("flip", "color_jitter", "grayscale", "blur", "solarize"), 0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return tiny_runs.write_folder(tmp_path_factory.mktemp("folder"))


def config_of(dataset: str, **changes):
    return tiny_runs.tiny_config(dataset, views__images=3, views__draws=2, **changes)


def test_views_are_the_crops_of_the_run_where_nothing_is_augmented(dataset) -> None:
    config = config_of(dataset)
    config.augment.view1.update(IDENTITY)
    config.augment.view2.update(IDENTITY)
    image_set = train.load_images(config)
    ids = np.array([5, 0, 11])
    ours = views.draw(image_set, ids, 2, config)
    assert ours.shape == (3, 2, 2, 8, 8, 3) and ours.dtype == np.uint8
    for epoch in (0, 1):
        crops = pipeline.example_views(
            image_set, ids, np.full(3, epoch), seed=config.seed, image_size=8
        )
        assert np.array_equal(ours[:, 0, epoch], crops["view1"])
        assert np.array_equal(ours[:, 1, epoch], crops["view2"])


def test_each_row_of_views_has_its_own_column_of_table_6(dataset) -> None:
    config = config_of(dataset)
    config.augment.view1.update(IDENTITY | {"grayscale": 1.0})
    config.augment.view2.update(IDENTITY | {"solarize": 1.0})
    image_set = train.load_images(config)
    ids = np.array([1, 2, 9])
    ours = views.draw(image_set, ids, 1, config)
    crops = pipeline.example_views(image_set, ids, np.zeros(3, int), seed=1337, image_size=8)
    luma = np.asarray(augment.to_grayscale(crops["view1"] / 255.0))
    assert np.abs(ours[:, 0, 0] - 255 * luma).max() <= 0.5 + 1e-3
    inverted = np.where(crops["view2"] < 127.5, crops["view2"], 255 - crops["view2"])
    assert np.array_equal(ours[:, 1, 0], inverted)


def test_the_grid_shows_image_then_t_then_t_prime() -> None:
    pictures = [np.full((4, 6, 3), 10, np.uint8), None]
    shown = np.zeros((2, 2, 3, 5, 5, 3), np.uint8) + np.arange(12, dtype=np.uint8).reshape(
        2, 2, 3, 1, 1, 1
    )
    sheet = views.grid(pictures, shown)
    axes = np.reshape(sheet.axes, (2, 7))
    assert [axis.get_title() for axis in axes[0]] == ["image", *["T"] * 3, *["T'"] * 3]
    first = [int(axis.images[0].get_array().max()) for axis in axes[0]]
    assert first == [10, 0, 1, 2, 3, 4, 5]
    assert not axes[1, 0].images
    assert [int(axis.images[0].get_array().max()) for axis in axes[1, 1:]] == [6, 7, 8, 9, 10, 11]


def test_the_job_writes_a_png(dataset, tmp_path, capsys) -> None:
    views.run(config_of(dataset), tmp_path / "new")
    with Image.open(tmp_path / "new" / "views.png") as image:
        assert image.format == "PNG"
        # A cell is at least as many pixels wide as a view.
        assert image.width >= 5 * 8
    assert "views.png" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["images", "draws"])
def test_mistakes(dataset, tmp_path, name: str) -> None:
    config = config_of(dataset)
    config.views[name] = 0
    with pytest.raises(UserError, match=f"config.views.{name}=0 must be at least 1"):
        views.run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
