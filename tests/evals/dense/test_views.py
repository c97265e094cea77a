"""What a network sees of an image of any size, and back to that size."""

import numpy as np
import pytest

from byol_jax.data.dense import transforms
from byol_jax.evals.dense import views
from tiny_dense import picture


def test_an_image_lies_at_the_top_left_of_a_canvas():
    image = picture(0, 100, 130)
    seen = views.for_segmentation(image, 1000)
    assert seen.pixels.shape == (129, 257, 3)
    np.testing.assert_array_equal(seen.pixels[:100, :130], image)
    assert (seen.pixels[100:] == transforms.PAD).all()
    classes = np.arange(129 * 257).reshape(129, 257).astype(np.uint8)
    np.testing.assert_array_equal(views.classes_of(classes, seen), classes[:100, :130])


def test_a_large_image_is_made_smaller_and_its_mask_larger_again():
    image = np.repeat(np.repeat(picture(0, 50, 64), 4, 0), 4, 1)
    seen = views.for_segmentation(image, 64)
    assert (seen.shown, seen.size) == ((50, 64), (200, 256))
    assert seen.pixels.shape == (129, 129, 3)
    classes = np.random.default_rng(0).integers(0, 9, (129, 129)).astype(np.uint8)
    found = views.classes_of(classes, seen)
    np.testing.assert_array_equal(found, classes[:50, :64].repeat(4, 0).repeat(4, 1))


FRAMES = transforms.Depth(frame=(24, 32), crop=(12, 16), target=(3, 4))


@pytest.mark.parametrize("eval_crop", ["crop", "stretch"])
def test_depths_of_the_centre(eval_crop):
    """Of 48 x 64 the centre of 24 x 32 is seen."""
    seen = views.for_depth(picture(0, 48, 64), FRAMES)
    assert seen.pixels.shape == (12, 16, 3)
    assert seen.box == (12, 16, 24, 32)
    found = views.depths_of(np.full((3, 4), 2.5, np.float32), seen, eval_crop)
    assert found.dtype == np.float32
    assert found.shape == (48, 64)
    inside = np.zeros((48, 64), bool)
    inside[12:36, 16:48] = True
    np.testing.assert_allclose(found[inside], 2.5)
    np.testing.assert_allclose(found[~inside], 2.5 if eval_crop == "stretch" else 0)
