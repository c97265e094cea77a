"""Golden arrays of related methods: where they are, and how they are compared.

Metrics and conventions are described in golden_methods/README.md.
"""

import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "golden_methods"
FLOAT64_TOLERANCE = 1e-9


class Golden(NamedTuple):
    """One golden file."""

    name: str
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    salt: str = ""


def folder() -> pathlib.Path:
    """Where the files are: BYOL_GOLDEN_METHODS_DIR, or the folder beside this file."""
    return pathlib.Path(os.environ.get("BYOL_GOLDEN_METHODS_DIR") or HERE)


@functools.cache
def load(name: str) -> Golden:
    """The arrays of `NAME.npz` and the parameters of its cases; its absence is a failure."""
    with np.load(folder() / f"{name}.npz", allow_pickle=False) as arrays:
        loaded = {key: arrays[key] for key in arrays.files}
    meta = json.loads(str(loaded.pop("__meta__")))
    return Golden(name, loaded, meta["config"], meta.get("param_salt", ""))


@functools.cache
def _specifications(name: str) -> Mapping[str, Mapping[str, Any]]:
    path = folder() / "tolerances.json"
    path = path if path.is_file() else HERE / "tolerances.json"
    return json.loads(path.read_text(encoding="utf-8"))["files"][name]


def specification(name: str, key: str) -> Mapping[str, Any]:
    """Metric and tolerance of a key: those of the first pattern that it matches."""
    patterns = _specifications(name)
    return next(spec for pattern, spec in patterns.items() if re.fullmatch(pattern, key))


def check_keys(
    golden: Golden, compared: Iterable[str], left_out: Mapping[str, str] | None = None
) -> None:
    """Asserts that each key of a file is given, compared or left out, and only one of them."""
    for key in golden.arrays:
        name = key.removeprefix("float64/")
        kinds = [
            specification(golden.name, name)["metric"] == "input",
            any(re.fullmatch(pattern, name) for pattern in compared),
            any(re.fullmatch(pattern, name) for pattern in left_out or {}),
        ]
        assert sum(kinds) == 1, (key, kinds)


def check(golden: Golden, results: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Asserts that results are within the tolerances.

    Args:
      golden: the file.
      results: by key of the file, without `prefix`.
      prefix: `float64/` for a 64-bit run.
    """
    stages: dict[str, list[str]] = {}
    for key in results:
        spec = specification(golden.name, key)
        assert spec["metric"] not in ("input", "none"), f"{key} is not to be compared"
        is_delta = spec["metric"].startswith("delta")
        stages.setdefault(key.rsplit("/params/")[0] if is_delta else key, []).append(key)
    for keys in stages.values():
        spec = specification(golden.name, keys[0])
        tolerance = spec["tolerance"]
        if prefix and spec["metric"] != "exact":
            tolerance = FLOAT64_TOLERANCE
        error = _error(golden, keys, results, prefix, spec["metric"])
        assert error <= tolerance, f"{prefix}{keys[0]}: {error:.3g} of {tolerance:.3g}"


def _l2(golden: Golden, key: str, prefix: str) -> np.ndarray:
    return golden.arrays.get(f"{prefix}{key}", golden.arrays[key])


# What the error of each element is relative to, by metric: of golden file, key, array and prefix.
_BY_SCALE: Mapping[str, Callable[[Golden, str, np.ndarray, str], Any]] = {
    "rel": lambda golden, key, array, prefix: np.abs(array),
    "rowmax": lambda golden, key, array, prefix: np.abs(array).max(axis=-1, keepdims=True),
    "rowproj": lambda golden, key, array, prefix: (
        _l2(golden, key.replace("_row_proj", "_row_l2"), prefix)
        * math.sqrt(golden.config["full"]["dim"])
    ),
    "gradproj": lambda golden, key, array, prefix: _l2(
        golden, key.replace("grad_proj", "grad_l2"), prefix
    ),
}


def _error(
    golden: Golden,
    keys: list[str],
    results: Mapping[str, np.ndarray],
    prefix: str,
    metric: str,
) -> float:
    ours = [np.asarray(results[key], np.float64) for key in keys]
    ours = [
        x[0] if re.search("/(scale|offset)$", k) else x for k, x in zip(keys, ours, strict=True)
    ]
    # Integers and counts have no twin.
    theirs = [
        np.asarray(golden.arrays.get(f"{prefix}{key}", golden.arrays[key]), np.float64)
        for key in keys
    ]
    assert [x.shape for x in ours] == [x.shape for x in theirs], keys
    differences = [np.abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    if metric in ("abs", "exact"):
        return max(d.max() for d in differences)
    if metric == "maxabs":
        return max(d.max() / np.abs(g).max() for d, g in zip(differences, theirs, strict=True))
    if metric in _BY_SCALE:
        scales = [
            _BY_SCALE[metric](golden, k, g, prefix) for k, g in zip(keys, theirs, strict=True)
        ]
        return max(np.max(d / s) for d, s in zip(differences, scales, strict=True))
    assert metric in ("delta", "delta0"), metric
    start = [np.zeros(()) for _ in keys]
    if metric == "delta":
        names = [re.sub(r".*/(?:query_|key_)?params/", "", key) for key in keys]
        start = [np.float64(golden.arrays[f"trace/init/params/{name}"]) for name in names]
    moved = sum(np.sum((g - s) ** 2) for g, s in zip(theirs, start, strict=True))
    return float(np.sqrt(sum(np.sum(d**2) for d in differences) / moved))


def tree(golden: Golden, prefix: str, dtype: type) -> dict[str, dict[str, np.ndarray]]:
    """The arrays under `prefix` as a Haiku tree {module: {leaf: array}}."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for key, array in golden.arrays.items():
        if key.startswith(prefix):
            module, _, leaf = key.removeprefix(prefix).rpartition("/")
            # Haiku keeps an axis for the batch.
            is_norm = leaf in ("scale", "offset")
            result.setdefault(module, {})[leaf] = array.astype(dtype)[None if is_norm else ...]
    assert result, f"{golden.name} has no arrays under {prefix}"
    return result


def inputs(images: np.ndarray, dtype: type) -> np.ndarray:
    """uint8 images as the golden networks take them."""
    return ((np.float32(images) - np.float32(127.5)) / np.float32(64)).astype(dtype)
