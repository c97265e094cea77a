"""Rows of an ablation table, trained one after the other, beside the paper's numbers.

    python -m byol_jax.main --config=experiments/ablate.py:table=5b,base=digits \
        --workdir=runs/table5b
    ... --config=experiments/ablate.py:table=5b,base=digits,rows=1+8,seeds=3 ...
    ... --config=experiments/ablate.py:table=17,method=simclr,base=cifar10 \
        --config.override='dataset=npz:cifar10.npz,num_epochs=20' ...

Each row is its config in ablations.py, pre-trained with the seeds 1337, 1338, ... in a folder per
seed, and evaluated as the page of its base says. The printed table has the paper's numbers, the
mean of ours over the seeds with half the difference of the highest and the lowest (as in BYOL
App. G), and the spread of the projection: below 0.05 the network has collapsed. A row that diverged
is marked. The same command resumes where it was stopped, and runs nothing twice.

A run on more than 200,000 images does not evaluate itself. Run linear.py with the folder of the
run, `tableT/ROW/SEED`, as both `--config.checkpoint` and `--workdir`; the same command of this page
then prints its numbers.

Options:
- table, base, method: as in ablations.py.
- rows: as in 1+3; all rows by default.
- seeds: number of seeds per row.
`--config.override` changes a key in every row.

Cost: that of the base, times rows, times seeds. Only numbers on the base byol compare with the
paper's. On another base the question is whether the rows come in the same order.
"""

import ml_collections

from experiments import ablations, base


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The job `ablate`.

    Raises:
      ValueError: no such table, row or base.
    """
    chosen = base.parse_options(options, table="5b", base="byol", method="", rows="", seeds=1)
    if chosen["seeds"] < 1:
        raise ValueError(f"seeds={chosen['seeds']} must be at least 1")
    rows = ablations.rows(chosen["table"], chosen["method"])
    if chosen["rows"]:
        words = chosen["rows"].split("+")
        numbers = list(dict.fromkeys(str(row.row) for row in rows))
        wrong = [word for word in words if word not in numbers]
        if wrong:
            raise ValueError(
                f"rows={wrong[0]!r} must be rows of table {chosen['table']}, joined by +: "
                f"{', '.join(numbers)}"
            )
        rows = [row for word in words for row in rows if str(row.row) == word]
    config = ml_collections.ConfigDict()
    config.job = "ablate"
    config.table = chosen["table"]
    config.base = chosen["base"]
    config.seeds = chosen["seeds"]
    config.override = ""  # KEY=VALUE for every row, several joined by commas
    config.rows = tuple(
        {
            "row": row.row,
            "method": row.method,
            "name": row.name,
            "numbers": {
                metric: f"{value}" + (f" +- {row.spreads[metric]}" if metric in row.spreads else "")
                for metric, value in row.numbers.items()
            },
            "note": row.note,
            "config": ablations.config_of(row, chosen["base"]).to_dict(),
        }
        for row in rows
    )
    return config
