"""The rules of docs/architecture.md that a parse of the imports can check.

The checker takes sources as text, so that the tests below can also show it houses
that break each rule: a rule nothing can break is no rule.
"""

import ast
import fnmatch
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the ground up. A module may import from lower rows alone.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("errors", ("errors",)),
    ("keys", ("cache", "keys")),
    ("ground", ("boxes", "data.bicubic", "data.host", "data.images", "randaugment")),
    ("readers", ("data.benchmarks", "data.folder", "data.tfds_sets")),
    ("operations", ("autoaugment", "operations")),
    (
        "L0",
        (
            "augment",
            "data.crops",
            "data.sources",
            "distributed",
            "interrupts",
            "metrics",
            "networks.heads",
            "networks.resnet",
            "optim.lars",
            "optim.schedules",
            "profiler",
            "stats",
        ),
    ),
    ("L1", ("checkpoints", "data.reader", "networks.siamese", "objectives.base", "optim.groups")),
    ("L1 service", ("data.service",)),
    ("L1 stream", ("data.pipeline",)),
    ("L2 Eq. 5", ("objectives.info_nce",)),
    ("L2", ("classification", "features", "objectives.*", "weights")),
    ("L3", ("update",)),
    ("L3 config", ("dials",)),
    ("L4 evals", ("evals.*",)),
    ("L4", ("train",)),
    ("L4 tables", ("ablate",)),
    ("L4 pods", ("preflight",)),
    ("L4 pictures", ("views",)),
    ("top", ("main",)),
)
# One protocol may call another: these share a row and still import each other.
NEIGHBOURS = ("evals.*",)

# Names of jax that speak to other devices.
COLLECTIVES = frozenset(
    (
        *("all_gather", "all_to_all", "axis_index", "axis_size", "multihost_utils", "pmap"),
        *("pmax", "pmean", "pmin", "ppermute", "pshuffle", "psum", "psum_scatter", "shard_map"),
    )
)
# The library, the modules that may import it.
CONFINED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("absl.flags", ("main",)),
    ("ml_collections.config_flags", ("main",)),
    ("ml_collections", ("main", "train", "dials", "views", "ablate", "preflight", "evals.*")),
)
# What imports TensorFlow, to be imported late and in byol_jax/data alone.
TENSORFLOW = ("tensorflow", "tensorflow_*", "jax.experimental.jax2tf")
# What a config, pure data, does not import: any of these would start JAX or TensorFlow.
HEAVY = ("chex", "haiku", "jax", "jaxlib", "optax", "orbax", "tensorflow", "tensorflow_*")


class Import(NamedTuple):
    """One imported name: `name` in full, bound as `alias`, run `late` if inside a function."""

    name: str
    alias: str
    line: int
    late: bool


def prefixes(name: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether `name` or a package that holds it matches one of `patterns`."""
    return any(fnmatch.fnmatchcase(p, pattern) for p in prefixes(name) for pattern in patterns)


def floor_of(module: str) -> int | None:
    """The row of `module` in the table, None if it is not there; a full name beats a `*`."""
    rows = [(i, name) for i, (_, names) in enumerate(FLOORS) for name in names]
    exact = [i for i, name in rows if name == module]
    pattern = [i for i, name in rows if "*" in name and fnmatch.fnmatchcase(module, name)]
    return next(iter(exact + pattern), None)


def module_of(path: str) -> str:
    """`byol_jax/networks/resnet.py` as `networks.resnet`, a package as `networks.__init__`."""
    return ".".join(pathlib.PurePosixPath(path).with_suffix("").parts[1:])


def imports_of(path: str, tree: ast.AST) -> list[Import]:
    """Every imported name of a file, in functions too, relative ones resolved."""
    package = pathlib.PurePosixPath(path).parent.parts
    found = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.Import):
            for item in node.names:
                bound = item.asname or item.name.split(".")[0]
                found.append(Import(item.name, bound, node.lineno, late))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            for item in node.names:
                bound = item.asname or item.name
                found.append(Import(f"{source}.{item.name}", bound, node.lineno, late))
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(tree, False)
    return found


def dotted_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every `a.b.c` in the code with its line, at its full length."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {node.value for node in attributes}
    for node in attributes:
        text = ast.unparse(node)
        if node not in inner and all(part.isidentifier() for part in text.split(".")):
            yield text, node.lineno


def used_names(path: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Full names that a file imports or reaches through what it imports, with their lines."""
    bound: dict[str, set[str]] = {}
    for item in imports_of(path, tree):
        yield item.name, item.line
        # `import a.b` binds `a`; `import a.b as c` and `from a import b` bind the whole.
        whole = item.name if item.alias != item.name.split(".")[0] else item.alias
        bound.setdefault(item.alias, set()).add(whole)
    for name, line in dotted_names(tree):
        root, _, rest = name.partition(".")
        for whole in bound.get(root, ()):
            yield f"{whole}.{rest}", line


def floor_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Rule 1: imports of byol_jax go strictly down the table."""
    module = module_of(path)
    mine = floor_of(module)
    if path.endswith("__init__.py"):
        for item in imports_of(path, tree):
            yield f"{path}:{item.line}: a package's __init__ imports nothing, not {item.name}"
        return
    if mine is None:
        yield f"{path}: {module} is not on any floor: add it to FLOORS in tests/test_floors.py"
        return
    for item in imports_of(path, tree):
        root, _, name = item.name.partition(".")
        if root != "byol_jax" or name.startswith("__"):
            continue
        place = f"{path}:{item.line}"
        # `objectives.base.Objective` is a name in a module: the module is the part in the table.
        target = next((p for p in prefixes(name) if floor_of(p) is not None), name)
        theirs = floor_of(target)
        if theirs is None:
            yield (
                f"{place}: {item.name} is not a module on a floor: import the module itself,"
                " or add it to FLOORS in tests/test_floors.py"
            )
        elif theirs >= mine and not all(matches(m, NEIGHBOURS) for m in (module, target)):
            yield (
                f"{place}: {module} ({FLOORS[mine][0]}) imports {target}"
                f" ({FLOORS[theirs][0]}), which is not on a lower floor"
            )


def tensorflow_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Rule 2: TensorFlow in byol_jax/data alone, and imported only when it is needed."""
    for item in imports_of(path, tree):
        if not matches(item.name, TENSORFLOW):
            continue
        if not path.startswith("byol_jax/data/"):
            yield f"{path}:{item.line}: {item.name} belongs under byol_jax/data"
        elif not item.late:
            yield f"{path}:{item.line}: {item.name} is imported at the top, not in a function"


def collective_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Rule 3: only distributed.py names pmap or a collective."""
    if module_of(path) == "distributed":
        return
    for name, line in used_names(path, tree):
        root, *rest = name.split(".")
        if root == "jax" and COLLECTIVES.intersection(rest):
            yield f"{path}:{line}: {name} belongs in byol_jax/runtime/spmd.py"


def confined_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Rule 4: flags in main.py, ConfigDicts in main.py, train.py and the evaluations."""
    for name, line in used_names(path, tree):
        for library, places in CONFINED:
            if matches(name, (library,)) and not matches(module_of(path), places):
                yield f"{path}:{line}: {name} is for {' and '.join(places)} alone"
                break


def config_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """A config is pure data: neither JAX nor TensorFlow, nor what imports them."""
    for item in imports_of(path, tree):
        ours = matches(item.name, ("byol_jax",)) and not matches(item.name, ("byol_jax.errors",))
        if ours or matches(item.name, HEAVY):
            yield f"{path}:{item.line}: a config is pure data, yet it imports {item.name}"


def violations(sources: Mapping[str, str]) -> list[str]:
    """What breaks the rules in `sources`, a path from the root to a text, each once, in order."""
    found: list[str] = []
    for path, text in sorted(sources.items()):
        tree = ast.parse(text, filename=path)
        if path.startswith("experiments/"):
            found += config_violations(path, tree)
            continue
        for rule in (
            floor_violations,
            tensorflow_violations,
            collective_violations,
            confined_violations,
        ):
            found += rule(path, tree)
    return list(dict.fromkeys(found))


def checkout() -> dict[str, str]:
    paths = [*ROOT.glob("byol_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def test_the_house_keeps_its_rules() -> None:
    sources = checkout()
    assert {"byol_jax/errors.py", "byol_jax/update.py", "byol_jax/main.py"} <= sources.keys()
    assert any(path.startswith("experiments/") for path in sources)
    found = violations(sources)
    assert not found, "\n".join(["", *found])


def test_every_module_has_one_row() -> None:
    names = [name for _, names in FLOORS for name in names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        # Floors.
        ("byol_jax/augment.py", "from byol_jax import update", "augment (L0) imports update (L3)"),
        ("byol_jax/stats.py", "import byol_jax.augment", "stats (L0) imports augment (L0)"),
        (
            "byol_jax/features.py",
            "def f():\n  from byol_jax.evals.knn import vote",
            "features.py:2: features (L2) imports evals.knn (L4 evals)",
        ),
        (
            "byol_jax/objectives/byol.py",
            "from .simclr import loss",
            "objectives.byol (L2) imports objectives.simclr (L2)",
        ),
        (
            "byol_jax/objectives/base.py",
            "from byol_jax.objectives import byol",
            "objectives.base (L1) imports objectives.byol (L2)",
        ),
        (
            "byol_jax/networks/heads.py",
            "from ..optim.groups import build",
            "networks.heads (L0) imports optim.groups (L1)",
        ),
        ("byol_jax/evals/linear.py", "from byol_jax import train", "evals.linear (L4 evals)"),
        ("byol_jax/train.py", "from byol_jax.main import run", "train (L4) imports main (top)"),
        ("byol_jax/errors.py", "from byol_jax import stats", "errors (errors) imports stats (L0)"),
        ("byol_jax/update.py", "from byol_jax import extras", "byol_jax.extras is not a module"),
        ("byol_jax/train.py", "import byol_jax.evals", "byol_jax.evals is not a module"),
        ("byol_jax/extras.py", "x = 1", "extras is not on any floor: add it to FLOORS"),
        ("byol_jax/data/__init__.py", "from byol_jax.data import crops", "__init__ imports noth"),
        # TensorFlow.
        ("byol_jax/augment.py", "def f():\n  import tensorflow as tf", "belongs under byol_jax/d"),
        ("byol_jax/train.py", "import tensorflow_datasets", "belongs under byol_jax/data"),
        ("byol_jax/stats.py", "from jax.experimental import jax2tf", "belongs under byol_jax/data"),
        ("byol_jax/data/crops.py", "import tensorflow as tf", "imported at the top"),
        (
            "byol_jax/data/crops.py",
            "try:\n  from tensorflow import io\nfinally: pass",
            "at the top",
        ),
        ("byol_jax/data/crops.py", "class A:\n  import tensorflow as tf", "imported at the top"),
        # Collectives.
        ("byol_jax/update.py", "import jax\njax.lax.pmean(1, 'i')", "update.py:2: jax.lax.pmean"),
        ("byol_jax/update.py", "from jax import lax\nlax.psum(1, 'i')", "jax.lax.psum belongs"),
        ("byol_jax/train.py", "from jax import pmap as p", "train.py:1: jax.pmap belongs"),
        ("byol_jax/train.py", "import jax as j\nstep = j.pmap(f)", "train.py:2: jax.pmap belongs"),
        ("byol_jax/stats.py", "import jax.lax as l\nl.all_gather(x, 'i')", "jax.lax.all_gather"),
        ("byol_jax/stats.py", "import jax.lax\njax.lax.axis_index('i')", "jax.lax.axis_index"),
        ("byol_jax/train.py", "from jax.experimental.shard_map import shard_map", "shard_map bel"),
        # Flags and configs.
        ("byol_jax/train.py", "from absl import flags", "absl.flags is for main alone"),
        ("byol_jax/train.py", "import absl\nabsl.flags.FLAGS", "absl.flags.FLAGS is for main"),
        ("byol_jax/train.py", "from ml_collections import config_flags", "is for main alone"),
        (
            "byol_jax/update.py",
            "import ml_collections",
            "for main and train and dials and views and ablate and preflight and evals.* alone",
        ),
        ("byol_jax/data/pipeline.py", "def f(c): import ml_collections.config_dict", "alone"),
        # Configs.
        ("experiments/digits.py", "import jax.numpy as jnp", "pure data, yet it imports jax.numpy"),
        ("experiments/digits.py", "def get_config():\n  import tensorflow", "imports tensorflow"),
        ("experiments/digits.py", "from haiku import nets", "imports haiku.nets"),
        ("experiments/digits.py", "from byol_jax.optim import lars", "imports byol_jax.optim.lars"),
    ],
)
def test_a_broken_rule_is_reported(path: str, source: str, message: str) -> None:
    found = violations({path: source})
    assert len(found) == 1
    assert message in found[0]
    assert found[0].startswith(path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("byol_jax/augment.py", "import jax\nfrom byol_jax.errors import UserError, require"),
        ("byol_jax/errors.py", "class UserError(Exception): pass"),
        ("byol_jax/objectives/byol.py", "from byol_jax.objectives.base import Objective"),
        ("byol_jax/objectives/byol.py", "from . import base"),
        ("byol_jax/evals/linear.py", "from byol_jax.evals import knn\nimport ml_collections"),
        ("byol_jax/train.py", "from byol_jax.evals import linear"),
        ("byol_jax/update.py", "from byol_jax import distributed\ndistributed.pmean(1)"),
        ("byol_jax/update.py", "from byol_jax import __version__"),
        ("byol_jax/runtime/spmd.py", "import jax\njax.lax.psum(1, 'i')\njax.pmap(f)"),
        ("byol_jax/data/crops.py", "def f():\n  import tensorflow as tf"),
        ("byol_jax/runtime/metrics.py", "import tensorboardX\nfrom absl import logging"),
        (
            "byol_jax/main.py",
            "from absl import app, flags\nfrom ml_collections import config_flags",
        ),
        ("experiments/digits.py", "import ml_collections\nfrom experiments import base"),
        ("experiments/byol.py", "from byol_jax.errors import UserError"),
    ],
)
def test_a_kept_rule_is_not_reported(path: str, source: str) -> None:
    assert violations({path: source}) == []
