"""Which page a name means, and what pages can import, in a checkout and in an installed package."""

import importlib
import pathlib
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder

import pytest

from byol_jax import pages
from byol_jax.errors import UserError

SHIPPED = pathlib.Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder that is the current one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(*paths: pathlib.Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def get_config(): ...\n")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["digits", "experiments/digits.py", "./experiments/digits.py"])
def test_a_shipped_page_is_found_from_any_folder(elsewhere, name):
    assert pages.find(name) == SHIPPED / "digits.py"


@pytest.mark.parametrize(
    "name", ["p.py", "mine/p.py", "experiments/digits.py", "./digits", "digits.py"]
)
def test_a_file_below_the_current_folder_comes_first(elsewhere, name):
    write(elsewhere / name)
    assert pages.find(name).resolve() == elsewhere / name


def test_a_bare_name_is_the_shipped_page(elsewhere):
    """A run or a data file may have the name of its page."""
    write(elsewhere / "digits", elsewhere / "byol" / "config.json")
    assert pages.find("digits") == SHIPPED / "digits.py"
    assert pages.find("byol") == SHIPPED / "byol.py"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("digit", "'digits'"),
        ("simclrr", "'simclr'"),
        ("digits.py", "'digits'"),
        ("mine/digits.py", "'digits'"),
        ("experiments/evalute.py", "'evaluate'"),
        ("../experiments/semi.py", "'semi'"),
        # It is in the folder of the pages, and is none.
        ("ablation_tables", "'ablations'"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_page(elsewhere, name, near):
    with pytest.raises(UserError) as caught:
        pages.find(name)
    message = str(caught.value)
    assert f"--config={name}:" in message and f"did you mean {near}?" in message
    assert "\n" not in message


def test_every_page_is_listed_with_its_first_line():
    expected = {}
    for path in SHIPPED.glob("*.py"):
        module = importlib.import_module(f"experiments.{path.stem}")
        if hasattr(module, "get_config"):
            expected[path.stem] = module.__doc__.splitlines()[0]
    assert pages.summaries() == expected
    assert "digits" in expected and "related" not in expected


def test_pages_are_listed_without_importing_them(tmp_path, monkeypatch):
    (tmp_path / "page.py").write_text(
        '"""What it is.\n\nMore."""\nraise RuntimeError\ndef get_config(): ...\n'
    )
    monkeypatch.setattr(pages, "folder", lambda: tmp_path)
    assert pages.summaries() == {"page": "What it is."}


# ---------------------------------------------------------------- folders


def installed(monkeypatch: pytest.MonkeyPatch, site: pathlib.Path) -> pathlib.Path:
    """An installed package, beside a package `experiments` of somebody else; returns its pages."""
    inside = site / "byol_jax" / "pages" / "experiments"
    write(site / "experiments" / "__init__.py", inside / "__init__.py", inside / "digits.py")
    monkeypatch.setattr(pages, "__file__", str(inside.parent / "__init__.py"))
    return inside


def test_the_pages_of_a_checkout_are_its_own():
    assert pages.folder() == SHIPPED


def test_the_pages_of_an_installed_package_are_inside_it(tmp_path, monkeypatch):
    assert installed(monkeypatch, tmp_path / "site") == pages.folder()


def imported(monkeypatch: pytest.MonkeyPatch, page: pathlib.Path, path: Sequence[pathlib.Path]):
    """Where `experiments` and `json` are imported from in a process that runs a page."""
    libraries = [p for p in sys.path if not (pathlib.Path(p) / "experiments").exists()]
    monkeypatch.setattr(sys, "path", [*map(str, path), *libraries])
    pages.make_importable(page)
    found = {}
    for name in ("experiments", "json"):
        spec = PathFinder.find_spec(name, sys.path)
        assert spec is not None and spec.origin is not None
        found[name] = pathlib.Path(spec.origin).parent
    return found


@pytest.mark.parametrize("page", ["digits", "experiments/digits.py", "mine/p.py", "p.py"])
def test_pages_import_the_shipped_ones(elsewhere, tmp_path, monkeypatch, page):
    """And neither a foreign package of that name nor files of the user hide anything."""
    site = tmp_path / "site"
    inside = installed(monkeypatch, site)
    write(elsewhere / "p.py", elsewhere / "mine" / "p.py", elsewhere / "mine" / "json.py")
    write(elsewhere / "json.py", elsewhere / "experiments" / "own.py")
    found = imported(monkeypatch, pages.find(page), [site])
    assert found["experiments"] == inside
    assert elsewhere not in found["json"].parents and elsewhere != found["json"]


@pytest.mark.parametrize("page", ["experiments/own.py", "mine/p.py"])
def test_a_users_copy_of_all_pages_comes_before_the_shipped_ones(
    elsewhere, tmp_path, monkeypatch, page
):
    inside = installed(monkeypatch, tmp_path / "site")
    own = elsewhere / "experiments"
    write(own / "__init__.py", own / "own.py", elsewhere / "mine" / "p.py")
    assert imported(monkeypatch, pages.find(page), [])["experiments"] == own
    # The page that ships is read with the pages that it ships with.
    found = imported(monkeypatch, pages.find("digits"), [elsewhere])
    assert found["experiments"] == inside
