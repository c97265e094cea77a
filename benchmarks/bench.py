"""Speed of the hot paths, each beside a named alternative that is measured in the same run.

    make bench
    .venv/bin/python benchmarks/bench.py --depth=18 --size=32 --batch=64
    .venv/bin/python benchmarks/bench.py --only logs --depth=tiny --size=8 --batch=512

- Update step, from a host batch to finished logs: the step of `train` (uint8 crops, augmentation on
  the device, state donated) in float32, in bfloat16 and with resident images. Beside it is a plain
  step (one jit, nothing donated, no augmentation; float32 views are made beforehand and sent from
  the host at every step) and, if torch can be imported, a step in plain PyTorch (`torch_step.py`).
  For each program: the time to compile it, the memory it holds, and the bandwidth that the
  compiler's count of bytes would need, as a share of the measured one (above 100 % if caches help).
- End to end: the loop of `train` on arrays, beside the authors' input pipeline with the plain step.
- Health logs: the loop of `train` on arrays, with and without the logs that need no label
  (`embedding_rank`, `alignment`, `uniformity`), as the pages log and with a log of each step. The
  step of the alternative returns no embeddings, and the host computes nothing of them.
- Input: two uint8 views per image, from arrays and from JPEG files, beside the authors' recipe:
  each view is cropped by itself, from a JPEG also decoded by itself, and resized to float32.
- Linear evaluation: a step with five rates in one pass, beside a step with one rate.

On a machine that does other work, only ratios within one run are meaningful.
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
from typing import NamedTuple

import health_logs
import jax
import numpy as np
import steps
from PIL import Image

from byol_jax import update
from byol_jax.augment import boxes
from byol_jax.data import background, images, pipeline, sources, tensorflow
from byol_jax.data.views import Stream, View, examples


def seconds_per_batch(
    makers: Mapping[str, Callable[[], Iterator[object]]], repeats: int
) -> dict[str, float]:
    """Seconds per batch for each pipeline: the median of three rounds, in which they take turns.

    Each round starts the pipeline again, and leaves out the first batches, which threads prepare in
    advance.
    """
    rounds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(3):
        for name, make in makers.items():
            batches = make()
            for _ in range(6):
                next(batches)
            start = time.perf_counter()
            for _ in range(repeats):
                next(batches)
            rounds[name].append((time.perf_counter() - start) / repeats)
            del batches
    return {name: statistics.median(times) for name, times in rounds.items()}


def package_input(image_set: images.ImageSet, size: int, batch_size: int) -> background.Batches:
    """The pipeline that `train` runs, without end."""
    stream = Stream(0, image_set.size, batch_size)
    return pipeline.train_batches(image_set, stream, (View(size), View(size)))


def array_recipe(size: int, batch_size: int, pixels: np.ndarray) -> Iterator[tuple[object, ...]]:
    """The authors' recipe for arrays, without end: two float32 views, each cropped by itself."""
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
    """Seconds per batch of two views from arrays, here and with the authors' recipe."""
    pixels = steps.random_images(4 * batch_size, source)
    image_set = images.ImageSet("random", pixels, np.zeros(len(pixels), np.int32), 1)
    package = functools.partial(package_input, image_set, size, batch_size)
    recipe = functools.partial(array_recipe, size, batch_size, pixels)
    return seconds_per_batch({"package": package, "recipe": recipe}, repeats)


def jpeg_seconds(
    folder: str, size: int, batch_size: int, repeats: int
) -> tuple[dict[str, float], float]:
    """Seconds per batch of two views from JPEG files, here and with the authors' recipe.

    The recipe decodes the window of each view by itself and resizes it with bicubic interpolation
    to float32 in [0, 1]. Both use the same boxes.

    Returns:
      Seconds by name, and the mean absolute difference between the views of the first batch.
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

    package = functools.partial(package_input, image_set, size, batch_size)
    first, expected = next(package()), next(recipe())
    difference = np.mean([abs(first[name] / 255 - expected[name]) for name in ("view1", "view2")])
    return seconds_per_batch({"package": package, "recipe": recipe}, repeats), float(difference)


def write_jpegs(folder: pathlib.Path, count: int = 64) -> None:
    """Smooth random pictures of 375 x 500 pixels and about 100 kB each, ImageNet's median size."""
    generator = np.random.default_rng(0)
    for i in range(count):
        coarse = generator.integers(0, 256, (48, 64, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noise = generator.normal(0, 12, (375, 500, 3))
        pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.jpg", quality=90)


class Bench(NamedTuple):
    """What the parts of the benchmark share.

    Attributes:
      flags: the command line.
      problem: network and images of the updates.
    """

    flags: argparse.Namespace
    problem: steps.Problem

    def show(self, title: str, seconds: float, label: str, alternative: float) -> None:
        """Prints a line of the table from the seconds per batch of both."""
        batch = self.problem.batch_size
        words = f"{label}: {batch / alternative:.0f} img/s"
        rate = f"{batch / seconds:.0f} img/s"
        print(f"{title:<26}{rate:>12}  {words:<42}{alternative / seconds:>6.2f}", flush=True)


# Each part prints lines of the table, and returns what is printed below it.


def bench_step(bench: Bench) -> list[str]:
    """The update step."""
    runs, compiled = steps.step_runs(bench.problem)
    seconds = steps.medians(runs, bench.flags.repeats)
    bench.show("step, float32", seconds["float32"], "plain step, float32", seconds["plain"])
    for name in ("bfloat16", "resident"):
        bench.show(f"step, {name}", seconds[name], "step, float32", seconds["float32"])
    for name in runs.keys() - compiled.keys():
        precision = name.rpartition(", ")[2]
        bench.show(f"step, {precision}", seconds[precision], name, seconds[name])
    limit = steps.bandwidth(bench.flags.repeats)
    lines = [f"memory of a device: {limit / 1e9:,.1f} GB/s while it negates a large array"]
    for name, step in compiled.items():
        rate = step.traffic / seconds[name]
        lines.append(
            f"step, {name}: compiled in {step.seconds:.1f} s, "
            f"{step.memory / 2**20:,.0f} MiB per device while it runs; "
            f"{step.traffic / 1e9:.1f} GB read and written, {rate / limit:.0%} of that rate"
        )
    return lines


def bench_loop(bench: Bench) -> list[str]:
    """The training loop."""
    recipe = functools.partial(array_recipe, bench.problem.size, bench.problem.batch_size)
    seconds = steps.loop_seconds(bench.problem, recipe, bench.flags.repeats)
    (_, loop), (label, alternative) = seconds.items()
    bench.show("end to end, float32", loop, label, alternative)
    return []


def bench_logs(bench: Bench) -> list[str]:
    """The training loop with and without health logs."""
    loops, shape = health_logs.cost(bench.problem, bench.flags.repeats)
    for every, seconds in loops.items():
        title = f"health logs, {'each step' if every == 1 else f'every {every}'}"
        bench.show(title, seconds["with"], "without them", seconds["without"])
    # The other one is that of ResNet-50 in large batches.
    shapes = (shape, (update.NUM_EMBEDDINGS, 2048))
    of_shapes = health_logs.host_seconds(shapes, bench.flags.repeats)
    words = [f"{1e3 * s:.1f} ms for {n} images of {d} numbers" for (n, d), s in of_shapes.items()]
    return [f"a health log on the host: {', '.join(words)}"]


def bench_input(bench: Bench) -> list[str]:
    """The input from arrays and from JPEG files."""
    flags, batch = bench.flags, bench.problem.batch_size
    times = array_seconds(bench.problem.source, bench.problem.size, batch, 100)
    bench.show("input, arrays", times["package"], "recipe", times["recipe"])
    with tempfile.TemporaryDirectory() as temporary:
        if not flags.jpegs:
            write_jpegs(pathlib.Path(temporary))
        jpegs = flags.jpegs or temporary
        times, difference = jpeg_seconds(jpegs, flags.jpeg_size, batch, flags.repeats)
    bench.show("input, JPEGs", times["package"], "recipe", times["recipe"])
    return [f"JPEGs: same boxes, views differ by {255 * difference:.2f}/255 on average"]


def bench_linear(bench: Bench) -> list[str]:
    """Linear evaluation."""
    depth, size, _, batch = bench.problem
    sweep = steps.sweep_seconds(depth, size, batch, bench.flags.repeats)
    bench.show("linear, 5 rates", sweep["5 rates"], "1 rate", sweep["1 rate"])
    return []


PARTS = {
    "step": bench_step,
    "loop": bench_loop,
    "logs": bench_logs,
    "input": bench_input,
    "linear": bench_linear,
}


def main() -> None:
    """Runs the parts of the benchmark and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="some parts")
    parser.add_argument("--depth", default="18")
    parser.add_argument("--size", type=int, default=32, help="side of the views in pixels")
    parser.add_argument("--source", type=int, default=64, help="side of the stored images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--jpegs", help="a folder of JPEGs for the input; by default generated ones"
    )
    parser.add_argument("--jpeg_size", type=int, default=224, help="side of the views from JPEGs")
    flags = parser.parse_args()
    device = jax.devices()[0]
    print(
        f"{jax.device_count()} x {device.device_kind}, {platform.machine()}, "
        f"{os.cpu_count()} cores, jax {jax.__version__}; ResNet-{flags.depth}, {flags.size} px, "
        f"batch {flags.batch}; JPEGs to {flags.jpeg_size} px",
        flush=True,
    )
    print(f"{'what':<26}{'byol_jax':>12}  {'alternative':<42}{'ratio':>6}")
    problem = steps.Problem(flags.depth, flags.size, flags.source, flags.batch)
    bench = Bench(flags, problem)
    lines = [line for name in flags.only for line in PARTS[name](bench)]
    print("\n".join(lines))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"the whole benchmark: at most {peak:,.0f} MiB of host memory")


if __name__ == "__main__":
    main()
