"""Two rules of docs/architecture.md that import contracts cannot state.

The contracts over the floors are in pyproject.toml; `make check` runs them.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Names of jax that map a function over devices or speak to other devices.
COLLECTIVES = frozenset(
    (
        *("all_gather", "all_to_all", "axis_index", "axis_size", "multihost_utils", "pmap"),
        *("pmax", "pmean", "pmin", "ppermute", "pshuffle", "psum", "psum_scatter", "shard_map"),
    )
)
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "jax.experimental.jax2tf")


def collectives(source: str) -> list[str]:
    """Collectives that the code takes from jax."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            found += [item.name for item in node.names if item.name in COLLECTIVES]
        elif isinstance(node, ast.Attribute) and node.attr in COLLECTIVES:
            name = ast.unparse(node)
            found += [name] if name.split(".")[0] in ("jax", "lax", "multihost_utils") else []
    return found


def early_tensorflow(source: str) -> list[str]:
    """Imports of TensorFlow that run when the module is imported."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{item.name}" for item in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    tree = ast.parse(source)
    return [
        name for name in visit(tree) if f"{name}.".startswith(tuple(f"{t}." for t in TENSORFLOW))
    ]


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "byol_jax").rglob("*.py")):
        yield path.relative_to(ROOT / "byol_jax").as_posix(), path.read_text(encoding="utf-8")


def test_only_one_module_names_collectives() -> None:
    assert {name for name, source in modules() if collectives(source)} == {"runtime/spmd.py"}


def test_tensorflow_is_imported_inside_functions() -> None:
    assert {name: early for name, source in modules() if (early := early_tensorflow(source))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import jax\ny = jax.lax.psum(x, 'i')",
        "from jax import lax\ny = lax.all_gather(x, 'i')",
        "from jax import pmap",
        "from jax.experimental import multihost_utils",
    ],
)
def test_a_collective_is_seen(source: str) -> None:
    assert collectives(source)


@pytest.mark.parametrize(
    "source",
    ["import tensorflow as tf", "from tensorflow import io", "from jax.experimental import jax2tf"],
)
def test_an_early_import_of_tensorflow_is_seen(source: str) -> None:
    assert early_tensorflow(source)
    assert not early_tensorflow(f"def f():\n    {source}")
