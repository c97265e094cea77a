"""The supervised baseline: a network trained on labels from scratch: BYOL App. D.2, Table 9.

    python -m byol_jax.main --config=experiments/supervised.py:depth=50,width=1 \
        --config.dataset=tfds:imagenet2012 --workdir=runs/supervised

RandAugment, label smoothing 0.1, SGD with Nesterov momentum 0.9, five epochs of warm-up, then a
cosine to 0, weight decay 1e-4, up to 200 epochs (App. D.2).

Options:
- depth, width, epochs. The paper chose the epochs among numbers that it does not give.
- augment=randaugment, the default. augment=simclr is SimCLR's baseline (SimCLR App. B.3): the
  crops, colours and blur of its pre-training, without label smoothing. augment=color is the same
  without blur, augment=crop has crop and flip only. augment=autoaugment has AutoAugment in place of
  colours and blur (SimCLR Table 1).
- strength=0.125, 0.25, 0.5 or 1: strength of the colours of augment=color and augment=simclr
  (SimCLR Table 1).

Our choices, where App. D.2 is silent: base rate 0.1 x batch / 256, as in the usual ImageNet recipe,
at batch 4096; magnitude 9, which the RandAugment paper has for ResNet-50; weight decay on weights,
and not on BatchNorm and biases. SimCLR's paper gives neither rate, warm-up nor decay of its
baselines: they are the same here (docs/deviations.md, 56).

The network is saved as a checkpoint for linear.py, transfer.py and finetune.py. The rows
Supervised-IN of Table 3 need `augment=simclr,epochs=1000` (SimCLR App. B.8.1).

Cost: 256 million images forward and backward for ImageNet, ResNet-50, 200 epochs.

| Table 9, ours (top-1 / top-5) | supervised  |
| ResNet-50                     | 76.4 / 92.9 |
| ResNet-50 (2x)                | 79.9 / 95.0 |
| ResNet-50 (4x)                | 80.7 / 95.3 |
| ResNet-200 (2x)               | 80.1 / 95.2 |

| SimCLR Table 1, ResNet-50, 90 epochs | options                      | top-1 |
| color distortion of strength 1/8     | augment=color,strength=0.125 | 77.0  |
| 1/4                                  | augment=color,strength=0.25  | 76.7  |
| 1/2                                  | augment=color,strength=0.5   | 76.5  |
| 1                                    | augment=color                | 75.7  |
| 1 (+Blur)                            | augment=simclr               | 75.4  |
| AutoAug                              | augment=autoaugment          | 77.1  |

SimCLR Table B.3 has 75.6 and 75.3 for the runs of 75.7 and 75.4.
"""

import ml_collections

from experiments import base, classification

AUGMENT = ("randaugment", "simclr", "color", "crop", "autoaugment")


def _of_simclr(augment: str, strength: float) -> ml_collections.ConfigDict | None:
    """T of SimCLR's baselines; None for crop and flip only."""
    if augment == "crop":
        return None
    if augment == "autoaugment":
        nothing = {"color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
        return base.augmentation(autoaugment=1.0, **nothing)
    return base.simclr_augmentation(strength, blur=0.5 if augment == "simclr" else 0.0)


def get_config(options: str = "") -> ml_collections.ConfigDict:
    chosen = base.parse_options(
        options, depth="50", width=1.0, epochs=200.0, augment="randaugment", strength=1.0
    )
    augment, strength = chosen["augment"], chosen["strength"]
    if augment not in AUGMENT:
        raise ValueError(f"augment={augment!r} must be one of: {', '.join(AUGMENT)}")
    if strength <= 0:
        raise ValueError(f"strength={strength:g} must be above 0")
    if strength != 1 and augment not in ("simclr", "color"):
        raise ValueError(
            f"strength={strength:g} is that of color distortion, which augment={augment} has not: "
            "give augment=color or augment=simclr"
        )
    config = classification.get_finetune_config()
    config.recipe = "supervised baseline, BYOL App. D.2"
    config.protocol = "supervised"
    config.network = "random"
    config.image_size = 224
    config.encoder.depth = chosen["depth"]
    config.encoder.width = chosen["width"]
    config.batch_size = 4096
    config.learning_rates = (0.1,)
    config.rate_scaling = "linear"
    config.num_epochs = chosen["epochs"]
    config.warmup_epochs = 5.0  # App. D.2
    config.weight_decay = 1e-4
    config.label_smoothing = 0.1
    if augment == "randaugment":
        config.augmentation = "randaugment"
    else:
        words = augment if strength == 1 else f"{augment} of strength {strength:g}"
        config.recipe = f"supervised baseline, SimCLR App. B.3, {words}"
        config.label_smoothing = 0.0
        view = _of_simclr(augment, strength)
        if view is not None:
            config.augmentation = "pretrain"
            config.view = view
    config.fit_split = "train+valid"
    config.valid_split = ""
    config.save_network = True
    return config
