"""The numbers of BYOL Tables 1, 2, 3, 7, 8, 9 and 13 and SimCLR Tables 6, 7, 8 and B.2 to B.5.

Pure data for paper.py, not a run by itself. Each table stands as it is printed, a line a row
(`x` for the multiplication sign, `yes` for a tick, no bold face); below it, what each row is here:
the page that makes the number and the network that the page must be given. Rows of other
people's methods, and of the other paper, say so instead.

A `Cell` is one run: the top-1 and the top-5 accuracy of a network are two numbers of one cell.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# ---------------------------------------------------------------- BYOL, as printed

# Method, top-1, top-5 under linear evaluation on ImageNet.
TABLE_1A = """
Local Agg. | 60.2 | -
PIRL [35] | 63.6 | -
CPC v2 [32] | 63.8 | 85.3
CMC [11] | 66.2 | 87.0
SimCLR [8] | 69.3 | 89.0
MoCo v2 [37] | 71.1 | -
InfoMin Aug. [12] | 73.0 | 91.1
BYOL (ours) | 74.3 | 91.6
"""
# Method, architecture, parameters, top-1, top-5.
TABLE_1B = """
SimCLR [8] | ResNet-50 (2x) | 94M | 74.2 | 92.0
CMC [11] | ResNet-50 (2x) | 94M | 70.6 | 89.7
BYOL (ours) | ResNet-50 (2x) | 94M | 77.4 | 93.6
CPC v2 [32] | ResNet-161 | 305M | 71.5 | 90.1
MoCo [9] | ResNet-50 (4x) | 375M | 68.6 | -
SimCLR [8] | ResNet-50 (4x) | 375M | 76.5 | 93.2
BYOL (ours) | ResNet-50 (4x) | 375M | 78.6 | 94.2
BYOL (ours) | ResNet-200 (2x) | 250M | 79.6 | 94.8
"""
# Method; top-1 with 1 % and 10 % of the labels, top-5 with 1 % and 10 %.
TABLE_2A = """
Supervised [77] | 25.4 | 56.4 | 48.4 | 80.4
InstDisc | - | - | 39.2 | 77.4
PIRL [35] | - | - | 57.2 | 83.8
SimCLR [8] | 48.3 | 65.6 | 75.5 | 87.8
BYOL (ours) | 53.2 | 68.8 | 78.4 | 89.0
"""
TABLE_2B = """
CPC v2 [32] | ResNet-161 | 305M | - | - | 77.9 | 91.2
SimCLR [8] | ResNet-50 (2x) | 94M | 58.5 | 71.7 | 83.0 | 91.2
BYOL (ours) | ResNet-50 (2x) | 94M | 62.2 | 73.5 | 84.1 | 91.7
SimCLR [8] | ResNet-50 (4x) | 375M | 63.0 | 74.4 | 85.8 | 92.6
BYOL (ours) | ResNet-50 (4x) | 375M | 69.1 | 75.7 | 87.9 | 92.5
BYOL (ours) | ResNet-200 (2x) | 250M | 71.2 | 77.7 | 89.5 | 93.7
"""
# The sets of Tables 3, 8 and B.5 in their order, and the keys of their rows in Table 10.
TRANSFER_SETS = {
    "Food101": "food101",
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "Birdsnap": "birdsnap",
    "SUN397": "sun397",
    "Cars": "cars",
    "Aircraft": "aircraft",
    "VOC2007": "voc2007",
    "DTD": "dtd",
    "Pets": "pets",
    "Caltech-101": "caltech101",
    "Flowers": "flowers",
}
TABLE_3_LINEAR = """
BYOL (ours) | 75.3 91.3 78.4 57.2 62.2 67.8 60.6 82.5 75.5 90.4 94.2 96.1
SimCLR (repro) | 72.8 90.5 74.4 42.4 60.6 49.3 49.8 81.4 75.7 84.6 89.3 92.6
SimCLR [8] | 68.4 90.6 71.6 37.4 58.8 50.3 50.3 80.5 74.5 83.6 90.3 91.2
Supervised-IN [8] | 72.3 93.6 78.3 53.7 61.9 66.7 61.0 82.8 74.9 91.5 94.5 94.7
"""
TABLE_3_FINETUNED = """
BYOL (ours) | 88.5 97.8 86.1 76.3 63.7 91.6 88.1 85.4 76.2 91.7 93.8 97.0
SimCLR (repro) | 87.5 97.4 85.3 75.0 63.9 91.4 87.6 84.5 75.4 89.4 91.7 96.6
SimCLR [8] | 88.2 97.7 85.9 75.9 63.5 91.3 88.1 84.1 73.2 89.2 92.1 97.0
Supervised-IN [8] | 88.3 97.5 86.4 75.8 64.3 92.1 86.0 85.0 74.6 92.1 93.3 97.6
Random init [8] | 86.9 95.9 80.2 76.1 53.6 91.4 85.9 67.3 64.8 81.5 72.6 92.0
"""
# Architecture (that of the line above where there is none), pre-train augmentations, logits
# regularization, top-1, top-5.
TABLE_7 = """
ResNet-50 (1x) | | | 74.3 | 91.6
 | yes | | 74.4 | 91.8
 | | yes | 74.7 | 91.8
 | yes | yes | 74.8 | 91.8
ResNet-50 (4x) | | | 78.6 | 94.2
 | yes | | 78.6 | 94.3
 | | yes | 78.9 | 94.3
 | yes | yes | 79.0 | 94.5
ResNet-200 (2x) | | | 79.6 | 94.8
 | yes | | 79.6 | 94.8
 | | yes | 79.8 | 95.0
 | yes | yes | 80.0 | 95.0
"""
# Two tables side by side: supervised; semi-supervised with all labels. Method, top-1, top-5.
TABLE_8 = """
Supervised[8] | 76.5 | - | SimCLR [8] | 76.0 | 93.1
AutoAugment [87] | 77.6 | 93.8 | SimCLR (repro) | 76.5 | 93.5
MaxUp [75] | 78.9 | 94.2 | BYOL | 77.7 | 93.9
"""
# Architecture, multiplier, weights; top-1 and top-5 of BYOL, of Supervised (ours); top-1 of
# Supervised [8].
TABLE_9 = """
ResNet-50 | 1x | 24M | 74.3 | 91.6 | 76.4 | 92.9 | 76.5
ResNet-101 | 1x | 43M | 76.4 | 93.0 | 78.0 | 94.0 | -
ResNet-152 | 1x | 58M | 77.3 | 93.7 | 79.1 | 94.5 | -
ResNet-200 | 1x | 63M | 77.8 | 93.9 | 79.3 | 94.6 | -
ResNet-50 | 2x | 94M | 77.4 | 93.6 | 79.9 | 95.0 | 77.8
ResNet-101 | 2x | 170M | 78.7 | 94.3 | 80.3 | 95.0 | -
ResNet-50 | 3x | 211M | 78.2 | 93.9 | 80.2 | 95.0 | -
ResNet-152 | 2x | 232M | 79.0 | 94.6 | 80.6 | 95.3 | -
ResNet-200 | 2x | 250M | 79.6 | 94.9 | 80.1 | 95.2 | -
ResNet-50 | 4x | 375M | 78.6 | 94.2 | 80.7 | 95.3 | 78.9
ResNet-101 | 3x | 382M | 78.4 | 94.2 | 80.7 | 95.3 | -
ResNet-152 | 3x | 522M | 79.5 | 94.6 | 80.9 | 95.2 | -
"""
# Places365, ImageNet, and the sets of Table 3 without VOC2007.
TABLE_13 = """
BYOL-IN | 51.0 74.3 75.3 91.3 78.4 57.3 62.6 67.2 60.6 76.5 90.4 94.3 96.1
BYOL-PL | 53.2 58.5 64.7 84.5 66.1 28.8 64.2 55.6 55.9 68.5 66.1 84.3 90.0
SimCLR-PL | 53.0 56.5 61.7 80.8 61.1 21.2 62.5 40.1 44.3 64.3 59.4 77.1 85.9
"""

# ---------------------------------------------------------------- SimCLR, as printed

# Method, architecture, millions of parameters, top-1, top-5.
SIMCLR_6 = """
Local Agg. | ResNet-50 | 24 | 60.2 | -
MoCo | ResNet-50 | 24 | 60.6 | -
PIRL | ResNet-50 | 24 | 63.6 | -
CPC v2 | ResNet-50 | 24 | 63.8 | 85.3
SimCLR (ours) | ResNet-50 | 24 | 69.3 | 89.0
Rotation | RevNet-50 (4x) | 86 | 55.4 | -
BigBiGAN | RevNet-50 (4x) | 86 | 61.3 | 81.9
AMDIM | Custom-ResNet | 626 | 68.1 | -
CMC | ResNet-50 (2x) | 188 | 68.4 | 88.2
MoCo | ResNet-50 (4x) | 375 | 68.6 | -
CPC v2 | ResNet-161 (*) | 305 | 71.5 | 90.1
SimCLR (ours) | ResNet-50 (2x) | 94 | 74.2 | 92.0
SimCLR (ours) | ResNet-50 (4x) | 375 | 76.5 | 93.2
"""
# Method, architecture, top-5 with 1 % and 10 % of the labels.
SIMCLR_7 = """
Supervised baseline | ResNet-50 | 48.4 | 80.4
Pseudo-label | ResNet-50 | 51.6 | 82.4
VAT+Entropy Min. | ResNet-50 | 47.0 | 83.4
UDA (w. RandAug) | ResNet-50 | - | 88.5
FixMatch (w. RandAug) | ResNet-50 | - | 89.1
S4L (Rot+VAT+En. M.) | ResNet-50 (4x) | - | 91.2
InstDisc | ResNet-50 | 39.2 | 77.4
BigBiGAN | RevNet-50 (4x) | 55.2 | 78.8
PIRL | ResNet-50 | 57.2 | 83.8
CPC v2 | ResNet-161(*) | 77.9 | 91.2
SimCLR (ours) | ResNet-50 | 75.5 | 87.8
SimCLR (ours) | ResNet-50 (2x) | 83.0 | 91.2
SimCLR (ours) | ResNet-50 (4x) | 85.8 | 92.6
"""
# ResNet-50 (4x) on the sets of Table 3.
SIMCLR_8_LINEAR = """
SimCLR (ours) | 76.9 95.3 80.2 48.4 65.9 60.0 61.2 84.2 78.9 89.2 93.9 95.0
Supervised | 75.2 95.7 81.2 56.4 64.9 68.8 63.8 83.8 78.7 92.3 94.1 94.2
"""
SIMCLR_8_FINETUNED = """
SimCLR (ours) | 89.4 98.6 89.0 78.2 68.1 92.1 87.0 86.6 77.8 92.1 94.1 97.6
Supervised | 88.7 98.3 88.7 77.8 67.0 91.4 88.0 86.5 78.8 93.2 94.2 98.0
Random init | 88.3 96.0 81.9 77.0 53.7 91.3 84.8 69.4 64.1 82.7 72.5 92.5
"""
# Fine-tuned after pre-training with broader augmentations: top-1 and top-5 with 1 %, 10 %, 100 %.
SIMCLR_B2 = """
ResNet-50 | 49.4 | 76.6 | 66.1 | 88.1 | 76.0 | 93.1
ResNet-50 (2x) | 59.4 | 83.7 | 71.8 | 91.2 | 79.1 | 94.8
ResNet-50 (4x) | 64.1 | 86.6 | 74.8 | 92.8 | 80.4 | 95.4
"""
# Supervised top-1: model (that of the line above where there is none), epochs; crop, colour,
# colour and blur.
SIMCLR_B3 = """
ResNet-50 | 90 | 76.5 | 75.6 | 75.3
 | 500 | 76.2 | 76.5 | 76.7
 | 1000 | 75.8 | 75.2 | 76.4
ResNet-50 (4x) | 90 | 78.4 | 78.9 | 78.7
 | 500 | 78.3 | 78.4 | 78.5
 | 1000 | 77.9 | 78.2 | 78.3
"""
# Method, architecture, top-1 with 1 % and 10 % of the labels.
SIMCLR_B4 = """
Supervised baseline | ResNet-50 | 25.4 | 56.4
UDA (w. RandAug) | ResNet-50 | - | 68.8
FixMatch (w. RandAug) | ResNet-50 | - | 71.5
S4L (Rot+VAT+Ent. Min.) | ResNet-50 (4x) | - | 73.2
CPC v2 | ResNet-161(*) | 52.7 | 73.1
SimCLR (ours) | ResNet-50 | 48.3 | 65.6
SimCLR (ours) | ResNet-50 (2x) | 58.5 | 71.7
SimCLR (ours) | ResNet-50 (4x) | 63.0 | 74.4
"""
# ResNet-50 on the sets of Table 3.
SIMCLR_B5_LINEAR = """
SimCLR (ours) | 68.4 90.6 71.6 37.4 58.8 50.3 50.3 80.5 74.5 83.6 90.3 91.2
Supervised | 72.3 93.6 78.3 53.7 61.9 66.7 61.0 82.8 74.9 91.5 94.5 94.7
"""
SIMCLR_B5_FINETUNED = """
SimCLR (ours) | 88.2 97.7 85.9 75.9 63.5 91.3 88.1 84.1 73.2 89.2 92.1 97.0
Supervised | 88.3 97.5 86.4 75.8 64.3 92.1 86.0 85.0 74.6 92.1 93.3 97.6
Random init | 86.9 95.9 80.2 76.1 53.6 91.4 85.9 67.3 64.8 81.5 72.6 92.0
"""

# ---------------------------------------------------------------- what they are here


class Number(NamedTuple):
    """A printed number.

    Attributes:
      column: as in the table.
      value: in percent.
      metric: the record's that it compares with.
      elsewhere: what the paper prints for the same number in another place, if it differs.
    """

    column: str
    value: float
    metric: str = "top1"
    elsewhere: str = ""


class Network(NamedTuple):
    """What a checkpoint must hold.

    Attributes:
      method: what it was trained by: `byol`, `simclr` or `supervised`.
      depth, width: as in `config.network`.
      data: the row of Table 10 that it was trained on.
      variant: of the pre-training, where it is not the paper's usual one.
    """

    method: str
    depth: str = "50"
    width: float = 1.0
    data: str = "imagenet"
    variant: str = ""


class Cell(NamedTuple):
    """The numbers of a table that one run gives.

    Attributes:
      table: as in `table=`: `3` is BYOL's, `simclr-8` is SimCLR's.
      row: method and architecture.
      column: the data set, or the share of labels.
      protocol: `linear`, `finetune` (whole networks) or `supervised` (from scratch).
      numbers: at least one.
      page, options: what runs it, `experiments/PAGE.py:OPTIONS`; empty if nothing here does.
      changes: dotted keys of the page's config.
      benchmark: the row of Table 10 that it reads.
      network: what `config.checkpoint` must be; None if the page trains from scratch.
      note: where the paper leaves something open.
      reason: why nothing runs it.
    """

    table: str
    row: str
    column: str
    protocol: str
    numbers: tuple[Number, ...]
    page: str = ""
    options: str = ""
    changes: Mapping[str, Any] = {}
    benchmark: str = "imagenet"
    network: Network | None = None
    note: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """As in the printed table."""
        return f"{self.row}, {self.protocol}, {self.column}"

    @property
    def folder(self) -> str:
        """Of its run: cells of one run have one name, whatever their tables."""
        changes = (f"{k.rpartition('.')[2]}={v}" for k, v in self.changes.items())
        words = [self.page, *filter(None, self.options.split(",")), *changes, self.benchmark]
        return re.sub(r"[^a-z0-9.=]+", "-", "-".join(words))


def rows_of(block: str) -> list[list[str]]:
    """The cells of each line; in tables of many columns, spaces part the numbers."""
    rows = [[cell.strip() for cell in line.split("|")] for line in block.strip("\n").splitlines()]
    return [row if len(row) > 2 else [row[0], *row[1].split()] for row in rows]


def _numbers(columns: Mapping[str, str], values: list[str]) -> tuple[Number, ...]:
    """Those of `values` that are no dash; `columns` are their names and metrics."""
    pairs = zip(columns.items(), values, strict=True)
    return tuple(Number(name, float(v), metric) for (name, metric), v in pairs if v != "-")


_TOP = {"Top-1": "top1", "Top-5": "top5"}
# Table 10's third column where it is not top-1.
_METRICS = {
    "Aircraft": "mean_per_class",
    "Pets": "mean_per_class",
    "Caltech-101": "mean_per_class",
    "Flowers": "mean_per_class",
    "VOC2007": "map_11",
}
_OTHER = "another method, nothing here makes its number"


def encoder(architecture: str) -> tuple[str, float]:
    """Depth and width of `ResNet-50 (2x)`."""
    found = re.fullmatch(r"ResNet-(50|101|152|200)(?: \((\d)x\))?", architecture)
    assert found, architecture
    return found[1], float(found[2] or 1)


def _network(method: str, architecture: str, variant: str = "") -> Network:
    depth, width = encoder(architecture)
    return Network(method, depth, width, variant=variant)


def _imagenet_linear(
    table: str, row: str, architecture: str, values: list[str], ours: Mapping[str, str]
) -> Cell:
    """Linear evaluation on ImageNet; `ours` has the methods and `linear.py`'s protocol for each."""
    cell = Cell(table, f"{row} {architecture}", "ImageNet", "linear", _numbers(_TOP, values))
    if row not in ours:
        return cell._replace(reason=_reason(row, "simclr-6"))
    method = "simclr" if row.startswith("SimCLR") else "byol"
    return cell._replace(page="linear", options=ours[row], network=_network(method, architecture))


def _reason(row: str, theirs: str = "") -> str:
    """Why a row of a table is not run."""
    return f"of SimCLR's paper: table={theirs}" if row.startswith("SimCLR [8]") else _OTHER


def _table_1() -> Iterator[Cell]:
    for method, *values in rows_of(TABLE_1A):
        yield _imagenet_linear("1", method, "ResNet-50", values, {"BYOL (ours)": ""})
    for method, architecture, _, *values in rows_of(TABLE_1B):
        yield _imagenet_linear("1", method, architecture, values, {"BYOL (ours)": ""})


def _few_labels(
    table: str,
    row: str,
    architecture: str,
    columns: Mapping[str, Mapping[str, str]],
    network: Network | None,
    protocol: str,
    reason: str = "",
) -> Iterator[Cell]:
    """Fine-tuning on shares of the labels; `columns` has for each share metrics and values."""
    options = {
        "1%": "fraction=0.01,subset=published",
        "10%": "fraction=0.1,subset=published",
        "100%": "fraction=1",
    }
    for share, values in columns.items():
        names = {{"top1": "Top-1", "top5": "Top-5"}[metric]: metric for metric in values}
        numbers = _numbers(names, [*values.values()])
        if not numbers:
            continue
        cell = Cell(table, f"{row} {architecture}".strip(), share, "finetune", numbers)
        if reason:
            yield cell._replace(reason=reason)
        else:
            yield cell._replace(page="semi", options=options[share] + protocol, network=network)


def _table_2() -> Iterator[Cell]:
    rows = [(method, "ResNet-50", *values) for method, *values in rows_of(TABLE_2A)]
    rows += [(method, name, *values) for method, name, _, *values in rows_of(TABLE_2B)]
    for method, name, top1_1, top1_10, top5_1, top5_10 in rows:
        columns = {
            "1%": {"top1": top1_1, "top5": top5_1},
            "10%": {"top1": top1_10, "top5": top5_10},
        }
        reason = "of SimCLR's paper: table=simclr-7 and table=simclr-B.4"
        if not method.startswith("SimCLR"):
            reason = _OTHER
        network = None
        if method == "BYOL (ours)":
            reason, network = "", _network("byol", name)
        yield from _few_labels("2", method, name, columns, network, "", reason)


# What the transfer rows of both papers start from; `random` trains from scratch.
_TRANSFER_METHODS = {
    "BYOL (ours)": "byol",
    "SimCLR (repro)": "simclr",
    "SimCLR (ours)": "simclr",
    "Supervised-IN [8]": "supervised",
    "Supervised": "supervised",
    "Random init [8]": "random",
    "Random init": "random",
}


def _transfer(table: str, protocol: str, block: str, architecture: str) -> Iterator[Cell]:
    """App. E on the twelve sets."""
    for row, *values in rows_of(block):
        for (column, benchmark), value in zip(TRANSFER_SETS.items(), values, strict=True):
            numbers = _numbers({column: _METRICS.get(column, "top1")}, [value])
            cell = Cell(table, row, column, protocol, numbers, benchmark=benchmark)
            yield _transfer_run(cell, architecture)


def _transfer_run(cell: Cell, architecture: str) -> Cell:
    if cell.row not in _TRANSFER_METHODS:
        return cell._replace(reason=_reason(cell.row, "simclr-B.5"))
    page = "transfer" if cell.protocol == "linear" else "finetune"
    method = _TRANSFER_METHODS[cell.row]
    network = _network("byol" if method == "random" else method, architecture)
    if method != "random":
        return cell._replace(page=page, network=network)
    changes = {"encoder.depth": network.depth, "encoder.width": network.width, "image_size": 224}
    return cell._replace(page=page, options="init=random", changes=changes)


def _table_3() -> Iterator[Cell]:
    yield from _transfer("3", "linear", TABLE_3_LINEAR, "ResNet-50")
    yield from _transfer("3", "finetune", TABLE_3_FINETUNED, "ResNet-50")


def _table_7() -> Iterator[Cell]:
    architecture = ""
    for name, augmentations, logits, *values in rows_of(TABLE_7):
        architecture = name.replace(" (1x)", "") or architecture
        options = ["augment=pretrain"] * bool(augmentations)
        options += ["logits=regularized"] * bool(logits)
        words = ["pre-train augmentations"] * bool(augmentations)
        words += ["logits regularization"] * bool(logits)
        row = f"BYOL (ours) {architecture}" + "".join(f" + {word}" for word in words)
        yield Cell(
            *("7", row, "ImageNet", "linear", _numbers(_TOP, values)),
            page="linear",
            options=",".join(options),
            network=_network("byol", architecture),
        )


def _table_8() -> Iterator[Cell]:
    for method, top1, top5, semi, semi_top1, semi_top5 in rows_of(TABLE_8):
        reason = "of SimCLR's paper: table=simclr-B.3" if method == "Supervised[8]" else _OTHER
        numbers = _numbers(_TOP, [top1, top5])
        yield Cell("8", method, "100%", "supervised", numbers, reason=reason)
        columns = {"100%": {"top1": semi_top1, "top5": semi_top5}}
        network = Network("byol" if semi == "BYOL" else "simclr")
        reason = _reason(semi, "simclr-B.2") if semi == "SimCLR [8]" else ""
        yield from _few_labels("8", semi, "", columns, network, "", reason)


def _table_9() -> Iterator[Cell]:
    for name, multiplier, _, *values in rows_of(TABLE_9):
        architecture = name if multiplier == "1x" else f"{name} ({multiplier})"
        yield _imagenet_linear("9", "BYOL", architecture, values[:2], {"BYOL": ""})
        depth, width = encoder(architecture)
        yield Cell(
            *("9", f"Supervised (ours) {architecture}", "ImageNet", "supervised"),
            _numbers(_TOP, values[2:4]),
            page="supervised",
            options=f"depth={depth},width={width:g}",
        )
        if values[4] != "-":
            reason = "of SimCLR's paper: table=simclr-B.3 has the two others"
            if architecture != "ResNet-50 (2x)":
                reason = "of SimCLR's paper: table=simclr-B.3"
            numbers = _numbers({"Top-1": "top1"}, values[4:])
            row = f"Supervised [8] {architecture}"
            yield Cell("9", row, "ImageNet", "supervised", numbers, reason=reason)


# Places365 has no validation split (Table 10), and a rate is not chosen on test images.
_PLACES = {"learning_rates": (0.2,), "valid_split": ""}
_PLACES_NOTE = "rate 0.2: there is no validation split to choose one of App. D.1's five on"


def _table_13() -> Iterator[Cell]:
    sets = {"Places365": "places365", "ImageNet": "imagenet", **TRANSFER_SETS}
    del sets["VOC2007"]
    for row, *values in rows_of(TABLE_13):
        method, _, data = row.partition("-")
        network = Network(method.lower(), data={"IN": "imagenet", "PL": "places365"}[data])
        for (column, benchmark), value in zip(sets.items(), values, strict=True):
            numbers = _numbers({column: _METRICS.get(column, "top1")}, [value])
            cell = Cell("13", row, column, "linear", numbers, benchmark=benchmark, network=network)
            if column == "Places365":
                yield cell._replace(page="linear", changes=_PLACES, note=_PLACES_NOTE)
            else:
                yield cell._replace(page="linear" if column == "ImageNet" else "transfer")


def _simclr_6() -> Iterator[Cell]:
    ours = {"SimCLR (ours)": "protocol=simclr"}
    for method, architecture, _, *values in rows_of(SIMCLR_6):
        yield _imagenet_linear("simclr-6", method, architecture, values, ours)


def _simclr_few_labels(table: str, block: str, metric: str) -> Iterator[Cell]:
    for method, name, one, ten in rows_of(block):
        ours = method == "SimCLR (ours)"
        columns = {"1%": {metric: one}, "10%": {metric: ten}}
        network = _network("simclr", name) if ours else None
        reason = "" if ours else _OTHER
        yield from _few_labels(table, method, name, columns, network, ",protocol=simclr", reason)


def _simclr_8() -> Iterator[Cell]:
    yield from _transfer("simclr-8", "linear", SIMCLR_8_LINEAR, "ResNet-50 (4x)")
    yield from _transfer("simclr-8", "finetune", SIMCLR_8_FINETUNED, "ResNet-50 (4x)")


def _simclr_b2() -> Iterator[Cell]:
    for name, *values in rows_of(SIMCLR_B2):
        columns = {
            share: {"top1": values[2 * i], "top5": values[2 * i + 1]}
            for i, share in enumerate(("1%", "10%", "100%"))
        }
        network = _network("simclr", name, variant="broader augmentations (SimCLR App. B.2)")
        yield from _few_labels(
            "simclr-B.2", "SimCLR (ours)", name, columns, network, ",protocol=simclr"
        )


def _simclr_b3() -> Iterator[Cell]:
    # Plus signs join the words of `cells=`.
    augment = {"crop": "crop", "color": "color", "color and blur": "simclr"}
    architecture = ""
    for name, epochs, *values in rows_of(SIMCLR_B3):
        architecture = name or architecture
        depth, width = encoder(architecture)
        for (column, kind), value in zip(augment.items(), values, strict=True):
            number = Number(column, float(value))
            if (architecture, epochs, column) == ("ResNet-50", "1000", "color and blur"):
                number = number._replace(elsewhere="76.3 in SimCLR App. B.8.1")
            yield Cell(
                *("simclr-B.3", f"Supervised {architecture} {epochs} epochs", column),
                *("supervised", (number,)),
                page="supervised",
                options=f"depth={depth},width={width:g},epochs={epochs},augment={kind}",
            )


def _simclr_b5() -> Iterator[Cell]:
    yield from _transfer("simclr-B.5", "linear", SIMCLR_B5_LINEAR, "ResNet-50")
    yield from _transfer("simclr-B.5", "finetune", SIMCLR_B5_FINETUNED, "ResNet-50")


def place(table: str) -> str:
    """`Table 3`, `SimCLR Table 8`."""
    paper, _, number = table.rpartition("-")
    return f"SimCLR Table {number}" if paper else f"Table {number}"


def run_of(cell: Cell) -> tuple[Any, ...] | None:
    """What makes its numbers; cells of one run should print the same ones."""
    if not cell.page:
        return None
    changes = tuple(sorted(cell.changes.items()))
    return cell.page, cell.options, changes, cell.benchmark, cell.network


def _marked(cells: list[Cell]) -> Iterator[Cell]:
    """The same, each number with what other tables of its paper say of the same run and metric."""
    printed: dict[Any, list[tuple[str, float]]] = {}
    for cell in cells:
        for number in cell.numbers:
            known = printed.setdefault((_paper(cell), run_of(cell), number.metric), [])
            known.append((cell.table, number.value))
    for cell in cells:
        numbers = []
        for number in cell.numbers if cell.page else ():
            same = printed[_paper(cell), run_of(cell), number.metric]
            others = [f"{v:.1f} in {place(table)}" for table, v in same if v != number.value]
            words = ", ".join(filter(None, [number.elsewhere, *others]))
            numbers.append(number._replace(elsewhere=words))
        yield cell._replace(numbers=tuple(numbers)) if cell.page else cell


def _paper(cell: Cell) -> str:
    return cell.table.rpartition("-")[0]


def _tables() -> dict[str, tuple[Cell, ...]]:
    cells = [
        *itertools.chain(_table_1(), _table_2(), _table_3(), _table_7(), _table_8()),
        *itertools.chain(_table_9(), _table_13(), _simclr_6()),
        *_simclr_few_labels("simclr-7", SIMCLR_7, "top5"),
        *itertools.chain(_simclr_8(), _simclr_b2(), _simclr_b3()),
        *_simclr_few_labels("simclr-B.4", SIMCLR_B4, "top1"),
        *_simclr_b5(),
    ]
    tables: dict[str, list[Cell]] = {}
    for cell in _marked(cells):
        tables.setdefault(cell.table, []).append(cell)
    return {table: tuple(rows) for table, rows in tables.items()}


# The cells of each table, in its order.
TABLES = _tables()
