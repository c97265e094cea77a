"""The pre-flight's chips and pods, and its reading of the compiler's text."""

import math

import pytest

from byol_jax.jobs.preflight import chips, hlo
from byol_jax.jobs.preflight.chips import GIB, Chip, Pod
from byol_jax.jobs.preflight.hlo import Analysis, Collectives

# Round numbers for results by hand: two devices per chip, 100 FLOP/s, 10 B/s, 5 B/s.
POD = Pod("toy:2x2", Chip(2, 16 * GIB, 100.0, 10.0, 5.0, ("2x2",)), 4)
ANALYSIS = Analysis(
    memory=2 * GIB, flops=200.0, traffic=30.0, seconds=5.5, collectives=Collectives(3, 20, 30.0)
)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("v3:16x16", 512),  # App. A: 512 cores, two a chip
        ("v3:4x8", 64),  # App. H: 64 cores
        ("v4:4x4x4", 64),  # JAX sees a chip as one device
        ("v5e:16x16", 256),
        ("v5p:4x4x4", 64),
        ("v6e:2x4", 8),
    ],
)
def test_the_devices_of_a_pod(name, devices):
    assert chips.pod_of(name).devices == devices


def test_numbers_of_chips_agree_with_the_public_pages():
    # FLOP per byte of HBM, and chips of a whole pod, computed from the public pages.
    intensity = {n: round(c.flops / c.bandwidth) for n, c in chips.CHIPS.items()}
    assert intensity == {"v3": 137, "v4": 229, "v5e": 241, "v5p": 166, "v6e": 560}
    whole = {n: chips.pod_of(f"{n}:{c.slices[-1]}").chips for n, c in chips.CHIPS.items()}
    assert whole == {"v3": 1024, "v4": 4096, "v5e": 256, "v5p": 4096, "v6e": 256}
    for chip in chips.CHIPS.values():
        assert len(set(chip.slices)) == len(chip.slices)


HLO = """\
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum.1 = f32[] add(%a, %b)
}

%body.2 (p: (f32[8], s32[])) -> (f32[8], s32[]) {
  %all-reduce.5 = f32[2,3]{1,0:T(2,128)} all-reduce(%x), to_apply=%add.1
  ROOT %fused.6 = f32[8]{0} fusion(%y), kind=kCustom, calls=%fused.3
}

%fused.3 (p: f32[8]) -> f32[8] {
  ROOT %all-gather.9 = bf16[4,5]{1,0} all-gather(%z), dimensions={0}
}

%unused.4 (p: f32[8]) -> f32[8] {
  ROOT %all-reduce.10 = f32[1000]{0} all-reduce(%z), to_apply=%add.1
}

ENTRY %main.7 (p: f32[8]) -> f32[8] {
  %all-reduce.1 = (f32[7]{0:T(256)}, /*index=1*/pred[]{:T(256)}, u8[3]{0}) all-reduce(%a, %b, %c)
  %get-tuple-element.1 = f32[7]{0} get-tuple-element(%all-reduce.1), index=0
  %all-reduce-start.2 = s32[10]{0} all-reduce-start(%get-tuple-element.1), to_apply=%add.1
  %all-reduce-done.2 = s32[10]{0} all-reduce-done(%all-reduce-start.2)
  %while.1 = (f32[8], s32[]) while(%t), condition=%cond.8, body=%body.2
  ROOT %reduce-scatter.1 = f32[6]{0} reduce-scatter(%w), dimensions={0}, to_apply=%add.1
}
"""


def test_collectives_are_summed_over_loops_and_fusions():
    # Outside the loop: 7 x 4 + 1 + 3 and 10 x 4 bytes reduced, 6 x 4 scattered. Inside: 2 x 3 x 4
    # reduced and 4 x 5 x 2 gathered. A computation that is never called does not count.
    outside = 2 * 0.75 * (32 + 40) + 0.75 * 24 * 8
    inside = 2 * 0.75 * 24 + 0.75 * 40
    assert hlo.collectives(HLO, POD) == Collectives(5, 160, outside + inside)
    assert hlo.collectives(HLO, POD, 3) == Collectives(9, 96 + 3 * 64, outside + 3 * inside)
    # One chip sends nothing.
    assert hlo.collectives(HLO, POD._replace(chips=1)).sent == 0


# Layouts with S(1) and S(3) are memory on the chip, S(2) and S(6) flags and scalars.
TRAFFIC = """\
%fused.3 (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sum.9 = f32[100]{0} add(%p, %p)
}

%body.2 (p: (f32[8], s32[])) -> (f32[8], s32[]) {
  %arg.1 = (f32[8]{0}, s32[]{:T(128)S(6)}) parameter(0)
  %get-tuple-element.4 = f32[8]{0} get-tuple-element(%arg.1), index=0
  ROOT %negate.1 = f32[8]{0} negate(%get-tuple-element.4)
}

ENTRY %main.7 (p: f32[8]) -> f32[8] {
  %param.1 = f32[8]{0:T(256)} parameter(0), metadata={op_name="x"}
  %copy-start.1 = (f32[8]{0:T(256)S(1)}, f32[8]{0:T(256)}, u32[]{:S(2)}) copy-start(%param.1)
  %copy-done.1 = f32[8]{0:T(256)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[8]{0}), f32[3]{0:T(8)S(3)}, s32[]{:S(2)}) slice-start(%param.1)
  %slice-done.1 = f32[3]{0:T(8)S(3)} slice-done(%slice-start.1)
  %fusion.1 = bf16[4,5]{1,0} fusion(%copy-done.1, %param.1), kind=kLoop, calls=%fused.3
  %fusion.2 = bf16[4,5]{1,0:T(8,128)S(1)} fusion(%fusion.1), kind=kLoop, calls=%fused.3
  %tuple.1 = (f32[8]{0}, s32[]) tuple(%param.1, %constant.1)
  ROOT %while.1 = (f32[8], s32[]) while(%tuple.1), condition=%cond.8, body=%body.2
}
"""


def test_traffic_counts_only_hbm():
    """Only bytes of HBM count.

    8 x 4 and 3 x 4 bytes are moved to the chip. 8 x 4 are read and 4 x 5 x 2 written, and the
    latter are read again. In the loop 8 x 4 are read and written.
    """
    assert hlo.traffic(TRAFFIC) == (32 + 12) + (32 + 40) + 40 + (32 + 32)


def test_operations_without_an_estimate_count_as_zero():
    assert hlo.estimate(0.039) == 0.039
    assert hlo.estimate(0.0) == 0.0
    assert hlo.estimate(-173 + 0.03125) == 0.03125


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (670.62G) exceeds available HBM (15.48G).",
            670.62 * GIB,
        ),
        ("Ran out of memory in memory space hbm. Used 21.43G of 15.48G hbm.", 21.43 * GIB),
        ("the total memory required for arguments (512) exceeds available HBM (15.48G)", 512.0),
    ],
)
def test_memory_of_a_refused_program(message, size):
    assert hlo.needed(message) == pytest.approx(size)


def test_memory_of_a_refused_program_may_be_unknown():
    assert math.isnan(hlo.needed("RESOURCE_EXHAUSTED: something else"))


def test_the_bounds():
    # Two devices share a chip: 2 x 200 / 100, 2 x 30 / 10, and 30 / 5 for the whole chip.
    limit = hlo.bounds(ANALYSIS, POD)
    assert limit == (5.5, 4.0, 6.0, 6.0)
    assert (limit.roofline, limit.step) == (6.0, 6.0)
    limit = hlo.bounds(ANALYSIS, POD, 3)
    assert limit == (16.5, 12.0, 18.0, 6.0)
    assert hlo.bounds(ANALYSIS._replace(seconds=7.0), POD).step == 7.0
