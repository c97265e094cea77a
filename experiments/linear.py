"""Linear evaluation by SGD on a frozen encoder: BYOL App. D.1; Tables 1, 7, 9 and 13.

    python -m byol_jax.main --config=experiments/linear.py \
        --config.checkpoint=runs/byol --workdir=runs/byol_linear
    python -m byol_jax.main --config=experiments/linear.py:augment=pretrain,logits=regularized ...
    python -m byol_jax.main --config=experiments/linear.py:protocol=simclr ...

The network comes from the config of the checkpoint. Options:
- protocol=byol (App. D.1): batch 1024, 80 epochs, five rates from 0.4 to 0.05 in one pass, of
  which the validation split chooses. protocol=simclr (SimCLR App. B.6): batch 4096, 90 epochs,
  rate 1.6, no validation. protocol=released (the authors' code): training and validation images
  together, rate 0.2 x batch / 256, their evaluation crop.
- augment=pretrain: T of Table 6 instead of crop and flip (Table 7).
- logits=regularized: tclip with alpha 20 and a penalty of 1e-2 (Table 7).

Cost: forward passes of the encoder only; 100 million images for ImageNet, ResNet-50, 80 epochs.

| top-1 / top-5, ImageNet (Tables 1, 7 and 9) | paper       |
| ResNet-50                                   | 74.3 / 91.6 |
| ... pre-train augmentations                 | 74.4 / 91.8 |
| ... logits regularised                      | 74.7 / 91.8 |
| ... both                                    | 74.8 / 91.8 |
| ResNet-50 (2x)                              | 77.4 / 93.6 |
| ResNet-50 (4x)                              | 78.6 / 94.2 |
| ResNet-200 (2x)                             | 79.6 / 94.8 (Table 1), 94.9 (Table 9) |

Crops and flips are those of App. D.1, whatever T was, so that the rows of Table 17 and of SimCLR
Figure 5 are evaluated alike. D.1 gives no numbers: 8 % to 100 % of the area and probability 0.5 are
those of App. C (docs/deviations.md, 53). `--config.crops=own` takes those of T, as networks of
digits.py do by themselves; other images that must not be flipped need it.

On small images (CIFAR-10, digits) the evaluation crop is that of the checkpoint, and the batch must
fit the set, as in `--config.batch_size=256`. `--config.save_predictions=True` keeps the predictions
for compare.py.
"""

import ml_collections

from experiments import base, classification

PROTOCOLS = ("byol", "simclr", "released")
LOGITS = ("plain", "regularized")
AUGMENT = ("spatial", "pretrain")


def get_config(options: str = "") -> ml_collections.ConfigDict:
    chosen = base.parse_options(options, protocol="byol", augment="spatial", logits="plain")
    for name, allowed in (("protocol", PROTOCOLS), ("augment", AUGMENT), ("logits", LOGITS)):
        if chosen[name] not in allowed:
            raise ValueError(f"{name}={chosen[name]!r} must be one of: {', '.join(allowed)}")
    config = classification.get_config()
    config.job = "linear"
    config.recipe = f"linear evaluation, {chosen['protocol']}"
    if chosen["protocol"] == "byol":
        config.learning_rates = (0.4, 0.3, 0.2, 0.1, 0.05)  # App. D.1
    elif chosen["protocol"] == "simclr":
        config.batch_size = 4096  # SimCLR App. B.5
        config.num_epochs = 90.0  # SimCLR App. B.6
        config.learning_rates = (0.1,)
        config.rate_scaling = "linear"  # 1.6 at 4096
        config.fit_split = "train+valid"
        config.valid_split = ""
    else:
        config.batch_size = 4096
        config.learning_rates = (0.2,)  # docs/deviations.md, 25 and 26
        config.rate_scaling = "linear"
        config.fit_split = "train+valid"
        config.valid_split = ""
        config.eval_crop = "released"
    config.augmentation = chosen["augment"]
    if chosen["logits"] == "regularized":
        config.logit_clip = 20.0  # App. D.1
        config.logit_penalty = 1e-2
    return config
