"""The update step of networks with an output per pixel: segmentation and depth."""

from typing import Any

import jax
import ml_collections
import numpy as np

from byol_jax.data.dense import files, sets, transforms, voc
from byol_jax.data.dense.sets import DenseSet
from byol_jax.errors import UserError
from byol_jax.evals import checkpoint, dense_transfer, depth, segmentation
from byol_jax.evals.dense import recipes, steps, training
from byol_jax.jobs.preflight.steps import Devices, Kind, PyTree, Step, StepOf, on_all, rows_of
from byol_jax.networks import dense

_TASKS = {task.name: task for task in (segmentation.TASK, depth.TASK)}
# Side of the images with which a network is drawn: its shapes do not depend on it.
_DRAWN = 64


def arguments(
    recipe: recipes.Recipe, devices: int
) -> tuple[PyTree, PyTree, PyTree, PyTree, PyTree]:
    """Shapes and types of the arguments of `training.mapped_step`.

    Args:
      recipe: the hyperparameters.
      devices: number of devices.

    Returns:
      State, batch, seed, numbers, fixed parameters.
    """
    program = recipe.program
    network = dense.network(program.spec, program.head)

    def begun() -> tuple[steps.State, PyTree]:
        images = np.zeros((1, _DRAWN, _DRAWN, 3), np.float32)
        params, bn_state = network.init(jax.random.key(0), images, True)
        trained, fixed = steps.parts(params, program.backbone)
        return steps.init(trained, bn_state), fixed

    state, fixed = jax.eval_shape(begun)
    rows = rows_of(recipe.batch_size, program.accumulate, devices)
    image, target, kind = sizes_of(recipe)
    number = jax.ShapeDtypeStruct(rows, np.int32)
    batch = {
        "image": jax.ShapeDtypeStruct((*rows, *image, 3), np.uint8),
        "target": jax.ShapeDtypeStruct((*rows, *target), kind),
        "ids": number,
        "epochs": number,
    }
    shared = (np.int32(recipe.seed), training.hyperparameters(recipe), fixed)
    return on_all(state, devices), batch, *on_all(shared, devices)


def sizes_of(recipe: recipes.Recipe) -> tuple[tuple[int, int], tuple[int, int], type]:
    """Height and width of images and of targets, and the type of targets."""
    crops = recipe.transform
    if isinstance(crops, transforms.Segmentation):
        return (crops.crop, crops.crop), (crops.crop, crops.crop), np.uint8
    return crops.crop, crops.target, np.float32


def _check(config: ml_collections.ConfigDict, devices: int) -> None:
    dense_transfer.check(_TASKS[config.job], config, devices)


def data_of(config: ml_collections.ConfigDict, kind: str) -> tuple[DenseSet, str]:
    """The images to train on, and where their number is from, in words.

    Without a data set there are none, with the classes of VOC2012.
    """
    try:
        found = recipes.data_of(config, None, kind).split(config.fit_split)
    except UserError as error:
        classes = voc.CLASSES if kind == sets.MASKS else ()
        words = f"assumed to have the {len(classes)} classes of VOC2012: " if classes else ""
        return files.template("no set", kind, classes), f"{words}{error}"
    return found, "counted"


def _step_of(config: ml_collections.ConfigDict, devices: int) -> StepOf:
    del devices
    task = _TASKS[config.job]
    trained = checkpoint.load_weights(config, arrays=False) if config.checkpoint else None
    if trained:
        checkpoint.check_networks(trained, [config.network])
    dense_set, words = data_of(config, task.kind)
    spec = recipes.spec_of(config, trained, task.dilation)
    program = task.program(config, spec, dense_set)

    def of_batch(batch_size: int) -> Step:
        changed = config.copy_and_resolve_references()
        changed.batch_size = batch_size
        return step(task, changed, program, dense_set, words)

    return of_batch


def step(
    task: dense_transfer.Task,
    config: ml_collections.ConfigDict,
    program: steps.Program,
    dense_set: DenseSet,
    words: str,
) -> Step:
    """The step of a config; every training of its sweep, and every seed, has the same one."""
    transform = task.transform(config, program)
    known = config.copy_and_resolve_references()
    if not dense_set.size:
        known.num_steps = config.num_steps or 1  # numbers are traced: any will do
    recipe = recipes.recipe_of(known, program, transform, dense_set.size, task.colours(config))
    trainings = len(config.learning_rates) * (len(config.learning_rates) > 1) + len(config.seeds)
    image, target, kind = sizes_of(recipe)
    examples = f"{dense_set.size:,} images" if dense_set.size else "unknown number of images"
    classes = f", {len(dense_set.classes)} classes" if dense_set.classes else ""

    def lower(devices: Devices) -> Any:
        shapes = arguments(recipe, len(devices))
        return training.mapped_step(program, devices).lower(*shapes)

    pixels = image[0] * image[1], target[0] * target[1]
    return Step(
        recipe=config.recipe + (f", one of {trainings} trainings" if trainings > 1 else ""),
        data=f"{config.dataset}, {config.fit_split}: {examples}{classes} ({words})",
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        image_bytes=3 * pixels[0] + np.dtype(kind).itemsize * pixels[1] + 2 * 4,
        views=1,
        prefetch=config.prefetch,
        num_steps=recipe.total_steps if dense_set.size or config.num_steps else None,
        lower=lower,
    )


KIND = Kind(_check, _step_of)
