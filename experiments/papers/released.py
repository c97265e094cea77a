"""The rows of BYOL's ablation tables whose networks its authors released, as cells of paper.py.

Twelve checkpoints of ResNet-50 after 300 epochs, each of one of the three seeds behind its row. The
names are those of the files; whoever has them gives their folder as `--config.released`.
"""

from collections.abc import Mapping

from experiments import ablation_tables
from experiments.papers.cells import Cell, Network, Number
from experiments.papers.rows import Row

# By file, table and row. Every table varies one setting of the same recipe, the baseline.
_BASELINE = {
    **{"5a": 3, "5b": 1, "14a": 5, "14b": 5, "15a": 4, "15b": 3},
    **{"16": 1, "17": 1, "18": 1, "19": 1, "20": 1},
}
_BATCH_SIZES = (2048, 1024, 512, 256, 128, 64)
_AUGMENTATIONS = {
    "no_grayscale": "Remove grayscale",
    "no_color": "Remove color (jittering and grayscale)",
    "crop_and_blur_only": "Crop and blur only",
    "crop_only": "Crop only",
    "crop_and_color_only": "Crop and color only",
}


def _rows(table: str) -> list[Row]:
    return [row for row in ablation_tables.TABLES[table] if row.recipe == "byol"]


def _files(table: str) -> Mapping[int, str]:
    """Names of the released files by row of a table."""
    files = {_BASELINE[table]: "baseline"} if table in _BASELINE else {}
    if table == "16":
        files |= {row: f"batchsize_{size}" for row, size in enumerate(_BATCH_SIZES, start=2)}
    if table == "17":
        numbers = {row.name: row.row for row in _rows(table)}
        files |= {numbers[name]: file for file, name in _AUGMENTATIONS.items()}
    return {row: f"res50x1_{name}.pkl" for row, name in files.items()}


def _cell(table: str, row: Row, file: str) -> Cell:
    numbers = tuple(
        Number({"top1": "Top-1", "top5": "Top-5"}[metric], value, metric)
        for metric, value in row.numbers.items()
    )
    cell = Cell(table, row.name, "ImageNet", "linear", numbers, note=row.note)
    if not file:
        return cell._replace(
            reason=f"its network was not released: ablate.py:table={table},rows={row.row} trains it"
        )
    return cell._replace(page="linear", network=Network("byol", epochs=row.epochs), released=file)


# The cells of BYOL's rows by the key of their table.
TABLES: Mapping[str, tuple[Cell, ...]] = {
    table: tuple(_cell(table, row, _files(table).get(row.row, "")) for row in _rows(table))
    for table in _BASELINE
}
