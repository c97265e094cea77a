"""Supervised contrastive learning (Khosla et al. 2020): all images of a class are positives.

    python -m byol_jax.main --config=experiments/supcon.py:base=cifar10 \
        --config.dataset=npz:cifar10.npz --workdir=runs/supcon
    ... --config=experiments/supcon.py ...
    ... --config=experiments/supcon.py:base=digits ...

**Labels train the encoder here**, unlike in all other pages of pre-training: results do not compare
with those of methods without labels. An image without a label (-1) has the other view of itself as
its only positive, so partly labelled sets work; a set without labels is refused.

CIFAR-10, ResNet-50, 1000 epochs at batch 1024 (README of the authors' code): SupCon 96.0,
cross-entropy 95.0, SimCLR 93.6 (CIFAR-100: 76.5, 75.3, 70.7). ImageNet, ResNet-50: 79.1 (the same
README, with a queue of keys, which is not here); 78.7 with AutoAugment at batch 6144 for 350 to 700
epochs (the paper, recalled).

The cross-entropy baseline beside it is supervised.py. With the images and colours of CIFAR-10 here,
and its own rate, decay and warm-up (that of the 95.0 is another, of SupCon's code):

    python -m byol_jax.main --config=experiments/supervised.py:augment=color,strength=0.5 \
        --config.dataset=npz:cifar10.npz --config.image_size=32 --config.encoder.stem=small \
        --config.eval_crop=full --config.batch_size=1024 --workdir=runs/supervised

Options: base=imagenet, cifar10 or digits; epochs, batch, depth, width (0 or empty: those of the
recipe).

Cost: that of SimCLR (simclr.py).

What makes it SupCon, and where each choice is from (the authors' code, unless said otherwise):
- The mean over the positives of their log-probabilities among all other vectors of the global
  batch, both views asking. Features and labels of all devices are gathered, and gradients pass
  through the gathered features.
- Temperature 0.1. The loss is multiplied by T / 0.07 (`objective.supcon.base_temperature`), which
  the paper's equation does not have; the rates fit that. Whoever raises T to 0.5 has 7.1 times the
  gradients.
- Both views in one pass, so that they share BatchNorm's statistics. No target, no predictor. A head
  of two layers, 2048-2048-128, without BatchNorm.
- SGD, momentum 0.9, decay 1e-4 on all parameters, rate 0.5 at batch 1024. A cosine over the whole
  run down to a thousandth of the peak. Above batch 256 a warm-up of ten epochs, from a fiftieth of
  the peak (0.01 at batch 1024) to the value of the cosine. Ours changes at every step, theirs once
  per epoch behind the warm-up.
- Crops of 20 % of the area or more, SimCLR's colours at half strength; on CIFAR-10 no blur.
- ImageNet: the recipe of CIFAR-10 with blur, our choice, for the code has none.

digits: network, crops and widths of the heads of digits.py; the rate is our choice, fixed before
the run: SimSiam's on digits.

Measured on digits: 600 updates (`--config.num_steps=600`), seeds 1337, 1338 and 1339, mean +- half
of highest minus lowest, protocols of docs/protocols.md:

| network | kNN          | linear       | two labels per class | std x sqrt(d) |
| random  | 60.8 +- 5.7  | 53.6 +- 4.5  | 25.3 +- 3.1          | 0.7           |
| online  | 98.7 +- 1.1  | 98.9 +- 1.1  | 97.3 +- 3.2          | 0.8           |
| pixels  | 98.6         | 96.9         | 71.2                 |               |

The encoder has seen the label of every training image here, those of "two labels per class" too.
"""

import ml_collections

from experiments import base, related
from experiments.related import Recipe

# (base, epochs, batch, depth, width): the source of the recipe.
PUBLISHED = {("cifar10", 1000, 1024, "50", 1.0): "published: SupCon's code on CIFAR-10"}
RECIPES = {
    "imagenet": Recipe(350, 1024, "50", 1.0, rate=0.125, decay=1e-4),
    "cifar10": Recipe(1000, 1024, "50", 1.0, rate=0.125, decay=1e-4),
    "digits": Recipe(100, 64, "tiny", 3.0, rate=0.2, decay=1e-4, warmup_epochs=2.0),
}


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """SupCon's own recipe.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    given = base.parse_options(options, base="imagenet", epochs=0, batch=0, depth="", width=0.0)
    chosen = related.choose(given.pop("base"), RECIPES, **given)
    config = related.config_of(chosen, "SupCon", PUBLISHED)
    config.objective.name = "supcon"
    config.target = "online"
    related.contrastive_head(config, chosen)
    optimizer = config.optimizer
    optimizer.schedule = "whole_cosine"
    optimizer.rate_end = 1e-3
    if chosen.base != "digits" and chosen.recipe.batch > 256:
        optimizer.warmup_epochs = 10.0
        optimizer.rate_start = 0.02  # 0.01 of 0.5
    return config
