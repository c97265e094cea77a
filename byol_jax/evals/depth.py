"""Depth from one image by up-projection: BYOL App. E.6, Tables 4b and 12."""

import pathlib
from typing import Any

import ml_collections

from byol_jax.augment.dense import DepthColours
from byol_jax.checks import PROBABILITY, Rule, at_least, check_keys, each, one_of, within
from byol_jax.data.dense import sets, transforms
from byol_jax.dense import depth
from byol_jax.errors import require
from byol_jax.evals import dense_transfer
from byol_jax.evals.dense import measure, recipes, steps
from byol_jax.networks import siamese, upproj
from byol_jax.networks.upproj import UpProjection
from byol_jax.results import dense_pictures

_SIDES = Rule(
    lambda value: len(value) == 2 and all(isinstance(n, int) and n >= 1 for n in value),
    "height and width in pixels, each 1 or more",
)
_RULES = {
    "frame": _SIDES,
    "crop": _SIDES,
    "flip": PROBABILITY,
    "eval_crop": one_of(depth.EVAL_CROPS),
    "head.channels": each(at_least(1)),
    "head.entry_channels": at_least(1),
    "head.padding": one_of(upproj.PADDINGS),
    "colours.grayscale": PROBABILITY,
    "colours.brightness_max": within(0, 1),
    "colours.saturation_max": within(0, 1),
    "colours.hue_max": within(0, 0.5),
}


def _check(config: ml_collections.ConfigDict) -> None:
    check_keys(config, _RULES)
    require(
        all(small <= large for small, large in zip(config.crop, config.frame, strict=True)),
        f"config.crop={tuple(config.crop)} must not be larger than config.frame="
        f"{tuple(config.frame)}",
    )


def _protocol(config: ml_collections.ConfigDict) -> str:
    """The config's, with where depths are compared, and what is trained unless it is everything."""
    own = "" if config.backbone == "finetune" else f"/{config.backbone}"
    return f"{config.protocol}/{config.eval_crop}{own}"


def _program(
    config: ml_collections.ConfigDict, spec: siamese.NetworkSpec, fit_set: sets.DenseSet
) -> steps.Program:
    del fit_set
    section = config.head.to_dict()
    head = UpProjection(**{**section, "channels": tuple(section["channels"])})
    return recipes.program_of(config, spec, head)


def _frames(config: ml_collections.ConfigDict, program: steps.Program) -> transforms.Depth:
    """What the network sees; targets have the size of its outputs."""
    crop = tuple(config.crop)
    return transforms.Depth(
        frame=tuple(config.frame),
        crop=crop,
        target=steps.output_size(program, crop),
        flip=config.flip,
    )


def _colours(config: ml_collections.ConfigDict) -> DepthColours:
    return DepthColours(**config.colours.to_dict())


def _score(
    config: ml_collections.ConfigDict,
    program: steps.Program,
    predict: measure.Predict,
    dense_set: sets.DenseSet,
) -> measure.Result:
    whole = transforms.depth_whole(_frames(config, program))
    reading = recipes.reading_of(config)
    return measure.depth_scores(predict, dense_set, whole, reading, config.eval_crop)


def _picture(
    config: ml_collections.ConfigDict,
    program: steps.Program,
    predict: measure.Predict,
    dense_set: sets.DenseSet,
    path: pathlib.Path,
) -> None:
    """Of each frame the part that the network sees."""
    whole = transforms.depth_whole(_frames(config, program))
    found = measure.examples(
        predict, dense_set, whole, recipes.reading_of(config), dense_transfer.PICTURED
    )
    shown = [
        dense_pictures.Example(image, predicted, target[y : y + height, x : x + width])
        for image, target, predicted, (y, x, height, width) in found
    ]
    dense_pictures.draw_depths(path, shown)


def _settings(config: ml_collections.ConfigDict, program: steps.Program) -> dict[str, Any]:
    del program
    return {"eval_crop": config.eval_crop}


def _about(
    config: ml_collections.ConfigDict, recipe: recipes.Recipe, fit_set: sets.DenseSet
) -> dict[str, Any]:
    del fit_set
    return {"classes": (), "frames": recipe.transform, "eval_crop": config.eval_crop}


TASK = dense_transfer.Task(
    name="depth",
    kind=sets.DEPTH,
    metric="rms",
    dilation=1,
    check=_check,
    protocol=_protocol,
    program=_program,
    transform=_frames,
    colours=_colours,
    score=_score,
    settings=_settings,
    about=_about,
    picture=_picture,
)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `depth`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    dense_transfer.run(TASK, config, workdir)
