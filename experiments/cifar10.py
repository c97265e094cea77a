"""BYOL on CIFAR-10, in the setting of SimCLR App. B.9: ResNet-50 on 32x32 pixels.

    python -m byol_jax.main --config=experiments/cifar10.py --workdir=runs/cifar10

The data set is `tfds:cifar10`, which `tfds build cifar10` prepares. From the official Python
version:

    python launch/cifar10_npz.py cifar-10-batches-py cifar10.npz
    python -m byol_jax.main --config=experiments/cifar10.py --workdir=runs/cifar10 \
        --config.dataset=npz:cifar10.npz

A narrow network for two CPU cores:

    python -m byol_jax.main --workdir=runs/cifar10_narrow --config.dataset=npz:cifar10.npz \
        --config=experiments/cifar10.py:depth=18,width=0.25,batch=256,epochs=20 \
        --config.optimizer.warmup_epochs=2 --config.tau_base=0.99

Measured: 1,500 updates of 64 images, 20 minutes on two CPU cores (seed 1337, protocols of
docs/protocols.md):

    python -m byol_jax.main --config=experiments/cifar10.py:depth=18,width=0.25,batch=64 \
        --config.dataset=npz:cifar10.npz --workdir=runs/cifar10_first --config.num_steps=1500 \
        --config.optimizer.base_learning_rate=8 --config.optimizer.warmup_epochs=0.15 \
        --config.tau_base=0.98 --config.network.projector.hidden_size=512 \
        --config.network.projector.output_size=64 --config.network.predictor.hidden_size=512

| network | kNN  | linear | two labels per class | std x sqrt(d) |
| random  | 22.8 | 26.3   | 13.5 +- 0.2          | 0.8           |
| online  | 35.6 | 41.3   | 20.1 +- 0.3          | 0.7           |

Measured: the same for 8,000 updates of 64 images (10 epochs, warm-up of 0.5 epochs; 1 h 40 min on
a busy machine), then fine-tuned (semi.py, batch 64) on 450 labels, 1 %, for 30 epochs at the rate
that is best on valid, and on 4,500 labels, 10 %, for 8 epochs at rate 0.05. Top-1 on test:

| start  | 1 %  | 10 % |
| random | 36.9 | 50.8 |
| online | 45.5 | 53.2 |

Cost: 48,828 updates of 1024 images, about 1e18 floating-point operations; not run. Where a batch
does not fit into memory, give `--config.accumulate=4`. The narrow network: 3,906 updates of 256
images, 3 hours without the evaluation at 90 images per second on two CPU cores (measured over 40
updates); not run to its end.

The papers have no BYOL pre-trained on CIFAR-10. These are SimCLR's numbers: top-1 on the 10,000
test images, by linear evaluation except in the supervised row.

| what                           | network             | top-1    | source                   |
| SimCLR, batch 1024             | ResNet-50, 3x3 stem | 94.0     | SimCLR App. B.9          |
| supervised, batch 1024         | ResNet-50, 3x3 stem | 95.1     | SimCLR App. B.9          |
| AMDIM                          | 25 times larger     | 91.2     | cited in SimCLR App. B.9 |
| SimCLR, batch 512, 1000 epochs | ResNet-18           | about 91 | README of SimCLR's code  |

Their linear evaluation trains a linear classifier on the frozen network (SimCLR section 2.3;
App. B.6 for ImageNet, by SGD on random crops). `linear` in docs/protocols.md differs: it uses no
augmentation and L-BFGS. The 91.3 of BYOL Table 3 is for features learnt on ImageNet.

Where each choice is from:
- Stem 3x3 at stride 1 without max-pool, crop and flip at 32 pixels, no blur, batch sizes and
  base rates: SimCLR App. B.9. Batch 1024 is that of its best model. Of the rates 0.5, 1 and 1.5
  the middle one is our choice, because B.9 names none as the best. B.9 does not say that the rates
  scale with batch / 256. SimCLR's default rate does (section 2.3), and the README of its code gives
  1.0 for CIFAR-10 to a flag that is "per batch size of 256".
- Colour distortion of strength 0.5: brightness, contrast and saturation 0.4, hue 0.1,
  probability 0.8, greyscale 0.2 (SimCLR App. A and B.9).
- LARS, weight decay 1e-6, warm-up of 10 epochs, cosine: SimCLR section 2.3, to which B.9 refers
  for everything else.
- 1000 epochs: BYOL App. A, and the README of SimCLR's code. B.9 gives no number for its best
  model.
- Projector and predictor: BYOL App. A, hidden 4096 and output 256. Our choice, because no source
  has other sizes for BYOL on CIFAR-10.
- tau_base 0.996: our choice, because BYOL App. A has it for 1000 epochs, and the authors' code
  keeps it on Imagenette for 36,988 updates (imagenette.py), not far from 48,828. The 0.99 of the
  narrow run is that of BYOL section 5 for fewer epochs.
- Evaluation on whole images, `full`: our choice, because B.9 names no crop and 32 pixels have no
  margin to spare.

Where it departs:
- from SimCLR App. B.9: BYOL's loss, predictor and target network; 256 outputs of the projector
  instead of 128. Crops are bicubic and drawn once; the operations of the colour distortion come in
  a random order, clipped after each (BYOL App. C).
- from BYOL App. A and Table 6: one T for both views, without blur or solarization, saturation 0.4
  instead of 0.2; stem, size, batch, rate and decay as above.
"""

import ml_collections

from experiments import base

BATCHES = (256, 512, 1024, 2048, 4096)  # SimCLR App. B.9


def recipe(batch: int, depth: str, width: float) -> str:
    """The `recipe` of a setting; no paper has BYOL pre-trained on CIFAR-10."""
    note = "not published: BYOL on CIFAR-10 in the setting of SimCLR App. B.9"
    if (depth, width) != ("50", 1):
        note += f", with ResNet-{depth} {width:g}x"
    if batch not in BATCHES:
        note += f", at batch {batch}"
    return note


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """SimCLR App. B.9 with BYOL's heads, target and loss.

    Args:
      options: `epochs=1000,batch=1024,depth=50,width=1`, all optional.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    chosen = base.parse_options(options, epochs=1000, batch=1024, depth="50", width=1.0)
    epochs, batch, depth, width = chosen.values()

    config = base.get_config()
    config.recipe = recipe(batch, depth, width)
    config.dataset = "tfds:cifar10"
    config.image_size = 32
    config.num_epochs = epochs
    config.batch_size = batch
    config.tau_base = 0.996

    config.network.depth = depth
    config.network.width = width
    config.network.stem = "small"

    config.optimizer.base_learning_rate = 1.0  # of 0.5, 1.0, 1.5 in SimCLR App. B.9
    config.optimizer.weight_decay = 1e-6

    config.data.eval_crop = "full"
    for view in ("view1", "view2"):
        config.augment[view] = base.simclr_augmentation(0.5, blur=0.0, jitter="byol")  # SimCLR B.9
    return config
