"""A pod before it is rented: the update step of a config, compiled for it on a machine without one.

The TPU compiler is a library, `libtpu`, that needs no TPU. What it says of the compiled step, its
memory, work and collectives, is printed beside what the chips have. No time here is measured: each
is what a step takes at least.
"""

import importlib.util
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np
from jax.experimental import topologies

from byol_jax import dials, train, update
from byol_jax.data import pipeline, table10
from byol_jax.errors import UserError, require

_logger = logging.getLogger(__name__)

PyTree = Any
GIB = 2**30

# libtpu looks for the TPUs of a Google Cloud machine unless it is told what to assume; and for one
# other program that uses them, which a compiler need not fear. The rest keeps it quiet.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Chip(NamedTuple):
    """A generation of TPUs. Rates are peaks, of a whole chip.

    Attributes:
      devices: what JAX calls a device: a core on v3, on later ones the chip.
      memory: bytes of HBM that the compiler has for a program on one device.
      flops: FLOP/s on bfloat16, and so of float32 matrices and convolutions at JAX's default
        precision, which rounds their inputs to bfloat16.
      bandwidth: bytes/s of HBM.
      links: bytes/s that it sends to other chips over all its links.
      slices: chips along each side of the pods and slices that are offered.
      options: of `topologies.get_topology_desc`, that it counts devices as a TPU machine does.
    """

    devices: int
    memory: float
    flops: float
    bandwidth: float
    links: float
    slices: tuple[str, ...]
    options: Mapping[str, str] = {}


_SQUARES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")

# FLOP/s, bandwidth and slices: cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e}; they have no peak of
# float32 itself. Links: the same pages, half of what is called bidirectional; of v3 four links of
# 656 Gbit/s (Jouppi et al., Communications of the ACM 63(7), 2020), which agrees with the page's
# 340 TB/s of all-reduce for 1,024 chips; of v4 six links of 50 GB/s (Jouppi et al., ISCA 2023).
# Memory is a little less than the chip's 32, 32, 16, 95 and 32 GiB (v3: for two cores): what libtpu
# 0.0.51 says is available when a program needs more.
CHIPS: Mapping[str, Chip] = {
    "v3": Chip(
        *(2, 15.48 * GIB, 123e12, 900e9, 328e9),
        slices=("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
    ),
    "v4": Chip(
        *(1, 30.75 * GIB, 275e12, 1200e9, 300e9),
        slices=(*_CUBES, "8x16x16", "16x16x16"),
        options={"chip_config_name": "megacore"},
    ),
    "v5e": Chip(*(1, 15.75 * GIB, 197e12, 819e9, 200e9), slices=("1x1", *_SQUARES)),
    "v5p": Chip(*(1, 95.73 * GIB, 459e12, 2765e9, 600e9), slices=(*_CUBES, "8x16x16", "16x16x16")),
    "v6e": Chip(*(1, 31.24 * GIB, 918e12, 1638e9, 400e9), slices=("1x1", *_SQUARES)),
}


class Pod(NamedTuple):
    """What is compiled for, as `v3:16x16`."""

    name: str
    chip: Chip
    chips: int

    @property
    def devices(self) -> int:
        """As JAX counts them."""
        return self.chips * self.chip.devices


class Data(NamedTuple):
    """What a step and its schedule depend on of a data set.

    Attributes:
      num_examples: None if nobody knows.
      num_classes: of the probe.
      words: where the numbers are from.
    """

    num_examples: int | None
    num_classes: int
    words: str


class Collectives(NamedTuple):
    """What the devices exchange in a step.

    Attributes:
      calls: how often.
      payload: bytes that come out of them on each device.
      sent: bytes that each chip must send at least.
    """

    calls: int
    payload: int
    sent: float


class Analysis(NamedTuple):
    """What the compiler says of one device's step. Bytes and seconds.

    Attributes:
      memory: all that the program holds.
      flops, traffic, seconds: FLOPs, bytes of HBM read and written, and the compiler's estimate of
        its time, 0 if it has none; with a loop over micro-batches these are of one micro-batch.
      collectives: of the whole step.
    """

    memory: float
    flops: float
    traffic: float
    seconds: float
    collectives: Collectives


class TooLarge(Exception):
    """The compiler found no way to hold the step; `memory` is what it would need, if it said so."""

    def __init__(self, memory: float):
        super().__init__(f"{memory} bytes")
        self.memory = memory


def pod_of(name: str) -> Pod:
    """The pod that a user names.

    Raises:
      UserError: listing the known ones.
    """
    generation, _, sides = name.partition(":")
    require(
        generation in CHIPS,
        f"--preflight={name}: known are "
        + ", ".join(f"{known}:{chip.slices[-1]}" for known, chip in CHIPS.items())
        + " and smaller slices",
    )
    chip = CHIPS[generation]
    require(
        sides in chip.slices,
        f"--preflight={name}: known are {', '.join(f'{generation}:{s}' for s in chip.slices)}",
    )
    return Pod(name, chip, math.prod(int(side) for side in sides.split("x")))


def topology_of(pod: Pod) -> tuple[jax.Device, ...]:
    """The pod's devices, for the compiler alone.

    Raises:
      UserError: `libtpu` is not there, or does not know the pod.
    """
    require(
        importlib.util.find_spec("libtpu"),
        "--preflight needs the TPU compiler, which needs no TPU: pip install 'byol_jax[tpu]'",
    )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What little is computed here is for the CPU, also where there is an accelerator.
    jax.config.update("jax_platforms", "cpu")
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=pod.name, **pod.chip.options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--preflight={pod.name}: libtpu refuses it ({reason})") from error
    return tuple(topology.devices)


def data_of(config: ml_collections.ConfigDict) -> Data:
    """The numbers of a config's data set, by its name where BYOL Table 10 has it."""
    row = table10.of_dataset(config.dataset or "")
    count = table10.table_size(row, config.data.split) if row else None
    if row and count:
        # Where an image has several classes, pre-training is without labels.
        classes = 0 if row.metric == "map_11" else row.stored_classes or row.classes
        return Data(count, classes, "BYOL Table 10")
    try:
        train_set = train.load_images(config)
    except UserError as error:
        return Data(None, 0, f"assumed to have no labels, so that there is no probe: {error}")
    return Data(train_set.size, train_set.num_classes, "counted")


def arguments(
    config: ml_collections.ConfigDict,
    network: hk.TransformedWithState,
    method: update.Method,
    hparams: update.Hyperparameters,
    devices: int,
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Shapes and types of the state, batch, seed and numbers that `train.mapped_step` gets."""

    def on_all(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        return jax.ShapeDtypeStruct(
            (devices, *leaf.shape), jax.dtypes.canonicalize_dtype(leaf.dtype)
        )

    state = jax.eval_shape(
        lambda: update.init(config.seed, network, config.image_size, method, config.target_init)
    )
    size = config.batch_size // (config.accumulate * devices)
    rows = (devices, size) if config.accumulate == 1 else (devices, config.accumulate, size)
    on_host = config.augment.placement == "host"
    view = jax.ShapeDtypeStruct(
        (*rows, config.image_size, config.image_size, 3), np.float32 if on_host else np.uint8
    )
    number = jax.ShapeDtypeStruct(rows, np.int32)
    batch = {"view1": view, "view2": view, "labels": number, "ids": number, "epochs": number}
    return (
        jax.tree.map(on_all, state),
        batch,
        on_all(np.int32(config.seed)),
        jax.tree.map(on_all, hparams),
    )


def compile_step(
    config: ml_collections.ConfigDict, data: Data, pod: Pod, devices: tuple[jax.Device, ...]
) -> Analysis:
    """The update step of the config, compiled for the pod.

    Raises:
      TooLarge: a device cannot hold it.
    """
    network = train.network_of(config, data.num_classes)
    method = dials.method_of(config)
    # Numbers are traced: any that are allowed will do.
    hparams = dials.hyperparameters(config, data.num_examples or config.batch_size, 1)
    shapes = arguments(config, network, method, hparams, len(devices))
    start = time.monotonic()
    lowered = train.mapped_step(network, method, devices=devices).lower(*shapes)
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
        # The compiler also counts what is read and written in memory on the chip, where it has any.
        traffic(text) if _ON_CHIP.search(text) else costs["bytes accessed"],
        estimate(costs.get("optimal_seconds", 0.0)),
        collectives(text, pod, config.accumulate),
    )


def estimate(seconds: float) -> float:
    """At most the sum of the compiler's estimates.

    libtpu adds -1 second for each operation that it has none for: adding as many seconds as make
    the sum positive leaves no more than the sum of the others.
    """
    return seconds % 1 if seconds < 0 else seconds


_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_KINDS)})(-start|-done)?\(")
_CALLED = re.compile(r"\b(body|calls|to_apply|\w+_computations?)=\{?((?:%[\w.\-]+(?:, )?)+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_NEEDED = (
    re.compile(r"memory required for [\w ]+\(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm"),
)


def needed(message: str) -> float:
    """Bytes that a program would need, from the compiler's refusal; nan if it does not say."""
    found = next(filter(None, (pattern.search(message) for pattern in _NEEDED)), None)
    return float(found[1]) * 1024 ** " KMGT".index(found[2] or " ") if found else math.nan


def collectives(hlo: str, pod: Pod, loop_trips: int = 1) -> Collectives:
    """Sums up what the devices exchange in a compiled step.

    Args:
      hlo: the text of the compiled module.
      pod: whose chips send it. The devices of one chip combine theirs before it is sent.
      loop_trips: how often a loop runs that has collectives in it: once a micro-batch.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    called: dict[str, list[tuple[bool, str]]] = {}
    entry, lines = _lines(hlo)
    for name, line in lines:
        for how, names in _CALLED.findall(line):
            called.setdefault(name, []).extend((how == "body", n) for n in names.split(", "))
        match = _COLLECTIVE.search(line)
        # One that runs in the background has two lines, of which the second has the result.
        if match and match[3] != "-start":
            found.setdefault(name, []).append((match[2], _bytes_of(match[1])))

    trips, waiting = {entry: 1}, [entry]
    while waiting:
        caller = waiting.pop()
        for is_loop, callee in called.get(caller, ()):
            if callee not in trips:
                trips[callee] = loop_trips if is_loop else trips[caller]
                waiting.append(callee)
    each = [(trips[n], kind, size) for n in trips for kind, size in found.get(n, ())]
    return Collectives(
        calls=sum(count for count, _, _ in each),
        payload=sum(count * size for count, _, size in each),
        sent=sum(count * _sent(kind, size, pod) for count, kind, size in each),
    )


def _lines(hlo: str) -> tuple[str, list[tuple[str, str]]]:
    """The name of the entry computation, and each line with the name of its computation."""
    entry, name, lines = "", "", []
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split()[0]
            entry = name if line.startswith("ENTRY ") else entry
        lines.append((name, line))
    return entry, lines


# Memory spaces of arrays: 0, HBM, is not written; 1 and 3 to 5 are large ones on the chip.
_ON_CHIP = re.compile(r"\[\d[\d,]*\]\{[^}]*S\([1345]\)")
_PLACED = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%[\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)")
# What these name stays where it is, or was counted where its transfer started.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while")
_TRANSFERS = ("copy-start", "slice-start")


def traffic(hlo: str) -> float:
    """Bytes of HBM that a compiled step reads and writes, each loop counted once.

    Every operation reads its operands and writes its result, but for what is in memory on the chip;
    a transfer to or from there moves the smaller of its two sides.
    """
    held: dict[str, int] = {}
    moved: dict[str, int] = {}
    bodies: dict[str, list[str]] = {}
    entry, lines = _lines(hlo)
    for name, line in lines:
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        result, types, operation, rest = match.groups()
        sides = _sides(types)
        held[result] = sum(size for size, in_hbm in sides if in_hbm)
        for how, names in _CALLED.findall(line):
            if how == "body":
                bodies.setdefault(name, []).extend(names.split(", "))
        size = 0
        if operation in _TRANSFERS:
            size = min(s for s, _ in sides[:2]) * sum(in_hbm for _, in_hbm in sides[:2])
        elif operation not in _FREE and not operation.endswith("-done"):
            operands = re.findall(r"%[\w.\-]+", rest.partition("), ")[0])
            size = held[result] + sum(held.get(operand, 0) for operand in operands)
        moved[name] = moved.get(name, 0) + size

    total, waiting = 0, [entry]
    while waiting:
        name = waiting.pop()
        total += moved.get(name, 0)
        waiting.extend(bodies.pop(name, ()))
    return float(total)


def _sides(types: str) -> list[tuple[int, bool]]:
    """Bytes of the arrays of a type, and whether they are in HBM."""
    return [
        (_array_bytes(bits, shape), "S(" not in layout)
        for bits, shape, layout in _PLACED.findall(types)
    ]


def _array_bytes(bits: str, shape: str) -> int:
    return math.prod(int(n) for n in shape.split(",") if n) * max(int(bits or 8) // 8, 1)


def _bytes_of(types: str) -> int:
    """Of `f32[2,3]{1,0}`, or of a tuple of such."""
    return sum(_array_bytes(bits, shape) for _, bits, shape in _ARRAY.findall(types))


def _sent(kind: str, size: int, pod: Pod) -> float:
    """Bytes that a chip must send at least for a collective with a result of `size` bytes."""
    others = (pod.chips - 1) / pod.chips
    if kind == "all-reduce":
        return 2 * others * size
    if kind == "reduce-scatter":
        return others * size * pod.devices
    return others * size


class Bounds(NamedTuple):
    """Seconds that a step takes at least, each of them for another reason."""

    compiler: float
    arithmetic: float
    memory: float
    links: float

    @property
    def roofline(self) -> float:
        """What the chips' peaks allow."""
        return max(self.arithmetic, self.memory, self.links)

    @property
    def step(self) -> float:
        """The highest of all."""
        return max(self)


def bounds(analysis: Analysis, pod: Pod, micro_batches: int = 1) -> Bounds:
    """The compiler's estimate of a step's time, and what the chips' peaks allow.

    The devices of a chip share its peaks.
    """
    shared = pod.chip.devices * micro_batches
    return Bounds(
        compiler=micro_batches * analysis.seconds,
        arithmetic=shared * analysis.flops / pod.chip.flops,
        memory=shared * analysis.traffic / pod.chip.bandwidth,
        links=analysis.collectives.sent / pod.chip.links,
    )


def image_bytes(config: ml_collections.ConfigDict) -> int:
    """Of one image on its way to a device: two views, label, id and epoch."""
    number = 4 if config.augment.placement == "host" else 1
    return 2 * config.image_size**2 * 3 * number + 3 * 4


def waiting_bytes(config: ml_collections.ConfigDict, pod: Pod) -> int:
    """Of the batches that a device keeps ready beside the one in use (`distributed.prefetch`)."""
    return config.data.prefetch * config.batch_size // pod.devices * image_bytes(config)


class Point(NamedTuple):
    """Images on a device at a time, and the bytes that they and the program need."""

    images: int
    memory: float


def largest(first: Point, second: Point, available: float) -> int:
    """The most images that fit, if memory grows by as much with each; 0 if none does.

    Compilers pad: what lies between or beyond two compiled batches need not be on their line.
    """
    an_image = (second.memory - first.memory) / (second.images - first.images)
    if not an_image > 0:  # also where a number is not known
        return max((p.images for p in (first, second) if p.memory <= available), default=0)
    return max(0, math.floor(first.images + (available - first.memory) / an_image))


def _per_device(config: ml_collections.ConfigDict, pod: Pod) -> int:
    return int(config.batch_size // (config.accumulate * pod.devices))


def split_for(config: ml_collections.ConfigDict, pod: Pod, images: int) -> int | None:
    """The least `accumulate` with at most `images` on a device at a time; None if there is none."""
    each = config.batch_size // pod.devices
    return next((n for n in range(1, each + 1) if each % n == 0 and each // n <= images), None)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _scaled(value: float, unit: str) -> str:
    power = min(max(int(math.log10(value)) // 3, 0), 5) if value > 0 else 0
    return f"{value / 1000**power:.4g} {' kMGTP'[power].strip()}{unit}"


def describe(
    config: ml_collections.ConfigDict, data: Data, pod: Pod, hosts: int
) -> tuple[list[str], int | None]:
    """The lines that need no compiler, and the number of steps if it is known."""
    steps = config.num_steps
    if not steps and data.num_examples:
        steps = pipeline.steps_for(config.num_epochs, data.num_examples, config.batch_size)
    core = "a core" if pod.chip.devices > 1 else "a chip"
    examples = f"{data.num_examples:,} images" if data.num_examples else "number of images unknown"
    micro = f" x {config.accumulate} micro-batches" if config.accumulate > 1 else ""
    return [
        f"{config.recipe}; on {pod.name}: {pod.devices} devices (each {core}), {hosts} hosts",
        f"{'data':<16}{config.dataset}, {config.data.split}: {examples}, "
        f"{data.num_classes} classes ({data.words})",
        f"{'batch':<16}{config.batch_size} = {pod.devices} devices x "
        f"{_per_device(config, pod)} images{micro}",
        f"{'schedule':<16}"
        + (f"{steps:,} steps" if steps else "length unknown: give config.num_steps"),
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
    # The compiler counts a loop once, and with it the update, which is outside of the loop.
    title, most, least, times = "lower bounds", "at most", "at least", ""
    if count > 1:
        title, most, least = "estimates", "about", "about"
        times = f" ({count} times what is counted for one micro-batch and its update)"
    hours = f"; {steps:,} steps in {least} {limit.step * steps / 3600:.2f} h" if steps else ""
    return [
        f"{'step, a device':<16}{_scaled(count * analysis.flops, 'FLOP')}, "
        f"{_scaled(count * analysis.traffic, 'B')} read and written{times}",
        f"{'collectives':<16}{_scaled(exchanged.payload, 'B')} in {exchanged.calls} calls",
        f"{title:<16}{1e3 * limit.compiler:.1f} ms: the compiler's estimate"
        f"{'' if analysis.seconds else ' (it has none)'}",
        f"{'':<16}{1e3 * limit.roofline:.1f} ms: the chips' peaks (arithmetic "
        f"{1e3 * limit.arithmetic:.1f}, memory {1e3 * limit.memory:.1f}, links "
        f"{1e3 * limit.links:.1f})",
        f"{'':<16}so {most} {rate:,.0f} images/s{hours}",
        f"{'input':<16}each of {hosts} hosts must deliver, at that rate, {rate / hosts:,.0f} "
        f"images/s (decoded once, two views each), {rate * image_bytes(config) / hosts / 1e6:,.0f} "
        "MB/s to its devices",
    ]


def memory_line(needs: float, ahead: float, pod: Pod) -> str:
    """What a device has to hold beside what it has."""
    total, has = needs + ahead, pod.chip.memory
    verdict = "fits" if total <= has else f"does not fit, by {_gib(total - has)}"
    if math.isnan(total):
        return f"{'memory':<16}more than the {_gib(has)} of a device: does not fit"
    return (
        f"{'memory':<16}{_gib(total)} of the {_gib(has)} of a device: {verdict} "
        f"({_gib(needs)} the step, {_gib(ahead)} batches kept ready)"
    )


def run(config: ml_collections.ConfigDict, topology: str, find_largest: bool = False) -> None:
    """Prints what the config's update step would be on a pod.

    Args:
      config: of a pre-training run.
      topology: as `v3:16x16`.
      find_largest: whether to compile a second batch size, which predicts the largest.

    Raises:
      UserError: for a config that no such pod could run; after the report if a device is too small.
    """
    require(
        config.job == "pretrain",
        f"--preflight is of pre-training, and config.job={config.job} is not",
    )
    require(
        not config.data.resident,
        "--preflight knows no config.data.resident: leave it out, and add the images' own bytes",
    )
    pod = pod_of(topology)
    train.check(config, pod.devices)
    devices = topology_of(pod)
    assert len(devices) == pod.devices, f"{topology} has {len(devices)} devices"
    hosts = len({device.process_index for device in devices})
    data = data_of(config)
    lines, steps = describe(config, data, pod, hosts)
    print("\n".join(lines), flush=True)
    _logger.info("compiling; minutes for a large network")

    def compiled(images: int) -> tuple[Point, Analysis | None]:
        changed = config.copy_and_resolve_references()
        changed.batch_size = images * pod.devices * config.accumulate
        try:
            analysis = compile_step(changed, data, pod, devices)
        except TooLarge as error:
            return Point(images, error.memory + waiting_bytes(changed, pod)), None
        return Point(images, analysis.memory + waiting_bytes(changed, pod)), analysis

    first, analysis = compiled(_per_device(config, pod))
    ahead = waiting_bytes(config, pod)
    print(memory_line(first.memory - ahead, ahead, pod), flush=True)
    if analysis:
        print("\n".join(cost(analysis, config, pod, hosts, steps)), flush=True)
    fits = analysis is not None and first.memory <= pod.chip.memory
    if fits and not find_largest:
        return
    if not fits and first.images == 1:
        raise UserError(f"not even one image a device fits {pod.name}: take a narrower network")
    # Near the limit compilers take long, and need less than they otherwise would.
    is_small = fits and (first.images == 1 or 2 * first.memory <= pod.chip.memory)
    second, _ = compiled(2 * first.images if is_small else first.images // 2)
    most = largest(first, second, pod.chip.memory)
    print(
        f"{'largest batch':<16}{most} images on a device at a time, predicted from the memory of "
        f"{first.images} ({_gib(first.memory)}) and {second.images} ({_gib(second.memory)})"
    )
    if not fits:
        split = split_for(config, pod, most)
        advice = "a pod of larger chips, or a narrower network, would be right"
        if split:
            advice = f"config.accumulate={split} (by the prediction), or a larger pod, would fit"
        raise UserError(f"a device of {pod.name} cannot hold {first.images} images: {advice}")
