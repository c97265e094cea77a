"""The package as it is installed: from a wheel, in a folder that is not the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import pytest

import byol_jax
import tiny_runs

pytestmark = [pytest.mark.slow, pytest.mark.ci]

OWN_PAGE = """
from experiments import digits

def get_config():
    config = digits.get_config()
    config.recipe = f"not published: {digits.__file__}"
    return config
"""
PRINT_RECIPE = """
import sys
from byol_jax import main

main.parse(sys.argv)
print(main._CONFIG.value.recipe)
"""


class Installed(NamedTuple):
    """A wheel, the folder that it is installed into, and another one to work in."""

    wheel: pathlib.Path
    target: pathlib.Path
    elsewhere: pathlib.Path

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """A command, in the other folder, that sees the installed package alone."""
        return run([*map(str, command)], self.elsewhere, self.target)

    def byol(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The console script."""
        return self.run(self.target / "bin" / "byol", *arguments)

    def module(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The program as a module."""
        return self.run(sys.executable, "-m", "byol_jax.main", *arguments)

    def recipe(self, page: str) -> str:
        """The recipe of a page, as the program reads it."""
        done = self.run(sys.executable, "-c", PRINT_RECIPE, f"--config={page}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def run(
    command: Sequence[str], cwd: pathlib.Path, path: pathlib.Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command,
        cwd=cwd,
        env=env | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def build(source: str, cwd: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A wheel of a folder or an archive, without the network."""
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder))
    done = run([sys.executable, "-m", "pip", "wheel", source, *options], cwd)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel: pathlib.Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What is packaged, copied: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("byol_jax", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tiny_runs.ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tiny_runs.ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(checkout: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    wheel, target = build(".", checkout, folder / "wheel"), folder / "target"
    options = ("--no-deps", "--quiet", "--target", str(target))
    done = run([sys.executable, "-m", "pip", "install", str(wheel), *options], folder)
    assert done.returncode == 0, done.stderr
    (folder / "elsewhere").mkdir()
    return Installed(wheel, target, folder / "elsewhere")


def test_the_wheel_holds_the_pages_inside_the_package(installed: Installed) -> None:
    names = contents(installed.wheel)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"byol_jax"}
    pages = {
        path.relative_to(tiny_runs.ROOT).as_posix()
        for pattern in ("*.py", "*.txt")
        for path in (tiny_runs.ROOT / "experiments").rglob(pattern)
    }
    assert "experiments/papers/byol.txt" in pages
    data = {"byol_jax/py.typed", "byol_jax/results/report.html.jinja"}
    assert names >= {f"byol_jax/pages/{page}" for page in pages} | data


def test_the_source_archive_makes_the_same_wheel(
    installed: Installed, checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    done = run(command, checkout)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    wheel = build(str(archive), tmp_path, tmp_path / "wheel")
    assert contents(wheel) == contents(installed.wheel)
    (metadata,) = (name for name in contents(wheel) if name.endswith("/METADATA"))
    for path in (wheel, installed.wheel):
        with zipfile.ZipFile(path) as archived:
            text = archived.read(metadata).decode()
        assert f"Version: {byol_jax.__version__}\n" in text
        assert text.endswith((tiny_runs.ROOT / "README.md").read_text(encoding="utf-8"))


def test_a_shipped_page_trains_by_its_name(installed: Installed) -> None:
    flags = (*tiny_runs.TINY_FLAGS, "--config.num_steps=3", "--config.log_every=1")
    done = installed.byol("--config=digits", "--workdir=run", *flags)
    assert done.returncode == 0, done.stderr
    lines = tiny_runs.metrics(installed.elsewhere / "run")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3]


def test_a_shipped_page_is_found_by_its_path(installed: Installed) -> None:
    """There is no such file here. The number is from the printed tables, which are data."""
    recipe = installed.recipe("experiments/ablations.py:table=5b,row=8")
    assert recipe.startswith("BYOL Table 5b, row 8: ") and "paper 0.1 top-1" in recipe


def test_a_page_of_ones_own_imports_the_shipped_ones(installed: Installed) -> None:
    page = installed.elsewhere / "mine" / "p.py"
    page.parent.mkdir()
    page.write_text(OWN_PAGE)
    shipped = installed.target / "byol_jax" / "pages" / "experiments" / "digits.py"
    assert installed.recipe("mine/p.py") == f"not published: {shipped}"


@pytest.mark.parametrize("program", ["byol", "module"])
def test_a_wrong_name_is_refused_in_one_line(installed: Installed, program: str) -> None:
    done = getattr(installed, program)("--config=digit", "--workdir=refused")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: --config=digit: ") and "'digits'" in line
    assert not (installed.elsewhere / "refused").exists()


def test_help_names_the_script_and_the_installed_pages(installed: Installed) -> None:
    done = installed.byol("--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: byol --config=PAGE")
    assert str(installed.target / "byol_jax" / "pages" / "experiments") in done.stdout
    assert "  --workdir= " in done.stdout


def test_the_package_is_the_installed_one(installed: Installed) -> None:
    script = "import byol_jax, importlib.util as u; print(byol_jax.__file__, u.find_spec(NAME))"
    done = installed.run(sys.executable, "-c", script.replace("NAME", "'experiments'"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed.target / "byol_jax" / "__init__.py"), "None"]
