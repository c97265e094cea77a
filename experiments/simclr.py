"""SimCLR: the same step as BYOL with the dials at the other end (BYOL App. G.4 and G.5).

    python -m byol_jax.main --config=experiments/simclr.py --workdir=runs/simclr
    ... --config=experiments/simclr.py:epochs=1000 ...
    ... --config=experiments/simclr.py:epochs=1000,augment=broader ...
    ... --config=experiments/simclr.py:data=cifar10 --config.dataset=npz:cifar10.npz ...

Top-1 by linear evaluation, ResNet-50:

| data     | epochs | batch | augment | top-1 | source                     |
| ImageNet | 100    | 4096  | default | 64.5  | SimCLR App. A; 64.6 in B.1 |
| ImageNet | 1000   | 4096  | default | 69.3  | SimCLR Table 6             |
| ImageNet | 1000   | 4096  | broader | 70.0  | SimCLR App. B.2            |
| CIFAR-10 | 1000   | 1024  | default | 94.0  | SimCLR App. B.9            |

At width=2 and width=4 Table 6 has 74.2 and 76.5, App. B.2 has 74.4 and 76.8. The reproduction of
BYOL's authors, with T and T' of BYOL, is `ablations.py:table=17,method=simclr,row=1`: 67.9 after
300 epochs.

Options: data=imagenet or cifar10, epochs, batch, depth, width, augment=default or broader.

Cost: that of BYOL (byol.py) without the passes of the target network, three quarters of it.

What makes it SimCLR, and where each choice is from:
- NT-Xent (SimCLR Eq. 1) with gradients through both views of one network: no predictor, no
  target network. Temperature 0.1, the best of SimCLR Table 5; 0.5 on CIFAR-10 (Figure B.7).
- The projector of SimCLR section 3: two layers, 128 outputs, and as many hidden units as the
  representation has numbers, 2048 for ResNet-50. BatchNorm behind the hidden layer and, without an
  offset, behind the output: its code has both, the paper is silent. BYOL App. A: "Contrary to
  SimCLR, the output of this MLP is not batch normalized" (docs/deviations.md, 52).
- LARS, rate 0.3 x batch / 256, decay 1e-6, ten epochs of warm-up (SimCLR section 2.3). On CIFAR-10
  the rate is 1.0, out of 0.5, 1.0 and 1.5 in App. B.9.
- T of SimCLR App. A for both views; on CIFAR-10 with strength 0.5 and without blur (App. B.9).
- `augment=broader` adds Sobel filtering, equalize, solarize and motion blur (App. B.2). Their
  probability of 0.2 is our choice, that of the greyscale: B.2 prints none (docs/deviations.md, 43).
"""

import ml_collections

from experiments import base, byol, cifar10

# (data, epochs, batch, depth, width, augment): its source in the paper.
PUBLISHED = {
    ("imagenet", 100, 4096, "50", 1.0, "default"): "published: SimCLR section 2.3",
    **{
        ("imagenet", epochs, 4096, "50", 1.0, "default"): "published: SimCLR Table B.1"
        for epochs in (200, 400, 800)
    },
    **{
        ("imagenet", 1000, 4096, "50", width, augment): f"published: SimCLR {place}"
        for width in (1.0, 2.0, 4.0)
        for augment, place in (("default", "Table 6"), ("broader", "App. B.2"))
    },
    ("cifar10", 1000, 1024, "50", 1.0, "default"): "published: SimCLR App. B.9",
}
# App. B.2's further operations, and their probability.
BROADER = dict.fromkeys(("sobel", "equalize", "solarize", "motion_blur"), 0.2)


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """SimCLR's own recipe.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    chosen = base.parse_options(
        options, data="imagenet", epochs=0, batch=0, depth="50", width=1.0, augment="default"
    )
    data, epochs, batch, depth, width, augment = chosen.values()
    if augment not in ("default", "broader"):
        raise ValueError(f"augment={augment!r} must be default or broader")
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
    if augment == "broader":
        column.update(BROADER)
    config.recipe = PUBLISHED.get(
        (data, epochs, batch, depth, width, augment),
        f"not published: SimCLR on {data}, {epochs} epochs at batch {batch}, "
        f"ResNet-{depth} {width:g}x, {augment} augmentations",
    )
    config.objective.name = "nt_xent"
    for loss in ("nt_xent", "nt_logistic"):
        config.objective[loss].temperature = temperature
    config.target = "online"
    config.network.predictor.kind = "none"
    representation = {"tiny": 8, "18": 512, "34": 512}.get(depth, 2048)
    config.network.projector.hidden_size = int(representation * width)
    config.network.projector.output_size = 128
    config.network.projector.output_norm = "scale"
    config.optimizer.base_learning_rate = rate
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 1e-6
    config.augment.view1 = column
    config.augment.view2 = column.copy_and_resolve_references()
    return config
