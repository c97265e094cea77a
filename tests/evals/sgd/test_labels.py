"""Class-balanced shares of labels, and the metrics that go with labels."""

import itertools

import numpy as np
import pytest

import tiny_runs
from byol_jax.errors import UserError
from byol_jax.evals.sgd.labels import check_metric, class_balanced_subset


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.5])
def test_a_subset_has_its_share_of_each_class(fraction):
    counts = [1300, 1000, 732, 150]
    image_set = tiny_runs.labelled_set(counts, unlabelled=300)
    rows = class_balanced_subset(image_set, fraction, 0)
    assert np.all(np.diff(rows) > 0) and rows.dtype == np.int64
    counted = np.bincount(image_set.labels[rows], minlength=4)
    np.testing.assert_array_equal(counted, [round(fraction * n) for n in counts])


def test_subsets_are_nested_and_fixed_by_their_seed():
    image_set = tiny_runs.labelled_set([1300, 1000, 732, 150])
    draws = [class_balanced_subset(image_set, f, 0) for f in (0.01, 0.02, 0.1, 0.5, 1)]
    for small, large in itertools.pairwise(draws):
        assert set(small) < set(large)
    np.testing.assert_array_equal(draws[-1], np.arange(image_set.size))
    np.testing.assert_array_equal(draws[2], class_balanced_subset(image_set, 0.1, 0))
    assert set(draws[2]) != set(class_balanced_subset(image_set, 0.1, 1))


@pytest.mark.parametrize("fewest", [1, 2, 3, 6, 7, 12, 50, 51, 99, 732])
def test_a_class_without_an_example_is_refused_with_a_fraction_that_works(fewest):
    image_set = tiny_runs.labelled_set([1000, fewest])
    with pytest.raises(UserError, match=f"class 1 .*{fewest}") as caught:
        class_balanced_subset(image_set, 0.4 / fewest, 0)
    assert "\n" not in str(caught.value)
    named = float(str(caught.value).split("fraction=")[2].split()[0])
    rows = class_balanced_subset(image_set, named, 0)
    assert np.count_nonzero(image_set.labels[rows] == 1) == 1
    # And no much smaller one would do.
    assert 0.5 / fewest < named <= 1.2 * 0.5 / fewest
    with pytest.raises(UserError, match="no example"):
        class_balanced_subset(image_set, 0.5 / fewest, 0)


def test_no_share_of_several_labels_per_image():
    several = tiny_runs.labelled_set([8, 8])._replace(
        labels=np.zeros((16, 2), np.int32), multi_label=True
    )
    assert len(class_balanced_subset(several, 1.0, 0)) == 16
    with pytest.raises(UserError, match="several labels"):
        class_balanced_subset(several, 0.5, 0)


@pytest.mark.parametrize(
    ("metric", "multi_label", "words"),
    [
        ("top1", True, "metric='top1'.*map_11"),
        ("map_11", False, "metric='map_11'.*top1"),
        ("top5", False, "metric='top5'.*mean_per_class"),
    ],
)
def test_metrics_go_with_labels(metric, multi_label, words):
    with pytest.raises(UserError, match=words):
        check_metric(metric, multi_label)
    for allowed, kind in (("top1", False), ("mean_per_class", False), ("map_11", True)):
        check_metric(allowed, kind)
