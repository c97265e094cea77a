"""Chooses the recipe of a pre-training from its images and devices: `config.choose`.

Every key that such a page leaves open (None) gets a value, and the reason is printed. A value that
the user gives is kept, and what depends on it follows it. docs/own-data.md has the rules as a
table.
"""

import json
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax.checks import flatten
from byol_jax.data import images, sources, stored
from byol_jax.errors import require
from byol_jax.runtime import checkpoints, processes, spmd

_logger = logging.getLogger(__name__)

# Images whose size is read, and of which colours are looked at.
_MEASURED, _COLOURS = 200, 24
# Channels of a grey image differ by no more than the rounding of JPEG.
_GREY = 8
# BatchNorm takes its statistics of a batch, and an epoch has two batches at least.
_SMALLEST_BATCH = 8
_SMALLEST_SIDE = 16
# Images from which on the network, the size and the length are those of ImageNet.
_LARGE = 50_000
# Memory per image of a step at 224 pixels in float32, in bytes, for the activations of both views
# by `network.depth`; half of a device's memory is left for the rest.
_ACTIVATIONS = {"18": 120e6, "50": 400e6}
# Images that a whole run on a CPU sees: half an hour to an hour on two cores.
_FEWEST_SEEN, _MOST_SEEN = 30_000, 120_000
# Images per epoch from which on a GPU sees fewer than 1000 epochs.
_SEEN = 10_000_000
# Updates that are few (the measured runs of digits.py and cifar10.py), short (the authors' presets
# for 100 epochs have 31,000) and many (those for 300 epochs have 94,000).
_FEW, _SHORT, _MANY = 5_000, 40_000, 150_000


class Facts(NamedTuple):
    """What a recipe is chosen from.

    Attributes:
      images: number of images that are trained on.
      side: median of their short sides in pixels.
      is_grey: whether all images that were looked at are grey.
      classes: number of classes; 0 without labels.
      splits: splits that the data set itself has.
      platform: `cpu`, `gpu` or `tpu`.
      devices: number of devices.
      memory: bytes for arrays on each; None if unknown.
    """

    images: int
    side: int
    is_grey: bool = False
    classes: int = 0
    splits: tuple[str, ...] = ("train",)
    platform: str = "cpu"
    devices: int = 1
    memory: int | None = None

    @property
    def is_slow(self) -> bool:
        """Whether there is no accelerator."""
        return self.platform == "cpu"


class Choice(NamedTuple):
    """A key of the config, its value, and why; without a reason it follows from the last one."""

    key: str
    value: Any
    reason: str = ""


# Values by dotted key: the user's, and those that are chosen already.
Values = Mapping[str, Any]


def choose(facts: Facts, given: Values) -> list[Choice]:
    """The recipe for images and devices.

    Args:
      facts: what is known of them.
      given: values of the user by dotted key; these keys are not chosen.

    Raises:
      UserError: the images are too few or too small for any recipe.
    """
    values, choices = dict(given), []
    for rule in (_data, _size, _network, _batch, _length, _rates, _views):
        # A rule goes on once its choice is made, so it may read what it has chosen before.
        for choice in rule(facts, values):
            if choice.key not in values:
                values[choice.key] = choice.value
                choices.append(choice)
    return choices


def _data(facts: Facts, values: Values) -> Iterator[Choice]:
    """Which images are trained on, and which are scored."""
    del values
    yield trained_split(facts.classes, facts.splits)
    yield Choice("evaluation.at_end", facts.classes > 0)
    has_valid_alone = "valid" in facts.splits and "test" not in facts.splits
    yield Choice("evaluation.fit_split", "train+test" if has_valid_alone else "train+valid")
    yield Choice("evaluation.score_split", "valid" if has_valid_alone else "test")


def trained_split(classes: int, splits: tuple[str, ...]) -> Choice:
    """The images that are trained on: all that are not scored.

    Args:
      classes: number of classes; 0 without labels.
      splits: splits that the data set itself has.
    """
    trained, reason = "train+valid", "a fifth of each class is kept for the scores"
    if not classes:
        trained, reason = "train+valid+test", "no labels, so nothing is scored: all images are used"
    elif "test" in splits:
        reason = "the test split is kept for the scores"
    elif "valid" in splits:
        trained, reason = "train+test", "the validation split is kept for the scores"
    return Choice("data.split", trained, reason)


def _size(facts: Facts, values: Values) -> Iterator[Choice]:
    """Side of the views, and how images are read."""
    side = facts.side
    require(
        side >= _SMALLEST_SIDE or "image_size" in values,
        f"config.dataset: the images are too small for a recipe: the short side of the median one "
        f"has {side} pixels, and {_SMALLEST_SIDE} or more are needed; --config.image_size=32 "
        "enlarges them",
    )
    size, reason = 32, f"images of {side} pixels"
    if facts.is_slow:
        if side >= 64:
            size, reason = 96, "there is no accelerator"
    elif side >= 224 and facts.images >= _LARGE:
        size, reason = 224, "as the paper (App. C)"
    elif side >= 128:
        size, reason = 128, "as the authors' run on Imagenette"
    elif side >= 64:
        size = 64
    yield Choice("image_size", size, reason)
    size = values["image_size"]
    yield Choice("data.eval_crop", "paper" if size >= 96 else "full")
    is_large = side >= 3 * size
    reason = f"images of {side} pixels are decoded at a fraction of their size" * is_large
    yield Choice("data.scaled_decoding", is_large, reason)


def _network(facts: Facts, values: Values) -> Iterator[Choice]:
    """The encoder and its heads."""
    is_large = facts.images >= _LARGE and not facts.is_slow
    reason = "as the paper" if is_large else "enough for as few images"
    if facts.is_slow:
        reason = "there is no accelerator"
    yield Choice("network.depth", "50" if is_large else "18", reason)
    yield Choice("network.width", 0.25 if facts.is_slow else 1.0)
    is_small = values["image_size"] <= 64
    reason = "small images (SimCLR App. B.9)" if is_small else "as the paper"
    yield Choice("network.stem", "small" if is_small else "imagenet", reason)
    hidden, output, reason = 4096, 256, "App. A"
    if facts.is_slow:
        hidden, output, reason = 512, 64, "small batches, as on CIFAR-10 (cifar10.py)"
    yield Choice("network.projector.hidden_size", hidden, reason)
    yield Choice("network.projector.output_size", output)
    yield Choice("network.predictor.hidden_size", hidden)


def _batch(facts: Facts, values: Values) -> Iterator[Choice]:
    """Images per update, and in how many pieces they pass the network."""
    count = facts.images
    fewest = 2 * max(_SMALLEST_BATCH, facts.devices)
    require(
        count >= fewest or "batch_size" in values,
        f"config.dataset: {count} images to train on are too few for a recipe, which needs "
        f"{fewest} for two batches of {fewest // 2}: add some, or give --config.batch_size="
        f"{max(2, count // 2)}",
    )
    usual = 64 if facts.is_slow else 256
    size = min(usual, 2 ** int(math.log2(max(2, count // 2))))
    size = max(facts.devices, size - size % facts.devices)
    reason = "the authors' batch on Imagenette" if size == 256 else "at least two batches per epoch"
    yield Choice("batch_size", size, "there is no accelerator" if size == 64 else reason)
    pieces = 1
    if facts.memory:
        size, area = values["batch_size"], (values["image_size"] / 224) ** 2
        area *= 4 if values["network.stem"] == "small" else 1
        per_image = _ACTIVATIONS.get(str(values["network.depth"]), 400e6) * area
        per_image *= float(values["network.width"])
        fitting = max(1, int(facts.memory / 2 / per_image)) * facts.devices
        while size // pieces > fitting and size % (2 * pieces * facts.devices) == 0:
            pieces *= 2
    reason = f"{(facts.memory or 0) / 2**30:.0f} GiB of memory (App. G.2)" * (pieces > 1)
    yield Choice("accumulate", pieces, reason)


def _length(facts: Facts, values: Values) -> Iterator[Choice]:
    """Epochs, and how often a run logs and saves."""
    count, batch = facts.images, values["batch_size"]
    if values.get("num_steps"):
        epochs, reason = values["num_steps"] * batch / count, "num_steps is given"
    elif facts.is_slow:
        seen = min(max(150 * count, _FEWEST_SEEN), _MOST_SEEN)
        epochs, reason = seen / count, f"{seen:,} images in all: a first run on a CPU"
    else:
        # As Imagenette's 9,469 images; more of them need fewer epochs.
        epochs = min(1000.0, max(100.0, _SEEN / count))
        reason = "as the authors' presets: 1000 for small sets, 100 at least"
    yield Choice("num_epochs", round(epochs, 2), reason)
    steps = values.get("num_steps") or max(1, int(values["num_epochs"] * count / batch))
    yield Choice("log_every", 10 if facts.is_slow else 50)
    yield Choice("checkpoint_every", max(20, min(1000, steps // 10)))


def _rates(facts: Facts, values: Values) -> Iterator[Choice]:
    """Learning rate, warm-up and tau for a run of this length."""
    batch = values["batch_size"]
    steps = values.get("num_steps") or max(1, int(values["num_epochs"] * facts.images / batch))
    if steps <= _SHORT:
        rate, reason = round(2.0 * 256 / batch, 4), "a rate of 2 for short runs, as on Imagenette"
    else:
        rate, reason = 0.45, "as the authors' runs of 100 epochs"
    yield Choice("optimizer.base_learning_rate", rate, reason)
    yield Choice("optimizer.weight_decay", 1e-6)
    warmup = round(min(10.0, 0.05 * values["num_epochs"]), 3)
    yield Choice("optimizer.warmup_epochs", warmup, "10 epochs, or a twentieth of the run")
    tau = 0.98 if steps <= _FEW else 0.97 if steps <= _SHORT else 0.99 if steps <= _MANY else 0.996
    presets = "the authors' presets: 0.97 for 31,000, 0.99 for 94,000"
    reason = "as on digits and CIFAR-10" if steps <= _FEW else presets
    yield Choice("tau_base", tau, f"{steps:,} updates; {reason}")


def _views(facts: Facts, values: Values) -> Iterator[Choice]:
    """Crops and colours of T and T'."""
    is_paper = values["image_size"] >= 128 and not facts.is_slow
    reason = "App. C" if is_paper else "small views: closer crops show too little"
    yield Choice("data.area_min", 0.08 if is_paper else 0.2, reason)
    reason = "all images are grey" if facts.is_grey else "Table 6"
    colours = {"saturation_max": 0.2, "hue_max": 0.1, "grayscale": 0.2}
    for view in ("view1", "view2"):
        for name, value in colours.items():
            yield Choice(f"augment.{view}.{name}", 0.0 if facts.is_grey else value, reason)
            reason = ""


def facts_of(config: ml_collections.ConfigDict) -> Facts:
    """Looks at the images of a config, and at the devices.

    Raises:
      UserError: there is no data set, or it cannot be read.
    """
    require(config.dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    own = sources.own_splits(config.dataset, config.data_dir)
    whole = sources.load(config.dataset, "train+valid+test", config.data_dir)
    places = np.unique(np.linspace(0, whole.size - 1, min(whole.size, _MEASURED)).astype(int))
    sides = [side for i in places.tolist() if (side := _side(whole, i))]
    require(sides, f"config.dataset={config.dataset}: none of its images can be read")
    looked_at = places[np.linspace(0, len(places) - 1, min(len(places), _COLOURS)).astype(int)]
    pictures = (stored.picture(whole, i) for i in looked_at.tolist())
    classes = 0 if whole.multi_label else whole.num_classes
    split = config.data.split or trained_split(classes, own).value
    return Facts(
        images=sources.load(config.dataset, split, config.data_dir).size,
        side=int(np.median(sides)),
        is_grey=all(_is_grey(picture) for picture in pictures if picture is not None),
        classes=classes,
        splits=own,
        platform=jax.default_backend(),
        devices=jax.device_count(),
        memory=spmd.device_memory(),
    )


def _side(image_set: images.ImageSet, i: int) -> int:
    """The short side of an image in pixels; 0 if it cannot be read."""
    if not isinstance(image_set.images, images.Records):
        return min(image_set.images.shape[1:3])
    example = stored.read_example(image_set, i, exif=False)
    return 0 if example.reason else min(example.image.height, example.image.width)


def _is_grey(picture: np.ndarray) -> bool:
    return int(np.ptp(picture.astype(int), axis=-1).max()) <= _GREY


def fill(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Gives the open keys of a config their values, and prints them with their reasons.

    A run that goes on keeps the values that it has in its workdir.

    Args:
      config: of a pre-training, with `choose`; changed in place.
      workdir: its workdir.

    Raises:
      UserError: see `choose` and `facts_of`.
    """
    given = {key: value for key, value in flatten(config.to_dict()).items() if value is not None}
    steps = checkpoints.steps(workdir / "checkpoints")
    file = workdir / "config.json"
    if steps and file.is_file():
        old = flatten(json.loads(file.read_text(encoding="utf-8")))
        choices = [Choice(key, old[key]) for key in old if key not in given and key in KEYS]
        title = f"the recipe of {file}"
    else:
        facts = facts_of(config)
        choices = choose(facts, given)
        title = (
            f"a recipe for {facts.images:,} images of {facts.side} pixels in the median, "
            f"{'with' if facts.classes else 'without'} labels, on {facts.devices} "
            f"{facts.platform.upper()} device(s); each key can be given as --config.KEY=VALUE"
        )
    config.update_from_flattened_dict({choice.key: choice.value for choice in choices})
    if processes.is_first_process():
        _logger.info("%s", "\n".join([f"{title}:", *lines(choices)]))


# All keys that may be chosen: those that a page with `choose` leaves open.
KEYS = frozenset(choice.key for choice in choose(Facts(1000, 128), {}))


def lines(choices: list[Choice]) -> list[str]:
    """A line per reason: `KEY=VALUE KEY=VALUE  (reason)`."""
    grouped: list[tuple[list[str], str]] = []
    for choice in choices:
        word = f"{choice.key}={choice.value}"
        if choice.reason or not grouped:
            grouped.append(([word], choice.reason))
        else:
            grouped[-1][0].append(word)
    return [f"  {' '.join(words)}{f'  ({why})' if why else ''}" for words, why in grouped]
