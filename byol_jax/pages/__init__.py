"""The shipped pages of configuration: where they are, and which one a name means.

An installed package has them inside this folder, as `experiments/`; a checkout has them at its top.
They are imported as `experiments` in both.
"""

import ast
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from byol_jax.checks import nearest
from byol_jax.errors import require


def folder() -> pathlib.Path:
    """The folder `experiments` of the shipped pages."""
    here = pathlib.Path(__file__).resolve().parent
    installed = here / "experiments"
    # Only a checkout has no copy: beside an installed package, `experiments` is somebody else's.
    return installed if installed.is_dir() else here.parents[1] / "experiments"


def summaries() -> Mapping[str, str]:
    """The first line of each shipped page, by name. No page is imported."""
    found = {}
    for path in sorted(folder().glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Other modules of the folder are tables, and code that pages share.
        if any(isinstance(n, ast.FunctionDef) and n.name == "get_config" for n in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def find(name: str) -> pathlib.Path:
    """The file of a page.

    Args:
      name: name of a shipped page, or path of any page. `experiments/NAME.py` is a shipped page
        unless there is such a file below the current folder.

    Raises:
      UserError: there is none; names the most similar shipped page.
    """
    path = pathlib.Path(name)
    shipped = folder()
    if name.isidentifier() and name in summaries():
        return shipped / f"{name}.py"
    if path.is_file():
        return path
    is_shipped = path.parent == pathlib.Path("experiments") and (shipped / path.name).is_file()
    require(
        is_shipped,
        f"--config={name}: there is no such file, and no shipped page of that name"
        f"{nearest(path.stem, summaries())}: --help lists them",
    )
    return shipped / path.name


def make_importable(page: pathlib.Path) -> None:
    """Lets a page import the shipped ones, as `experiments`, and modules that stand around it."""
    # Last, so that no file of a user's hides a library.
    beside = page.absolute().parent
    around = [beside.parent, beside, pathlib.Path.cwd()]
    sys.path += map(str, around)
    # A copy of all pages that somebody works on is a package `experiments` of its own. Without one
    # the shipped pages come first, before a package of that name in site-packages.
    is_shipped = page.resolve().parent == folder()
    has_own = not is_shipped and any((p / "experiments" / "__init__.py").is_file() for p in around)
    sys.path.insert(len(sys.path) if has_own else 0, str(folder().parent))


def config_of(recipe: str) -> Mapping[str, Any] | None:
    """The config of the page whose recipe has these words, as that page made it in this process.

    None if no page did, as for a recipe of the user's own.
    """
    shared = sys.modules.get("experiments.base")
    made: Mapping[str, Mapping[str, Any]] = getattr(shared, "MADE", {})
    return made.get(recipe)
