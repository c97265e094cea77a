"""Masks or depths of one's own images, from a network of segmentation.py or depth.py.

    python -m byol_jax.main --config=experiments/predict.py \
        --config.checkpoint=runs/streets --config.images=photos --workdir=runs/predicted

Writes a file per image into the workdir, with the names and sizes of the images: `masks/NAME.png`
with a class index per pixel in the colours of VOC, or `depth/NAME.png`, 16 bits in millimetres, 0
where there is no depth. `predictions.png` shows the first eight, and `predict.json` has the names
of the classes and what made the files.

The same command does what is missing. An image that cannot be read has no file: `unreadable.txt`
lists these, and more than 1 % of them end the job.

Segmentation sees the whole image, in its own size up to `largest_side`. Depth sees the centre of
the image, resized as in its training, and stretches what it predicts over the whole of it; a
network that was trained with `eval_crop=crop` leaves the border at 0.

Cost: one forward pass per image; a ResNet-50 with its FCN takes 41 G multiply-adds for 513 x 513.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `predict`."""
    config = ml_collections.ConfigDict()
    config.job = "predict"
    config.checkpoint = config_dict.placeholder(str)  # a workdir of segmentation.py or depth.py
    config.images = config_dict.placeholder(str)  # a folder, with its sub-folders
    config.batch_size = 8  # images per call, over all devices
    # Pixels of the longer side; larger images are made smaller, and their masks larger again.
    config.largest_side = 1025
    config.pictures = 8  # images in predictions.png; 0: none
    return config
