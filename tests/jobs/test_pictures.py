"""The picture of T and T': the run's own views beside the unchanged image."""

import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import jobs, prepare
from byol_jax.augment import byol, compose
from byol_jax.data import pipeline
from byol_jax.data.views import View
from byol_jax.errors import UserError
from byol_jax.jobs import pictures
from experiments import operations

IDENTITY = dict.fromkeys(("flip", "color_jitter", "grayscale", "blur", "solarize"), 0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return tiny_runs.write_folder(tmp_path_factory.mktemp("folder"))


def config_of(dataset: str, **changes):
    return tiny_runs.tiny_config(dataset, views__images=3, views__draws=2, **changes)


@pytest.mark.slow
def test_views_are_the_crops_of_the_run_where_nothing_is_augmented(dataset) -> None:
    config = config_of(dataset)
    config.augment.view1.update(IDENTITY)
    config.augment.view2.update(IDENTITY)
    image_set = prepare.load_images(config)
    ids = np.array([5, 0, 11])
    views = pictures.draw(image_set, ids, 2, config)
    assert views.shape == (3, 2, 2, 8, 8, 3) and views.dtype == np.uint8
    for epoch in (0, 1):
        crops = pipeline.example_views(
            image_set, ids, np.full(3, epoch), config.seed, (View(8), View(8))
        )
        assert np.array_equal(views[:, 0, epoch], crops["view1"])
        assert np.array_equal(views[:, 1, epoch], crops["view2"])


def test_each_row_of_views_has_its_own_column_of_table_6(dataset) -> None:
    config = config_of(dataset)
    config.augment.view1.update(IDENTITY | {"grayscale": 1.0})
    config.augment.view2.update(IDENTITY | {"solarize": 1.0})
    image_set = prepare.load_images(config)
    ids = np.array([1, 2, 9])
    views = pictures.draw(image_set, ids, 1, config)
    crops = pipeline.example_views(image_set, ids, np.zeros(3, int), 1337, (View(8), View(8)))
    luma = np.asarray(byol.to_grayscale(crops["view1"] / 255.0))
    assert np.abs(views[:, 0, 0] - 255 * luma).max() <= 0.5 + 1e-3
    inverted = np.where(crops["view2"] < 127.5, crops["view2"], 255 - crops["view2"])
    assert np.array_equal(views[:, 1, 0], inverted)


def test_the_grid_shows_image_then_t_then_t_prime() -> None:
    whole = [np.full((4, 6, 3), 10, np.uint8), None]
    shown = np.zeros((2, 2, 3, 5, 5, 3), np.uint8) + np.arange(12, dtype=np.uint8).reshape(
        2, 2, 3, 1, 1, 1
    )
    sheet = pictures.grid(whole, shown)
    axes = np.reshape(sheet.axes, (2, 7))
    assert [axis.get_title() for axis in axes[0]] == ["image", *["T"] * 3, *["T'"] * 3]
    first = [int(axis.images[0].get_array().max()) for axis in axes[0]]
    assert first == [10, 0, 1, 2, 3, 4, 5]
    assert not axes[1, 0].images
    assert [int(axis.images[0].get_array().max()) for axis in axes[1, 1:]] == [6, 7, 8, 9, 10, 11]


def test_the_job_writes_a_png(dataset, tmp_path, capsys) -> None:
    pictures.run(config_of(dataset), tmp_path / "new")
    with Image.open(tmp_path / "new" / "views.png") as image:
        assert image.format == "PNG"
        # A cell is at least as many pixels wide as a view.
        assert image.width >= 5 * 8
    assert "views.png" in capsys.readouterr().out


def test_views_share_their_crop_as_the_run_does(dataset) -> None:
    config = config_of(dataset, data__same_crop=True)
    config.augment.view1.update(IDENTITY)
    config.augment.view2.update(IDENTITY)
    views = pictures.draw(prepare.load_images(config), np.array([5, 0, 11]), 1, config)
    assert np.array_equal(views[:, 0], views[:, 1])


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A wide picture, brighter to the right, that is stored upside down."""
    upright = np.broadcast_to(np.linspace(40, 200, 48)[:, None], (32, 48, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(upright[::-1, ::-1]).save(path, exif=exif)
    return str(path), upright


def test_the_center_of_a_photo(photo) -> None:
    path, upright = photo
    assert np.array_equal(pictures.center_crop(path, 32), upright[:, 8:40])


@pytest.mark.slow
@pytest.mark.ci
def test_every_operation_is_drawn_by_itself(photo) -> None:
    pixels = photo[1][:, 8:40]
    jitter = {"brightness_max": 0.8, "contrast_max": 0.0, "saturation_max": 0.0, "hue_max": 0.0}
    panels = pictures.draw_operations(pixels, jitter, 2)
    assert list(panels) == list(pictures.OPERATIONS) and len(panels) == 15
    shown = {name for names in pictures.OPERATIONS.values() for name in names}
    assert shown == set(compose.PROBABILITIES)
    assert np.array_equal(panels["original"], pixels)
    assert np.array_equal(panels["colour drop"], pixels)  # it is grey
    assert np.array_equal(panels["crop, resize, flip"], panels["crop, resize"][:, ::-1])
    assert np.array_equal(panels["solarize"], np.where(pixels < 128, pixels, 255 - pixels))
    for title, panel in panels.items():
        assert panel.shape == (32, 32, 3) and panel.dtype == np.uint8
        assert np.array_equal(panel, pixels) == (title in ("original", "colour drop")), title
    # Another jitter, and another seed.
    stronger = pictures.draw_operations(pixels, jitter | {"brightness_max": 0.0}, 2)
    assert [name for name in panels if not np.array_equal(panels[name], stronger[name])] == [
        "colour jitter"
    ]


def test_panels_have_titles() -> None:
    panels = {f"panel {i}": np.full((4, 4, 3), i, np.uint8) for i in range(7)}
    axes = pictures.titled(panels).axes
    assert [axis.get_title() for axis in axes] == [*panels, "", "", ""]
    assert [int(axis.images[0].get_array().max()) for axis in axes[:7]] == list(range(7))


@pytest.mark.slow
def test_the_job_operations_writes_a_png(photo, tmp_path, capsys) -> None:
    config = operations.get_config()
    config.image, config.image_size = photo[0], 9
    jobs.job_of(config.job)(config, tmp_path / "new")
    with Image.open(tmp_path / "new" / "operations.png") as image:
        assert image.format == "PNG"
        assert image.width >= 5 * 9
    assert "operations.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"image": None}, "config.image"),
        ({"image": "absent.jpg"}, "config.image=absent.jpg .*No such file"),
        ({"image": "text"}, "config.image=text "),
        ({"image": "cut"}, "config.image=cut "),
        ({"image_size": 0}, "config.image_size=0"),
        ({"seed": -1}, "config.seed=-1"),
    ],
)
def test_mistakes_of_the_job_operations(photo, tmp_path, monkeypatch, changes, key) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("not an image")
    with open(photo[0], "rb") as whole:
        (tmp_path / "cut").write_bytes(whole.read()[:120])
    config = operations.get_config()
    config.image = photo[0]
    config.update(changes)
    with pytest.raises(UserError, match=key):
        pictures.run_operations(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["images", "draws"])
def test_mistakes(dataset, tmp_path, name: str) -> None:
    config = config_of(dataset)
    config.views[name] = 0
    with pytest.raises(UserError, match=f"config.views.{name}=0"):
        pictures.run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
