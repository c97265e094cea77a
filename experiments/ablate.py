"""Rows of an ablation table, trained one after the other: paper and ours side by side.

    python -m byol_jax.main --config=experiments/ablate.py:table=5b,base=digits \
        --workdir=runs/table5b
    ... --config=experiments/ablate.py:table=5b,base=digits,rows=1+8,seeds=3 ...
    ... --config=experiments/ablate.py:table=17,method=simclr,base=cifar10 \
        --config.override='dataset=npz:cifar10.npz,num_epochs=20' ...

Each row is the config of `ablations.py`, pre-trained with the seeds 1337, 1338, ... in a folder of
its own, and evaluated as its base says. The table has the paper's numbers, the mean over seeds of
ours with half the difference of the highest and the lowest (as BYOL App. G has it), and the spread
of the projection: below 0.05 a network has collapsed. A row that diverges says so. The same
command goes on where it was stopped, and runs nothing twice. Runs on more than 200,000 images do
not evaluate themselves: linear.py with the run's folder, `tableT/ROW/SEED`, as
`--config.checkpoint` and `--workdir` does, and the same command then prints its numbers.

Options: table, base and method as in ablations.py; rows, as in 1+3, all of them by default; seeds.
`--config.override` changes a key of every row.

Cost: that of the base for each row and seed. Numbers on another base than byol do not compare
with the paper's; whether they come in the same order is the question.
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
    known = ablations.rows(chosen["table"], chosen["method"])
    if chosen["rows"]:
        words = chosen["rows"].split("+")
        numbers = list(dict.fromkeys(str(row.row) for row in known))
        wrong = [word for word in words if word not in numbers]
        if wrong:
            have = ", ".join(numbers)
            raise ValueError(f"rows={wrong[0]!r} is no row of table {chosen['table']}: {have}")
        known = [row for word in words for row in known if str(row.row) == word]
    config = ml_collections.ConfigDict()
    config.job = "ablate"
    config.table = chosen["table"]
    config.base = chosen["base"]
    config.seeds = chosen["seeds"]
    config.override = ""  # KEY=VALUE of every row, several with commas
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
        for row in known
    )
    return config
