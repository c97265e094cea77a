"""Golden arrays of the dense transfers: where they are, and how they are compared.

Metrics, conventions and the recipe for weights are described in golden_dense/README.md. Everything
about a case is read from its file: nothing here knows a number.
"""

import functools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "golden_dense"
# Prefixes of keys: a run in 32 and in 64 bits.
FLOAT32, FLOAT64 = "", "float64/"
Results = dict[str, Any]
Tree = dict[str, dict[str, np.ndarray]]


class Golden(NamedTuple):
    """One golden file."""

    name: str
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def folder() -> pathlib.Path:
    """Where the files are: BYOL_GOLDEN_DENSE_DIR, or the folder beside this file."""
    return pathlib.Path(os.environ.get("BYOL_GOLDEN_DENSE_DIR") or HERE)


@functools.cache
def load(name: str) -> Golden:
    """The arrays and metadata of `NAME.npz`; its absence is a failure."""
    with np.load(folder() / f"{name}.npz", allow_pickle=False) as arrays:
        loaded = {key: arrays[key] for key in arrays.files}
    return Golden(name, loaded, json.loads(str(loaded.pop("__meta__"))))


@functools.cache
def _tolerances() -> Mapping[str, Any]:
    path = folder() / "tolerances.json"
    path = path if path.is_file() else HERE / "tolerances.json"
    return json.loads(path.read_text(encoding="utf-8"))


def specifications(name: str) -> Mapping[str, Mapping[str, Any]]:
    """The groups of one file: {regular expression: {metric, tolerance, ...}}."""
    return _tolerances()["files"][name]


def group_of(name: str, key: str) -> str | None:
    """The first group of tolerances.json that a key belongs to; None if the key is given."""
    return next((group for group in specifications(name) if re.fullmatch(group, key)), None)


def cases(golden: Golden, pattern: str) -> list[str]:
    """What the group of a pattern matches in the keys of a file, sorted, each once."""
    matches = (re.fullmatch(pattern, key) for key in golden.arrays)
    return sorted({match[1] for match in matches if match})


def _matches(patterns: Iterable[str], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def check_keys(
    golden: Golden,
    compared: Iterable[str],
    given: Iterable[str],
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Asserts that each key of a file is compared, given or left out, and only one of them.

    Args:
      golden: the file.
      compared, given: patterns of keys. A key that is given has no tolerance, the others have one.
      left_out: patterns of keys with tolerances that no test compares, and why.
    """
    for key in golden.arrays:
        kinds = [
            any(re.fullmatch(pattern, key) for pattern in patterns)
            for patterns in (compared, given, left_out or {})
        ]
        assert sum(kinds) == 1, (key, kinds)
        assert (group_of(golden.name, key) is None) == kinds[1], key
    reached = {group_of(golden.name, key) for key in golden.arrays}
    assert reached >= {*specifications(golden.name)}, "tolerances without an array"


def check(
    golden: Golden, results: Results, prefix: str = FLOAT32, complete: str | None = None
) -> None:
    """Asserts that results are within the tolerances.

    Args:
      golden: the file.
      results: by key of the file, without `prefix`. A float64 run may hold more than the file.
      prefix: `float64/` for a 64-bit run.
      complete: pattern of keys of the file, without `prefix`, that must all be in the results.
    """
    results = {f"{prefix}{key}": value for key, value in results.items()}
    wanted = complete and re.compile(f"{prefix}{complete}")
    missing = [k for k in golden.arrays if wanted and wanted.fullmatch(k) and k not in results]
    assert not missing, f"{golden.name}: no result for {missing}"
    shared = [key for key in results if key in golden.arrays]
    assert shared and (prefix or len(shared) == len(results)), f"{golden.name} has no such keys"
    off = []
    for key in shared:
        spec = specifications(golden.name)[str(group_of(golden.name, key))]
        error, limit = _error(golden, key, results[key], spec["metric"]), _limit(spec, prefix)
        if not (error <= limit or spec.get("information_only")):  # nan is off
            off.append(f"{key}: {error:.3g} of {limit:.3g}")
    assert not off, f"{golden.name} is off the golden numbers: {'; '.join(off)}"


def _limit(spec: Mapping[str, Any], prefix: str) -> float:
    limit = spec["tolerance"]
    if not prefix or spec["metric"] == "exact":
        return limit
    return min(limit, dict(_tolerances()["float64_tolerance"])["float64/ keys"])


def _error(golden: Golden, key: str, result: Any, metric: str) -> float:
    ours, theirs = np.asarray(result), golden.arrays[key]
    assert ours.shape == theirs.shape, (key, ours.shape, theirs.shape)
    if metric == "exact":
        return float(np.any(ours != theirs))
    ours, theirs = np.float64(ours), np.float64(theirs)
    # A class that does not occur is nan in both.
    neither = np.isnan(ours) & np.isnan(theirs)
    difference = np.where(neither, 0, np.abs(ours - theirs))
    if metric == "abs":
        return float(np.max(difference))
    if metric == "maxabs":
        return float(np.max(difference) / np.max(np.abs(theirs)))
    if metric == "rel":
        return float(np.max(difference / np.abs(theirs)))
    assert metric == "scaled:grad_l2", metric
    return float(np.max(difference / golden.arrays[key.replace("grad_proj", "grad_l2")]))


def _normal(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(text.encode())).standard_normal(shape)


def recipe(golden: Golden, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or BatchNorm average of the golden networks, float32."""
    noise, leaf = _normal(golden.meta["param_salt"] + name, shape), name.rpartition("/")[2]
    if leaf in ("mean", "var", "average"):
        is_mean = leaf == "mean" or "/mean_ema/" in name
        value = 0.1 * noise if is_mean else 1 + 0.1 * np.abs(noise)
    elif leaf == "w":
        value = golden.meta["param_gain"] * noise / np.sqrt(np.prod(shape[:-1]))
    else:
        value = {"scale": 1.0, "offset": 0.0, "b": 0.0}[leaf] + 0.1 * noise
    return value.astype(np.float32)


def projection(golden: Golden, name: str, array: np.ndarray) -> float:
    """The inner product with this name's direction, in float64."""
    direction = _normal(f"proj:{golden.meta['param_salt']}{name}", np.shape(array))
    return float(np.sum(np.float64(array) * direction))


def inputs(pixels: np.ndarray, dtype: type) -> np.ndarray:
    """uint8 images as the golden networks take them."""
    return ((np.float32(pixels) - np.float32(127.5)) / np.float32(64)).astype(dtype)


def shape_of(text: str) -> tuple[int, ...]:
    """A shape as the files write it: `3,3,16,8`."""
    return tuple(map(int, str(text).split(",")))
