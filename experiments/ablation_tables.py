"""The ablations of BYOL (Tables 5, 14 to 22, App. G and J.2) and SimCLR (Tables 1, 4, 5, B.1).

Pure data for ablations.py, not a run by itself. Each table stands as it is printed, a line a row
(`+-` for half the difference of the best and the worst seed, `yes` for a tick, no bold face);
below it, what each row changes in its recipe. SimCLR's Figures 5 and 8 are pictures: their rows are
here without numbers.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# ---------------------------------------------------------------- BYOL, as printed

# Target, tau_base, top-1.
TABLE_5A = """
Constant random network | 1 | 18.8 +- 0.7
Moving average of online | 0.999 | 69.8
Moving average of online | 0.99 | 72.5
Moving average of online | 0.9 | 68.4
Stop gradient of online | 0 | 0.3
"""
# Method, predictor, target network, beta, top-1.
TABLE_5B = """
BYOL | yes | yes | 0 | 72.5
- | yes | yes | 1 | 70.9
- | | yes | 1 | 70.7
SimCLR | | | 1 | 69.4
- | yes | | 1 | 69.1
- | yes | | 0 | 0.3
- | | yes | 0 | 0.2
- | | | 0 | 0.1
"""
# Depth of the projector (that of the line above where there is none), of the predictor, top-1,
# top-5.
TABLE_14A = """
1 | 1 | 61.9 | 86.0
 | 2 | 65.0 | 86.8
 | 3 | 65.7 | 86.8
2 | 1 | 71.5 | 90.7
 | 2 | 72.5 | 90.8
 | 3 | 71.4 | 90.4
3 | 1 | 71.4 | 90.4
 | 2 | 72.1 | 90.5
 | 3 | 72.1 | 90.5
"""
# Output size of the projector, top-1, top-5.
TABLE_14B = """
16 | 69.9 +- 0.3 | 89.9
32 | 71.3 | 90.6
64 | 72.2 | 90.9
128 | 72.5 | 91.0
256 | 72.5 | 90.8
512 | 72.6 | 91.0
"""
# Base learning rate, top-1, top-5.
TABLE_15A = """
0.01 | 34.8 +- 3.0 | 60.8 +- 3.2
0.1 | 65.0 | 87.0
0.2 | 71.7 | 90.6
0.3 | 72.5 | 90.8
0.4 | 72.3 | 90.6
0.5 | 71.5 | 90.1
1 | 69.4 | 89.2
"""
# Weight decay (printed as 1 . 10^-7), top-1, top-5.
TABLE_15B = """
1e-7 | 72.1 | 90.4
5e-7 | 72.6 | 91.0
1e-6 | 72.5 | 90.8
5e-6 | 71.0 +- 0.3 | 90.0
1e-5 | 69.6 +- 0.4 | 89.3
"""
# Batch size, top-1 of BYOL and SimCLR (repro), top-5 of both.
TABLE_16 = """
4096 | 72.5 | 67.9 | 90.8 | 88.5
2048 | 72.4 | 67.8 | 90.7 | 88.5
1024 | 72.2 | 67.4 | 90.7 | 88.1
512 | 72.2 | 66.5 | 90.8 | 87.6
256 | 71.8 | 64.3 +- 2.1 | 90.7 | 86.3 +- 1.0
128 | 69.6 +- 0.5 | 63.6 | 89.6 | 85.9
64 | 59.7 +- 1.5 | 59.2 +- 2.9 | 83.2 +- 1.2 | 83.0 +- 1.9
"""
# Image augmentation, and as in Table 16.
TABLE_17 = """
Baseline | 72.5 | 67.9 | 90.8 | 88.5
Remove flip | 71.9 | 67.3 | 90.6 | 88.2
Remove blur | 71.2 | 65.2 | 90.3 | 86.6
Remove color (jittering and grayscale) | 63.4 +- 0.7 | 45.7 | 85.3 +- 0.5 | 70.6
Remove color jittering | 71.8 | 63.7 | 90.7 | 85.9
Remove grayscale | 70.3 | 61.9 | 89.8 | 84.1
Remove blur in T' | 72.4 | 67.5 | 90.8 | 88.4
Remove solarize in T' | 72.3 | 67.7 | 90.8 | 88.2
Remove blur and solarize in T' | 72.2 | 67.4 | 90.8 | 88.1
Symmetric blurring/solarization | 72.5 | 68.1 | 90.8 | 88.4
Crop only | 59.4 +- 0.3 | 40.3 +- 0.3 | 82.4 | 64.8 +- 0.4
Crop and flip only | 60.1 +- 0.3 | 40.2 | 83.0 +- 0.3 | 64.8
Crop and color only | 70.7 | 64.2 | 90.0 | 86.2
Crop and blur only | 61.1 +- 0.3 | 41.7 | 83.9 | 66.4
"""
# beta (that of the line above where there is none), alpha, top-1, top-5. Without negatives alpha
# does nothing: the 0.1 beside beta 0 is that of Table 5b.
TABLE_18 = """
0 | 0.1 | 72.5 | 90.8
0.1 | 0.01 | 72.2 | 90.7
 | 0.1 | 72.4 | 90.9
 | 0.3 | 72.7 | 91.0
 | 1 | 72.6 | 90.9
 | 3 | 72.5 | 90.9
 | 10 | 72.5 | 90.9
0.5 | 0.01 | 70.9 | 90.2
 | 0.1 | 72.0 | 90.8
 | 0.3 | 72.7 | 91.2
 | 1 | 72.7 | 91.1
 | 3 | 72.6 | 91.1
 | 10 | 72.5 | 91.0
1 | 0.01 | 53.9 +- 0.5 | 77.5 +- 0.5
 | 0.1 | 70.9 | 90.3
 | 0.3 | 72.7 | 91.1
 | 1 | 72.7 | 91.1
 | 3 | 72.6 | 91.0
 | 10 | 72.6 | 91.1
"""
# Method, predictor, target parameters (theta, sg(theta), xi), beta, top-1. The words SimCLR stand
# beside row 5, as Table 5b and App. G.5 describe it.
TABLE_19 = """
BYOL | yes | xi | 0 | 72.5
 | yes | xi | 1 | 70.9
 | | xi | 1 | 70.7
 | yes | sg(theta) | 1 | 70.2
SimCLR | | theta | 1 | 69.4
 | yes | sg(theta) | 1 | 70.1
 | | sg(theta) | 1 | 69.2
 | yes | theta | 1 | 69.0
 | yes | sg(theta) | 0 | 5.5
 | yes | theta | 0 | 0.3
 | | xi | 0 | 0.2
 | | sg(theta) | 0 | 0.1
 | | theta | 0 | 0.1
"""
# Normalization, top-1, top-5.
TABLE_20 = """
l2-norm | 72.5 | 90.8
LayerNorm | 72.5 +- 0.4 | 90.1
No normalization | 67.4 | 87.1
BatchNorm | 65.3 | 85.3
"""
# lambda, top-1.
TABLE_21 = """
0 | 0.01
1 | 5.5
2 | 62.8 +- 1.5
10 | 66.6
20 | 66.3 +- 0.3
Baseline | 72.5
"""
# Rows of mu, columns of lambda, top-1.
TABLE_22 = """
 | 1 | 1.5 | 2 | 5 | 10
1 | 3.2 +- 2.9 | 25.7 +- 6.6 | 60.8 +- 2.9 | 66.7 +- 0.4 | 66.9
1.5 | 1.4 +- 2.0 | 9.2 +- 7.0 | 55.2 +- 5.8 | 61.5 +- 0.6 | 66.0 +- 0.3
2 | 2.0 +- 2.8 | 5.3 +- 1.9 | 15.8 +- 13.4 | 60.9 +- 0.8 | 66.3
5 | 1.5 +- 0.9 | 2.5 +- 1.5 | 2.5 +- 1.4 | 20.5 +- 2.0 | 60.5 +- 0.6
10 | 0.1 | 2.1 +- 0.3 | 1.9 +- 0.8 | 2.8 +- 0.4 | 8.3 +- 6.8
"""

# ---------------------------------------------------------------- SimCLR, as printed

# Strengths of the colour distortion, and AutoAugment. Its second row, supervised models, is no
# pre-training: SimCLR Table B.3 and supervised.py have those.
SIMCLR_1 = """
 | 1/8 | 1/4 | 1/2 | 1 | 1 (+Blur) | AutoAug
SimCLR | 59.6 | 61.0 | 62.6 | 63.2 | 64.5 | 61.1
Supervised | 77.0 | 76.7 | 76.5 | 75.7 | 75.4 | 77.1
"""
SIMCLR_4 = """
Margin | NT-Logi. | Margin (sh) | NT-Logi.(sh) | NT-Xent
50.9 | 51.6 | 57.5 | 57.9 | 63.9
"""
# Whether l2-normalised (as the line above where it does not say), tau, entropy, contrastive
# accuracy, top-1.
SIMCLR_5 = """
Yes | 0.05 | 1.0 | 90.5 | 59.7
 | 0.1 | 4.5 | 87.8 | 64.4
 | 0.5 | 8.2 | 68.2 | 60.7
 | 1 | 8.3 | 59.1 | 58.0
No | 10 | 0.5 | 91.7 | 57.2
 | 100 | 0.5 | 92.1 | 57.0
"""
# Batch sizes, epochs; top-1 with linear and with square root scaling of the rate.
SIMCLR_B1 = """
Batch size \\ Epochs | 100 | 200 | 400 | 800
256 | 57.5 / 62.8 | 61.9 / 64.3 | 64.7 / 65.7 | 66.6 / 66.5
512 | 60.7 / 63.8 | 64.0 / 65.6 | 66.2 / 66.7 | 67.8 / 67.4
1024 | 62.8 / 64.3 | 65.3 / 66.1 | 67.2 / 67.2 | 68.5 / 68.3
2048 | 64.0 / 64.7 | 66.1 / 66.8 | 68.1 / 67.9 | 68.9 / 68.8
4096 | 64.6 / 64.5 | 66.5 / 66.8 | 68.2 / 68.0 | 68.9 / 69.1
8192 | 64.8 / 64.8 | 66.6 / 67.0 | 67.8 / 68.3 | 69.0 / 69.1
"""

# ---------------------------------------------------------------- what they are here


class Times(NamedTuple):
    """A number that depends on the size of the run: on another base, as many times that base's.

    Attributes:
      printed: in the table.
      default: of the table's own recipe.
      root_of_batch: the recipe's batch size, where the number also goes with its root: SimCLR
        App. B.1's 0.075, the same rate at 4096 as 0.3 scaled linearly.
    """

    printed: float
    default: float
    root_of_batch: int = 0

    def on(self, key: str, base: Mapping[str, Any]) -> int | float:
        """The value of `key` on a base, given as dotted keys; on the paper's, the printed one."""
        value = self.printed * (base[key] / self.default)
        if self.root_of_batch:
            value *= math.sqrt(base["batch_size"] / self.root_of_batch)
        return round(value) if isinstance(base[key], int) else value


Value = str | int | float | bool | Times

# Epochs of the recipes. byol: BYOL section 5 and App. G. simclr: SimCLR section 2.3.
# simclr_repro: SimCLR in BYOL's paper, with T and T' of BYOL's Table 6. They must be those, as
# Table 17 takes blur and solarization out of the T' of both methods.
EPOCHS = {"byol": 300, "simclr": 100, "simclr_repro": 300}


class Row(NamedTuple):
    """A row of a table, or a cell of a grid.

    Attributes:
      table: as in `table=`: `5b` is BYOL's, `simclr-4` is SimCLR's.
      row: from 1, in printed order; methods side by side share their numbers.
      name: what it is, in words.
      changes: dotted keys of its recipe's config.
      recipe: a key of `EPOCHS`.
      numbers: as printed; percent, but `contrastive_entropy`, which is in nats.
      spreads: half the difference of the best and the worst seed, where it is printed.
      note: what the paper leaves open, or says otherwise in another place.
    """

    table: str
    row: int
    name: str
    changes: Mapping[str, Value]
    recipe: str
    numbers: Mapping[str, float]
    spreads: Mapping[str, float] = {}
    note: str = ""

    @property
    def method(self) -> str:
        """`byol` or `simclr`."""
        return self.recipe.partition("_")[0]

    @property
    def epochs(self) -> int:
        """Of the printed numbers."""
        changed = self.changes.get("num_epochs")
        return int(changed.printed) if isinstance(changed, Times) else EPOCHS[self.recipe]

    @property
    def place(self) -> str:
        """As in `BYOL Table 5b, row 3`."""
        return f"{place(self.table)}, row {self.row}"

    @property
    def paper(self) -> str:
        """The printed numbers in words: `70.7 top-1`."""
        return ", ".join(
            f"{value}"
            + (f" +- {self.spreads[metric]}" if metric in self.spreads else "")
            + f" {metric.replace('_', ' ').replace('top', 'top-')}"
            for metric, value in self.numbers.items()
        )


def place(table: str) -> str:
    """`BYOL Table 5b`, `BYOL App. J.2`, `SimCLR Figure 5`."""
    paper, _, number = table.rpartition("-")
    if number.startswith("figure"):
        number = number.replace("figure", "Figure ")
    else:
        number = f"App. {number}" if number in ("G", "J.2") else f"Table {number}"
    return f"SimCLR {number}" if paper else f"BYOL {number}"


def cells_of(block: str) -> list[list[str]]:
    """The cells of each line."""
    return [[cell.strip() for cell in line.split("|")] for line in block.strip("\n").splitlines()]


def _filled(block: str) -> Iterator[list[str]]:
    """The same; an empty first cell is that of the line above."""
    first = ""
    for cells in cells_of(block):
        first = cells[0] or first
        yield [first, *cells[1:]]


_TOP = ("top1", "top5")


def _row(
    table: str,
    row: int,
    name: str,
    changes: Mapping[str, Value],
    values: Sequence[str] = (),
    *,
    recipe: str = "byol",
    metrics: Sequence[str] = _TOP,
    note: str = "",
) -> Row:
    """A row of printed values such as `18.8 +- 0.7`."""
    numbers, spreads = {}, {}
    for metric, value in zip(metrics, values, strict=False):
        number, _, spread = value.partition(" +- ")
        numbers[metric] = float(number)
        if spread:
            spreads[metric] = float(spread)
    return Row(table, row, name, changes, recipe, numbers, spreads, note)


def _views(**changes: float) -> dict[str, Value]:
    """The same entries in both columns of BYOL Table 6."""
    return {
        f"augment.{view}.{name}": value
        for view, (name, value) in itertools.product(("view1", "view2"), changes.items())
    }


# A stop-gradient without negatives, which is tau 0 at a predictor rate of 1.
_STOPPED = "5.5 in Tables 19 and 21, 3.2 +- 2.9 in Table 22, 0.3 in Table 5a"
# App. J: "set tau = 0 over the full training", "directly hard copying the weights". Table 5a calls
# the same thing a stop-gradient; the rows of Tables 21 and 22 so differ in numbers alone.
_HARD_COPY: dict[str, Value] = {"tau_base": 0.0, "tau_schedule": "constant"}


def _table_5a() -> Iterator[Row]:
    for i, (target, tau, value) in enumerate(cells_of(TABLE_5A), start=1):
        changes: dict[str, Value] = {"tau_base": float(tau)}
        name, note = f"moving average of online, tau_base {tau}", ""
        if target.startswith("Constant"):
            changes = {"target": "constant"}
            name = "constant random network, tau 1"
        elif target.startswith("Stop"):
            changes = {"target": "stop_gradient"}
            name = "stop-gradient of online, tau 0 throughout"
            note = _STOPPED
        yield _row("5a", i, name, changes, [value], note=note)


# At beta 0 Eq. 5 has the gradient of Eq. 2: rows with and without negatives are one program. App.
# G.4: "we set the temperature alpha to its best value in the SimCLR setting (i.e., alpha = 0.1)".
def _info_nce(beta: str, alpha: str = "0.1") -> dict[str, Value]:
    return {
        "objective.name": "info_nce",
        "objective.beta": float(beta),
        "objective.temperature": float(alpha),
    }


_TARGETS = {
    "xi": ("ema", "target network"),
    "sg(theta)": ("stop_gradient", "stop-gradient of online"),
    "theta": ("online", "no target network"),
}


def _between(label: str, predictor: str, target: str, beta: str) -> tuple[str, dict[str, Value]]:
    """Name and changes of a row of Tables 5b and 19."""
    kind, words = _TARGETS[target]
    name = f"{'predictor' if predictor else 'no predictor'}, {words}, beta {beta}"
    changes = _info_nce(beta) | {"target": kind}
    if not predictor:
        changes["network.predictor.kind"] = "none"
    return (f"{label}: {name}" if label.strip("-") else name), changes


_BASELINE_SIMCLR = "69.4 in Tables 5b and 19, 69.2 in App. G.5"
_NO_TARGET = "69.1 in Table 5b, 69.0 in Table 19"


def _table_5b() -> Iterator[Row]:
    notes = {4: _BASELINE_SIMCLR, 5: _NO_TARGET}
    for i, (label, predictor, target, beta, value) in enumerate(cells_of(TABLE_5B), start=1):
        name, changes = _between(label, predictor, "xi" if target else "theta", beta)
        yield _row("5b", i, name, changes, [value], note=notes.get(i, ""))


def _table_14a() -> Iterator[Row]:
    for i, (projector, predictor, *values) in enumerate(_filled(TABLE_14A), start=1):
        changes: dict[str, Value] = {
            "network.projector.depth": int(projector),
            "network.predictor.depth": int(predictor),
        }
        name = f"projector of depth {projector}, predictor of depth {predictor}"
        yield _row("14a", i, name, changes, values)


def _table_14b() -> Iterator[Row]:
    for i, (size, *values) in enumerate(cells_of(TABLE_14B), start=1):
        changes: dict[str, Value] = {"network.projector.output_size": int(size)}
        yield _row("14b", i, f"projection of size {size}", changes, values)


def _table_15a() -> Iterator[Row]:
    for i, (rate, *values) in enumerate(cells_of(TABLE_15A), start=1):
        changes: dict[str, Value] = {"optimizer.base_learning_rate": Times(float(rate), 0.3)}
        yield _row("15a", i, f"base learning rate {rate}", changes, values)


def _table_15b() -> Iterator[Row]:
    for i, (decay, *values) in enumerate(cells_of(TABLE_15B), start=1):
        changes: dict[str, Value] = {"optimizer.weight_decay": Times(float(decay), 1e-6)}
        yield _row("15b", i, f"weight decay {decay}", changes, values)


def _of_both(
    table: str, rows: Iterable[tuple[str, Mapping[str, Value], Sequence[str], str]]
) -> Iterator[Row]:
    """Rows (name, changes, values, note) of both methods side by side, as in Table 16."""
    rows = list(rows)
    for method, recipe in enumerate(("byol", "simclr_repro")):
        for i, (name, changes, values, note) in enumerate(rows, start=1):
            yield _row(table, i, name, changes, values[method::2], recipe=recipe, note=note)


def _table_16() -> Iterator[Row]:
    # Section 5: gradients are averaged over N steps, the target follows once every N steps. The
    # negatives are those of one such step.
    def rows() -> Iterator[tuple[str, Mapping[str, Value], Sequence[str], str]]:
        for size, *values in cells_of(TABLE_16):
            count = 4096 // int(size)
            name = f"batch size {size}: 4096 in {count} part{'s' * (count > 1)}"
            note = "section 5 ends its sweep at 128" if size == "64" else ""
            yield name, {"accumulate": count}, values, note

    yield from _of_both("16", rows())


_NO_COLOR = {"color_jitter": 0.0, "grayscale": 0.0}
_NO_BLUR = {"blur": 0.0, "solarize": 0.0}
# Crops are never removed: "Crop only" is without all else that Table 6 has.
_AUGMENTATIONS: Mapping[str, dict[str, Value]] = {
    "Baseline": {},
    "Remove flip": _views(flip=0.0),
    "Remove blur": _views(blur=0.0),
    "Remove color (jittering and grayscale)": _views(**_NO_COLOR),
    "Remove color jittering": _views(color_jitter=0.0),
    "Remove grayscale": _views(grayscale=0.0),
    "Remove blur in T'": {"augment.view2.blur": 0.0},
    "Remove solarize in T'": {"augment.view2.solarize": 0.0},
    "Remove blur and solarize in T'": {"augment.view2.blur": 0.0, "augment.view2.solarize": 0.0},
    "Symmetric blurring/solarization": _views(blur=0.5, solarize=0.2),  # App. G.3
    "Crop only": _views(flip=0.0, **_NO_COLOR, **_NO_BLUR),
    "Crop and flip only": _views(**_NO_COLOR, **_NO_BLUR),
    "Crop and color only": _views(flip=0.0, **_NO_BLUR),
    "Crop and blur only": _views(flip=0.0, **_NO_COLOR, solarize=0.0),
}


def _table_17() -> Iterator[Row]:
    yield from _of_both(
        "17", ((name, _AUGMENTATIONS[name], values, "") for name, *values in cells_of(TABLE_17))
    )


def _table_18() -> Iterator[Row]:
    for i, (beta, alpha, *values) in enumerate(_filled(TABLE_18), start=1):
        name = f"beta {beta}, temperature {alpha}"
        yield _row("18", i, name, _info_nce(beta, alpha), values)


def _table_19() -> Iterator[Row]:
    twice = "printed twice: 70.2 in row 4, 70.1 in row 6"
    collapsed = "0.1, chance; 0.01 for collapsed networks in App. J.1 and Table 21"
    notes = {
        **dict.fromkeys((4, 6), twice),
        5: _BASELINE_SIMCLR,
        8: _NO_TARGET,
        9: _STOPPED,
        **dict.fromkeys((12, 13), collapsed),
    }
    for i, (label, predictor, target, beta, value) in enumerate(cells_of(TABLE_19), start=1):
        name, changes = _between(label, predictor, target, beta)
        yield _row("19", i, name, changes, [value], note=notes.get(i, ""))


def _table_20() -> Iterator[Row]:
    # By the names of the rows: where the text pairs them with n_BN, n_LN and n_ID it is out of
    # order (docs/deviations.md).
    known = {"l2-norm": "l2", "LayerNorm": "layer", "No normalization": "none"}
    for i, (name, *values) in enumerate(cells_of(TABLE_20), start=1):
        normalization = known.get(name, "batch")
        note = ""
        if normalization != "l2":
            true = {"layer": "n_LN", "none": "n_ID", "batch": "n_BN"}[normalization]
            said = {"layer": "n_BN", "none": "n_LN", "batch": "n_ID"}[normalization]
            note = f"{true}; the text of App. G.6 says {said}"
        changes: dict[str, Value] = {"objective.normalization": normalization}
        yield _row("20", i, f"{name} in the loss", changes, values, note=note)


def _table_21() -> Iterator[Row]:
    notes = {
        "0": "0.01 in Table 21 and App. J.1, below chance; collapsed networks have 0.1 in Table 19",
        "1": _STOPPED,
        "2": "62.8 +- 1.5 in Table 21, 60.8 +- 2.9 in Table 22",
        "10": "66.6 in Table 21, 66.9 in Table 22; section 5 has 66.5 for a higher rate",
        "20": "section 5 has 66.5 for a higher rate",
    }
    for i, (factor, value) in enumerate(cells_of(TABLE_21), start=1):
        if factor == "Baseline":
            yield _row("21", i, "baseline: BYOL", {}, [value])
        else:
            name = f"tau 0, predictor rate x {factor}"
            changes = _HARD_COPY | {"optimizer.predictor_rate": float(factor)}
            yield _row("21", i, name, changes, [value], note=notes[factor])


def _table_22() -> Iterator[Row]:
    (_, *factors), *lines = cells_of(TABLE_22)
    grid = [
        (line[0], factor, value)
        for line in lines
        for factor, value in zip(factors, line[1:], strict=True)
    ]
    notes = {
        ("1", "1"): _STOPPED,
        ("1", "2"): "60.8 +- 2.9 in Table 22, 62.8 +- 1.5 in Table 21",
        ("1", "10"): "66.9 in Table 22, 66.6 in Table 21; section 5 has 66.5 for a higher rate",
        ("5", "5"): "20.5 +- 2.0 here; section 5 has about 25 for raising both rates",
    }
    for i, (projector, predictor, value) in enumerate(grid, start=1):
        name = f"tau 0, projector rate x {projector}, predictor rate x {predictor}"
        changes = _HARD_COPY | {
            "optimizer.projector_rate": float(projector),
            "optimizer.predictor_rate": float(predictor),
        }
        note = notes.get((projector, predictor), "")
        yield _row("22", i, name, changes, [value], note=note)


def _app_g() -> Iterator[Row]:
    note = 'no factor is printed, this one is ours; "higher than 72% top-1 accuracy"'
    for i, factor in enumerate((0.5, 2.0), start=1):
        changes: dict[str, Value] = {"network.init_scale": factor}
        yield _row("G", i, f"initial weights x {factor:g}", changes, note=note)
    note = '"leads to network divergence" (App. G), "may lead to unstable results" (Table 15)'
    for recipe in ("byol", "simclr_repro"):
        changes = {"optimizer.weight_decay": 0.0}
        yield _row("G", 3, "no weight decay", changes, recipe=recipe, note=note)


def _app_j2() -> Iterator[Row]:
    changes = _HARD_COPY | {
        "network.predictor.kind": "optimal_linear",
        "network.projector.output_size": 16,
    }
    name = "tau 0, optimal linear predictor of each batch, projection of size 16"
    note = "50.3 in App. J.2, 52.5 in section 5"
    yield _row("J.2", 1, name, changes, ["50.3"], note=note)


def _strength(strength: float) -> dict[str, float]:
    """The largest changes of SimCLR's colour distortion (SimCLR App. A)."""
    jitter = {f"{name}_max": 0.8 * strength for name in ("brightness", "contrast", "saturation")}
    return jitter | {"hue_max": 0.2 * strength}


_ONE_HUNDRED = "the same recipe has 64.5 in Table 1, 64.4 in Table 5, 64.6 and 64.5 in Table B.1"


def _simclr_1() -> Iterator[Row]:
    columns, (_, *values), _ = cells_of(SIMCLR_1)
    for i, (column, value) in enumerate(zip(columns[1:], values, strict=True), start=1):
        strength, _, blur = column.partition(" ")
        name, note = f"color distortion of strength {column}", ""
        if strength == "AutoAug":
            # "does not work better than simple cropping + (stronger) color distortion"
            changes = _views(autoaugment=1.0, color_jitter=0.0, grayscale=0.0, blur=0.0)
            name = "AutoAugment"
            note = "in place of color distortion and blur; crop and flip stay"
        else:
            above, _, below = strength.partition("/")
            changes = _views(**_strength(int(above) / int(below or 1)), blur=0.5 if blur else 0.0)
            note = _ONE_HUNDRED if blur else ""
        yield _row("simclr-1", i, name, changes, [value], recipe="simclr", note=note)


def _simclr_4() -> Iterator[Row]:
    objectives = {
        "Margin": "margin_triplet",
        "NT-Logi.": "nt_logistic",
        "NT-Xent": "nt_xent",
    }
    # App. B.10.
    notes = {
        "margin_triplet": "the best of rates 0.01 to 1 and margins 0, 0.4, 0.8, 1.6, not named: "
        "here the recipe's rate and margin 0.4",
        "nt_logistic": "the best of rates 0.01 to 1 and temperatures 0.1, 0.2, 0.5, 1, not named: "
        "here those of the recipe",
        "nt_xent": f"63.9 with negatives of one view (footnote 8), here of both; {_ONE_HUNDRED}",
    }
    columns, values = cells_of(SIMCLR_4)
    for i, (column, value) in enumerate(zip(columns, values, strict=True), start=1):
        name, _, semi_hard = column.partition("(")
        objective = objectives[name.strip()]
        changes: dict[str, Value] = {
            "objective.name": objective,
            "objective.semi_hard": bool(semi_hard),
        }
        name = name.strip().replace("Logi.", "Logistic") + (", semi-hard" if semi_hard else "")
        yield _row(*("simclr-4", i, name, changes, [value]), recipe="simclr", note=notes[objective])


def _simclr_5() -> Iterator[Row]:
    metrics = ("contrastive_entropy", "contrastive_top1", "top1")
    for i, (l2, temperature, *values) in enumerate(_filled(SIMCLR_5), start=1):
        changes: dict[str, Value] = {
            "objective.l2": l2 == "Yes",
            "objective.temperature": float(temperature),
        }
        name = f"{'cosines' if l2 == 'Yes' else 'dot products'}, temperature {temperature}"
        note = _ONE_HUNDRED if i == 2 else ""
        yield _row(
            *("simclr-5", i, name, changes, values), recipe="simclr", metrics=metrics, note=note
        )


def _simclr_b1() -> Iterator[Row]:
    (_, *columns), *lines = cells_of(SIMCLR_B1)
    rates: Mapping[str, dict[str, Value]] = {
        "linear": {"optimizer.rate_scaling": "linear"},
        "sqrt": {
            "optimizer.rate_scaling": "sqrt",
            "optimizer.base_learning_rate": Times(0.075, 0.3, root_of_batch=4096),
        },
    }
    row = itertools.count(1)
    for batch, *cells in lines:
        for epochs, cell in zip(columns, cells, strict=True):
            note = "at batch 4096 both scalings are one rate" if batch == "4096" else ""
            for scaling, value in zip(rates, cell.split(" / "), strict=True):
                changes = rates[scaling] | {
                    "batch_size": Times(int(batch), 4096),
                    "num_epochs": Times(int(epochs), 100),
                }
                name = f"batch size {batch}, {epochs} epochs, {scaling} scaling of the rate"
                yield _row(
                    *("simclr-B.1", next(row), name, changes, [value]), recipe="simclr", note=note
                )


# Figure 5's transformations in its order. Color distortion and blur keep the probabilities that are
# part of them in SimCLR App. A, a crop is "always followed by a random horizontal flip" of 50 %
# (App. A); the others, of which it says none, are applied always.
_TRANSFORMATIONS: Mapping[str, Mapping[str, float]] = {
    "crop": {"crop": 1.0, "flip": 0.5},
    "cutout": {"cutout": 1.0},
    "color": {"color_jitter": 0.8, "grayscale": 0.2, **_strength(1.0)},
    "sobel": {"sobel": 1.0},
    "noise": {"noise": 1.0},
    "blur": {"blur": 0.5},
    "rotate": {"rotate": 1.0},
}


def _simclr_figure_5() -> Iterator[Row]:
    nothing = _views(flip=0.0, **_NO_COLOR, **_NO_BLUR)
    pairs = list(itertools.product(_TRANSFORMATIONS, repeat=2))
    for i, (first, second) in enumerate(pairs, start=1):
        both = {**_TRANSFORMATIONS[first], **_TRANSFORMATIONS[second]}
        one_branch = {f"augment.view1.{name}": value for name, value in both.items()}
        changes: dict[str, Value] = {"data.same_crop": True, **nothing, **one_branch}
        name, note = f"{first} alone", "its value is in a picture"
        if first != second:
            name = f"{first} with {second}"
            # The paper applies them "sequentially", `augment.make_view` in its own order.
            note += f"; the run of row {pairs.index((second, first)) + 1}"
        yield _row("simclr-figure5", i, name, changes, recipe="simclr", note=note)


def _simclr_figure_8() -> Iterator[Row]:
    note = (
        "its value is in a picture; section 4.2: nonlinear is 3 better than linear and more than "
        "10 better than none, whatever the size"
    )
    heads: list[tuple[str, dict[str, Value]]] = [
        ("no projection head", {"network.projector.kind": "none"})
    ]
    for word, kind in (("linear", "linear"), ("nonlinear", "mlp")):
        # The axis of the picture; h itself has 2048.
        for size in (32, 64, 128, 256, 512, 1024, 2048):
            changes: dict[str, Value] = {
                "network.projector.kind": kind,
                "network.projector.output_size": size,
            }
            heads.append((f"{word} projection head of size {size}", changes))
    for i, (name, changes) in enumerate(heads, start=1):
        yield _row("simclr-figure8", i, name, changes, recipe="simclr", note=note)


def _tables() -> dict[str, tuple[Row, ...]]:
    tables: dict[str, list[Row]] = {}
    for row in itertools.chain(
        *(_table_5a(), _table_5b(), _table_14a(), _table_14b(), _table_15a(), _table_15b()),
        *(_table_16(), _table_17(), _table_18(), _table_19(), _table_20(), _table_21()),
        *(_table_22(), _app_g(), _app_j2(), _simclr_1(), _simclr_4(), _simclr_5()),
        *(_simclr_b1(), _simclr_figure_5(), _simclr_figure_8()),
    ):
        tables.setdefault(row.table, []).append(row)
    return {table: tuple(rows) for table, rows in tables.items()}


# The rows of each table, in its order.
TABLES = _tables()
