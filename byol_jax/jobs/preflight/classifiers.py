"""The update step of classifiers on labels: linear evaluation, and grids of fine-tunings."""

from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np

from byol_jax.data import table10
from byol_jax.errors import UserError
from byol_jax.evals import checkpoint, finetune, linear
from byol_jax.evals.sgd import classifiers, recipes, search, training
from byol_jax.jobs.preflight.steps import Devices, Kind, PyTree, Step, StepOf, on_all, rows_of
from byol_jax.networks import siamese
from byol_jax.runtime import spmd


class Data(NamedTuple):
    """Properties of the labelled images on which a step and its schedule depend.

    Attributes:
      num_examples: number of training images; None if it is unknown.
      num_classes: number of outputs of a classifier.
      multi_label: whether an image has several classes.
      words: source of these numbers, for the report.
    """

    num_examples: int | None
    num_classes: int
    multi_label: bool
    words: str


# ImageNet's, where nothing says how many there are.
_CLASSES = 1000


def data_of(config: ml_collections.ConfigDict, data: recipes.Data) -> Data:
    """The numbers of the images to learn from, by BYOL Table 10 if it lists their name."""
    row = table10.find(data.dataset, data.benchmark)
    count = table10.table_size(row, config.fit_split) if row else None
    classes = (row.stored_classes or row.classes) if row else _CLASSES
    is_multi = row is not None and row.metric == "map_11"
    if row and count and not config.get("train_dataset"):
        share = config.get("fraction", 1.0)
        return Data(round(share * count), classes, is_multi, "BYOL Table 10")
    try:
        train_set = finetune.images_to_fit(config, data) if "fraction" in config else None
        train_set = train_set or data.train_set(config.fit_split)
    except UserError as error:
        source = "classes of BYOL Table 10" if row else f"assumed to have {_CLASSES} classes"
        return Data(None, classes, is_multi, f"{source}: {error}")
    return Data(train_set.size, train_set.num_classes, train_set.multi_label, "counted")


def arguments(
    network: hk.TransformedWithState,
    recipe: recipes.Recipe,
    data: Data,
    *,
    is_frozen: bool,
    devices: int,
) -> tuple[PyTree, PyTree, PyTree, PyTree, PyTree]:
    """Shapes and types of the arguments of `training.mapped_step`.

    Args:
      network: f, its batch statistics shared over the devices.
      recipe: the hyperparameters.
      data: the labelled images.
      is_frozen: whether f is frozen.
      devices: number of devices.

    Returns:
      State, batch, seed, numbers, frozen encoder.
    """
    side, count = recipe.image_size, len(recipe.learning_rates)

    def begun() -> tuple[classifiers.State, classifiers.Encoder]:
        encoder = network.init(jax.random.key(0), np.zeros((1, side, side, 3), np.float32), True)
        features = training.feature_size(network, encoder, side)
        heads = classifiers.init_heads(0, count, features, data.num_classes)
        if is_frozen:
            return classifiers.init(heads), encoder
        return classifiers.init(heads, encoder), ({}, {})

    state, frozen = jax.eval_shape(begun)
    rows = rows_of(recipe.batch_size, 1, devices)
    number = jax.ShapeDtypeStruct(rows, np.int32)
    labels = (*rows, data.num_classes) if data.multi_label else rows
    batch = {
        "view1": jax.ShapeDtypeStruct((*rows, side, side, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct(labels, np.int32),
        "ids": number,
        "epochs": number,
    }
    shared = on_all((np.int32(recipe.seed), training.hyperparameters(recipe), frozen), devices)
    return on_all(state, devices), batch, *shared


def _check(config: ml_collections.ConfigDict, devices: int) -> None:
    (linear if config.job == "linear" else finetune).check(config, devices)


def _step_of(config: ml_collections.ConfigDict, devices: int) -> StepOf:
    is_frozen = config.job == "linear"
    trained = checkpoint.load_weights(config, arrays=False) if config.checkpoint else None
    if trained:
        checkpoint.check_networks(trained, [config.network])
    spec = trained.network if trained else siamese.make_spec(config.encoder.to_dict(), 0)
    data = recipes.data_of(config, trained)
    counted = data_of(config, data)

    def of_batch(batch_size: int) -> Step:
        changed = config.copy_and_resolve_references()
        changed.batch_size = batch_size
        return step(changed, data, counted, spec, is_frozen)

    del devices
    return of_batch


def step(
    config: ml_collections.ConfigDict,
    data: recipes.Data,
    counted: Data,
    spec: siamese.NetworkSpec,
    is_frozen: bool,
) -> Step:
    """The step of a config; of a grid that of its longest training."""
    count = counted.num_examples or config.batch_size
    trainings, longest = "", config.copy_and_resolve_references()
    if not is_frozen:
        cells = [*search.cells_of(config)]
        trainings = f", one of {len(cells)} trainings" if len(cells) > 1 else ""
        epochs = max(cell.num_epochs or 0.0 for cell in cells)
        longest.num_epochs = epochs or config.num_epochs
        longest.learning_rates = config.learning_rates[:1]
    if not counted.num_examples:
        longest.num_steps = config.num_steps or 1  # numbers are traced: any will do
    recipe = recipes.recipe_of(longest, data, count)
    is_known = counted.num_examples or config.num_steps
    examples = f"{count:,} images" if counted.num_examples else "unknown number of images"

    def lower(devices: Devices) -> Any:
        # A frozen encoder takes no statistics of the batch.
        network = training.encoder_of(spec, None, None if is_frozen else spmd.AXIS)
        shapes = arguments(network, recipe, counted, is_frozen=is_frozen, devices=len(devices))
        mapped = training.mapped_step(network, recipe.augmentation, devices)
        return mapped.lower(*shapes)

    return Step(
        recipe=f"{config.recipe}{trainings}",
        data=f"{data.dataset}, {config.fit_split}: {examples}, {counted.num_classes} classes "
        f"({counted.words})",
        batch_size=config.batch_size,
        accumulate=1,
        image_bytes=3 * recipe.image_size**2
        + 4 * (2 + (counted.num_classes if counted.multi_label else 1)),
        views=1,
        prefetch=config.prefetch,
        num_steps=recipe.total_steps if is_known else None,
        lower=lower,
        can_split=False,
    )


KIND = Kind(_check, _step_of)
