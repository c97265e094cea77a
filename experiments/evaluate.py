"""Frozen-feature evaluation of a checkpoint: kNN, linear, and two labels a class.

    python -m byol_jax.main --config=experiments/evaluate.py \
        --config.checkpoint=runs/digits --workdir=runs/digits

The network and, unless given, the data set come from the checkpoint's own config. Rows
for raw pixels and the untrained network stand beside online and target. Protocols:
docs/protocols.md. `--config.follow=True`, beside a run that is training into
`config.checkpoint`, evaluates each of its checkpoints as it comes.

Cost: seconds on digits; one forward pass over both splits and some regressions
elsewhere. The paper's own protocols (App. D, E) differ; that of App. E.2 is
experiments/transfer.py.
"""

import ml_collections
from ml_collections import config_dict

from experiments import base


def get_config() -> ml_collections.ConfigDict:
    """The job `evaluate`."""
    config = ml_collections.ConfigDict()
    config.job = "evaluate"
    config.checkpoint = config_dict.placeholder(str)  # a workdir or checkpoints/STEP of it
    config.follow = False  # the checkpoints of a workdir one after the other, as they come
    config.follow_seconds = 30.0  # between two looks
    config.follow_hours = 24.0  # without a new checkpoint end it; else the run's last step does
    config.dataset = config_dict.placeholder(str)  # the checkpoint's own if left out
    config.data_dir = config_dict.placeholder(str)  # of TFDS, likewise
    config.image_size = config_dict.placeholder(int)  # likewise
    config.eval_crop = config_dict.placeholder(str)  # likewise; paper, released or full
    config.evaluation = base.get_config().evaluation
    return config
