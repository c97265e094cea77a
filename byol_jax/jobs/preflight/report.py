"""Pre-flight: compiles the step of a training for a pod, before the pod is rented.

The TPU compiler is a library, `libtpu`, that needs no TPU. The report sets the memory, work and
collectives of the compiled step beside the capacity of the chips. No time in it is measured: times
are lower bounds.
"""

import logging
import math
import time
from typing import NamedTuple

import jax
import ml_collections

from byol_jax.errors import UserError
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
from byol_jax.jobs.preflight.kinds import kind_of
from byol_jax.jobs.preflight.steps import Step

_logger = logging.getLogger(__name__)


def compile_step(step: Step, pod: Pod, devices: tuple[jax.Device, ...]) -> Analysis:
    """Compiles a step for the pod, and analyses it.

    Raises:
      TooLarge: the step does not fit a device.
    """
    start = time.monotonic()
    lowered = step.lower(devices)
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
        collectives(text, pod, step.accumulate),
    )


def waiting_bytes(step: Step, pod: Pod) -> int:
    """Bytes of the batches that wait on a device beside the one in use (`spmd.prefetch`)."""
    return step.prefetch * step.batch_size // pod.devices * step.image_bytes


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


def _per_device(step: Step, pod: Pod) -> int:
    return step.batch_size // (step.accumulate * pod.devices)


def split_for(step: Step, pod: Pod, images: int) -> int | None:
    """The least `accumulate` with at most `images` on a device at a time; None if there is none."""
    if not step.can_split:
        return None
    rows = step.batch_size // pod.devices
    return next((n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= images), None)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _scaled(value: float, unit: str) -> str:
    power = min(max(int(math.log10(value)) // 3, 0), 5) if value > 0 else 0
    return f"{value / 1000**power:.4g} {' kMGTP'[power].strip()}{unit}"


def describe(step: Step, pod: Pod, hosts: int) -> list[str]:
    """The lines that need no compiler."""
    device = "a core" if pod.chip.devices > 1 else "a chip"
    micro = f" x {step.accumulate} micro-batches" if step.accumulate > 1 else ""
    length = (
        f"{step.num_steps:,} steps" if step.num_steps else "unknown length: set config.num_steps"
    )
    return [
        f"{step.recipe}; on {pod.name}: {pod.devices} devices (each {device}), {hosts} hosts",
        f"{'data':<16}{step.data}",
        f"{'batch':<16}{step.batch_size} = {pod.devices} devices x "
        f"{_per_device(step, pod)} images{micro}",
        f"{'schedule':<16}{length}",
    ]


def cost(analysis: Analysis, step: Step, pod: Pod, hosts: int) -> list[str]:
    """The lines about work and time."""
    count, exchanged, steps = step.accumulate, analysis.collectives, step.num_steps
    limit = bounds(analysis, pod, count)
    rate = step.batch_size / limit.step
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
        f"images/s (decoded once, {step.views} view{'s' * (step.views > 1)} per image), "
        f"{rate * step.image_bytes / hosts / 1e6:,.0f} MB/s to its devices",
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
    step: Step, pod: Pod, devices: tuple[jax.Device, ...]
) -> tuple[Point, Analysis | None]:
    """Compiles a step; no analysis if it does not fit."""
    images, ahead = _per_device(step, pod), waiting_bytes(step, pod)
    try:
        analysis = compile_step(step, pod, devices)
    except TooLarge as error:
        return Point(images, error.memory + ahead), None
    return Point(images, analysis.memory + ahead), analysis


def run(config: ml_collections.ConfigDict, topology: str, find_largest: bool = False) -> None:
    """Prints the report on the step of a training on a pod.

    Args:
      config: config of a job that trains.
      topology: name of the pod, such as `v3:16x16`.
      find_largest: whether to compile a second batch size, to predict the largest that fits.

    Raises:
      UserError: the pod cannot run this config. If the step does not fit a device, the error comes
        after the report.
    """
    kind = kind_of(config.job)
    pod = pod_of(topology)
    kind.check(config, pod.devices)
    devices = topology_of(pod)
    assert len(devices) == pod.devices, f"{topology} has {len(devices)} devices"
    hosts = len({device.process_index for device in devices})
    step_of = kind.step_of(config, pod.devices)
    step = step_of(config.batch_size)
    print("\n".join(describe(step, pod, hosts)), flush=True)
    _logger.info("compiling; a large network takes minutes")

    first, analysis = _compile_for(step, pod, devices)
    ahead = waiting_bytes(step, pod)
    print(memory_line(first.memory - ahead, ahead, pod), flush=True)
    if analysis:
        print("\n".join(cost(analysis, step, pod, hosts)), flush=True)
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
    other = step_of(images * pod.devices * step.accumulate)
    second, _ = _compile_for(other, pod, devices)
    most = largest(first, second, pod.chip.memory)
    print(
        f"{'largest batch':<16}{most} images on a device at a time, predicted from the memory for "
        f"{first.images} ({_gib(first.memory)}) and {second.images} ({_gib(second.memory)})"
    )
    if not fits:
        split = split_for(step, pod, most)
        smaller = "" if step.can_split else ", or a smaller config.batch_size"
        advice = f"choose larger chips, a larger pod{smaller} or a narrower network"
        if split:
            advice = f"set config.accumulate={split} (by the prediction), or choose a larger pod"
        raise UserError(
            f"--preflight={pod.name}: a device cannot hold {first.images} images: {advice}"
        )
