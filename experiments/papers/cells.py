"""A number of a table that evaluates a checkpoint: what is printed, and the page that makes it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import papers


class Number(NamedTuple):
    """A printed number.

    Attributes:
      column: name of the column in the table.
      value: the number, in the unit of its metric (byol_jax/results/measures.py).
      metric: metric of the record that it compares with.
      elsewhere: what the paper prints for the same number in another place, if it differs.
      decimals: printed digits behind the point.
    """

    column: str
    value: float
    metric: str = "top1"
    elsewhere: str = ""
    decimals: int = 1


class Network(NamedTuple):
    """What a checkpoint must hold.

    Attributes:
      method: how it was trained: `byol`, `simclr`, `moco`, `simsiam` or `supervised`; `random` for
        any training, as only the initialisation is evaluated.
      depth, width: values of `config.network`.
      data: key of the row of Table 10 that it was trained on.
      variant: a key of `trainings.VARIANTS`, where the training is not the method's usual one.
      epochs: length of the training.
    """

    method: str
    depth: str = "50"
    width: float = 1.0
    data: str = "imagenet"
    variant: str = ""
    epochs: int = 1000


class Cell(NamedTuple):
    """The numbers of a table that one run gives, such as top-1 and top-5 of a network.

    Attributes:
      table: key of the table in `table=`: `3` is BYOL's, `simclr-8` is SimCLR's.
      row: method and architecture.
      column: the data set, or the share of labels.
      protocol: `linear`, `finetune` (whole networks), `supervised` (from scratch), `segmentation`,
        `depth`, or one that is not here yet: `detection`.
      numbers: printed numbers, at least one.
      page, options: what runs it, `experiments/PAGE.py:OPTIONS`; empty if no page does.
      changes: dotted keys of the page's config, with their values.
      benchmark: key of the row of Table 10 that it reads, or of a set with a target per pixel
        (byol_jax/data/dense/benchmarks.py).
      network: what `config.checkpoint` must be; None if the page trains from scratch.
      note: what the paper leaves open.
      reason: why no page runs it.
      released: file of the network among those that BYOL's authors released, in place of
        `config.checkpoint`.
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
    released: str = ""

    @property
    def name(self) -> str:
        """Row, protocol and column."""
        return f"{self.row}, {self.protocol}, {self.column}"

    @property
    def paper(self) -> str:
        """The paper, as it begins `table`; empty for BYOL's."""
        return self.table.rpartition("-")[0]

    @property
    def folder(self) -> str:
        """Name of the folder of its run, shared by the cells of all tables that this run gives."""
        changes = (f"{k.rpartition('.')[2]}={v}" for k, v in self.changes.items())
        words = [self.page, *filter(None, self.options.split(",")), *changes, self.benchmark]
        words += [self.released] if self.released else []
        return re.sub(r"[^a-z0-9.=]+", "-", "-".join(words))


TOP1_TOP5 = {"Top-1": "top1", "Top-5": "top5"}
ANOTHER_METHOD = "another method, nothing here makes its number"
NOT_YET = "not here yet: no page evaluates detection"
# The sets of BYOL Tables 3 and 8 and SimCLR Table B.5 in their order, and the keys of their rows in
# BYOL Table 10.
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
# The metrics of Table 10 that are not top-1.
_METRICS = {
    "Aircraft": "mean_per_class",
    "Pets": "mean_per_class",
    "Caltech-101": "mean_per_class",
    "Flowers": "mean_per_class",
    "VOC2007": "map_11",
}


def numbers(columns: Mapping[str, str], cells: papers.Cells) -> tuple[Number, ...]:
    """The printed numbers of cells; `columns` has the names of the columns and their metrics."""
    printed = papers.numbers([*columns], cells)
    decimals = {
        name: len(cell.partition(" ")[0].partition(".")[2])
        for name, cell in zip(columns, cells, strict=True)
    }
    return tuple(
        Number(name, value, columns[name], decimals=decimals[name])
        for name, (value, _) in printed.items()
    )


def of_set(column: str, cell: str) -> tuple[Number, ...]:
    """The number of a data set, by the metric of its row in Table 10."""
    return numbers({column: _METRICS.get(column, "top1")}, [cell])


def encoder(architecture: str) -> tuple[str, float]:
    """Depth and width of `ResNet-50 (2x)`."""
    match = re.fullmatch(r"ResNet-(50|101|152|200)(?: \((\d)x\))?", architecture)
    assert match, architecture
    return match[1], float(match[2] or 1)


def network(method: str, architecture: str, variant: str = "") -> Network:
    """The checkpoint of an architecture, pre-trained on ImageNet."""
    depth, width = encoder(architecture)
    return Network(method, depth, width, variant=variant)


def linear(
    table: str,
    row: str,
    architecture: str,
    cells: papers.Cells,
    method: str = "",
    options: str = "",
    reason: str = ANOTHER_METHOD,
) -> Cell:
    """Linear evaluation on ImageNet, by linear.py for a `method` that is trained here."""
    cell = Cell(table, f"{row} {architecture}", "ImageNet", "linear", numbers(TOP1_TOP5, cells))
    if not method:
        return cell._replace(reason=reason)
    return cell._replace(page="linear", options=options, network=network(method, architecture))


_SHARES = {
    "1%": "fraction=0.01,subset=published",
    "10%": "fraction=0.1,subset=published",
    "100%": "fraction=1",
}
# docs/deviations.md, 57 and 58.
_OVERLAP = (
    "the published subset has images of the local validation split, which chooses rate and epochs"
)
_ALL_LABELS = "30 epochs: SimCLR App. B.5 gives 60 for 1 % and 30 for 10 %, and none for 100 %"


def few_labels(
    table: str,
    row: str,
    shares: Mapping[str, Mapping[str, str]],
    checkpoint: Network | None,
    options: str = "",
    reason: str = "",
) -> Iterator[Cell]:
    """Fine-tuning on shares of the labels of ImageNet, by semi.py unless there is a reason.

    Args:
      table, row: key of the table and name of the row.
      shares: printed cells per share, with the keys `Top-1`, `Top-5` or both.
      checkpoint: the network that is fine-tuned.
      options: further options of semi.py.
      reason: why no page runs the row.
    """
    for share, printed in shares.items():
        columns = {name: TOP1_TOP5[name] for name in printed}
        cell = Cell(table, row, share, "finetune", numbers(columns, [*printed.values()]))
        if not cell.numbers:
            continue
        if reason:
            yield cell._replace(reason=reason)
            continue
        if "protocol=simclr" in options:  # without a validation split
            note = _ALL_LABELS if share == "100%" else ""
        else:
            note = "" if share == "100%" else _OVERLAP
        yield cell._replace(
            page="semi", options=_SHARES[share] + options, network=checkpoint, note=note
        )


# What the transfer rows of both papers start from: method and variant; `scratch` trains from
# scratch.
_TRANSFER_METHODS = {
    "BYOL (ours)": ("byol", ""),
    "SimCLR (repro)": ("simclr", "repro"),
    "SimCLR (ours)": ("simclr", ""),
    "Supervised-IN [8]": ("supervised", "baseline"),
    "Supervised": ("supervised", "baseline"),
    "Random init [8]": ("scratch", ""),
    "Random init": ("scratch", ""),
}


def transfer(
    table: str, protocol: str, rows: Sequence[papers.Cells], architecture: str
) -> Iterator[Cell]:
    """BYOL App. E on the twelve sets, by transfer.py or finetune.py."""
    for row, *cells in rows:
        for (column, benchmark), printed in zip(TRANSFER_SETS.items(), cells, strict=True):
            cell = Cell(
                *(table, row, column, protocol, of_set(column, printed)), benchmark=benchmark
            )
            yield _transfer_run(cell, architecture)


def _transfer_run(cell: Cell, architecture: str) -> Cell:
    if cell.row not in _TRANSFER_METHODS:
        return cell._replace(reason="of SimCLR's paper: table=simclr-B.5")
    page = "transfer" if cell.protocol == "linear" else "finetune"
    method, variant = _TRANSFER_METHODS[cell.row]
    if method != "scratch":
        return cell._replace(page=page, network=network(method, architecture, variant))
    depth, width = encoder(architecture)
    changes = {"encoder.depth": depth, "encoder.width": width, "image_size": 224}
    return cell._replace(page=page, options="init=random", changes=changes)


def run_of(cell: Cell) -> tuple[Any, ...] | None:
    """What makes the numbers of a cell; cells with the same run should have the same numbers."""
    if not cell.page:
        return None
    changes = tuple(sorted(cell.changes.items()))
    return cell.page, cell.options, changes, cell.benchmark, cell.network


def build(cells: Iterable[Cell]) -> dict[str, tuple[Cell, ...]]:
    """The cells of each table, by its key."""
    tables: dict[str, list[Cell]] = {}
    for cell in _marked([*cells]):
        tables.setdefault(cell.table, []).append(cell)
    return {table: tuple(same) for table, same in tables.items()}


def _marked(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells, each number with what other tables of its paper print for the same run."""
    printed: dict[Any, list[tuple[str, float]]] = {}
    for cell in cells:
        for number in cell.numbers:
            same = printed.setdefault((cell.paper, run_of(cell), number.metric), [])
            same.append((cell.table, number.value))
    for cell in cells:
        marked = []
        for number in cell.numbers if cell.page else ():
            same = printed[cell.paper, run_of(cell), number.metric]
            differing = [
                f"{v:.{number.decimals}f} in {place(table)}"
                for table, v in same
                if v != number.value
            ]
            words = ", ".join(filter(None, [number.elsewhere, *differing]))
            marked.append(number._replace(elsewhere=words))
        yield cell._replace(numbers=tuple(marked)) if cell.page else cell


def place(table: str) -> str:
    """Where a table is printed: `Table 3` for BYOL's, `SimCLR Table 8`."""
    return papers.place(table).removeprefix("BYOL ")
