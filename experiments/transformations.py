"""Which transformation was applied, predicted from h and from g(h): SimCLR section 4.2, Table 3.

    python -m byol_jax.main --config=experiments/transformations.py \
        --config.checkpoint=runs/simclr --workdir=runs/simclr_transformations
    ... --config.tasks=rotation --config.network=online --config.representations=embedding ...

Each view is drawn by the crop and T of the pre-training, but one operation is applied or left out
by a draw of its own. An additional MLP on the frozen features of the view predicts whether it was
applied, and for rotation by which angle. A projection that is trained to be invariant to T should
predict little: that is SimCLR's reason to keep h and throw g away.

| SimCLR Table 3, ResNet-50 | random guess | h    | g(h) |
| colour or grayscale       | 80           | 99.3 | 97.4 |
| rotation                  | 25           | 67.6 | 25.6 |
| original or corrupted     | 50           | 99.5 | 59.6 |
| original or Sobel         | 50           | 96.6 | 56.3 |

Not run here. The networks of the last three rows were pre-trained with the operation added to T;
`settings.pretrained_with` and the column `in T` of the printed table tell whether a checkpoint was.
g(h) had as many dimensions as h, 2048. Their pre-training:

    SIMCLR="python -m byol_jax.main --config=experiments/simclr.py \
        --config.network.projector.output_size=2048"
    $SIMCLR --workdir=runs/grayscale
    $SIMCLR --config.augment.view1.rotate=1.0 --config.augment.view2.rotate=1.0 \
        --workdir=runs/rotation
    $SIMCLR --config.augment.view1.noise=0.5 --config.augment.view2.noise=0.5 --workdir=runs/noise
    $SIMCLR --config.augment.view1.sobel=0.5 --config.augment.view2.sobel=0.5 --workdir=runs/sobel

The untrained network is evaluated beside the trained one: what its h predicts needs no learning,
and what its g(h) predicts was not lost to invariance.

Cost: a forward pass over both splits per network and task, and seconds to minutes per MLP. Features
stay in memory: images x epochs_of_views x the sizes of h and g(h) x 4 bytes. On ImageNet
`--config.fit_split=valid` is enough; on small sets give `--config.epochs_of_views=10`.

Where each choice is from:
- The tasks, and how often grayscale is applied: Table 3. Noise and Sobel on half of the images, and
  equally many turns of each angle: its random guesses.
- Sigma of the noise, and the Sobel filter: byol_jax/augment/simclr.py; SimCLR gives no numbers.
- The MLP is our choice, since the paper says no more than "additional MLPs": one hidden layer as
  wide as the representation, Adam, its rate, epochs and batch, and standardised features, because
  h and g(h) differ in scale.
- The MLP is fitted on the training images and scored on the test images, one view of each.
- Frozen network, BatchNorm on its averages: as in every evaluation of frozen features.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `transformations`."""
    config = ml_collections.ConfigDict()
    config.job = "transformations"
    config.seed = 1337  # seed of labels, views and MLPs
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    # Evaluates each checkpoint of a running pre-training as it is saved, until its last step.
    config.follow = False
    config.follow_seconds = 30.0  # seconds between two looks
    config.follow_hours = 24.0  # hours without a new checkpoint before it gives up
    config.network = "random+online"  # online, target or random (untrained), joined by +

    config.tasks = "grayscale+rotation+noise+sobel"  # one or more, joined by +
    config.representations = "embedding+projection"  # h, g(h), or both joined by +
    # Share of the views that the operation is applied to (Table 3).
    config.probabilities = ml_collections.ConfigDict({"grayscale": 0.2, "noise": 0.5, "sobel": 0.5})

    config.dataset = config_dict.placeholder(str)  # empty: that of the checkpoint
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS; empty: the checkpoint's
    config.image_size = config_dict.placeholder(int)  # empty: that of the checkpoint
    config.fit_split = "train"
    config.score_split = "test"
    config.epochs_of_views = 1  # views per image that are fitted
    config.eval_batch_size = 256  # views per forward pass

    config.hidden_size = config_dict.placeholder(int)  # empty: that of the representation
    config.num_epochs = 30
    config.batch_size = 256
    config.learning_rate = 1e-3
    return config
