"""Pre-flight: compiles the update step of a config for a pod, before the pod is rented.

The TPU compiler is a library, `libtpu`, that needs no TPU. The report sets the memory, work and
collectives of the compiled step beside the capacity of the chips. No time in it is measured: times
are lower bounds.
"""

import logging
import math
import time
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import prepare, train
from byol_jax.data import pipeline, table10
from byol_jax.errors import UserError, require
from byol_jax.jobs.preflight.chips import GIB, Pod, pod_of, topology_of
from byol_jax.jobs.preflight.hlo import (
    Analysis,
    TooLarge,
    bounds,
    collectives,
    estimate,
    has_memory_on_chip,
    needed,
    traffic,
)
from byol_jax.method import check, hyperparameters, name_labels
from byol_jax.program import Hyperparameters, Program, init_state

_logger = logging.getLogger(__name__)

PyTree = Any


class Data(NamedTuple):
    """Properties of a data set on which a step and its schedule depend.

    Attributes:
      num_examples: number of training images; None if it is unknown.
      num_classes: number of outputs of the probe.
      words: source of these numbers, for the report.
    """

    num_examples: int | None
    num_classes: int
    words: str


def data_of(config: ml_collections.ConfigDict) -> Data:
    """The numbers of a config's data set, from BYOL Table 10 if it lists the name."""
    row = table10.of_dataset(config.dataset or "")
    count = table10.table_size(row, config.data.split) if row else None
    if row and count:
        # Pre-training uses no labels where an image has several classes.
        classes = 0 if row.metric == "map_11" else row.stored_classes or row.classes
        return Data(count, classes, "BYOL Table 10")
    try:
        train_set = prepare.load_images(config)
    except UserError as error:
        return Data(None, 0, f"assumed to have no labels, so that there is no probe: {error}")
    return Data(train_set.size, train_set.num_classes, "counted")


def arguments(
    config: ml_collections.ConfigDict,
    program: Program,
    hparams: Hyperparameters,
    num_examples: int,
    devices: int,
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Shapes and types of the arguments of `train.mapped_step`: state, batch, seed, numbers."""

    def on_all(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        return jax.ShapeDtypeStruct(
            (devices, *leaf.shape), jax.dtypes.canonicalize_dtype(leaf.dtype)
        )

    sizes = prepare.sizes_of(config)
    state = jax.eval_shape(
        lambda: init_state(config.seed, program, sizes, num_examples, config.target_init)
    )
    size = config.batch_size // (config.accumulate * devices)
    rows = (devices, size) if config.accumulate == 1 else (devices, config.accumulate, size)
    kind = np.float32 if config.augment.placement == "host" else np.uint8
    number = jax.ShapeDtypeStruct(rows, np.int32)
    batch = dict.fromkeys(("labels", "ids", "epochs"), number)
    for view, side in enumerate(sizes, start=1):
        batch[f"view{view}"] = jax.ShapeDtypeStruct((*rows, side, side, 3), kind)
    return (
        jax.tree.map(on_all, state),
        batch,
        on_all(np.int32(config.seed)),
        jax.tree.map(on_all, hparams),
    )


def compile_step(
    config: ml_collections.ConfigDict, data: Data, pod: Pod, devices: tuple[jax.Device, ...]
) -> Analysis:
    """Compiles the update step of the config for the pod, and analyses it.

    Raises:
      TooLarge: the step does not fit a device.
    """
    program = prepare.program_of(config, data.num_classes)
    # Numbers are traced, so any valid ones will do.
    count = data.num_examples or config.batch_size
    hparams = hyperparameters(config, count, 1)
    shapes = arguments(config, program, hparams, count, len(devices))
    start = time.monotonic()
    lowered = train.mapped_step(program, devices=devices).lower(*shapes)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(needed(str(error))) from error
    finally:
        _logger.info("the compiler took %.0f s", time.monotonic() - start)
    sizes, costs = compiled.memory_analysis(), compiled.cost_analysis()
    memory = (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )
    text = compiled.as_text()
    return Analysis(
        memory,
        costs["flops"],
        # The compiler's count includes memory on the chip, if the chip has any.
        traffic(text) if has_memory_on_chip(text) else costs["bytes accessed"],
        estimate(costs.get("optimal_seconds", 0.0)),
        collectives(text, pod, config.accumulate),
    )


def image_bytes(config: ml_collections.ConfigDict) -> int:
    """Bytes per image in a batch on a device: its views, label, id and epoch."""
    number = 4 if config.augment.placement == "host" else 1
    return sum(3 * number * side**2 for side in prepare.sizes_of(config)) + 3 * 4


def waiting_bytes(config: ml_collections.ConfigDict, pod: Pod) -> int:
    """Bytes of the batches that wait on a device beside the one in use (`spmd.prefetch`)."""
    return config.data.prefetch * config.batch_size // pod.devices * image_bytes(config)


class Point(NamedTuple):
    """Memory of a step at one batch size.

    Attributes:
      images: number of images on a device at a time.
      memory: bytes that the images and the program need; nan if unknown.
    """

    images: int
    memory: float


def largest(first: Point, second: Point, available: float) -> int:
    """The largest number of images that fits, if memory is linear in it; 0 if none fits.

    This is a prediction. Compilers pad, so other batch sizes need not lie on the line through the
    two compiled ones.
    """
    per_image = (second.memory - first.memory) / (second.images - first.images)
    if not per_image > 0:  # also if a number is nan
        return max((p.images for p in (first, second) if p.memory <= available), default=0)
    return max(0, math.floor(first.images + (available - first.memory) / per_image))


def _per_device(config: ml_collections.ConfigDict, pod: Pod) -> int:
    return int(config.batch_size // (config.accumulate * pod.devices))


def split_for(config: ml_collections.ConfigDict, pod: Pod, images: int) -> int | None:
    """The least `accumulate` with at most `images` on a device at a time; None if there is none."""
    rows = config.batch_size // pod.devices
    return next((n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= images), None)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _scaled(value: float, unit: str) -> str:
    power = min(max(int(math.log10(value)) // 3, 0), 5) if value > 0 else 0
    return f"{value / 1000**power:.4g} {' kMGTP'[power].strip()}{unit}"


def describe(
    config: ml_collections.ConfigDict, data: Data, pod: Pod, hosts: int
) -> tuple[list[str], int | None]:
    """The lines that need no compiler, and the number of steps, or None if it is unknown."""
    steps = config.num_steps
    if not steps and data.num_examples:
        steps = pipeline.steps_for(config.num_epochs, data.num_examples, config.batch_size)
    device = "a core" if pod.chip.devices > 1 else "a chip"
    examples = f"{data.num_examples:,} images" if data.num_examples else "unknown number of images"
    micro = f" x {config.accumulate} micro-batches" if config.accumulate > 1 else ""
    return [
        f"{config.recipe}; on {pod.name}: {pod.devices} devices (each {device}), {hosts} hosts",
        f"{'data':<16}{config.dataset}, {config.data.split}: {examples}, "
        f"{data.num_classes} classes ({data.words})",
        f"{'batch':<16}{config.batch_size} = {pod.devices} devices x "
        f"{_per_device(config, pod)} images{micro}",
        f"{'schedule':<16}"
        + (f"{steps:,} steps" if steps else "unknown length: set config.num_steps"),
    ], steps


def cost(
    analysis: Analysis,
    config: ml_collections.ConfigDict,
    pod: Pod,
    hosts: int,
    steps: int | None,
) -> list[str]:
    """The lines about work and time."""
    count, exchanged = config.accumulate, analysis.collectives
    limit = bounds(analysis, pod, count)
    rate = config.batch_size / limit.step
    # The compiler counts the body of a loop once, and the update outside of the loop as well.
    title, most, least, times = "lower bounds", "at most", "at least", ""
    if count > 1:
        title, most, least = "estimates", "about", "about"
        times = f" ({count} times the count for one micro-batch and the update)"
    hours = f"; {steps:,} steps in {least} {limit.step * steps / 3600:.2f} h" if steps else ""
    return [
        f"{'step per device':<16}{_scaled(count * analysis.flops, 'FLOP')}, "
        f"{_scaled(count * analysis.traffic, 'B')} read and written{times}",
        f"{'collectives':<16}{_scaled(exchanged.payload, 'B')} in {exchanged.calls} calls",
        f"{title:<16}{1e3 * limit.compiler:.1f} ms: the compiler's estimate"
        f"{'' if analysis.seconds else ' (it has none)'}",
        f"{'':<16}{1e3 * limit.roofline:.1f} ms: the chips' peaks (arithmetic "
        f"{1e3 * limit.arithmetic:.1f}, memory {1e3 * limit.memory:.1f}, links "
        f"{1e3 * limit.links:.1f})",
        f"{'':<16}so {most} {rate:,.0f} images/s{hours}",
        f"{'input':<16}at that rate each of {hosts} hosts must deliver {rate / hosts:,.0f} "
        f"images/s (decoded once, {len(prepare.sizes_of(config))} views per image), "
        f"{rate * image_bytes(config) / hosts / 1e6:,.0f} MB/s to its devices",
    ]


def memory_line(needs: float, ahead: float, pod: Pod) -> str:
    """The line that compares the memory a device needs with its capacity."""
    total, has = needs + ahead, pod.chip.memory
    verdict = "fits" if total <= has else f"does not fit, by {_gib(total - has)}"
    if math.isnan(total):
        return f"{'memory':<16}more than the {_gib(has)} of a device: does not fit"
    return (
        f"{'memory':<16}{_gib(total)} of the {_gib(has)} of a device: {verdict} "
        f"({_gib(needs)} for the step, {_gib(ahead)} for waiting batches)"
    )


def _compile_for(
    images: int,
    config: ml_collections.ConfigDict,
    data: Data,
    pod: Pod,
    devices: tuple[jax.Device, ...],
) -> tuple[Point, Analysis | None]:
    """Compiles the step with `images` on a device at a time; no analysis if it does not fit."""
    changed = config.copy_and_resolve_references()
    changed.batch_size = images * pod.devices * config.accumulate
    try:
        analysis = compile_step(changed, data, pod, devices)
    except TooLarge as error:
        return Point(images, error.memory + waiting_bytes(changed, pod)), None
    return Point(images, analysis.memory + waiting_bytes(changed, pod)), analysis


def run(config: ml_collections.ConfigDict, topology: str, find_largest: bool = False) -> None:
    """Prints the report on the config's update step on a pod.

    Args:
      config: config of a pre-training run.
      topology: name of the pod, such as `v3:16x16`.
      find_largest: whether to compile a second batch size, to predict the largest that fits.

    Raises:
      UserError: the pod cannot run this config. If the step does not fit a device, the error comes
        after the report.
    """
    require(
        config.job == "pretrain",
        f"config.job={config.job} has no pre-flight: --preflight needs config.job=pretrain",
    )
    require(
        not config.data.resident,
        "config.data.resident=True has no pre-flight: set it to False, and add the images' bytes",
    )
    pod = pod_of(topology)
    name_labels(config)
    check(config, pod.devices)
    devices = topology_of(pod)
    assert len(devices) == pod.devices, f"{topology} has {len(devices)} devices"
    hosts = len({device.process_index for device in devices})
    data = data_of(config)
    if data.num_examples is not None:
        prepare.check_labels(config, data.num_classes)
    lines, steps = describe(config, data, pod, hosts)
    print("\n".join(lines), flush=True)
    _logger.info("compiling; a large network takes minutes")

    first, analysis = _compile_for(_per_device(config, pod), config, data, pod, devices)
    ahead = waiting_bytes(config, pod)
    print(memory_line(first.memory - ahead, ahead, pod), flush=True)
    if analysis:
        print("\n".join(cost(analysis, config, pod, hosts, steps)), flush=True)
    fits = analysis is not None and first.memory <= pod.chip.memory
    if fits and not find_largest:
        return
    if not fits and first.images == 1:
        raise UserError(
            f"--preflight={pod.name}: a device cannot hold one image: choose a narrower network"
        )
    # Near the limit a compilation takes long, and trades time for memory.
    is_small = fits and (first.images == 1 or 2 * first.memory <= pod.chip.memory)
    images = 2 * first.images if is_small else first.images // 2
    second, _ = _compile_for(images, config, data, pod, devices)
    most = largest(first, second, pod.chip.memory)
    print(
        f"{'largest batch':<16}{most} images on a device at a time, predicted from the memory for "
        f"{first.images} ({_gib(first.memory)}) and {second.images} ({_gib(second.memory)})"
    )
    if not fits:
        split = split_for(config, pod, most)
        advice = "choose larger chips or a narrower network"
        if split:
            advice = f"set config.accumulate={split} (by the prediction), or choose a larger pod"
        raise UserError(
            f"--preflight={pod.name}: a device cannot hold {first.images} images: {advice}"
        )
