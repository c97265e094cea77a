"""The update step of a pre-training."""

from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import prepare, train
from byol_jax.data import pipeline, table10
from byol_jax.errors import UserError, require
from byol_jax.jobs.preflight.steps import Devices, Kind, PyTree, Step, StepOf, on_all, rows_of
from byol_jax.method import check as check_method
from byol_jax.method import hyperparameters, name_labels
from byol_jax.program import Hyperparameters, Program, init_state


class Data(NamedTuple):
    """Properties of a data set on which a step and its schedule depend.

    Attributes:
      num_examples: number of training images; None if it is unknown.
      num_classes: number of outputs of the probe.
      words: source of these numbers, for the report.
    """

    num_examples: int | None
    num_classes: int
    words: str


def data_of(config: ml_collections.ConfigDict) -> Data:
    """The numbers of a config's data set, from BYOL Table 10 if it lists the name."""
    row = table10.of_dataset(config.dataset or "")
    count = table10.table_size(row, config.data.split) if row else None
    if row and count:
        # Pre-training uses no labels where an image has several classes.
        classes = 0 if row.metric == "map_11" else row.stored_classes or row.classes
        return Data(count, classes, "BYOL Table 10")
    try:
        train_set = prepare.load_images(config)
    except UserError as error:
        return Data(None, 0, f"assumed to have no labels, so that there is no probe: {error}")
    return Data(train_set.size, train_set.num_classes, "counted")


def arguments(
    config: ml_collections.ConfigDict,
    program: Program,
    hparams: Hyperparameters,
    num_examples: int,
    devices: int,
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Shapes and types of the arguments of `train.mapped_step`: state, batch, seed, numbers."""
    sizes = prepare.sizes_of(config)
    state = jax.eval_shape(
        lambda: init_state(config.seed, program, sizes, num_examples, config.target_init)
    )
    rows = rows_of(config.batch_size, config.accumulate, devices)
    kind = np.float32 if config.augment.placement == "host" else np.uint8
    number = jax.ShapeDtypeStruct(rows, np.int32)
    batch = dict.fromkeys(("labels", "ids", "epochs"), number)
    for view, side in enumerate(sizes, start=1):
        batch[f"view{view}"] = jax.ShapeDtypeStruct((*rows, side, side, 3), kind)
    return (
        on_all(state, devices),
        batch,
        on_all(np.int32(config.seed), devices),
        on_all(hparams, devices),
    )


def image_bytes(config: ml_collections.ConfigDict) -> int:
    """Bytes per image in a batch on a device: its views, label, id and epoch."""
    number = 4 if config.augment.placement == "host" else 1
    return sum(3 * number * side**2 for side in prepare.sizes_of(config)) + 3 * 4


def step(config: ml_collections.ConfigDict, data: Data) -> Step:
    """The step of a config on a data set with these numbers."""
    steps = config.num_steps
    if not steps and data.num_examples:
        steps = pipeline.steps_for(config.num_epochs, data.num_examples, config.batch_size)
    examples = f"{data.num_examples:,} images" if data.num_examples else "unknown number of images"

    def lower(devices: Devices) -> Any:
        program = prepare.program_of(config, data.num_classes)
        # Numbers are traced, so any valid ones will do.
        count = data.num_examples or config.batch_size
        hparams = hyperparameters(config, count, 1)
        shapes = arguments(config, program, hparams, count, len(devices))
        return train.mapped_step(program, devices=devices).lower(*shapes)

    return Step(
        recipe=config.recipe,
        data=f"{config.dataset}, {config.data.split}: {examples}, {data.num_classes} classes "
        f"({data.words})",
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        image_bytes=image_bytes(config),
        views=len(prepare.sizes_of(config)),
        prefetch=config.data.prefetch,
        num_steps=steps,
        lower=lower,
    )


def _check(config: ml_collections.ConfigDict, devices: int) -> None:
    require(
        not config.data.resident,
        "config.data.resident=True has no pre-flight: set it to False, and add the images' bytes",
    )
    name_labels(config)
    check_method(config, devices)


def _step_of(config: ml_collections.ConfigDict, devices: int) -> StepOf:
    del devices
    data = data_of(config)
    if data.num_examples is not None:
        prepare.check_labels(config, data.num_classes)

    def of_batch(batch_size: int) -> Step:
        changed = config.copy_and_resolve_references()
        changed.batch_size = batch_size
        return step(changed, data)

    return of_batch


KIND = Kind(_check, _step_of)
