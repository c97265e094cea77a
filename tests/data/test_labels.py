"""Labels in a CSV file: columns, classes, files without a label, and what is refused."""

import pathlib

import pytest

import tiny_runs
from byol_jax.data import folder, labels, sources
from byol_jax.errors import UserError

FILES = ("a.png", "x/b.png", "c.png")


def table(tmp_path: pathlib.Path, text: str | bytes) -> str:
    file = tmp_path / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def write(root: pathlib.Path, *files: str) -> str:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return str(root)


@pytest.mark.parametrize(
    ("text", "classes", "ranks"),
    [
        ("a.png,dog\nx/b.png,cat\nc.png,dog\n", ("cat", "dog"), [1, 0, 1]),
        ("path,label\na.png,dog\n./x/b.png,cat\n", ("cat", "dog"), [1, 0, -1]),
        ("Label,id,Image\ndog,1,a.png\ncat,2,x/b.png\n", ("cat", "dog"), [1, 0, -1]),
        ("a.png,10\nx/b.png,9\nc.png,-1\n", ("9", "10"), [1, 0, -1]),
        ("a.png,10\nx/b.png,9b\nc.png,\n", ("10", "9b"), [0, 1, -1]),
        (
            '\ufeffa.png,"a, b"\r\n\r\nx/b.png , c\r\nc.png,c\r\nc.png,c\r\n',
            ("a, b", "c"),
            [0, 1, 1],
        ),
    ],
    ids=["words", "header", "other columns", "numbers", "mixed", "quotes, blanks, twice"],
)
def test_classes_and_ranks(tmp_path, text, classes, ranks) -> None:
    found = labels.read(table(tmp_path, text), FILES)
    assert found.classes == classes
    assert [found.rank_of.get(name, -1) for name in FILES] == ranks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a.png,0\nq.png,1\nr.png,1\ns.png,1\nt.png,1\n",
            ["4 of 5 entries", "q.png, r.png, s.png"],
        ),
        ("a.png,dog\nc.png,dog\na.png,cat\n", ["line 3", "a.png", "'cat'", "'dog'"]),
        ("a.png;dog\n", ["line 1", "two columns"]),
        ("path,label\na.png\n", ["line 2", "column is missing"]),
        (b"a.png,\xff\n", ["no readable CSV", "UTF-8"]),
        ("a.png,01\nc.png,1\n", ["two ways"]),
        ("a.png,\n", ["no label"]),
        ("", ["no label"]),
        ('a.png,"dog\n', ["no readable CSV"]),
        ("id,label\na.png,dog\n", ["line 1", ": id,label is", "path, file, ", "label, labels"]),
        ("path,breed\na.png,dog\n", ["line 1", ": path,breed is", "no known header"]),
        ("q.png,cat\na.png,dog\n", ["1 of 2 entries", "q.png"]),
        ("path,label\nq,cat\na.png,dog\n", ["1 of 2 entries", "as q;"]),
    ],
)
def test_what_is_refused(tmp_path, text, words) -> None:
    with pytest.raises(UserError) as error:
        labels.read(table(tmp_path, text), FILES)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in ("the table ", *words)), error.value


def test_a_table_that_is_missing(tmp_path) -> None:
    with pytest.raises(UserError, match=r"the table /nowhere\.csv: there is no such file"):
        labels.read("/nowhere.csv", FILES)


def test_a_table_counts_in_place_of_the_sub_folders(tmp_path) -> None:
    """Paths are relative to the whole folder, splits included; one image has no entry."""
    root = write(tmp_path / "set", "train/q/1.png", "train/q/2.png", "Test/3.png", "train/4.png")
    file = table(tmp_path, "train/q/1.png,dog\ntrain/q/2.png,cat\nTest/3.png,dog\n")
    name = sources.named(f"folder:{root}", file)
    assert name == f"folder:{root},labels={file}" == sources.named(name, file)
    splits = folder.read(*folder.parts_of(name.removeprefix("folder:")))
    assert {split: part.labels.tolist() for split, part in splits.items()} == {
        "train": [-1, 1, 0],
        "test": [1],
    }
    assert splits["train"].images.read(1).label == 1
    loaded = sources.load(name, "train+valid")
    assert (loaded.name, loaded.classes) == (name, ("cat", "dog"))
    assert "3 images" in loaded.summary and "2 classes, 1 without a label" in loaded.summary


def test_tables_are_for_folders(tmp_path) -> None:
    assert sources.named("digits", None) == "digits"
    with pytest.raises(UserError, match=r"config\.data\.labels=x\.csv is for folder:DIR"):
        sources.named("digits", "x.csv")
    with pytest.raises(UserError, match=r"config\.dataset=folder:a,labels=y\.csv names another"):
        sources.named("folder:a,labels=y.csv", "x.csv")


def test_a_run_knows_its_data_set_by_its_table(tmp_path) -> None:
    """As the program takes it, so that evaluations of a checkpoint find the same labels."""
    from byol_jax import prepare

    tiny_runs.write_folder(tmp_path / "set", train=24, test=12)
    lines = [
        f"{path.relative_to(tmp_path / 'set').as_posix()},{int(path.stem) % 3}\n"
        for path in sorted((tmp_path / "set").rglob("*.*"))
    ]
    file = table(tmp_path, "".join(lines))
    config = tiny_runs.tiny_config(f"folder:{tmp_path / 'set'}", data__labels=file)
    prepare.check(config)
    assert (config.dataset, config.data.labels) == (
        f"folder:{tmp_path / 'set'},labels={file}",
        None,
    )
    image_set = prepare.load_images(config)
    assert image_set.num_classes == 3
    stems = [pathlib.Path(image_set.images.describe(i)).stem for i in range(image_set.size)]
    assert image_set.labels.tolist() == [int(stem) % 3 for stem in stems]


def test_an_error_names_the_data_set_once_and_no_key_that_a_job_lacks(tmp_path) -> None:
    root = write(tmp_path / "set", "1.png")
    file = table(tmp_path, "2.png,dog\n")
    with pytest.raises(UserError) as error:
        sources.load(f"folder:{root},labels={file}", "train")
    start = f"config.dataset=folder:{root},labels={file}: the table {file}: 1 of 1 entries"
    assert str(error.value).startswith(start) and "config.data.labels" not in str(error.value)
    for empty in ("", " "):
        with pytest.raises(UserError, match="labels= names no table"):
            sources.load(f"folder:{root},labels={empty}", "train")
    with pytest.raises(UserError, match="labels=~nobody-of-that-name/x: there is no user"):
        sources.load(f"folder:{root},labels=~nobody-of-that-name/x", "train")
