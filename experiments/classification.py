"""What the pages that learn from labels share: linear.py, semi.py, finetune.py, supervised.py.

Not a run by itself. What a page leaves open (image size, crops, data set) is taken from the
checkpoint's own config.
"""

import ml_collections
from ml_collections import config_dict

from experiments import base


def get_config() -> ml_collections.ConfigDict:
    """SGD with Nesterov momentum on labelled images (BYOL App. D.1)."""
    config = ml_collections.ConfigDict()
    config.recipe = "not named"
    config.seed = 1337

    config.checkpoint = config_dict.placeholder(str)  # a workdir or checkpoints/STEP of it
    # Waits for the checkpoints of a running pre-training and evaluates each, until its end.
    config.follow = False
    config.follow_seconds = 30.0  # between two looks
    config.follow_hours = 24.0  # without a new checkpoint
    config.network = "online"  # online | target | random (untrained)

    config.dataset = config_dict.placeholder(str)  # the checkpoint's own if left out
    config.data_dir = config_dict.placeholder(str)  # of TFDS, likewise
    # A row of Table 10 (byol_jax/data/table10.py): validation cut and metric. That of
    # tfds:NAME by itself.
    config.benchmark = config_dict.placeholder(str)
    config.metric = config_dict.placeholder(str)  # top1 | mean_per_class | map_11; the row's
    config.image_size = config_dict.placeholder(int)  # the checkpoint's own
    config.eval_crop = config_dict.placeholder(str)  # likewise; paper, released or full
    config.eval_batch_size = 256
    config.fit_split = "train"
    config.valid_split = "valid"
    config.score_split = "test"

    config.batch_size = 1024  # App. D.1
    config.num_epochs = 80.0
    config.num_steps = config_dict.placeholder(int)  # overrides num_epochs
    config.warmup_epochs = 0.0
    config.learning_rates = (0.2,)
    # none: the rates as they stand, as App. D.1 says; linear: times batch_size / 256, as the
    # released code does (docs/deviations.md, 26).
    config.rate_scaling = "none"
    config.momentum = 0.9
    config.weight_decay = 0.0
    config.label_smoothing = 0.0
    config.logit_clip = 0.0  # alpha of tclip (App. D.1); 0: none
    config.logit_penalty = 0.0  # beta of App. D.1
    config.augmentation = "spatial"  # crop and flip; or pretrain (T of the run), randaugment
    config.magnitude = 9.0  # of RandAugment, 0 to 10
    # Crops and flips are those of the checkpoint's own pre-training (App. C, D.1).
    config.flip = config_dict.placeholder(float)  # probability
    config.area_min = config_dict.placeholder(float)  # of the crops
    # Of T, for augmentation=pretrain: what is given replaces the checkpoint's own.
    config.view = ml_collections.ConfigDict(
        {name: config_dict.placeholder(float) for name in base.augmentation()}
    )
    config.threads = 0  # of the input pipeline; 0 tunes itself
    config.prefetch = 2  # batches kept ready

    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps; a training that was stopped goes on from there
    return config


def get_finetune_config() -> ml_collections.ConfigDict:
    """Fine-tuning of the whole network, a grid of settings at a time (BYOL App. D.1, E.3)."""
    config = get_config()
    config.job = "finetune"
    config.protocol = "finetune"  # as the records call it
    # Share of each class's labels, drawn with a seed of its own: the same for every run.
    config.fraction = 1.0
    config.subset_seed = 0
    # Another data set to learn from, such as tfds:imagenet2012_subset/1pct; scored as ever.
    config.train_dataset = config_dict.placeholder(str)
    # The grid is learning_rates x sweep_epochs x sweep_weight_decays; () is num_epochs and
    # weight_decay alone, num_steps does away with epochs.
    config.sweep_epochs = ()
    config.sweep_weight_decays = ()
    config.decay_over_rate = False  # weight decays are divided by the rate (App. E.3)
    config.refit = False  # the best cell again, on fit_split and valid_split (App. E.3)
    # Decay of BatchNorm's averages: empty, the network's own; a number; or transfer,
    # max(1 - 10 / s, 0.9) for s steps an epoch (App. E.3).
    config.bn_decay = ""
    # What is trained from scratch if there is no checkpoint to take it from.
    config.encoder = base.get_config().network
    config.save_network = False  # as a checkpoint in the workdir, for other evaluations
    return config
