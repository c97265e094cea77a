"""The time of each stage of the input pipeline, from a JPEG file to two views.

    taskset -c 1 .venv/bin/python benchmarks/input_profile.py --jpegs=FOLDER

Each stage runs by itself, one image after the other. The table has its processor time in
milliseconds per image and as a share of the total. The last line is the time to decode each view by
itself, for comparison with decoding once. `bench.py` measures the whole pipeline.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from byol_jax.data import crops, images, pipeline, sources, tensorflow
from byol_jax.data.views import Request, View


def milliseconds(part: Callable[[int], object], count: int) -> float:
    """Mean time per image over `count` images; the median of three rounds after a warm-up."""
    rounds = []
    for _ in range(4):
        start = time.process_time()
        for i in range(count):
            part(i)
        rounds.append((time.process_time() - start) / count * 1e3)
    return statistics.median(rounds[1:])


def main() -> None:
    """Measures all stages and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jpegs", required=True, help="a folder of JPEGs")
    parser.add_argument("--size", type=int, default=224, help="side of the views in pixels")
    parser.add_argument("--count", type=int, default=150, help="number of images")
    flags = parser.parse_args()
    tf = tensorflow.import_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    records = sources.load(f"folder:{flags.jpegs}", "train+valid+test").images
    assert isinstance(records, images.Records)
    count, size = min(flags.count, records.size), flags.size
    data = [records.read(i).data for i in range(count)]
    headers = [images.prepare(content) for content in data]
    heights = np.array([header.height for header in headers])
    widths = np.array([header.width for header in headers])
    views = (View(size), View(size))
    request = Request(np.arange(count), np.zeros(count, int))

    def place(rows: slice) -> np.ndarray:
        part = Request(request.ids[rows], request.epochs[rows])
        return pipeline.random_placements(part, heights[rows], widths[rows], 0, views)

    placements = place(slice(None))
    corners = placements[..., :2].min(axis=1)
    ends = (placements[..., :2] + placements[..., 2:4]).max(axis=1)
    windows = np.concatenate([corners, ends - corners], axis=-1)
    inside = placements.copy()
    inside[..., :2] -= corners[:, None]

    def decode(i: int, window: np.ndarray) -> np.ndarray:
        patch = tf.raw_ops.DecodeAndCropJpeg(contents=data[i], crop_window=window, channels=3)
        decoded: np.ndarray = patch.numpy()
        return decoded

    both = [decode(i, windows[i]) for i in range(count)]

    batch = 32  # boxes are drawn for this many images at a time
    parts: dict[str, Callable[[int], object]] = {
        "read": lambda i: records.read(i),
        "header": lambda i: images.prepare(data[i]),
        "boxes": lambda i: place(slice(i, i + batch)) if i % batch == 0 else None,
        "decode once": lambda i: decode(i, windows[i]),
        "resize twice": lambda i: [crops.place(both[i], box, size) for box in inside[i]],
    }
    times = {part: milliseconds(run, count) for part, run in parts.items()}
    whole = sum(times.values())
    twice = milliseconds(lambda i: [decode(i, box[:4]) for box in placements[i]], count)
    for part, time_ in {**times, "all": whole, "decode twice": twice}.items():
        print(f"{part:<14}{time_:>8.3f} ms{time_ / whole:>8.0%}")


if __name__ == "__main__":
    main()
