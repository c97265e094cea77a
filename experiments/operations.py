"""A picture of every augmentation on one image: the grid of SimCLR Figure 4, and more.

    python -m byol_jax.main --config=experiments/operations.py \
        --config.image=photo.jpg --workdir=runs/operations

Writes operations.png: the image, its short side resized and its centre kept, and what each
operation alone makes of it with probability 1. The first ten panels are those of SimCLR Figure 4;
solarize, equalize and motion blur are of its App. B.2, AutoAugment of its Table 1, RandAugment of
BYOL App. D.2. The Gaussian blur is the strongest of App. A. Another seed draws other boxes,
colours, turns and policies. To see whole recipes instead: `--config.job=views`.

Cost: seconds.
"""

import ml_collections
from ml_collections import config_dict

from experiments import base

JITTER = ("brightness_max", "contrast_max", "saturation_max", "hue_max")


def get_config() -> ml_collections.ConfigDict:
    """The job `operations`."""
    config = ml_collections.ConfigDict()
    config.job = "operations"
    config.image = config_dict.placeholder(str)  # any file that Pillow reads
    config.image_size = 224
    config.seed = 2
    # The largest distances of the colour jitter: strength 1 (SimCLR App. A).
    config.jitter = ml_collections.ConfigDict(
        {name: value for name, value in base.simclr_augmentation().items() if name in JITTER}
    )
    return config
