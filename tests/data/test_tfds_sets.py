"""Prepared TFDS sets against TFDS's own reading; the index of TFRecords; what is refused."""

import concurrent.futures
import contextlib
import functools
import io
import json
import logging
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import train
from byol_jax.data import images, pipeline, sources, splits, tfds_sets
from byol_jax.data.views import Stream, View
from byol_jax.errors import UserError

FORMATS = ("tfrecord", "array_record")
# Images of each split; of the first set each split makes three files.
SETS = {
    "tiny_pictures": {"train": 13, "validation": 5},
    "tiny_tested": {"train": 9, "validation": 3, "test": 4, "extra": 2},
    "tiny_valid": {"train": 5, "valid": 3},
    "tiny_unlabelled": {"train": 5},
    "tiny_words": {"train": 2},
    "tiny_test_only": {"test": 2},
    "tiny_unprepared": {"train": 2},
    "tiny_several": {"train": 7, "test": 4},
    "tiny_several_sure": {"train": 7},
}
FIRST = "tiny_pictures"
SEVERAL = ("tiny_several", "tiny_several_sure")
# Classes shown and those of them that are not only difficult, of every image.
SHOWN = [[0, 2], [1], [], [0, 1, 4], [3], [4], [2, 3]]
CERTAIN = [[0], [1], [], [0, 4], [], [4], [2, 3]]
# 5 classes: 1 shown, -1 difficult, 0 neither.
ROWS = [
    [1, 0, -1, 0, 0],
    [0, 1, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [1, -1, 0, 0, 1],
    [0, 0, 0, -1, 0],
    [0, 0, 0, 0, 1],
    [0, 0, 1, 1, 0],
]


@functools.cache
def builders() -> dict[str, type]:
    """A class for each set; TFDS knows them by name from now on."""
    tfds_sets.import_tensorflow()
    import tensorflow_datasets as tfds

    def make(name: str, splits: dict[str, int]) -> type:
        picture = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        features = {
            "words": tfds.features.Text(),
            "image": picture,
            "label": tfds.features.ClassLabel(num_classes=4),
        }
        if name == "tiny_unlabelled":
            del features["label"]
        if name == "tiny_words":
            del features["image"]
        if name in SEVERAL:
            # As PASCAL VOC: no label, but boxes that have one.
            del features["label"]
            kind = tfds.features.ClassLabel(num_classes=5)
            features["objects"] = tfds.features.Sequence({"label": kind})
            features["labels"] = tfds.features.Sequence(kind)
        if name == "tiny_several":
            features["labels_no_difficult"] = tfds.features.Sequence(kind)

        def info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label") if {*features} >= {"image", "label"} else None,
            )

        def examples(self, split: str):
            for i in range(splits[split]):
                pixels = np.full((4 + i % 3, 5, 3), 10 * i + len(split), np.uint8)
                example = {"words": f"{split} {i}", "image": pixels, "label": i % 3}
                if name in SEVERAL:
                    example["labels"] = SHOWN[i]
                    example["labels_no_difficult"] = CERTAIN[i]
                    example["objects"] = [{"label": k} for k in SHOWN[i] for _ in range(2)]
                yield f"{split}{i}", {key: example[key] for key in features}

        return type(
            "".join(word.title() for word in name.split("_")),
            (tfds.core.GeneratorBasedBuilder,),
            {
                "VERSION": tfds.core.Version("1.0.0"),
                "_info": info,
                "_split_generators": lambda self, _: {s: examples(self, s) for s in splits},
                "_generate_examples": lambda self: None,
                # With dots it would be a package, whose resources TFDS would look up.
                "__module__": "tiny_sets",
            },
        )

    return {name: make(name, splits) for name, splits in SETS.items()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    """FORMAT/NAME/1.0.0 for the first set in both formats, tfrecord/NAME/1.0.0 for the others."""
    classes = builders()
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    for file_format in FORMATS:
        for name in SETS if file_format == "tfrecord" else (FIRST, "tiny_unlabelled", *SEVERAL):
            if name != "tiny_unprepared":
                builder = classes[name](data_dir=str(root / file_format), file_format=file_format)
                shards = tfds.download.DownloadConfig(num_shards=3 if name == FIRST else 1)
                builder.download_and_prepare(download_config=shards)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, caplog) -> pathlib.Path:
    """Where the indices are; never in the home folder. The log is heard."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    caplog.set_level(logging.INFO, "byol_jax")
    return tmp_path / "cache" / "byol_jax" / "tfrecords"


@pytest.fixture
def copied(prepared, tmp_path) -> pathlib.Path:
    """A copy that a test may damage."""
    shutil.copytree(prepared, tmp_path / "copied")
    return tmp_path / "copied"


def load(root: pathlib.Path, split: str, name: str = FIRST, file_format: str = "tfrecord"):
    return sources.load(f"tfds:{name}", split, str(root / file_format))


def stored(image_set: images.ImageSet) -> list[images.Encoded]:
    return [image_set.images.read(i) for i in range(image_set.size)]


def message_of(dataset: str, data_dir: pathlib.Path | None, split: str = "train") -> str:
    with pytest.raises(UserError) as error:
        sources.load(dataset, split, None if data_dir is None else str(data_dir))
    assert "\n" not in str(error.value)
    return str(error.value)


def files_of(root: pathlib.Path, split: str, file_format: str = "tfrecord") -> list[pathlib.Path]:
    return sorted((root / file_format / FIRST / "1.0.0").glob(f"*-{split}.*"))


def theirs(root: pathlib.Path, split: str) -> list[images.Encoded]:
    """What TFDS's own pipeline reads, which knows TFRecords alone."""
    import tensorflow_datasets as tfds

    builder = builders()[FIRST](data_dir=str(root / "tfrecord"))
    dataset = builder.as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False
    )
    return [images.Encoded(x["image"], int(x["label"])) for x in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("split", "name"), [("train+valid", "train"), ("test", "validation")])
def test_records_and_their_order_are_those_of_tfds(prepared, file_format, split, name) -> None:
    assert len(files_of(prepared, name, file_format)) == 3
    image_set = load(prepared, split, file_format=file_format)
    expected = theirs(prepared, name)
    assert stored(image_set) == expected
    assert len({example.data for example in expected}) == SETS[FIRST][name] == image_set.size
    assert images.all_labels(image_set).tolist() == [example.label for example in expected]
    assert images.all_labels(image_set).dtype == np.int32
    # Four classes are declared, three are used.
    assert (image_set.name, image_set.num_classes) == (f"tfds:{FIRST}", 4)
    assert image_set.images.describe(3) == f"tfds:{FIRST}, {name}, record 3"


@pytest.mark.parametrize("file_format", FORMATS)
def test_records_are_read_in_any_order(prepared, file_format) -> None:
    image_set = load(prepared, "train+valid", file_format=file_format)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(13), 4)).tolist()
    in_order = stored(image_set)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(image_set.images.read, order)) == [in_order[i] for i in order]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_validation_split_is_cut_where_there_is_none(prepared, file_format) -> None:
    """Of 13 with classes 0, 1, 2 in turn, 5, 4 and 4: round(0.2 n) = 1 of each."""
    everything = load(prepared, "train+valid", file_format=file_format)
    labels = images.all_labels(everything)
    cut = splits.class_balanced_cut(labels, 0.2, splits.CUT_SEED)
    valid = load(prepared, "valid", file_format=file_format)
    train = load(prepared, "train", file_format=file_format)
    assert sorted(images.all_labels(valid).tolist()) == [0, 1, 2]
    assert stored(valid) == [everything.images.read(i) for i in cut]
    rest = np.setdiff1d(np.arange(13), cut)
    assert stored(train) == [everything.images.read(i) for i in rest]
    assert valid.images.describe(0) == f"tfds:{FIRST}, train, record {cut[0]}"


def words(root: pathlib.Path, name: str, split: str) -> str:
    """The split of TFDS that the images of ours come from."""
    image_set = load(root, split, name)
    described = {image_set.images.describe(i).split(", ")[1] for i in range(image_set.size)}
    return " ".join(sorted(described))


def test_validation_is_test_where_there_is_no_test(prepared) -> None:
    assert words(prepared, FIRST, "test") == "validation"
    assert words(prepared, FIRST, "validation") == "validation"
    assert words(prepared, FIRST, "train+valid") == "train"


def test_validation_is_valid_where_there_is_a_test(prepared) -> None:
    name = "tiny_tested"
    ours = ("train", "valid", "test", "validation", "extra")
    assert [words(prepared, name, split) for split in ours] == [
        *("train", "validation", "test", "validation", "extra")
    ]
    assert words(prepared, name, "extra+valid+train") == "extra train validation"
    assert load(prepared, "extra+valid", name).size == 2 + 3


def test_validation_is_test_where_the_test_has_no_labels(prepared, monkeypatch) -> None:
    monkeypatch.setattr(tfds_sets, "_TEST_IS_VALIDATION", ("tiny_tested",))
    assert words(prepared, "tiny_tested", "test") == "validation"
    assert words(prepared, "tiny_tested", "valid") == "train"


def test_one_split_is_not_both_valid_and_test(prepared) -> None:
    """A set that calls it `valid` itself: else `train+valid` would hold the test images."""
    assert words(prepared, "tiny_valid", "test") == "valid"
    assert words(prepared, "tiny_valid", "train+valid") == "train"
    assert load(prepared, "train+valid+test", "tiny_valid").size == 5 + 3


def test_the_sets_whose_test_has_no_labels() -> None:
    assert {"imagenet2012", "places365_small"} <= {*tfds_sets._TEST_IS_VALIDATION}


@pytest.mark.parametrize("file_format", FORMATS)
def test_without_labels(prepared, file_format) -> None:
    image_set = load(prepared, "train", "tiny_unlabelled", file_format)
    assert [example.label for example in stored(image_set)] == [-1] * 3
    assert images.all_labels(image_set).tolist() == [-1] * 3
    assert image_set.num_classes == 0
    assert {images.prepare(example.data)[2] for example in stored(image_set)} == {5}


def number(example: images.Encoded) -> int:
    """Which of the images of a split this is, by its colour."""
    with Image.open(io.BytesIO(example.data)) as image:
        return int(np.asarray(image)[0, 0, 0]) // 10


@pytest.mark.parametrize("file_format", FORMATS)
def test_several_classes_an_image(prepared, file_format) -> None:
    """TFDS writes in an order of its own, so that images are told apart by their colour."""
    image_set = load(prepared, "train+valid", "tiny_several", file_format)
    assert image_set.multi_label and image_set.num_classes == 5
    examples = stored(image_set)
    order = [number(example) for example in examples]
    assert sorted(order) == list(range(7))
    expected = np.array(ROWS)[order]
    for found in (np.stack([e.label for e in examples]), images.all_labels(image_set)):
        assert found.dtype == np.int32 and np.array_equal(found, expected)
    chosen = images.select(image_set, np.array([4, 1]))
    assert np.array_equal(images.all_labels(chosen), expected[[4, 1]])
    assert np.array_equal(chosen.images.read(0).label, expected[4])


@pytest.mark.parametrize("file_format", FORMATS)
def test_several_classes_none_of_them_difficult(prepared, file_format) -> None:
    image_set = load(prepared, "train+valid", "tiny_several_sure", file_format)
    order = [number(example) for example in stored(image_set)]
    assert image_set.multi_label
    assert np.array_equal(images.all_labels(image_set), np.abs(ROWS)[order])


def test_several_classes_are_not_cut_by_class(prepared, caplog) -> None:
    """round(0.2 * 7) = 1 for validation, and no label is read for it."""
    parts = [load(prepared, split, "tiny_several") for split in ("train", "valid", "test")]
    assert [part.size for part in parts] == [6, 1, 4]
    assert "reading the labels" not in caplog.text
    whole = load(prepared, "train+valid+test", "tiny_several")
    assert images.all_labels(whole).shape == (11, 5) and whole.multi_label


def test_several_classes_of_a_damaged_record(copied) -> None:
    image_set = load(copied, "train+valid", "tiny_several")
    expected = images.all_labels(image_set).copy()
    (file,) = (copied / "tfrecord" / "tiny_several" / "1.0.0").glob("*-train.*")
    _, offset, length = tfds_sets._index([str(file)], 7, "set")
    content = bytearray(file.read_bytes())
    content[offset[2] : offset[2] + length[2]] = b"\xff" * length[2]
    file.write_bytes(content)
    expected[2] = -1
    damaged = load(copied, "train+valid", "tiny_several")
    assert np.array_equal(images.all_labels(damaged), expected)


@pytest.mark.parametrize("file_format", FORMATS)
def test_batches_of_several_classes_an_image(prepared, file_format) -> None:
    image_set = load(prepared, "train+valid", "tiny_several", file_format)
    expected = images.all_labels(image_set)
    batches = list(pipeline.evaluation_batches(image_set, image_size=4, mode="full", batch_size=3))
    assert [batch["labels"].shape for batch in batches] == [(3, 5), (3, 5), (1, 5)]
    assert np.array_equal(np.concatenate([batch["labels"] for batch in batches]), expected)
    (batch,) = pipeline.train_batches(image_set, Stream(0, 7, 7, stop=1), (View(4),))
    assert np.array_equal(batch["labels"], expected[batch["ids"]])


def test_pretraining_leaves_several_classes_out(prepared) -> None:
    """The online probe knows one class an image; the images are the same."""
    config = tiny_runs.tiny_config(
        "tfds:tiny_several", data_dir=str(prepared / "tfrecord"), data__split="train+valid"
    )
    image_set = train.load_images(config)
    assert (image_set.multi_label, image_set.num_classes) == (False, 0)
    assert images.all_labels(image_set).tolist() == [-1] * 7
    theirs = stored(load(prepared, "train+valid", "tiny_several"))
    assert stored(image_set) == [images.Encoded(example.data, -1) for example in theirs]
    (batch,) = pipeline.train_batches(image_set, Stream(0, 7, 7, stop=1), (View(4),))
    assert batch["labels"].tolist() == [-1] * 7


def write_voc(root: pathlib.Path, year: str) -> None:
    """The archives' layout: images of train, val and test, objects (class, difficult) in XML.

    VOC2012's test images come without objects.
    """
    folder = root / "VOCdevkit" / f"VOC{year}"
    objects = {
        "train0": [("dog", 0), ("person", 1), ("dog", 1)],
        "train1": [("aeroplane", 0), ("tvmonitor", 0)],
        "val0": [("person", 1)],
        "test0": [("cat", 0)] if year == "2007" else None,
    }
    for place in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / place).mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [name for name in objects if name.startswith(split)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    for name, shown in objects.items():
        Image.new("RGB", (6, 5)).save(folder / "JPEGImages" / f"{name}.jpg")
        if shown is not None:
            boxes = "".join(
                f"<object><name>{kind}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{difficult}</difficult><bndbox><xmax>4</xmax><xmin>1</xmin>"
                "<ymax>4</ymax><ymin>1</ymin></bndbox></object>"
                for kind, difficult in shown
            )
            size = "<size><width>6</width><height>5</height></size>"
            text = f"<annotation>{size}{boxes}</annotation>"
            (folder / "Annotations" / f"{name}.xml").write_text(text)


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_pascal_voc(tmp_path, monkeypatch, year: str) -> None:
    """TFDS's own builder, on archives of four images.

    Of the 20 classes by name, aeroplane is 0, cat 7, dog 11, person 14 and tvmonitor 19.
    """
    tfds_sets.import_tensorflow()
    import tensorflow_datasets as tfds

    write_voc(tmp_path / "archives", year)
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, urls: dict.fromkeys(urls, str(tmp_path / "archives")),
    )
    # In a module of its own, so that TFDS does not look for the checksums of the real archives.
    ours = {"__module__": "tiny_sets"}
    voc = type("Voc", (tfds.builder_cls("voc"),), ours, skip_registration=True)
    voc(config=year, data_dir=str(tmp_path / "sets")).download_and_prepare()

    def rows(split: str) -> list[dict[int, int]]:
        """Of each image, the classes that are not simply absent."""
        image_set = sources.load(f"tfds:voc/{year}", split, str(tmp_path / "sets"))
        assert image_set.multi_label and image_set.num_classes == 20
        labels = images.all_labels(image_set)
        assert labels.shape == (image_set.size, 20)
        found = [{int(k): int(row[k]) for k in np.flatnonzero(row)} for row in labels]
        return sorted(found, key=str)

    train = [{0: 1, 19: 1}, {11: 1, 14: -1}]
    if year == "2007":
        assert rows("train") == train
        assert rows("valid") == [{14: -1}]
        assert rows("test") == [{7: 1}]
    else:
        # The labelled `validation` is the test split; a fifth of two images rounds to none.
        assert rows("train") == rows("train+valid") == train
        assert rows("test") == [{14: -1}]


def test_labels_are_read_once(copied, caplog) -> None:
    image_set = load(copied, "train+valid")
    first = images.all_labels(image_set)
    for path in files_of(copied, "train"):
        path.unlink()
    assert images.all_labels(image_set) is first
    said = [r.getMessage() for r in caplog.records if "reading the labels" in r.getMessage()]
    assert said == [f"tfds:{FIRST}, train: reading the labels of 13 records"]


def indices(cache: pathlib.Path) -> list[pathlib.Path]:
    return sorted(cache.glob("*")) if cache.is_dir() else []


def refuse(monkeypatch) -> None:
    """From now on no header of a record can be read."""

    def lengths(path: str) -> np.ndarray:
        raise AssertionError(f"looked into {path}")

    monkeypatch.setattr(tfds_sets, "_record_lengths", lengths)


def test_the_index_is_made_once(prepared, cache, monkeypatch, caplog) -> None:
    first = stored(load(prepared, "train+valid"))
    assert "looking up where the records of 3 file(s) start, once" in caplog.text
    assert [path.suffix for path in indices(cache)] == [".npz"]
    refuse(monkeypatch)
    assert stored(load(prepared, "train+valid")) == first
    with pytest.raises(AssertionError, match="looked into"):
        load(prepared, "test")


def test_the_index_is_made_in_the_home_folder_by_default(prepared, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path / "home")
    load(prepared, "train+valid")
    assert len(indices(tmp_path / "home" / ".cache" / "byol_jax" / "tfrecords")) == 1


def test_the_index_is_where_the_records_are(prepared) -> None:
    """Against a plain walk through each file, all bytes of it."""
    files = [str(path) for path in files_of(prepared, "train")]
    shard, offset, length = tfds_sets._index(files, 13, "set")
    expected = []
    for number, file in enumerate(files):
        data, position = pathlib.Path(file).read_bytes(), 0
        while position < len(data):
            size = int.from_bytes(data[position : position + 8], "little")
            expected.append((number, position + 12, size))
            position += 12 + size + 4
        assert position == len(data)
    assert list(zip(shard.tolist(), offset.tolist(), length.tolist(), strict=True)) == expected


def test_the_index_is_made_again_when_a_file_changes(copied, cache) -> None:
    first = stored(load(copied, "train+valid"))
    changed = files_of(copied, "train")[1]
    os.utime(changed, ns=(1, 1))
    assert stored(load(copied, "train+valid")) == first
    assert len(indices(cache)) == 2
    # The same length and another second record: only the time of the change tells.
    others = files_of(copied, "train")[2].read_bytes()
    changed.write_bytes(others)
    (info,) = (copied / "tfrecord" / FIRST / "1.0.0").glob("dataset_info.json")
    content = json.loads(info.read_text())
    lengths = content["splits"][0]["shardLengths"]
    total = 13 - int(lengths[1]) + int(lengths[2])
    lengths[1] = lengths[2]
    info.write_text(json.dumps(content))
    again = stored(load(copied, "train+valid"))
    assert len(again) == total
    assert again[int(lengths[0]) : -int(lengths[2])] == again[-int(lengths[2]) :]


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def unknown_packing(content: bytes) -> bytes:
    at = content.index(b"PK\x01\x02") + 10
    return content[:at] + b"\xff" + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        half,
        unknown_packing,
        lambda content: b"",
        lambda content: b"no archive at all",
        lambda content: content.replace(b"offset.npy", b"office.npy"),
        lambda content: content.replace(b"'<i8'", b"'|O8'"),
    ],
    ids=["cut off", "unknown packing", "empty", "text", "other names", "objects"],
)
# numpy leaves an archive open whose directory it cannot read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_index_is_made_again(prepared, cache, monkeypatch, damage) -> None:
    first = stored(load(prepared, "train+valid"))
    (path,) = indices(cache)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    assert stored(load(prepared, "train+valid")) == first
    assert indices(cache) == [path]
    refuse(monkeypatch)
    assert stored(load(prepared, "train+valid")) == first


def test_a_cache_that_cannot_be_written_is_only_said(prepared, tmp_path, caplog) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert load(prepared, "train+valid").size == 13
    (said,) = (r for r in caplog.records if "cannot be kept" in r.getMessage())
    assert said.levelname == "INFO"


def test_a_file_that_ends_within_a_record(copied) -> None:
    path = files_of(copied, "train")[1]
    content = path.read_bytes()
    for end in (len(content) - 1, len(content) // 2, 5):
        path.write_bytes(content[:end])
        message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
        assert message == f"{path} ends within a record; prepare the data set again"


def test_a_file_that_is_missing(copied) -> None:
    path = files_of(copied, "train")[1]
    path.unlink()
    message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
    assert message == f"{path} cannot be read (NotFoundError); prepare the data set again"


def test_a_wrong_number_of_records(copied, cache) -> None:
    files = files_of(copied, "train")
    files[0].write_bytes(b"")
    message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
    left = 13 - len(theirs_of(files[0].name, copied))
    assert message == (
        f"tfds:{FIRST}, train: {left} records in 3 file(s), 13 expected; prepare the data set again"
    )
    assert indices(cache) == []


def theirs_of(name: str, root: pathlib.Path) -> list:
    """The records of one shard, by the lengths that TFDS noted down."""
    info = json.loads((root / "tfrecord" / FIRST / "1.0.0" / "dataset_info.json").read_text())
    (train,) = (split for split in info["splits"] if split["name"] == "train")
    return [None] * int(train["shardLengths"][int(name.split("-")[-3])])


def test_a_damaged_record(copied) -> None:
    """One record of 0xff is no record; the others and their labels are as before."""
    whole = load(copied, "train+valid")
    good, labels = stored(whole), images.all_labels(whole).tolist()
    files = files_of(copied, "train")
    shard, offset, length = tfds_sets._index([str(file) for file in files], 13, "set")
    for i in (6, 12):
        content = bytearray(files[shard[i]].read_bytes())
        content[offset[i] : offset[i] + length[i]] = b"\xff" * length[i]
        files[shard[i]].write_bytes(content)
        labels[i] = -1
    damaged = load(copied, "train+valid")
    for i in range(13):
        if i in (6, 12):
            with pytest.raises(OSError, match="damaged record"):
                damaged.images.read(i)
        else:
            assert damaged.images.read(i) == good[i]
    assert images.all_labels(damaged).tolist() == labels


def test_a_record_without_an_image(copied) -> None:
    """An empty one parses; renamed fields do too."""
    load(copied, "train+valid")
    files = files_of(copied, "train")
    shard, offset, length = tfds_sets._index([str(file) for file in files], 13, "set")
    content = files[shard[4]].read_bytes()
    record = content[offset[4] : offset[4] + length[4]]
    assert record.count(b"image") == 1
    renamed = content.replace(record, record.replace(b"image", b"imago"))
    files[shard[4]].write_bytes(renamed)
    with pytest.raises(OSError, match="damaged record"):
        load(copied, "train+valid").images.read(4)


@pytest.mark.parametrize("damage", ["a byte", "the end", "the file"])
def test_damaged_array_records(copied, prepared, damage) -> None:
    good = stored(load(prepared, "train+valid", file_format="array_record"))
    path = files_of(copied, "train", "array_record")[0]
    if damage == "the file":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        # Behind the records comes a long row of zeros.
        middle = content.index(bytes(1000)) // 2
        content[middle] ^= 255
        path.write_bytes(content if damage == "a byte" else content[: len(content) // 2])
    image_set = load(copied, "train+valid", file_format="array_record")
    failed = []
    for i in range(13):
        with contextlib.suppress(OSError):
            assert image_set.images.read(i) == good[i]
            continue
        failed.append(i)
    first_shard = list(range(len(theirs_of(path.name, prepared))))
    assert failed and set(failed) <= set(first_shard)
    if damage != "a byte":
        assert failed == first_shard
    expected = [-1 if i in failed else example.label for i, example in enumerate(good)]
    assert images.all_labels(image_set).tolist() == expected


@pytest.fixture
def remote(prepared, tmp_path) -> list[str]:
    """The files of a split behind an address, in TensorFlow's memory."""
    tf = tfds_sets.import_tensorflow()
    # Another folder for each test: what is copied again is appended to what is there.
    folder, paths = f"ram://{tmp_path.name}", []
    for path in files_of(prepared, "train"):
        paths.append(f"{folder}/{path.name}")
        tf.io.gfile.copy(str(path), paths[-1])
    return paths


def test_remote_files_are_indexed_and_read_alike(prepared, remote) -> None:
    files = [str(path) for path in files_of(prepared, "train")]
    here, there = (tfds_sets._index(paths, 13, "set") for paths in (files, remote))
    for ours, expected in zip(there, here, strict=True):
        assert np.array_equal(ours, expected)
    fetch = tfds_sets._tfrecord_reader(remote, there, "image", "label")
    assert [fetch(i) for i in range(13)] == theirs(prepared, "train")


def test_remote_files_that_are_damaged_or_missing(remote) -> None:
    tf = tfds_sets.import_tensorflow()
    where = tfds_sets._index(remote, 13, "set")
    with tf.io.gfile.GFile(remote[1], "rb") as file:
        content = file.read()
    with tf.io.gfile.GFile(remote[1], "wb") as file:
        file.write(content[:-9])
    with pytest.raises(UserError) as error:
        tfds_sets._index(remote, 13, "set")
    assert str(error.value) == f"{remote[1]} ends within a record; prepare the data set again"
    tf.io.gfile.remove(remote[1])
    with pytest.raises(UserError, match=r"cannot be read \(NotFoundError\)"):
        tfds_sets._index(remote, 13, "set")
    with pytest.raises(OSError, match="NotFoundError"):
        tfds_sets._tfrecord_reader(remote, where, "image", "label")(int(np.argmax(where[0] == 1)))


def test_tfds_can_pretend(prepared) -> None:
    """`mock_data` knows splits and features from the prepared set and makes up the records."""
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5, data_dir=str(prepared / "array_record")):
        image_set = sources.load(f"tfds:{FIRST}", "train+valid")
        examples = stored(image_set)
    assert len(examples) == image_set.size == 5
    assert image_set.num_classes == 4
    assert all(0 <= example.label < 4 for example in examples)
    assert all(images.prepare(example.data).height > 0 for example in examples)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar11", ["knows no data set 'cifar11'; did you mean", "cifar10"]),
        ("tiny_picture/x:1.0.0", ["'tiny_picture/x:1.0.0'", f"did you mean {FIRST}"]),
        ("qqqqxx", ["knows no data set 'qqqqxx'; see tensorflow.org/datasets"]),
        (f"{FIRST}/other", [f"tfds:{FIRST}/other cannot be opened: ", "other not found"]),
        (f"{FIRST}:9.9.9", ["cannot be opened: ", "version 9.9.9", "1.0.0"]),
        (f"{FIRST}/x=3", ["cannot be opened: ", "unexpected keyword argument 'x'"]),
        ("bad name!", ["tfds:bad name! cannot be opened: Parsing builder name", "failed"]),
        ("", ["names no data set; write tfds:NAME"]),
        ("tiny_words", ["tfds:tiny_words has no image but words, label"]),
        ("tiny_test_only", ["tfds:tiny_test_only has no split 'train' but test"]),
    ],
)
def test_refused_names(prepared, name: str, parts: list[str]) -> None:
    message = message_of(f"tfds:{name}", prepared / "tfrecord")
    assert all(part in message for part in parts), message


def test_a_version_may_be_named(prepared) -> None:
    image_set = load(prepared, "train+valid", f"{FIRST}:1.0.0")
    assert (image_set.name, image_set.size) == (f"tfds:{FIRST}:1.0.0", 13)


def test_not_prepared(tmp_path) -> None:
    builders()
    dataset = "tfds:tiny_unprepared"
    folder = tmp_path / "tiny_unprepared" / "1.0.0"
    assert message_of(dataset, tmp_path) == (
        f"{dataset} is not prepared in {folder}; run `tfds build tiny_unprepared "
        f"--data_dir={tmp_path}` or give --config.data_dir"
    )
    assert "run `tfds build tiny_unprepared` or give" in message_of(dataset, None)
    assert not folder.exists()


def test_unknown_split(prepared) -> None:
    assert message_of(f"tfds:{FIRST}", prepared / "tfrecord", "val") == (
        f"tfds:{FIRST} has no split 'val'; its splits are train, valid, test, validation, and any "
        "of them joined, as in train+valid"
    )


def test_a_format_that_cannot_be_read_in_any_order(copied) -> None:
    info = copied / "tfrecord" / FIRST / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    assert content["fileFormat"] == "tfrecord"
    info.write_text(json.dumps(content | {"fileFormat": "riegeli"}))
    message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
    assert message.startswith(f"tfds:{FIRST} is prepared as riegeli, which cannot be read in any")


def test_where_tfds_looks(prepared, tmp_path, monkeypatch) -> None:
    """An address keeps its two slashes, `~` is the home folder."""
    monkeypatch.setenv("HOME", str(prepared))
    assert sources.load(f"tfds:{FIRST}", "test", "~/tfrecord").size == 5
    import tensorflow_datasets as tfds

    seen = []

    def builder(name: str, data_dir: str | None):
        seen.append((name, data_dir))
        raise ValueError("enough")

    monkeypatch.setattr(tfds, "builder", builder)
    for data_dir in ("gs://bucket/sets", "/a/b", None):
        with pytest.raises(UserError, match="tfds:x:1 cannot be opened: enough"):
            tfds_sets.open_builder("x:1", data_dir)
    assert seen == [("x:1", "gs://bucket/sets"), ("x:1", "/a/b"), ("x:1", None)]
