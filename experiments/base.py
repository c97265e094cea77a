"""Every key of a pre-training run, with its default and the source of the default.

The defaults are the paper's ImageNet run (BYOL App. A): ResNet-50, 1000 epochs, batch 4096. This
page is not a run: the pages beside it start from it. The command line overrides any key, as in
`--config.optimizer.base_learning_rate=0.3`.
"""

import functools
from collections.abc import Callable
from typing import Any

import ml_collections
from ml_collections import config_dict

# The configs that pages have made in this process, by the words of their recipes. A run compares
# its own with them, and says what a page that starts from a shipped one, or the command line, has
# changed of its recipe.
MADE: dict[str, dict[str, Any]] = {}


def remembered(
    get_config: Callable[..., ml_collections.ConfigDict],
) -> Callable[..., ml_collections.ConfigDict]:
    """A page's `get_config` that keeps what it returns in `MADE`."""

    @functools.wraps(get_config)
    def get_and_keep(*options: str) -> ml_collections.ConfigDict:
        config = get_config(*options)
        MADE[config.recipe] = config.to_dict()
        return config

    return get_and_keep


def parse_options(options: str, **defaults: Any) -> dict[str, Any]:
    """The options `a=1,b=x` of `--config=FILE:a=1,b=x`, with the types of the defaults.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    values = dict(defaults)
    for option in filter(None, options.split(",")):
        name, separator, value = option.partition("=")
        if name not in defaults or not separator:
            allowed = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise ValueError(f"unknown config option {option!r}: the options are {allowed}")
        try:
            values[name] = type(defaults[name])(value)
        except ValueError:
            kind = type(defaults[name]).__name__
            raise ValueError(f"config option {name}={value!r} must be of type {kind}") from None
    return values


def augmentation(**changes: float | str) -> ml_collections.ConfigDict:
    """A column of BYOL Table 6, by default that of T, with the given entries changed."""
    column = ml_collections.ConfigDict()
    # Table 6: probabilities; largest offset (brightness, hue), or largest distance of the factor
    # from 1 (contrast, saturation).
    column.flip = 0.5
    column.color_jitter = 0.8
    column.brightness_max = 0.4
    column.contrast_max = 0.4
    column.saturation_max = 0.2
    column.hue_max = 0.1
    # byol: in random order, clipped after each operation (App. C); simclr: brightness, contrast,
    # saturation, hue, clipped once (SimCLR App. A; docs/deviations.md, 42).
    column.jitter = "byol"
    column.grayscale = 0.2
    column.blur = 1.0
    # In pixels. The kernel has 23 taps at 224 pixels and scales with the image (App. C).
    column.blur_sigma_min = 0.1
    column.blur_sigma_max = 2.0
    column.solarize = 0.0
    column.solarize_threshold = 0.5  # App. C
    # Probabilities of operations that Table 6 does not have; byol_jax/augment/simclr.py has their
    # constants. An operation of probability 0 costs nothing. Raising it above 0 compiles the step
    # anew.
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
    strength: float = 1.0, blur: float = 0.5, **changes: float | str
) -> ml_collections.ConfigDict:
    """The policy of SimCLR App. A as a column, the same for both views.

    Args:
      strength: s of the colour distortion (SimCLR Table 1).
      blur: probability of the blur; 0 in the columns of Table 1 without +Blur.
      **changes: further entries to change.
    """
    return augmentation(
        **{
            "flip": 0.5,  # App. A, Random crop and resize
            "color_jitter": 0.8,  # App. A, color_distortion: the p of random_apply
            "brightness_max": 0.8 * strength,  # App. A, color_jitter, and the next three
            "contrast_max": 0.8 * strength,
            "saturation_max": 0.8 * strength,
            "hue_max": 0.2 * strength,
            "jitter": "simclr",  # App. A, the TensorFlow pseudo-code of color_jitter
            "grayscale": 0.2,  # App. A, color_distortion: the p of color_drop
            "blur": blur,  # App. A, Gaussian blur: 50 % of the time, sigma in [0.1, 2.0]
            "blur_sigma_min": 0.1,
            "blur_sigma_max": 2.0,
            "solarize": 0.0,
            **changes,
        }
    )


def moco_augmentation(blur: float = 0.5) -> ml_collections.ConfigDict:
    """The policy of MoCo v2 as a column, the same for both views; SimSiam has it too.

    From the authors' code: SimCLR's at half strength, clipped after each operation. Their crops of
    20 % of the area or more are not in a column (`data.area_min`).

    Args:
      blur: probability of the blur; 0 on CIFAR-10.
    """
    return simclr_augmentation(0.5, blur, jitter="byol")


def objective() -> ml_collections.ConfigDict:
    """The objective, and one section of keys per choice; a run reads the section of its `name`."""
    # byol: Eq. 2; info_nce: Eq. 5 (Tables 5b and 18); nt_xent, nt_logistic, margin_triplet: SimCLR
    # Table 2; simsiam: SimSiam Eq. 2; supcon: SupCon Eq. 2; moco: MoCo Eq. 1; densecl: DenseCL
    # Eq. 3.
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
    # Negatives of both views (SimCLR Eq. 1); False: of the other view only (SimCLR Table 4).
    section.nt_xent.same_view = True

    section.nt_logistic = ml_collections.ConfigDict()
    section.nt_logistic.temperature = 0.1  # SimCLR App. B.10 tries 0.1, 0.2, 0.5, 1
    section.nt_logistic.l2 = True
    section.nt_logistic.semi_hard = False  # only semi-hard negatives (SimCLR Table 4, "sh")

    section.margin_triplet = ml_collections.ConfigDict()
    section.margin_triplet.margin = 0.4  # SimCLR App. B.10 tries 0, 0.4, 0.8, 1.6
    section.margin_triplet.l2 = True
    section.margin_triplet.semi_hard = False  # only semi-hard negatives (SimCLR Table 4, "sh")

    section.simsiam = ml_collections.ConfigDict()  # SimSiam Eq. 2, which has no numbers

    section.supcon = ml_collections.ConfigDict()  # SupCon Eq. 2; it learns from labels
    section.supcon.temperature = 0.1  # T of SupCon's code; 0.5 for its SimCLR
    # The code multiplies the loss by T / 0.07, at every T; its rates fit that. Equal to T: Eq. 2.
    section.supcon.base_temperature = 0.07
    section.supcon.anchors = "all"  # or one: those of view 1 alone

    section.moco = ml_collections.ConfigDict()  # MoCo Eq. 1 and its queue
    section.moco.temperature = 0.2  # MoCo v2; 0.07 in v1
    section.moco.queue_size = 65536  # K, a multiple of the keys of a step
    section.moco.symmetric = False  # True: view 2 asks for view 1, too

    section.densecl = ml_collections.ConfigDict()  # DenseCL Eq. 3; it needs network.dense
    section.densecl.temperature = 0.2  # of both losses (DenseCL's configs)
    section.densecl.dense_weight = 0.5  # lambda (DenseCL's configs)
    section.densecl.queue_size = 65536  # K of both queues

    # Keywords of an objective from outside the package, `name = "module:function"`; a page fills
    # them in.
    section.own = ml_collections.ConfigDict()
    return section


def network() -> ml_collections.ConfigDict:
    """The encoder and its heads (App. A)."""
    section = ml_collections.ConfigDict()
    section.depth = "50"  # tiny, 18, 34, 50, 101, 152, 200
    section.width = 1.0  # a multiple of 1/8; the paper has 1 to 4
    section.stem = "imagenet"  # or small: 3x3 at stride 1, no pool (SimCLR App. B.9)
    # same, as the paper's networks (docs/deviations.md, 27), or torch, for weights of PyTorch: as
    # many zeros on both sides; solo-learn has two rows of them around its small stem.
    section.padding = "same"
    # projection in the first block of every group (docs/deviations.md, 28), or identity where
    # shapes agree, for a ResNet-18 or 34 of PyTorch.
    section.shortcut = "projection"
    # Table 14 varies depth and output size. A projector is mlp, linear or none (SimCLR Figure 8);
    # a predictor is mlp, linear, none (Table 5b) or optimal_linear (App. J.2).
    section.projector = ml_collections.ConfigDict(
        {"kind": "mlp", "depth": 2, "hidden_size": 4096, "output_size": 256}
    )
    section.predictor = ml_collections.ConfigDict({"kind": "mlp", "depth": 2, "hidden_size": 4096})
    # A head on each position of the last feature map (DenseCL): none, mlp or linear.
    section.dense = ml_collections.ConfigDict(
        {"kind": "none", "depth": 2, "hidden_size": 2048, "output_size": 128}
    )
    for head in (section.projector, section.predictor, section.dense):
        # BatchNorm behind each hidden layer (App. A); MoCo's and SupCon's heads have none.
        head.hidden_norm = True
        # BatchNorm behind the output: none (App. A: "the output of this MLP is not batch
        # normalized"), full, scale (no offset: SimCLR's code), plain (neither: SimSiam's code).
        head.output_norm = "none"
    # paper | released: docs/deviations.md, 1 and 4.
    section.head_bias = "released"
    section.last_bn_scale = "paper"
    section.bn_decay = 0.9  # pseudo-code J.1
    section.bn_eps = 1e-5  # pseudo-code J.1
    section.init_scale = 1.0  # factor of the initial weights (App. G)
    # Computes each residual block twice to keep fewer activations in memory: for the largest
    # networks.
    section.remat = False
    return section


def optimizer() -> ml_collections.ConfigDict:
    """LARS with a linear warm-up and a cosine decay (App. A, pseudo-code J.1)."""
    section = ml_collections.ConfigDict()
    section.name = "lars"  # or sgd, adam (with decoupled decay; no table has it)
    section.base_learning_rate = 0.2
    # linear: times batch_size / 256; sqrt: times sqrt(batch_size), SimCLR App. B.1; none.
    section.rate_scaling = "linear"
    # Factors of the rates of the heads: mu (Table 22) and lambda (Tables 21 and 22).
    section.projector_rate = 1.0
    section.predictor_rate = 1.0
    # cosine to 0 behind the warm-up; constant; step, divided by 10 at each of the milestones, which
    # are shares of the run (MoCo v1); whole_cosine, over the whole run from the peak to rate_end,
    # with a warm-up from rate_start, both as shares of the peak (SupCon).
    section.schedule = "cosine"
    section.milestones = ()
    section.rate_start = 0.0
    section.rate_end = 0.0
    # Schedule of the predictor's rate: that of all others, or constant (SimSiam).
    section.predictor_schedule = "cosine"
    section.warmup_epochs = 10.0
    section.weight_decay = 1.5e-6
    section.decayed = "weights"  # not biases and BatchNorm (App. A); all: those too (SimSiam)
    section.trust_coefficient = 1e-3
    section.momentum = 0.9
    return section


def augment() -> ml_collections.ConfigDict:
    """T and T' of Table 6, and the small views of other methods."""
    # placement: device, in the update step, as in pseudo-code J.4; host, in tf.data with the same
    # operations, for a device that is slower than the host's spare cores.
    section = ml_collections.ConfigDict({"placement": "device"})
    section.view1 = augmentation()
    section.view2 = augmentation(blur=0.1, solarize=0.2)
    # Further views, smaller and cut closer (Lecture, SwAV's multi-crop), for methods that use them:
    # their number, their side in pixels, their share of the image's area, and their own column.
    # BYOL has none.
    section.small = augmentation()
    section.small.update({"count": 0, "size": 96, "area_min": 0.05, "area_max": 0.14})
    return section


def data() -> ml_collections.ConfigDict:
    """Which images are read, how they are cropped, and how the input pipeline runs."""
    section = ml_collections.ConfigDict()
    # train, valid, test, or several joined. The paper pre-trains on its local validation images
    # too: all 1,281,167 (pseudo-code J.1). A split that the data set lacks is a fixed
    # class-balanced fifth of the training images, first test, then valid.
    section.split = "train+valid"
    section.exif = False  # turn images as EXIF says; the usual ImageNet pipelines do not
    # Random crop: share of the area of the image, width over height (App. C).
    section.area_min = 0.08
    section.area_max = 1.0
    section.aspect_min = 3 / 4
    section.aspect_max = 4 / 3
    # Cuts both views from the box of view 1. Without any operation in view 2 that view is the
    # identity of SimCLR Figure 5, which applies the studied operations to one branch only.
    section.same_crop = False
    # Keeps all images on every device, as uint8, and crops there: for sets of one image size that
    # fit into its memory, such as CIFAR-10 (150 MB).
    section.resident = False
    section.threads = 0  # threads of the input pipeline; 0: tuned automatically
    # A CSV file of paths and labels for the images of folder:DIR, whose sub-folders then mean
    # nothing (docs/own-data.md). It becomes part of the data set's name, folder:DIR,labels=FILE,
    # by which evaluations know it too.
    section.labels = config_dict.placeholder(str)
    # Megapixels above which an image counts as unreadable; Pillow's own limit is the highest.
    section.largest_image = 178.0
    # Halves JPEGs up to three times while decoding them, as long as both crops stay larger than the
    # views: for photographs of many megapixels. Evaluations decode whole pixels, as the papers do.
    section.scaled_decoding = False
    # Keeps encoded files in the memory of each process after their first reading: for a slow disk
    # or network (ImageNet: about 140 GB).
    section.cache = False
    # grpc://HOST:PORT of a tf.data service that reads and crops on other machines
    # (launch/data_service.py, docs/input.md). The crops are the same; the order of the batches
    # differs, and changes from run to run.
    section.service = config_dict.placeholder(str)
    section.prefetch = 2  # batches kept ready on the host and on the devices
    # paper: short side to 256/224 of the size, then the centre (App. C); released: the central
    # 87.5 % of the short side, resized (docs/deviations.md, 18); full: short side to the size, then
    # the centre, which leaves small images whole.
    section.eval_crop = "paper"
    # Crops and flips of classifiers that are trained on this network and data set (linear.py,
    # semi.py, finetune.py). paper: App. D.1 and E.3, whatever T is, so that ablations of T are
    # evaluated alike; own: those of T, for images that must not be flipped or cut closely.
    section.classifier_crops = "paper"
    return section


def evaluation() -> ml_collections.ConfigDict:
    """Frozen features at the end of the run (docs/protocols.md)."""
    section = ml_collections.ConfigDict()
    section.at_end = True
    section.knn_every = 0  # steps between kNN readings in metrics.jsonl; 0: none
    section.batch_size = 256
    section.fit_split = "train+valid"  # of classifiers and neighbours
    section.score_split = "test"
    section.knn_k = 20
    section.knn_temperature = 0.07
    section.labels_per_class = 2
    section.draws = 20
    return section


def finish() -> ml_collections.ConfigDict:
    """What the job `pretrain` makes of a run that has reached its end, in its workdir."""
    section = ml_collections.ConfigDict()
    section.report = False  # report.html, the page of experiments/report.py
    section.export = False  # encoder/, the folder of experiments/export.py, for PyTorch
    section.embed = False  # embeddings/, as experiments/embed.py writes them, of all images
    return section


def course() -> ml_collections.ConfigDict:
    """What a run shows and saves on its way, and what ends it; no key of it changes a number."""
    config = ml_collections.ConfigDict()
    # Ends at this step as a pre-empted run would: state saved, schedules untouched.
    config.stop_at = config_dict.placeholder(int)
    # Traces `steps` steps into WORKDIR/profile, for TensorBoard (tensorboard-plugin-profile) or
    # ui.perfetto.dev, beginning `first` steps after the run starts or resumes.
    config.profile = ml_collections.ConfigDict({"steps": 0, "first": 10})
    config.log_every = 50  # steps
    config.checkpoint_every = 1000  # steps
    # Minutes after which a checkpoint is due, too: for steps of many seconds. Open: none.
    config.checkpoint_minutes = config_dict.placeholder(float)
    config.keep_checkpoints = 3  # the newest ones in the workdir; 0 keeps all
    # Goes on from the newest checkpoint that can be read, where a later one is damaged. That one is
    # moved aside, to checkpoints/STEP.damaged.
    config.skip_damaged = False
    # Goes on in a workdir whose checkpoint has other settings or other images, from there on with
    # those of this command; each change is logged, and kept in the record.
    config.resume_changed = False
    # Ends a run that has collapsed (docs/protocols.md) with exit code 3 and its state saved; if
    # not, it is warned of.
    config.stop_on_collapse = False
    return config


def get_config() -> ml_collections.ConfigDict:
    """The paper's run, BYOL App. A, without a data set."""
    config = ml_collections.ConfigDict()
    config.job = "pretrain"
    # The name and source of the recipe; printed at the start of the run.
    config.recipe = "not named"
    # Gives keys that a page leaves open a value that fits the images and the devices (folder.py).
    config.choose = False
    config.seed = 1337  # pseudo-code J.1

    # digits | npz:FILE (train_images, train_labels, test_images, test_labels) | folder:DIR
    # (train/, val/ and test/ are splits, sub-folders are classes) | tfds:NAME.
    config.dataset = config_dict.placeholder(str)
    # Where TFDS keeps its data; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data_dir = config_dict.placeholder(str)
    config.image_size = 224  # side of the views in pixels (App. A)
    config.batch_size = 4096  # global and effective (App. A)
    config.accumulate = 1  # micro-batches per step (section 5, App. G.2, Table 16)
    config.num_epochs = 1000  # App. A
    config.num_steps = config_dict.placeholder(int)  # overrides num_epochs
    # float32, or bfloat16: f, g and q compute in half precision. Parameters, BatchNorm statistics,
    # losses, optimiser and moving average stay float32.
    config.precision = "float32"

    config.update(course())

    # Weights to start from at step 0, in place of drawn ones: all that config.checkpoint of an
    # evaluation may be (docs/weights.md). Heads of other shapes are drawn, and the log names them.
    config.init = config_dict.placeholder(str)
    # What the predictions are compared with (Tables 5b and 19): ema, the moving average of
    # Eq. 1; stop_gradient and online, the online network without and with its gradient;
    # constant, the network of step 0 (Table 5a).
    config.target = "ema"
    # Eq. 1 and App. A: cosine raises tau from tau_base to 1; constant keeps it (Table 5a).
    config.tau_base = 0.996
    config.tau_schedule = "cosine"
    # Whose images BatchNorm takes its statistics of: global, those of all devices (pseudo-code
    # J.1); local, those of one device; shuffled, local, and the images of the target network are
    # dealt out to the devices anew (MoCo). With local ones a positive can be told by the statistics
    # that it shares with its anchor (SimCLR section 2.2).
    config.bn_statistics = "global"
    # paper: starts as a copy of the online network (pseudo-code J.5);
    # released: starts with values of its own (docs/deviations.md, 2).
    config.target_init = "paper"

    config.objective = objective()
    config.network = network()
    config.optimizer = optimizer()

    config.augment = augment()
    config.data = data()
    config.evaluation = evaluation()
    config.finish = finish()

    # The job `views` (--config.job=views) draws a picture of T and T' on `images` images, with
    # `draws` draws of each view, one per epoch.
    config.views = ml_collections.ConfigDict({"images": 8, "draws": 4})
    return config
