"""From a pre-training config to its program, numbers and views, and what contradicts what."""

import functools
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from byol_jax.augment import compose
from byol_jax.checks import (
    PROBABILITY,
    SEED,
    Rule,
    above,
    at_least,
    check_finite,
    check_keys,
    each,
    is_finite,
    moved,
    one_of,
    within,
)
from byol_jax.data import crops, pipeline, sources
from byol_jax.data.images import LARGEST
from byol_jax.data.views import View
from byol_jax.entries import OBJECTIVES, Entry, entry_of, numbers_of, switches_of
from byol_jax.errors import UserError, require
from byol_jax.networks import resnet, siamese
from byol_jax.objectives import supcon
from byol_jax.objectives.normalize import NORMALIZATIONS
from byol_jax.optim import groups, schedules
from byol_jax.program import BN_STATISTICS, TARGETS, Hyperparameters, Method, Passes
from byol_jax.runtime import spmd

_logger = logging.getLogger(__name__)

# Above it Adam's rate is surely one that was meant for LARS.
_LARGEST_ADAM = 0.1
PLACEMENTS = ("device", "host")
TAU_SCHEDULES = ("cosine", "constant")


# What values of a pre-training are allowed, by dotted key.
RULES: Mapping[str, Rule] = {
    "image_size": at_least(1),
    "batch_size": at_least(1),
    "log_every": at_least(1),
    "checkpoint_every": at_least(1),
    "checkpoint_minutes": above(0),
    "num_steps": Rule(lambda count: 1 <= count < 2**31, "from 1 to 2**31 - 1"),
    "stop_at": at_least(1),
    "num_epochs": above(0),
    "profile.steps": at_least(0),
    "profile.first": at_least(2)._replace(words="2 or more: the first step compiles"),
    "seed": SEED,
    "precision": one_of(siamese.PRECISIONS),
    "target": one_of(TARGETS),
    "target_init": one_of(("paper", "released")),
    "tau_base": within(0, 1),
    "tau_schedule": one_of(TAU_SCHEDULES),
    "bn_statistics": one_of(BN_STATISTICS),
    "data.eval_crop": one_of(crops.EVALUATION_MODES),
    "data.largest_image": Rule(
        lambda value: 0 < value <= LARGEST, f"above 0 and at most {LARGEST:g}, in megapixels"
    ),
    "data.classifier_crops": one_of(crops.CLASSIFIER_CROPS),
    "augment.placement": one_of(PLACEMENTS),
    "augment.small.count": at_least(0),
    "augment.small.size": at_least(1),
    "objective.byol.normalization": one_of(NORMALIZATIONS),
    "objective.info_nce.temperature": above(0),
    "objective.info_nce.beta": within(0, 1)._replace(words="from 0 to 1 (BYOL Eq. 5)"),
    "objective.nt_xent.temperature": above(0),
    "objective.nt_logistic.temperature": above(0),
    "objective.margin_triplet.margin": at_least(0),
    "objective.supcon.temperature": above(0),
    "objective.supcon.base_temperature": above(0),
    "objective.supcon.anchors": one_of(supcon.ANCHORS),
    "objective.moco.temperature": above(0),
    "objective.moco.queue_size": at_least(1),
    "objective.densecl.temperature": above(0),
    "objective.densecl.dense_weight": within(0, 1)._replace(words="from 0 to 1 (DenseCL Eq. 3)"),
    "objective.densecl.queue_size": at_least(1),
    "optimizer.name": one_of(groups.OPTIMIZERS),
    "optimizer.rate_scaling": one_of(schedules.RATE_SCALINGS),
    "optimizer.decayed": one_of((groups.ALL, groups.WEIGHTS)),
    "optimizer.schedule": one_of(schedules.RATES),
    "optimizer.predictor_schedule": one_of(schedules.RATES),
    "optimizer.rate_start": within(0, 1),
    "optimizer.rate_end": within(0, 1),
    "optimizer.milestones": each(
        Rule(lambda share: 0 < share < 1, "a share of the run, above 0 and below 1"),
        may_be_empty=True,
    ),
    "optimizer.projector_rate": at_least(0),
    "optimizer.predictor_rate": at_least(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.base_learning_rate": at_least(0),
    "optimizer.warmup_epochs": at_least(0),
}


def name_labels(config: ml_collections.ConfigDict) -> None:
    """Puts `config.data.labels` into the name of the data set, by which evaluations know it too.

    Raises:
      UserError: the data set is no folder.
    """
    if config.data.labels:
        require(config.dataset, f"config.data.labels={config.data.labels} needs config.dataset")
        config.dataset = sources.named(config.dataset, config.data.labels)
        config.data.labels = None


def check(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses, before anything is computed, what no run could use.

    Warns of dials that are known to collapse.

    Args:
      config: of a pre-training run.
      devices: number of devices of the run; by default those that there are.

    Raises:
      UserError: names the key, its value and what would be right.
    """
    for key in config.objective:
        here = moved(f"objective.{key}")
        require(not here, f"config.objective.{key} has moved: it is now {here}")
    check_finite(config.to_dict())
    check_keys(config, RULES)
    columns = [name for name in ("view1", "view2", "small") if name in config.augment]
    for column in columns:
        where = f"config.augment.{column}"
        rules = dict.fromkeys(compose.PROBABILITIES, PROBABILITY)
        rules["jitter"] = one_of(compose.JITTERS)
        check_keys(config.augment[column], rules, where)
        low, high = (config.augment[column][f"blur_sigma_{end}"] for end in ("min", "max"))
        require(
            0 < low <= high,
            f"{where}: blur_sigma_min={low} must be above 0 and at most blur_sigma_max={high}",
        )
    spmd.check_batch(config.batch_size, config.accumulate, devices)
    _check_input(config)
    entry = entry_of(config)
    _check_heads(config, entry)
    _check_objective(config, entry)
    _check_statistics(config, devices or jax.device_count())
    _check_optimizer(config)
    _warn_of_collapse(config)


def _check_input(config: ml_collections.ConfigDict) -> None:
    """Refuses ways of reading images that contradict each other."""
    on_host = config.augment.placement == "host"
    require(
        not (config.data.resident and on_host),
        "config.data.resident keeps the images on the device, where config.augment.placement=host "
        "cannot reach them: leave out one of the two",
    )
    require(
        not (config.data.resident and config.data.scaled_decoding),
        "config.data.resident keeps whole images, and config.data.scaled_decoding would make some "
        "of them smaller: leave out one of the two",
    )
    for given, key in (
        (config.data.resident, "data.resident"),
        (config.data.cache, "data.cache"),
        (config.data.exif, "data.exif"),
        (config.data.scaled_decoding, "data.scaled_decoding"),
        (on_host, "augment.placement=host"),
    ):
        require(
            not (config.data.service and given),
            f"config.data.service makes the crops on other machines, without config.{key}: leave "
            "out one of the two",
        )


def _check_objective(config: ml_collections.ConfigDict, entry: Entry) -> None:
    name, micro_batch = config.objective.name, config.batch_size // config.accumulate
    if name == "margin_triplet":
        require(
            not (config.objective[name].semi_hard and config.objective[name].margin == 0),
            "config.objective.margin_triplet.margin=0 leaves no negative for "
            "config.objective.margin_triplet.semi_hard: give a margin above 0 (SimCLR App. B.10 "
            "tries 0.4, 0.8, 1.6)",
        )
    require(
        micro_batch > 1 or not entry.has_negatives,
        f"config.objective.name={name} needs negatives, other images of the same micro-batch, and "
        f"{micro_batch} is its size: raise config.batch_size, or lower config.accumulate (SimCLR "
        "Figure 9, BYOL Table 16)",
    )
    size = config.network.projector.output_size
    require(
        config.network.predictor.kind != "optimal_linear" or micro_batch >= size,
        f"config.network.predictor.kind=optimal_linear fits {size} x {size} numbers to the "
        f"{micro_batch} images of a micro-batch, and more images must determine them: lower "
        "config.network.projector.output_size (BYOL App. J.2 has 16 for 4096 images)",
    )
    count = config.augment.small.count
    switches = switches_of(config)
    try:
        passes = entry.passes(2 + count, switches)
    except TypeError as error:
        raise UserError(
            f"config.objective.name={name}: its passes must take the number of views and the "
            f"keywords of the objective (docs/adding.md): {error}"
        ) from error
    if name in OBJECTIVES and "queue_size" in switches:
        keys = config.batch_size * len(passes.target)
        require(
            switches["queue_size"] % keys == 0,
            f"config.objective.{name}.queue_size={switches['queue_size']} must be a multiple of "
            f"the {keys} keys of a step, which replace whole rows: give "
            f"{keys * max(1, round(switches['queue_size'] / keys))}",
        )
    online, target = (
        {view for group in groups_of_views for view in group}
        for groups_of_views in (passes.online, passes.target)
    )
    used = online | target
    require(
        config.target in ("ema", "constant") or target <= online,
        f"config.target={config.target} has no network for the views that pass the target of "
        f"config.objective.name={name}: give ema or constant",
    )
    require(
        config.network.predictor.kind != "optimal_linear" or passes == Passes(),
        f"config.network.predictor.kind=optimal_linear is for two views that predict each other, "
        f"and config.objective.name={name} has other passes: give mlp, linear or none",
    )
    require(
        target or config.target == "online",
        f"config.target={config.target}: config.objective.name={name} compares outputs of the "
        "online network alone: give online",
    )
    require(
        used >= set(range(1, 3 + count)),
        f"config.augment.small.count={count}: config.objective.name={name} has no use for views "
        "beside T and T': give 0",
    )


def _check_heads(config: ml_collections.ConfigDict, entry: Entry) -> None:
    """Refuses heads that the objective does not read, and the lack of one that it does."""
    name, network = config.objective.name, config.network
    require(
        entry.reads_prediction or network.predictor.kind == "none",
        f"config.network.predictor.kind={network.predictor.kind}: config.objective.name={name} "
        "reads projections, and nothing would train a predictor: give none",
    )
    if name not in OBJECTIVES:  # its own affair
        return
    has_head = network.dense.kind != "none"
    require(
        has_head or not entry.needs_dense,
        f"config.objective.name={name} compares the positions of feature maps, and "
        "config.network.dense.kind=none makes no head for them: give mlp (experiments/densecl.py)",
    )
    require(
        entry.needs_dense or not has_head,
        f"config.network.dense.kind={network.dense.kind}: config.objective.name={name} does not "
        "read the dense head: give none",
    )
    side = resnet.last_map_side(network.stem, config.image_size)
    require(
        side > 1 or not entry.needs_dense,
        f"config.image_size={config.image_size} leaves a last feature map of one position, and "
        f"config.objective.name={name} compares positions: raise config.image_size, or give "
        "config.network.stem=small",
    )


def _check_statistics(config: ml_collections.ConfigDict, devices: int) -> None:
    statistics = config.bn_statistics
    if statistics == "global":
        return
    require(
        statistics == "local" or config.target in ("ema", "constant"),
        f"config.bn_statistics=shuffled deals out the images of a target network, and "
        f"config.target={config.target} has none: give local",
    )
    images = config.batch_size // config.accumulate // devices
    require(
        images > 1,
        f"config.bn_statistics={statistics} takes statistics of the images of one device, and "
        f"config.batch_size={config.batch_size} with config.accumulate={config.accumulate} leaves "
        f"it {images}: raise the former or lower the latter",
    )
    if devices == 1:
        _logger.warning("config.bn_statistics=%s is the same as global on one device", statistics)


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
    optimizer, rate = config.optimizer, peak_learning_rate(config)
    name = optimizer.schedule
    require(
        is_finite(rate),
        f"config.optimizer.base_learning_rate={optimizer.base_learning_rate:g} makes a rate of "
        f"{rate:g} at config.batch_size={config.batch_size}, more than float32 holds: lower it",
    )
    require(
        (name == "step") == bool(optimizer.milestones),
        f"config.optimizer.milestones={tuple(optimizer.milestones)} beside "
        f"config.optimizer.schedule={name}: step needs milestones, shares of the run such as "
        "(0.6,0.8), and no other schedule has any",
    )
    for key in ("rate_start", "rate_end"):
        require(
            name == "whole_cosine" or optimizer[key] == 0,
            f"config.optimizer.{key}={optimizer[key]:g} is of schedule=whole_cosine alone, and "
            f"config.optimizer.schedule={name}: leave it out",
        )
    own = optimizer.predictor_schedule
    require(
        own in (name, "constant") or config.network.predictor.kind not in ("mlp", "linear"),
        f"config.optimizer.predictor_schedule={own} beside config.optimizer.schedule={name}: give "
        f"{name}, or constant",
    )
    require(
        optimizer.name != "adam" or rate <= _LARGEST_ADAM,
        f"config.optimizer.name=adam at a rate of {rate:g}: Adam moves every weight by about the "
        f"rate per update, LARS by {optimizer.trust_coefficient:g} of it relative to its norm "
        "(BYOL App. A); give config.optimizer.base_learning_rate=1e-3 and "
        "config.optimizer.rate_scaling=none, or less",
    )


def _warn_of_collapse(config: ml_collections.ConfigDict) -> None:
    name = config.objective.name
    without_negatives = name in ("byol", "simsiam") or (
        name == "info_nce" and config.objective.info_nce.beta == 0
    )
    no_predictor, no_stop = "BYOL Table 5b, beta 0", "BYOL Table 5b, beta 0"
    if name == "simsiam":
        no_predictor = "0.1 % top-1: SimSiam Table 1 in the Lecture"
        no_stop = "at once: SimSiam Figure 2 in the Lecture"
    if without_negatives and config.network.predictor.kind == "none":
        _logger.warning("no predictor and no negatives: this collapses (%s)", no_predictor)
    elif without_negatives and config.target == "online":
        _logger.warning(
            "gradients through the target and no negatives: this collapses (%s)", no_stop
        )


def peak_learning_rate(config: ml_collections.ConfigDict) -> float:
    """The rate at the end of the warm-up."""
    return float(
        schedules.scaled_learning_rate(
            config.optimizer.base_learning_rate,
            config.batch_size,
            config.optimizer.rate_scaling,
        )
    )


def method_of(config: ml_collections.ConfigDict) -> Method:
    """The dials of a config that change the program; the same object for the same dials."""
    return _method(
        entry_of(config),
        tuple(sorted(switches_of(config).items())),
        config.target,
        config.network.predictor.kind == "optimal_linear",
        _groups_of(config.optimizer),
        2 + config.augment.small.count,
        config.bn_statistics,
    )


def _groups_of(optimizer: ml_collections.ConfigDict) -> groups.Groups[groups.Group]:
    """How each group of parameters is trained."""
    shared = groups.Group(optimizer.name, optimizer.schedule, decayed=optimizer.decayed)
    predictor = shared._replace(schedule=optimizer.predictor_schedule)
    return groups.everywhere(shared)._replace(predictor=predictor)


@functools.lru_cache(maxsize=16)
def _method(
    entry: Entry,
    switches: tuple[tuple[str, Any], ...],
    target: str,
    optimal_predictor: bool,
    table: groups.Groups[groups.Group],
    num_views: int,
    bn_statistics: str,
) -> Method:
    keywords = dict(switches)
    if "axis" in inspect.signature(entry.make).parameters:
        keywords["axis"] = spmd.AXIS
    return Method(
        objective=functools.partial(entry.make, **keywords),
        target=target,
        target_update=entry.target_update,
        optimal_predictor=optimal_predictor,
        passes=entry.passes(num_views, dict(switches)),
        groups=table,
        bn_statistics=bn_statistics,
    )


def views_of(config: ml_collections.ConfigDict) -> tuple[View, ...]:
    """T and T', cut as `config.data` says, and the small views behind them."""
    data, small = config.data, config.augment.small
    aspect_range = (data.aspect_min, data.aspect_max)
    cut = (config.image_size, (data.area_min, data.area_max), aspect_range)
    view1, view2 = (compose.from_config(config.augment[name]) for name in ("view1", "view2"))
    views = (View(*cut, view1), View(*cut, view2, box_of=1 if data.same_crop else None))
    if not small.count:
        return views
    column = {k: v for k, v in small.items() if k not in ("count", "size", "area_min", "area_max")}
    area_range = (small.area_min, small.area_max)
    params = compose.from_config(column)
    return (*views, *[View(small.size, area_range, aspect_range, params)] * small.count)


def hyperparameters(
    config: ml_collections.ConfigDict, num_examples: int, total_steps: int
) -> Hyperparameters:
    """The traced numbers of a run of `total_steps` on `num_examples` images."""
    optimizer = config.optimizer
    numbers = groups.Numbers(
        peak_learning_rate=peak_learning_rate(config),
        warmup_steps=pipeline.steps_for(optimizer.warmup_epochs, num_examples, config.batch_size),
        total_steps=total_steps,
        weight_decay=optimizer.weight_decay,
        trust_coefficient=optimizer.trust_coefficient,
        momentum=optimizer.momentum,
        start=optimizer.rate_start,
        end=optimizer.rate_end,
        milestones=tuple(float(share) for share in optimizer.milestones),
    )
    return Hyperparameters(
        groups=groups.everywhere(numbers)._replace(
            projector=numbers._replace(factor=optimizer.projector_rate),
            predictor=numbers._replace(factor=optimizer.predictor_rate),
        ),
        total_steps=total_steps,
        tau_base=config.tau_base,
        views=tuple(view.params for view in views_of(config)),
        tau_end=config.tau_base if config.tau_schedule == "constant" else 1.0,
        objective=numbers_of(config),
    )
