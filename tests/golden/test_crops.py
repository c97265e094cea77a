"""Crops against the authors' code: windows, decoded pixels, resizing, and their distribution."""

import numpy as np
import pytest

import golden_data
from byol_jax.augment import byol, compose
from byol_jax.data import bicubic, crops, host_views, images, pipeline, reader
from byol_jax.data.views import Request, View

SIZE = 224
# Crops reach the device as uint8: half a grey level beside the golden float.
HALF_LEVEL = 0.5 / 255
LARGEST_DISTANCE, LARGEST_FRACTION = 0.024, 0.02
# Every probability 0: what is left of T is the crop.
IDENTITY = compose.AugmentParams(flip=0, color_jitter=0, grayscale=0, blur=0, solarize=0)


def crop_records() -> images.ImageSet:
    """The golden JPEGs as a set of stored images."""
    golden = golden_data.load("crop")
    data = [golden.arrays[f"{case['index']}/jpeg"].tobytes() for case in golden.meta["images"]]
    labels = np.arange(len(data), dtype=np.int32)
    records = images.Records(
        len(data), lambda i: images.Encoded(data[i], i), lambda i: f"golden {i}", lambda: labels
    )
    return images.ImageSet("golden", records, labels, len(data))


def float_crop(data: bytes, window: np.ndarray) -> np.ndarray:
    """A window, resized and clipped, as float32 in [0, 1], before it is rounded to uint8."""
    placement = crops.box_placement(np.array([0, 0, *window[2:]], np.int32), SIZE)
    patch = crops.decode(data, window).numpy()
    values = crops.place(patch, placement, SIZE, dtype=np.float32)
    return np.clip(values / np.float32(255), 0, 1)


def test_complete() -> None:
    golden_data.check_complete("crop")
    golden_data.check_complete("crop_stats")


def test_windows_decoding_and_resizing() -> None:
    golden = golden_data.load("crop")
    results: golden_data.Results = {}
    for case in golden.meta["images"]:
        prefix = str(case["index"])
        data = golden.arrays[f"{prefix}/jpeg"].tobytes()
        header = images.prepare(data)
        assert (header.height, header.width) == (case["height"], case["width"])
        window = crops.center_placement(header.height, header.width, SIZE, "released")[:4]
        assert tuple(window) == crops.released_window(header.height, header.width)
        random = float_crop(data, golden.arrays[f"{prefix}/random_window"])
        results |= {
            f"{prefix}/center_window": window,
            f"{prefix}/center_crop_u8": crops.decode(data, window).numpy(),
            f"{prefix}/eval_224": float_crop(data, window),
            f"{prefix}/random_224_strided": random[::4, ::4],
            f"{prefix}/random_224_mean_std": np.stack(
                [random.mean((0, 1), np.float64), random.std((0, 1), np.float64)]
            ),
        }
    for key in golden_data.compared_keys(golden, "resize/"):
        image = golden.arrays[f"{key.rpartition('/')[0]}/in_u8"]
        results[key] = np.empty(golden.arrays[key].shape, np.float32)
        bicubic.resize(image, results[key])
    sizes = golden.arrays["window_table/size_hw"]
    windows = [np.array(crops.released_window(h, w)) for h, w in sizes.tolist()]
    results["window_table/window_yxhw"] = np.stack(windows)
    golden_data.check(golden, results, golden_data.compared_keys(golden), "eager")


def test_evaluation_crops_of_the_pipeline() -> None:
    golden = golden_data.load("crop")
    (batch,) = pipeline.evaluation_batches(
        crop_records(), image_size=SIZE, mode="released", batch_size=8
    )
    tolerance = golden_data.specifications("crop")[r"\d/eval_224"]["tolerance"]
    for i, image in zip(batch["ids"], batch["images"], strict=True):
        error = np.abs(np.float32(image) / 255 - golden.arrays[f"{i}/eval_224"]).max()
        assert error <= HALF_LEVEL + tolerance


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["device", "host"])
def test_random_crops_in_both_placements(placement: str) -> None:
    golden = golden_data.load("crop")
    image_set = crop_records()

    def windows(request: Request, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        boxes = [[golden.arrays[f"{i}/random_window"]] * 2 for i in request.ids]
        return crops.box_placement(np.array(boxes, np.int32), SIZE)

    plan = reader.Plan(image_set, (SIZE, SIZE), windows, exif=False, seed=0)
    ids = np.arange(image_set.size)
    on_host = host_views.augmentation(0, (IDENTITY, IDENTITY)) if placement == "host" else None
    (batch,) = reader.crop(plan, iter([Request(ids, np.zeros_like(ids))]), on_host)
    tolerance = golden_data.specifications("crop")[r"\d/random_224_strided"]["tolerance"]
    for view in ("view1", "view2"):
        views = batch[view]
        if placement == "device":
            assert views.dtype == np.uint8
            views = byol.normalize(byol.to_float(views))
        views = np.asarray(byol.denormalize(views))
        for i, image in enumerate(views):
            error = np.abs(image[::4, ::4] - golden.arrays[f"{i}/random_224_strided"]).max()
            assert error <= HALF_LEVEL + tolerance, f"{placement} {view} {i}"


def test_distribution_of_random_windows() -> None:
    """The pipeline's own windows of 20,000 examples, view 1."""
    golden = golden_data.load("crop_stats")
    levels, count = golden.arrays["quantile_levels"], golden.meta["draws"]
    sizes = dict.fromkeys(key.partition("/")[0] for key in golden.arrays if "/" in key)
    for size, meta in zip(sizes, golden.meta["sizes"], strict=True):
        height, width = map(int, size.split("x"))
        ids = np.arange(count)
        placements = pipeline.random_placements(
            Request(ids, np.zeros_like(ids)),
            np.full(count, height),
            np.full(count, width),
            0,
            (View(SIZE),),
        )
        y, x, h, w = placements[:, 0, :4].astype(np.float64).T
        free_y, free_x = height - h, width - w
        features = {
            "height": h,
            "width": w,
            "area_fraction": h * w / (height * width),
            "aspect_w_over_h": w / h,
            "offset_y": y,
            "offset_x": x,
            "offset_y_fraction": (y / np.maximum(free_y, 1))[free_y > 0],
            "offset_x_fraction": (x / np.maximum(free_x, 1))[free_x > 0],
        }
        for name, sample in features.items():
            quantiles = golden.arrays[f"{size}/quantiles/{name}"]
            distance = golden_data.distance(sample, quantiles, levels)
            assert distance <= LARGEST_DISTANCE, f"{size} {name}: {distance}"
        for name, sample, limits in (
            ("area_fraction", features["area_fraction"], (0, 1)),
            ("log_aspect", np.log(features["aspect_w_over_h"]), (-1, 1)),
        ):
            theirs = golden.arrays[f"{size}/hist_{name}"]
            ours, _ = np.histogram(sample, len(theirs), limits)
            distance = np.abs(np.cumsum(ours - theirs)).max() / count
            assert distance <= LARGEST_DISTANCE, f"{size} {name}: {distance}"
        for name, share in (
            ("fraction_full_height", np.mean(h == height)),
            ("fraction_full_width", np.mean(w == width)),
        ):
            assert abs(share - meta[name]) <= LARGEST_FRACTION, f"{size} {name}"
        correlation = np.corrcoef(features["area_fraction"], np.log(features["aspect_w_over_h"]))
        # Seven standard errors of the difference of two correlations of `count` draws.
        assert abs(correlation[0, 1] - meta["corr_area_logaspect"]) <= 7 * (2 / count) ** 0.5
