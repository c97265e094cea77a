"""The ablations of the lecture: SimSiam's predictor, and MoCo's momentum."""

from collections.abc import Iterator, Mapping

from experiments import papers
from experiments.papers.rows import Changes, Setting, Table

_PREDICTORS: Mapping[str, Setting] = {
    "lr with cosine decay": (
        "rate of the predictor with cosine decay",
        {"optimizer.predictor_schedule": "cosine"},
    ),
    "no pred. MLP": ("no predictor", {"network.predictor.kind": "none"}),
    # A rate of 0 leaves the weights as they were drawn, and moves BatchNorm's averages alone.
    "fixed random init.": ("fixed random predictor", {"optimizer.predictor_rate": 0.0}),
    "lr not decayed": ("rate of the predictor not decayed", {}),
}


def _predictor(label: str, predictor: str) -> Setting:
    """SimSiam's Table 1 in the lecture."""
    del label
    return _PREDICTORS[predictor]


def _momentum(momentum: str) -> Setting:
    """MoCo v1 with a queue of 4096."""
    changes: Changes = {"tau_base": float(momentum), "objective.moco.queue_size": 4096}
    return f"momentum {momentum}", changes


def ablations() -> Iterator[Table]:
    """The tables, as the recipes of their own methods have them."""
    tables = papers.read("lecture")
    yield Table("lecture-simsiam", _predictor, tables["SimSiam"], recipe="simsiam")
    by_momentum = [[m, cell] for _, m, cell in papers.grid(tables["MoCo"])]
    yield Table(
        *("lecture-moco", _momentum),
        lines=[[m, "-" if cell == "fail" else cell] for m, cell in by_momentum],
        recipe="moco",
        notes={row: "fails" for row, (_, cell) in enumerate(by_momentum, 1) if cell == "fail"},
    )
