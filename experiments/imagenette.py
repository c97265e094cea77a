"""BYOL on Imagenette, ten classes of ImageNet: the authors' small run for one GPU.

    python -m byol_jax.main --config=experiments/imagenette.py --workdir=runs/imagenette

The data set is `tfds:imagenette/160px-v2`, which `tfds build imagenette/160px-v2` prepares: 9,469
training images, and the 3,925 images of `validation` as the test split.

A folder with train/CLASS and val/CLASS gives the splits `train` and `valid`. Its missing test/ is a
fixed class-balanced fifth of train/, so that train+test is all of train/. The same run trained on
all of train/ and scored on val/:

    python -m byol_jax.main --config=experiments/imagenette.py --workdir=runs/imagenette \
        --config.dataset=folder:DIR --config.data.split=train+test \
        --config.evaluation.fit_split=train+test --config.evaluation.score_split=valid

Cost: 36,988 updates of 256 images; "roughly 4 hours" on one V100 according to the README of the
authors' code. Not run here.

That README reports a top-1 of about 92.3 % on the test split for the online classifier, the linear
probe that is trained along with the online network. It is not a number of the paper. No job here
scores the probe on the test split (docs/protocols.md): `linear` in results.json is another
classifier, fitted afterwards to frozen features.

Where each choice is from: the section "Setup for fast iteration" of that README. It names the data
set and its version, ResNet-18, 128 pixels, batch 256, 1000 epochs, base rate 2.0 (x batch / 256)
and weight decay 1e-6, and keeps the other parameters of the code. For 1000 epochs these are
tau_base 0.996, a warm-up of 10 epochs, heads of 4096 and 256 without a last bias
(docs/deviations.md, 1), an initial target of its own (2) and the released evaluation crop (18).

Where it departs from that run: the seed (32), and crops rounded to uint8 (19).
`network.last_bn_scale` (4) does not change basic blocks, and ResNet-18 has no others.
"""

import ml_collections

from experiments import base


@base.remembered
def get_config() -> ml_collections.ConfigDict:
    """The Imagenette run of the authors' released code."""
    config = base.get_config()
    config.recipe = "published: the README of the authors' released code, Imagenette"
    config.dataset = "tfds:imagenette/160px-v2"
    config.image_size = 128
    config.batch_size = 256
    config.num_epochs = 1000
    config.tau_base = 0.996
    config.target_init = "released"
    config.network.depth = "18"
    config.optimizer.base_learning_rate = 2.0
    config.optimizer.weight_decay = 1e-6
    config.data.eval_crop = "released"
    config.finish.report = True
    return config
