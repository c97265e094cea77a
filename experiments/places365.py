"""BYOL and SimCLR pre-trained on Places365 instead of ImageNet (BYOL App. F).

    python -m byol_jax.main --config=experiments/places365.py --workdir=runs/places365
    ... --config=experiments/places365.py:method=simclr ...

The data set is `tfds:places365_small`, which `tfds build places365_small` prepares: 1,803,460
training images, and the 36,500 labelled images of `validation` as the test split (Table 10).

App. F takes "the exact same parameters as in Section 4", which are those of App. A, and 1000
epochs: only the data set changes. Table 13 has linear evaluation with ResNet-50, by App. D.1 in the
first two columns and by App. E in the others (top-1; mean per class in Aircraft, Pets, Caltech-101
and Flowers, Table 10):

| pre-training         | Places365 | ImageNet | Food101 | CIFAR10 | CIFAR100 | Birdsnap | SUN397 |
| BYOL on ImageNet     | 51.0      | 74.3     | 75.3    | 91.3    | 78.4     | 57.3     | 62.6   |
| BYOL on Places365    | 53.2      | 58.5     | 64.7    | 84.5    | 66.1     | 28.8     | 64.2   |
| SimCLR on Places365  | 53.0      | 56.5     | 61.7    | 80.8    | 61.1     | 21.2     | 62.5   |

| pre-training         | Cars | Aircraft | DTD  | Pets | Caltech-101 | Flowers |
| BYOL on ImageNet     | 67.2 | 60.6     | 76.5 | 90.4 | 94.3        | 96.1    |
| BYOL on Places365    | 55.6 | 55.9     | 68.5 | 66.1 | 84.3        | 90.0    |
| SimCLR on Places365  | 40.1 | 44.3     | 64.3 | 59.4 | 77.1        | 85.9    |

The first row is the run of byol.py; Table 3 has other values for it (docs/deviations.md, at the
end). App. F also cites 55.2 for a ResNet-50 v2 trained on the labels of Places365.

Cost: App. F names none. There are 440,297 updates instead of the 312,784 of App. A, so its 8 hours
on 512 TPU v3 cores would become 11. Not run.

SimCLR is "our SimCLR reproduction": that of Tables 16 and 17, SimCLR's recipe with T and T' of BYOL
Table 6 (ablations.py), for 1000 epochs.

Where it departs: App. F names Places365-Standard without a size. TFDS has `places365_small`, which
is resized to 256x256 pixels.
"""

import ml_collections

from experiments import base, simclr


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """App. A's run on Places365.

    Args:
      options: `method=byol`, the default, or `method=simclr`.

    Raises:
      ValueError: for an unknown option or method.
    """
    method = base.parse_options(options, method="byol")["method"]
    if method not in ("byol", "simclr"):
        raise ValueError(f"method={method!r} must be byol or simclr")
    config = base.get_config()
    if method == "simclr":
        augment, config = config.augment, simclr.get_config("epochs=1000")
        config.augment = augment
    config.recipe = "published: BYOL App. F"
    config.dataset = "tfds:places365_small"
    return config
