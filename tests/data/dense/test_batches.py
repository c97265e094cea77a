"""Batches of dense sets: what decides their rows, and what does not."""

import numpy as np
import pytest

from byol_jax import keys
from byol_jax.data import stored
from byol_jax.data.dense import batches, sets, transforms
from byol_jax.data.dense.sets import VOID, Sample
from byol_jax.data.views import Stream, epoch_permutation
from byol_jax.errors import UserError
from tiny_dense import in_memory, picture

SIZE, CROP = 11, 9
TRANSFORM = transforms.segmentation(transforms.Segmentation(crop=CROP))


def samples(count: int = SIZE) -> list[Sample]:
    return [
        Sample(picture(i, 10 + i % 3, 12), np.full((10 + i % 3, 12), i % 3, np.uint8))
        for i in range(count)
    ]


def train(stream: Stream, dense_set: sets.DenseSet | None = None, **settings):
    found = in_memory(samples()) if dense_set is None else dense_set
    return list(batches.train_batches(found, stream, TRANSFORM, **settings))


def broken(at: list[int], count: int = SIZE) -> sets.DenseSet:
    """A set with some unreadable examples."""
    whole = in_memory(samples(count))

    def read(i: int) -> Sample:
        if i in at:
            raise OSError("damaged")
        return whole.read(i)

    return whole._replace(read=read)


def test_rows_are_functions_of_seed_id_and_epoch() -> None:
    stream = Stream(seed=5, num_examples=SIZE, batch_size=4, stop=5)
    made = train(stream)
    order = np.concatenate([epoch_permutation(5, epoch, SIZE) for epoch in range(2)])
    assert np.concatenate([batch["ids"] for batch in made]).tolist() == order[:20].tolist()
    assert made[2]["epochs"].tolist() == [0, 0, 0, 1]
    for batch in made:
        assert batch["image"].shape == (4, CROP, CROP, 3) and batch["image"].dtype == np.uint8
        assert batch["target"].shape == (4, CROP, CROP) and batch["target"].dtype == np.uint8
        for row in range(4):
            example, epoch = int(batch["ids"][row]), int(batch["epochs"][row])
            uniforms = keys.example_uniforms(5, "dense", example, epoch, 1, 4)
            wanted = TRANSFORM(samples()[example], uniforms)
            np.testing.assert_array_equal(batch["image"][row], wanted.image)
            np.testing.assert_array_equal(batch["target"][row], wanted.target)


@pytest.mark.parametrize("settings", [{"threads": 1}, {"threads": 5}, {"prefetch": 0}])
def test_threads_and_prefetching_change_no_bit(settings) -> None:
    stream = Stream(seed=1, num_examples=SIZE, batch_size=4, stop=6)
    for batch, other in zip(train(stream), train(stream, **settings), strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_a_stream_that_goes_on_and_one_of_two_processes_are_parts_of_the_whole() -> None:
    stream = Stream(seed=1, num_examples=SIZE, batch_size=4, stop=6)
    whole = train(stream)
    for batch, other in zip(whole[3:], train(stream._replace(start=3)), strict=True):
        np.testing.assert_array_equal(batch["image"], other["image"])
    parts = [train(stream._replace(process=(index, 2))) for index in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        for name in batch:
            both = np.concatenate([first[name], second[name]])
            np.testing.assert_array_equal(batch[name], both)


def test_other_seeds_and_epochs_cut_other_crops() -> None:
    stream = Stream(seed=1, num_examples=SIZE, batch_size=SIZE, stop=2)
    first, second = train(stream)
    other = train(stream._replace(seed=2))[0]
    for changed in (second, other):
        rows = [changed["ids"].tolist().index(i) for i in first["ids"].tolist()]
        assert (first["image"] != changed["image"][rows]).any(axis=(1, 2, 3)).mean() > 0.9


def test_an_unreadable_example_has_a_substitute_with_its_own_key() -> None:
    stream = Stream(seed=1, num_examples=SIZE, batch_size=SIZE, stop=1)
    (batch,) = train(stream, broken([4]))
    row = batch["ids"].tolist().index(4)
    for attempt in range(100):
        drawn = keys.example_uniforms(1, "substitute", 4, 0, attempt, 1).item()
        if (substitute := int(drawn * SIZE)) != 4:
            break
    wanted = TRANSFORM(samples()[substitute], keys.example_uniforms(1, "dense", 4, 0, 1, 4))
    np.testing.assert_array_equal(batch["image"][row], wanted.image)
    np.testing.assert_array_equal(batch["target"][row], wanted.target)


def test_more_unreadable_examples_than_tolerated_end_the_run() -> None:
    stream = Stream(seed=1, num_examples=SIZE, batch_size=SIZE, stop=1)
    with pytest.raises(UserError, match="2 of 11 images cannot be read, more than one: tiny"):
        train(stream, broken([4, 7]))
    with pytest.raises(UserError, match="cannot be read"):
        evaluated(broken([4, 7]))


def test_a_large_set_is_judged_by_a_sample(monkeypatch) -> None:
    """100 of 400: 1 is the limit by share, 4 with three standard deviations."""
    monkeypatch.setattr(stored, "_SAMPLE", 100)
    order = keys.permutation(400, "check_readable", 0).tolist()
    sets.check_readable(broken([*order[:3], *order[100:]], 400))
    with pytest.raises(UserError, match="4 of 100 images cannot be read, more than 1%: tiny"):
        sets.check_readable(broken(order[:4], 400))


def test_a_batch_that_a_set_cannot_fill_is_refused() -> None:
    with pytest.raises(UserError, match=r"config\.batch_size=12: tiny has fewer images"):
        train(Stream(seed=1, num_examples=SIZE, batch_size=12))


def evaluated(dense_set: sets.DenseSet, size: int = 4, **settings):
    whole = transforms.whole((17, 17))
    return list(batches.evaluation_batches(dense_set, whole, size, **settings))


def test_an_evaluation_sees_every_example_once_in_batches_of_one_shape() -> None:
    made = evaluated(in_memory(samples()))
    assert [batch["ids"].tolist() for batch in made] == [
        *([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, -1])
    ]
    for batch in made:
        assert batch["image"].shape == (4, 17, 17, 3) and batch["target"].shape == (4, 17, 17)
    last = made[-1]
    assert (last["target"][-1] == VOID).all()
    np.testing.assert_array_equal(last["target"][1, :10, :12], samples()[9].target)
    np.testing.assert_array_equal(last["image"][1, :10, :12], samples()[9].image)
    assert last["windows"].tolist() == [[0, 0, 12, 12], [0, 0, 10, 12], [0, 0, 11, 12], [0] * 4]
    (rest,) = evaluated(in_memory(samples()), start=8)
    np.testing.assert_array_equal(rest["image"], last["image"])


def test_an_evaluation_leaves_out_what_it_cannot_read() -> None:
    made = evaluated(broken([0]))
    assert made[0]["ids"].tolist() == [-1, 1, 2, 3]
    assert (made[0]["target"][0] == VOID).all()


def frames(shapes: list[tuple[int, int]]) -> sets.DenseSet:
    made = [Sample(picture(i, *s), np.full(s, i + 1, np.float32)) for i, s in enumerate(shapes)]
    return in_memory(made, "depth")


def test_depth_is_evaluated_on_frames_of_one_size() -> None:
    params = transforms.Depth((24, 32), (22, 30), (12, 16))
    whole = transforms.depth_whole(params)
    (batch,) = batches.evaluation_batches(frames([(48, 64)] * 3), whole, 4)
    assert batch["target"].shape == (4, 48, 64) and batch["target"].dtype == np.float32
    assert batch["target"][:, 0, 0].tolist() == [1, 2, 3, 0]
    assert batch["image"].shape == (4, 22, 30, 3)
    assert batch["windows"][0].tolist() == [2, 2, 44, 60]
    other = batches.evaluation_batches(frames([(48, 64), (24, 32)]), whole, 4)
    with pytest.raises(UserError, match="tiny 1 has 32 x 24 pixels and others 64 x 48"):
        list(other)


def test_depth_batches_have_metres() -> None:
    params = transforms.Depth((24, 32), (22, 30), (12, 16))
    stream = Stream(seed=0, num_examples=3, batch_size=3, stop=1)
    (batch,) = batches.train_batches(frames([(48, 64)] * 3), stream, transforms.depth(params))
    assert batch["target"].dtype == np.float32 and batch["target"].shape == (3, 12, 16)
    assert (batch["target"] == (batch["ids"] + 1)[:, None, None]).all()


def test_batches_that_nobody_asks_for_any_more_end_their_threads() -> None:
    stream = Stream(seed=1, num_examples=SIZE, batch_size=4)
    endless = batches.train_batches(in_memory(samples()), stream, TRANSFORM)
    next(endless)
    endless.close()
    with pytest.raises(StopIteration):
        next(endless)
