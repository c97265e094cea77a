"""The stream of examples: naive Philox, and the same images however the work is divided."""

import collections

import numpy as np
import pytest

from byol_jax import keys
from byol_jax.augment.boxes import random_resized_boxes
from byol_jax.data import crops, pipeline, tensorflow
from byol_jax.data.images import ImageSet
from byol_jax.data.views import Reading, Request, Stream, View, epoch_permutation, examples
from byol_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 9, 11, 3), dtype=np.uint8)
SET = ImageSet("twenty", IMAGES, (np.arange(20) % 7 - 1).astype(np.int32), 6)


STREAM = Stream(seed=1, num_examples=20, batch_size=8, stop=7)
VIEWS = (View(6), View(6))


def batches(
    views: tuple[View, ...] = VIEWS, reading: Reading = Reading(), **changes
) -> list[dict[str, np.ndarray]]:
    return list(pipeline.train_batches(SET, STREAM._replace(**changes), views, reading))


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_same(actual: list[dict[str, np.ndarray]], expected: list[dict[str, np.ndarray]]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys() == {"view1", "view2", "labels", "ids", "epochs"}
        for key in a:
            assert np.array_equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def whole() -> list[dict[str, np.ndarray]]:
    """Seven batches of 8 out of 20 images: 2.8 epochs."""
    return batches()


def test_steps_of_the_paper() -> None:
    assert pipeline.steps_for(1000, 1281167, 4096) == 312784
    assert pipeline.steps_for(0.5, 100, 8) == 6
    assert isinstance(pipeline.steps_for(1.5, 100, 8), int)


def test_order_of_an_epoch() -> None:
    expected = keys.permutation(30, "permutation", 11, 3)
    assert epoch_permutation(11, 3, 30).tolist() == expected.tolist()
    assert epoch_permutation(11, 4, 30).tolist() != expected.tolist()
    assert epoch_permutation(12, 3, 30).tolist() != expected.tolist()
    with pytest.raises(ValueError, match="read-only"):  # It is cached: a change would stay.
        epoch_permutation(11, 3, 30)[0] = 0


def test_stream_is_one_permutation_after_the_other() -> None:
    expected = [(int(i), e) for e in range(4) for i in epoch_permutation(5, e, 6)]
    for start, stop in [(0, 24), (3, 5), (5, 20), (7, 7), (18, 24)]:
        ids, epochs = examples(5, 6, start, stop)
        assert ids.dtype == epochs.dtype == np.int64
        assert list(zip(ids.tolist(), epochs.tolist(), strict=True)) == expected[start:stop]


def test_batches_follow_the_stream(whole) -> None:
    ids, epochs = examples(1, 20, 0, 56)
    together = joined(whole)
    assert together["ids"].tolist() == ids.tolist()
    assert together["epochs"].tolist() == epochs.tolist()
    assert together["labels"].tolist() == [i % 7 - 1 for i in ids]
    assert all(together[key].dtype == np.int32 for key in ("ids", "epochs", "labels"))
    assert set(whole[2]["epochs"]) == {0, 1}
    seen = collections.Counter(
        zip(together["epochs"].tolist(), together["ids"].tolist(), strict=True)
    )
    assert all(seen[epoch, i] == 1 for epoch in (0, 1) for i in range(20))


def test_views_are_the_crops_of_their_boxes(whole) -> None:
    for batch in (whole[0], whole[4]):
        for view in (1, 2):
            views = batch[f"view{view}"]
            assert views.shape == (8, 6, 6, 3) and views.dtype == np.uint8
            for actual, i, epoch in zip(views, batch["ids"], batch["epochs"], strict=True):
                uniforms = keys.example_uniforms(1, "crop", i, epoch, view, 4)
                box = random_resized_boxes(uniforms, 9, 11)
                assert np.array_equal(
                    actual, crops.place(IMAGES[i], crops.box_placement(box, 6), 6)
                )


def test_arrays_are_cropped_without_tensorflow(monkeypatch) -> None:
    def refuse():
        raise AssertionError("TensorFlow is imported")

    monkeypatch.setattr(tensorflow, "import_tensorflow", refuse)
    monkeypatch.setattr(crops, "import_tensorflow", refuse)
    assert len(batches(stop=2)) == 2


def test_ranges_reach_the_crops() -> None:
    """The whole area of square images at aspect 1 is the image itself."""
    square = SET._replace(images=IMAGES[:, :, :9])
    view = View(9, area_range=(1.0, 1.0), aspect_range=(1.0, 1.0))
    (batch,) = pipeline.train_batches(square, Stream(0, 20, 20, stop=1), (view, view))
    for view in ("view1", "view2"):
        assert np.array_equal(batch[view], square.images[batch["ids"]])


def test_one_crop_for_both_views(whole) -> None:
    """SimCLR Figure 5: the box of the first view; the first view, and runs without it, stay."""
    shared = (View(6), View(6, box_of=1))
    actual = batches(shared)
    for batch, expected in zip(actual, whole, strict=True):
        assert np.array_equal(batch["view2"], batch["view1"])
        assert_same([batch | {"view2": expected["view2"]}], [expected])
    ids, epochs = (whole[3][name].astype(np.int64) for name in ("ids", "epochs"))
    assert_same([pipeline.example_views(SET, ids, epochs, 1, shared)], [actual[3]])
    given = Request(ids, epochs), np.full(8, 9), np.full(8, 11), 1
    placements = pipeline.random_placements(*given, VIEWS)
    assert np.array_equal(pipeline.random_placements(*given, shared), placements[:, [0, 0]])


@pytest.mark.parametrize("threads", [1, 8])
def test_same_batches_with_any_number_of_threads(whole, threads: int) -> None:
    assert_same(batches(reading=Reading(threads=threads)), whole)


@pytest.mark.parametrize("prefetch", [0, 1, 20])
def test_same_batches_with_any_prefetch(whole, prefetch: int) -> None:
    assert_same(batches(reading=Reading(prefetch=prefetch)), whole)


@pytest.mark.parametrize("start", [1, 3, 6])
def test_same_batches_when_resumed(whole, start: int) -> None:
    assert_same(batches(start=start), whole[start:])


def test_an_empty_stream() -> None:
    assert batches(start=7) == []


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_same_batches_with_any_number_of_processes(whole, process_count: int) -> None:
    parts = [batches(process=(index, process_count)) for index in range(process_count)]
    assert all(len(part[0]["ids"]) == 8 // process_count for part in parts)
    assert_same([joined(list(slices)) for slices in zip(*parts, strict=True)], whole)


@pytest.mark.parametrize("process_count", [1, 2])
def test_same_micro_batches_with_any_number_of_processes(whole, process_count: int) -> None:
    """Micro-batches of 4: with two processes, process 1 gets positions 2, 3 and 6, 7."""
    parts = [
        batches(process=(index, process_count), micro_batches=2) for index in range(process_count)
    ]
    for step, batch in enumerate(whole):
        for micro in range(2):
            per_process = 4 // process_count
            mine = slice(micro * per_process, (micro + 1) * per_process)
            slices = [{key: part[step][key][mine] for key in batch} for part in parts]
            expected = {key: batch[key][4 * micro : 4 * micro + 4] for key in batch}
            assert_same([joined(slices)], [expected])
    if process_count == 2:
        assert parts[1][0]["ids"].tolist() == whole[0]["ids"][[2, 3, 6, 7]].tolist()


def test_another_batch_size_shows_the_same_views(whole) -> None:
    actual, expected = joined(batches(batch_size=14, stop=4)), joined(whole)
    assert_same([actual], [expected])


def test_another_seed_shows_other_views(whole) -> None:
    actual, expected = joined(batches(seed=2)), joined(whole)
    assert actual["ids"].tolist() != expected["ids"].tolist()
    assert not np.array_equal(actual["view1"], expected["view1"])
    assert not np.array_equal(expected["view1"], expected["view2"])


def test_an_abandoned_iterator_can_be_started_again(whole) -> None:
    for _ in range(3):
        started = pipeline.train_batches(SET, STREAM._replace(stop=None), VIEWS)
        assert_same([next(started)], whole[:1])
        del started


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"batch_size": 21}, "config.batch_size=21"),
        ({"batch_size": 0}, "config.batch_size=0"),
        ({"micro_batches": 3}, "3 micro-batches"),
        ({"micro_batches": 0}, "0 micro-batches"),
        ({"micro_batches": 2, "process": (0, 8)}, "multiple of 16"),
        ({"views": (View(6), View(6, area_range=(0.9, 0.1)))}, "area range"),
        ({"views": (View(6), View(6, aspect_range=(0.0, 1.0)))}, "aspect range"),
        ({"reading": Reading(threads=-1)}, "threads=-1"),
        ({"reading": Reading(prefetch=-1)}, "prefetch=-1"),
    ],
)
def test_mistakes_are_found_before_the_first_batch(changes, key: str) -> None:
    views, reading = changes.get("views", VIEWS), changes.get("reading", Reading())
    fields = {name: value for name, value in changes.items() if name in Stream._fields}
    with pytest.raises(UserError) as error:
        pipeline.train_batches(SET, STREAM._replace(**fields), views, reading)
    assert key in str(error.value)
    assert "\n" not in str(error.value)
