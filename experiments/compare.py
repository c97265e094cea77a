"""Whether two results on the same images differ by more than chance: SimCLR App. B.8.1.

    python -m byol_jax.main --config=experiments/compare.py \
        --config.a=runs/simclr_flowers --config.b=runs/supervised_flowers \
        --workdir=runs/comparison

Each side is a workdir of linear.py, semi.py, finetune.py, supervised.py or transfer.py that was run
with `--config.save_predictions=True`, or its `predictions.npz`. Both must be of the same images
with the same labels.

SimCLR Tables 8 and B.5 print in bold what is not significantly worse than the best (p > 0.05).
Their test exchanges the predictions of two models for each example at random, 100,000 times. For
top-1 accuracy it "yields the same result as the exact McNemar test", which is computed here: the
binomial test of the examples that only one of both gets right. Sets with mean per-class accuracy
are tested by top-1 accuracy, too. The paper tests "a difference in accuracy" on VOC2007, and does
not say what that is with several classes per image: predictions for that set are not kept.

A caveat of the paper's: the test knows the chance of the test images, not that of the training.

Cost: none.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `compare`."""
    config = ml_collections.ConfigDict()
    config.job = "compare"
    config.a = config_dict.placeholder(str)  # a workdir, or its predictions.npz
    config.b = config_dict.placeholder(str)  # likewise
    return config
