"""Memory, traffic and collectives of a compiled step, read from the compiler's text."""

import math
import re
from typing import NamedTuple

from byol_jax.jobs.preflight.chips import Pod


class Collectives(NamedTuple):
    """Data that the devices exchange in a step.

    Attributes:
      calls: number of collective operations.
      payload: bytes of their results per device.
      sent: bytes that each chip must send at least.
    """

    calls: int
    payload: int
    sent: float


class Analysis(NamedTuple):
    """The compiler's numbers for the step of one device.

    With a loop over micro-batches, `flops`, `traffic` and `seconds` count one micro-batch.

    Attributes:
      memory: bytes that the program holds.
      flops: number of floating-point operations.
      traffic: bytes of HBM read and written.
      seconds: the compiler's estimate of the time in seconds; 0 if it has none.
      collectives: data that the devices exchange in the whole step.
    """

    memory: float
    flops: float
    traffic: float
    seconds: float
    collectives: Collectives


class TooLarge(Exception):
    """The step does not fit a device; `memory` is the bytes it needs, nan if they are unknown."""

    def __init__(self, memory: float):
        super().__init__(f"{memory} bytes")
        self.memory = memory


def estimate(seconds: float) -> float:
    """A lower bound on the sum of the compiler's estimates.

    libtpu counts -1 s for every operation it cannot estimate. Taking the sum modulo 1 s removes
    those, and gives a lower bound.
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
    """Bytes that a program would need, from the compiler's error; nan if it does not say."""
    match = next(filter(None, (pattern.search(message) for pattern in _NEEDED)), None)
    return float(match[1]) * 1024 ** " KMGT".index(match[2] or " ") if match else math.nan


def collectives(hlo: str, pod: Pod, loop_trips: int = 1) -> Collectives:
    """Adds up the data that the devices exchange in a compiled step.

    Args:
      hlo: text of the compiled module.
      pod: pod of the sending chips. The devices of a chip combine their data before it is sent.
      loop_trips: number of iterations of a loop with collectives: the number of micro-batches.
    """
    results: dict[str, list[tuple[str, int]]] = {}
    called: dict[str, list[tuple[bool, str]]] = {}
    entry, lines = _lines(hlo)
    for name, line in lines:
        for how, names in _CALLED.findall(line):
            called.setdefault(name, []).extend((how == "body", n) for n in names.split(", "))
        match = _COLLECTIVE.search(line)
        # A collective in the background has two lines, -start and -done; the second has the result.
        if match and match[3] != "-start":
            results.setdefault(name, []).append((match[2], _bytes_of(match[1])))

    trips, waiting = {entry: 1}, [entry]
    while waiting:
        caller = waiting.pop()
        for is_loop, callee in called.get(caller, ()):
            if callee not in trips:
                trips[callee] = loop_trips if is_loop else trips[caller]
                waiting.append(callee)
    calls = [(trips[n], kind, size) for n in trips for kind, size in results.get(n, ())]
    return Collectives(
        calls=sum(count for count, _, _ in calls),
        payload=sum(count * size for count, _, size in calls),
        sent=sum(count * _sent(kind, size, pod) for count, kind, size in calls),
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


# Memory spaces of arrays: 0 is HBM, which the text leaves out; 1 and 3 to 5 are large memories on
# the chip.
_ON_CHIP = re.compile(r"\[\d[\d,]*\]\{[^}]*S\([1345]\)")
_PLACED = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%[\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)")
# Operations that move nothing themselves. A transfer is counted where it starts.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while")
_TRANSFERS = ("copy-start", "slice-start")


def has_memory_on_chip(hlo: str) -> bool:
    """Whether a compiled step keeps arrays in memory on the chip."""
    return bool(_ON_CHIP.search(hlo))


def traffic(hlo: str) -> float:
    """Bytes of HBM that a compiled step reads and writes, with each loop counted once.

    Every operation reads its operands and writes its result. Arrays in memory on the chip do not
    count. A transfer between that memory and HBM moves the smaller of its two sides.
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
    """Bytes of each array of a type, and whether it is in HBM."""
    return [
        (_array_bytes(bits, shape), "S(" not in layout)
        for bits, shape, layout in _PLACED.findall(types)
    ]


def _array_bytes(bits: str, shape: str) -> int:
    return math.prod(int(n) for n in shape.split(",") if n) * max(int(bits or 8) // 8, 1)


def _bytes_of(types: str) -> int:
    """Bytes of a type such as `f32[2,3]{1,0}`, or of a tuple of types."""
    return sum(_array_bytes(bits, shape) for _, bits, shape in _ARRAY.findall(types))


def _sent(kind: str, size: int, pod: Pod) -> float:
    """Bytes that a chip must send at least for a collective with a result of `size` bytes."""
    share = (pod.chips - 1) / pod.chips
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "reduce-scatter":
        return share * size * pod.devices
    return share * size


class Bounds(NamedTuple):
    """Lower bounds on the time of a step, in seconds.

    Attributes:
      compiler: the compiler's estimate.
      arithmetic: time of the floating-point operations at the chip's peak rate.
      memory: time of the HBM traffic at the chip's peak bandwidth.
      links: time of the collectives at the peak rate of the chip's links.
    """

    compiler: float
    arithmetic: float
    memory: float
    links: float

    @property
    def roofline(self) -> float:
        """The bound from the chips' peak rates."""
        return max(self.arithmetic, self.memory, self.links)

    @property
    def step(self) -> float:
        """The highest of all bounds."""
        return max(self)


def bounds(analysis: Analysis, pod: Pod, micro_batches: int = 1) -> Bounds:
    """The compiler's estimate of a step's time, and the bounds from the chips' peak rates.

    The devices of a chip share its peak rates.
    """
    shared = pod.chip.devices * micro_batches
    return Bounds(
        compiler=micro_batches * analysis.seconds,
        arithmetic=shared * analysis.flops / pod.chip.flops,
        memory=shared * analysis.traffic / pod.chip.bandwidth,
        links=analysis.collectives.sent / pod.chip.links,
    )
