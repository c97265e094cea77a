"""What learning from labels reads of its config: the data, the recipe, and who it is."""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax import weights
from byol_jax.augment import compose, randaugment
from byol_jax.data import crops, images, pipeline, sources, stored, table10
from byol_jax.errors import require
from byol_jax.evals import checkpoint
from byol_jax.evals.sgd import classifiers, training
from byol_jax.evals.splits import Split, load_split
from byol_jax.optim import schedules
from byol_jax.runtime import checkpoints, spmd


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses what no training could use.

    Raises:
      UserError: naming the key, its value and what would be right.
    """
    for name in ("batch_size", "eval_batch_size", "log_every", "checkpoint_every"):
        require(config[name] >= 1, f"config.{name}={config[name]} must be at least 1")
    require(
        config.num_steps is None or config.num_steps >= 1,
        f"config.num_steps={config.num_steps} must be at least 1",
    )
    require(config.num_epochs > 0, f"config.num_epochs={config.num_epochs} must be above 0")
    for name in ("warmup_epochs", "weight_decay", "logit_clip", "logit_penalty"):
        require(config[name] >= 0, f"config.{name}={config[name]} must be 0 or more")
    require(
        0 <= config.magnitude <= randaugment.MAX_MAGNITUDE,
        f"config.magnitude={config.magnitude} must be from 0 to {randaugment.MAX_MAGNITUDE}",
    )
    require(0 <= config.seed < 2**31, f"config.seed={config.seed} must be from 0 to 2**31 - 1")
    require(
        config.augmentation in classifiers.AUGMENTATIONS,
        f"config.augmentation={config.augmentation!r} must be one of: "
        f"{', '.join(classifiers.AUGMENTATIONS)}",
    )
    rates = tuple(config.learning_rates)
    require(rates, "config.learning_rates is empty: give one or more")
    require(
        all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in rates),
        f"config.learning_rates={rates} must all be numbers above 0",
    )
    for name in ("momentum", "label_smoothing"):
        require(0 <= config[name] < 1, f"config.{name}={config[name]} must be in [0, 1)")
    spmd.check_batch(config.batch_size, 1)


def scaled_rates(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The sweep's rates: as they are given, or scaled with the batch (docs/deviations.md)."""
    require(
        config.rate_scaling in schedules.RATE_SCALINGS,
        f"config.rate_scaling={config.rate_scaling!r} must be one of: "
        f"{', '.join(schedules.RATE_SCALINGS)}",
    )
    return tuple(
        float(schedules.scaled_learning_rate(rate, config.batch_size, config.rate_scaling))
        for rate in config.learning_rates
    )


class Data(NamedTuple):
    """What an evaluation reads: the data set, its metric, and how images are cropped.

    `view` is T of the pre-training, and the ranges are those of its random crops.
    """

    dataset: str
    data_dir: str | None
    benchmark: str | None
    metric: str
    image_size: int
    eval_crop: str
    exif: bool
    batch_size: int
    view: compose.AugmentParams
    area_range: tuple[float, float]
    aspect_range: tuple[float, float]

    def train_set(self, split: str) -> images.ImageSet:
        """A split to learn labels from, whose metric goes with them; see `labelled_set`."""
        found = labelled_set(self.dataset, split, self.data_dir, self.benchmark)
        training.check_metric(self.metric, found.multi_label)
        return found

    def split(self, name: str) -> Split:
        """A split as evaluation crops."""
        return load_split(
            self.dataset,
            name,
            image_size=self.image_size,
            eval_crop=self.eval_crop,
            data_dir=self.data_dir,
            benchmark=self.benchmark,
            exif=self.exif,
            batch_size=self.batch_size,
        )


def data_of(config: ml_collections.ConfigDict, trained: Mapping[str, Any]) -> Data:
    """What the config names; what it leaves open is as in the run's own config.

    Raises:
      UserError: there is no data set, or no such benchmark or crop.
    """
    dataset: str = config.dataset or trained.get("dataset") or ""
    require(dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    row = table10.find(dataset, config.benchmark)
    given = {name: value for name, value in config.view.items() if value is not None}
    theirs = checkpoint.cropping_of(trained, **given)
    flip = theirs.view.flip if config.flip is None else config.flip
    require(0 <= flip <= 1, f"config.flip={flip} is a probability: from 0 to 1")
    area_min, area_max = theirs.area_range
    eval_crop = config.eval_crop or theirs.eval_crop
    require(
        eval_crop in crops.EVALUATION_MODES,
        f"config.eval_crop={eval_crop!r} must be one of: {', '.join(crops.EVALUATION_MODES)}",
    )
    require(
        config.image_size is None or config.image_size >= 1,
        f"config.image_size={config.image_size} must be at least 1",
    )
    return Data(
        dataset=dataset,
        data_dir=config.data_dir or (None if config.dataset else trained.get("data_dir")),
        benchmark=config.benchmark,
        metric=config.metric or (row.metric if row else "top1"),
        image_size=config.image_size or trained["image_size"],
        eval_crop=eval_crop,
        exif=theirs.exif,
        batch_size=config.eval_batch_size,
        view=theirs.view._replace(flip=flip),
        area_range=(area_min if config.area_min is None else config.area_min, area_max),
        aspect_range=theirs.aspect_range,
    )


def recipe_of(config: ml_collections.ConfigDict, data: Data, num_examples: int) -> training.Recipe:
    """The recipe of a config on `num_examples` images.

    Raises:
      UserError: they do not make a single batch.
    """
    total_steps = config.num_steps or pipeline.steps_for(
        config.num_epochs, num_examples, config.batch_size
    )
    require(
        total_steps,
        f"{config.num_epochs:g} epochs of {num_examples} images are less than one batch of "
        f"{config.batch_size}: lower config.batch_size",
    )
    return training.Recipe(
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
        view=data.view,
        exif=data.exif,
        area_range=data.area_range,
        aspect_range=data.aspect_range,
        threads=config.threads,
        prefetch=config.prefetch,
    )


def identity(
    config: ml_collections.ConfigDict, trained: weights.Weights | None, protocol: str
) -> dict[str, Any]:
    """What tells the training of one job from that of another in the same workdir."""
    return {
        "protocol": protocol,
        "network": config.network,
        "checkpoint": config.checkpoint,
        "checkpoint_step": trained.step if trained else None,
        # The same path and step may by now hold another run.
        "weights": _checksum(trained) if trained else None,
        "dataset": config.dataset or (trained.config["dataset"] if trained else None),
        "benchmark": config.benchmark,
        "fit_split": config.fit_split,
    }


def finished(config: ml_collections.ConfigDict, protocol: str) -> dict[str, Any]:
    """Fields of the records that a job leaves, for `follow.for_each_checkpoint`."""
    fields = {
        "protocol": protocol,
        "network": config.network,
        "split": config.score_split,
        # An evaluation at the end of a pre-training gives `linear` too, by L-BFGS.
        "solver": training.SOLVER,
    }
    return fields | ({"dataset": config.dataset} if config.dataset else {})


def _checksum(trained: weights.Weights) -> int:
    arrays = checkpoints.flatten(
        {
            name: tree
            for name, tree in trained._asdict().items()
            if name.endswith(("_params", "_state"))
        }
    )
    checksum = 0
    for name, leaf in sorted(arrays.items()):
        checksum = zlib.crc32(leaf.tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum


def labelled_set(
    dataset: str, split: str, data_dir: str | None, benchmark: str | None = None
) -> images.ImageSet:
    """A split to learn labels from.

    Raises:
      UserError: it cannot be read, or has no labels.
    """
    image_set = sources.load(dataset, split, data_dir, benchmark)
    stored.check_readable(image_set)
    require(
        image_set.num_classes > 1,
        f"{dataset} has {image_set.num_classes} classes: a classifier needs two or more, as "
        "sub-folders or labels",
    )
    return image_set
