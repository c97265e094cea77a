"""The tables of the papers as they are printed: one text file per paper, and their parser.

A file has a heading per table, such as `[Table 5b]`, comments that begin with `#`, and a line per
printed row with its cells between bars.

Adding a paper takes four edits: a text file in this folder; its name in `NAMES`; the meaning of
its rows, in ablation_tables.py (changes of a pre-training config) or in paper_tables.py (pages that
evaluate a checkpoint); and the titles of its tables in reproduce.py, which writes
docs/reproduce.md. others.txt has numbers of no paper, but of the READMEs of the authors' code.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

# The text file of each paper, and the name of its method. Keys of `table=` begin with the name of
# the file, as in `simclr-5`, except BYOL's. The lecture's tables have names in place of numbers.
NAMES = {"byol": "BYOL", "simclr": "SimCLR", "lecture": "Lecture"}

Cells = Sequence[str]


@functools.cache
def read(paper: str) -> Mapping[str, Sequence[Cells]]:
    """The printed rows of each table of a paper, by heading.

    Raises:
      ValueError: the file is not in the format above, naming the line.
    """
    path = pathlib.Path(__file__).with_name(f"{paper}.txt")
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, name: str) -> dict[str, list[list[str]]]:
    """The printed rows of each table in the text of a file.

    Args:
      text: contents of the file.
      name: name of the file, for errors.

    Raises:
      ValueError: as for `read`.
    """
    tables: dict[str, list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            heading = line.strip().removeprefix("[").removesuffix("]")
            if heading in tables or not line.strip().endswith("]"):
                raise ValueError(f"{name}:{number}: {line!r} must be a new heading in brackets")
            rows = tables[heading] = []
        elif rows is None:
            raise ValueError(f"{name}:{number}: {line!r} must stand below a heading in brackets")
        else:
            rows.append([cell.strip() for cell in line.split("|")])
    empty = [heading for heading, rows in tables.items() if not rows]
    if empty:
        raise ValueError(f"{name}: [{empty[0]}] must have at least one row")
    return tables


def filled(rows: Sequence[Cells]) -> Iterator[list[str]]:
    """The rows of a table in which an empty first cell is that of the row above."""
    first = ""
    for cells in rows:
        first = cells[0] or first
        yield [first, *cells[1:]]


def grid(rows: Sequence[Cells]) -> Iterator[list[str]]:
    """A two-way table line by line: the row's heading, the column's heading, and the cell."""
    (_, *columns), *lines = rows
    for heading, *cells in lines:
        for column, cell in zip(columns, cells, strict=True):
            yield [heading, column, cell]


def numbers(names: Sequence[str], cells: Cells) -> dict[str, tuple[float, float | None]]:
    """Value and spread of each printed number, such as `18.8 +- 0.7`; a dash is left out.

    Args:
      names: names of the numbers, in printed order.
      cells: printed cells.
    """
    printed = {}
    for name, cell in zip(names, cells, strict=True):
        if cell != "-":
            value, _, spread = cell.partition(" +- ")
            printed[name] = (float(value), float(spread) if spread else None)
    return printed


def place(table: str) -> str:
    """Where a table is printed: `BYOL Table 5b`, `BYOL App. J.2`, `SimCLR Figure 5`, `BYOL text`.

    The lecture's are `Lecture, linear`, and so on.
    """
    paper, _, number = table.rpartition("-")
    if number.startswith("figure"):
        number = number.replace("figure", "Figure ")
    elif paper != "lecture" and number != "text":
        number = f"App. {number}" if number in ("A", "G", "J.2") else f"Table {number}"
    return f"{NAMES[paper or 'byol']}{',' * (paper == 'lecture')} {number}"
