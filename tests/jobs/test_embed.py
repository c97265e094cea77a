"""Embeddings as files: the numbers of `load_encoder` row by row, stopped jobs, what is refused."""

import errno
import json
import os
import pathlib
import shutil
import signal
import zlib
from unittest import mock

import jax
import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

import byol_jax
import tiny_checkpoints
import tiny_runs
from byol_jax import encoder
from byol_jax.data import pipeline, sources, stored
from byol_jax.data.images import ImageSet
from byol_jax.errors import GuardError, Stopped, UserError
from byol_jax.jobs import embed
from experiments import embed as page

DIM, COUNT = 16, 15
CLASSES = ["class0", "class1"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("run")
    return tiny_checkpoints.save(root, tiny_checkpoints.write_easy_npz(root / "images.npz"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> pathlib.Path:
    """10 files in train/, 5 in test/, of two classes."""
    root = tmp_path_factory.mktemp("pictures")
    tiny_runs.write_folder(root, train=10, test=5)
    return root


@pytest.fixture(scope="module")
def finished(run_dir, pictures, tmp_path_factory) -> pathlib.Path:
    """What the job makes of `pictures`; for tests that change nothing in it."""
    workdir = tmp_path_factory.mktemp("finished")
    embed.run(config_of(run_dir, f"folder:{pictures}"), workdir)
    return workdir


def config_of(run_dir, data_set, **changes) -> ml_collections.ConfigDict:
    config = page.get_config()
    given = {"checkpoint": str(run_dir), "dataset": data_set, "batch_size": 4, "images_per_part": 6}
    config.update(given | changes)
    return config


def parts(workdir) -> list[str]:
    return sorted(path.name for path in (workdir / "embeddings").iterdir())


def table(workdir) -> pa.Table:
    """The folder as any program reads it."""
    return pyarrow.dataset.dataset(workdir / "embeddings").to_table()


def values(rows: pa.Table) -> np.ndarray:
    flat = rows["embedding"].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(rows), -1)


def contents(workdir) -> dict[str, bytes]:
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def stop_after(monkeypatch, batches: int, number: int) -> None:
    """Sends this process a signal within the given batch of the next job."""
    make = encoder.on_crops

    def on_crops(encode, batch_size):
        apply, calls = make(encode, batch_size), []

        def counted(rows):
            calls.append(rows)
            if len(calls) == batches:
                os.kill(os.getpid(), number)
            return apply(rows)

        return counted

    monkeypatch.setattr(encoder, "on_crops", on_crops)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("network", encoder.NETWORKS)
def test_a_row_per_file_with_the_numbers_of_the_encoder(run_dir, pictures, tmp_path, network):
    embed.run(config_of(run_dir, f"folder:{pictures}", network=network), tmp_path)
    rows = table(tmp_path)
    split_files = [
        sorted(p.relative_to(pictures).as_posix() for p in (pictures / split).rglob("*.*"))
        for split in ("train", "test")
    ]
    paths = rows["path"].to_pylist()
    assert paths == [*split_files[0], *split_files[1]] and len({*paths}) == COUNT
    assert rows["id"].to_pylist() == [*range(COUNT)]
    assert rows["label"].to_pylist() == [CLASSES.index(path.split("/")[1]) for path in paths]
    expected = byol_jax.load_encoder(run_dir, network)([pictures / path for path in paths])
    np.testing.assert_allclose(values(rows), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 1e-2


def test_files_columns_and_what_they_say_of_themselves(finished, run_dir, pictures):
    assert parts(finished) == [f"part-0000{i}.parquet" for i in range(3)]
    files = [pq.ParquetFile(finished / "embeddings" / name) for name in parts(finished)]
    assert [file.metadata.num_rows for file in files] == [6, 6, 3]
    schema = files[0].schema_arrow
    assert schema.types == [pa.string(), pa.int64(), pa.int64(), pa.list_(pa.float32(), DIM)]
    assert schema.names == ["path", "id", "label", "embedding"]
    column = files[0].metadata.row_group(0).column(3)
    assert column.compression == "ZSTD" and "BYTE_STREAM_SPLIT" in column.encodings
    about = json.loads(schema.metadata[b"byol_jax"])
    assert about.pop("weights_crc32") and about.pop("images_crc32")
    labels = np.array(pq.read_table(finished / "embeddings")["label"], "<i4")
    assert about.pop("labels_crc32") == zlib.crc32(labels)
    assert about == {
        "byol_jax": byol_jax.__version__,
        "checkpoint": str(run_dir),
        "checkpoint_step": tiny_checkpoints.STEP,
        "network": "online",
        "encoder": {"depth": "tiny", "width": 2.0, "stem": "small", "padding": "same", "dim": DIM},
        "origin": None,
        "licence": None,
        "dataset": f"folder:{pictures}",
        "split": "train+valid+test",
        "images": COUNT,
        "images_per_part": 6,
        "classes": CLASSES,
        "image_size": 8,
        "eval_crop": "full",
        "exif": False,
        "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    assert json.loads((finished / "config.json").read_text())["job"] == "embed"
    assert not [*finished.rglob("*.partial")] and not (finished / "unreadable.txt").exists()


def test_a_folder_without_splits_is_all_of_its_files_once(run_dir, tmp_path):
    names = ["b.png", "a.png", "deep/c.png", os.fsdecode(b"caf\xe9.png")]
    for number, name in enumerate(names):
        (tmp_path / "flat" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny_runs.images(1, 8, number)[0]).save(tmp_path / "flat" / name)
    embed.run(config_of(run_dir, f"folder:{tmp_path / 'flat'}"), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows["path"].to_pylist() == ["a.png", "b.png", "caf\\xe9.png", "deep/c.png"]
    assert rows["label"].to_pylist() == [None, None, None, 0]
    arrays = np.concatenate([tiny_runs.images(1, 8, number) for number in (1, 0, 3, 2)])
    expected = byol_jax.load_encoder(run_dir)(arrays)
    np.testing.assert_allclose(values(rows), expected, rtol=1e-5, atol=1e-6)


def test_one_split_one_image_and_another_crop(run_dir, tmp_path):
    """`full` at 4 pixels takes the short side to 4 and then the centre."""
    wide = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / "images" / split / "wide.png")
    changes = {"image_size": 4, "split": "test", "batch_size": 256}
    embed.run(config_of(run_dir, f"folder:{tmp_path / 'images'}", **changes), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows["path"].to_pylist() == ["test/wide.png"]
    expected = byol_jax.load_encoder(run_dir)(wide[None, :, 2:6])
    np.testing.assert_allclose(values(rows), expected, rtol=1e-5, atol=1e-6)


def test_digits_are_in_memory_and_named_by_their_ids(run_dir, tmp_path):
    config = config_of(run_dir, "digits", batch_size=256, images_per_part=700)
    embed.run(config, tmp_path)
    rows, digits = table(tmp_path), sources.load("digits", "train+valid+test")
    assert len(rows) == 1797 and len(parts(tmp_path)) == 3
    assert rows["label"].to_pylist() == digits.labels.tolist()
    assert rows["path"].to_pylist() == [str(i) for i in range(1797)]
    expected = byol_jax.load_encoder(run_dir)(digits.images)
    np.testing.assert_allclose(values(rows), expected, rtol=1e-5, atol=1e-6)


def test_the_data_set_of_the_checkpoint_is_the_default(run_dir, tmp_path):
    embed.run(config_of(run_dir, None), tmp_path)
    assert len(table(tmp_path)) == 45 + 12  # write_easy_npz


def test_records_have_the_name_that_messages_give_them(run_dir, tmp_path):
    dataset = tiny_runs.write_tfds(tmp_path / "tfds", 5)
    embed.run(config_of(run_dir, dataset, data_dir=str(tmp_path / "tfds")), tmp_path / "out")
    rows = table(tmp_path / "out")
    records = [(split, i) for split in ("train", "test") for i in range(5)]
    assert rows["path"].to_pylist() == [f"tfds:tiny, {s}, record {i}" for s, i in records]
    assert sorted(rows["label"].to_pylist()) == [0] * 6 + [1] * 4
    assert json.loads(rows.schema.metadata[b"byol_jax"])["classes"] == ["0", "1"]


def test_labels_stay_empty_where_an_image_has_several(run_dir, tmp_path, monkeypatch):
    labels = np.eye(3, dtype=np.int32)
    several = ImageSet("several", tiny_runs.images(3), labels, 3, True, ("a", "b", "c"))
    monkeypatch.setattr(sources, "load", lambda *_, **__: several)
    embed.run(config_of(run_dir, "npz:several"), tmp_path)
    assert table(tmp_path)["label"].to_pylist() == [None] * 3


# ---------------------------------------------------------------- going on


def test_a_stopped_job_goes_on_with_the_same_bits(
    run_dir, pictures, finished, tmp_path, monkeypatch, capsys
):
    """The second batch of four images ends part 0 of six; the third is stopped in part 1."""
    config = config_of(run_dir, f"folder:{pictures}")
    with monkeypatch.context() as patch:
        stop_after(patch, 3, signal.SIGTERM)
        with pytest.raises(Stopped, match=r"1 of 3 parts .* command goes on") as caught:
            embed.run(config, tmp_path / "stopped")
    assert caught.value.number == signal.SIGTERM
    assert parts(tmp_path / "stopped") == ["part-00000.parquet"]
    assert not [*(tmp_path / "stopped").rglob("*.partial")]
    first = contents(tmp_path / "stopped" / "embeddings")
    # What a process leaves that is killed at once.
    (tmp_path / "stopped" / "part-00001.parquet.partial").write_bytes(b"PAR1 incomplete")
    batches = mock.Mock(wraps=pipeline.evaluation_batches)
    monkeypatch.setattr(pipeline, "evaluation_batches", batches)
    embed.run(config, tmp_path / "stopped")
    assert batches.call_args.kwargs["start"] == 4  # a whole batch, though part 1 begins at 6
    assert contents(tmp_path / "stopped").items() >= first.items()
    assert not [*(tmp_path / "stopped").rglob("*.partial")]
    for name in parts(finished):
        one, other = (path / "embeddings" / name for path in (finished, tmp_path / "stopped"))
        assert pq.read_table(one).equals(pq.read_table(other))
    (line,) = capsys.readouterr().out.splitlines()
    assert "15 embeddings of 16 numbers in 3 part(s)" in line and "read_table(" in line


def test_a_part_that_was_removed_is_made_again(run_dir, pictures, tmp_path, capsys):
    config = config_of(run_dir, f"folder:{pictures}", images_per_part=2)
    embed.run(config, tmp_path)
    before = contents(tmp_path)
    for part in (1, 4, 5):
        embed.path_of(tmp_path / "embeddings", part).unlink()
    config.batch_size = 3  # changes rounding at most
    embed.run(config, tmp_path)
    assert contents(tmp_path).keys() == before.keys()
    rows = table(tmp_path)
    assert rows["id"].to_pylist() == [*range(COUNT)]
    expected = byol_jax.load_encoder(run_dir)([pictures / p for p in rows["path"].to_pylist()])
    np.testing.assert_allclose(values(rows), expected, rtol=1e-5, atol=1e-6)
    capsys.readouterr()
    again = contents(tmp_path)
    embed.run(config, tmp_path)
    assert "nothing to do" in capsys.readouterr().out
    assert contents(tmp_path) == again


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "target"}, "network=online, and this command gives network=target"),
        ({"image_size": 6}, "image_size=8, .* image_size=6"),
        ({"eval_crop": "paper"}, "eval_crop=full, .* eval_crop=paper"),
        ({"images_per_part": 5}, "images_per_part=6, .* images_per_part=5"),
        ({"split": "train+valid"}, r"split=train\+valid\+test, .* split=train\+valid"),
        ({"dataset": "digits"}, "dataset=folder:.*, .* dataset=digits"),
    ],
)
def test_embeddings_of_another_command_are_kept(run_dir, pictures, finished, changes, words):
    before = contents(finished)
    with pytest.raises(UserError, match=words + ".*give another --workdir") as caught:
        embed.run(config_of(run_dir, f"folder:{pictures}", **changes), finished)
    assert "\n" not in str(caught.value)
    assert contents(finished) == before


def test_other_weights_or_files_are_another_command(run_dir, pictures, tmp_path, monkeypatch):
    copy = shutil.copytree(pictures, tmp_path / "copy")

    def run(checkpoint):
        embed.run(config_of(checkpoint, f"folder:{copy}"), tmp_path / "out")

    run(run_dir)
    run(shutil.copytree(run_dir, tmp_path / "moved"))
    fill = tiny_checkpoints.fill
    monkeypatch.setattr(tiny_checkpoints, "fill", lambda shapes, seed: fill(shapes, seed + 2))
    with pytest.raises(UserError, match="weights_crc32="):
        run(tiny_checkpoints.save(tmp_path / "other", "digits"))
    file = min((copy / "train" / "class0").iterdir())
    renamed = file.rename(file.with_name(f"z{file.name}"))
    with pytest.raises(UserError, match="images_crc32="):
        run(run_dir)
    renamed.unlink()
    with pytest.raises(UserError, match=r"images=15, .* images=14"):
        run(run_dir)


def test_a_foreign_file_among_the_parts_is_named(run_dir, pictures, tmp_path):
    (tmp_path / "embeddings").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "table")
    for name, data in (
        ("part-00001.parquet", b"text"),
        ("mine.parquet", (tmp_path / "table").read_bytes()),
    ):
        path = tmp_path / "embeddings" / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is no file of embeddings") as caught:
            embed.run(config_of(run_dir, f"folder:{pictures}"), tmp_path)
        assert "\n" not in str(caught.value)
        assert parts(tmp_path) == [name] and not (tmp_path / "config.json").exists()
        path.unlink()


def test_a_full_disk_keeps_the_finished_parts(run_dir, pictures, tmp_path, monkeypatch):
    write, calls = pq.ParquetWriter.write_table, []

    def full(self, rows, **options):
        calls.append(rows)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, rows, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(GuardError, match=r"no space left .* the parts in .* are complete"):
        embed.run(config_of(run_dir, f"folder:{pictures}"), tmp_path)
    assert parts(tmp_path) == ["part-00000.parquet"] and not [*tmp_path.rglob("*.partial")]


# ---------------------------------------------------------------- npz


def test_other_labels_or_depth_are_another_command(run_dir, pictures, tmp_path):
    """Labels of a table change without a change of the images."""
    lines = [f"{p.relative_to(pictures)},{i % 2}" for i, p in enumerate(pictures.rglob("*.*"))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    dataset = f"folder:{pictures},labels={tmp_path / 'labels.csv'}"
    embed.run(config_of(run_dir, dataset), tmp_path / "out")
    part = tmp_path / "out/embeddings/part-00001.parquet"
    part.unlink()
    (tmp_path / "labels.csv").write_text("\n".join([lines[0][:-1] + "1", *lines[1:]]))
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="labels_crc32="):
        embed.run(config_of(run_dir, dataset), tmp_path / "out")
    assert contents(tmp_path / "out") == before
    with pytest.raises(UserError, match="depth="):
        embed.check_same(part, {"depth": {"bits": 12}}, {"depth": {"bits": 8}})
    embed.check_same(part, {}, {"depth": {"bits": 8}, "labels_crc32": 5})  # of earlier versions


def test_one_npz_file_has_the_same_rows(run_dir, pictures, finished, tmp_path, capsys):
    config = config_of(run_dir, f"folder:{pictures}", format="npz")
    embed.run(config, tmp_path)
    rows = table(finished)
    with np.load(tmp_path / "embeddings.npz") as arrays:
        np.testing.assert_array_equal(arrays["embeddings"], values(rows), strict=True)
        assert arrays["paths"].tolist() == rows["path"].to_pylist()
        assert arrays["labels"].tolist() == rows["label"].to_pylist()
        assert arrays["ids"].tolist() == [*range(COUNT)]
        assert json.loads(str(arrays["about"]))["images"] == COUNT
    before = contents(tmp_path)
    capsys.readouterr()
    embed.run(config, tmp_path)
    assert "nothing to do" in capsys.readouterr().out
    config.network = "target"
    with pytest.raises(UserError, match=r"embeddings\.npz has .*network=online"):
        embed.run(config, tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "embeddings.npz").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"embeddings\.npz is no file of embeddings"):
        embed.run(config, tmp_path)
    assert (tmp_path / "embeddings.npz").read_bytes() == b"mine"


def test_a_stopped_npz_is_not_written(run_dir, pictures, tmp_path, monkeypatch):
    stop_after(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(Stopped, match="SIGINT: nothing is written") as caught:
        embed.run(config_of(run_dir, f"folder:{pictures}", format="npz"), tmp_path)
    assert caught.value.number == signal.SIGINT
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# ---------------------------------------------------------------- what cannot be read


def write_damaged(root: pathlib.Path, count: int, damaged: set[int]) -> str:
    root.mkdir()
    Image.fromarray(tiny_runs.images(1)[0]).save(root / "good.png")
    good = (root / "good.png").read_bytes()
    (root / "good.png").unlink()
    for i in range(count):
        (root / f"{i:03d}.png").write_bytes(b"damaged" if i in damaged else good)
    return f"folder:{root}"


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_unreadable_files_have_no_row_and_are_listed(run_dir, tmp_path, form, caplog):
    """One of 105, the last and a part by itself, is within 1 %."""
    dataset = write_damaged(tmp_path / "images", 105, {104})
    config = config_of(run_dir, dataset, format=form, images_per_part=1, batch_size=64)
    with caplog.at_level("WARNING", "byol_jax"):
        embed.run(config, tmp_path / "out")
    if form == "npz":
        with np.load(tmp_path / "out" / "embeddings.npz") as arrays:
            assert arrays["ids"].tolist() == [*range(104)]
    else:
        assert len(parts(tmp_path / "out")) == 105
        assert table(tmp_path / "out")["id"].to_pylist() == [*range(104)]
    assert (tmp_path / "out" / "unreadable.txt").read_text() == "104.png\n"
    assert "1 image(s) have no embedding" in caplog.text and "104.png cannot be read" in caplog.text


def test_unreadable_files_of_a_stopped_job_count(run_dir, tmp_path, monkeypatch):
    """Two before the stop and one behind it, of 250; a large set is not read before the job."""
    monkeypatch.setattr(stored, "check_readable", lambda image_set: None)
    dataset = write_damaged(tmp_path / "images", 250, {3, 40, 200})
    config = config_of(run_dir, dataset, batch_size=50, images_per_part=100)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, signal.SIGTERM)
        with pytest.raises(Stopped, match="1 of 3 parts"):
            embed.run(config, tmp_path / "out")
    for _ in range(2):  # and so the next time
        with pytest.raises(UserError, match=r"3 of 250 images .* 1%: 003.png, 040.png, 200.png;"):
            embed.run(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": ""}, "config.checkpoint is needed"),
        ({"checkpoint": "no/run"}, "checkpoint=no/run: there is no such path; give a workdir"),
        ({"network": "random"}, "config.network='random' must be one of: online, target"),
        ({"format": "csv"}, "config.format='csv' must be one of: parquet, npz"),
        ({"batch_size": 0}, "config.batch_size=0 must be 1 or more"),
        ({"images_per_part": 0, "image_size": 0}, "config.image(s_per_part|_size)=0 must be"),
        ({"eval_crop": "centre"}, "config.eval_crop='centre' must be one of"),
        ({"dataset": "folder:/no/such"}, "there is no folder /no/such"),
        ({"dataset": "mnist"}, "config.dataset=mnist: unknown data set"),
        ({"split": "all"}, "has no split 'all'"),
    ],
)
def test_what_no_job_could_use_is_named(run_dir, pictures, refused, changes, words):
    refused(embed.run, config_of(run_dir, f"folder:{pictures}", **changes), words)


def test_bad_folders_and_several_processes_are_refused(run_dir, tmp_path, refused, monkeypatch):
    (tmp_path / "empty").mkdir()
    refused(embed.run, config_of(run_dir, f"folder:{tmp_path / 'empty'}"), "has no image")
    damaged = config_of(run_dir, write_damaged(tmp_path / "images", 20, {3, 9}))
    refused(embed.run, damaged, "2 of 20 images .* more than one: .*003.png")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    refused(embed.run, config_of(run_dir, "digits"), "one process, and there are 2")


@pytest.mark.slow
@pytest.mark.ci
def test_the_program_embeds(run_dir, pictures, tmp_path):
    flags = [f"--config.checkpoint={run_dir}", f"--config.dataset=folder:{pictures}"]
    done = tiny_runs.program("--config=experiments/embed.py", *flags, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "written: " in done.stdout and len(table(tmp_path)) == COUNT


def test_a_darker_folder_has_the_depth_of_the_training(tmp_path):
    """Its files alone would be taken as 8 bits."""
    (tmp_path / "dark").mkdir()
    ramp = np.linspace(0, 200, 64).reshape(8, 8).astype(np.uint16)
    for i in range(3):
        Image.fromarray(ramp + i).save(tmp_path / "dark" / f"{i}.png")
    run = tiny_checkpoints.save(tmp_path / "run", "digits", marks={"depth": {"bits": 12}})
    embed.run(config_of(run, f"folder:{tmp_path / 'dark'}"), tmp_path / "out")
    arrays = np.stack([np.repeat(((ramp + i) >> 4)[..., None], 3, axis=-1) for i in range(3)])
    expected = byol_jax.load_encoder(run)(arrays.astype(np.uint8))
    np.testing.assert_allclose(values(table(tmp_path / "out")), expected, rtol=1e-5, atol=1e-6)
