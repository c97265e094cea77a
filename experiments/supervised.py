"""The supervised baseline: a network trained on labels from scratch: BYOL App. D.2, Table 9.

    python -m byol_jax.main --config=experiments/supervised.py:depth=50,width=1 \
        --config.dataset=tfds:imagenet2012 --workdir=runs/supervised

RandAugment, label smoothing 0.1, SGD with Nesterov momentum 0.9, five epochs of warm-up, then a
cosine to 0, weight decay 1e-4, up to 200 epochs (App. D.2).

Options:
- depth, width, epochs. The paper chose the epochs among numbers that it does not give.
- augment=randaugment, the default. augment=simclr is SimCLR's baseline (SimCLR App. B.3): the
  crops, colours and blur of its pre-training, without label smoothing. augment=color is the same
  without blur, augment=crop has crop and flip only.

Our choices, where App. D.2 is silent: base rate 0.1 x batch / 256, as in the usual ImageNet recipe,
at batch 4096; magnitude 9, which the RandAugment paper has for ResNet-50; weight decay on weights,
and not on BatchNorm and biases.

The network is saved as a checkpoint for linear.py, transfer.py and finetune.py. The rows
Supervised-IN of Table 3 need `augment=simclr,epochs=1000` (SimCLR App. B.8.1).

Cost: 256 million images forward and backward for ImageNet, ResNet-50, 200 epochs.

| Table 9, ours (top-1 / top-5) | supervised  |
| ResNet-50                     | 76.4 / 92.9 |
| ResNet-50 (2x)                | 79.9 / 95.0 |
| ResNet-50 (4x)                | 80.7 / 95.3 |
| ResNet-200 (2x)               | 80.1 / 95.2 |
"""

import ml_collections

from experiments import base, classification


def get_config(options: str = "") -> ml_collections.ConfigDict:
    chosen = base.parse_options(options, depth="50", width=1.0, epochs=200.0, augment="randaugment")
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
    if chosen["augment"] == "randaugment":
        config.augmentation = "randaugment"
    elif chosen["augment"] in ("simclr", "color", "crop"):
        config.recipe = f"supervised baseline, SimCLR App. B.3, {chosen['augment']}"
        config.label_smoothing = 0.0
        if chosen["augment"] != "crop":
            config.augmentation = "pretrain"
            blur = 0.5 if chosen["augment"] == "simclr" else 0.0
            config.view = base.simclr_augmentation(blur=blur)
    else:
        raise ValueError(
            f"augment={chosen['augment']!r} must be randaugment, simclr, color or crop"
        )
    config.fit_split = "train+valid"
    config.valid_split = ""
    config.save_network = True
    return config
