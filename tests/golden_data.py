"""Golden arrays: where they are, what they were made from, how they are compared.

The metrics and the recipe for weights are described in golden/README.md. Everything
about a case is read from its file: nothing here knows a number.
"""

import functools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "golden"
NETWORKS = ("net_tiny_64", "net_resnet18_64", "net_resnet50_64", "net_resnet50_224")
TRACES = ("trace_a", "trace_b")
FILES = (
    *NETWORKS,
    *TRACES,
    "loss",
    "schedules",
    "lars",
    "augment",
    "augment_composite",
    "augment_stats",
    "crop",
    "crop_stats",
    "linear_eval",
)

# Arrays that are given: there is nothing to compare them with.
_NETWORK_INPUTS = ("images_u8", "cotangent")
_TRACE_INPUTS = ("inputs/.*", "init/.*")
INPUTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(NETWORKS, _NETWORK_INPUTS),
    **dict.fromkeys(TRACES, _TRACE_INPUTS),
    "loss": (
        "regression/.*/(x|y)",
        r"symmetric/.*/(prediction|target_projection)_view\d",
        "l2_normalize/x",
        "classifier/(logits|labels)",
        "normalize/images_u8",
    ),
    "schedules": (r"case\d+/step",),
    "lars": ("init/.*", r"grad/\d+/.*", "learning_rates"),
    "augment": ("images32_u8", "image224_u8", "hsv_table/(rgb|hsv_in)"),
    "augment_composite": ("composite/images_u8",),
    "augment_stats": ("image_u8", "quantile_levels", "feature_names"),
    "crop": (r"\d/(jpeg|random_window)", "window_table/size_hw", r"resize/\d/in_u8"),
    "crop_stats": ("quantile_levels", ".*/windows_yxhw_first2000"),
    "linear_eval": ("images_u8", "labels", "init/.*"),
}
# Arrays that no tolerance compares, and why.
APART: Mapping[str, Mapping[str, str]] = {
    "loss": {
        "regression/.*/category": "names the rows; it chooses the tolerance and the scale of each"
    },
    "augment_stats": {
        r"view\d/quantiles": "a distribution: its own test, with the limit of golden/README.md",
        r"view\d/(mean|std|corr)": "a distribution: its own test, with standard errors",
    },
    "crop_stats": {
        ".*/(quantiles/.*|hist_.*)": "a distribution: its own test, limit of golden/README.md",
    },
}
# Entries of the files' metadata that no test compares, and why.
METADATA_APART: Mapping[str, Mapping[str, str]] = {
    "schedules": {"shards": "ranges that shards read; here a process takes its slice of each batch"}
}

# Quantiles this close are one value (golden/README.md).
SAME_VALUE = 2e-5

ROW_CATEGORIES = frozenset(
    ["random", "identical", "scaled", "opposite", "orthogonal", "large", "small", "below_eps"]
)
_BELOW_EPS = " [below_eps rows]"
# Their exact gradient is zero, because a BatchNorm follows: only rounding is stored.
_ROUNDING_ONLY = ("projector/linear/b", "predictor/linear/b")

Results = dict[str, Any]


class Golden(NamedTuple):
    """One golden file."""

    name: str
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def folder() -> pathlib.Path:
    """Where the golden files are: BYOL_GOLDEN_DIR, or the folder beside this file."""
    return pathlib.Path(os.environ.get("BYOL_GOLDEN_DIR") or HERE)


def _existing(file_name: str) -> pathlib.Path:
    path = folder() / file_name
    assert path.is_file(), f"golden file {path} is missing"
    return path


@functools.cache
def load(name: str) -> Golden:
    """The arrays and metadata of `NAME.npz`; its absence is a failure."""
    with np.load(_existing(f"{name}.npz"), allow_pickle=False) as arrays:
        loaded = {key: arrays[key] for key in arrays.files}
    return Golden(name, loaded, json.loads(str(loaded.pop("__meta__"))))


@functools.cache
def load_json(name: str) -> Any:
    """The content of `NAME.json`; its absence is a failure."""
    return json.loads(_existing(f"{name}.json").read_text(encoding="utf-8"))


@functools.cache
def tolerances() -> Any:
    """tolerances.json of the folder in use, or the one beside this file."""
    if (folder() / "tolerances.json").is_file():
        return load_json("tolerances")
    return json.loads((HERE / "tolerances.json").read_text(encoding="utf-8"))


def specifications(name: str) -> dict[str, Any]:
    """The groups of one file: {regular expression: {metric, tolerance, ...}}."""
    return tolerances()["files"].get(name, {})


def float64_tolerance(name: str) -> float:
    """How far a `float64/` array may be off in a 64-bit run."""
    kinds = dict.fromkeys(TRACES, "trace") | {"linear_eval": "linear_eval"}
    return tolerances()["float64_tolerance"][kinds.get(name, "net")]


def _base(key: str) -> str:
    return key.removeprefix("float64/")


def _in_delta_group(group: str, base: str) -> bool:
    """Whether e.g. `final/momentum/classifier/w` is in `final/momentum [w]`."""
    prefix, _, leaves = group.partition(" [")
    allowed = [leaf.strip() for leaf in leaves.rstrip("]").split(",")] if leaves else None
    return base.startswith(f"{prefix}/") and (allowed is None or base.rpartition("/")[2] in allowed)


def group_of(name: str, key: str) -> str | None:
    """The first group of tolerances.json that a key belongs to."""
    base = _base(key)
    for group, spec in specifications(name).items():
        if spec["metric"] == "delta":
            if _in_delta_group(group, base):
                return group
        elif not group.endswith(_BELOW_EPS) and re.fullmatch(group, base):
            return group
    return None


def _matches(patterns: Iterable[str], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def role(name: str, key: str) -> str:
    """`input`, `apart`, `compared`, or `forgotten`."""
    if _matches(INPUTS[name], key):
        return "input"
    if _matches(APART.get(name, {}), key):
        return "apart"
    return "compared" if group_of(name, key) else "forgotten"


def compared_keys(golden: Golden, prefix: str = "") -> list[str]:
    """The keys to compare that start with `prefix`; without one, those of a float32 run."""
    apart = ("float64/", "two_device/")
    return [
        key
        for key in golden.arrays
        if role(golden.name, key) == "compared"
        and (key.startswith(prefix) if prefix else not key.startswith(apart))
    ]


def check_complete(name: str, prefixes: Iterable[str] = ("",)) -> None:
    """Asserts that no array and no tolerance of a file is forgotten.

    Args:
      name: the file.
      prefixes: those that the tests hand to `compared_keys`.
    """
    golden = load(name)
    roles = {key: role(name, key) for key in golden.arrays}
    forgotten = [key for key in roles if roles[key] == "forgotten"]
    assert not forgotten, f"{name}: neither inputs nor compared: {forgotten[:10]}"

    compared = [key for key in roles if roles[key] == "compared"]
    reached = {key for prefix in prefixes for key in compared_keys(golden, prefix)}
    unreached = sorted(set(compared) - reached)
    assert not unreached, f"{name}: no test compares {unreached[:10]}"

    exercised = {group_of(name, key) for key in compared}
    exercised |= {f"{group}{_BELOW_EPS}" for group in exercised}
    exercised |= {group_of(name, key) for key in roles if roles[key] == "apart"}
    idle = sorted(set(specifications(name)) - exercised)
    assert not idle, f"{name}: no array for the tolerances of {idle}"

    for key in compared:
        if specifications(name)[str(group_of(name, key))].get("information_only"):
            assert f"float64/{_base(key)}" in golden.arrays, f"{name}: {key} has no float64 twin"


def _row_categories(golden: Golden, key: str) -> np.ndarray:
    categories = golden.arrays[f"{key.rpartition('/')[0]}/category"]
    assert set(categories) <= ROW_CATEGORIES, f"unknown categories of rows: {set(categories)}"
    return categories


def _scale(golden: Golden, key: str, kind: str) -> np.ndarray:
    """The s of a `scaled` metric (golden/README.md)."""
    parent = key.rpartition("/")[0]
    if kind == "SCALAR":
        norms = (golden.arrays[f"{parent}/embedding"], golden.arrays["cotangent"])
        return np.prod([np.linalg.norm(np.float64(array)) for array in norms])
    if kind in ("GRAD_L2*SQRTSIZE", "STATE_L2*SQRTSIZE"):
        # Despite its name: the projection on a standard normal direction is about as
        # large as the norm, and the tolerances are relative to that.
        return golden.arrays[f"{key.removesuffix('_proj')}_l2"]
    assert kind == "ROWMAX", f"unknown scale {kind}"
    categories = _row_categories(golden, key)
    largest = np.abs(np.float64(golden.arrays[key])).max(axis=1)
    degenerate = np.isin(categories, ("identical", "scaled", "opposite"))
    scale = np.where(degenerate, np.maximum(largest, 1), largest)
    return np.where(categories == "below_eps", 1e6, scale)[:, None]


def _pointwise(
    golden: Golden, key: str, metric: str, ours: np.ndarray, theirs: np.ndarray
) -> np.ndarray:
    """The error of every entry of one array, in units of its tolerance's metric."""
    difference = np.abs(ours - theirs)
    if metric in ("abs", "u8", "u8f"):
        return difference
    if metric == "maxabs":
        largest = np.abs(theirs).max(initial=0)
        return difference / largest if largest else difference
    if metric in ("rel", "rel*"):
        error = difference / np.where(theirs == 0, 1, np.abs(theirs))
        if metric == "rel*":
            error = error[..., ~np.isin(golden.arrays["param_names"], _ROUNDING_ONLY)]
        return error
    if metric == "hue":
        turns = difference[..., :1] % 1
        return np.concatenate([np.minimum(turns, 1 - turns), difference[..., 1:]], axis=-1)
    assert metric.startswith("scaled:"), f"unknown metric {metric}"
    return difference / _scale(golden, key, metric.removeprefix("scaled:"))


def _delta(golden: Golden, keys: Iterable[str], results: Mapping[str, np.ndarray]) -> float:
    """|ours - theirs| / |theirs - start| over all arrays of a group."""
    distance = moved = 0.0
    for key in keys:
        theirs = np.float64(golden.arrays[key])
        _, _, rest = _base(key).partition("/")
        start = np.float64(golden.arrays.get(f"init/{rest}", 0))
        distance += np.sum((np.float64(results[key]) - theirs) ** 2)
        moved += np.sum((theirs - start) ** 2)
    return float(np.sqrt(distance / moved) if moved else np.sqrt(distance))


def _errors(
    golden: Golden, group: str, keys: list[str], results: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The error of a group; by name, as rows below the norm floor have their own tolerance."""
    metric = specifications(golden.name)[group]["metric"]
    if metric == "exact":
        return {group: float(any(not np.array_equal(results[k], golden.arrays[k]) for k in keys))}
    if metric == "delta":
        return {group: _delta(golden, keys, results)}
    worst: dict[str, list[float]] = {}
    with_rows = group + _BELOW_EPS in specifications(golden.name)
    for key in keys:
        ours, theirs = (np.asarray(x[key], np.float64) for x in (results, golden.arrays))
        error = _pointwise(golden, key, metric, ours, theirs)
        if with_rows:
            below = _row_categories(golden, key) == "below_eps"
            worst.setdefault(group + _BELOW_EPS, []).append(error[below].max(initial=0))
            error = error[~below]
        worst.setdefault(group, []).append(error.max(initial=0))
    # Unlike the built-in, numpy's maximum is NaN if any error is.
    return {name: float(np.max(errors)) for name, errors in worst.items()}


def compare(
    golden: Golden, results: Results, keys: list[str], mode: str
) -> list[tuple[float, str]]:
    """Each group's error in units of its tolerance, and a line that says so.

    Args:
      golden: the file to compare with.
      results: ours, under the keys of the file; may hold more.
      keys: what must be there and is compared.
      mode: how the results were computed, for messages.
    """
    assert keys, f"{golden.name} ({mode}): nothing to compare"
    missing = [key for key in keys if key not in results]
    assert not missing, f"{golden.name} ({mode}): no result for {missing[:10]}"
    arrays = {key: np.asarray(results[key]) for key in keys}
    shapes = {
        key: (array.shape, golden.arrays[key].shape)
        for key, array in arrays.items()
        if array.shape != golden.arrays[key].shape
    }
    assert not shapes, f"{golden.name} ({mode}): shapes (ours, golden) differ: {shapes}"

    members: dict[tuple[bool, str], list[str]] = {}
    for key in keys:
        group = group_of(golden.name, key)
        assert group is not None, f"{golden.name}: {key} has no tolerance"
        members.setdefault((key.startswith("float64/"), group), []).append(key)

    rows = []
    for (in_float64, group), group_keys in members.items():
        spec = specifications(golden.name)[group]
        if spec.get("information_only") and not in_float64:
            continue
        for label, error in _errors(golden, group, group_keys, arrays).items():
            tolerance = specifications(golden.name)[label]["tolerance"]
            if in_float64 and spec["metric"] != "exact":
                tolerance = float64_tolerance(golden.name)
            # NaN is as far off as can be.
            ratio = 0.0 if error == 0 else error / tolerance if tolerance and error > 0 else np.inf
            name = f"float64/{label}" if in_float64 else label
            rows.append((ratio, f"{name}: {error:.3g} of {tolerance:.3g}"))
    return rows


def _verdict(golden: Golden, rows: list[tuple[float, str]], mode: str) -> None:
    ratio, row = max(rows, default=(0.0, "none"))
    # Shown by `pytest -rP`: how much room the tolerances leave.
    print(f"{golden.name} ({mode}): {len(rows)} groups, worst {ratio:.2g}: {row}")
    off = "; ".join(row for ratio, row in rows if ratio > 1)
    assert not off, f"{golden.name} ({mode}) is off the golden numbers: {off}"


def check(golden: Golden, results: Results, keys: list[str], mode: str) -> None:
    """Asserts that results are within the tolerances; arguments as for `compare`."""
    _verdict(golden, compare(golden, results, keys, mode), mode)


def orders(count: int, attempts: int = 24) -> Iterator[np.ndarray]:
    """Orders of a batch of `count` examples, the given one first, none twice."""
    seen = set()
    for seed in range(attempts):
        order = np.random.default_rng(seed).permutation(count) if seed else np.arange(count)
        if order.tobytes() not in seen:
            seen.add(order.tobytes())
            yield order


# Rounding alone has never been seen to cost a hundred tolerances.
_HOPELESS = 1e4


def check_any(golden: Golden, roundings: Iterable[Results], keys: list[str], mode: str) -> None:
    """Asserts that one of several float32 roundings of the same mathematics is right.

    A ReLU whose input is zero up to rounding passes a gradient or not, by chance, and
    ten steps at a high rate multiply the difference. No tolerance covers that, so an
    order of the batch is looked for whose sums round as those of the golden run; for a
    wrong implementation there is none. The float64 arrays, where no input is that near
    to zero, get no second chance.

    Args:
      golden, keys, mode: as for `compare`.
      roundings: results of the same computation, each with other rounding.
    """
    first: list[tuple[float, str]] = []
    for number, results in enumerate(roundings):
        rows = compare(golden, results, keys, mode)
        worst = max(ratio for ratio, _ in rows)
        if worst <= 1:
            _verdict(golden, rows, f"{mode}, order {number}")
            return
        first = first or rows
        if _HOPELESS < worst < np.inf:
            break
    _verdict(golden, first, mode)


def tree(golden: Golden, prefix: str) -> dict[str, dict[str, np.ndarray]]:
    """The arrays under `prefix` as a Haiku tree {module: {leaf: array}}."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for key, array in golden.arrays.items():
        if key.startswith(prefix):
            module, _, leaf = key.removeprefix(prefix).rpartition("/")
            result.setdefault(module, {})[leaf] = array
    assert result, f"{golden.name} has no arrays under {prefix}"
    return result


def flatten(nested: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A Haiku tree as {module/leaf: array}, sorted by name."""
    flat = {f"{m}/{leaf}": value for m, leaves in nested.items() for leaf, value in leaves.items()}
    return dict(sorted(flat.items()))


def _normal(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(text.encode("utf-8"))).standard_normal(shape)


def recipe(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The stand-in for one parameter or BatchNorm average (golden/README.md)."""
    leaf = name.rpartition("/")[2]
    if leaf == "counter":
        return np.asarray(10, np.int32)
    noise = _normal(salt + name, shape)
    if "/mean_ema/" in name:
        value = 0.1 * noise
    elif "/var_ema/" in name:
        value = 1 + 0.1 * np.abs(noise)
    else:
        value = {"w": 0.05, "scale": 0.1, "b": 0.1, "offset": 0.1}[leaf] * noise
        value = 1 + value if leaf == "scale" else value
    return np.asarray(value, np.float32)


def projection(salt: str, name: str, array: np.ndarray) -> float:
    """The inner product with this name's direction, in float64."""
    return float(np.sum(np.float64(array) * direction(salt, name, np.shape(array))))


def direction(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The direction of a name, in float64."""
    return _normal(f"proj:{salt}{name}", shape)


def depth_of(encoder: str) -> str:
    """`network.depth` for an encoder's name in the files: `TinyResNet`, `ResNet50`."""
    return "tiny" if encoder == "TinyResNet" else encoder.removeprefix("ResNet")


def distance(sample: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> float:
    """The largest |F(q) - level|; where levels share an atom, any level inside it is right."""
    ordered = np.sort(sample)
    above = np.searchsorted(ordered, quantiles + SAME_VALUE, side="right") / len(sample)
    below = np.searchsorted(ordered, quantiles - SAME_VALUE, side="left") / len(sample)
    equal = np.diff(quantiles) <= SAME_VALUE
    shared = np.append(equal, False) | np.append(False, equal)
    # Inside an atom the distance is to the interval [F(q-), F(q)].
    nearest = np.where(shared, np.clip(levels, below, above), above)
    return float(np.abs(nearest - levels).max())
