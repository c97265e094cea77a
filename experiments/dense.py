"""The keys shared by the pages of dense transfers: segmentation and depth (BYOL App. E.4, E.6).

This page is not a run.
"""

import ml_collections
from ml_collections import config_dict

from experiments import base


def get_config() -> ml_collections.ConfigDict:
    """SGD with momentum on images with a target per pixel."""
    config = ml_collections.ConfigDict()
    config.recipe = "not named"
    # Draws an untrained encoder. Orders, crops and heads are drawn from each of `seeds`.
    config.seed = 1337
    config.seeds = (0,)

    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    # Evaluates each checkpoint of a running pre-training as it is saved, until its last step.
    config.follow = False
    config.follow_seconds = 30.0  # seconds between two looks
    config.follow_hours = 24.0  # hours without a new checkpoint before it gives up
    config.network = "online"  # online | target | random (untrained)
    # The network of a training from scratch without a checkpoint.
    config.encoder = base.get_config().network

    config.dataset = config_dict.placeholder(str)  # docs/dense.md
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS
    config.exif = config_dict.placeholder(bool)  # turns images as EXIF says; None: as pre-training
    config.fit_split = "train"
    config.valid_split = "valid"
    config.score_split = "test"
    # Training images that become `valid`; None: 2119 of train_aug, of other sets a fifth.
    config.held_out = config_dict.placeholder(int)
    config.refit = False  # trains the chosen rate again on fit_split and valid_split

    config.backbone = "finetune"  # finetune | frozen_bn (BatchNorm as it came) | frozen
    config.bn_decay = config_dict.placeholder(float)  # None: that of the checkpoint
    config.precision = "float32"  # or bfloat16
    config.remat = False  # computes residual blocks again in the backward pass: less memory
    config.accumulate = 1  # micro-batches per step
    config.eval_batch_size = 16

    config.num_epochs = 1.0
    config.num_steps = config_dict.placeholder(int)  # overrides num_epochs; None: by epochs
    config.rate_scaling = "none"  # none | linear, times batch_size / 256
    config.momentum = 0.9  # docs/deviations.md, 96
    config.decay = "all"  # all | weights: which parameters have weight decay
    config.threads = 0  # threads that read and transform; 0: one per core
    config.prefetch = 2  # batches kept ready
    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps; a stopped training resumes from there
    config.skip_damaged = False  # goes on from an earlier checkpoint where the newest is damaged
    config.save_network = True  # saves the network of the first seed, for predict.py
    return config
