"""The sizes of the sets of Tables 4, 11 and 12, beside those that the readers cut."""

import pytest

from byol_jax.data import table10
from byol_jax.data.dense import benchmarks, sources
from byol_jax.data.dense.sets import DEPTH, MASKS

VOC, NYU = (benchmarks.find(key) for key in ("voc2012", "nyu"))


def test_voc_has_the_numbers_of_table_10() -> None:
    row = table10.by_name("voc2012")
    assert VOC.train == (row.original,) and VOC.test == row.test
    assert benchmarks.sizes(VOC, "valid") == (row.valid,)
    assert benchmarks.sizes(VOC, "train") == (10_582 - 2_119,)
    assert benchmarks.sizes(VOC, "train+valid") == (10_582,)
    assert benchmarks.sizes(VOC, "test") == (1_449,)
    assert (VOC.name, VOC.kind) == (row.name, MASKS)


def test_nyu_has_two_copies() -> None:
    assert benchmarks.sizes(NYU, "train+valid") == (795, 47_584)
    assert benchmarks.sizes(NYU, "test") == (654,)
    # A fifth of each is held out.
    assert benchmarks.sizes(NYU, "valid") == (159, 9_517)
    assert benchmarks.sizes(NYU, "train") == (795 - 159, 47_584 - 9_517)
    assert NYU.kind == DEPTH


@pytest.mark.parametrize(
    ("benchmark", "dataset", "is_one"),
    [
        (VOC, "voc:/data/VOCdevkit", True),
        (VOC, "masks:/data/camvid", False),
        (VOC, "tfds:voc/2012", False),  # boxes
        (NYU, "nyu:/data/nyu.mat", True),
        (NYU, "tfds:nyu_depth_v2", True),
        (NYU, "tfds:nyu_depth_v2:0.0.1", True),
        (NYU, "tfds:kitti", False),
        (NYU, "depth:/data/rooms", False),
    ],
)
def test_files_of_ones_own_are_no_benchmark(benchmark, dataset, is_one) -> None:
    assert benchmarks.is_one(benchmark, dataset) == is_one


def test_every_benchmark_has_a_form_that_the_readers_know() -> None:
    for benchmark in benchmarks.BENCHMARKS:
        forms = {form.partition(":")[0] for form in sources.FORMS[benchmark.kind]}
        assert benchmark.form in forms
        assert bool(benchmark.registered) != bool(benchmark.advice)
