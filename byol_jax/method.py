"""The dials of a pre-training config: from its keys to `update.Method` and `Hyperparameters`."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax import update
from byol_jax.augment import compose
from byol_jax.data import crops, pipeline
from byol_jax.errors import require
from byol_jax.networks import siamese
from byol_jax.objectives import byol, info_nce, simclr
from byol_jax.objectives.base import Objective
from byol_jax.objectives.normalize import NORMALIZATIONS
from byol_jax.optim import groups, schedules
from byol_jax.runtime import spmd

_logger = logging.getLogger(__name__)

# Above it Adam's rate is surely one that was meant for LARS.
_LARGEST_ADAM = 0.1
PLACEMENTS = ("device", "host")
TAU_SCHEDULES = ("cosine", "constant")


class ObjectiveKeys(NamedTuple):
    """An objective, and the keys of its section, `config.objective.NAME`.

    Attributes:
      make: its constructor.
      numbers: traced.
      switches: part of the program.
      has_negatives: whether it compares an image with others.
    """

    make: Callable[..., Objective]
    numbers: tuple[str, ...]
    switches: tuple[str, ...]
    has_negatives: bool = True


OBJECTIVES: Mapping[str, ObjectiveKeys] = {
    "byol": ObjectiveKeys(byol.byol, (), ("normalization",), has_negatives=False),
    "info_nce": ObjectiveKeys(info_nce.info_nce, ("temperature", "beta"), ("l2",)),
    "nt_xent": ObjectiveKeys(simclr.nt_xent, ("temperature",), ("l2",)),
    "nt_logistic": ObjectiveKeys(simclr.nt_logistic, ("temperature",), ("l2", "semi_hard")),
    "margin_triplet": ObjectiveKeys(simclr.margin_triplet, ("margin",), ("l2", "semi_hard")),
}


def check(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses, before anything is computed, what no run could use.

    Args:
      config: of a pre-training run.
      devices: how many it will have; by default those that there are.

    Raises:
      UserError: naming the key, its value and what would be right.
    """
    for name in ("image_size", "batch_size", "log_every", "checkpoint_every"):
        require(config[name] >= 1, f"config.{name}={config[name]} must be at least 1")
    require(config.profile.steps >= 0, f"config.profile.steps={config.profile.steps} is below 0")
    require(
        config.profile.first >= 2,
        f"config.profile.first={config.profile.first} must be at least 2: the first step compiles",
    )
    for name in ("num_steps", "stop_at"):
        value = config[name]
        require(value is None or value >= 1, f"config.{name}={value} must be at least 1")
    require(config.num_epochs > 0, f"config.num_epochs={config.num_epochs} must be above 0")
    require(0 <= config.seed < 2**31, f"config.seed={config.seed} must be from 0 to 2**31 - 1")
    require(
        config.precision in siamese.PRECISIONS,
        f"config.precision={config.precision!r} must be one of: {', '.join(siamese.PRECISIONS)}",
    )
    require(
        config.target_init in ("paper", "released"),
        f"config.target_init={config.target_init!r} must be paper or released",
    )
    require(0 <= config.tau_base <= 1, f"config.tau_base={config.tau_base} must be in [0, 1]")
    require(
        config.data.eval_crop in crops.EVALUATION_MODES,
        f"config.data.eval_crop={config.data.eval_crop!r} must be one of: "
        f"{', '.join(crops.EVALUATION_MODES)}",
    )
    require(
        config.augment.placement in PLACEMENTS,
        f"config.augment.placement={config.augment.placement!r} must be one of: "
        f"{', '.join(PLACEMENTS)}",
    )
    require(
        not (config.data.resident and config.augment.placement == "host"),
        "config.data.resident keeps the images on the device, where config.augment.placement=host "
        "cannot reach them: leave out one of the two",
    )
    require(
        not (config.data.resident and config.data.scaled_decoding),
        "config.data.resident keeps whole images, which config.data.scaled_decoding would make "
        "smaller for some crops: leave out one of the two",
    )
    for given, key in (
        (config.data.resident, "data.resident"),
        (config.data.cache, "data.cache"),
        (config.data.exif, "data.exif"),
        (config.data.scaled_decoding, "data.scaled_decoding"),
        (config.augment.placement == "host", "augment.placement=host"),
    ):
        require(
            not (config.data.service and given),
            f"config.data.service makes the crops elsewhere, without config.{key}: leave out one "
            "of the two",
        )
    for view in ("view1", "view2"):
        column = config.augment[view]
        for name in compose.PROBABILITIES:
            require(
                0 <= column[name] <= 1,
                f"config.augment.{view}.{name}={column[name]} is a probability: from 0 to 1",
            )
        require(
            0 < column.blur_sigma_min <= column.blur_sigma_max,
            f"config.augment.{view}: blur_sigma_min={column.blur_sigma_min} must be above 0 "
            f"and at most blur_sigma_max={column.blur_sigma_max}",
        )
    spmd.check_batch(config.batch_size, config.accumulate, devices)
    _check_dials(config)


def _check_dials(config: ml_collections.ConfigDict) -> None:
    """Refuses dials that contradict each other, and warns of those that are known to collapse.

    Raises:
      UserError: naming the keys, and the table that shows it.
    """
    objective, optimizer = config.objective, config.optimizer
    require(
        objective.name in OBJECTIVES,
        f"config.objective.name={objective.name!r} must be one of: {', '.join(OBJECTIVES)}",
    )
    own = objective[objective.name]
    target, predictor = config.target, config.network.predictor.kind
    for name, value, known in (
        ("objective.byol.normalization", objective.byol.normalization, NORMALIZATIONS),
        ("target", target, update.TARGETS),
        ("tau_schedule", config.tau_schedule, TAU_SCHEDULES),
        ("optimizer.name", optimizer.name, groups.OPTIMIZERS),
        ("optimizer.rate_scaling", optimizer.rate_scaling, schedules.RATE_SCALINGS),
    ):
        require(value in known, f"config.{name}={value!r} must be one of: {', '.join(known)}")
    for name in ("projector_rate", "predictor_rate", "weight_decay"):
        require(
            optimizer[name] >= 0, f"config.optimizer.{name}={optimizer[name]} must be 0 or more"
        )
    for name, is_right, right in (
        ("temperature", lambda value: value > 0, "above 0"),
        ("beta", lambda value: 0 <= value <= 1, "in [0, 1] (BYOL Eq. 5)"),
        ("margin", lambda value: value >= 0, "0 or more"),
    ):
        require(
            name not in own or is_right(own[name]),
            f"config.objective.{objective.name}.{name}={own.get(name)} must be {right}",
        )
    require(
        not (objective.name == "margin_triplet" and own.semi_hard and own.margin == 0),
        "config.objective.margin_triplet.margin=0 leaves no negative for "
        "config.objective.margin_triplet.semi_hard: give a margin above 0 (SimCLR App. B.10 tries "
        "0.4, 0.8, 1.6)",
    )
    micro_batch = config.batch_size // config.accumulate
    require(
        micro_batch > 1 or not OBJECTIVES[objective.name].has_negatives,
        f"config.objective.name={objective.name} needs negatives, other images of the same "
        f"micro-batch, and {micro_batch} is its size: raise config.batch_size, or lower "
        "config.accumulate (SimCLR Figure 9, BYOL Table 16)",
    )
    size = config.network.projector.output_size
    require(
        predictor != "optimal_linear" or micro_batch >= size,
        f"config.network.predictor.kind=optimal_linear fits {size} x {size} numbers to the "
        f"{micro_batch} images of a micro-batch, which more images must determine: lower "
        "config.network.projector.output_size (BYOL App. J.2 has 16 for 4096 images)",
    )
    rate = peak_learning_rate(config)
    require(
        optimizer.name != "adam" or rate <= _LARGEST_ADAM,
        f"config.optimizer.name=adam at a rate of {rate:g}: Adam moves every weight by about the "
        f"rate an update, LARS by {optimizer.trust_coefficient:g} of it relative to its norm "
        "(BYOL App. A); give config.optimizer.base_learning_rate=1e-3 and "
        "config.optimizer.rate_scaling=none, or less",
    )
    without_negatives = objective.name == "byol" or (objective.name == "info_nce" and own.beta == 0)
    if without_negatives and predictor == "none":
        _logger.warning("no predictor and no negatives: this collapses (BYOL Table 5b, beta 0)")
    elif without_negatives and target == "online":
        _logger.warning(
            "gradients through the target and no negatives: this collapses (BYOL Table 5b, beta 0)"
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


def method_of(config: ml_collections.ConfigDict) -> update.Method:
    """The dials of a config that change the program; the same object for the same dials."""
    name = config.objective.name
    own = config.objective[name]
    return _method(
        name,
        tuple((key, own[key]) for key in OBJECTIVES[name].switches),
        config.target,
        config.network.predictor.kind == "optimal_linear",
        config.optimizer.name,
    )


@functools.lru_cache(maxsize=16)
def _method(
    objective: str,
    switches: tuple[tuple[str, Any], ...],
    target: str,
    optimal_predictor: bool,
    optimizer: str,
) -> update.Method:
    make = functools.partial(OBJECTIVES[objective].make, axis=spmd.AXIS, **dict(switches))
    return update.Method(make, target, optimal_predictor, optimizer)


def view_parameters(
    config: ml_collections.ConfigDict,
) -> tuple[compose.AugmentParams, compose.AugmentParams]:
    """T and T': the columns of Table 6."""
    return compose.from_config(config.augment.view1), compose.from_config(config.augment.view2)


def hyperparameters(
    config: ml_collections.ConfigDict, num_examples: int, total_steps: int
) -> update.Hyperparameters:
    """The traced numbers of a run of `total_steps` on `num_examples` images."""
    optimizer = config.optimizer
    view1, view2 = view_parameters(config)
    warmup_steps = pipeline.steps_for(optimizer.warmup_epochs, num_examples, config.batch_size)
    return update.Hyperparameters(
        peak_learning_rate=peak_learning_rate(config),
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        weight_decay=optimizer.weight_decay,
        trust_coefficient=optimizer.trust_coefficient,
        momentum=optimizer.momentum,
        tau_base=config.tau_base,
        view1=view1,
        view2=view2,
        tau_end=config.tau_base if config.tau_schedule == "constant" else 1.0,
        projector_rate=optimizer.projector_rate,
        predictor_rate=optimizer.predictor_rate,
        objective={
            key: config.objective[config.objective.name][key]
            for key in OBJECTIVES[config.objective.name].numbers
        },
    )
