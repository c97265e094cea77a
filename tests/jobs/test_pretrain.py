"""What a finished run leaves in its workdir, and what it says at its end."""

import json

import pyarrow.parquet
import pytest
from PIL import Image

import tiny_runs
from byol_jax import load_encoder
from byol_jax.errors import GuardError, UserError
from byol_jax.jobs import pretrain, report


def config_of(dataset, *products, **changes):
    finish = {f"finish__{name}": True for name in products}
    return tiny_runs.tiny_config(dataset, **finish, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(tiny_runs.images(20, 12)):
        Image.fromarray(pixels).save(root / f"{i:02}.png")
    return f"folder:{root}"


@pytest.fixture
def without_reports(monkeypatch):
    """A report of one line, as the real one has tests of its own."""
    made = []

    def write(path, workdir):
        made.append(path)
        (workdir / report.FILE).write_text("report")

    monkeypatch.setattr(report, "write", write)
    return made


@pytest.mark.slow
@pytest.mark.ci
def test_a_whole_run_leaves_all_that_was_asked_for(folder, tmp_path, capsys):
    run = tmp_path / "run"
    pretrain.run(config_of(folder, "report", "export", "embed"), run)
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert (run / "encoder" / "model.safetensors").is_file()
    table = pyarrow.parquet.read_table(run / "embeddings")
    assert table.num_rows == 20  # no image is left out
    encode = load_encoder(run / "encoder")
    assert len(table["embedding"][0]) == encode.dim
    words = capsys.readouterr().out.split("The run is finished:")[1]
    for path in ("checkpoints", "report.html", "encoder", "embeddings"):
        assert str(run / path) in words
    assert f'load_encoder("{run}")' in words
    assert "experiments/evaluate.py" in words.split("Next:")[1]
    assert json.loads((run / "config.json").read_text())["job"] == "pretrain"


@pytest.mark.parametrize(
    ("products", "following"),
    [((), "report.py"), (("report",), "export.py"), (("report", "export"), "embed.py")],
)
def test_the_next_command_is_the_first_that_is_missing(
    folder, tmp_path, capsys, without_reports, products, following
):
    pretrain.run(config_of(folder, *products, num_steps=2), tmp_path / "run")
    words = capsys.readouterr().out
    assert f"experiments/{following} --config.checkpoint={tmp_path / 'run'}" in words
    assert [name for name in ("encoder", "embeddings") if (tmp_path / "run" / name).exists()] == (
        ["encoder"] if "export" in products else []
    )


def test_a_run_that_is_stopped_early_leaves_nothing_yet(folder, tmp_path, capsys, without_reports):
    pretrain.run(config_of(folder, "report", "export", stop_at=3), tmp_path / "run")
    assert not without_reports and not (tmp_path / "run" / "encoder").exists()
    assert "finished" not in capsys.readouterr().out
    pretrain.run(config_of(folder, "report", "export"), tmp_path / "run")
    assert without_reports == [str(tmp_path / "run")]
    assert (tmp_path / "run" / "encoder").exists()


def test_a_finished_run_makes_what_is_missing_alone(folder, tmp_path, capsys, without_reports):
    run = tmp_path / "run"
    config = config_of(folder, "report", "export", "embed", num_steps=2)
    pretrain.run(config, run)
    weights = run / "encoder" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (run / "embeddings" / "part-00000.parquet").unlink()
    capsys.readouterr()
    pretrain.run(config, run)
    assert len(without_reports) == 1 and weights.stat().st_mtime_ns == before
    assert pyarrow.parquet.read_table(run / "embeddings").num_rows == 20
    assert "Next:" in capsys.readouterr().out
    (run / "report.html").unlink()
    pretrain.run(config, run)
    assert len(without_reports) == 2


def test_products_of_an_earlier_end_are_made_anew_if_that_was_interrupted(
    folder, tmp_path, without_reports, monkeypatch
):
    run = tmp_path / "run"
    pretrain.run(config_of(folder, "report", num_steps=2), run)

    def interrupted(path, workdir):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(config_of(folder, "report", num_steps=4, resume_changed=True), run)
    pretrain.run(config_of(folder, "report", num_steps=4, resume_changed=True), run)
    assert len(without_reports) == 2


@pytest.mark.slow
def test_embeddings_of_an_earlier_end_are_kept_and_that_is_said(
    folder, tmp_path, capsys, caplog, without_reports
):
    run = tmp_path / "run"
    pretrain.run(config_of(folder, "embed", num_steps=2), run)
    before = (run / "embeddings" / "part-00000.parquet").read_bytes()
    capsys.readouterr()
    with caplog.at_level("WARNING", "byol_jax"):
        pretrain.run(config_of(folder, "embed", num_steps=4, resume_changed=True), run)
    assert (run / "embeddings" / "part-00000.parquet").read_bytes() == before
    assert "config.finish.embed: not written" in caplog.text
    assert "embeddings " not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("error", [UserError, GuardError, OSError, ValueError])
def test_a_report_that_cannot_be_made_ends_no_finished_training(
    folder, tmp_path, caplog, capsys, monkeypatch, error
):
    def write(path, workdir):
        raise error("no picture")

    monkeypatch.setattr(report, "write", write)
    with caplog.at_level("WARNING", "byol_jax"):
        pretrain.run(config_of(folder, "report", "export", num_steps=2), tmp_path / "run")
    assert "config.finish.report: not written: no picture" in caplog.text
    assert (tmp_path / "run" / "encoder").exists()
    words = capsys.readouterr().out.split("The run is finished:")[1]
    assert "report.html" not in words and "experiments/embed.py" in words
