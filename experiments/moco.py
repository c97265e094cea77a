"""MoCo (He et al. 2019; v2: Chen et al. 2020): keys of a moving average, and a queue of negatives.

    python -m byol_jax.main --config=experiments/moco.py --workdir=runs/moco
    ... --config=experiments/moco.py:epochs=800 ...
    ... --config=experiments/moco.py:version=1 ...
    ... --config=experiments/moco.py:base=cifar10 --config.dataset=npz:cifar10.npz ...
    ... --config=experiments/moco.py:base=digits ...

Top-1 by linear evaluation, ResNet-50 at batch 256 (README of the authors' code; "lecture" is its
"MoCo v2 (repro.+)"):

| epochs     | 100  | 200         | 400  | 800  |
| v1         |      | 60.6        |      |      |
| v2         |      | 67.5 +- 0.1 |      | 71.1 |
| lecture    | 67.4 | 69.9        | 71.0 | 72.2 |

CIFAR-10, ResNet-18 at batch 512 (the authors' notebook): kNN 82.6 / 86.3 / 88.7 after 200 / 400 /
800 epochs, linear 90.7 after 800; with `--config.objective.moco.symmetric=True` kNN 85.3 / 88.5 /
89.7. Symmetric, an epoch costs twice as much and acts like two.

What the momentum does (Lecture, MoCo; version 1 with a queue of 4096):
`ablations.py:table=lecture-moco`.

Options: base=imagenet, cifar10 or digits; version=2 or 1; epochs, batch, depth, width (0 or empty:
those of the recipe).

Cost: one view forward and backward and one forward, about half of BYOL (byol.py). The queue takes
33 MB on each device.

What makes it MoCo, and where each choice is from (the authors' code, unless said otherwise):
- View 1 asks for view 2, with a cross-entropy over its key and the K of the queue; no predictor.
- The key encoder moves before the passes, by the parameters that the step starts from, at a
  constant 0.999.
- The queue is that before the batch; the keys of the batch then replace the oldest. K is 65536.
- v2: temperature 0.2, a head of two layers, 2048-2048-128, without BatchNorm, SimCLR's colours at
  half strength and its blur, and a cosine. v1: temperature 0.07, a linear head, colours at hue 0.4
  always, no blur, and a rate divided by 10 at epochs 120 and 160 of 200.
- SGD, rate 0.03 x batch / 256, momentum 0.9, decay 1e-4 on all parameters, no warm-up. Our rate
  changes at every step, theirs once per epoch. Crops of 20 % of the area or more.
- BatchNorm over all devices. The authors' has the statistics of one device, and keys whose images
  were shuffled over the devices: `--config.bn_statistics=shuffled`. Both keep a query from telling
  its key by statistics that only they share; `local` alone does not (docs/deviations.md, 67).
- CIFAR-10 (the notebook): rate 0.06 at batch 512, decay 5e-4, K 4096, 0.99, temperature 0.1, a
  linear head of 128, crops of 8 % of the area or more, no blur. Its BatchNorm has 8 splits; here
  there is none, as the notebook has it for SyncBN.

digits: network, crops and widths of the heads of digits.py. K, momentum and rate are our choice,
fixed before the run: 512, 0.99, and SimSiam's on digits.

Measured on digits: 600 updates (`--config.num_steps=600`), seeds 1337, 1338 and 1339, mean +- half
of highest minus lowest, protocols of docs/protocols.md:

| network | kNN          | linear       | two labels per class | std x sqrt(d) |
| random  | 60.8 +- 5.7  | 53.6 +- 4.5  | 25.3 +- 3.1          | 0.7           |
| online  | 95.2 +- 0.7  | 96.2 +- 1.3  | 80.8 +- 0.4          | 1.0           |
| pixels  | 98.6         | 96.9         | 71.2                 |               |
"""

import ml_collections

from experiments import base, related
from experiments.related import Recipe

# (base, epochs, batch, depth, width): the source of the recipe of version 2.
PUBLISHED = {
    **{
        ("imagenet", epochs, 256, "50", 1.0): "published: Lecture, MoCo v2 at batch 256"
        for epochs in (100, 400)
    },
    **{("imagenet", epochs, 256, "50", 1.0): "published: MoCo v2's code" for epochs in (200, 800)},
    **{
        ("cifar10", epochs, 512, "18", 1.0): "published: MoCo's notebook on CIFAR-10"
        for epochs in (200, 400, 800)
    },
}
PUBLISHED_V1 = {("imagenet", 200, 256, "50", 1.0): "published: MoCo v1's code"}
RECIPES = {
    "imagenet": Recipe(200, 256, "50", 1.0, rate=0.03, decay=1e-4),
    "cifar10": Recipe(200, 512, "18", 1.0, rate=0.03, decay=5e-4),
    "digits": Recipe(100, 64, "tiny", 3.0, rate=0.2, decay=1e-4, warmup_epochs=2.0),
}
# Size of the queue, momentum and temperature.
NUMBERS = {
    "imagenet": (65536, 0.999, 0.2),
    "cifar10": (4096, 0.99, 0.1),
    "digits": (512, 0.99, 0.2),
}


def momentum_encoder(config: ml_collections.ConfigDict, momentum: float) -> None:
    """A target that follows at a constant momentum, before the passes of a step."""
    config.target = "ema"
    config.tau_base = momentum
    config.tau_schedule = "constant"


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """MoCo's own recipe.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    given = base.parse_options(
        options, base="imagenet", version=2, epochs=0, batch=0, depth="", width=0.0
    )
    version = given.pop("version")
    if version not in (1, 2):
        raise ValueError(f"version={version} must be 1 or 2")
    chosen = related.choose(given.pop("base"), RECIPES, **given)
    config = related.config_of(
        chosen, f"MoCo v{version}", PUBLISHED if version == 2 else PUBLISHED_V1
    )
    size, momentum, temperature = NUMBERS[chosen.base]
    config.objective.name = "moco"
    config.objective.moco.queue_size = size
    config.objective.moco.temperature = temperature if version == 2 else 0.07
    momentum_encoder(config, momentum)
    related.contrastive_head(config, chosen)
    if chosen.base == "cifar10":
        config.data.area_min = 0.08
        config.network.projector.kind = "linear"
    if version == 1:
        config.network.projector.kind = "linear"
        config.optimizer.schedule = "step"
        config.optimizer.milestones = (0.6, 0.8)
        if chosen.base != "digits":
            for view in ("view1", "view2"):
                config.augment[view] = base.augmentation(
                    color_jitter=1.0, saturation_max=0.4, hue_max=0.4, blur=0.0
                )
    return config
