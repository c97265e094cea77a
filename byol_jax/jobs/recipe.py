"""Chooses the recipe of a pre-training from its images and devices: `config.choose`.

Every key that such a page leaves open (None) gets a value, and the reason is printed. A value that
the user gives is kept, and what depends on it follows it. docs/own-data.md has the rules as a
table.
"""

import io
import itertools
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from PIL import Image

from byol_jax import weights
from byol_jax.checks import check_keys, flatten
from byol_jax.data import images, pipeline, sources, stored
from byol_jax.errors import UserError, require
from byol_jax.method import RULES
from byol_jax.runtime import metrics, newest, processes, spmd

_logger = logging.getLogger(__name__)

# Images whose size is measured, and images whose colours are checked.
_MEASURED, _COLOURS = 200, 24
# Channels of a grey image differ by no more than the rounding of JPEG.
_GREY = 8
# BatchNorm takes its statistics of a batch, and an epoch has two batches at least.
_SMALLEST_BATCH = 8
_SMALLEST_SIDE = 16
_PER_DEVICE = 32  # images of a batch where there are many devices
# Images from which on the network, the size and the length are those of ImageNet.
_LARGE = 50_000
# Memory per image of a step at 224 pixels in float32, in bytes, by `network.depth`: half as much
# again as XLA counts for the gradient of both views on a CPU (70 and 265 MB). The other half of a
# device's memory is for weights, slots and images.
_ACTIVATIONS = {"18": 120e6, "50": 400e6}
# Images that a whole run on a CPU sees: half an hour to an hour on two cores.
_FEWEST_SEEN, _MOST_SEEN = 30_000, 120_000
# Images that a run on a GPU sees in all, but for the bounds of 1000 and 100 epochs.
_SEEN = 10_000_000
# Updates of a run: few, as in the measured ones of digits.py and cifar10.py; those of the authors'
# presets for 40 epochs (12,511) and for 100 and 300 epochs (31,278 and 93,835), rounded up.
_FEW, _OF_40_EPOCHS, _SHORT, _OF_300_EPOCHS = 5_000, 15_000, 40_000, 100_000


class Facts(NamedTuple):
    """What a recipe is chosen from.

    Attributes:
      images: number of images that are trained on.
      side: median of their short sides in pixels.
      is_grey: whether all images that were looked at are grey.
      classes: number of classes that can be scored; 0 without labels.
      splits: splits that the data set itself has.
      platform: `cpu`, `gpu` or `tpu`.
      devices: number of devices.
      memory: bytes for arrays on each; None if unknown.
      name: the data set, as in `config.dataset`.
    """

    images: int
    side: int
    is_grey: bool = False
    classes: int = 0
    splits: tuple[str, ...] = ("train",)
    platform: str = "cpu"
    devices: int = 1
    memory: int | None = None
    name: str = "..."

    @property
    def is_slow(self) -> bool:
        """Whether there is no accelerator."""
        return self.platform == "cpu"


class Choice(NamedTuple):
    """A key of the config, its value, and why."""

    key: str
    value: Any
    reason: str


_SLOW = "there is no accelerator"
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
    classes = facts.classes if values.get("evaluation.at_end", True) else 0
    yield trained_split(classes, facts.splits)
    scored = "valid" if "valid" in facts.splits and "test" not in facts.splits else "test"
    scored = values.get("evaluation.score_split", scored)
    is_apart = scored not in values["data.split"].split("+")
    reason = "there are labels" if classes and is_apart else "nothing is scored"
    yield Choice("evaluation.at_end", facts.classes > 0 and is_apart, reason)
    fitted = "train+test" if scored == "valid" else "train+valid"
    yield Choice("evaluation.fit_split", fitted, reason)
    yield Choice("evaluation.score_split", scored, reason)


def trained_split(classes: int, splits: tuple[str, ...]) -> Choice:
    """The images that are trained on: all that are not scored.

    Args:
      classes: number of classes that are scored; 0 for none.
      splits: splits that the data set itself has.
    """
    trained, reason = "train+valid", "a fifth of each class is kept for the scores"
    if not classes:
        trained, reason = "train+valid+test", "nothing is scored: all images are used"
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
        f"config.dataset={facts.name}: its images are too small for a recipe: the short side of "
        f"the median one has {side} pixels, and {_SMALLEST_SIDE} or more are needed; "
        "--config.image_size=32 enlarges them",
    )
    size, reason = 32, f"images of {side} pixels"
    if facts.is_slow:
        if side >= 64:
            size, reason = 96, _SLOW
    elif side >= 224 and facts.images >= _LARGE:
        size, reason = 224, "as the paper (App. C)"
    elif side >= 128:
        size, reason = 128, "as the authors' run on Imagenette"
    elif side >= 64:
        size = 64
    yield Choice("image_size", size, reason)
    size = values["image_size"]
    crop, reason = ("paper", "App. C") if size >= 96 else ("full", "small images stay whole")
    yield Choice("data.eval_crop", crop, reason)
    needs_whole = values.get("data.resident") or values.get("data.service")
    reason = f"images of {side} pixels, views of {size}"
    yield Choice("data.scaled_decoding", side >= 3 * size and not needs_whole, reason)


def _network(facts: Facts, values: Values) -> Iterator[Choice]:
    """The encoder and its heads."""
    is_large = facts.images >= _LARGE and not facts.is_slow
    reason = "as the paper" if is_large else "enough for so few images"
    if facts.is_slow:
        reason = _SLOW
    yield Choice("network.depth", "50" if is_large else "18", reason)
    yield Choice("network.width", 0.25 if facts.is_slow else 1.0, reason)
    is_small = values["image_size"] <= 64
    reason = "small images (SimCLR App. B.9)" if is_small else "as the paper"
    yield Choice("network.stem", "small" if is_small else "imagenet", reason)
    hidden, output, reason = 4096, 256, "App. A"
    if facts.is_slow:
        hidden, output, reason = 512, 64, "small batches, as on CIFAR-10 (cifar10.py)"
    yield Choice("network.projector.hidden_size", hidden, reason)
    yield Choice("network.projector.output_size", output, reason)
    yield Choice("network.predictor.hidden_size", hidden, reason)


def _batch(facts: Facts, values: Values) -> Iterator[Choice]:
    """Images per update, and in how many pieces they pass the network."""
    count, devices = facts.images, facts.devices
    fewest = 2 * max(_SMALLEST_BATCH, devices)
    possible = count // 2 // devices * devices
    require(
        count >= fewest or "batch_size" in values,
        f"config.dataset={facts.name}: {count} images to train on are too few for a recipe, which "
        f"needs {fewest} or more for two batches of {fewest // 2}: add some"
        + (f", or give --config.batch_size={possible}" if possible >= 2 else ""),
    )
    usual, reason = (64, _SLOW) if facts.is_slow else (256, "the authors' batch on Imagenette")
    if _PER_DEVICE * devices > usual:
        usual, reason = _PER_DEVICE * devices, f"{_PER_DEVICE} images per device"
    if usual > count // 2:
        usual, reason = 2 ** int(math.log2(max(2, count // 2))), "two batches per epoch or more"
    yield Choice("batch_size", max(devices, usual - usual % devices), reason)
    pieces = 1
    if facts.memory:
        size, area = values["batch_size"], (values["image_size"] / 224) ** 2
        area *= 4 if values["network.stem"] == "small" else 1
        per_image = _ACTIVATIONS.get(str(values["network.depth"]), 400e6) * area
        per_image *= float(values["network.width"])
        fitting = max(1, int(facts.memory / 2 / max(per_image, 1))) * devices
        while size // pieces > fitting and size % (2 * pieces * devices) == 0:
            pieces *= 2
    reason = (
        f"{facts.memory / 2**30:.0f} GiB of memory" if facts.memory else "the whole batch at once"
    )
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
    yield Choice("num_epochs", float(f"{epochs:.6g}"), reason)
    steps = _steps(facts, values)
    reason = f"{steps:,} updates"
    yield Choice("log_every", 10 if facts.is_slow else 50, reason)
    yield Choice("checkpoint_every", max(20, min(1000, steps // 10)), reason)


def _steps(facts: Facts, values: Values) -> int:
    """Updates of the run, once its length and its batch are chosen."""
    epochs, batch = values["num_epochs"], values["batch_size"]
    return values.get("num_steps") or pipeline.steps_for(epochs, facts.images, batch)


def _rates(facts: Facts, values: Values) -> Iterator[Choice]:
    """Learning rate, warm-up and tau for a run of this length."""
    batch = values["batch_size"]
    steps = _steps(facts, values)
    if steps <= _SHORT:
        rate = float(f"{2.0 * 256 / batch:.6g}")
        reason = "a rate of 2 at its peak, as on digits, CIFAR-10 and Imagenette"
    else:
        rate, reason = 0.45, "as the authors' preset for 100 epochs"
    yield Choice("optimizer.base_learning_rate", rate, reason)
    yield Choice("optimizer.weight_decay", 1e-6, "as on Imagenette")
    warmup = float(f"{min(10.0, 0.05 * values['num_epochs']):.6g}")
    yield Choice("optimizer.warmup_epochs", warmup, "a twentieth of the run, 10 epochs at most")
    tau, reason = 0.996, "the authors' preset for 1000 epochs"
    if steps <= _FEW:
        tau, reason = 0.98, "as on digits and CIFAR-10"
    elif steps <= _OF_40_EPOCHS:
        tau, reason = 0.97, "the authors' preset for 40 epochs"
    elif steps <= _OF_300_EPOCHS:
        tau, reason = 0.99, "the authors' presets for 100 and 300 epochs"
    yield Choice("tau_base", tau, f"{steps:,} updates; {reason}")


def _views(facts: Facts, values: Values) -> Iterator[Choice]:
    """Crops and colours of T and T'."""
    is_paper = values["image_size"] >= 128 and not facts.is_slow
    reason = "App. C" if is_paper else "small views: closer crops show too little"
    yield Choice("data.area_min", 0.08 if is_paper else 0.2, reason)
    reason = "all images are grey" if facts.is_grey else "BYOL Table 6"
    colours = {"saturation_max": 0.2, "hue_max": 0.1, "grayscale": 0.2}
    for view in ("view1", "view2"):
        for name, value in colours.items():
            yield Choice(f"augment.{view}.{name}", 0.0 if facts.is_grey else value, reason)


def facts_of(config: ml_collections.ConfigDict) -> Facts:
    """Looks at the images of a config, and at the devices.

    Raises:
      UserError: there is no data set, or it cannot be read.
    """
    require(config.dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    with metrics.announced(f"looking at images of {config.dataset}", seconds=3):
        own = sources.own_splits(config.dataset, config.data_dir)
        train = sources.load(config.dataset, "train", config.data_dir)
        classes = _scored_classes(config, train, own)
        keeps = config.evaluation.at_end is not False
        split = config.data.split or trained_split(classes * keeps, own).value
        chosen = sources.load(config.dataset, split, config.data_dir)
        places = np.unique(np.linspace(0, chosen.size - 1, min(chosen.size, _MEASURED)).astype(int))
        sides = [side for i in places.tolist() if (side := _side(chosen, i))]
        require(sides, f"config.dataset={config.dataset}: none of its images can be read")
        seen = places[np.linspace(0, len(places) - 1, min(len(places), _COLOURS)).astype(int)]
        is_grey = all(_is_grey(chosen, i) for i in seen.tolist())
    return Facts(
        images=chosen.size,
        side=int(np.median(sides)),
        is_grey=is_grey,
        classes=classes,
        splits=own,
        platform=jax.default_backend(),
        devices=jax.device_count(),
        memory=spmd.device_memory(),
        name=config.dataset,
    )


def _scored_classes(
    config: ml_collections.ConfigDict, train: images.ImageSet, own: tuple[str, ...]
) -> int:
    """Classes that can be scored; none where a single class, or none, would be left to score."""
    if train.multi_label:
        _logger.info("%s has several classes per image: nothing is scored", train.name)
        return 0
    if train.num_classes < 2:
        return 0
    if not {"valid", "test"} & {*own}:
        try:
            sources.load(config.dataset, "test", config.data_dir)
        except UserError:
            _logger.info("%s has too few images per class: nothing is scored", train.name)
            return 0
    return train.num_classes


def _side(image_set: images.ImageSet, i: int) -> int:
    """The short side of an image in pixels; 0 if it cannot be read."""
    if not isinstance(image_set.images, images.Records):
        return min(image_set.images.shape[1:3])
    example = stored.read_example(image_set, i, exif=False)
    return 0 if example.reason else min(example.image.height, example.image.width)


def _is_grey(image_set: images.ImageSet, i: int) -> bool:
    """Whether an image has no colours; of one that cannot be read, nothing says so."""
    if isinstance(image_set.images, images.Records):
        try:
            picture = Image.open(io.BytesIO(image_set.images.read(i).data))
            picture.draft("RGB", (_MEASURED, _MEASURED))  # a JPEG at a fraction of its size
            pixels = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            return True
    else:
        pixels = image_set.images[i]
    return int(np.ptp(pixels.astype(int), axis=-1).max()) <= _GREY


def fill(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Gives the open keys of a config their values, and prints them with their reasons.

    A run that goes on keeps the values that it has in its workdir.

    Args:
      config: config of a pre-training, with `choose`; changed in place.
      workdir: its workdir.

    Raises:
      UserError: see `choose` and `facts_of`.
    """
    check_keys(config, RULES)
    given = {key: value for key, value in flatten(config.to_dict()).items() if value is not None}
    start = newest.to_continue(workdir / "checkpoints", config.skip_damaged)
    if start:
        old = flatten(weights.read_record(workdir / "checkpoints", start)["config"])
        # Either of them is the length, whichever the user gave then.
        length = () if {"num_steps", "num_epochs"} & {*given} else ("num_steps",)
        names = [key for key in (*sorted(KEYS), *length) if key in old and key not in given]
        choices = [Choice(key, old[key], "as it began") for key in names if old[key] is not None]
        title = f"the recipe of the run in {workdir}"
    else:
        facts = facts_of(config)
        choices = choose(facts, given)
        labels = f"labels of {facts.classes} classes" if facts.classes else "nothing to score"
        title = (
            f"a recipe for {facts.images:,} images of {facts.side} pixels in the median, {labels}, "
            f"on {facts.devices} {facts.platform.upper()} device(s); each key can be given as "
            "--config.KEY=VALUE"
        )
    config.update_from_flattened_dict({choice.key: choice.value for choice in choices})
    if processes.is_first_process():
        _logger.info("%s", "\n".join([f"{title}:", *lines(choices)]))


# All keys that may be chosen: those that a page with `choose` leaves open.
KEYS = frozenset(choice.key for choice in choose(Facts(1000, 128), {}))


def lines(choices: list[Choice]) -> list[str]:
    """A line per reason: `KEY=VALUE KEY=VALUE  (reason)`."""
    by_reason = itertools.groupby(choices, key=lambda choice: choice.reason)
    return [
        f"  {' '.join(f'{choice.key}={choice.value}' for choice in group)}  ({reason})"
        for reason, group in by_reason
    ]
