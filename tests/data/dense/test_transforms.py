"""Joint transforms of image and target against naive loops and hand-computed places."""

import math

import numpy as np
import pytest

from byol_jax.data.dense import resize, transforms
from byol_jax.data.dense.sets import VOID, Sample
from byol_jax.errors import UserError
from tiny_dense import picture

KEEP = 0.99  # a uniform number that flips nothing


def naive_bilinear(image: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """Each pixel from its four neighbours, in double precision."""
    height, width, _ = image.shape
    out = np.zeros((*to, 3))
    for i in range(to[0]):
        for j in range(to[1]):
            y, x = (i + 0.5) * height / to[0] - 0.5, (j + 0.5) * width / to[1] - 0.5
            for di in (0, 1):
                for dj in (0, 1):
                    weight = (1 - abs(y - math.floor(y) - di)) * (1 - abs(x - math.floor(x) - dj))
                    row = min(max(math.floor(y) + di, 0), height - 1)
                    column = min(max(math.floor(x) + dj, 0), width - 1)
                    out[i, j] += weight * image[row, column].astype(float)
    return out


def naive_nearest(target: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """Each pixel is the one in which the centre of its square lies."""
    height, width = target.shape
    out = np.zeros(to, target.dtype)
    for i in range(to[0]):
        for j in range(to[1]):
            row = math.floor((i + 0.5) * height / to[0])
            column = math.floor((j + 0.5) * width / to[1])
            out[i, j] = target[row, column]
    return out


@pytest.mark.parametrize("to", [(7, 9), (14, 18), (4, 5), (19, 11), (1, 1)])
def test_bilinear_is_that_of_half_pixel_centres(to) -> None:
    image = picture(0, 7, 9)
    out = np.zeros((*to, 3), np.uint8)
    resize.bilinear(image, out, (0, 0, 7, 9), to)
    # Rounded to whole levels; single precision is 3e-5 of 255 away at most.
    assert np.abs(out - naive_bilinear(image, to)).max() <= 0.5 + 1e-4


def test_halving_takes_means_of_four_pixels() -> None:
    image = picture(1, 6, 8)
    out = np.zeros((3, 4, 3), np.uint8)
    resize.bilinear(image, out, (0, 0, 6, 8), (3, 4))
    means = image.reshape(3, 2, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(out, np.rint(means))


@pytest.mark.parametrize("to", [(7, 9), (14, 18), (4, 5), (19, 11)])
def test_parts_of_a_resized_window_are_those_of_the_whole(to) -> None:
    image, target = picture(0, 12, 13), np.arange(12 * 13).reshape(12, 13)
    window, part, corner = (3, 2, 7, 9), (3, 2), (1, 3)
    whole = np.zeros((*to, 3), np.uint8)
    resize.bilinear(image[3:10, 2:11], whole, (0, 0, 7, 9), to)
    out = np.zeros((*part, 3), np.uint8)
    resize.bilinear(image, out, window, to, corner)
    np.testing.assert_array_equal(out, whole[1:4, 3:5])
    found = resize.nearest(target, part, window, to, corner)
    np.testing.assert_array_equal(found, naive_nearest(target[3:10, 2:11], to)[1:4, 3:5])


def sample_of(height: int, width: int) -> Sample:
    """A random image, and a mask of the classes 0 and 20 whose mean is class 10."""
    mask = np.random.default_rng(3).integers(0, 2, (height, width)).astype(np.uint8) * 20
    return Sample(picture(2, height, width), mask)


@pytest.mark.parametrize("uniform", [0.0, 0.1, 1 / 3, 0.6, 0.999])
def test_image_and_mask_are_scaled_and_cut_at_the_same_place(uniform) -> None:
    sample = sample_of(11, 14)
    params = transforms.Segmentation(crop=9)
    made = transforms.segmentation(params)(sample, np.array([uniform, 0.5, 0.7, KEEP]))
    ratio = 0.5 + 1.5 * uniform
    to = round(11 * ratio), round(14 * ratio)
    y, x = int(0.5 * (max(to[0] - 9, 0) + 1)), int(0.7 * (max(to[1] - 9, 0) + 1))
    image = np.broadcast_to(np.uint8([124, 116, 104]), (9, 9, 3)).astype(float)
    mask = np.full((9, 9), VOID)
    part = naive_bilinear(sample.image, to)[y : y + 9, x : x + 9]
    image[: part.shape[0], : part.shape[1]] = part
    mask[: part.shape[0], : part.shape[1]] = naive_nearest(sample.target, to)[y : y + 9, x : x + 9]
    assert made.image.shape == (9, 9, 3) and made.image.dtype == np.uint8
    assert np.abs(made.image - image).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(made.target, mask)
    assert made.target.dtype == np.uint8


def interpolated(target, size, window, to, corner=(0, 0)):
    """The mutation: labels resized as images are."""
    del window
    grey = np.repeat(target[..., None], 3, axis=-1)
    whole = np.rint(naive_bilinear(grey, to))[..., 0]
    part = whole[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    return part.astype(target.dtype)


def test_no_resizing_makes_a_class_that_the_mask_has_not(monkeypatch) -> None:
    sample = sample_of(11, 14)
    crop = transforms.segmentation(transforms.Segmentation(crop=9))

    def classes() -> set[int]:
        drawn = np.random.default_rng(0).random((20, 4))
        return {int(k) for uniforms in drawn for k in np.unique(crop(sample, uniforms).target)}

    assert classes() == {0, 20, VOID}
    monkeypatch.setattr(resize, "nearest", interpolated)
    assert not classes() <= {0, 20, VOID}  # labels that are resized bilinearly are seen


def test_a_flip_mirrors_image_mask_and_padding() -> None:
    crop = transforms.segmentation(transforms.Segmentation(crop=21))
    plain = crop(sample_of(11, 14), np.array([0.3, 0, 0, 0.5]))
    mirrored = crop(sample_of(11, 14), np.array([0.3, 0, 0, 0.49]))
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.target, plain.target[:, ::-1])
    assert (plain.target[:, -1] == VOID).all() and (plain.target[0, :13] != VOID).all()


def test_ratios_are_uniform_or_in_steps() -> None:
    uniform, steps = transforms.Segmentation(), transforms.Segmentation(scale_step=0.25)
    drawn = (np.arange(700) + 0.5) / 700
    assert transforms.ratio(0.0, uniform) == 0.5
    assert transforms.ratio(0.5, uniform) == 1.25
    found, counts = np.unique([transforms.ratio(u, steps) for u in drawn], return_counts=True)
    assert found.tolist() == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert counts.tolist() == [100] * 7


def test_the_whole_image_is_padded_with_void_and_a_larger_one_is_cut_at_its_centre() -> None:
    sample = sample_of(11, 14)
    seen = transforms.whole((17, 17))(sample)
    assert seen.window == (0, 0, 11, 14)
    np.testing.assert_array_equal(seen.image[:11, :14], sample.image)
    np.testing.assert_array_equal(seen.target[:11, :14], sample.target)
    assert (seen.target[11:] == VOID).all() and (seen.target[:, 14:] == VOID).all()
    assert (seen.image[11:] == [124, 116, 104]).all()
    cut = transforms.whole((9, 17))(sample)
    assert cut.window == (1, 0, 9, 14)
    np.testing.assert_array_equal(cut.image[:, :14], sample.image[1:10])
    np.testing.assert_array_equal(cut.target[:, :14], sample.target[1:10])


def test_canvases_are_multiples_of_the_stride_plus_one() -> None:
    assert transforms.canvas_of((500, 500), 16) == (513, 513)
    assert transforms.canvas_of((360, 480), 16) == (369, 481)
    assert transforms.canvas_of((513, 497), 16) == (513, 497)


@pytest.mark.parametrize(("side", "words"), [(512, "497 or 513"), (514, "513 or 529"), (1, "17")])
def test_a_crop_that_is_no_multiple_plus_one_names_two_that_are(side, words) -> None:
    transforms.check_crop(513, 16, "config.crop")
    with pytest.raises(UserError, match=f"config.crop={side} .*give .*{words}"):
        transforms.check_crop(side, 16, "config.crop")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale_range": (0.0, 2.0)}, "scale_range"),
        ({"scale_range": (2.0, 1.0)}, "scale_range"),
        ({"scale_step": 1.6}, "scale_step=1.6 must be from 0 to 1.5"),
        ({"scale_step": -0.1}, "scale_step"),
        ({"flip": 1.1}, "flip"),
    ],
)
def test_crops_that_cannot_be_drawn_are_refused(changes, words) -> None:
    transforms.check_segmentation(transforms.Segmentation(), "config.augment")
    with pytest.raises(UserError, match=rf"config\.augment\.{words}"):
        transforms.check_segmentation(transforms.Segmentation(**changes), "config.augment")


def depth_sample(height: int = 480, width: int = 640) -> Sample:
    """A random frame, and a depth that tells each pixel."""
    metres = np.arange(height * width, dtype=np.float32).reshape(height, width) / 1000
    return Sample(picture(4, height, width), metres)


def test_a_frame_is_halved_and_its_centre_is_kept() -> None:
    sample = depth_sample()
    made = transforms.depth(transforms.Depth())(sample, np.array([0, 0, 0, KEEP]))
    assert transforms.depth_window((480, 640), transforms.Depth()) == (12, 16, 456, 608)
    halved = sample.image.reshape(240, 2, 320, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(made.image, np.rint(halved[6:234, 8:312]))
    assert made.target.shape == (128, 160) and made.target.dtype == np.float32
    # Row i of the output has its centre in row (i + 1/2) 456 / 128 of the window.
    rows = [12 + math.floor((i + 0.5) * 456 / 128) for i in range(128)]
    columns = [16 + math.floor((j + 0.5) * 608 / 160) for j in range(160)]
    np.testing.assert_array_equal(made.target, sample.target[rows][:, columns])


def test_holes_of_depth_do_not_spread() -> None:
    sample = depth_sample()
    sample.target[::2] = 0
    made = transforms.depth(transforms.Depth())(sample, np.array([0, 0, 0, KEEP]))
    assert {*made.target.ravel().tolist()} <= {*sample.target.ravel().tolist()}
    assert 0.4 < (made.target == 0).mean() < 0.6


def test_a_flipped_frame_has_a_flipped_target() -> None:
    sample, apply = depth_sample(), transforms.depth(transforms.Depth())
    plain, mirrored = (apply(sample, np.array([0, 0, 0, u])) for u in (KEEP, 0.1))
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.target, plain.target[:, ::-1])


def test_an_evaluation_sees_the_crop_and_the_depth_of_the_whole_frame() -> None:
    sample = depth_sample()
    seen = transforms.depth_whole(transforms.Depth())(sample)
    made = transforms.depth(transforms.Depth())(sample, np.array([0, 0, 0, KEEP]))
    np.testing.assert_array_equal(seen.image, made.image)
    np.testing.assert_array_equal(seen.target, sample.target)
    assert seen.window == (12, 16, 456, 608)


@pytest.mark.parametrize(
    ("shape", "window"),
    [((240, 320), (6, 8, 228, 304)), ((480, 720), (12, 56, 456, 608)), ((3, 4), (0, 0, 3, 4))],
)
def test_frames_of_other_sizes_are_cut_to_the_same_shares(shape, window) -> None:
    assert transforms.depth_window(shape, transforms.Depth()) == window
    made = transforms.depth(transforms.Depth())(depth_sample(*shape), np.array([0, 0, 0, KEEP]))
    assert made.image.shape == (228, 304, 3) and made.target.shape == (128, 160)
