"""The measures of a split by hand: what counts, and what does not."""

import numpy as np
import pytest

from byol_jax.data.dense import transforms
from byol_jax.data.dense.sets import Sample
from byol_jax.dense import segmentation
from byol_jax.errors import UserError
from byol_jax.evals.dense import measure
from tiny_dense import in_memory, picture

VOID = segmentation.VOID


def masks(*targets):
    targets = [np.array(target, np.uint8) for target in targets]
    return in_memory([Sample(picture(i, *t.shape), t) for i, t in enumerate(targets)])


def by_image(dense_set, answers, transform):
    """Outputs that know the images by their pixels."""
    known = {
        transform(dense_set.read(i)).image.tobytes(): answer for i, answer in enumerate(answers)
    }

    def predict(images):
        blank = np.zeros_like(answers[0])
        return np.stack([known.get(image.tobytes(), blank) for image in images])

    return predict


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_miou_of_two_images_of_other_sizes(batch_size):
    """One matrix of all pixels; class 2 is predicted and never true, void and padding are out."""
    dense_set = masks([[0, 0, 1], [VOID, 1, 1]], [[0, 0]])
    whole = transforms.whole((3, 3))
    answers = [
        np.array([[0, 1, 1], [2, 1, 2], [2, 2, 2]], np.uint8),
        np.array([[0, 0, 1], [1, 1, 1], [1, 1, 1]], np.uint8),
    ]
    predict = by_image(dense_set, answers, whole)
    result = measure.segmentation_scores(predict, dense_set, whole, measure.Reading(batch_size))
    # Class 0: 3 right, 0 wrongly said, 1 missed. Class 1: 2 right, 1 wrongly said, 1 missed.
    values = {name: value.value for name, value in result.values.items()}
    assert values["mIoU"] == pytest.approx(100 * (3 / 4 + 2 / 4) / 2)
    assert values["pixel_accuracy"] == pytest.approx(100 * 5 / 7)
    assert values["mean_accuracy"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert result.values["mIoU"].unit == "percent"
    assert result.images == 2
    assert result.details["class_iou"] == {"0": 75.0, "1": 50.0, "2": None}
    assert result.details["mean_iou_of_predicted"] == pytest.approx(100 * (3 / 4 + 2 / 4) / 3)


def test_a_split_of_void_alone_is_refused():
    dense_set = masks([[VOID, VOID]])
    whole = transforms.whole((2, 2))
    with pytest.raises(UserError, match="no pixel that is scored has a class"):
        measure.segmentation_scores(
            lambda images: np.zeros(images.shape[:3], np.uint8),
            dense_set,
            whole,
            measure.Reading(1),
        )


FRAMES = transforms.Depth(frame=(4, 4), crop=(2, 2), target=(1, 1))


def depths(*targets):
    targets = [np.array(target, np.float32) for target in targets]
    samples = [Sample(picture(i, *t.shape), t) for i, t in enumerate(targets)]
    return in_memory(samples, "depth")


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_depth_inside_the_crop_and_stretched(batch_size):
    """Frames of 4 x 4 whose centre of 2 x 2 is seen; one pixel of it has no depth."""
    frame = np.full((4, 4), 2.0)
    frame[1:3, 1:3] = [[1, 0], [4, 1]]
    dense_set = depths(frame, np.full((4, 4), 1.0))
    answers = [np.full((1, 1), 2, np.float32), np.full((1, 1), 1, np.float32)]
    whole = transforms.depth_whole(FRAMES)
    predict = by_image(dense_set, answers, whole)

    def scored(eval_crop):
        reading = measure.Reading(batch_size)
        return measure.depth_scores(predict, dense_set, whole, reading, eval_crop)

    # Errors of the seven pixels: 1, -2, 1 and four of 0.
    crop = scored("crop")
    assert crop.details == {"pixels": 7}
    assert crop.values["rms"] == (pytest.approx((6 / 7) ** 0.5), "m")
    assert crop.values["rel"] == (pytest.approx((1 + 0.5 + 1) / 7), "1")
    assert crop.values["pct1.25"] == (pytest.approx(100 * 4 / 7), "percent")
    assert crop.values["pct1.25^3"] == (pytest.approx(100 * 4 / 7), "percent")  # 2 > 1.25^3
    assert crop.values["log10"] == (pytest.approx(3 * np.log10(2) / 7), "1")
    # All 31 pixels with a depth, of which the others are right.
    stretch = scored("stretch")
    assert stretch.details == {"pixels": 31}
    assert stretch.values["rms"].value == pytest.approx((6 / 31) ** 0.5)
    assert stretch.images == crop.images == 2


def test_an_example_that_cannot_be_read_is_left_out():
    dense_set = masks(*[[[0, 1]]] * 8)

    def read(i):
        if i == 3:
            raise OSError("torn")
        return Sample(picture(i, 1, 2), np.array([[0, 1]], np.uint8))

    whole = transforms.whole((2, 2))
    result = measure.segmentation_scores(
        lambda images: np.zeros(images.shape[:3], np.uint8),
        dense_set._replace(read=read),
        whole,
        measure.Reading(3),
    )
    assert result.images == 7
    assert result.values["mIoU"].value == pytest.approx(25)


def test_examples_are_from_all_over_a_split():
    dense_set = masks(*[[[k % 3]] for k in range(20)])
    found = measure.examples(
        lambda images: images[..., 0], dense_set, transforms.whole((1, 1)), measure.Reading(3), 4
    )
    assert [int(target[0, 0]) for _, target, _, _ in found] == [k % 3 for k in (0, 6, 12, 19)]
