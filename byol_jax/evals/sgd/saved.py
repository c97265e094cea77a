"""What the checkpoint of a network that was trained on labels says of its training."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from byol_jax import weights
from byol_jax.augment import compose
from byol_jax.checks import NO_NUMBERS
from byol_jax.evals.cells import Cell
from byol_jax.evals.sgd.recipes import named_numbers

# Keys of a page that are saved in another form, are the evaluation's, or choose among cells.
_NOT_SAVED = frozenset(
    (
        *("network", "encoder", "view", "crops", "flip", "area_min", "eval_crop"),
        *("dataset", "data_dir", "image_size", "metric", "score_split", "eval_batch_size"),
        *("learning_rates", "rate_scaling", "sweep_epochs", "sweep_weight_decays"),
        *("decay_over_rate", "save_network"),
    )
)


def applied_view(augmentation: str, view: compose.AugmentParams) -> compose.AugmentParams:
    """T of a training on labels: what its augmentation applies of `view`.

    Args:
      augmentation: a key of `classifiers.AUGMENTATIONS`. `randaugment` is the operation of the same
        name, whose magnitude is 9 as in App. D.2; the training's own stands beside it.
      view: T. `pretrain` applies all of its operations, the other augmentations its flip alone.
    """
    if augmentation == "pretrain":
        return view
    return compose.AugmentParams(
        flip=view.flip,
        color_jitter=0.0,
        grayscale=0.0,
        blur=0.0,
        solarize=0.0,
        randaugment=1.0 if augmentation == "randaugment" else None,
    )


def config_of(
    config: ml_collections.ConfigDict, cell: Cell, cropping: weights.Cropping
) -> dict[str, Any]:
    """The training of one cell, as the section `config` of its checkpoint's record.

    `weights.trained_of` reads it, and `jobs.pretrained` compares it with that of a page. The caller
    adds what depends on the images and on the network: `dataset`, `data_dir`, `image_size` and
    `network`.

    Args:
      config: config of the job `finetune`.
      cell: the cell of its grid.
      cropping: T, random crops and evaluation crop of the training, resolved.

    Returns:
      Plain values: the page's keys that decide the training; `start`, the network that it started
      from; `learning_rate`, `weight_decay` and `num_epochs` of the cell; `augment.view1`, the T
      that was applied; and the section `data` of the crops.
    """
    plain: Mapping[str, Any] = config.to_dict()
    kept = {k: v for k, v in plain.items() if k not in _NOT_SAVED and k not in NO_NUMBERS}
    view = named_numbers(applied_view(config.augmentation, cropping.view))
    area_min, area_max = cropping.area_range
    aspect_min, aspect_max = cropping.aspect_range
    return {
        **kept,
        "recipe": config.recipe,
        "start": config.network,
        "learning_rate": cell.learning_rate,
        "weight_decay": cell.weight_decay,
        "num_epochs": config.num_epochs if cell.num_epochs is None else cell.num_epochs,
        "augment": {"view1": {**dict.fromkeys(compose.EXTRAS, 0.0), **view}},
        "data": {
            "area_min": area_min,
            "area_max": area_max,
            "aspect_min": aspect_min,
            "aspect_max": aspect_max,
            "eval_crop": cropping.eval_crop,
            "exif": cropping.exif,
            "largest_image": cropping.largest,
        },
    }
