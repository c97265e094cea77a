"""The rows of the ablations whose networks were released."""

import pytest

from experiments import paper
from experiments.papers import released

FILES = {
    **{f"batchsize_{size}": ("16", f"batch size {size}") for size in (2048, 1024, 512, 256)},
    **{f"batchsize_{size}": ("16", f"batch size {size}") for size in (128, 64)},
    "no_grayscale": ("17", "Remove grayscale"),
    "no_color": ("17", "Remove color (jittering and grayscale)"),
    "crop_and_blur_only": ("17", "Crop and blur only"),
    "crop_only": ("17", "Crop only"),
    "crop_and_color_only": ("17", "Crop and color only"),
}


def test_each_file_but_the_baseline_is_one_row() -> None:
    rows = {
        cell.released.removeprefix("res50x1_").removesuffix(".pkl"): (table, cell.row)
        for table, cells in released.TABLES.items()
        for cell in cells
        if cell.released and "baseline" not in cell.released
    }
    assert {name: (table, row.partition(":")[0]) for name, (table, row) in rows.items()} == FILES


def test_every_baseline_has_the_papers_one_number() -> None:
    baselines = [
        cell
        for cells in released.TABLES.values()
        for cell in cells
        if cell.released == "res50x1_baseline.pkl"
    ]
    assert len(baselines) == len(released.TABLES) == 11
    for cell in baselines:
        numbers = {number.metric: number.value for number in cell.numbers}
        assert numbers == {"top1": 72.5} | ({"top5": 90.8} if "top5" in numbers else {}), cell
    assert len({cell.folder for cell in baselines}) == 1


@pytest.mark.parametrize("table", released.TABLES)
def test_a_page_has_the_rows(table: str) -> None:
    config = paper.get_config(f"table={table}")
    assert any(cell["released"] for cell in config.cells)
    assert all(cell["reason"] for cell in config.cells if not cell["released"])
    (training,) = config.trainings
    assert training["config"]["num_epochs"] == 300
