"""Segmentation by a fully-convolutional network: BYOL App. E.4; Tables 4a and 11.

    python -m byol_jax.main --config=experiments/segmentation.py \
        --config.checkpoint=runs/byol --config.dataset=voc:/data/VOCdevkit --workdir=runs/voc
    python -m byol_jax.main --config=experiments/segmentation.py:preset=moco ...
    python -m byol_jax.main --config=experiments/segmentation.py:preset=small \
        --config.checkpoint=runs/mine --config.dataset=masks:/data/camvid --workdir=runs/camvid
    ... --config.network=random                   an untrained encoder
    ... --config.checkpoint=resnet50.pth          one of docs/weights.md, such as a supervised one

An encoder with two dilated convolutions on its last feature map. Each of five rates is trained, and
2119 images that are held out of train_aug choose among them. The best rate is then trained on all
of train_aug with five seeds, and scored on VOC's val. The same command resumes at the next
training. docs/dense.md has the forms of sets, own images and masks among them.

Options:
- preset=byol (App. E.4): as above.
- preset=moco: rate 0.003 without a sweep, as in MoCo's setup, which E.4 follows otherwise.
- preset=small: crops of 129 pixels, dilation 2 in the head, one rate and one seed, 300 steps of 8
  images, for a small set or a CPU.

`--config.backbone=frozen` trains the head alone, `frozen_bn` leaves BatchNorm as it came. What App.
E.4 leaves open is in docs/deviations.md, 79 to 83, 89 to 93 and 96 to 98.

Cost: ten trainings of 480,000 crops of 513 pixels, each 41 G multiply-adds forward, and ten passes
over 2119 or 1449 images. `--config.accumulate=N` fits the 16 crops on a device with little memory.

| VOC2012, mIoU (Table 4a) | paper |
| Supervised-IN            | 74.4  |
| MoCo                     | 72.5  |
| SimCLR (repro)           | 75.2  |
| BYOL                     | 76.3  |
"""

import ml_collections
from ml_collections import config_dict

from experiments import base, dense

PRESETS = ("byol", "moco", "small")


def get_config(options: str = "") -> ml_collections.ConfigDict:
    preset = base.parse_options(options, preset="byol")["preset"]
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} must be one of: {', '.join(PRESETS)}")
    config = dense.get_config()
    config.job = "segmentation"
    config.recipe = f"segmentation, preset {preset}"
    config.protocol = "voc2012-fcn16s"
    config.head = ml_collections.ConfigDict()
    config.head.channels = 256  # App. E.4
    config.head.dilation = 6  # App. E.4
    config.head.init = "normal"  # or haiku (docs/deviations.md, 80)
    config.align_corners = True  # docs/deviations.md, 81
    config.crop = 513  # App. E.4
    config.scale_range = (0.5, 2.0)  # App. E.4
    config.scale_step = 0.0  # docs/deviations.md, 90
    config.flip = 0.5
    # Side of the central crop in evaluations (App. E.4); None: whole images of any size.
    config.eval_crop = config_dict.placeholder(int)
    config.batch_size = 16  # App. E.4
    config.num_steps = 30_000  # App. E.4
    config.milestones = (0.7, 0.9)  # App. E.4: "at 70th and 90th percentile of training"
    config.weight_decay = 1e-4  # App. E.4
    if preset == "small":
        config.protocol = "fcn16s"
        config.crop = 129
        # A crop has 9 x 9 logits. Dilated by 6, the head would see its borders from everywhere,
        # and learn classes by place, which means nothing in a whole image.
        config.head.dilation = 2
        config.batch_size = 8
        config.num_steps = 300
        config.learning_rates = (0.03,)
        config.log_every = 10
        return config
    config.eval_crop = 513  # App. E.4
    config.seeds = (0, 1, 2, 3, 4)  # App. E.4: "average over 5 seeds"
    config.refit = True  # docs/deviations.md, 98
    # App. E.4: "5 logarithmically spaced values between 10^-3 and 10^-1".
    config.learning_rates = (0.001, 10**-2.5, 0.01, 10**-1.5, 0.1)
    if preset == "moco":
        config.learning_rates = (0.003,)
    return config
