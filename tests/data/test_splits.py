"""Cuts of training images: their sizes per class, and positions that never change."""

import collections
import itertools

import numpy as np
import pytest

import tiny_runs
from byol_jax.data import splits, table10
from byol_jax.data.images import ImageSet
from byol_jax.errors import UserError
from byol_jax.evals.probes import few_label, logistic

# 8 images of class 1, 16 of class 3, 16 without a label.
UNEVEN = np.array([(7 * i * i + 3 * i) % 5 - 1 for i in range(40)], np.int32)
BALANCED = np.repeat(np.arange(3), 25)
ALTERNATING = np.array([0, 1] * 12 + [2] * 6)


def test_cuts_never_change() -> None:
    assert splits.class_balanced_cut(UNEVEN, 0.2, splits.CUT_SEED).tolist() == [
        *(1, 7, 12, 13, 14, 18, 25, 26),
    ]
    assert splits.class_balanced_cut(UNEVEN, 0.4, 3).tolist() == [
        *(8, 9, 11, 12, 15, 17, 20, 21, 22, 25, 28, 29, 30, 38, 39),
    ]


def test_subsets_never_change() -> None:
    image_set = ImageSet("forty", np.zeros((40, 1, 1, 3), np.uint8), UNEVEN, 4)
    rows = splits.class_balanced_subset(image_set, 0.25, 7)
    assert rows.tolist() == [3, 12, 14, 22, 24, 28]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("caltech101", [7, 12, 13, 14, 18, 26, 28, 38, 40, 41, 51, 53]),
        ("food101", [7, 12, 40, 41, 63, 70]),
        ("birdsnap", [7, 12, 41, 63, 68, 70]),
    ],
)
def test_validation_splits_never_change(key: str, expected: list[int]) -> None:
    test_labels = np.array([0, 0, 1, 2, 2, 2]) if key == "birdsnap" else None
    rows = splits.validation_rows(BALANCED, table10.by_name(key), test_labels)
    assert rows[: len(expected)].tolist() == expected


def test_draws_of_probes_never_change() -> None:
    parts = few_label.label_splits(ALTERNATING, 3, 5)
    assert [[rows.tolist() for rows in by_class] for by_class in parts] == [
        [[18, 0, 6, 2], [9, 7, 15, 1], [25, 27]],
        [[12, 8, 10, 14], [5, 11, 21, 19], [29, 24]],
        [[22, 20, 16, 4], [23, 3, 13, 17], [26, 28]],
    ]
    _, held_out = logistic.validation_cut(ALTERNATING, 0.25, 5)
    assert held_out.tolist() == [7, 10, 14, 17, 18, 23, 26, 27]


def test_class_balanced_cut() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [7] * 2 + [-1] * 4)
    cut = splits.class_balanced_cut(labels, 0.4, seed=3)
    assert np.all(np.diff(cut) > 0)
    assert collections.Counter(labels[cut].tolist()) == {0: 4, 1: 2, 7: 1, -1: 2}
    assert not np.array_equal(cut, splits.class_balanced_cut(labels, 0.4, seed=4))
    assert splits.class_balanced_cut(np.zeros(0, int), 0.4, seed=3).size == 0


def test_the_cut_never_changes() -> None:
    """Published numbers stand on it; worked out with a Philox in plain Python integers."""
    labels = np.arange(40) % 4
    cut = splits.class_balanced_cut(labels, splits.CUT_FRACTION, splits.CUT_SEED)
    assert cut.tolist() == [7, 12, 13, 14, 18, 23, 28, 33]


# Validation splits of BYOL Table 10, on labels with the real class counts.


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    """Labels in mixed order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels[np.random.default_rng(seed).permutation(len(labels))]


def uneven(classes: int, total: int) -> list[int]:
    """Class counts of about total / classes, no two neighbours alike."""
    counts = [total // classes + (i % 7) - 3 for i in range(classes)]
    for i in range(abs(total - sum(counts))):
        counts[i % classes] += 1 if total > sum(counts) else -1
    assert sum(counts) == total and len(set(counts)) > 3
    return counts


# Training images of each class: as the sets' descriptions say, or of about the right size.
CLASSES = {
    "food101": [750] * 101,
    "cifar10": [5000] * 10,
    "cifar100": [500] * 100,
    "sun397": [50] * 397,
    "cars": uneven(196, 8_144),
    "pets": [100] * 34 + [93, 94, 93],
    "caltech101": [30] * 102,
}


@pytest.mark.parametrize("key", CLASSES)
def test_splits_by_class(key: str) -> None:
    benchmark, counts = table10.by_name(key), CLASSES[key]
    labels = labels_of(counts)
    assert len(labels) == benchmark.original
    valid = splits.validation_rows(labels, benchmark)
    assert valid.dtype == np.int64 and np.all(np.diff(valid) > 0)
    assert valid[0] >= 0 and valid[-1] < len(labels)
    expected = {
        "per_class": [int(benchmark.rule.amount)] * len(counts),
        "share": [round(benchmark.rule.amount * count) for count in counts],
    }[benchmark.rule.kind]
    assert np.bincount(labels[valid], minlength=len(counts)).tolist() == expected
    if key not in ("cifar100", "cars"):
        assert (len(labels) - len(valid), len(valid)) == (benchmark.train, benchmark.valid)
    # Fixed by the seed.
    assert np.array_equal(valid, splits.validation_rows(labels, benchmark))
    other = splits.validation_rows(labels, benchmark, seed=1)
    assert len(other) == len(valid) and not np.array_equal(other, valid)


def test_where_the_tables_numbers_cannot_be_derived() -> None:
    """What comes instead, and the note says so."""
    counts = splits.validation_rows(labels_of([500] * 100), table10.by_name("cifar100"))
    assert (len(counts), table10.by_name("cifar100").valid) == (5_000, 5_067)
    assert "5,000" in table10.by_name("cifar100").note
    counts = splits.validation_rows(labels_of(CLASSES["cars"]), table10.by_name("cars"))
    assert abs(len(counts) - 8_144 / 5) < 40 and table10.by_name("cars").valid == 1_650
    assert "fifth of each class" in table10.by_name("cars").note


def test_birdsnap_takes_as_many_of_each_class_as_its_test_split() -> None:
    """2,443 of them, as the note says; a class that the test split lacks gives none."""
    benchmark = table10.by_name("birdsnap")
    train, test = labels_of(uneven(500, 47_386)), labels_of([0, *uneven(499, 2_443)], seed=1)
    valid = splits.validation_rows(train, benchmark, test)
    assert np.array_equal(np.bincount(train[valid], minlength=500), np.bincount(test))
    assert len(valid) == 2_443 and "makes 2,443 and leaves 44,943" in benchmark.note
    with pytest.raises(UserError, match=r"birdsnap.* test split"):
        splits.validation_rows(train, benchmark)


def test_imagenet_takes_the_last() -> None:
    benchmark = table10.by_name("imagenet")
    valid = splits.validation_rows(np.full(benchmark.original, -1), benchmark)
    assert valid.tolist() == list(range(1_271_158, 1_281_167))


def test_places365_has_no_validation_split() -> None:
    assert splits.validation_rows(np.arange(9) % 3, table10.by_name("places365")).size == 0


def test_voc2012_is_cut_uniformly() -> None:
    """Its images have several classes each: 2,119 of the 10,582, whichever they show."""
    labels = np.random.default_rng(0).integers(-1, 2, (10_582, 20))
    valid = splits.validation_rows(labels, table10.by_name("voc2012"))
    assert len(valid) == len(set(valid.tolist())) == 2_119
    unlabelled = splits.validation_rows(np.full(10_582, -1), table10.by_name("voc2012"))
    assert np.array_equal(valid, unlabelled)


@pytest.mark.parametrize("key", ["aircraft", "voc2007", "dtd", "flowers"])
def test_the_creators_validation_split_is_not_made(key: str) -> None:
    with pytest.raises(UserError, match=f"benchmark {key} .*valid/"):
        splits.validation_rows(np.zeros(9, int), table10.by_name(key))


def test_a_class_that_would_lose_all_its_images() -> None:
    labels = labels_of([21, 20, 30])
    with pytest.raises(UserError) as error:
        splits.validation_rows(labels, table10.by_name("pets"))
    assert all(part in str(error.value) for part in ("benchmark pets", "class 1", "21"))


def test_images_of_no_class_are_trained_on() -> None:
    labels = np.array([-1] * 30 + [0] * 21 + [1] * 25)
    valid = splits.validation_rows(labels, table10.by_name("pets"))
    assert np.bincount(labels[valid]).tolist() == [20, 20]


# Shares of the labels.


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.5])
def test_a_subset_has_its_share_of_each_class(fraction):
    counts = [1300, 1000, 732, 150]
    image_set = tiny_runs.labelled_set(counts, unlabelled=300)
    rows = splits.class_balanced_subset(image_set, fraction, 0)
    assert np.all(np.diff(rows) > 0) and rows.dtype == np.int64
    valid = np.bincount(image_set.labels[rows], minlength=4)
    np.testing.assert_array_equal(valid, [round(fraction * n) for n in counts])


def test_subsets_are_nested_and_fixed_by_their_seed():
    image_set = tiny_runs.labelled_set([1300, 1000, 732, 150])
    draws = [splits.class_balanced_subset(image_set, f, 0) for f in (0.01, 0.02, 0.1, 0.5, 1)]
    for small, large in itertools.pairwise(draws):
        assert set(small) < set(large)
    np.testing.assert_array_equal(draws[-1], np.arange(image_set.size))
    np.testing.assert_array_equal(draws[2], splits.class_balanced_subset(image_set, 0.1, 0))
    assert set(draws[2]) != set(splits.class_balanced_subset(image_set, 0.1, 1))


@pytest.mark.parametrize("fewest", [1, 2, 3, 6, 7, 12, 50, 51, 99, 732])
def test_a_class_without_an_example_is_refused_with_a_fraction_that_works(fewest):
    image_set = tiny_runs.labelled_set([1000, fewest])
    with pytest.raises(UserError, match=r"fraction=.* class 1") as caught:
        splits.class_balanced_subset(image_set, 0.4 / fewest, 0)
    assert "\n" not in str(caught.value)
    named = float(str(caught.value).split("fraction=")[2].split()[0])
    rows = splits.class_balanced_subset(image_set, named, 0)
    assert np.count_nonzero(image_set.labels[rows] == 1) == 1
    # And no much smaller one would do.
    assert 0.5 / fewest < named <= 1.2 * 0.5 / fewest
    with pytest.raises(UserError, match=r"fraction=.* class 1"):
        splits.class_balanced_subset(image_set, 0.5 / fewest, 0)


def test_no_share_of_several_labels_an_image():
    several = tiny_runs.labelled_set([8, 8])._replace(
        labels=np.zeros((16, 2), np.int32), multi_label=True
    )
    assert len(splits.class_balanced_subset(several, 1.0, 0)) == 16
    with pytest.raises(UserError, match=r"fraction=0.5"):
        splits.class_balanced_subset(several, 0.5, 0)
