"""SimCLR: the same step as BYOL with the dials at the other end (BYOL App. G.4 and G.5).

    python -m byol_jax.main --config=experiments/simclr.py --workdir=runs/simclr
    ... --config=experiments/simclr.py:epochs=1000 ...
    ... --config=experiments/simclr.py:data=cifar10 --config.dataset=npz:cifar10.npz ...

| data     | network   | epochs | batch | top-1, linear evaluation | source                      |
| ImageNet | ResNet-50 | 100    | 4096  | 64.5                     | SimCLR App. A; 64.6 in B.1  |
| ImageNet | ResNet-50 | 1000   | 4096  | 69.3                     | SimCLR Table 6              |
| ImageNet | ResNet-50 | 300    | 4096  | 67.9                     | BYOL Table 17, reproduction |
| CIFAR-10 | ResNet-50 | 1000   | 1024  | 94.0                     | SimCLR App. B.9             |

Options: data=imagenet or cifar10, epochs, batch, depth, width.

Cost: that of BYOL (byol.py) without the passes of the target network, about two thirds of it.

What makes it SimCLR, and where each choice is from:
- NT-Xent (SimCLR Eq. 1) with gradients through both views of one network: no predictor, no
  target network. Temperature 0.1, the best of SimCLR Table 5; 0.5 on CIFAR-10 (Figure B.7).
- The projector of SimCLR section 3: two layers, 128 outputs, and as many hidden units as the
  representation has numbers, 2048 for ResNet-50. Its code has BatchNorm after the hidden layer, as
  BYOL has; the paper does not say.
- LARS, rate 0.3 x batch / 256, decay 1e-6, ten epochs of warm-up (SimCLR section 2.3). On CIFAR-10
  the rate is 1.0, out of 0.5, 1.0 and 1.5 in App. B.9.
- T of SimCLR App. A for both views; on CIFAR-10 with strength 0.5 and without blur (App. B.9).
"""

import ml_collections

from experiments import base, byol, cifar10

# (data, epochs, batch, depth, width): its source in the paper.
PUBLISHED = {
    ("imagenet", 100, 4096, "50", 1.0): "published: SimCLR section 2.3",
    **{
        ("imagenet", epochs, 4096, "50", 1.0): "published: SimCLR Table B.1"
        for epochs in (200, 400, 800)
    },
    **{
        ("imagenet", 1000, 4096, "50", width): "published: SimCLR Table 6"
        for width in (1.0, 2.0, 4.0)
    },
    ("cifar10", 1000, 1024, "50", 1.0): "published: SimCLR App. B.9",
}


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """SimCLR's own recipe.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    chosen = base.parse_options(options, data="imagenet", epochs=0, batch=0, depth="50", width=1.0)
    data, epochs, batch, depth, width = chosen.values()
    if data == "imagenet":
        epochs, batch = epochs or 100, batch or 4096
        config = byol.get_config(f"epochs={epochs},batch={batch},depth={depth},width={width}")
        column = base.simclr_augmentation()
        rate, temperature = 0.3, 0.1
    elif data == "cifar10":
        epochs, batch = epochs or 1000, batch or 1024
        config = cifar10.get_config(f"epochs={epochs},batch={batch},depth={depth},width={width}")
        column = base.simclr_augmentation(0.5, blur=0.0)
        rate, temperature = 1.0, 0.5
    else:
        raise ValueError(f"data={data!r} must be imagenet or cifar10")
    config.recipe = PUBLISHED.get(
        (data, epochs, batch, depth, width),
        f"not published: SimCLR on {data}, {epochs} epochs at batch {batch}, "
        f"ResNet-{depth} {width:g}x",
    )
    config.objective.name = "nt_xent"
    for loss in ("nt_xent", "nt_logistic"):
        config.objective[loss].temperature = temperature
    config.target = "online"
    config.network.predictor.kind = "none"
    representation = {"tiny": 8, "18": 512, "34": 512}.get(depth, 2048)
    config.network.projector.hidden_size = int(representation * width)
    config.network.projector.output_size = 128
    config.optimizer.base_learning_rate = rate
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 1e-6
    config.augment.view1 = column
    config.augment.view2 = column.copy_and_resolve_references()
    return config
