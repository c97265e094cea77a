"""A row of an ablation table: its numbers as printed, and the keys that it changes in a recipe."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import papers


class Times(NamedTuple):
    """A number that depends on the size of the run: another base takes its own, times a factor.

    Attributes:
      printed: value in the table.
      default: value of the table's own recipe.
      root_of_batch: batch size of the recipe, where the number also goes with the root of the
        batch size (SimCLR App. B.1: 0.075 at 4096 is the rate of 0.3 scaled linearly); else 0.
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
Changes = dict[str, Value]
# Name and changes of a row.
Setting = tuple[str, Changes]

# Epochs of the recipes. byol: BYOL section 5 and App. G. simclr: SimCLR section 2.3.
# simclr_repro: SimCLR in BYOL's paper, with T and T' of BYOL's Table 6. They must be those, as
# Table 17 takes blur and solarization out of the T' of both methods.
# simsiam, moco: the lecture's ablations of SimSiam, and of MoCo v1, whose code has 200 epochs.
EPOCHS = {"byol": 300, "simclr": 100, "simclr_repro": 300, "simsiam": 100, "moco": 200}

TOP1 = ("top1",)
TOP1_TOP5 = ("top1", "top5")


class Row(NamedTuple):
    """A row of a table, or a cell of a grid.

    Attributes:
      table: key of the table in `table=`: `5b` is BYOL's, `simclr-4` is SimCLR's.
      row: number from 1, in printed order; methods side by side share their numbers.
      name: the setting in words.
      changes: dotted keys of the recipe's config, with their values.
      recipe: a key of `EPOCHS`.
      numbers: printed values; in percent, but `contrastive_entropy` in nats.
      spreads: half the difference of the best and the worst seed, where it is printed.
      note: what the paper leaves open, or says differently in another place.
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
        """`byol`, `simclr`, `simsiam` or `moco`."""
        return self.recipe.partition("_")[0]

    @property
    def epochs(self) -> int:
        """Epochs behind the printed numbers."""
        changed = self.changes.get("num_epochs")
        return int(changed.printed) if isinstance(changed, Times) else EPOCHS[self.recipe]

    @property
    def place(self) -> str:
        """Where it is printed: `BYOL Table 5b, row 3`."""
        return f"{papers.place(self.table)}, row {self.row}"

    @property
    def paper(self) -> str:
        """The printed numbers in words: `70.7 top-1`."""
        return ", ".join(
            f"{value}"
            + (f" +- {self.spreads[metric]}" if metric in self.spreads else "")
            + f" {metric.replace('_', ' ').replace('top', 'top-')}"
            for metric, value in self.numbers.items()
        )


class Table(NamedTuple):
    """A printed table and the meaning of its lines.

    Attributes:
      key: key of the table in `table=`.
      setting: maps the cells before the numbers of a line to the name and changes of its row.
      lines: printed rows, each ending with one cell per metric.
      metrics: names of the numbers of a line.
      recipe: a key of `EPOCHS`.
      notes: notes by row number.
      first: number of the first row.
    """

    key: str
    setting: Callable[..., Setting]
    lines: Sequence[papers.Cells]
    metrics: Sequence[str] = TOP1
    recipe: str = "byol"
    notes: Mapping[int, str] = {}
    first: int = 1


def build(tables: Iterable[Table]) -> dict[str, tuple[Row, ...]]:
    """The rows of each table, by its key; tables of one key, such as methods, are joined."""
    built: dict[str, tuple[Row, ...]] = {}
    for table in tables:
        built[table.key] = built.get(table.key, ()) + tuple(_rows(table))
    return built


def _rows(table: Table) -> Iterator[Row]:
    for row, cells in enumerate(table.lines, start=table.first):
        split = len(cells) - len(table.metrics)
        name, changes = table.setting(*cells[:split])
        printed = papers.numbers(table.metrics, cells[split:])
        yield Row(
            *(table.key, row, name, changes, table.recipe),
            numbers={name: value for name, (value, _) in printed.items()},
            spreads={
                metric: spread for metric, (_, spread) in printed.items() if spread is not None
            },
            note=table.notes.get(row, ""),
        )
