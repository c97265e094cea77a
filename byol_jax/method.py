"""From a pre-training config to its program, its numbers and its views, and what contradicts what.

Methods are points on dials. An objective of this package is a row of `OBJECTIVES`; one from outside
of it is named `module:function` in `config.objective.name`.
"""

import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax.augment import compose
from byol_jax.checks import (
    PROBABILITY,
    SEED,
    Rule,
    above,
    at_least,
    check_keys,
    moved,
    nearest,
    one_of,
    within,
)
from byol_jax.data import crops, pipeline
from byol_jax.data.views import View
from byol_jax.errors import UserError, require
from byol_jax.networks import siamese
from byol_jax.objectives import byol, info_nce, simclr, simsiam
from byol_jax.objectives.base import Objective
from byol_jax.objectives.normalize import NORMALIZATIONS
from byol_jax.optim import groups, schedules
from byol_jax.program import TARGETS, Hyperparameters, Method, Passes
from byol_jax.runtime import spmd

_logger = logging.getLogger(__name__)

# Above it Adam's rate is surely one that was meant for LARS.
_LARGEST_ADAM = 0.1
PLACEMENTS = ("device", "host")
TAU_SCHEDULES = ("cosine", "constant")


def two_views(count: int) -> Passes:
    """BYOL's passes: each of two views by itself, online and target."""
    del count
    return Passes()


class Entry(NamedTuple):
    """An objective, and the dials that come with it.

    Attributes:
      make: its constructor. Of its keywords, floats are traced, `axis` is the mapped axis, and all
        others are part of the program.
      passes: the passes of so and so many views.
      target_update: one of `program.TARGET_UPDATES`.
      has_negatives: whether it compares an image with others.
    """

    make: Callable[..., Objective]
    passes: Callable[[int], Passes] = two_views
    target_update: str = "after"
    has_negatives: bool = True


OBJECTIVES: Mapping[str, Entry] = {
    "byol": Entry(byol.byol, has_negatives=False),
    "info_nce": Entry(info_nce.info_nce),
    "nt_xent": Entry(simclr.nt_xent),
    "nt_logistic": Entry(simclr.nt_logistic),
    "margin_triplet": Entry(simclr.margin_triplet),
    "simsiam": Entry(simsiam.simsiam, has_negatives=False),
}

_RULES: Mapping[str, Rule] = {
    "image_size": at_least(1),
    "batch_size": at_least(1),
    "log_every": at_least(1),
    "checkpoint_every": at_least(1),
    "num_steps": at_least(1),
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
    "data.eval_crop": one_of(crops.EVALUATION_MODES),
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
    "optimizer.name": one_of(groups.OPTIMIZERS),
    "optimizer.rate_scaling": one_of(schedules.RATE_SCALINGS),
    "optimizer.decayed": one_of((groups.ALL, groups.WEIGHTS)),
    "optimizer.predictor_schedule": one_of(schedules.RATES),
    "optimizer.projector_rate": at_least(0),
    "optimizer.predictor_rate": at_least(0),
    "optimizer.weight_decay": at_least(0),
}


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
    check_keys(config, _RULES)
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
    _check_objective(config, entry)
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
    passes = entry.passes(2 + count)
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
        used >= set(range(1, 3 + count)),
        f"config.augment.small.count={count}: config.objective.name={name} has no use for views "
        "beside T and T': give 0",
    )


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
    optimizer, rate = config.optimizer, peak_learning_rate(config)
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


def entry_of(config: ml_collections.ConfigDict) -> Entry:
    """The objective that a config names.

    Only pre-training asks for it: a module from outside is never imported because a checkpoint
    names it.

    Raises:
      UserError: there is no such objective, its module cannot be imported, or it does not take a
        keyword that the config has for it.
    """
    name: str = config.objective.name
    if name in OBJECTIVES:
        entry, section = OBJECTIVES[name], name
    elif ":" in name:
        entry, section = _from_outside(name), "own"
    else:
        raise UserError(
            f"config.objective.name={name!r} must be one of: {', '.join(OBJECTIVES)}; or "
            f"module:function, an objective of your own{nearest(name, OBJECTIVES)}"
        )
    allowed = [key for key in inspect.signature(entry.make).parameters if key != "axis"]
    for key in config.objective[section]:
        require(
            key in allowed,
            f"config.objective.{section}.{key} is no keyword of config.objective.name={name}, "
            f"whose keywords are: {', '.join(allowed) or 'none'}{nearest(key, allowed)}",
        )
    return entry


@functools.lru_cache(maxsize=8)
def _from_outside(name: str) -> Entry:
    module, _, function = name.partition(":")
    key = f"config.objective.name={name}"
    try:
        value: Any = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # whatever the user's module raises
        reason = " ".join(str(error).split()) or "no message"
        raise UserError(
            f"{key}: importing {module} failed with {type(error).__name__}: {reason}"
        ) from error
    require(
        isinstance(value, Entry) or callable(value),
        f"{key}: {module} has no function {function!r}; it must make an objective (docs/adding.md)",
    )
    return value if isinstance(value, Entry) else Entry(value, has_negatives=False)


def _keywords(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the config has for the constructor of its objective."""
    name = config.objective.name
    return config.objective[name if name in OBJECTIVES else "own"].to_dict()


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
    switches = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _keywords(config).items()
        if not isinstance(value, float)
    }
    return _method(
        entry_of(config),
        tuple(sorted(switches.items())),
        config.target,
        config.network.predictor.kind == "optimal_linear",
        _groups_of(config.optimizer),
        2 + config.augment.small.count,
    )


def _groups_of(optimizer: ml_collections.ConfigDict) -> groups.Groups[groups.Group]:
    """How each group of parameters is trained."""
    shared = groups.Group(optimizer.name, decayed=optimizer.decayed)
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
) -> Method:
    keywords = dict(switches)
    if "axis" in inspect.signature(entry.make).parameters:
        keywords["axis"] = spmd.AXIS
    return Method(
        objective=functools.partial(entry.make, **keywords),
        target=target,
        target_update=entry.target_update,
        optimal_predictor=optimal_predictor,
        passes=entry.passes(num_views),
        groups=table,
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
        objective=objective_numbers(config),
    )


def objective_numbers(config: ml_collections.ConfigDict) -> dict[str, float]:
    """The keywords of the objective that are numbers, traced in the step."""
    return {k: v for k, v in _keywords(config).items() if isinstance(v, float)}
