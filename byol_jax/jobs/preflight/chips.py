"""Generations of TPUs, and pods of them."""

import importlib.util
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.experimental import topologies

from byol_jax.errors import UserError, require

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
