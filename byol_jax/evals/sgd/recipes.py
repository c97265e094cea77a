"""Turns a config into the data and the hyperparameters of a training on labels."""

from typing import Any, NamedTuple

import ml_collections

from byol_jax import weights
from byol_jax.augment import compose, randaugment
from byol_jax.checks import (
    PROBABILITY,
    SEED,
    Rule,
    above,
    at_least,
    check_keys,
    each,
    one_of,
    within,
)
from byol_jax.data import crops, images, pipeline, table10
from byol_jax.data.depth import UNSEEN, Depth
from byol_jax.errors import require
from byol_jax.evals import checkpoint, trainings
from byol_jax.evals.cells import check_rates, scaled_rates
from byol_jax.evals.sgd import classifiers
from byol_jax.evals.sgd.labels import check_metric, labelled_set
from byol_jax.evals.splits import Split, load_split
from byol_jax.optim import schedules
from byol_jax.runtime import spmd

# How records name this way of fitting.
SOLVER = "sgd"

_BELOW_ONE = Rule(lambda value: 0 <= value < 1, "in [0, 1)")
_SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
RULES = {
    "seed": SEED,
    "network": one_of(checkpoint.NETWORKS),
    "image_size": at_least(1),
    "eval_crop": one_of(crops.EVALUATION_MODES),
    "batch_size": at_least(1),
    "eval_batch_size": at_least(1),
    "num_epochs": above(0),
    "num_steps": at_least(1),
    "warmup_epochs": at_least(0),
    "learning_rates": each(above(0)),
    "rate_scaling": one_of(schedules.RATE_SCALINGS),
    "momentum": _BELOW_ONE,
    "weight_decay": at_least(0),
    "label_smoothing": _BELOW_ONE,
    "logit_clip": at_least(0),
    "logit_penalty": at_least(0),
    "augmentation": one_of(classifiers.AUGMENTATIONS),
    "magnitude": within(0, randaugment.MAX_MAGNITUDE),
    "crops": one_of(crops.CLASSIFIER_CROPS),
    "flip": PROBABILITY,
    "area_min": _SHARE,
    "threads": at_least(0),
    "prefetch": at_least(0),
    "log_every": at_least(1),
    "checkpoint_every": at_least(1),
}


class Recipe(NamedTuple):
    """The hyperparameters of a training.

    Attributes:
      seed: seed of the order, the crops and the augmentations of the images.
      image_size: side of the crops in pixels.
      batch_size: images per step, over all devices and processes.
      total_steps: steps of the schedule.
      warmup_steps: steps of linear warm-up.
      learning_rates: peak rate of each classifier.
      momentum, weight_decay, label_smoothing, logit_clip, logit_penalty: as in
        `classifiers.Hyperparameters`.
      augmentation: a key of `classifiers.AUGMENTATIONS`.
      view: T; its flips, and all of it for the augmentations of pre-training.
      magnitude: magnitude of RandAugment.
      exif: whether images are turned as EXIF says.
      area_range, aspect_range: ranges of the random crops, as in `weights.Cropping`.
      threads: threads of the input pipeline; 0 tunes itself.
      prefetch: batches that are kept ready.
    """

    seed: int
    image_size: int
    batch_size: int
    total_steps: int
    warmup_steps: int
    learning_rates: tuple[float, ...]
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    logit_clip: float = 0.0
    logit_penalty: float = 0.0
    augmentation: str = "spatial"
    view: compose.AugmentParams = compose.AugmentParams()
    magnitude: float = 0.0
    exif: bool = False
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)
    threads: int = 0
    prefetch: int = 2


class Data(NamedTuple):
    """What a training reads and what its classifiers are scored on.

    Attributes:
      dataset: the data set, as in `config.dataset`.
      data_dir: folder of TFDS; None for the default one.
      benchmark: key of a row of Table 10, as in `sources.load`; None for none.
      metric: `top1`, `mean_per_class` or `map_11`.
      image_size: side of all crops in pixels.
      batch_size: evaluation crops per call.
      crops: one of `crops.CLASSIFIER_CROPS`.
      cropping: how views and evaluation crops are made.
      depth: that of the images that the network was trained on.
    """

    dataset: str
    data_dir: str | None
    benchmark: str | None
    metric: str
    image_size: int
    batch_size: int
    crops: str
    cropping: weights.Cropping
    depth: Depth = UNSEEN

    @property
    def decoding(self) -> images.Decoding:
        """How the images are read."""
        return self.cropping.decoding._replace(depth=self.depth)

    def train_set(self, split: str) -> images.ImageSet:
        """A split to learn labels from; see `labelled_set`.

        Raises:
          UserError: the metric does not go with its labels.
        """
        image_set = labelled_set(
            *(self.dataset, split, self.data_dir, self.benchmark),
            decoding=self.decoding,
        )
        check_metric(self.metric, image_set.multi_label)
        return image_set

    def split(self, name: str) -> Split:
        """A split as evaluation crops."""
        return load_split(
            self.dataset,
            name,
            image_size=self.image_size,
            eval_crop=self.cropping.eval_crop,
            data_dir=self.data_dir,
            benchmark=self.benchmark,
            decoding=self.decoding,
            batch_size=self.batch_size,
        )


def check(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses a config that no training could use.

    Args:
      config: config of the job.
      devices: number of devices; by default those of the run.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    check_keys(config, RULES)
    check_keys(config.view, dict.fromkeys(compose.PROBABILITIES, PROBABILITY), "config.view")
    spmd.check_batch(config.batch_size, 1, devices)
    check_rates(config)


def data_of(config: ml_collections.ConfigDict, trained: weights.Trained | None) -> Data:
    """The data that a config names; what it leaves open is as in the checkpoint's training.

    Raises:
      UserError: there is no data set or image size, or no such benchmark.
    """
    dataset, data_dir = checkpoint.dataset_of(config, trained)
    row = table10.find(dataset, config.benchmark)
    image_size: int = config.image_size or (trained.image_size if trained else 0)
    require(image_size, "config.image_size is needed: there is no checkpoint to take it from")
    spatial = _crops(config, trained, dataset)
    return Data(
        dataset=dataset,
        data_dir=data_dir,
        benchmark=config.benchmark,
        metric=config.metric or (row.metric if row else "top1"),
        image_size=image_size,
        batch_size=config.eval_batch_size,
        crops=spatial,
        cropping=_cropping(config, trained.cropping if trained else weights.Cropping(), spatial),
        depth=trained.depth if trained else UNSEEN,
    )


def _crops(config: ml_collections.ConfigDict, trained: weights.Trained | None, dataset: str) -> str:
    """One of `crops.CLASSIFIER_CROPS`.

    It is what the config gives, or else what the page of the run says for the run's own images. The
    augmentations of pre-training (Table 7) have the crops and flips of T among them.
    """
    if config.crops:
        return str(config.crops)
    if trained is None:
        return "paper"
    if config.augmentation == "pretrain":
        return "own"
    own: str = trained.config["data"].get("classifier_crops", "paper")
    return own if dataset == trained.dataset else "paper"


def _cropping(
    config: ml_collections.ConfigDict, own: weights.Cropping, whose: str
) -> weights.Cropping:
    """Crops and flips of the protocol or of the run, with what the config gives in their place."""
    spatial = own if whose == "own" else weights.Cropping()
    given = {name: value for name, value in config.view.items() if value is not None}
    view = compose.from_config({**own.view._asdict(), "flip": spatial.view.flip, **given})
    area_min, area_max = spatial.area_range
    return own._replace(
        view=view if config.flip is None else view._replace(flip=config.flip),
        area_range=(area_min if config.area_min is None else config.area_min, area_max),
        aspect_range=spatial.aspect_range,
        eval_crop=config.eval_crop or own.eval_crop,
    )


def recipe_of(config: ml_collections.ConfigDict, data: Data, num_examples: int) -> Recipe:
    """The recipe of a config on `num_examples` images.

    Raises:
      UserError: they do not make a single batch.
    """
    total_steps = trainings.steps_of(
        config.num_steps, config.num_epochs, num_examples, config.batch_size
    )
    return Recipe(
        seed=config.seed,
        image_size=data.image_size,
        batch_size=config.batch_size,
        total_steps=total_steps,
        warmup_steps=pipeline.steps_for(config.warmup_epochs, num_examples, config.batch_size),
        learning_rates=scaled_rates(config),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        logit_clip=config.logit_clip,
        logit_penalty=config.logit_penalty,
        augmentation=config.augmentation,
        magnitude=config.magnitude,
        view=data.cropping.view,
        exif=data.cropping.exif,
        area_range=data.cropping.area_range,
        aspect_range=data.cropping.aspect_range,
        threads=config.threads,
        prefetch=config.prefetch,
    )


def settings_of(recipe: Recipe, data: Data) -> dict[str, Any]:
    """The settings of a record that a recipe and its data decide."""
    unused = {"threads", "prefetch", "exif", "learning_rates"}
    unused |= {"view"} if recipe.augmentation != "pretrain" else set()
    unused |= {"magnitude"} if recipe.augmentation != "randaugment" else set()
    settings: dict[str, Any] = {k: v for k, v in recipe._asdict().items() if k not in unused}
    if "view" in settings:
        settings["view"] = named_numbers(recipe.view)
    else:
        settings["flip"] = float(recipe.view.flip)
    crops = {"crops": data.crops, "eval_crop": data.cropping.eval_crop}
    return {"solver": SOLVER, "nesterov": True, "schedule": "cosine to 0", **settings, **crops}


def named_numbers(view: compose.AugmentParams) -> dict[str, float]:
    """The parameters of a column of Table 6 that are part of the program, by name."""
    return {name: float(value) for name, value in view._asdict().items() if value is not None}
