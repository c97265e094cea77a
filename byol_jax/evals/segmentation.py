"""Segmentation by a fully-convolutional network: BYOL App. E.4, Tables 4a and 11."""

import pathlib
from typing import Any

import ml_collections

from byol_jax.augment.dense import DepthColours
from byol_jax.checks import PROBABILITY, Rule, at_least, check_keys, one_of
from byol_jax.data.dense import sets, transforms
from byol_jax.evals import dense_transfer
from byol_jax.evals.dense import measure, recipes, steps
from byol_jax.networks import fcn, siamese
from byol_jax.networks.fcn import FCN
from byol_jax.results import dense_pictures

DILATION = 2
_RANGE = Rule(
    lambda value: len(value) == 2 and 0 < value[0] <= value[1],
    "two ratios above 0, the smaller first",
)
_RULES = {
    "crop": at_least(2),
    "eval_crop": at_least(2),
    "scale_range": _RANGE,
    "scale_step": at_least(0),
    "flip": PROBABILITY,
    "head.channels": at_least(1),
    "head.dilation": at_least(1),
    "head.init": one_of(fcn.INITS),
}


def stride_of(spec: siamese.NetworkSpec) -> int:
    """Pixels per logit: 16 with the stem of ImageNet, as the last group has no stride."""
    return 16 if spec.stem == "imagenet" else 4


def _check(config: ml_collections.ConfigDict) -> None:
    check_keys(config, _RULES)
    transforms.check_segmentation(_crops(config), "config")


def _crops(config: ml_collections.ConfigDict) -> transforms.Segmentation:
    low, high = map(float, config.scale_range)
    return transforms.Segmentation(
        crop=config.crop,
        scale_range=(low, high),
        scale_step=config.scale_step,
        flip=config.flip,
    )


def _protocol(config: ml_collections.ConfigDict) -> str:
    """The config's, with what is trained unless it is everything."""
    own = "" if config.backbone == "finetune" else f"/{config.backbone}"
    return f"{config.protocol}{own}"


def _program(
    config: ml_collections.ConfigDict, spec: siamese.NetworkSpec, fit_set: sets.DenseSet
) -> steps.Program:
    stride = stride_of(spec)
    if config.align_corners:
        transforms.check_crop(config.crop, stride, "config.crop")
        if config.eval_crop is not None:
            transforms.check_crop(config.eval_crop, stride, "config.eval_crop")
    head = FCN(classes=len(fit_set.classes), **config.head.to_dict())
    return recipes.program_of(config, spec, head, config.align_corners)


def _transform(config: ml_collections.ConfigDict, program: steps.Program) -> recipes.Transform:
    del program
    return _crops(config)


def _colours(config: ml_collections.ConfigDict) -> DepthColours:
    del config
    return DepthColours()


def _canvas(
    config: ml_collections.ConfigDict, program: steps.Program, dense_set: sets.DenseSet
) -> tuple[int, int]:
    """The canvas of an evaluation: that of the config, or one that holds each image whole."""
    if config.eval_crop is not None:
        return config.eval_crop, config.eval_crop
    return transforms.canvas_of(sets.largest_shape(dense_set), stride_of(program.spec))


def _score(
    config: ml_collections.ConfigDict,
    program: steps.Program,
    predict: measure.Predict,
    dense_set: sets.DenseSet,
) -> measure.Result:
    whole = transforms.whole(_canvas(config, program, dense_set))
    return measure.segmentation_scores(predict, dense_set, whole, recipes.reading_of(config))


def _picture(
    config: ml_collections.ConfigDict,
    program: steps.Program,
    predict: measure.Predict,
    dense_set: sets.DenseSet,
    path: pathlib.Path,
) -> None:
    whole = transforms.whole(_canvas(config, program, dense_set))
    found = measure.examples(
        predict, dense_set, whole, recipes.reading_of(config), dense_transfer.PICTURED
    )
    shown = [
        dense_pictures.Example(*(part[:height, :width] for part in (image, predicted, target)))
        for image, target, predicted, (_, _, height, width) in found
    ]
    dense_pictures.draw_masks(path, shown, dense_set.classes)


def _settings(config: ml_collections.ConfigDict, program: steps.Program) -> dict[str, Any]:
    return {
        "align_corners": program.align_corners,
        "eval_crop": config.eval_crop or "whole images",
        "classes": program.head.classes if isinstance(program.head, FCN) else 0,
    }


def _about(
    config: ml_collections.ConfigDict, recipe: recipes.Recipe, fit_set: sets.DenseSet
) -> dict[str, Any]:
    del config, recipe
    return {"classes": fit_set.classes, "frames": None, "eval_crop": ""}


TASK = dense_transfer.Task(
    name="segmentation",
    kind=sets.MASKS,
    metric="mIoU",
    dilation=DILATION,
    check=_check,
    protocol=_protocol,
    program=_program,
    transform=_transform,
    colours=_colours,
    score=_score,
    settings=_settings,
    about=_about,
    picture=_picture,
)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `segmentation`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    dense_transfer.run(TASK, config, workdir)
