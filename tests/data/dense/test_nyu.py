"""NYU Depth v2 as its authors, others and TFDS give it: axes, numbers of the splits, metres."""

import functools
import pathlib
import sys

import numpy as np
import pytest
from scipy import io

from byol_jax.data import tfds_sets
from byol_jax.data.dense import sets, sources
from byol_jax.errors import UserError
from tiny_dense import picture

HEIGHT, WIDTH, COUNT = 6, 8, 7
# Numbers of images, counted from 1, in no order.
TRAIN, TEST = [6, 1, 2, 5], [7, 3]


def depth_of(i: int) -> np.ndarray:
    """Metres that tell the image and the pixel, float32 `[H, W]`."""
    return (1 + i + np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) / 64).astype(np.float32)


@pytest.fixture
def labelled(tmp_path) -> pathlib.Path:
    """The labelled file, whose axes are those of MATLAB's arrays in reverse."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        images = np.stack([picture(i, HEIGHT, WIDTH) for i in range(COUNT)])
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"] = np.stack([depth_of(i).T for i in range(COUNT)])
    numbers = {"trainNdxs": np.array(TRAIN)[:, None], "testNdxs": np.array(TEST)[:, None]}
    io.savemat(tmp_path / "splits.mat", numbers)
    return tmp_path


def write_h5(root: pathlib.Path, files: list[str]) -> None:
    h5py = pytest.importorskip("h5py")
    for i, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / name, "w") as file:
            file["rgb"] = picture(i, HEIGHT, WIDTH).transpose(2, 0, 1)
            file["depth"] = depth_of(i)


def load(path: pathlib.Path, split: str) -> sets.DenseSet:
    return sources.load(f"nyu:{path}", split, "depth")


def message_of(path: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        load(path, "train")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["", "nyu_depth_v2_labeled.mat"])
def test_the_labelled_file_has_the_splits_of_its_numbers(labelled, name) -> None:
    train, test = load(labelled / name, "train+valid"), load(labelled / name, "test")
    assert train.names == ["0001", "0002", "0005", "0006"]
    assert test.names == ["0003", "0007"]
    image, depth = test.read(1)
    np.testing.assert_array_equal(image, picture(6, HEIGHT, WIDTH))
    np.testing.assert_array_equal(depth, depth_of(6))
    assert depth.dtype == np.float32
    assert test.shape_of(0) == (HEIGHT, WIDTH)


def test_numbers_beyond_the_images_are_refused(labelled) -> None:
    io.savemat(labelled / "splits.mat", {"trainNdxs": [[1], [8]], "testNdxs": [[2]]})
    assert "does not fit: its numbers are 1 to 8" in message_of(labelled)
    io.savemat(labelled / "splits.mat", {"trainNdxs": [[1], [2]], "testNdxs": [[2]]})
    assert "2 of 3 differ" in message_of(labelled)
    io.savemat(labelled / "splits.mat", {"other": [[1]]})
    assert "no trainNdxs" in message_of(labelled)
    (labelled / "splits.mat").unlink()
    assert "names the 654 test images" in message_of(labelled)


def test_a_file_that_is_cut_off_is_named(labelled) -> None:
    path = labelled / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} is no labelled file" in message_of(labelled)


def test_folders_of_h5_files_are_splits(tmp_path) -> None:
    write_h5(tmp_path, [f"train/kitchen_{i % 2}/{i:05d}.h5" for i in range(5)])
    write_h5(tmp_path, ["val/official/00045.h5"])
    train, test = load(tmp_path, "train+valid"), load(tmp_path, "test")
    assert train.names[:2] == ["train/kitchen_0/00000", "train/kitchen_0/00002"]
    assert (train.size, test.size) == (5, 1)
    image, depth = train.read(1)
    np.testing.assert_array_equal(image, picture(2, HEIGHT, WIDTH))
    np.testing.assert_array_equal(depth, depth_of(2))


def test_h5_files_for_training_and_the_labelled_file_for_the_test(labelled) -> None:
    write_h5(labelled, [f"train/kitchen/{i:05d}.h5" for i in range(3)])
    assert load(labelled, "train+valid").size == 3
    assert load(labelled, "test").names == ["0003", "0007"]


def test_damaged_h5_files_are_unreadable_and_no_depth_is_refused(tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    write_h5(tmp_path, [f"train/kitchen/{i:05d}.h5" for i in range(8)])
    train = load(tmp_path, "train+valid")
    first = tmp_path / f"{train.name_of(0)}.h5"
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(OSError, match="file") as error:
        train.read(0)
    assert error.value.errno is None
    with h5py.File(tmp_path / f"{train.name_of(1)}.h5", "a") as file:
        file["depth"][...] = np.nan
    with pytest.raises(UserError, match="no pixel with a valid depth"):
        train.read(1)


def test_without_h5py_the_message_says_how_to_install_it(labelled, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'byol_jax[nyu]'" in message_of(labelled)


def test_a_folder_with_neither_is_refused(tmp_path) -> None:
    assert "has neither nyu_depth_v2_labeled.mat" in message_of(tmp_path)


FORMATS = ("tfrecord", "array_record")


@functools.cache
def builder_class() -> type:
    """A set with the records of TFDS's nyu_depth_v2; TFDS knows it by name from now on."""
    tfds_sets.import_tensorflow()
    import tensorflow_datasets as tfds

    splits = {"train": 5, "validation": 2}

    def info(self):
        features = {
            "image": tfds.features.Image(shape=(HEIGHT, WIDTH, 3)),
            "depth": tfds.features.Tensor(shape=(HEIGHT, WIDTH), dtype=np.float16),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def examples(split: str):
        for i in range(splits[split]):
            depth = depth_of(i).astype(np.float16)
            depth[0, :2] = np.nan if i else 0
            yield f"{split}{i}", {"image": picture(i, HEIGHT, WIDTH), "depth": depth}

    return type(
        "TinyDepth",
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("0.0.1"),
            "_info": info,
            "_split_generators": lambda self, _: {s: examples(s) for s in splits},
            "_generate_examples": lambda self: None,
            # With dots it would be a package, whose resources TFDS would look up.
            "__module__": "tiny_sets",
        },
    )


@pytest.mark.parametrize("file_format", FORMATS)
def test_records_of_tfds_have_their_depth_in_metres(tmp_path, monkeypatch, file_format) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builder = builder_class()(data_dir=str(tmp_path / "sets"), file_format=file_format)
    builder.download_and_prepare()
    parts = [
        sources.load("tfds:tiny_depth", split, "depth", data_dir=str(tmp_path / "sets"))
        for split in ("train+valid", "test")
    ]
    assert [part.size for part in parts] == [5, 2]
    for part in parts:
        found = [part.read(i) for i in range(part.size)]
        for image, depth in found:
            # TFDS shuffles its records.
            (i,) = (k for k in range(5) if np.array_equal(image, picture(k, HEIGHT, WIDTH)))
            wanted = depth_of(i).astype(np.float16).astype(np.float32)
            wanted[0, :2] = 0
            assert depth.dtype == np.float32
            np.testing.assert_array_equal(depth, wanted)
        assert part.shape_of(0) == (HEIGHT, WIDTH)
    assert parts[1].describe(1) == "tfds:tiny_depth, validation, record 1"


def test_a_set_of_tfds_without_depth_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="is not prepared"):
        sources.load("tfds:cifar10", "train", "depth", data_dir=str(tmp_path))
