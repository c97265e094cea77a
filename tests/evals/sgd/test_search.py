"""The cells of a grid, and which of them is the best; whole grids are those of test_finetune."""

import pytest

from byol_jax.evals.cells import Cell, best_of
from byol_jax.evals.sgd import search
from experiments import classification


def test_the_grid_has_the_rates_outermost_and_divides_decays_by_them():
    config = classification.get_finetune_config()
    config.learning_rates = (0.1, 0.5)
    config.rate_scaling = "linear"  # x 1024 / 256
    config.sweep_epochs = (30.0, 50.0)
    config.sweep_weight_decays = (0.0, 0.2)
    config.decay_over_rate = True
    cells = [tuple(cell) for cell in search.cells_of(config)]
    assert cells == [
        (0.4, 30, 0.0),
        (0.4, 30, 0.2 / 0.4),
        (0.4, 50, 0.0),
        (0.4, 50, 0.2 / 0.4),
        (2.0, 30, 0.0),
        (2.0, 30, 0.1),
        (2.0, 50, 0.0),
        (2.0, 50, 0.1),
    ]
    config.decay_over_rate = False
    config.num_steps = 7  # does away with epochs
    assert [tuple(cell) for cell in search.cells_of(config)] == [
        (0.4, None, 0.0),
        (0.4, None, 0.2),
        (2.0, None, 0.0),
        (2.0, None, 0.2),
    ]


def test_names_of_cells():
    assert Cell(0.1, 30.0, 0.0).name == "rate=0.1,epochs=30,decay=0"
    assert Cell(10**-2.5, None, 1e-6).name == "rate=0.00316228,decay=1e-06"


@pytest.mark.parametrize(
    ("steps_per_epoch", "decay"), [(1, 0.9), (100, 0.9), (200, 0.95), (1000, 0.99), (2.5, 0.9)]
)
def test_bn_decay_for_transfer(steps_per_epoch, decay):
    """max(1 - 10 / s, 0.9) (BYOL App. E.3)."""
    assert search.bn_decay_for_transfer(steps_per_epoch) == pytest.approx(decay)


def test_equal_cells_and_ends_of_every_axis():
    """The larger decay, then the lower rate, then the fewer epochs; 50 % for every cell."""
    config = classification.get_finetune_config()
    config.learning_rates = (0.1, 0.01, 0.5)
    config.sweep_epochs = (50.0, 30.0)
    config.sweep_weight_decays = (0.0, 1e-3, 1e-4)
    cells = search.cells_of(config)
    best = best_of(dict.fromkeys(cells, 50.0))
    assert best == Cell(0.01, 30.0, 1e-3)
    assert search._ends(search.axes_of(config), cells[best]) == {
        "learning_rate_at_end_of_grid": "low",
        "epochs_at_end_of_grid": "low",
        "weight_decay_at_end_of_grid": "high",
    }
    # By the values of the grid, which are divided by the rate afterwards.
    config.decay_over_rate = True
    cells = search.cells_of(config)
    best = Cell(0.1, 50.0, 1e-3 / 0.1)
    assert search._ends(search.axes_of(config), cells[best]) == {
        "learning_rate_at_end_of_grid": None,
        "epochs_at_end_of_grid": "high",
        "weight_decay_at_end_of_grid": "high",
    }
    assert best_of(dict.fromkeys(cells)) is None
