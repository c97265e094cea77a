"""Generations of TPU chips, and pods made of them."""

import importlib.util
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.experimental import topologies

from byol_jax.errors import UserError, require

GIB = 2**30

# By default libtpu asks a Google Cloud machine for its TPUs. It also refuses to load a second time,
# as two programs might use them. The first variables tell it what to assume and allow the second
# load; the last two silence it.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Chip(NamedTuple):
    """A generation of TPUs. Rates are peak rates of a whole chip.

    Attributes:
      devices: number of JAX devices per chip: two cores on v3, one on later chips.
      memory: bytes of HBM that the compiler can use for a program on one device.
      flops: FLOP/s in bfloat16. This is also the rate of float32 matrix products and convolutions
        at JAX's default precision, which rounds their inputs to bfloat16.
      bandwidth: bytes/s of HBM.
      links: bytes/s that a chip sends to other chips over all its links.
      slices: available pods and slices, as numbers of chips along each side.
      options: options of `topologies.get_topology_desc`, with which it counts devices as a TPU
        machine does.
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

# FLOP/s, bandwidth and slices: cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e}. The pages have no
# peak rate of float32 itself. Links: half of the bidirectional rate on the same pages, except for
# v3 and v4. v3 has four links of 656 Gbit/s (Jouppi et al., Communications of the ACM 63(7), 2020),
# which agrees with the page's 340 TB/s of all-reduce for 1,024 chips. v4 has six links of 50 GB/s
# (Jouppi et al., ISCA 2023). Memory: the available memory that libtpu 0.0.51 reports when a program
# needs more. It is a little less than the chip's 32, 32, 16, 95 and 32 GiB (v3: for two cores).
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
    """The pod that a step is compiled for.

    Attributes:
      name: name of the pod, such as `v3:16x16`.
      chip: generation of its chips.
      chips: number of its chips.
    """

    name: str
    chip: Chip
    chips: int

    @property
    def devices(self) -> int:
        """Number of devices, as JAX counts them."""
        return self.chips * self.chip.devices


def pod_of(name: str) -> Pod:
    """The pod with the name that a user gave.

    Raises:
      UserError: there is no such pod; the message lists the available ones.
    """
    generation, _, sides = name.partition(":")
    require(
        generation in CHIPS,
        f"--preflight={name}: choose one of "
        + ", ".join(f"{key}:{chip.slices[-1]}" for key, chip in CHIPS.items())
        + " or a smaller slice",
    )
    chip = CHIPS[generation]
    require(
        sides in chip.slices,
        f"--preflight={name}: choose one of {', '.join(f'{generation}:{s}' for s in chip.slices)}",
    )
    return Pod(name, chip, math.prod(int(side) for side in sides.split("x")))


def topology_of(pod: Pod) -> tuple[jax.Device, ...]:
    """The pod's devices, which only the compiler can use.

    Raises:
      UserError: `libtpu` is not installed, or refuses the pod.
    """
    require(
        importlib.util.find_spec("libtpu"),
        "--preflight needs the TPU compiler (but no TPU): pip install 'byol_jax[tpu]'",
    )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # The few computations in this process run on the CPU, even if there is an accelerator.
    jax.config.update("jax_platforms", "cpu")
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=pod.name, **pod.chip.options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--preflight={pod.name}: libtpu refuses this pod ({reason})") from error
    return tuple(topology.devices)
