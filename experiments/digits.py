"""The embedded run: BYOL on real scans of hand-written digits, 8x8 pixels.

    make demo
    python -m byol_jax.main --config=experiments/digits.py --workdir=runs/digits

1,797 scans ship inside scikit-learn; a fixed class-balanced fifth is the test split, which
pre-training never sees. Cost: TinyResNet with 192 channels in the stem, 2,246 updates of
64 images: three to four minutes on two CPU cores, evaluation included.

Nobody published BYOL on digits. Top-1 on the 359 test images, protocols of
docs/protocols.md, seed 1337:

| network | two labels a class | linear | kNN  | std x sqrt(d) |
| pixels  | 71.2 +- 0.6        | 96.9   | 98.6 |               |
| random  | 28.3 +- 0.5        | 58.2   | 66.3 | 0.8           |
| target  | 82.3 +- 0.6        | 96.7   | 95.5 | 0.9           |
| online  | 82.9 +- 0.6        | 96.9   | 95.0 | 0.9           |

A change of the program that only rounds otherwise (1e-7 in the first updates) grows within these
high rates to another run: one before had 85.9, 98.3 and 96.1 online. So read differences of three
points as noise; `+-` is that of the draws of labels alone.

Where it departs from App. A, and why:
- LARS moves a weight by about rate x trust coefficient of its norm an update. 312,784
  updates may be gentle, 2,246 may not: the base rate is 8 instead of 0.2.
- tau_base 0.98: the target must follow within hundreds of updates, not hundreds of
  thousands (Table 5a: anything from 0.9 to 0.999 works).
- Crops keep 60 % of the area or more: 8 % of an 8x8 scan is 5 pixels.
- No flip (a flipped 2 is no digit), no colour but brightness and contrast (the scans are
  grey), no blur (its kernel has one tap at 8 pixels), no solarization.
"""

import ml_collections

from experiments import base


def get_config() -> ml_collections.ConfigDict:
    """A small BYOL for two CPU cores."""
    config = base.get_config()
    config.recipe = "not published: digits, a demonstration"
    config.dataset = "digits"
    config.image_size = 8
    config.batch_size = 64
    config.num_epochs = 100
    config.log_every = 25
    config.checkpoint_every = 1000

    config.network.depth = "tiny"
    config.network.width = 3.0  # a representation of 24 numbers
    config.network.stem = "small"  # SimCLR App. B.9
    config.network.projector.hidden_size = 512
    config.network.projector.output_size = 64  # Table 14b: 64 is within 0.3 of 256
    config.network.predictor.hidden_size = 512

    config.optimizer.base_learning_rate = 8.0
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-6
    config.tau_base = 0.98

    config.data.area_min = 0.6
    config.data.eval_crop = "full"
    for view in (config.augment.view1, config.augment.view2):
        view.flip = 0.0
        view.saturation_max = 0.0
        view.hue_max = 0.0
        view.grayscale = 0.0
        view.blur = 0.0
        view.solarize = 0.0
    return config
