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
from byol_jax import prepare
from byol_jax.data import images, pipeline, sources, splits, tfds_sets
from byol_jax.data.stored import picture
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
    "tiny_deep": {"train": 2, "test": 2},
    "tiny_several": {"train": 7, "test": 4},
    "tiny_several_sure": {"train": 7, "test": 1},
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
        if name == "tiny_deep":
            features["image"] = tfds.features.Image(
                shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
            )
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
                if name == "tiny_deep":
                    high = 4000 if split == "test" else 200
                    example["image"] = np.full((4, 4, 1), high, np.uint16)
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
    assert str(error.value).startswith(f"config.dataset={dataset}: ")
    return str(error.value)


def files_of(root: pathlib.Path, split: str, file_format: str = "tfrecord") -> list[pathlib.Path]:
    return sorted((root / file_format / FIRST / "1.0.0").glob(f"*-{split}.*"))


def tfds_records(root: pathlib.Path, split: str) -> list[images.Encoded]:
    """What TFDS's own pipeline reads, which knows TFRecords alone."""
    import tensorflow_datasets as tfds

    builder = builders()[FIRST](data_dir=str(root / "tfrecord"))
    dataset = builder.as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False
    )
    return [images.Encoded(x["image"], int(x["label"])) for x in dataset.as_numpy_iterator()]


def move(files: list[pathlib.Path], monkeypatch, folder: str) -> list[str]:
    """Copies the files of a split behind an address, in TensorFlow's memory, for TFDS to name."""
    tf = tfds_sets.import_tensorflow()
    import tensorflow_datasets as tfds

    remote = [f"ram://{folder}/{path.name}" for path in files]
    for path, address in zip(files, remote, strict=True):
        tf.io.gfile.copy(str(path), address)
    monkeypatch.setattr(tfds.core.SplitInfo, "filepaths", property(lambda _: remote))
    return remote


@pytest.mark.parametrize("place", [*FORMATS, "remote"])
@pytest.mark.parametrize(("split", "name"), [("train+valid", "train"), ("test", "validation")])
def test_records_are_those_of_tfds_in_any_order(
    prepared, tmp_path, monkeypatch, place, split, name
) -> None:
    """Three files; four classes are declared and three are used."""
    expected = tfds_records(prepared, name)
    file_format = "tfrecord" if place == "remote" else place
    files = files_of(prepared, name, file_format)
    assert len(files) == 3
    if place == "remote":
        move(files, monkeypatch, tmp_path.name)
    image_set = load(prepared, split, file_format=file_format)
    assert stored(image_set) == expected
    assert len({example.data for example in expected}) == SETS[FIRST][name] == image_set.size
    labels = images.all_labels(image_set)
    assert labels.tolist() == [example.label for example in expected] and labels.dtype == np.int32
    assert (image_set.name, image_set.num_classes) == (f"tfds:{FIRST}", 4)
    assert image_set.images.describe(3) == f"tfds:{FIRST}, {name}, record 3"
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(image_set.size), 4)).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(image_set.images.read, order)) == [expected[i] for i in order]


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
    """The splits of TFDS that the images of a split of ours come from."""
    image_set = load(root, split, name)
    names = [image_set.images.describe(i) for i in range(image_set.size)]
    described = {described.split(", ")[1] for described in names}
    assert len({*names}) == image_set.size
    return " ".join(sorted(described))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Validation is the test split where there is none.
        (FIRST, {"test": "validation", "validation": "validation", "train+valid": "train"}),
        (
            "tiny_tested",
            {
                **{name: name for name in ("train", "test", "validation", "extra")},
                **{"valid": "validation", "extra+valid+train": "extra train validation"},
            },
        ),
        # One split is not both: `train+valid` would hold the test images.
        (
            "tiny_valid",
            {"test": "valid", "train+valid": "train", "train+valid+test": "train valid"},
        ),
    ],
)
def test_splits_of_tfds_by_name(prepared, name, expected) -> None:
    assert {split: words(prepared, name, split) for split in expected} == expected


def test_validation_is_test_where_the_test_has_no_labels(prepared, monkeypatch) -> None:
    monkeypatch.setattr(tfds_sets, "_TEST_IS_VALIDATION", ("tiny_tested",))
    assert words(prepared, "tiny_tested", "test") == "validation"
    assert words(prepared, "tiny_tested", "valid") == "train"


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
@pytest.mark.parametrize(
    ("name", "rows"), [(SEVERAL[0], np.array(ROWS)), (SEVERAL[1], np.abs(ROWS))]
)
def test_several_classes_per_image(prepared, file_format, name, rows) -> None:
    """TFDS writes in an order of its own, so that images are told apart by their colour."""
    image_set = load(prepared, "train+valid", name, file_format)
    assert image_set.multi_label and image_set.num_classes == 5
    examples = stored(image_set)
    order = [number(example) for example in examples]
    assert sorted(order) == list(range(7))
    expected = rows[order]
    for labels in (np.stack([e.label for e in examples]), images.all_labels(image_set)):
        assert labels.dtype == np.int32 and np.array_equal(labels, expected)
    chosen = images.select(image_set, np.array([4, 1]))
    assert np.array_equal(images.all_labels(chosen), expected[[4, 1]])
    assert np.array_equal(chosen.images.read(0).label, expected[4])
    batches = list(pipeline.evaluation_batches(image_set, image_size=4, mode="full", batch_size=3))
    assert [batch["labels"].shape for batch in batches] == [(3, 5), (3, 5), (1, 5)]
    assert np.array_equal(np.concatenate([batch["labels"] for batch in batches]), expected)
    (batch,) = pipeline.train_batches(image_set, Stream(0, 7, 7, stop=1), (View(4),))
    assert np.array_equal(batch["labels"], expected[batch["ids"]])


def test_several_classes_are_not_cut_by_class(prepared, caplog) -> None:
    """round(0.2 * 7) = 1 for validation, and no label is read for it."""
    parts = [load(prepared, split, "tiny_several") for split in ("train", "valid", "test")]
    assert [part.size for part in parts] == [6, 1, 4]
    assert "reading the labels" not in caplog.text
    whole = load(prepared, "train+valid+test", "tiny_several")
    assert images.all_labels(whole).shape == (11, 5) and whole.multi_label


def test_pretraining_leaves_several_classes_out(prepared) -> None:
    """The online probe knows one class an image; the images are the same."""
    config = tiny_runs.tiny_config(
        "tfds:tiny_several", data_dir=str(prepared / "tfrecord"), data__split="train+valid"
    )
    image_set = prepare.load_images(config)
    assert (image_set.multi_label, image_set.num_classes) == (False, 0)
    assert images.all_labels(image_set).tolist() == [-1] * 7
    tfds_records = stored(load(prepared, "train+valid", "tiny_several"))
    assert stored(image_set) == [images.Encoded(example.data, -1) for example in tfds_records]
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
    attributes = {"__module__": "tiny_sets"}
    voc = type("Voc", (tfds.builder_cls("voc"),), attributes, skip_registration=True)
    voc(config=year, data_dir=str(tmp_path / "sets")).download_and_prepare()

    def rows(split: str) -> list[dict[int, int]]:
        """Of each image, the classes that are not simply absent."""
        image_set = sources.load(f"tfds:voc/{year}", split, str(tmp_path / "sets"))
        assert image_set.multi_label and image_set.num_classes == 20
        labels = images.all_labels(image_set)
        assert labels.shape == (image_set.size, 20)
        shown = [{int(k): int(row[k]) for k in np.flatnonzero(row)} for row in labels]
        return sorted(shown, key=str)

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
    lines = [r.getMessage() for r in caplog.records if "labels of 13" in r.getMessage()]
    assert len(lines) == 1 and f"tfds:{FIRST}, train" in lines[0]


def indices(cache: pathlib.Path) -> list[pathlib.Path]:
    return sorted(cache.glob("*")) if cache.is_dir() else []


def made(caplog) -> bool:
    """Whether an index was made since the log was last cleared."""
    was_made = any("record" in r.getMessage() and "start" in r.getMessage() for r in caplog.records)
    caplog.clear()
    return was_made


def test_the_index_is_made_once(prepared, cache, caplog) -> None:
    first = stored(load(prepared, "train+valid"))
    assert made(caplog)
    assert [path.suffix for path in indices(cache)] == [".npz"]
    assert stored(load(prepared, "train+valid")) == first
    assert not made(caplog)
    load(prepared, "test")
    assert made(caplog)


def test_the_index_is_made_in_the_home_folder_by_default(prepared, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path / "home")
    load(prepared, "train+valid")
    assert len(indices(tmp_path / "home" / ".cache" / "byol_jax" / "tfrecords")) == 1


def test_the_index_is_made_again_when_a_file_changes(copied, cache) -> None:
    first = stored(load(copied, "train+valid"))
    changed = files_of(copied, "train")[1]
    os.utime(changed, ns=(1, 1))
    assert stored(load(copied, "train+valid")) == first
    assert len(indices(cache)) == 2


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
def test_a_damaged_index_is_made_again(prepared, cache, caplog, damage) -> None:
    first = stored(load(prepared, "train+valid"))
    (path,) = indices(cache)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    caplog.clear()
    assert stored(load(prepared, "train+valid")) == first
    assert made(caplog) and indices(cache) == [path]
    assert stored(load(prepared, "train+valid")) == first
    assert not made(caplog)


def test_a_cache_that_cannot_be_written_is_only_logged(prepared, tmp_path, caplog) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert load(prepared, "train+valid").size == 13
    assert made(caplog)
    assert load(prepared, "train+valid").size == 13
    assert made(caplog)


@pytest.fixture(params=["here", "remote"])
def shards(request, copied, monkeypatch) -> list[str]:
    """The three files of the training split, for a test to damage."""
    files = files_of(copied, "train")
    if request.param == "remote":
        return move(files, monkeypatch, copied.parent.name)
    return [str(path) for path in files]


def rewrite(path: str, change) -> None:
    """Replaces the bytes of a file, on this machine or remote; removes it for None."""
    gfile = tfds_sets.import_tensorflow().io.gfile
    with gfile.GFile(path, "rb") as file:
        content = change(file.read())
    gfile.remove(path)
    if content is not None:
        with gfile.GFile(path, "wb") as file:
            file.write(content)


@pytest.mark.parametrize(
    "change",
    [lambda content: content[:-1], half, lambda content: content[:5], lambda content: None],
    ids=["last byte", "half", "five bytes", "missing"],
)
def test_files_that_are_cut_off_or_missing(copied, shards, change) -> None:
    rewrite(shards[1], change)
    message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
    # A remote file that ends within a header reads as one without records.
    assert shards[1] in message or "8 records" in message


def test_a_file_that_goes_missing_later(copied, shards) -> None:
    image_set = load(copied, "train+valid")
    rewrite(shards[0], lambda content: None)
    with pytest.raises(OSError, match=r"record|\.tfrecord"):
        image_set.images.read(0)
    assert image_set.images.read(12)


def test_a_wrong_number_of_records(copied, cache) -> None:
    files = files_of(copied, "train")
    files[0].write_bytes(b"")
    left = 13 - len(theirs_of(files[0].name, copied))
    message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
    assert all(part in message for part in (f"tfds:{FIRST}", f"{left} records", "13"))
    assert indices(cache) == []


def theirs_of(name: str, root: pathlib.Path) -> list:
    """The records of one shard, by the lengths that TFDS noted down."""
    info = json.loads((root / "tfrecord" / FIRST / "1.0.0" / "dataset_info.json").read_text())
    (train,) = (split for split in info["splits"] if split["name"] == "train")
    return [None] * int(train["shardLengths"][int(name.split("-")[-3])])


def records_of(content: bytes) -> list[slice]:
    """Where the data of each record are, from a plain walk through a file."""
    places, position = [], 0
    while position < len(content):
        size = int.from_bytes(content[position : position + 8], "little")
        places.append(slice(position + 12, position + 12 + size))
        position += 12 + size + 4
    assert position == len(content)
    return places


def damage_record(path: str, number: int, change) -> None:
    def changed(content: bytes) -> bytes:
        place = records_of(content)[number]
        return content[: place.start] + change(content[place]) + content[place.stop :]

    rewrite(path, changed)


@pytest.mark.parametrize(
    "change",
    [lambda record: b"\xff" * len(record), lambda record: record.replace(b"image", b"imago")],
    ids=["no record", "no image"],
)
def test_a_damaged_record(copied, shards, change) -> None:
    """The last record of the second file; the others and their labels are as before."""
    whole = load(copied, "train+valid")
    good, labels = stored(whole), images.all_labels(whole).tolist()
    bad = sum(len(theirs_of(pathlib.Path(path).name, copied)) for path in shards[:2]) - 1
    damage_record(shards[1], -1, change)
    damaged = load(copied, "train+valid")
    for i in range(13):
        if i == bad:
            with pytest.raises(OSError, match="record"):
                damaged.images.read(i)
        else:
            assert damaged.images.read(i) == good[i]
    labels[bad] = -1
    assert images.all_labels(damaged).tolist() == labels


def test_several_classes_of_a_damaged_record(copied) -> None:
    expected = images.all_labels(load(copied, "train+valid", "tiny_several")).copy()
    (file,) = (copied / "tfrecord" / "tiny_several" / "1.0.0").glob("*-train.*")
    damage_record(str(file), 2, lambda record: b"\xff" * len(record))
    expected[2] = -1
    damaged = load(copied, "train+valid", "tiny_several")
    assert np.array_equal(images.all_labels(damaged), expected)


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
        ("cifar11", ["'cifar11'", "cifar10"]),
        ("tiny_picture/x:1.0.0", ["'tiny_picture/x:1.0.0'", FIRST]),
        ("qqqqxx", ["'qqqqxx'", "tensorflow.org/datasets"]),
        (f"{FIRST}/other", [f"tfds:{FIRST}/other", "other not found"]),
        (f"{FIRST}:9.9.9", ["version 9.9.9", "1.0.0"]),
        (f"{FIRST}/x=3", [f"tfds:{FIRST}/x=3", "unexpected keyword argument 'x'"]),
        ("bad name!", ["tfds:bad name!", "Parsing builder name"]),
        ("", ["tfds:NAME"]),
        ("tiny_words", ["tfds:tiny_words", "words, label"]),
        ("tiny_test_only", ["tfds:tiny_test_only", "'train'", "test"]),
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
    message = message_of(dataset, tmp_path)
    command = f"`tfds build tiny_unprepared --data_dir={tmp_path}`"
    assert all(part in message for part in (dataset, str(folder), command, "--config.data_dir"))
    assert "`tfds build tiny_unprepared`" in message_of(dataset, None)
    assert not folder.exists()


def test_unknown_split(prepared) -> None:
    message = message_of(f"tfds:{FIRST}", prepared / "tfrecord", "val")
    assert all(
        part in message for part in (f"tfds:{FIRST}", "'val'", "train, valid, test, validation")
    )


def test_a_format_that_cannot_be_read_in_any_order(copied) -> None:
    info = copied / "tfrecord" / FIRST / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    assert content["fileFormat"] == "tfrecord"
    info.write_text(json.dumps(content | {"fileFormat": "riegeli"}))
    message = message_of(f"tfds:{FIRST}", copied / "tfrecord")
    assert all(part in message for part in (f"tfds:{FIRST}", "riegeli", "--file_format"))


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
        with pytest.raises(UserError, match=r"^it cannot be opened: enough"):
            tfds_sets.open_builder("x:1", data_dir)
    assert seen == [("x:1", "gs://bucket/sets"), ("x:1", "/a/b"), ("x:1", None)]


def test_all_splits_have_one_depth(prepared) -> None:
    """The training images alone would be taken as 8 bits."""
    for split, high in (("train", 200), ("test", 4000)):
        image_set = sources.load("tfds:tiny_deep", split, str(prepared / "tfrecord"))
        assert image_set.depth.bits == 12
        pixels = picture(image_set, 0)
        assert pixels is not None and (pixels == high >> 4).all()
