"""Every knob of a pre-training run with its default and the source of the default.

The defaults are the paper's ImageNet run (BYOL App. A): ResNet-50, 1000 epochs, batch
4096. Not a run by itself: the pages beside this one start from it. Any knob can be
overridden on the command line, `--config.optimizer.base_learning_rate=0.3`.
"""

from typing import Any

import ml_collections
from ml_collections import config_dict


def parse_options(options: str, **defaults: Any) -> dict[str, Any]:
    """`a=1,b=x` behind the colon of `--config=FILE:...`, with the types of the defaults.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    values = dict(defaults)
    for option in filter(None, options.split(",")):
        name, separator, value = option.partition("=")
        if name not in defaults or not separator:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise ValueError(f"unknown config option {option!r}: the options are {known}")
        try:
            values[name] = type(defaults[name])(value)
        except ValueError:
            kind = type(defaults[name]).__name__
            raise ValueError(f"config option {name}={value!r} must be of type {kind}") from None
    return values


def augmentation(**changes: float) -> ml_collections.ConfigDict:
    """A column of BYOL Table 6, T's by default, with some entries changed."""
    column = ml_collections.ConfigDict()
    # Probabilities, and largest offsets (brightness, hue) or distances of the factor
    # from 1 (contrast, saturation): BYOL Table 6.
    column.flip = 0.5
    column.color_jitter = 0.8
    column.brightness_max = 0.4
    column.contrast_max = 0.4
    column.saturation_max = 0.2
    column.hue_max = 0.1
    column.grayscale = 0.2
    column.blur = 1.0
    # Pixels; the kernel has 23 taps at 224 pixels and scales with the image (App. C).
    column.blur_sigma_min = 0.1
    column.blur_sigma_max = 2.0
    column.solarize = 0.0
    column.solarize_threshold = 0.5  # App. C
    # Probabilities of operations that Table 6 does without; byol_jax/augment/simclr.py has their
    # numbers. One that is 0 costs nothing; from 0 to another, the step is compiled anew.
    column.crop = 0.0  # another crop of App. C's kind: SimCLR Figure 5
    column.rotate = 0.0  # by 0, 90, 180 or 270 degrees: SimCLR Figure 4, Table 3
    column.randaugment = 0.0  # two operations at magnitude 9, as in BYOL App. D.2
    column.autoaugment = 0.0  # SimCLR Table 1, AutoAug
    column.equalize = 0.0  # SimCLR App. B.2
    column.motion_blur = 0.0  # SimCLR App. B.2
    column.sobel = 0.0  # SimCLR Figure 4, App. B.2
    column.noise = 0.0  # SimCLR Figure 4, "corrupted" in Table 3
    column.cutout = 0.0  # SimCLR Figure 4
    column.update(changes)
    return column


def simclr_augmentation(
    strength: float = 1.0, blur: float = 0.5, **changes: float
) -> ml_collections.ConfigDict:
    """SimCLR's policy (App. A) as a column, both views alike, with some entries changed.

    `strength` is s of its colour distortion (Table 1), `blur` the probability of its blur (0 in
    the columns of Table 1 that do not say +Blur).
    """
    return augmentation(
        **{
            "flip": 0.5,  # App. A, Random crop and resize
            "color_jitter": 0.8,  # App. A, color_distortion: the p of random_apply
            "brightness_max": 0.8 * strength,  # App. A, color_jitter, and the next three
            "contrast_max": 0.8 * strength,
            "saturation_max": 0.8 * strength,
            "hue_max": 0.2 * strength,
            "grayscale": 0.2,  # App. A, color_distortion: the p of color_drop
            "blur": blur,  # App. A, Gaussian blur: 50 % of the time, sigma in [0.1, 2.0]
            "blur_sigma_min": 0.1,
            "blur_sigma_max": 2.0,
            "solarize": 0.0,
            **changes,
        }
    )


def objective() -> ml_collections.ConfigDict:
    """What is minimised, and a section of keys for each choice; a run reads that of its `name`."""
    # byol: Eq. 2; info_nce: Eq. 5 (Tables 5b and 18); nt_xent, nt_logistic, margin_triplet: SimCLR
    # Table 2.
    section = ml_collections.ConfigDict({"name": "byol"})

    section.byol = ml_collections.ConfigDict()
    section.byol.normalization = "l2"  # or layer, batch, none (App. G.6, Table 20)

    section.info_nce = ml_collections.ConfigDict()
    section.info_nce.temperature = 0.1  # alpha (App. G.4; Table 18 varies it)
    section.info_nce.beta = 1.0  # weight of the negatives; 0 is BYOL (App. G.4)
    section.info_nce.l2 = True  # cosines; False: dot products

    section.nt_xent = ml_collections.ConfigDict()
    section.nt_xent.temperature = 0.1  # tau, the best of SimCLR Table 5
    section.nt_xent.l2 = True  # cosines; False: dot products (SimCLR Table 5)

    section.nt_logistic = ml_collections.ConfigDict()
    section.nt_logistic.temperature = 0.1  # SimCLR App. B.10 tries 0.1, 0.2, 0.5, 1
    section.nt_logistic.l2 = True
    section.nt_logistic.semi_hard = False  # only semi-hard negatives (SimCLR Table 4, "sh")

    section.margin_triplet = ml_collections.ConfigDict()
    section.margin_triplet.margin = 0.4  # SimCLR App. B.10 tries 0, 0.4, 0.8, 1.6
    section.margin_triplet.l2 = True
    section.margin_triplet.semi_hard = False  # only semi-hard negatives (SimCLR Table 4, "sh")

    # Keywords of an objective from outside the package, `name = "module:function"`; a page fills
    # them in.
    section.own = ml_collections.ConfigDict()
    return section


def get_config() -> ml_collections.ConfigDict:
    """The paper's run, BYOL App. A, without a data set."""
    config = ml_collections.ConfigDict()
    config.job = "pretrain"
    # What the recipe is and who published it; printed at the start of the run.
    config.recipe = "not named"
    config.seed = 1337  # pseudo-code J.1

    # digits | npz:FILE (train_images, train_labels, test_images, test_labels) | folder:DIR
    # (train/, val/ and test/ are splits, sub-folders classes) | tfds:NAME.
    config.dataset = config_dict.placeholder(str)
    # Where TFDS keeps its data; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data_dir = config_dict.placeholder(str)
    config.image_size = 224  # side of the views in pixels (App. A)
    config.batch_size = 4096  # global and effective (App. A)
    config.accumulate = 1  # micro-batches a step (section 5, App. G.2, Table 16)
    config.num_epochs = 1000  # App. A
    config.num_steps = config_dict.placeholder(int)  # overrides num_epochs
    # End at this step as a pre-empted run would: saved, schedules untouched.
    config.stop_at = config_dict.placeholder(int)
    # float32, or bfloat16: f, g and q compute in half precision on what stays float32, the
    # parameters, BatchNorm statistics, losses, optimiser and moving average.
    config.precision = "float32"

    # A trace of so many steps in WORKDIR/profile, for TensorBoard (tensorboard-plugin-profile) or
    # ui.perfetto.dev; the first of them is counted from where the run starts or goes on.
    config.profile = ml_collections.ConfigDict({"steps": 0, "first": 10})
    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps
    # How many checkpoints stay in the workdir, the newest first; 0 keeps all.
    config.keep_checkpoints = 3

    # What the predictions are compared with (Tables 5b and 19): ema, the moving average of
    # Eq. 1; stop_gradient and online, the online network without and with its gradient;
    # constant, the network of step 0 (Table 5a).
    config.target = "ema"
    # Eq. 1 and App. A: cosine, the rate rises from tau_base to 1; constant, it stays (Table 5a).
    config.tau_base = 0.996
    config.tau_schedule = "cosine"
    # paper: starts as a copy of the online network (pseudo-code J.5);
    # released: starts on its own (docs/deviations.md, 2).
    config.target_init = "paper"

    config.objective = objective()

    config.network = ml_collections.ConfigDict()
    config.network.depth = "50"  # tiny, 18, 34, 50, 101, 152, 200
    config.network.width = 1.0  # a multiple of 1/8; the paper's are 1 to 4
    config.network.stem = "imagenet"  # or small: 3x3 stride 1, no pool (SimCLR App. B.9)
    # App. A; Table 14 varies depth and output size. A projector is mlp, linear or none
    # (SimCLR Figure 8), a predictor mlp, linear, none (Table 5b) or optimal_linear (App. J.2).
    config.network.projector = ml_collections.ConfigDict(
        {"kind": "mlp", "depth": 2, "hidden_size": 4096, "output_size": 256}
    )
    config.network.predictor = ml_collections.ConfigDict(
        {"kind": "mlp", "depth": 2, "hidden_size": 4096}
    )
    for head in (config.network.projector, config.network.predictor):
        # BatchNorm behind each hidden layer (App. A); MoCo's and SupCon's heads have none.
        head.hidden_norm = True
        # BatchNorm behind the output: none (App. A: "the output of this MLP is not batch
        # normalized"), full, scale (no offset: SimCLR's code), plain (neither: SimSiam's code).
        head.output_norm = "none"
    # paper | released: docs/deviations.md, 1 and 4.
    config.network.head_bias = "released"
    config.network.last_bn_scale = "paper"
    config.network.bn_decay = 0.9  # pseudo-code J.1
    config.network.bn_eps = 1e-5  # pseudo-code J.1
    config.network.init_scale = 1.0  # times the initial weights (App. G)
    # Computes each residual block twice and keeps less of it in memory: for the largest networks.
    config.network.remat = False

    # LARS with linear warm-up and cosine decay: App. A, pseudo-code J.1.
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "lars"  # or sgd, adam (with decoupled decay; no table has it)
    config.optimizer.base_learning_rate = 0.2
    # linear: x batch_size / 256; sqrt: x sqrt(batch_size), SimCLR App. B.1; none.
    config.optimizer.rate_scaling = "linear"
    # Factors of the heads' own rates: mu (Table 22) and lambda (Tables 21 and 22).
    config.optimizer.projector_rate = 1.0
    config.optimizer.predictor_rate = 1.0
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 1.5e-6
    config.optimizer.trust_coefficient = 1e-3
    config.optimizer.momentum = 0.9

    # T and T' of Table 6.
    config.augment = ml_collections.ConfigDict()
    # device: in the update step, as in pseudo-code J.4; host: in tf.data, the same operations,
    # for a device that is slower than the host's spare cores.
    config.augment.placement = "device"
    config.augment.view1 = augmentation()
    config.augment.view2 = augmentation(blur=0.1, solarize=0.2)
    # Further views, smaller and cut closer (Lecture, SwAV's multi-crop), for methods that use them:
    # how many, their side in pixels, their share of the image's area, and their own column. BYOL
    # has none.
    config.augment.small = augmentation()
    config.augment.small.update({"count": 0, "size": 96, "area_min": 0.05, "area_max": 0.14})

    config.data = ml_collections.ConfigDict()
    # train, valid, test, or several joined. The paper pre-trains on its local validation
    # images too: all 1,281,167 (pseudo-code J.1). A split that the data set lacks is a fixed
    # class-balanced fifth of the training images, first test, then valid.
    config.data.split = "train+valid"
    config.data.exif = False  # turn images as EXIF says; the usual ImageNet pipelines do not
    # Random crop: share of the image's area, width over height (App. C).
    config.data.area_min = 0.08
    config.data.area_max = 1.0
    config.data.aspect_min = 3 / 4
    config.data.aspect_max = 4 / 3
    # Both views from the box of the first: with nothing else in view 2 it is the identity of
    # SimCLR Figure 5, which applies the studied operations to one branch alone.
    config.data.same_crop = False
    # Keeps all images on every device, as uint8, and crops there: for sets of one image size that
    # fit into its memory, such as CIFAR-10 (150 MB).
    config.data.resident = False
    config.data.threads = 0  # of the input pipeline; 0 tunes itself
    # Halve JPEGs up to three times while they are decoded, where both crops stay larger than the
    # views: for photographs of many megapixels. Evaluations decode whole pixels, as papers do.
    config.data.scaled_decoding = False
    # Keep the files of the images in the memory of each process once they are read, still encoded:
    # for a slow disk or network (ImageNet: about 140 GB).
    config.data.cache = False
    # grpc://HOST:PORT of a tf.data service that reads and crops elsewhere (launch/data_service.py,
    # docs/input.md): the same crops, in batches of another order, which changes from run to run.
    config.data.service = config_dict.placeholder(str)
    config.data.prefetch = 2  # batches kept ready on the host and on the devices
    # paper: short side to 256/224 of the size, then the centre (App. C); released: central
    # 87.5 % of the short side, resized (docs/deviations.md, 18); full: short side to the
    # size, then the centre, which leaves small images whole.
    config.data.eval_crop = "paper"

    # Frozen features at the end of the run (docs/protocols.md).
    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.at_end = True
    config.evaluation.knn_every = 0  # steps between kNN readings in metrics.jsonl; 0: none
    config.evaluation.batch_size = 256
    config.evaluation.fit_split = "train+valid"  # classifiers and neighbours
    config.evaluation.score_split = "test"
    config.evaluation.knn_k = 20
    config.evaluation.knn_temperature = 0.07
    config.evaluation.labels_per_class = 2
    config.evaluation.draws = 20

    # The job `views` (--config.job=views) draws a picture of T and T' on these.
    config.views = ml_collections.ConfigDict()
    config.views.images = 8
    config.views.draws = 4  # of each of T and T', one an epoch
    return config
