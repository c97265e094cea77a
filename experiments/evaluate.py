"""Frozen-feature evaluation of a checkpoint: kNN, linear, and two labels per class.

    python -m byol_jax.main --config=experiments/evaluate.py \
        --config.checkpoint=runs/digits --workdir=runs/digits

The network comes from the config of the checkpoint, and so does the data set unless it is given.
The rows are raw pixels, the untrained network, online and target; docs/protocols.md describes the
protocols. With `--config.follow=True` it evaluates each checkpoint of a run that is still training
into `config.checkpoint`.

The paper's own protocols differ: App. D.1 is linear.py and semi.py, App. E is transfer.py and
finetune.py.

Cost: seconds on digits; on other sets one forward pass over both splits, and regressions.
"""

import ml_collections
from ml_collections import config_dict

from experiments import base


def get_config() -> ml_collections.ConfigDict:
    """The job `evaluate`."""
    config = ml_collections.ConfigDict()
    config.job = "evaluate"
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    # Evaluates each checkpoint of a running pre-training as it is saved, until its last step.
    config.follow = False
    config.follow_seconds = 30.0  # seconds between two looks
    config.follow_hours = 24.0  # hours without a new checkpoint before it gives up
    config.dataset = config_dict.placeholder(str)  # empty: that of the checkpoint
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS; empty: the checkpoint's
    config.image_size = config_dict.placeholder(int)  # empty: that of the checkpoint
    config.eval_crop = config_dict.placeholder(str)  # paper, released or full; empty: likewise
    config.evaluation = base.get_config().evaluation
    return config
