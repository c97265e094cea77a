"""What the pages of the lecture's methods share: bases, options, and SGD on all parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from experiments import base, cifar10, digits

# Size of the representation at width 1, where it is not the 2048 of bottlenecks.
_SIZES = {"tiny": 8, "18": 512, "34": 512}


class Recipe(NamedTuple):
    """What the bases of a method differ in.

    Attributes:
      epochs, batch, depth, width: size of the run, which options may change.
      rate: base rate, times batch / 256.
      decay: weight decay, of all parameters.
      warmup_epochs: length of the warm-up.
    """

    epochs: int
    batch: int
    depth: str
    width: float
    rate: float
    decay: float
    warmup_epochs: float = 0.0


class Chosen(NamedTuple):
    """A base and the recipe on it, with what the options have changed."""

    base: str
    recipe: Recipe

    @property
    def size(self) -> int:
        """Size of the representation."""
        return int(_SIZES.get(self.recipe.depth, 2048) * self.recipe.width)

    @property
    def key(self) -> tuple[str, int, int, str, float]:
        """What the tables of published recipes are keyed by."""
        recipe = self.recipe
        return self.base, recipe.epochs, recipe.batch, recipe.depth, recipe.width


def choose(name: str, recipes: Mapping[str, Recipe], **options: Any) -> Chosen:
    """The recipe of a base, with the options that are neither 0 nor empty.

    Raises:
      ValueError: there is no such base.
    """
    if name not in recipes:
        raise ValueError(f"base={name!r} must be one of: {', '.join(recipes)}")
    return Chosen(name, recipes[name]._replace(**{k: v for k, v in options.items() if v}))


def config_of(
    chosen: Chosen, method: str, published: Mapping[tuple[str, int, int, str, float], str]
) -> ml_collections.ConfigDict:
    """Data, images, T, encoder and SGD of a base; dials and heads are the method's own.

    Args:
      chosen: base and recipe.
      method: name of the method in words.
      published: sources by `Chosen.key`.
    """
    name, recipe = chosen
    if name == "digits":
        config = digits.get_config()
    else:
        is_small = name == "cifar10"
        config = cifar10.get_config() if is_small else base.get_config()
        config.dataset = "tfds:cifar10" if is_small else "tfds:imagenet2012"
        config.data.area_min = 0.2
        for view in ("view1", "view2"):
            config.augment[view] = base.moco_augmentation(blur=0.0 if is_small else 0.5)
    config.recipe = published.get(
        chosen.key,
        f"not published: {method} on {name}, {recipe.epochs} epochs at batch {recipe.batch}, "
        f"ResNet-{recipe.depth} {recipe.width:g}x",
    )
    config.num_epochs, config.batch_size = recipe.epochs, recipe.batch
    config.network.depth, config.network.width = recipe.depth, recipe.width
    config.network.head_bias = "paper"
    config.optimizer.name = "sgd"
    config.optimizer.base_learning_rate = recipe.rate
    config.optimizer.warmup_epochs = recipe.warmup_epochs
    config.optimizer.weight_decay = recipe.decay
    config.optimizer.decayed = "all"
    return config


def contrastive_head(
    config: ml_collections.ConfigDict, chosen: Chosen, output_size: int = 128
) -> None:
    """Gives a network MoCo's head: two layers without BatchNorm, as wide as the representation.

    There is no predictor. The heads of digits.py are wider than its representation of 24 numbers,
    and stay.
    """
    network = config.network
    if chosen.base != "digits":
        network.projector.hidden_size = chosen.size
        network.projector.output_size = output_size
    network.projector.hidden_norm = False
    network.predictor.kind = "none"
