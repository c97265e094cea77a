"""Reading the compiler's text: memory, traffic and collectives of a compiled step."""

import math
import re
from typing import NamedTuple

from byol_jax.jobs.preflight.chips import Pod


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


def has_memory_on_chip(hlo: str) -> bool:
    """Whether a compiled step keeps arrays in a memory on the chip."""
    return bool(_ON_CHIP.search(hlo))


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
