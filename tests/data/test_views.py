"""Views as data: any number of them, of any size, against crops made one by one."""

import jax
import numpy as np
import pytest

import tiny_runs
from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.augment.boxes import random_resized_boxes
from byol_jax.data import crops, images, pipeline, sources
from byol_jax.data.images import ImageSet, Records
from byol_jax.data.views import Reading, Stream, View, check_views, requests, share

SEED = 3
TWO = (View(9), View(9, params=compose.AugmentParams(blur=0.1, solarize=0.2)))
# View 4 is cut from the box of view 3.
SMALL = {"area_range": (0.05, 0.3), "aspect_range": (0.5, 2.0)}
FOUR = (*TWO, View(5, **SMALL, params=compose.AugmentParams(rotate=0.5)), View(7, box_of=3))


@pytest.fixture(scope="module")
def array_set() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 13, 17, 3), np.uint8)
    return ImageSet("arrays", pixels, np.arange(20, dtype=np.int32), 20)


@pytest.fixture(scope="module")
def folder_set(tmp_path_factory) -> ImageSet:
    """JPEGs and PNGs of several sizes."""
    name = tiny_runs.write_folder(tmp_path_factory.mktemp("folder"), train=20)
    return sources.load(name, "train+valid")


@pytest.fixture(params=["array_set", "folder_set"])
def image_set(request) -> ImageSet:
    return request.getfixturevalue(request.param)


def batches(image_set: ImageSet, views, reading: Reading = Reading(), **changes):
    """Two batches of 12 of 20 images, the second of which spans two epochs."""
    stream = Stream(SEED, image_set.size, 12, stop=2)._replace(**changes)
    return list(pipeline.train_batches(image_set, stream, views, reading))


def assert_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].dtype == values.dtype
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def box_by_hand(number: int, i: int, epoch: int, height: int, width: int) -> np.ndarray:
    """The box of view `number` of `FOUR`."""
    number = 3 if number == 4 else number
    uniforms = keys.example_uniforms(SEED, "crop", i, epoch, number, 4)
    return random_resized_boxes(uniforms, height, width, **(SMALL if number == 3 else {}))


def window_around(image_set: ImageSet, i: int, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The pixels around all boxes of an image, decoded at once, and the boxes in there."""
    if isinstance(image_set.images, Records):
        data = image_set.images.read(i).data
        size = images.prepare(data).height, images.prepare(data).width
    else:
        size = image_set.images.shape[1:3]
    boxes = np.stack([box_by_hand(number, i, epoch, *size) for number in (1, 2, 3, 4)])
    y, x = boxes[:, :2].min(axis=0)
    end_y, end_x = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    if isinstance(image_set.images, Records):
        pixels = crops.decode(data, [y, x, end_y - y, end_x - x]).numpy()
    else:
        pixels = image_set.images[i, y:end_y, x:end_x]
    return pixels, [box - [y, x, 0, 0] for box in boxes]


def test_each_view_is_the_crop_of_its_own_box(image_set) -> None:
    for batch in batches(image_set, FOUR):
        assert batch.keys() == {*(f"view{n}" for n in (1, 2, 3, 4)), "labels", "ids", "epochs"}
        for row, (i, epoch) in enumerate(zip(batch["ids"], batch["epochs"], strict=True)):
            pixels, boxes = window_around(image_set, int(i), int(epoch))
            for number, (box, view) in enumerate(zip(boxes, FOUR, strict=True), start=1):
                expected = crops.place(pixels, crops.box_placement(box, view.size), view.size)
                actual = batch[f"view{number}"][row]
                assert actual.dtype == np.uint8
                np.testing.assert_array_equal(actual, expected, err_msg=f"view {number} of {i}")


def test_further_views_change_none_before_them(image_set) -> None:
    for two, four in zip(batches(image_set, TWO), batches(image_set, FOUR), strict=True):
        assert_equal({name: four[name] for name in two}, two)


def test_processes_share_the_views_of_a_batch(image_set) -> None:
    whole = batches(image_set, FOUR)
    parts = [batches(image_set, FOUR, process=(index, 3)) for index in range(3)]
    for batch, *slices in zip(whole, *parts, strict=True):
        joined = {name: np.concatenate([part[name] for part in slices]) for name in batch}
        assert_equal(joined, batch)


def test_boxes_are_those_of_the_views(array_set) -> None:
    stream = Stream(SEED, 20, 12, stop=2)
    for batch in pipeline.train_boxes(array_set, stream, FOUR):
        for number in (1, 2, 3, 4):
            assert batch[f"box{number}"].dtype == np.int32
            expected = [
                box_by_hand(number, i, epoch, 13, 17)
                for i, epoch in zip(batch["ids"], batch["epochs"], strict=True)
            ]
            np.testing.assert_array_equal(batch[f"box{number}"], expected)


def test_example_views_are_those_of_the_run(image_set) -> None:
    batch = batches(image_set, FOUR)[1]
    ids, epochs = (batch[name].astype(np.int64) for name in ("ids", "epochs"))
    assert_equal(pipeline.example_views(image_set, ids, epochs, SEED, FOUR), batch)


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.ci), 4])
def test_each_view_is_augmented_with_its_own_column_on_the_host(folder_set, count) -> None:
    """The same crops through the operations of the device; two builds of XLA round differently."""
    views = FOUR[:count]
    key = keys.named_key(SEED, "augment")
    augmented = jax.jit(compose.make_views, static_argnames="view")
    on_host = batches(folder_set, views, Reading(on_host=True), stop=1)
    for host, device in zip(on_host, batches(folder_set, views, stop=1), strict=True):
        for number, view in enumerate(views, start=1):
            given = device[f"view{number}"], device["ids"], device["epochs"], key
            params = jax.tree.map(np.float32, view.params)
            expected = augmented(*given, view=number, params=params)
            actual = host[f"view{number}"]
            assert actual.shape == expected.shape and actual.dtype == np.float32
            # Solarization may take a pixel at its threshold to the other side.
            assert np.mean(np.abs(actual - expected) > 2e-5) < 1e-3


def test_scaled_decoding_keeps_each_crop_larger_than_its_own_view() -> None:
    """The crop of 40 pixels can be halved twice for a view of 10, not at all for one of 21."""
    window = [0, 0, 40, 40]
    placements = np.stack(
        [
            [crops.box_placement(np.array(window), size) for size in sizes]
            for sizes in ((10, 10), (10, 20), (21, 10))
        ]
    )
    assert crops.halvings(placements).tolist() == [2, 1, 0]


def test_a_stream_without_an_end() -> None:
    endless = requests(Stream(SEED, 20, 12, start=5))
    limited = [*requests(Stream(SEED, 20, 12, start=5, stop=8))]
    for expected in limited:
        np.testing.assert_array_equal(next(endless), expected)
    assert len(limited) == 3 and next(endless).ids.size == 12


def test_shares_of_micro_batches() -> None:
    """Micro-batches of 6 for three processes: two positions of each."""
    stream = Stream(SEED, 20, 12, micro_batches=2, process=(1, 3))
    assert share(stream).tolist() == [2, 3, 8, 9]


@pytest.mark.parametrize("box_of", [0, 3, 2])
def test_a_box_must_be_that_of_another_view(box_of: int) -> None:
    with pytest.raises(AssertionError, match="box_of"):
        check_views((View(9), View(9, box_of=box_of)))
