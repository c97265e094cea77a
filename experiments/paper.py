"""A table of the BYOL or SimCLR paper, and the same numbers measured on a checkpoint.

    python -m byol_jax.main --config=experiments/paper.py:table=3 \
        --config.checkpoint=runs/byol --workdir=runs/table3
    ... --config=experiments/paper.py:table=3,protocol=linear,cells=CIFAR10+DTD ...
    ... --config.folders='birdsnap=/data/birdsnap,aircraft=/data/aircraft'
    ... --config.datasets='CIFAR10=npz:/data/cifar10.npz'
    ... --config.datasets='VOC2012=voc:/data/VOCdevkit,NYU=nyu:/data/nyu'       for 4a, 4b, 11, 12
    ... --config=experiments/paper.py:table=10          which data sets are on this machine

Runs the cells of the table whose data set is on this machine and whose network is that of the
checkpoint, each by the page of its protocol (linear.py, transfer.py, semi.py, finetune.py,
supervised.py, segmentation.py, depth.py). It prints the paper's number, ours, their difference, and
the protocol as it was run; all other cells are listed with the reason. Percent have no unit; where
less is better, the difference says whether it is better or worse. The same command resumes where it
was stopped, and runs nothing twice.

Options:
- table=1, 2, 3, 4a, 4b, 7 to 13 of BYOL; simclr-1 (its row Supervised), simclr-6, simclr-7,
  simclr-8, simclr-B.2, simclr-B.3, simclr-B.4 or simclr-B.5; text and simclr-text for numbers that
  stand in the text alone; lecture-1, the lecture's table of 100 to 800 epochs. Of detection, in 4a,
  11 and lecture-detection, only the printed numbers are here: nothing evaluates it yet. Of the
  ablations 5a to 20, the rows whose networks BYOL's authors released, with --config.released=DIR
  (docs/weights.md); tables of trainings, these and others such as lecture-moco, are those of
  ablate.py.
- row=: the row of that name, otherwise the rows whose names begin with it, as in row=BYOL. Rows
  that train networks from scratch (random init, supervised) run only if they are named in this
  way. Supervised networks stay in the folders of their cells, as checkpoints for other tables.
- cells=: columns, as in cells=CIFAR10+DTD or cells=1%.
- protocol=linear, finetune, supervised, segmentation, detection or depth.

`--config.override='num_steps=100,batch_size=64'` changes these keys in every cell that has them.
`--config.any_network=True` takes a checkpoint of another depth, width or pre-training set, and one
of a method that the tables do not have, which is printed under its own description. A BYOL network
never stands in a row of SimCLR, nor the other way round. The printed protocol names the overrides
and all that is not the paper's: other settings of the training, other numbers of images. A number
of another setting does not compare with the paper's.

Cost: that of the pages. `table=3` is twelve linear classifiers and twelve times 57 fine-tunings.
"""

import importlib
from typing import Any

import ml_collections
from ml_collections import config_dict

from experiments import ablation_tables, base, paper_tables
from experiments.papers import released, trainings
from experiments.papers.cells import Cell, place

PROTOCOLS = ("linear", "finetune", "supervised", "segmentation", "detection", "depth")


def select(table: str, row: str, cells: str, protocol: str) -> list[Cell]:
    """The cells of a table that the options name, in printed order.

    Raises:
      ValueError: there are none; the message lists the alternatives.
    """
    by_table = {**paper_tables.TABLES, **released.TABLES}
    tables = [*by_table, "10"]
    if table in ablation_tables.TABLES and table not in by_table:
        raise ValueError(
            f"table={table} has a training per row: give experiments/ablate.py:table={table}"
        )
    if table not in tables:
        raise ValueError(f"table={table!r} must be one of: {', '.join(tables)}")
    chosen = list(by_table.get(table, ()))
    if protocol:
        chosen = [cell for cell in chosen if cell.protocol == protocol]
    if row:
        whole = [cell for cell in chosen if cell.row.lower() == row.lower()]
        chosen = whole or [c for c in chosen if c.row.lower().startswith(row.lower())]
    if cells:
        wanted = [word.lower() for word in cells.split("+")]
        columns = {cell.column.lower() for cell in chosen}
        wrong = [word for word in wanted if word not in columns]
        if wrong:
            have = ", ".join(dict.fromkeys(cell.column for cell in chosen))
            raise ValueError(f"cells={wrong[0]!r} must be columns of these rows: {have or 'none'}")
        chosen = [cell for cell in chosen if cell.column.lower() in wanted]
    if not chosen and table != "10":
        rows = ", ".join(dict.fromkeys(cell.row for cell in by_table[table]))
        raise ValueError(
            f"row={row!r}, protocol={protocol!r} has no cell in table {table}: its rows are {rows}"
        )
    return chosen


def resolved(cell: Cell, named: bool) -> dict[str, Any]:
    """A cell and the config of its run, as plain values.

    Args:
      cell: the cell.
      named: whether its row was chosen by `row=`.
    """
    plain = cell._asdict() | {
        "name": cell.name,
        "place": place(cell.table),
        "numbers": [number._asdict() for number in cell.numbers],
        "changes": dict(cell.changes),
        "network": trainings.resolved(cell.network) if cell.network else None,
    }
    if not cell.page:
        return plain
    if cell.network is None and not named:
        plain["reason"] = "trains networks from scratch: to run it, name its row with row="
    page = importlib.import_module(f"experiments.{cell.page}")
    config = page.get_config(*filter(None, [cell.options]))
    config.update_from_flattened_dict(cell.changes)
    if "benchmark" in config:  # pages of sets with a target per pixel have none
        config.benchmark = cell.benchmark
    return plain | {"folder": cell.folder, "config": config.to_dict()}


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The job `paper`.

    Raises:
      ValueError: no such table, row, column or protocol.
    """
    chosen = base.parse_options(options, table="", row="", cells="", protocol="")
    if chosen["protocol"] not in ("", *PROTOCOLS):
        raise ValueError(f"protocol={chosen['protocol']!r} must be one of: {', '.join(PROTOCOLS)}")
    config = ml_collections.ConfigDict()
    config.job = "paper"
    config.table = chosen["table"]
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    # The method that trained the checkpoint: byol, simclr, moco, simsiam, supcon, densecl or
    # supervised. It is read from the checkpoint, and needed only where that does not say.
    config.method = config_dict.placeholder(str)
    # The data set that it was trained on, a name of Table 10 such as ImageNet; likewise.
    config.trained_on = config_dict.placeholder(str)
    # Folder with the checkpoints that BYOL's authors released, under their own names.
    config.released = config_dict.placeholder(str)
    config.network = "online"  # online | target
    # Accepts another depth, width or pre-training set, and a method that the tables do not have.
    config.any_network = False
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS; empty: the checkpoint's
    # Data sets by the names of their columns or of Table 10, NAME=DIR and NAME=DATASET, several
    # joined by commas. All others are those of TFDS.
    config.folders = ""
    config.datasets = ""
    config.override = ""  # KEY=VALUE for every cell with the key, several joined by commas
    cells = select(**chosen)
    config.cells = tuple(resolved(cell, bool(chosen["row"])) for cell in cells)
    # What the networks of the cells were trained with, by the names in the cells.
    config.trainings = trainings.configs_of(cell.network for cell in cells if cell.network)
    return config
