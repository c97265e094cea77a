"""Transfer via fine-tuning on small data sets: BYOL App. E.3, Table 3; SimCLR App. B.8.

    python -m byol_jax.main --config=experiments/finetune.py \
        --config.checkpoint=runs/byol --config.dataset=tfds:oxford_flowers102 \
        --workdir=runs/flowers
    python -m byol_jax.main --config=experiments/finetune.py:init=random ...

A grid of 7 rates x 8 weight decays, each trained for 20,000 steps of 256 images. The cell that is
best on the validation split is trained again on training and validation images together, and
scored once on the test split by the metric of the data set. A grid that was stopped resumes at its
next cell.

Options:
- init=pretrained: rates 1e-4 to 1e-1; decays 0 and 1e-6 to 1e-3, divided by the rate.
- init=random (SimCLR App. B.8): 40,000 steps; rates 1e-3 to 1; 8 decays 1e-5 to 10^-1.5.

The papers do not give the schedule of the rate; it is the cosine of the authors' code. Crops and
flips are those of App. E.3, or with `--config.crops=own` those of the pre-training, as in
linear.py. `--config.num_steps=None --config.num_epochs=100` trains by epochs.

Cost: 57 trainings of 5 million images (pre-trained) or 10 million images (random) each.
`--config.learning_rates` and `--config.sweep_weight_decays` shorten the grid, which the record
then tells.

| Table 3, ResNet-50 | Food101 | CIFAR10 | CIFAR100 | Birdsnap | SUN397 | Cars |
| BYOL               | 88.5    | 97.8    | 86.1     | 76.3     | 63.7   | 91.6 |
| random init        | 86.9    | 95.9    | 80.2     | 76.1     | 53.6   | 91.4 |

| Table 3, ResNet-50 | Aircraft | VOC2007 | DTD  | Pets | Caltech-101 | Flowers |
| BYOL               | 88.1     | 85.4    | 76.2 | 91.7 | 93.8        | 97.0    |
| random init        | 85.9     | 67.3    | 64.8 | 81.5 | 72.6        | 92.0    |
"""

import ml_collections

from experiments import base, classification


def log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` values from 10**low to 10**high with equal ratios."""
    return tuple(10 ** (low + (high - low) * i / (count - 1)) for i in range(count))


def get_config(options: str = "") -> ml_collections.ConfigDict:
    chosen = base.parse_options(options, init="pretrained")
    config = classification.get_finetune_config()
    config.protocol = "transfer/finetune"
    config.batch_size = 256  # App. E.3
    if chosen["init"] == "pretrained":
        config.recipe = "transfer via fine-tuning, BYOL App. E.3"
        config.num_steps = 20_000
        config.learning_rates = log_spaced(-4, -1, 7)
        config.sweep_weight_decays = (0.0, *log_spaced(-6, -3, 7))
    elif chosen["init"] == "random":
        config.recipe = "training from random initialisation, SimCLR App. B.8"
        config.network = "random"
        config.num_steps = 40_000
        config.learning_rates = log_spaced(-3, 0, 7)
        config.sweep_weight_decays = log_spaced(-5, -1.5, 8)
    else:
        raise ValueError(f"init={chosen['init']!r} must be pretrained or random")
    config.decay_over_rate = True
    config.bn_decay = "transfer"  # max(1 - 10 / s, 0.9)
    config.refit = True
    return config
