"""Training of networks with an output per pixel."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import loop
from byol_jax.data import background
from byol_jax.data.dense import batches, sets, transforms
from byol_jax.data.views import Stream
from byol_jax.evals import trainings
from byol_jax.evals.dense import recipes, steps
from byol_jax.evals.dense.recipes import Recipe
from byol_jax.evals.trainings import Place
from byol_jax.networks import dense, siamese
from byol_jax.runtime import spmd

# Parameters and BatchNorm averages of f.
Encoder = tuple[Mapping[str, Any], Mapping[str, Any]]

# Side of the images with which a network is drawn: its shapes do not depend on it.
_DRAWN = 64


def start(program: steps.Program, encoder: Encoder, seed: int) -> tuple[hk.Params, hk.State]:
    """The network before its training: f of a checkpoint, and a head that is drawn.

    Args:
      program: the network.
      encoder: f (`siamese.encoder_params`).
      seed: seed of the head.
    """
    network = dense.network(program.spec, program.head)
    drawn = jax.device_get(siamese.init_network(seed, "dense", network, _DRAWN))
    params, bn_state = ({**whole, **own} for whole, own in zip(drawn, encoder, strict=True))
    same = jax.tree.map(lambda a, b: np.shape(a) == np.shape(b), (params, bn_state), drawn)
    assert all(jax.tree.leaves(same)), "the encoder is not that of the program"
    return params, bn_state


def hyperparameters(recipe: Recipe) -> steps.Hyperparameters:
    """The traced numbers of a recipe."""
    return steps.Hyperparameters(
        learning_rate=jnp.float32(recipe.learning_rate),
        total_steps=recipe.total_steps,
        milestones=recipe.milestones,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        colours=recipe.colours,
    )


@functools.lru_cache(maxsize=4)
def mapped_step(program: steps.Program, devices: Sequence[jax.Device] | None = None) -> Any:
    """One compiled step for all trainings of a job: their numbers are traced.

    It maps a state, a batch, seed, hyperparameters and fixed parameters, each with a leading device
    axis (`steps.train_step`); the state is donated.

    Args:
      program: the network, and what is trained of it.
      devices: a tuple; by default the local ones.
    """
    step = functools.partial(steps.train_step, program=program, axis=spmd.AXIS)
    return spmd.pmap(step, donate_argnums=(0,), devices=devices)


def record_of(place: Place, recipe: Recipe, train_set: sets.DenseSet) -> dict[str, Any]:
    """What is saved beside the arrays of a training: all that decides its result."""
    data = sets.fingerprint(train_set)
    return {**place.identity, **recipes.plain(recipe), "num_images": train_set.size, "data": data}


def _batches(train_set: sets.DenseSet, recipe: Recipe, first: int) -> background.Batches:
    """This process's batches from step `first` to the end of the schedule."""
    stream = Stream(
        recipe.seed,
        train_set.size,
        recipe.batch_size,
        recipe.program.accumulate,
        start=first,
        stop=recipe.total_steps,
        process=(jax.process_index(), jax.process_count()),
    )
    crops = recipe.transform
    transform = (
        transforms.segmentation(crops)
        if isinstance(crops, transforms.Segmentation)
        else transforms.depth(crops)
    )
    return batches.train_batches(train_set, stream, transform, recipe.threads, recipe.prefetch)


def fit(
    train_set: sets.DenseSet, encoder: Encoder, recipe: Recipe, place: Place
) -> tuple[hk.Params, hk.State]:
    """Trains to the end of the recipe's schedule, from the newest checkpoint if there is one.

    Args:
      train_set: images with targets.
      encoder: f before the training.
      recipe: the numbers.
      place: where the training is kept.

    Returns:
      All parameters, and the BatchNorm averages, on the host.

    Raises:
      UserError, Diverged, Stopped: see `trainings.run`.
    """
    program = recipe.program
    params, bn_state = start(program, encoder, recipe.seed)
    trained, fixed = steps.parts(params, program.backbone)

    def begin(first: int) -> tuple[loop.Step[steps.State], background.Batches]:
        mapped = mapped_step(program)
        shared = spmd.replicate((np.int32(recipe.seed), hyperparameters(recipe), fixed))
        return lambda state, batch: mapped(state, batch, *shared), _batches(
            train_set, recipe, first
        )

    training = trainings.Training(
        end=recipe.total_steps,
        batch_size=recipe.batch_size,
        record=record_of(place, recipe, train_set),
        begin=begin,
        line=_line,
        hint=f"lower the learning rate {recipe.learning_rate:g}, or look at its images",
        micro_batches=program.accumulate,
        prefetch=recipe.prefetch,
    )
    state = trainings.run(steps.init(trained, bn_state), training, place)
    return hk.data_structures.merge(state.params, fixed), state.bn_state


def _line(logs: Mapping[str, np.ndarray]) -> tuple[str, dict[str, float]]:
    values = {name: float(logs[name]) for name in ("loss", "learning_rate")}
    return f"loss {values['loss']:.3f}", values


def predictor(
    program: steps.Program, params: hk.Params, bn_state: hk.State, batch_size: int
) -> Any:
    """A function from uint8 images `[b, h, w, 3]` on the host to the outputs of the network.

    Args:
      program: the network.
      params, bn_state: its weights.
      batch_size: most images per call, over all local devices.
    """
    return spmd.on_batches(_outputs(program), batch_size, (params, bn_state))


@functools.lru_cache(maxsize=8)
def _outputs(program: steps.Program) -> Any:
    """One function for all trainings of a job, so that it is compiled once."""
    return functools.partial(steps.outputs_of, program=program)
