"""Semi-supervised fine-tuning on a share of the labels: BYOL App. D.1, Tables 2 and 8, Figure 4.

    python -m byol_jax.main --config=experiments/semi.py:fraction=0.01 \
        --config.checkpoint=runs/byol --workdir=runs/byol_semi
    ... --config.network=random        from scratch
    ... --config=experiments/semi.py:fraction=0.1,protocol=simclr ...

Options:
- fraction=0.01, 0.02, 0.05, 0.1, 0.2, 0.5 or 1: share of the labels of each class (Figure 4), a
  fixed balanced draw.
- subset=published: instead of that draw, the subsets of ImageNet that Table 2 shares with SimCLR
  (TFDS `imagenet2012_subset`), for 0.01 and 0.1.
- protocol=byol (App. D.1): batch 1024, rates {0.01, 0.02, 0.05, 0.1, 0.005} x {30, 50} epochs, of
  which the validation split chooses. protocol=simclr (SimCLR App. B.5): batch 4096, rate 0.8, 60
  epochs for 1 % and 30 for the other shares, no validation.

Augmentation is crop and flip, without regularisation: those of App. D.1, or with
`--config.crops=own` those of the pre-training, as in linear.py. A set smaller than a batch needs a
smaller batch, as in `--config.batch_size=128`. The published subsets include images of the local
validation split: its accuracy serves to choose a cell, and is no estimate.

Cost: ten fine-tunings, with 12,811 images per epoch for 1 % of ImageNet, and ten passes over the
validation split.

| ImageNet, top-1 / top-5 (Table 2) | 1 %         | 10 %        | 100 % (Table 8) |
| ResNet-50                         | 53.2 / 78.4 | 68.8 / 89.0 | 77.7 / 93.9     |
| ResNet-50 (2x)                    | 62.2 / 84.1 | 73.5 / 91.7 |                 |
| ResNet-50 (4x)                    | 69.1 / 87.9 | 75.7 / 92.5 |                 |
| ResNet-200 (2x)                   | 71.2 / 89.5 | 77.7 / 93.7 |                 |
"""

import ml_collections

from experiments import base, classification

PUBLISHED = {0.01: "tfds:imagenet2012_subset/1pct", 0.1: "tfds:imagenet2012_subset/10pct"}


def get_config(options: str = "") -> ml_collections.ConfigDict:
    chosen = base.parse_options(options, fraction=0.01, protocol="byol", subset="balanced")
    config = classification.get_finetune_config()
    config.recipe = f"semi-supervised fine-tuning, {chosen['protocol']}"
    config.protocol = "semi-supervised"
    config.fraction = chosen["fraction"]
    if chosen["subset"] == "published":
        if chosen["fraction"] not in PUBLISHED:
            raise ValueError(
                f"fraction={chosen['fraction']} has no published subset: fraction=0.01 and "
                "fraction=0.1 have one"
            )
        config.train_dataset = PUBLISHED[chosen["fraction"]]
    elif chosen["subset"] != "balanced":
        raise ValueError(f"subset={chosen['subset']!r} must be balanced or published")
    if chosen["protocol"] == "byol":
        config.learning_rates = (0.01, 0.02, 0.05, 0.1, 0.005)  # App. D.1
        config.sweep_epochs = (30.0, 50.0)
    elif chosen["protocol"] == "simclr":
        config.batch_size = 4096  # SimCLR App. B.5
        config.learning_rates = (0.05,)
        config.rate_scaling = "linear"  # 0.8 at 4096
        config.num_epochs = 60.0 if chosen["fraction"] <= 0.01 else 30.0
        config.fit_split = "train+valid"
        config.valid_split = ""
    else:
        raise ValueError(f"protocol={chosen['protocol']!r} must be byol or simclr")
    return config
