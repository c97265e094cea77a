"""Depth from one image by up-projection: BYOL App. E.6; Tables 4b and 12.

    python -m byol_jax.main --config=experiments/depth.py --config.checkpoint=runs/byol \
        --config.dataset=tfds:nyu_depth_v2 --config.data_dir=/data/tfds --workdir=runs/nyu
    ... --config.dataset=nyu:/data/nyu_depth_v2_labeled.mat
    python -m byol_jax.main --config=experiments/depth.py:preset=small \
        --config.checkpoint=runs/mine --config.dataset=depth:/data/rooms --workdir=runs/rooms
    ... --config.network=random                   an untrained encoder
    ... --config.eval_crop=crop                   compares where the network has seen the image

An encoder with four up-projection blocks on its last feature map, trained with the reverse Huber
loss on all training images, and scored on the test. The same command resumes. docs/dense.md has the
forms of sets, own images and depths among them.

Options:
- preset=byol (App. E.6): as below.
- preset=small: frames of 96 x 128 pixels, narrow blocks, 300 steps of 8 images, for a small set or
  a CPU.

What App. E.6 leaves open is in docs/deviations.md, 84 to 88, 92, 94 to 97 and 99.

Cost: 1.92 million crops of 228 x 304 pixels, each 17 G multiply-adds forward: 2e17 FLOP in all.

| NYU v2 (Table 4b) | pct < 1.25 | < 1.25^2 | < 1.25^3 | rms   | rel   |
| Supervised-IN     | 81.1       | 95.3     | 98.8     | 0.573 | 0.127 |
| SimCLR (repro)    | 83.3       | 96.5     | 99.1     | 0.557 | 0.134 |
| BYOL              | 84.6       | 96.7     | 99.1     | 0.541 | 0.129 |
"""

import ml_collections

from experiments import base, dense

PRESETS = ("byol", "small")


def get_config(options: str = "") -> ml_collections.ConfigDict:
    preset = base.parse_options(options, preset="byol")["preset"]
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} must be one of: {', '.join(PRESETS)}")
    config = dense.get_config()
    config.job = "depth"
    config.recipe = f"depth, preset {preset}"
    config.protocol = "nyuv2-upproj"
    config.head = ml_collections.ConfigDict()
    config.head.channels = (512, 256, 128, 64)  # App. E.6
    config.head.entry_channels = 1024  # FCRN (docs/deviations.md, 84)
    config.head.padding = "unpool5x5"  # or authors (docs/deviations.md, 85)
    config.frame = (240, 320)  # App. E.6: 640 x 480, halved
    config.crop = (228, 304)  # App. E.6
    config.flip = 0.5
    config.colours = ml_collections.ConfigDict()
    config.colours.grayscale = 0.3  # App. E.6, and the next three
    config.colours.brightness_max = 0.1255
    config.colours.saturation_max = 0.5  # factors in [0.5, 1.5]
    config.colours.hue_max = 0.2  # turns
    config.eval_crop = "stretch"  # or crop (docs/deviations.md, 88)
    # App. E.6 chooses nothing on a validation split.
    config.fit_split = "train+valid"
    config.valid_split = ""
    config.batch_size = 256  # App. E.6
    config.num_steps = 7500  # App. E.6
    config.learning_rates = (0.16,)  # App. E.6, at a batch of 256
    config.rate_scaling = "linear"  # App. E.6: "scaled linearly"
    config.milestones = (0.35, 0.7)  # docs/deviations.md, 99
    config.weight_decay = 5e-4  # App. E.6
    if preset == "small":
        config.protocol = "upproj"
        config.frame = (96, 128)
        config.crop = (91, 122)
        config.head.channels = (64, 32, 16, 16)
        config.head.entry_channels = 128
        config.batch_size = 8
        config.num_steps = 300
        config.learning_rates = (0.02,)
        config.rate_scaling = "none"
        config.log_every = 10
    return config
