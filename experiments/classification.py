"""The keys shared by the pages that learn from labels: linear, semi, finetune, supervised.

This page is not a run. Keys that a page leaves empty (image size, crops, data set) are taken from
the config of the checkpoint.
"""

import ml_collections
from ml_collections import config_dict

from experiments import base


def get_config() -> ml_collections.ConfigDict:
    """SGD with Nesterov momentum on labelled images (BYOL App. D.1)."""
    config = ml_collections.ConfigDict()
    config.recipe = "not named"
    config.seed = 1337

    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    # Evaluates each checkpoint of a running pre-training as it is saved, until its last step.
    config.follow = False
    config.follow_seconds = 30.0  # seconds between two looks
    config.follow_hours = 24.0  # hours without a new checkpoint before it gives up
    config.network = "online"  # online | target | random (untrained)

    config.dataset = config_dict.placeholder(str)  # empty: that of the checkpoint
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS; empty: the checkpoint's
    # Key of a row of Table 10 (byol_jax/data/table10.py), which fixes validation cut and metric.
    # For tfds:NAME it is found automatically.
    config.benchmark = config_dict.placeholder(str)
    # top1 | mean_per_class | map_11; empty: that of the row of Table 10.
    config.metric = config_dict.placeholder(str)
    config.image_size = config_dict.placeholder(int)  # empty: that of the checkpoint
    config.eval_crop = config_dict.placeholder(str)  # paper, released or full; empty: likewise
    config.eval_batch_size = 256
    config.fit_split = "train"
    config.valid_split = "valid"
    config.score_split = "test"

    config.batch_size = 1024  # App. D.1
    config.num_epochs = 80.0
    config.num_steps = config_dict.placeholder(int)  # overrides num_epochs; None: by epochs
    config.warmup_epochs = 0.0
    config.learning_rates = (0.2,)
    # none: rates as given (App. D.1); linear: times batch_size / 256, as in the released code
    # (docs/deviations.md, 26).
    config.rate_scaling = "none"
    config.momentum = 0.9
    config.weight_decay = 0.0
    config.label_smoothing = 0.0
    config.logit_clip = 0.0  # alpha of tclip (App. D.1); 0: none
    config.logit_penalty = 0.0  # beta of App. D.1
    config.augmentation = "spatial"  # crop and flip; or pretrain (T of the run), randaugment
    config.magnitude = 9.0  # magnitude of RandAugment, 0 to 10
    # paper: crops of 8 % to 100 % of the area, flips with probability 0.5 (App. D.1, E.3); own:
    # those of the pre-training's T. Empty: own with augmentation=pretrain, and where the page of
    # the run says so for its own images (data.classifier_crops: digits); otherwise paper.
    config.crops = config_dict.placeholder(str)
    config.flip = config_dict.placeholder(float)  # probability, in place of that of `crops`
    config.area_min = config_dict.placeholder(float)  # smallest share of the area, likewise
    # Entries of T for augmentation=pretrain; an entry replaces that of the pre-training.
    config.view = ml_collections.ConfigDict(
        {name: config_dict.placeholder(type(value)) for name, value in base.augmentation().items()}
    )
    config.threads = 0  # threads of the input pipeline; 0: tuned automatically
    config.prefetch = 2  # batches kept ready
    # Writes predictions.npz beside results.json, for compare.py (SimCLR App. B.8.1).
    config.save_predictions = False
    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps; a stopped training resumes from there
    config.skip_damaged = False  # goes on from an earlier checkpoint where the newest is damaged
    return config


def get_finetune_config() -> ml_collections.ConfigDict:
    """Fine-tuning of the whole network on a grid of settings (BYOL App. D.1, E.3)."""
    config = get_config()
    config.job = "finetune"
    config.protocol = "finetune"  # name in the records
    # Share of the labels of each class, drawn with `subset_seed`: the same for every run.
    config.fraction = 1.0
    config.subset_seed = 0
    # Another data set to learn from, such as tfds:imagenet2012_subset/1pct. Scores are still those
    # of `dataset`.
    config.train_dataset = config_dict.placeholder(str)
    # The grid is learning_rates x sweep_epochs x sweep_weight_decays. () stands for num_epochs and
    # weight_decay; num_steps overrides all epochs.
    config.sweep_epochs = ()
    config.sweep_weight_decays = ()
    config.decay_over_rate = False  # weight decays are divided by the rate (App. E.3)
    config.refit = False  # trains the best cell again on fit_split and valid_split (App. E.3)
    # Decay of BatchNorm's averages: empty for that of the network, a number, or transfer:
    # max(1 - 10 / s, 0.9) for s steps per epoch (App. E.3).
    config.bn_decay = ""
    # The network of a training from scratch without a checkpoint.
    config.encoder = base.get_config().network
    config.save_network = False  # saves a checkpoint in the workdir, for other evaluations
    return config
