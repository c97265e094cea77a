"""Transfer via linear classification: BYOL App. E.2, Tables 3 and 13; SimCLR App. B.8.1.

    python -m byol_jax.main --config=experiments/transfer.py \
        --config.checkpoint=runs/byol --config.dataset=tfds:oxford_flowers102 \
        --workdir=runs/flowers
    python -m byol_jax.main --config=experiments/transfer.py \
        --config.checkpoint=runs/byol --config.dataset=folder:DIR --config.benchmark=aircraft \
        --workdir=runs/aircraft

A multinomial logistic regression on features of the frozen network, without augmentation. It is
fitted on the training split with 45 penalties. The best penalty on the validation split, by the
metric of the data set (Table 10), is fitted again on both splits together and scored once on the
test split. For images that are not in TFDS, `config.benchmark` names a row of Table 10, which fixes
metric and validation split.

Cost: one forward pass over the data set, and seconds to minutes for the regressions.

| ResNet-50, linear        | Food101 | CIFAR10 | CIFAR100 | Birdsnap | SUN397 | Cars |
| BYOL, Table 3            | 75.3    | 91.3    | 78.4     | 57.2     | 62.2   | 67.8 |
| BYOL, Table 13           | 75.3    | 91.3    | 78.4     | 57.3     | 62.6   | 67.2 |
| BYOL, Places365, Table 13| 64.7    | 84.5    | 66.1     | 28.8     | 64.2   | 55.6 |
| SimCLR (repro), Table 3  | 72.8    | 90.5    | 74.4     | 42.4     | 60.6   | 49.3 |
| supervised, Table 3      | 72.3    | 93.6    | 78.3     | 53.7     | 61.9   | 66.7 |

| ResNet-50, linear        | Aircraft | VOC2007 | DTD  | Pets | Caltech-101 | Flowers |
| BYOL, Table 3            | 60.6     | 82.5    | 75.5 | 90.4 | 94.2        | 96.1    |
| BYOL, Table 13           | 60.6     |         | 76.5 | 90.4 | 94.3        | 96.1    |
| BYOL, Places365, Table 13| 55.9     |         | 68.5 | 66.1 | 84.3        | 90.0    |
| SimCLR (repro), Table 3  | 49.8     | 81.4    | 75.7 | 84.6 | 89.3        | 92.6    |
| supervised, Table 3      | 61.0     | 82.8    | 74.9 | 91.5 | 94.5        | 94.7    |

Not run here: no checkpoint of that size was trained.

Where each choice is from:
- Short side to 224 pixels, bicubic, then the central square: App. E.2 and SimCLR App. B.8.1.
- 45 log-spaced penalties from 1e-6 to 1e5, L-BFGS: App. E.2. The form of the penalty is our choice:
  lambda/2 |W|^2 beside the sum of cross-entropies, without the bias.
- Refit on training and validation images: App. E.2.
- Features are not standardised, because neither paper says that they are (docs/deviations.md, 41).
- VOC2007: one logistic regression per class; App. E.1 gives only the metric.
- The online network: what BYOL keeps (section 3.1).
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `transfer`."""
    config = ml_collections.ConfigDict()
    config.job = "transfer"
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    # Evaluates each checkpoint of a running pre-training as it is saved, until its last step.
    config.follow = False
    config.follow_seconds = 30.0  # seconds between two looks
    config.follow_hours = 24.0  # hours without a new checkpoint before it gives up
    config.network = "online"  # online, target or random (untrained), several joined by +

    config.dataset = config_dict.placeholder(str)  # as in experiments/base.py
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS
    # Key of a row of Table 10; for tfds:NAME it is found automatically.
    config.benchmark = config_dict.placeholder(str)
    # top1, mean_per_class, map_11; empty: that of the row of Table 10.
    config.metric = config_dict.placeholder(str)
    config.fit_split = "train"
    config.valid_split = "valid"
    config.score_split = "test"
    config.image_size = config_dict.placeholder(int)  # empty: that of the pre-training
    config.eval_crop = "full"  # short side to the size, then the centre (App. E.2)
    config.eval_batch_size = 256

    config.l2_grid = tuple(10 ** (-6 + i / 4) for i in range(45))  # App. E.2
    config.standardize = False
    # Writes predictions.npz beside results.json, for compare.py (SimCLR App. B.8.1).
    config.save_predictions = False
    return config
