"""The encoder in Python: the numbers of evaluations, any kind of images, and what it refuses."""

import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import byol_jax
import tiny_checkpoints
import tiny_runs
from byol_jax import encoder, prepare, weights
from byol_jax.errors import UserError
from byol_jax.evals import checkpoint, features


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    return tiny_checkpoints.save(folder, tiny_checkpoints.write_easy_npz(folder / "images.npz"))


@pytest.fixture(scope="module")
def encode(workdir: pathlib.Path) -> encoder.Encoder:
    return byol_jax.load_encoder(workdir)


def expected(workdir: pathlib.Path, images: np.ndarray, name: str = "online") -> np.ndarray:
    """What an evaluation reads of a checkpoint."""
    trained = weights.load(workdir)
    params, state = checkpoint.network_of(trained, name, 8, lambda: iter(()))
    network = checkpoint.siamese_of(trained)
    return features.extract(network, params, state, iter([images]))["embedding"]


@pytest.mark.parametrize("name", encoder.NETWORKS)
def test_it_gives_the_features_of_evaluations(workdir: pathlib.Path, name: str) -> None:
    images = tiny_runs.images(5)
    found = byol_jax.load_encoder(str(workdir), network=name)(images)
    assert found.dtype == np.float32 and found.shape == (5, 16)
    np.testing.assert_allclose(found, expected(workdir, images, name), rtol=1e-5, atol=1e-6)


def test_the_networks_differ(workdir: pathlib.Path) -> None:
    images = tiny_runs.images(3)
    online, target = (byol_jax.load_encoder(workdir, name)(images) for name in encoder.NETWORKS)
    assert np.abs(online - target).max() > 0.01


def test_it_says_what_it_is(encode: encoder.Encoder) -> None:
    assert (encode.dim, encode.image_size, encode.name) == (16, 8, "online")
    assert encode.trained.step == tiny_checkpoints.STEP
    assert not encode.trained.online_params


def test_floats_are_images_divided_by_255(encode: encoder.Encoder) -> None:
    images = tiny_runs.images(4)
    for kind in (np.float32, np.float64, np.float16):
        floats = (images / 255).astype(kind)
        tolerance = 1e-5 if kind != np.float16 else 1e-2
        np.testing.assert_allclose(encode(floats), encode(images), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_any_number_of_images_and_of_any_size(workdir: pathlib.Path, count: int) -> None:
    encode = byol_jax.load_encoder(workdir, batch_size=2)
    images = tiny_runs.images(5, size=11)
    np.testing.assert_allclose(encode(images[:count]), encode(images)[:count], rtol=1e-5, atol=1e-6)
    assert encode(images[:count]).shape == (count, encode.dim)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("pictures")
    (root / "b").mkdir()
    for number, name in enumerate(("z.png", "a.png", "b/c.png", "b/.hidden.png")):
        Image.fromarray(tiny_runs.images(1, 8, number)[0]).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folder_is_its_files_in_order(encode: encoder.Encoder, pictures: pathlib.Path) -> None:
    names = ["a.png", "b/c.png", "z.png"]
    assert encoder.files(pictures) == [str(pictures / name) for name in names]
    arrays = np.concatenate([tiny_runs.images(1, 8, number) for number in (1, 2, 0)])
    np.testing.assert_allclose(encode(str(pictures)), encode(arrays), rtol=1e-5, atol=1e-6)
    listed = encode([pictures / "z.png", str(pictures / "a.png")])
    np.testing.assert_allclose(listed, encode(arrays[[2, 0]]), rtol=1e-5, atol=1e-6)


def test_files_are_cropped_as_the_checkpoint_says(tmp_path: pathlib.Path) -> None:
    """`full` takes the short side to the size and then the centre: columns 4 to 12 of 16."""
    dataset = tiny_checkpoints.write_easy_npz(tmp_path / "images.npz")
    encode = byol_jax.load_encoder(tiny_checkpoints.save(tmp_path / "run", dataset))
    wide = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = encode([tmp_path / "wide.png"])
    np.testing.assert_allclose(found, encode(wide[None, :, 4:12]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"\[8, 8, 3\] must be .* images\[None\]"),
        (np.zeros((2, 8, 8), np.uint8), r"\[2, 8, 8\] must be \[N, H, W, 3\]"),
        (np.zeros((2, 8, 8, 3), np.int64), "images are int64: give uint8"),
        (np.full((2, 8, 8, 3), 200.0), "floats from 200 to 200, .* divide by 255"),
        (np.full((2, 8, 8, 3), -1.0), "floats from -1 to -1, .* not normalised"),
        (np.full((2, 8, 8, 3), np.nan), "floats from nan"),
        ("no/such/folder", "images='no/such/folder' is no folder"),
    ],
)
def test_what_is_no_images_is_refused(encode: encoder.Encoder, images, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        encode(images)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_images_are_named(
    encode: encoder.Encoder, pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=r"the folder .* has no image: \.jpg"):
        encode(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    good = pictures / "a.png"
    with pytest.raises(UserError, match=r"^the list of files: 1 of 2 images cannot .*bad\.png"):
        encode([good, bad])
    with pytest.raises(UserError, match=f"^the folder {tmp_path}: 1 of 1 images cannot be read"):
        encode(tmp_path)
    # Less than one file in a hundred: evaluations leave it out.
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        encode([good] * 130 + [bad] + [good] * 20)
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        encode([good] * 256 + [bad])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"network": "random"}, "network='random' must be one of: online, target"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"path": "no/run"}, "checkpoint=no/run: there is no such path"),
    ],
)
def test_wrong_arguments_are_named(workdir: pathlib.Path, arguments, words: str) -> None:
    with pytest.raises(UserError, match=words):
        byol_jax.load_encoder(**({"path": workdir} | arguments))


def test_the_package_alone_loads_no_jax() -> None:
    code = "import sys, byol_jax; assert not {'jax', 'numpy', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tiny_runs.ROOT, check=True)
    with pytest.raises(AttributeError, match="has no attribute 'load_decoder'"):
        byol_jax.load_decoder  # noqa: B018


def test_a_file_that_does_not_exist_is_named_at_once(encode, tmp_path) -> None:
    Image.fromarray(tiny_runs.images(1)[0]).save(tmp_path / "a.png")
    for missing in (tmp_path / "typo.png", tmp_path / "gone" / "a.png"):
        start = time.monotonic()
        with pytest.raises(UserError, match=rf"^images: there is no file {missing}$"):
            encode([tmp_path / "a.png", missing])
        assert time.monotonic() - start < 1


def write_deep(folder: pathlib.Path, **highs: int) -> list[str]:
    """PNGs of 16 bits and 8 pixels, ramps up to a value each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, high in highs.items():
        ramp = np.linspace(0, high, 64).reshape(8, 8).astype(np.uint16)
        Image.fromarray(ramp).save(folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in highs]


def test_a_dark_file_counts_as_in_the_training(tmp_path: pathlib.Path) -> None:
    """By itself it would be taken as 8 bits."""
    dark, bright = write_deep(tmp_path / "images", dark=200, bright=4000)
    marks = {"depth": {"bits": 12}}
    tiny_checkpoints.save(tmp_path / "run", "digits", marks=marks)
    deep = byol_jax.load_encoder(tmp_path / "run")
    alone, both = deep([dark]), deep([dark, bright])
    np.testing.assert_allclose(alone[0], both[0], rtol=1e-5, atol=1e-6)
    levels = np.linspace(0, 200, 64).reshape(8, 8).astype(np.uint16) >> 4
    array = np.repeat(levels.astype(np.uint8)[None, ..., None], 3, axis=-1)
    np.testing.assert_allclose(alone, deep(array), rtol=1e-5, atol=1e-6)


def test_a_file_brighter_than_the_training_is_refused_with_its_range(
    tmp_path: pathlib.Path,
) -> None:
    (bright,) = write_deep(tmp_path / "images", bright=4000)
    tiny_checkpoints.save(tmp_path / "run", "digits", marks={"depth": {"bits": 10}})
    with pytest.raises(UserError, match=r"bright\.png .*from 0 to 4000, not of 10 bits"):
        byol_jax.load_encoder(tmp_path / "run")([bright])


def test_a_training_records_the_depth_of_its_images(tmp_path: pathlib.Path) -> None:
    write_deep(tmp_path / "images/a", **{f"x{i}": 4000 for i in range(8)})
    write_deep(tmp_path / "images/b", **{f"x{i}": 200 for i in range(8)})
    run = prepare.plan(tiny_runs.tiny_config(f"folder:{tmp_path / 'images'}"), tmp_path / "run")
    assert run.record["depth"] == {"bits": 12}
    assert weights.trained_of(run.record, 1, {}, {}, {}, {}).depth.bits == 12
