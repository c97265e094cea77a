"""Trained networks with an output per pixel as checkpoints, in and out."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk

from byol_jax import weights
from byol_jax.data.dense import transforms
from byol_jax.data.images import Decoding
from byol_jax.errors import UserError, require
from byol_jax.evals.dense import steps
from byol_jax.networks.fcn import FCN
from byol_jax.networks.upproj import UpProjection
from byol_jax.runtime import checkpoints
from byol_jax.weights.checkpoint import locate

# Jobs that save such networks.
SEGMENTATION, DEPTH = "segmentation", "depth"


class DenseTrained(NamedTuple):
    """A trained network with an output per pixel, and what its users need to know.

    Attributes:
      task: `segmentation` or `depth`.
      program: f, its head, and how logits become pixels.
      params: all parameters.
      state: BatchNorm averages.
      classes: names of the K classes; empty for depth.
      frames: what depth sees of an image; None for segmentation.
      eval_crop: one of `depth.EVAL_CROPS`; empty for segmentation.
      decoding: how the images of its training were read.
      step: number of finished updates.
      path: the checkpoint.
      settings: of its record: data set, rates, scores and others, for people.
    """

    task: str
    program: steps.Program
    params: weights.Tree
    state: weights.Tree
    classes: tuple[str, ...]
    frames: transforms.Depth | None
    eval_crop: str
    decoding: Decoding
    step: int
    path: str
    settings: Mapping[str, Any]


class About(NamedTuple):
    """What is saved with a network; see `DenseTrained`."""

    program: steps.Program
    classes: tuple[str, ...]
    frames: transforms.Depth | None
    eval_crop: str
    decoding: Decoding
    settings: Mapping[str, Any]


def save(
    workdir: pathlib.Path,
    params: hk.Params,
    bn_state: hk.State,
    about: About,
    record: Mapping[str, Any],
    step: int,
) -> None:
    """Writes a checkpoint; its encoder is that of an online network, for all other jobs.

    Args:
      workdir: where `checkpoints/STEP` goes; one that is there stays.
      params, bn_state: all weights.
      about: what is said of the network.
      record: the rest of the record, with the config of the training.
      step: number of finished updates.
    """
    program = about.program
    dense = {
        "task": SEGMENTATION if program.is_segmentation else DEPTH,
        "head": program.head._asdict(),
        "align_corners": program.align_corners,
        "classes": list(about.classes),
        "frames": about.frames._asdict() if about.frames else None,
        "eval_crop": about.eval_crop,
        "settings": dict(about.settings),
    }
    folder = workdir / "checkpoints"
    if not checkpoints.steps(folder):
        saver = checkpoints.saver(folder, None)
        tree = {"online_params": params, "online_state": bn_state}
        checkpoints.save(saver, step, tree, {**record, "dense": dense})
        checkpoints.close(saver)


def load(checkpoint: str) -> DenseTrained:
    """The network of a checkpoint that `segmentation` or `depth` has saved.

    Args:
      checkpoint: a workdir, whose newest step is read, or one step of it.

    Raises:
      UserError: there is none, it is damaged, or it has no output per pixel.
    """
    folder, step = locate(checkpoint)
    record = weights.read_record(folder, step)
    require(
        "dense" in record,
        f"checkpoint={checkpoint} has no output per pixel: give one of experiments/segmentation.py "
        "or depth.py",
    )
    trained = weights.load(str(folder / str(step)))
    section = record["dense"]
    try:
        head: FCN | UpProjection = (
            FCN(**section["head"])
            if section["task"] == SEGMENTATION
            else UpProjection(**_tuples(section["head"]))
        )
        frames = section["frames"] and transforms.Depth(**_tuples(section["frames"]))
        program = steps.Program(trained.network, head, align_corners=bool(section["align_corners"]))
        return DenseTrained(
            task=section["task"],
            program=program,
            params=trained.online_params,
            state=trained.online_state,
            classes=tuple(section["classes"]),
            frames=frames,
            eval_crop=section["eval_crop"],
            decoding=trained.decoding,
            step=step,
            path=str(folder / str(step)),
            settings=section["settings"],
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint={checkpoint} has a record that this version does not understand "
            f"({type(error).__name__}: {error}): it is damaged, or of a later version"
        ) from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
