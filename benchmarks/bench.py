"""Speed of the two hot paths, each beside a named alternative in the same run.

    make bench
    .venv/bin/python benchmarks/bench.py --depth=18 --size=32 --batch=64

Update step: what `train` runs (uint8 crops, augmentation on the device, state donated)
beside a plain one (one jit, nothing donated, float32 views made beforehand and sent from
the host at every step, no augmentation at all). Input: two uint8 views of each image, from
arrays and from JPEG files, beside the authors' recipe (each view cropped, and of a JPEG
decoded, by itself, and resized to float32). Linear evaluation: a step of five rates in one
pass beside a step of one.
Only ratios of one run mean anything on a machine that does other work.
"""

import argparse
import functools
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from PIL import Image

from byol_jax import augment, boxes, classification, distributed, update
from byol_jax.data import host, images, pipeline, reader, sources
from byol_jax.evals import training
from byol_jax.networks import siamese as siamese_module
from byol_jax.networks.siamese import HeadSpec, NetworkSpec, siamese

TABLE_6 = (augment.AugmentParams(), augment.AugmentParams(blur=0.1, solarize=0.2))
HPARAMS = update.Hyperparameters(0.2, 10, 1000, 1.5e-6, 1e-3, 0.9, 0.996, *TABLE_6)


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of `run`, which must wait for its own results; one call warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def random_images(count: int, size: int) -> np.ndarray:
    """uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def step_seconds(depth: str, size: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Seconds of one update, and of the plain step."""
    head = HeadSpec(2, 512, 64)
    spec = NetworkSpec(depth, 1, "small", 10, head, head, bn_axis=distributed.AXIS)
    network = siamese(spec)
    labels = {
        "labels": np.zeros(batch_size, np.int32),
        "ids": np.arange(batch_size, dtype=np.int32),
    }
    views = random_images(batch_size, size)
    batch = labels | {"view1": views, "view2": views, "epochs": labels["labels"]}
    initial = jax.device_get(update.init(0, network, size))

    train_step = distributed.pmap(
        functools.partial(update.train_step, network=network, axis=distributed.AXIS),
        donate_argnums=(0,),
    )
    seed, hparams = distributed.replicate(np.int32(0)), distributed.replicate(HPARAMS)
    carried = [distributed.replicate(initial)]

    def ours() -> None:
        carried[0], logs = train_step(carried[0], distributed.shard(batch), seed, hparams)
        jax.block_until_ready(logs)

    local = siamese(spec._replace(bn_axis=None))

    @jax.jit
    def plain_step(
        state: update.TrainState, batch: update.Batch
    ) -> tuple[update.TrainState, update.Logs]:
        batch = jax.tree.map(lambda x: x[None], batch)
        return update.step(
            state,
            batch,
            0,
            HPARAMS,
            make_views=lambda b: (b["view1"], b["view2"]),
            network=local,
        )

    floats = np.asarray(augment.normalize(augment.to_float(views)))
    plain_batch = labels | {"view1": floats, "view2": floats}
    state = [jax.device_put(initial)]

    def plain() -> None:
        state[0], logs = plain_step(state[0], plain_batch)
        jax.block_until_ready(logs)

    return {"ours": median_seconds(ours, repeats), "plain": median_seconds(plain, repeats)}


def sweep_seconds(
    depth: str, size: int, batch_size: int, repeats: int, classes: int = 1000
) -> dict[str, float]:
    """Seconds of one step of linear evaluation (BYOL App. D.1): its five rates, and one of them."""
    network = siamese_module.encoder(NetworkSpec(depth, 1, "small"))
    params, state = update.init_network(0, "online", network, size)
    frozen = distributed.replicate(jax.device_get((params, state)))
    features = training.feature_size(network, (params, state), size)
    zeros = np.zeros(batch_size, np.int32)
    batch = {"view1": random_images(batch_size, size), "labels": zeros, "epochs": zeros}
    batch["ids"] = np.arange(batch_size, dtype=np.int32)
    step = distributed.pmap(
        functools.partial(classification.train_step, network=network, axis=distributed.AXIS),
        donate_argnums=(0,),
    )

    def runner(rates: tuple[float, ...]) -> Callable[[], None]:
        heads = classification.init_heads(0, len(rates), features, classes)
        carried = [distributed.replicate(classification.init(heads))]
        hparams = classification.Hyperparameters(
            np.asarray(rates, np.float32), 0, 1000, 0.9, 0.0, 0.0, 0.0, 0.0, TABLE_6[0], 0.0
        )
        shared = distributed.replicate((np.int32(0), hparams))

        def run() -> None:
            carried[0], logs = step(carried[0], distributed.shard(batch), *shared, frozen)
            jax.block_until_ready(logs)

        return run

    runs = {"5 rates": runner((0.4, 0.3, 0.2, 0.1, 0.05)), "1 rate": runner((0.2,))}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    # In turn, so that other work on the machine slows both alike.
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


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


def our_input(image_set: images.ImageSet, size: int, batch_size: int) -> reader.Batches:
    """The pipeline that `train` runs, without an end."""
    return pipeline.train_batches(
        image_set, seed=0, image_size=size, batch_size=batch_size, num_steps=10**9
    )


def array_seconds(source: int, size: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Seconds of one batch of two views of arrays, and of the authors' recipe for the same."""
    pixels = random_images(4 * batch_size, source)
    image_set = images.ImageSet("random", pixels, np.zeros(len(pixels), np.int32), 1)

    def recipe() -> Iterator[object]:
        tf = host.import_tensorflow()
        generator = np.random.default_rng(0)

        def crop(image: object, box: object) -> object:
            y, x, h, w = tf.unstack(box)
            patch = image[y : y + h, x : x + w]  # type: ignore[index]
            resized = tf.image.resize(patch, (size, size), "bicubic")
            return tf.clip_by_value(resized / 255.0, 0.0, 1.0)

        def views() -> object:
            drawn = boxes.random_resized_boxes(generator.random((len(pixels), 4)), source, source)
            data = tf.data.Dataset.from_tensor_slices((pixels, drawn))
            return data.map(crop, num_parallel_calls=tf.data.AUTOTUNE)

        both = tf.data.Dataset.zip((views(), views())).repeat().batch(batch_size).prefetch(2)
        iterator: Iterator[object] = both.as_numpy_iterator()
        return iterator

    ours = functools.partial(our_input, image_set, size, batch_size)
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
    ids, epochs = pipeline.stream(0, records.size, 0, (6 + repeats) * batch_size)
    headers = [images.prepare(records.read(i).data) for i in range(records.size)]
    heights, widths = (
        np.array([getattr(headers[i], side) for i in ids]) for side in ("height", "width")
    )
    placements = pipeline.random_placements(
        reader.Request(ids, epochs), heights, widths, seed=0, size=size
    )

    def recipe() -> Iterator[dict[str, np.ndarray]]:
        tf = host.import_tensorflow()

        def view(data: object, box: object) -> object:
            patch = tf.image.decode_and_crop_jpeg(data, box, channels=3)
            resized = tf.image.resize(patch, (size, size), "bicubic")
            return tf.clip_by_value(resized / 255.0, 0.0, 1.0)

        def views(path: object, boxes: object) -> object:
            data = tf.io.read_file(path)
            return {f"view{v + 1}": view(data, boxes[v]) for v in (0, 1)}  # type: ignore[index]

        data = tf.data.Dataset.from_tensor_slices((paths[ids], placements[..., :4]))
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
        f"batch {flags.batch}; JPEGs to {flags.jpeg_size} px"
    )
    with tempfile.TemporaryDirectory() as temporary:
        if not flags.jpegs:
            write_jpegs(pathlib.Path(temporary))
        jpegs = flags.jpegs or temporary
        jpeg_times, difference = jpeg_seconds(jpegs, flags.jpeg_size, flags.batch, flags.repeats)
        rows = [
            ("update step", step_seconds(flags.depth, flags.size, flags.batch, flags.repeats)),
            ("arrays, 2 views", array_seconds(flags.source, flags.size, flags.batch, 100)),
            ("linear, 5 rates", sweep_seconds(flags.depth, flags.size, flags.batch, flags.repeats)),
            ("JPEGs, 2 views", jpeg_times),
        ]
    print(f"{'what':<16}{'ours':>12}{'alternative':>24}{'ratio':>8}")
    for name, seconds in rows:
        (_, ours), (label, other) = seconds.items()
        alternative = f"{label} {flags.batch / other:.0f} img/s"
        print(f"{name:<16}{flags.batch / ours:>8.0f} img/s{alternative:>22}{other / ours:>8.2f}")
    print(f"JPEGs: same boxes, views differ by {255 * difference:.2f}/255 on average")


if __name__ == "__main__":
    main()
