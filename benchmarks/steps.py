"""Time of an update, of a step of linear evaluation and of the whole loop, with alternatives."""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import update
from byol_jax.augment import byol, compose
from byol_jax.data import background, images, pipeline
from byol_jax.data.views import Stream, View
from byol_jax.evals.sgd import classifiers, training
from byol_jax.networks import siamese as siamese_module
from byol_jax.networks.siamese import HeadSpec, NetworkSpec, init_network, siamese
from byol_jax.optim import groups
from byol_jax.program import Hyperparameters, Program, TrainState, init_state
from byol_jax.runtime import spmd

TABLE_6 = (compose.AugmentParams(), compose.AugmentParams(blur=0.1, solarize=0.2))
NUMBERS = groups.Numbers(0.2, 10, 1000, 1.5e-6, 1e-3, 0.9)
HPARAMS = Hyperparameters(groups.everywhere(NUMBERS), 1000, 0.996, TABLE_6)
HIDDEN, OUTPUT, CLASSES = 512, 64, 10

# A function that runs a step and waits for its results.
Run = Callable[[], object]


def medians(runs: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds per run. Runs take turns, so that other work on the machine slows all alike.

    The first call of each run warms up and does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def random_images(count: int, size: int) -> np.ndarray:
    """Random images, uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


class Problem(NamedTuple):
    """The network and the images of all updates in `bench.py`.

    Attributes:
      depth: depth of the ResNet.
      size: side of the views in pixels.
      source: side of the stored images in pixels.
      batch_size: images per batch.
    """

    depth: str
    size: int
    source: int
    batch_size: int

    def spec(self, precision: str = "float32") -> NetworkSpec:
        """The spec of the network, with BatchNorm over all devices."""
        head = HeadSpec(2, HIDDEN, OUTPUT)
        stem = "imagenet" if self.size > 64 else "small"
        return NetworkSpec(
            *(self.depth, 1, stem, CLASSES, head, head),
            bn_axis=spmd.AXIS,
            precision=precision,
        )


class Compiled(NamedTuple):
    """A compiled step and the compiler's numbers for it.

    Attributes:
      step: the compiled function.
      seconds: time to compile it.
      memory: bytes that it holds on a device.
      traffic: bytes that it reads and writes.
    """

    step: Callable[..., Any]
    seconds: float
    memory: int
    traffic: float


def _compile(step: Any, *arguments: Any) -> Compiled:
    start = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    sizes = compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    traffic = compiled.cost_analysis()["bytes accessed"]
    return Compiled(compiled, seconds, held - sizes.alias_size_in_bytes, traffic)


def bandwidth(repeats: int, size: int = 2**28) -> float:
    """Bytes/s of a device's memory, from reading an array of `size` bytes and writing another."""
    array = jax.device_put(np.zeros(size // 4, np.float32))
    negative = jax.jit(lambda x: -x)
    seconds = medians({"copy": lambda: jax.block_until_ready(negative(array))}, repeats)
    return 2 * size / seconds["copy"]


class Stepper(NamedTuple):
    """A compiled update with its state.

    Attributes:
      compiled: the step.
      carried: a list with the state, which each update replaces.
      rest: arguments that follow the batch.
    """

    compiled: Compiled
    carried: list[Any]
    rest: tuple[Any, ...]

    def update(self, batch: Any) -> Any:
        """Starts one update, and returns its logs without waiting for them."""
        self.carried[0], logs = self.compiled.step(self.carried[0], batch, *self.rest)
        return logs


def _labels(problem: Problem) -> dict[str, np.ndarray]:
    ids = np.arange(problem.batch_size, dtype=np.int32)
    return {"labels": ids % CLASSES, "ids": ids, "epochs": np.zeros_like(ids)}


def crops_batch(problem: Problem) -> dict[str, np.ndarray]:
    """A host batch of two crops per image."""
    views = random_images(problem.batch_size, problem.size)
    return _labels(problem) | {"view1": views, "view2": views}


def boxes_batch(problem: Problem) -> dict[str, np.ndarray]:
    """A host batch of two boxes per image."""
    half = problem.source // 2
    box = np.tile(np.array([half // 2, 0, half, problem.source], np.int32), (problem.batch_size, 1))
    return _labels(problem) | {"box1": box, "box2": box}


def pretraining(
    problem: Problem,
    precision: str = "float32",
    resident: bool = False,
    train_step: Callable[..., Any] = update.train_step,
) -> Stepper:
    """The step of `train`: pmap, state donated, augmentation on the device."""
    program = Program(siamese(problem.spec(precision)), axis=spmd.AXIS)
    sizes = (problem.size, problem.size)
    step = spmd.pmap(
        functools.partial(train_step, program=program, sizes=sizes), donate_argnums=(0,)
    )
    rest: tuple[Any, ...] = spmd.replicate((np.int32(0), HPARAMS))
    if resident:
        rest += (spmd.replicate(random_images(problem.batch_size, problem.source)),)
    state = spmd.replicate(jax.device_get(init_state(0, program, sizes)))
    batch = boxes_batch(problem) if resident else crops_batch(problem)
    return Stepper(_compile(step, state, spmd.shard(batch), *rest), [state], rest)


def plain(problem: Problem) -> Stepper:
    """One jit on one device, nothing donated, float32 views from the host, no augmentation."""
    program = Program(siamese(problem.spec()._replace(bn_axis=None)))

    def step(state: TrainState, batch: update.Batch) -> tuple[TrainState, update.Logs]:
        return update.step(
            state,
            jax.tree.map(lambda x: x[None], batch),
            0,
            HPARAMS,
            make_views=lambda b: {1: b["view1"], 2: b["view2"]},
            program=program,
        )

    state = init_state(0, program, (problem.size, problem.size))
    return Stepper(_compile(jax.jit(step), state, plain_batch(problem)), [state], ())


def plain_batch(problem: Problem) -> dict[str, np.ndarray]:
    """A host batch for `plain`: two float32 views per image."""
    views = np.asarray(
        byol.normalize(byol.to_float(random_images(problem.batch_size, problem.size)))
    )
    return _labels(problem) | {"view1": views, "view2": views}


def step_runs(problem: Problem) -> tuple[dict[str, Run], dict[str, Compiled]]:
    """The steps to time, from host batch to finished logs, and their compiled programs."""
    steps = {
        "float32": (pretraining(problem), crops_batch(problem), True),
        "bfloat16": (pretraining(problem, "bfloat16"), crops_batch(problem), True),
        "resident": (pretraining(problem, resident=True), boxes_batch(problem), True),
        "plain": (plain(problem), plain_batch(problem), False),
    }

    def runner(step: Stepper, batch: Any, is_mapped: bool) -> Run:
        return lambda: jax.block_until_ready(step.update(spmd.shard(batch) if is_mapped else batch))

    runs: dict[str, Run] = {name: runner(*given) for name, given in steps.items()}
    with contextlib.suppress(ImportError):
        runs |= torch_runs(problem)
    return runs, {name: step.compiled for name, (step, _, _) in steps.items()}


def torch_runs(problem: Problem) -> dict[str, Run]:
    """The same update in plain PyTorch, by a description of each run.

    Raises:
      ImportError: torch is not installed.
    """
    import torch_step

    runs = {}
    for bfloat16 in (False, True):
        run, words = torch_step.step_runner(
            problem.depth,
            random_images(problem.batch_size, problem.size),
            small_stem=problem.size <= 64,
            hidden_size=HIDDEN,
            output_size=OUTPUT,
            bfloat16=bfloat16,
            compiled=True,
        )
        runs[f"{words}, {'bfloat16' if bfloat16 else 'float32'}"] = run
    return runs


def array_batches(problem: Problem, stop: int | None = None) -> background.Batches:
    """The batches of `train` from arrays, without end unless they stop."""
    pixels = random_images(4 * problem.batch_size, problem.source)
    return pipeline.train_batches(
        images.ImageSet("random", pixels, np.zeros(len(pixels), np.int32), CLASSES),
        Stream(0, len(pixels), problem.batch_size, stop=stop),
        (View(problem.size), View(problem.size)),
    )


def loop_seconds(
    problem: Problem, recipe: Callable[[np.ndarray], Iterator[Any]], steps: int
) -> dict[str, float]:
    """Seconds per step of whole training loops, the median of three rounds.

    Args:
      problem: network and images.
      recipe: makes an endless iterator over batches of two float32 views of given arrays, with the
        authors' recipe.
      steps: number of steps per round.
    """
    pixels = random_images(4 * problem.batch_size, problem.source)
    step, simple = pretraining(problem), plain(problem)
    rest = _labels(problem)

    def train() -> Iterator[Any]:
        batches = array_batches(problem)
        with contextlib.closing(batches):
            for batch in spmd.prefetch(batches, 1):
                yield step.update(batch)

    def naive() -> Iterator[Any]:
        for view1, view2 in recipe(pixels):
            yield simple.update(rest | {"view1": view1, "view2": view2})

    rounds: dict[str, list[float]] = {"package": [], "recipe and plain step": []}
    for _ in range(3):
        for name, loop in zip(rounds, (train(), naive()), strict=True):
            logs = [next(loop) for _ in range(4)][-1]
            jax.block_until_ready(logs)
            start = time.perf_counter()
            for _ in range(steps):
                logs = next(loop)
            jax.block_until_ready(logs)
            rounds[name].append((time.perf_counter() - start) / steps)
            loop.close()  # type: ignore[attr-defined]
    return {name: statistics.median(times) for name, times in rounds.items()}


def sweep_seconds(
    depth: str, size: int, batch_size: int, repeats: int, classes: int = 1000
) -> dict[str, float]:
    """Seconds per step of linear evaluation (BYOL App. D.1), with its five rates and with one."""
    network = siamese_module.encoder(NetworkSpec(depth, 1, "small"))
    params, state = init_network(0, "online", network, size)
    frozen = spmd.replicate(jax.device_get((params, state)))
    features = training.feature_size(network, (params, state), size)
    zeros = np.zeros(batch_size, np.int32)
    batch = {"view1": random_images(batch_size, size), "labels": zeros, "epochs": zeros}
    batch["ids"] = np.arange(batch_size, dtype=np.int32)
    step = spmd.pmap(
        functools.partial(classifiers.train_step, network=network, axis=spmd.AXIS),
        donate_argnums=(0,),
    )

    def runner(rates: tuple[float, ...]) -> Callable[[], None]:
        heads = classifiers.init_heads(0, len(rates), features, classes)
        carried = [spmd.replicate(classifiers.init(heads))]
        hparams = classifiers.Hyperparameters(
            np.asarray(rates, np.float32), 0, 1000, 0.9, 0.0, 0.0, 0.0, 0.0, TABLE_6[0], 0.0
        )
        shared = spmd.replicate((np.int32(0), hparams))

        def run() -> None:
            carried[0], logs = step(carried[0], spmd.shard(batch), *shared, frozen)
            jax.block_until_ready(logs)

        return run

    return medians(
        {"5 rates": runner((0.4, 0.3, 0.2, 0.1, 0.05)), "1 rate": runner((0.2,))}, repeats
    )
