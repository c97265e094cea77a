"""A picture of every augmentation on one image: the grid of SimCLR Figure 4, and more.

    python -m byol_jax.main --config=experiments/operations.py \
        --config.image=photo.jpg --workdir=runs/operations

Writes operations.png: the image, resized by its short side and cut to the central square, and each
operation applied to it alone with probability 1. The first ten panels are those of SimCLR Figure 4.
Solarize, equalize and motion blur are from its App. B.2, AutoAugment from its Table 1, RandAugment
from BYOL App. D.2. The Gaussian blur has the largest sigma of App. A. Another seed draws other
boxes, colours, turns and policies. For a picture of whole recipes see `--config.job=views`.

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
    config.image = config_dict.placeholder(str)  # a file that Pillow reads
    config.image_size = 224
    config.seed = 2
    # Largest changes of the colour jitter at strength 1 (SimCLR App. A).
    config.jitter = ml_collections.ConfigDict(
        {name: value for name, value in base.simclr_augmentation().items() if name in JITTER}
    )
    return config
