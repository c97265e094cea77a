"""DenseCL (Wang et al. 2021): MoCo v2, and the same loss at each position of the feature map.

    python -m byol_jax.main --config=experiments/densecl.py --workdir=runs/densecl
    ... --config=experiments/densecl.py:epochs=800 --config.dataset=folder:coco \
        --config.optimizer.base_learning_rate=0.3
    ... --config=experiments/densecl.py:base=cifar10 --config.dataset=npz:cifar10.npz ...
    ... --config=experiments/densecl.py:base=digits ...

It is made for detection and segmentation. ResNet-50, README of the authors' code:

| pre-training         | VOC detection, AP | VOC segmentation, mIoU | MoCo v2 there |
| ImageNet, 200 epochs | 58.7              | 69.4                   | 57.0 / 67.5   |
| COCO, 800 epochs     | 56.7              | 67.5                   | 54.7 / 64.5   |

Linear evaluation on ImageNet is not in that README; other tables have about 63, less than MoCo v2
(recalled). Nobody published it on CIFAR-10.

Options: base=imagenet, cifar10 or digits; epochs, batch, depth, width (0 or empty: those of the
recipe).

Cost: that of moco.py and the dense head. For 7 x 7 positions and a queue of 65536 the logits of
one image are 49 x 65537 numbers, 13 MB.

What makes it DenseCL, and where each choice is from (the authors' code and configs):
- The loss is (1 - lambda) MoCo's and lambda that of the positions, with lambda 0.5 throughout.
  Their code has a warm-up of lambda, which none of their configs turns on.
- A position of view 1 asks for the position of view 2 whose features of the backbone are the most
  similar, by their cosine.
- A second head of two layers, 2048-2048-128, at each position, without BatchNorm.
- A second queue of one key per image, the dense head's output in the mean over the positions.
- All else is MoCo v2's (moco.py).

digits: the recipe of moco.py on digits, at 16 pixels, where the last map has 2 x 2 positions; at 8
pixels it has one.

Measured on digits: 600 updates (`--config.num_steps=600`), seeds 1337, 1338 and 1339, mean +- half
of highest minus lowest, protocols of docs/protocols.md:

| network | kNN          | linear       | two labels per class | std x sqrt(d) |
| random  | 65.7 +- 1.7  | 62.3 +- 1.8  | 29.6 +- 1.9          | 0.5           |
| online  | 97.1 +- 1.0  | 97.6 +- 0.1  | 81.3 +- 0.6          | 1.0           |
| pixels  | 98.3         | 96.7         | 70.9                 |               |
"""

import ml_collections

from experiments import base, moco, related

# (base, epochs, batch, depth, width): the source of the recipe.
PUBLISHED = {("imagenet", 200, 256, "50", 1.0): "published: DenseCL's configs"}


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """DenseCL's own recipe.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    given = base.parse_options(options, base="imagenet", epochs=0, batch=0, depth="", width=0.0)
    chosen = related.choose(given.pop("base"), moco.RECIPES, **given)
    config = related.config_of(chosen, "DenseCL", PUBLISHED)
    size, momentum, temperature = moco.NUMBERS[chosen.base]
    config.objective.name = "densecl"
    config.objective.densecl.queue_size = size
    config.objective.densecl.temperature = temperature
    moco.momentum_encoder(config, momentum)
    related.contrastive_head(config, chosen)
    config.network.dense = config.network.projector.copy_and_resolve_references()
    if chosen.base == "digits":
        config.image_size = 16
    return config
