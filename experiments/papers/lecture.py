"""The ablations of the lecture: SimSiam's predictor."""

from collections.abc import Iterator, Mapping

from experiments import papers
from experiments.papers.rows import Setting, Table

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


def ablations() -> Iterator[Table]:
    """The tables, as the recipes of their own methods have them."""
    rows = papers.read("lecture")["SimSiam"]
    yield Table("lecture-simsiam", _predictor, rows, recipe="simsiam")
