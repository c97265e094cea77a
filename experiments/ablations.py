"""A row of an ablation table of the BYOL or SimCLR paper or the lecture, as a pre-training run.

    python -m byol_jax.main --config=experiments/ablations.py:table=5b,row=3 --workdir=runs/5b3
    ... --config=experiments/ablations.py:table=17,row=4,method=simclr ...
    ... --config=experiments/ablations.py:table=22,row=4,base=digits ...
    ... --config=experiments/ablations.py:table=15a,row=1,base=cifar10 \
        --config.dataset=npz:cifar10.npz ...

The log begins with the setting of the row and the paper's numbers. Without `row=` the page lists
the rows of the table. ablate.py trains several rows and prints them beside the paper's numbers.

| table          | what is varied                                              | rows |
| 5a             | the target: constant, moving average, stop-gradient         | 5    |
| 5b             | predictor, target network, negatives                        | 8    |
| 14a            | depth of projector and predictor                            | 9    |
| 14b            | size of the projection                                      | 6    |
| 15a            | learning rate                                               | 7    |
| 15b            | weight decay                                                | 5    |
| 16             | batch size, both methods                                    | 14   |
| 17             | augmentations, both methods                                 | 28   |
| 18             | weight of the negatives, temperature                        | 19   |
| 19             | 5b with stop-gradients                                      | 13   |
| 20             | normalisation in the loss                                   | 4    |
| 21             | rate of the predictor, without target network               | 6    |
| 22             | rates of projector and predictor, without target network    | 25   |
| G              | scale of the initial weights; no weight decay, both methods | 4    |
| J.2            | the optimal linear predictor, without target network        | 1    |
| simclr-A       | random flips                                                | 2    |
| simclr-1       | strength of the colour distortion, AutoAugment              | 6    |
| simclr-4       | loss                                                        | 5    |
| simclr-5       | normalisation, temperature                                  | 6    |
| simclr-B.1     | batch size, epochs, scaling of the rate                     | 48   |
| simclr-figure5 | one or two augmentations of one view                        | 49   |
| simclr-figure8 | projection head                                             | 15   |
| lecture-simsiam | the predictor of SimSiam                                   | 4    |
| lecture-moco   | the momentum of MoCo v1, with a queue of 4096               | 5    |

Options:
- table, row: as above. Rows are counted as they are printed, a grid line by line.
- method=byol or simclr, where a table has both (16, 17, G). The default is byol.
- base=byol: the paper's own recipe on ImageNet, BYOL section 5 (300 epochs, rate 0.3, decay 1e-6,
  tau_base 0.99) or SimCLR section 2.3 (100 epochs). "SimCLR (repro)" of Tables 16 and 17 is the
  latter for 300 epochs with T and T' of BYOL Table 6.
  SimSiam's rows have the recipe of simsiam.py, 100 epochs; MoCo's that of moco.py:version=1, 200.
- base=cifar10 or digits: cifar10.py or digits.py with the same changes; for SimCLR's rows
  simclr.py:data=cifar10, or digits.py with SimCLR's loss and BatchNorm behind the projector, and
  neither predictor nor target network; for SimSiam's and MoCo's their own pages with that base.
  Rates, decays, batch sizes and epochs change by the paper's factors, and Table 16 divides the
  batch of the base. All other numbers are the paper's. The results do not compare with the paper's
  numbers. Rows that vary what a base does not have, such as colours or blur on digits, are equal
  there.

The paper's numbers are means over three seeds (BYOL section 5; here `--config.seed=1338` and so
on), by linear evaluation on ImageNet (linear.py).

Cost: on ImageNet that of byol.py per row and seed, 300 epochs on 64 TPU v3 cores (section 5);
SimCLR's 100 epochs take 1.5 hours on 128 cores (SimCLR section 2.2). On digits three to four
minutes on two CPU cores per run for most rows (digits.py); on CIFAR-10 see cifar10.py. Rows of
Table B.1 train up to eight times as long.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from experiments import ablation_tables, byol, cifar10, digits, moco, simclr, simsiam
from experiments import base as defaults
from experiments.papers.rows import EPOCHS, Row, Times

BASES = ("byol", "cifar10", "digits")
METHODS = ("byol", "simclr", "simsiam", "moco")


def rows(table: str, method: str = "") -> list[Row]:
    """The rows of a table in printed order, or those of one method.

    Raises:
      ValueError: there is no such table, or it has none of the method.
    """
    if table not in ablation_tables.TABLES:
        tables = ", ".join(ablation_tables.TABLES)
        raise ValueError(f"table={table!r} must be one of: {tables}")
    if method not in ("", *METHODS):
        raise ValueError(f"method={method!r} must be one of: {', '.join(METHODS)}")
    of_table = ablation_tables.TABLES[table]
    chosen = [row for row in of_table if method in ("", row.method)]
    if not chosen:
        raise ValueError(
            f"method={method} has no row in table {table}: give method={of_table[0].method}"
        )
    return chosen


def _recipe(recipe: str, base: str) -> ml_collections.ConfigDict:
    """The pre-training config that a row changes."""
    if base not in BASES:
        raise ValueError(f"base={base!r} must be one of: {', '.join(BASES)}")
    own_base = "" if base == "byol" else f"base={base}"
    if recipe == "simsiam":
        return simsiam.get_config(own_base)
    if recipe == "moco":
        return moco.get_config(f"version=1,{own_base}")
    epochs = EPOCHS[recipe]
    if recipe == "byol":
        if base == "byol":
            return byol.get_config(f"epochs={epochs}")
        return cifar10.get_config() if base == "cifar10" else digits.get_config()
    if base == "cifar10":
        return simclr.get_config("data=cifar10")
    config = simclr.get_config(f"epochs={epochs}")
    if base == "digits":
        dials, config = config, digits.get_config()
        config.objective = dials.objective
        config.target = dials.target
        config.network.predictor.kind = dials.network.predictor.kind
        config.network.projector.output_norm = dials.network.projector.output_norm
    elif recipe == "simclr_repro":
        config.augment = defaults.get_config().augment
    return config


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def config_of(row: Row, base: str = "byol") -> ml_collections.ConfigDict:
    """The pre-training config of a row.

    Raises:
      ValueError: there is no such base.
    """
    config = _recipe(row.recipe, base)
    before = dict(_flat(config.to_dict()))
    changes = {
        key: value.on(key, before) if isinstance(value, Times) else value
        for key, value in row.changes.items()
    }
    config.update_from_flattened_dict(changes)
    paper = row.paper or "no number"
    side = " (SimCLR)" if row.recipe == "simclr_repro" else ""
    config.recipe = f"{row.place}{side}: {row.name}; paper {paper} at {row.epochs} epochs"
    if base != "byol":
        scaled = [f"{k}={v:g}" for k, v in changes.items() if isinstance(row.changes[k], Times)]
        config.recipe += f"; here on {base}" + (f" with {', '.join(scaled)}" if scaled else "")
    return config


@defaults.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """A row of a table.

    Args:
      options: `table=5b,row=3`, optionally with `base=digits` and `method=simclr`.

    Raises:
      ValueError: for an unknown option, table, row, base or method.
    """
    chosen = defaults.parse_options(options, table="", row=0, base="byol", method="")
    of_table = rows(chosen["table"], chosen["method"])
    row = next((row for row in of_table if row.row == chosen["row"]), None)
    if row is None:
        names = {row.row: row.name for row in reversed(of_table)}
        listed = "; ".join(f"{number} {names[number]}" for number in sorted(names))
        raise ValueError(f"row={chosen['row']} of table {chosen['table']} must be one of: {listed}")
    return config_of(row, chosen["base"])
