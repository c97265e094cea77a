"""SimCLR's operations among those of App. C: their order, their keys, and what they cost."""

import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import keys
from byol_jax.augment import byol, compose
from byol_jax.augment.compose import AugmentParams
from byol_jax.errors import UserError
from byol_jax.method import check, views_of
from experiments import base

KEY = jax.random.key(11)
# As `make_view` says.
ORDER = (
    *("crop", "flip", "rotate", "randaugment", "autoaugment", "color_jitter", "grayscale"),
    *("equalize", "blur", "motion_blur", "solarize", "sobel", "noise", "cutout"),
)
NONE = AugmentParams(**dict.fromkeys(compose.PROBABILITIES, 0.0))


def only(*names, **changes):
    """Probability 1 for these and 0 for the others, which are compiled all the same."""
    return NONE._replace(**dict.fromkeys(names, 1.0), **changes)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((24, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def make_view():
    return jax.jit(compose.make_view)


@pytest.mark.slow
def test_simclrs_jitter_is_its_pseudo_code_in_tensorflow(make_view):
    """SimCLR App. A: brightness, contrast, saturation, hue, clipped once, with our draws."""
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(1).random((6, 6, 3)).astype(np.float32)
    column = compose.from_config({**NONE._asdict(), **base.simclr_augmentation(blur=0.0)})
    column = column._replace(color_jitter=1.0, flip=0.0, grayscale=0.0)
    differ = 0
    for seed in range(24):
        key = jax.random.key(seed)

        def draw(name, middle, largest, key=key):
            uniform = jax.random.uniform(keys.named(key, name))
            return float(middle + largest * (2 * uniform - 1))

        x = tf.image.adjust_brightness(image, draw("brightness", 0, 0.8))
        x = tf.image.adjust_contrast(x, draw("contrast", 1, 0.8))
        x = tf.image.adjust_saturation(x, draw("saturation", 1, 0.8))
        x = tf.image.adjust_hue(x, draw("hue", 0, 0.2))
        expected = tf.clip_by_value(x, 0, 1).numpy()
        np.testing.assert_allclose(make_view(image, key, column), expected, atol=2e-5)
        of_byol = make_view(image, key, column._replace(simclr_jitter=0.0))
        differ += np.max(np.abs(of_byol - expected)) > 0.05
    assert differ > 12


@pytest.mark.slow
def test_the_form_of_the_jitter_compiles_nothing(make_view, image):
    make_view(image, KEY, only("color_jitter"))
    size = make_view._cache_size()
    make_view(image, KEY, only("color_jitter", simclr_jitter=1.0))
    assert make_view._cache_size() == size


def test_a_column_has_these_probabilities():
    assert sorted(ORDER) == sorted(compose.PROBABILITIES)
    assert [name for name in ORDER if name in compose.EXTRAS] == list(compose.EXTRAS)
    assert {name for name in AugmentParams._fields if getattr(AugmentParams(), name) is None} == {
        *compose.EXTRAS
    }


@pytest.mark.parametrize(
    "names",
    [
        ORDER,
        # Without the ones that hide what came before them.
        [name for name in ORDER if name not in ("grayscale", "sobel", "autoaugment")],
        [name for name in ORDER if name in compose.EXTRAS],
        ["crop", "flip", "color_jitter", "blur", "noise", "cutout"],
    ],
)
def test_each_operation_has_draws_of_its_own(make_view, image, names):
    """An operation draws the same whether others are there or not, and stands in its place."""
    for seed in range(3):
        key = jax.random.key(seed)
        expected = image
        for name in names:
            expected = make_view(expected, key, only(name))
        np.testing.assert_allclose(make_view(image, key, only(*names)), expected, atol=1e-5)


def test_no_two_draws_share_a_key(monkeypatch, image):
    names: list[str] = []

    def named(key, name):
        names.append(name)
        return keys.named(key, name)

    # Of these modules alone: what they call draws from keys of its own.
    for module in (byol, compose):
        monkeypatch.setattr(module, "keys", types.SimpleNamespace(named=named))
    # Not the function itself, whose trace another test may have left behind.
    jax.make_jaxpr(lambda *given: compose.make_view(*given))(image, KEY, NONE)
    assert set(compose.PROBABILITIES) < set(names)
    assert len({zlib.crc32(name.encode()) for name in names}) == len(names)


def test_no_probability_leaves_the_image(make_view, image):
    np.testing.assert_array_equal(make_view(image, KEY, NONE), image)


@pytest.mark.parametrize("name", ["crop", "rotate", "equalize", "sobel", "noise", "cutout"])
def test_probabilities_are_traced(make_view, image, name):
    compiled = make_view._cache_size()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(40))
    views = [make_view(image, key, NONE._replace(**{name: 0.4})) for key in keys]
    assert make_view._cache_size() <= compiled + 1
    certain = [make_view(image, key, only(name)) for key in keys]
    changed = sum(not np.array_equal(view, image) for view in views)
    # 16 +- 3.1, and for quarters three of four of them.
    assert 4 <= changed <= 28
    for view, one in zip(views, certain, strict=True):
        assert np.array_equal(view, image) or np.array_equal(view, one)


def test_turns_are_uniform(make_view, image):
    count = 400
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(count))
    small = image[:4, :4]
    rotate = jax.jit(jax.vmap(compose.EXTRAS["rotate"], (None, 0)))
    views = np.asarray(rotate(small, keys))
    counts = [(views == np.rot90(small, k)).all((1, 2, 3)).sum() for k in range(4)]
    assert sum(counts) == count
    # 100 +- 8.7 each.
    assert min(counts) > 60


def test_cutout_is_zero_for_the_network_and_anywhere(make_view, image):
    corners = []
    for seed in range(30):
        view = byol.normalize(make_view(image, jax.random.key(seed), only("cutout")))
        is_zero = (np.abs(view) < 1e-6).all(-1)
        rows, columns = np.nonzero(is_zero)
        corners.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
        height, width = rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
        # 12 of 24 pixels, less where it sticks out; 6 of them are always inside.
        assert is_zero.sum() == height * width
        assert 6 <= height <= 12 and 6 <= width <= 12
    starts, ends = np.array(corners)[:, [0, 2]], np.array(corners)[:, [1, 3]]
    assert starts.min() == 0 and ends.max() == 24 and len(np.unique(starts)) > 8


def test_noise_is_normal_and_of_each_channel(make_view):
    grey = np.full((64, 64, 3), 0.5, np.float32)
    noise = np.asarray(jax.jit(compose.EXTRAS["noise"])(grey, KEY)) - 0.5
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 0.1) < 0.005
    within = (np.abs(noise) < 0.1).mean()
    assert abs(within - 0.683) < 0.02
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 0.06


def test_motion_blur_is_as_long_as_the_gaussian(make_view):
    for size, radius in ((8, 0), (24, 1), (64, 3), (224, 11)):
        point = np.zeros((size, size, 3), np.float32)
        point[size // 2, size // 2] = 1
        blurred = np.asarray(jax.jit(compose.EXTRAS["motion_blur"])(point, KEY))[..., 0]
        rows, columns = np.nonzero(blurred)
        # A line whose longer side has a pixel for most of its steps.
        length = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 2 * int(radius * np.sqrt(0.5)) + 1 <= length <= 2 * radius + 1
        np.testing.assert_allclose(blurred.sum(), 1, atol=1e-5)


def test_extras_without_a_probability_are_not_compiled(image):
    def program(params):
        return str(jax.make_jaxpr(compose.make_view)(image, KEY, params))

    plain = program(AugmentParams())
    assert program(compose.from_config(base.augmentation())) == plain
    one = program(compose.from_config(base.augmentation(sobel=0.5)))
    assert one != plain and "sqrt" in one and "sqrt" not in plain
    assert "scatter-add" not in one
    assert "scatter-add" in program(compose.from_config(base.augmentation(equalize=0.5)))


def test_from_config():
    column = base.augmentation(cutout=0.25, flip=0.0).to_dict()
    assert compose.from_config(column) == AugmentParams(flip=0.0, cutout=0.25)
    # A column from before there were extras, and one with gaps.
    old = {name: value for name, value in column.items() if name not in compose.EXTRAS}
    assert compose.from_config(old) == AugmentParams(flip=0.0)
    assert compose.from_config({**old, "noise": None, "crop": 0}) == AugmentParams(flip=0.0)
    with pytest.raises(TypeError, match="mirror"):
        compose.from_config({"mirror": 0.5})


@pytest.mark.parametrize("name", compose.EXTRAS)
def test_a_probability_out_of_range_is_a_mistake(name):
    config = base.get_config()
    config.augment.view2[name] = 1.5
    with pytest.raises(UserError, match=rf"config.augment.view2.{name}=1.5"):
        check(config)


def test_a_run_leaves_out_what_has_no_probability():
    config = base.get_config()
    config.augment.view2.sobel = 0.25
    first, second = (view.params for view in views_of(config))
    assert first == AugmentParams()
    assert second == AugmentParams(blur=0.1, solarize=0.2, sobel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 9])
def test_batches_of_any_size_stay_in_range(size):
    levels = np.random.default_rng(size).integers(0, 256, (6, size, size, 3), np.uint8)
    levels[0], levels[1] = 0, 255
    ids, epochs = np.arange(6, dtype=np.int32), np.zeros(6, np.int32)
    params = AugmentParams()._replace(**dict.fromkeys(compose.EXTRAS, 0.5))
    make_views = jax.jit(compose.make_views, static_argnums=4)
    views = make_views(levels, ids, epochs, KEY, 1, params)
    assert views.shape == levels.shape and views.dtype == jnp.float32
    pixels = np.asarray(byol.denormalize(views))
    assert np.isfinite(pixels).all()
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
    # An example's view does not depend on its neighbours.
    order = np.array([4, 1, 5, 0, 2, 3])
    some = make_views(levels[order], ids[order], epochs, KEY, 1, params)
    np.testing.assert_array_equal(some, views[order])
