"""Turns a config into the data, the network and the numbers of a dense training."""

import json
from typing import Any, NamedTuple

import ml_collections

from byol_jax import weights
from byol_jax.augment.dense import DepthColours
from byol_jax.checks import (
    NO_NUMBERS,
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
from byol_jax.data import images
from byol_jax.data.dense import sets, sources, transforms
from byol_jax.errors import require
from byol_jax.evals import checkpoint, trainings
from byol_jax.evals.cells import check_rates, scaled_rates
from byol_jax.evals.dense import measure, steps
from byol_jax.networks import dense, siamese
from byol_jax.optim import schedules
from byol_jax.runtime import spmd

_SIDES = Rule(
    lambda value: len(value) == 2 and all(isinstance(n, int) and n >= 1 for n in value),
    "two numbers of pixels, height and width",
)
RULES = {
    "seed": SEED,
    "network": one_of(checkpoint.NETWORKS),
    "protocol": Rule(bool, "a name for the records"),
    "backbone": one_of(steps.BACKBONES),
    "bn_decay": Rule(lambda value: 0 <= value < 1, "in [0, 1)"),
    "precision": one_of(siamese.PRECISIONS),
    "held_out": at_least(1),
    "batch_size": at_least(1),
    "accumulate": at_least(1),
    "eval_batch_size": at_least(1),
    "num_epochs": above(0),
    "num_steps": at_least(1),
    "learning_rates": each(above(0)),
    "rate_scaling": one_of(schedules.RATE_SCALINGS),
    "milestones": each(within(0, 1), may_be_empty=True),
    "momentum": Rule(lambda value: 0 <= value < 1, "in [0, 1)"),
    "weight_decay": at_least(0),
    "decay": one_of(steps.DECAYS),
    "flip": PROBABILITY,
    "threads": at_least(0),
    "prefetch": at_least(0),
    "log_every": at_least(1),
    "checkpoint_every": at_least(1),
}

Transform = transforms.Segmentation | transforms.Depth


class Recipe(NamedTuple):
    """The hyperparameters of a training.

    Attributes:
      seed: seed of the head, the order, the crops and the colours.
      batch_size: images per step, over all devices, processes and micro-batches.
      total_steps: steps of the schedule.
      learning_rate: rate of the first steps, scaled with the batch.
      milestones, momentum, weight_decay: as in `steps.Hyperparameters`.
      program: the network and what is trained of it.
      transform: crops and flips.
      colours: colour transformations of depth; of no use to segmentation.
      threads: threads that read and transform; 0 takes one per core.
      prefetch: batches that are kept ready.
    """

    seed: int
    batch_size: int
    total_steps: int
    learning_rate: float
    milestones: tuple[float, ...]
    momentum: float
    weight_decay: float
    program: steps.Program
    transform: Transform
    colours: DepthColours = DepthColours()
    threads: int = 0
    prefetch: int = 2


class Data(NamedTuple):
    """The set that a training reads and that its network is scored on.

    Attributes:
      dataset: the set, as in `config.dataset`.
      kind: `sets.MASKS` or `sets.DEPTH`.
      data_dir: folder of TFDS; None for the default one.
      held_out: number of training images that become `valid`; None for the source's own.
      decoding: how images are read.
    """

    dataset: str
    kind: str
    data_dir: str | None
    held_out: int | None
    decoding: images.Decoding

    def split(self, name: str) -> sets.DenseSet:
        """A split, or `train+valid`."""
        return sources.load(
            self.dataset,
            name,
            self.kind,
            data_dir=self.data_dir,
            held_out=self.held_out,
            decoding=self.decoding,
        )


def check(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses a config that no training could use, by the keys of all dense jobs.

    Args:
      config: config of the job.
      devices: number of devices; by default those of the run.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    check_keys(config, RULES)
    spmd.check_batch(config.batch_size, config.accumulate, devices)
    check_rates(config)
    seeds = [*config.seeds]
    require(
        seeds and len({*seeds}) == len(seeds) and all(SEED.allows(seed) for seed in seeds),
        f"config.seeds={config.seeds} must be one or more seeds, each once, {SEED.words}",
    )
    milestones = [*config.milestones]
    require(
        milestones == sorted(milestones),
        f"config.milestones={config.milestones} must be in the order of the run",
    )


def data_of(config: ml_collections.ConfigDict, trained: weights.Trained | None, kind: str) -> Data:
    """The data that a config names; images are read as in the checkpoint's training.

    Raises:
      UserError: there is no data set.
    """
    forms = ", ".join(sources.FORMS[kind])
    require(config.dataset, f"config.dataset is needed: one of {forms} (docs/dense.md)")
    decoding = trained.decoding if trained else images.AS_STORED
    if config.exif is not None:
        decoding = decoding._replace(exif=config.exif)
    return Data(config.dataset, kind, config.data_dir, config.held_out, decoding)


def spec_of(
    config: ml_collections.ConfigDict, trained: weights.Trained | None, dilation: int
) -> siamese.NetworkSpec:
    """f of the checkpoint, or else of `config.encoder`, with the dilation of the job."""
    spec = trained.network if trained else siamese.make_spec(config.encoder.to_dict(), 0)
    # Of g, q and the dense head there is nothing in the network.
    nothing = siamese.NetworkSpec()
    return spec._replace(
        num_classes=0,
        projector=nothing.projector,
        predictor=nothing.predictor,
        dense=nothing.dense,
        head_bias=nothing.head_bias,
        dilation=dilation,
        precision=config.precision,
        remat=config.remat,
        bn_decay=spec.bn_decay if config.bn_decay is None else config.bn_decay,
        bn_axis=None,
    )


def program_of(
    config: ml_collections.ConfigDict,
    spec: siamese.NetworkSpec,
    head: dense.Head,
    align_corners: bool = True,
) -> steps.Program:
    """What shapes the compiled update.

    Raises:
      UserError: a layer of the head is not allowed.
    """
    dense.check_head(head)
    return steps.Program(
        spec=spec,
        head=head,
        backbone=config.backbone,
        decay=config.decay,
        align_corners=align_corners,
        accumulate=config.accumulate,
    )


def recipe_of(
    config: ml_collections.ConfigDict,
    program: steps.Program,
    transform: Transform,
    num_examples: int,
    colours: DepthColours = DepthColours(),
) -> Recipe:
    """The recipe of a config on `num_examples` images, with the first of its rates.

    Raises:
      UserError: they do not make a single batch.
    """
    total_steps = trainings.steps_of(
        config.num_steps, config.num_epochs, num_examples, config.batch_size
    )
    return Recipe(
        seed=config.seeds[0],
        batch_size=config.batch_size,
        total_steps=total_steps,
        learning_rate=scaled_rates(config)[0],
        milestones=tuple(map(float, config.milestones)),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        program=program,
        transform=transform,
        colours=colours,
        threads=config.threads,
        prefetch=config.prefetch,
    )


def reading_of(config: ml_collections.ConfigDict) -> measure.Reading:
    """How splits are read to be measured."""
    return measure.Reading(config.eval_batch_size, config.threads, config.prefetch)


def plain(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that can change a number, by names, as JSON has it.

    Parts that have names of their own, such as the head, are sections.
    """
    numbers = {k: v for k, v in recipe._asdict().items() if k not in NO_NUMBERS}
    if recipe.program.is_segmentation:
        del numbers["colours"]
    values: dict[str, Any] = json.loads(json.dumps({k: named(v) for k, v in numbers.items()}))
    return values


def named(value: Any) -> Any:
    """The fields of a NamedTuple by name, and those of its entries; other values as they are."""
    if hasattr(value, "_asdict"):
        return {
            name: named(entry)
            for name, entry in value._asdict().items()
            # It changes rounding alone.
            if name != "remat"
        }
    return value
