"""SimSiam (Chen and He 2020): BYOL's step without a moving average, trained by SGD.

    python -m byol_jax.main --config=experiments/simsiam.py --workdir=runs/simsiam
    ... --config=experiments/simsiam.py:epochs=800,batch=256 ...
    ... --config=experiments/simsiam.py:base=cifar10 --config.dataset=npz:cifar10.npz ...
    ... --config=experiments/simsiam.py:base=digits ...

Top-1 by linear evaluation, ResNet-50 at batch 256 (Lecture, results; at batch 512 the README of the
authors' code has 68.1 after 100 epochs, and 68.3 at batch 256):

| epochs | 100  | 200  | 400  | 800  |
| top-1  | 68.1 | 70.0 | 70.8 | 71.3 |

CIFAR-10, ResNet-18, 800 epochs at batch 512: 91.8 (the paper's figure, recalled).

What the predictor does (Lecture, SimSiam Table 1; 100 epochs), each one flag:

| variant                              | top-1 | flag                                          |
| rate of the predictor with cosine    | 67.7  | --config.optimizer.predictor_schedule=cosine  |
| no predictor                         | 0.1   | --config.network.predictor.kind=none          |
| predictor fixed at its random start  | 1.5   | --config.optimizer.predictor_rate=0           |
| rate of the predictor not decayed    | 68.1  | none: the default of this page                |

Without the stop-gradient (`--config.target=online`) the loss degenerates immediately (Figure 2
there). `projection_std` in metrics.jsonl is the spread that this figure plots, times sqrt(d).

Options: base=imagenet, cifar10 or digits; epochs, batch, depth, width (0 or empty: those of the
recipe).

Cost: that of BYOL (byol.py) without the passes of the target network, three quarters of it.

What makes it SimSiam, and where each choice is from (the authors' code, unless said otherwise):
- Half the negative cosine for each direction, between the prediction of one view and the projection
  of the other, which is behind a stop-gradient. No negatives, no moving average.
- A projector of three layers as wide as the representation, 2048 for ResNet-50, with BatchNorm
  behind each; the last has no scale and no offset. On CIFAR-10 two layers (the paper, recalled).
- A predictor of two layers with a bottleneck of a quarter of that width, 2048-512-2048, and a bias
  in its last layer.
- The last BatchNorm of each residual block starts at zero.
- SGD, rate 0.05 x batch / 256, momentum 0.9, decay 1e-4 on all parameters, no warm-up. The rate
  decays by a cosine; ours changes at every step, theirs once per epoch. That of the predictor stays
  constant.
- One augmentation for both views, MoCo v2's: crops of 20 % of the area or more.
- CIFAR-10: rate 0.03, decay 5e-4, no blur (the paper, recalled).

digits: network, crops and widths of the heads of digits.py, with SimSiam's dials, norms and
optimiser. The rate is our choice, fixed before the run: 0.2 x batch / 256 with two epochs of
warm-up, since 2,246 updates are few.

Measured on digits: 600 updates (`--config.num_steps=600`), seeds 1337, 1338 and 1339, mean +- half
of highest minus lowest, protocols of docs/protocols.md:

| network | kNN          | linear       | two labels per class | std x sqrt(d) |
| random  | 60.7 +- 5.7  | 53.6 +- 4.5  | 25.3 +- 3.2          | 1.0           |
| online  | 79.3 +- 1.6  | 81.3 +- 2.5  | 58.7 +- 1.9          | 0.9           |
| pixels  | 98.6         | 96.9         | 71.2                 |               |
"""

import ml_collections

from experiments import base, related
from experiments.related import Recipe

# (base, epochs, batch, depth, width): the source of the recipe.
PUBLISHED = {
    **{
        ("imagenet", epochs, 256, "50", 1.0): "published: Lecture, SimSiam at batch 256"
        for epochs in (100, 200, 400, 800)
    },
    ("imagenet", 100, 512, "50", 1.0): "published: SimSiam's code",
    ("cifar10", 800, 512, "18", 1.0): "published: SimSiam on CIFAR-10 (recalled)",
}
RECIPES = {
    "imagenet": Recipe(100, 512, "50", 1.0, rate=0.05, decay=1e-4),
    "cifar10": Recipe(800, 512, "18", 1.0, rate=0.03, decay=5e-4),
    "digits": Recipe(100, 64, "tiny", 3.0, rate=0.2, decay=1e-4, warmup_epochs=2.0),
}
# Layers of the projector.
_LAYERS = {"imagenet": 3, "cifar10": 2, "digits": 3}


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """SimSiam's own recipe.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    given = base.parse_options(options, base="imagenet", epochs=0, batch=0, depth="", width=0.0)
    chosen = related.choose(given.pop("base"), RECIPES, **given)
    config = related.config_of(chosen, "SimSiam", PUBLISHED)
    config.objective.name = "simsiam"
    config.target = "stop_gradient"

    network = config.network
    network.projector.depth = _LAYERS[chosen.base]
    if chosen.base != "digits":  # the heads of digits.py are wider than its representation
        network.projector.hidden_size = network.projector.output_size = chosen.size
    network.projector.output_norm = "plain"
    network.predictor.hidden_size = max(1, network.projector.output_size // 4)
    network.last_bn_scale = "released"
    config.optimizer.predictor_schedule = "constant"
    return config
