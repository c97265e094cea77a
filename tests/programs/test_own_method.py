"""A method from outside the package: one user file that is a page and an objective."""

import json
import pathlib
import shutil

import pytest

import tiny_runs

PAGE = pathlib.Path(__file__).parent / "own" / "barlow.py"


def own_page(folder: pathlib.Path, text: str | None = None) -> pathlib.Path:
    path = folder / "barlow.py"
    path.write_text(text or PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def training(page: pathlib.Path, workdir: pathlib.Path, *flags: str) -> tuple[str, ...]:
    """Arguments of the program."""
    return (
        f"--config={page}",
        f"--workdir={workdir}",
        *tiny_runs.TINY_FLAGS,
        "--config.num_steps=2",
        "--config.log_every=1",
        *flags,
    )


@pytest.mark.slow
def test_it_trains_and_is_evaluated_without_it(tmp_path: pathlib.Path) -> None:
    folder, workdir = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    page = own_page(folder)
    flag = "--config.objective.own.off_diagonal=0.02"
    done = tiny_runs.program(*training(page, workdir, flag))
    assert done.returncode == 0, done.stderr
    lines = tiny_runs.metrics(workdir)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(abs(line["on_diagonal"]) <= 1.001 for line in lines)
    # Decorrelating is going on: the loss is that of the objective alone.
    assert lines[1]["loss"] != lines[0]["loss"]
    config = json.loads((workdir / "config.json").read_text())
    assert config["objective"]["name"] == "barlow:objective"
    assert config["objective"]["own"] == {"off_diagonal": 0.02}

    shutil.rmtree(folder)
    done = tiny_runs.program(
        "--config=experiments/evaluate.py",
        f"--config.checkpoint={workdir}",
        f"--workdir={tmp_path / 'evaluated'}",
        "--config.evaluation.draws=2",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluated" / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (("barlow:objective", "barlow:objectiv"), (), "config.objective.name=barlow:objectiv"),
        (("barlow:objective", "barlows:objective"), (), "No module named 'barlows'"),
        (("import jax.numpy", "import jax.nump"), (), "jax.nump"),
        (("own.off_diagonal", "own.diagonal"), (), "config.objective.own.diagonal"),
        (None, ("--config.objective.name=info_nec",), "did you mean 'info_nce'"),
        (None, ("--config.objective.temperature=0.2",), "config.objective.info_nce.temperature"),
        (None, ("--config.objective.normalization=l2",), "config.objective.byol.normalization"),
    ],
)
def test_mistakes_end_with_one_line(tmp_path: pathlib.Path, change, flags, words) -> None:
    text = PAGE.read_text(encoding="utf-8")
    page = own_page(tmp_path, text.replace(*change) if change else text)
    assert words in tiny_runs.refusal(*training(page, tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()
