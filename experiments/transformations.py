"""Which transformation was applied, predicted from h and from g(h): SimCLR section 4.2, Table 3.

    python -m byol_jax.main --config=experiments/transformations.py \
        --config.checkpoint=runs/simclr --workdir=runs/simclr_transformations
    ... --config.tasks=rotation --config.network=online --config.representations=embedding ...

Every image is drawn by the crop and T of the pre-training with one operation of T applied, or not,
by a coin of its own; an additional MLP on the frozen features of the view says whether it was, and
for rotation how far. A projection that is trained to be invariant to T should say little: that is
SimCLR's reason to keep h and throw g away.

| SimCLR Table 3, ResNet-50 | random guess | h    | g(h) |
| colour or grayscale       | 80           | 99.3 | 97.4 |
| rotation                  | 25           | 67.6 | 25.6 |
| original or corrupted     | 50           | 99.5 | 59.6 |
| original or Sobel         | 50           | 96.6 | 56.3 |

Not run here. The networks of the last three rows were pre-trained with the operation added, which
`settings.pretrained_with` and the column `in T` of the printed table tell; g(h) had as many
dimensions as h, 2048. Their pre-training:

    SIMCLR="python -m byol_jax.main --config=experiments/simclr.py \
        --config.network.projector.output_size=2048"
    $SIMCLR --workdir=runs/grayscale
    $SIMCLR --config.augment.view1.rotate=1.0 --config.augment.view2.rotate=1.0 \
        --workdir=runs/rotation
    $SIMCLR --config.augment.view1.noise=0.5 --config.augment.view2.noise=0.5 --workdir=runs/noise
    $SIMCLR --config.augment.view1.sobel=0.5 --config.augment.view2.sobel=0.5 --workdir=runs/sobel

The untrained network stands beside: what its h tells needs no learning, and what its g(h) tells
was not lost to invariance.

Cost: a forward pass over both splits for each network and task, and seconds to minutes for each
MLP. Features stay in memory: images x epochs_of_views x the sizes of h and g(h) x 4 bytes. Of
ImageNet `--config.fit_split=valid` is plenty; of small sets `--config.epochs_of_views=10`.

Where each choice is from:
- The tasks, and how often grayscale is applied: Table 3. Noise and Sobel to half of the images
  and equally many turns of each kind: its random guesses.
- Sigma of the noise, and the Sobel filter: byol_jax/augment/simclr.py; SimCLR gives no numbers.
- "Additional MLPs", and no more, is what the paper says of them. One hidden layer as wide as the
  representation, Adam, rate, epochs and batch, and standardised features (h and g(h) differ in
  scale): ours.
- The MLP is fitted on the training images and scored on the test images, one view of each.
- Frozen network, BatchNorm on its averages: as in every evaluation of frozen features.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `transformations`."""
    config = ml_collections.ConfigDict()
    config.job = "transformations"
    config.seed = 1337  # of labels, views and MLPs
    config.checkpoint = config_dict.placeholder(str)  # a workdir or checkpoints/STEP of it
    config.follow = False  # the checkpoints of a workdir one after the other, as they come
    config.follow_seconds = 30.0  # between two looks
    config.follow_hours = 24.0  # without a new checkpoint end it; else the run's last step does
    config.network = "random+online"  # online, target or random (untrained), or several

    config.tasks = "grayscale+rotation+noise+sobel"  # or some of them
    config.representations = "embedding+projection"  # h and g(h), or one of them
    # Share of the views that the operation is applied to (Table 3).
    config.probabilities = ml_collections.ConfigDict({"grayscale": 0.2, "noise": 0.5, "sobel": 0.5})

    config.dataset = config_dict.placeholder(str)  # the checkpoint's own if left out
    config.data_dir = config_dict.placeholder(str)  # of TFDS, likewise
    config.image_size = config_dict.placeholder(int)  # likewise
    config.fit_split = "train"
    config.score_split = "test"
    config.epochs_of_views = 1  # views of each image that are fitted
    config.eval_batch_size = 256  # views a forward pass

    config.hidden_size = config_dict.placeholder(int)  # the representation's own size
    config.num_epochs = 30
    config.batch_size = 256
    config.learning_rate = 1e-3
    return config
