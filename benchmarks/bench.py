"""Speed of the hot paths, each beside a named alternative in the same run.

    make bench
    .venv/bin/python benchmarks/bench.py --depth=18 --size=32 --batch=64

- Update step, from a host batch to finished logs: what `train` runs (uint8 crops, augmentation on
  the device, state donated), in float32 and bfloat16 and with resident images, beside a plain one
  (one jit, nothing donated, float32 views made beforehand and sent from the host at every step, no
  augmentation at all) and, where torch is importable, one in plain PyTorch (`torch_step.py`).
  With the time to compile each, the memory that its program holds, and the share of the measured
  bandwidth of the memory that it would need to read and write what the compiler counts (more than
  100 % where caches serve).
- End to end: the loop of `train` on arrays, beside the authors' input for the plain step.
- Input: two uint8 views of each image, from arrays and from JPEG files, beside the authors' recipe
  (each view cropped, and of a JPEG decoded, by itself, and resized to float32).
- Linear evaluation: a step of five rates in one pass beside a step of one.

Only ratios of one run mean anything on a machine that does other work.
"""

import argparse
import functools
import os
import pathlib
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import steps
from PIL import Image

from byol_jax.augment import boxes
from byol_jax.data import background, images, pipeline, sources, tensorflow
from byol_jax.data.views import Stream, View, examples


def seconds_per_batch(
    makers: Mapping[str, Callable[[], Iterator[object]]], repeats: int
) -> dict[str, float]:
    """Seconds of a batch of each pipeline: the median of three turns, taken one after the other.

    A turn starts afresh and leaves out its first batches, which threads have made ahead.
    """
    turns: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(3):
        for name, make in makers.items():
            batches = make()
            for _ in range(6):
                next(batches)
            start = time.perf_counter()
            for _ in range(repeats):
                next(batches)
            turns[name].append((time.perf_counter() - start) / repeats)
            del batches
    return {name: statistics.median(times) for name, times in turns.items()}


def our_input(image_set: images.ImageSet, size: int, batch_size: int) -> background.Batches:
    """The pipeline that `train` runs, without an end."""
    stream = Stream(0, image_set.size, batch_size)
    return pipeline.train_batches(image_set, stream, (View(size), View(size)))


def array_recipe(size: int, batch_size: int, pixels: np.ndarray) -> Iterator[tuple[object, ...]]:
    """The authors' recipe for arrays, without an end: two float32 views, each cropped by itself."""
    tf = tensorflow.import_tensorflow()
    generator = np.random.default_rng(0)

    def crop(image: object, box: object) -> object:
        y, x, h, w = tf.unstack(box)
        patch = image[y : y + h, x : x + w]  # type: ignore[index]
        resized = tf.image.resize(patch, (size, size), "bicubic")
        return tf.clip_by_value(resized / 255.0, 0.0, 1.0)

    def views() -> object:
        uniforms = generator.random((len(pixels), 4))
        drawn = boxes.random_resized_boxes(uniforms, *pixels.shape[1:3])
        data = tf.data.Dataset.from_tensor_slices((pixels, drawn))
        return data.map(crop, num_parallel_calls=tf.data.AUTOTUNE)

    both = tf.data.Dataset.zip((views(), views())).repeat()
    # The last batch of an epoch would have another shape.
    batches = both.batch(batch_size, drop_remainder=True).prefetch(2)
    iterator: Iterator[tuple[object, ...]] = batches.as_numpy_iterator()
    return iterator


def array_seconds(source: int, size: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Seconds of one batch of two views of arrays, and of the authors' recipe for the same."""
    pixels = steps.random_images(4 * batch_size, source)
    image_set = images.ImageSet("random", pixels, np.zeros(len(pixels), np.int32), 1)
    ours = functools.partial(our_input, image_set, size, batch_size)
    recipe = functools.partial(array_recipe, size, batch_size, pixels)
    return seconds_per_batch({"ours": ours, "recipe": recipe}, repeats)


def jpeg_seconds(
    folder: str, size: int, batch_size: int, repeats: int
) -> tuple[dict[str, float], float]:
    """Seconds of one batch of two views of JPEG files, and of the authors' recipe; how they differ.

    Theirs decodes the window of each view by itself, bicubic, to float32 in [0, 1]. It is given the
    boxes that ours draws. The difference is the mean absolute one of the first batch's views.
    """
    image_set = sources.load(f"folder:{folder}", "train+valid+test")
    records = image_set.images
    assert isinstance(records, images.Records)
    paths = np.array([records.describe(i) for i in range(records.size)])
    request = examples(0, records.size, 0, (6 + repeats) * batch_size)
    headers = [images.prepare(records.read(i).data) for i in range(records.size)]
    heights, widths = (
        np.array([getattr(headers[i], side) for i in request.ids]) for side in ("height", "width")
    )
    placements = pipeline.random_placements(request, heights, widths, 0, (View(size), View(size)))

    def recipe() -> Iterator[dict[str, np.ndarray]]:
        tf = tensorflow.import_tensorflow()

        def view(data: object, box: object) -> object:
            patch = tf.image.decode_and_crop_jpeg(data, box, channels=3)
            resized = tf.image.resize(patch, (size, size), "bicubic")
            return tf.clip_by_value(resized / 255.0, 0.0, 1.0)

        def views(path: object, boxes: object) -> object:
            data = tf.io.read_file(path)
            return {f"view{v + 1}": view(data, boxes[v]) for v in (0, 1)}  # type: ignore[index]

        data = tf.data.Dataset.from_tensor_slices((paths[request.ids], placements[..., :4]))
        data = data.map(views, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)
        iterator: Iterator[dict[str, np.ndarray]] = data.as_numpy_iterator()
        return iterator

    ours = functools.partial(our_input, image_set, size, batch_size)
    first, theirs = next(ours()), next(recipe())
    difference = np.mean([abs(first[name] / 255 - theirs[name]) for name in ("view1", "view2")])
    return seconds_per_batch({"ours": ours, "recipe": recipe}, repeats), float(difference)


def write_jpegs(folder: pathlib.Path, count: int = 64) -> None:
    """Smooth random pictures of 375 x 500 pixels, about 100 kB each, as ImageNet's median is."""
    generator = np.random.default_rng(0)
    for i in range(count):
        coarse = generator.integers(0, 256, (48, 64, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noise = generator.normal(0, 12, (375, 500, 3))
        pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.jpg", quality=90)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", default="18")
    parser.add_argument("--size", type=int, default=32, help="side of the views in pixels")
    parser.add_argument("--source", type=int, default=64, help="side of the stored images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--jpegs", help="a folder of JPEGs for the input; by default made up")
    parser.add_argument("--jpeg_size", type=int, default=224, help="side of their views")
    flags = parser.parse_args()
    device = jax.devices()[0]
    print(
        f"{jax.device_count()} x {device.device_kind}, {platform.machine()}, "
        f"{os.cpu_count()} cores, jax {jax.__version__}; ResNet-{flags.depth}, {flags.size} px, "
        f"batch {flags.batch}; JPEGs to {flags.jpeg_size} px",
        flush=True,
    )
    print(f"{'what':<26}{'ours':>12}  {'alternative':<42}{'ratio':>6}")

    def show(what: str, ours: float, label: str, other: float) -> None:
        """A line of the table, from seconds a batch."""
        alternative = f"{label}: {flags.batch / other:.0f} img/s"
        rate = f"{flags.batch / ours:.0f} img/s"
        print(f"{what:<26}{rate:>12}  {alternative:<42}{other / ours:>6.2f}", flush=True)

    problem = steps.Problem(flags.depth, flags.size, flags.source, flags.batch)
    runs, compiled = steps.step_runs(problem)
    seconds = steps.medians(runs, flags.repeats)
    show("step, float32", seconds["float32"], "plain step, float32", seconds["plain"])
    for name in ("bfloat16", "resident"):
        show(f"step, {name}", seconds[name], "step, float32", seconds["float32"])
    for name in runs.keys() - compiled.keys():
        precision = name.rpartition(", ")[2]
        show(f"step, {precision}", seconds[name.rpartition(", ")[2]], name, seconds[name])
    recipe = functools.partial(array_recipe, flags.size, flags.batch)
    (_, ours), (label, other) = steps.loop_seconds(problem, recipe, flags.repeats).items()
    show("end to end, float32", ours, label, other)
    times = array_seconds(flags.source, flags.size, flags.batch, 100)
    show("input, arrays", times["ours"], "recipe", times["recipe"])
    with tempfile.TemporaryDirectory() as temporary:
        if not flags.jpegs:
            write_jpegs(pathlib.Path(temporary))
        jpegs = flags.jpegs or temporary
        times, difference = jpeg_seconds(jpegs, flags.jpeg_size, flags.batch, flags.repeats)
    show("input, JPEGs", times["ours"], "recipe", times["recipe"])
    sweep = steps.sweep_seconds(flags.depth, flags.size, flags.batch, flags.repeats)
    show("linear, 5 rates", sweep["5 rates"], "1 rate", sweep["1 rate"])
    print(f"JPEGs: same boxes, views differ by {255 * difference:.2f}/255 on average")
    limit = steps.bandwidth(flags.repeats)
    print(f"memory of a device: {limit / 1e9:,.1f} GB/s, negating a large array")
    for name, step in compiled.items():
        rate = step.traffic / seconds[name]
        print(
            f"step, {name}: compiled in {step.seconds:.1f} s, "
            f"{step.memory / 2**20:,.0f} MiB a device while it runs; "
            f"{step.traffic / 1e9:.1f} GB read and written, {rate / limit:.0%} of that rate"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"all of this: at most {peak:,.0f} MiB of host memory")


if __name__ == "__main__":
    main()
