"""A checkpoint as the papers' tables name networks: method, architecture, data, and departures.

What a checkpoint was trained with is compared with the config of the page that trains the paper's
network: each setting that differs and can change a number is a departure.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from byol_jax import checks, weights
from byol_jax.data import table10
from byol_jax.errors import UserError, require
from byol_jax.evals import checkpoint
from byol_jax.evals.sgd import recipes, saved
from byol_jax.evals.sgd.search import cells_of

METHODS = {
    "byol": "BYOL",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "moco": "MoCo",
    "densecl": "DenseCL",
    "supcon": "SupCon",
    "supervised": "supervised",
}
# The dials of the methods: objective, target, kind of predictor (BYOL section 3, SimCLR section
# 2.1, the others in the Lecture).
_DIALS = {
    ("byol", "ema", "mlp"): "byol",
    ("nt_xent", "online", "none"): "simclr",
    ("simsiam", "stop_gradient", "mlp"): "simsiam",
    ("moco", "ema", "none"): "moco",
    ("densecl", "ema", "none"): "densecl",
    ("supcon", "online", "none"): "supcon",
}
# A checkpoint of another method, which has no rows.
OTHER = "other"

# What is compared in words of its own, is not of the training, or is told by the method.
_APART = frozenset(
    (
        *("job", "seed", "dataset", "data_dir", "image_size", "batch_size"),
        *("num_epochs", "num_steps", "objective.name", "target", "evaluation"),
        "data.classifier_crops",  # of the evaluation, whose own settings say it
        *("network.depth", "network.width", "network.stem", "network.predictor.kind"),
    )
)
# Numbers that nothing reads where there is no moving average, or no predictor; and those of an
# operation of T that has no probability.
_OF_TARGET = frozenset(("tau_base", "tau_schedule", "target_init"))
_OF_PREDICTOR = frozenset(
    ("network.predictor", "optimizer.predictor_rate", "optimizer.predictor_schedule")
)
_OF_OPERATIONS = {
    "color_jitter": ("brightness_max", "contrast_max", "saturation_max", "hue_max"),
    "blur": ("blur_sigma_min", "blur_sigma_max"),
    "solarize": ("solarize_threshold",),
}


class Checkpoint(NamedTuple):
    """A checkpoint without its arrays.

    Attributes:
      trained: the checkpoint, without arrays.
      method: a key of `METHODS`, or `OTHER`.
      data: key of the row of Table 10 that it was trained on, or the name of another data set.
      data_name: the same data set in words.
    """

    trained: weights.Trained
    method: str
    data: str
    data_name: str

    @property
    def words(self) -> str:
        """The checkpoint in words: as in `words_of`, or with the dials of its method."""
        network = self.trained.network
        if self.method in METHODS:
            return words_of(self.method, network.depth, network.width, self.data_name)
        size = architecture(network.depth, network.width)
        return f"a {size} {dials(self.trained)} on {self.data_name}"


def architecture(depth: str, width: float) -> str:
    """As in `ResNet-50 (2x)`."""
    return f"ResNet-{depth}" + ("" if width == 1 else f" ({width:g}x)")


def words_of(method: str, depth: str, width: float, data: str) -> str:
    """As in `a BYOL ResNet-50 (2x) trained on ImageNet`; `method` is a key of `METHODS`."""
    return f"a {METHODS[method]} {architecture(depth, width)} trained on {data}"


def needed(network: Mapping[str, Any]) -> str:
    """The network that a cell needs, in words."""
    if network["method"] == "random":
        return f"a {architecture(network['depth'], network['width'])} of any training"
    data = table10.by_name(network["data"]).name
    words = words_of(network["method"], network["depth"], network["width"], data)
    return f"{words} ({network['page']})"


def dials(trained: weights.Trained) -> str:
    """What trained a network, in words."""
    run = trained.config
    if _is_foreign(trained):
        return f"weights of {trained.origin}"
    if trained.method == "supervised":
        if run["start"] in ("random", None):
            return "trained on labels"
        return f"fine-tuned on labels ({run['protocol']}) from network={run['start']}"
    if trained.method in weights.PER_PIXEL:
        return f"trained for {trained.method} ({run['protocol']}) from network={run['start']}"
    return (
        f"trained with objective.name={trained.method}, target={run.get('target', 'unknown')}, "
        f"predictor {trained.network.predictor.kind}"
    )


def _is_foreign(trained: weights.Trained) -> bool:
    """Whether another project trained a network, so that its recipe is unknown."""
    return "job" not in trained.config


def method_of(trained: weights.Trained) -> str | None:
    """The method that trained a network: a key of `METHODS`, or `OTHER`; None if it is unknown."""
    run = trained.config
    if trained.method == "supervised":
        if run["start"] is None:
            return None  # an earlier version: from scratch, or fine-tuned
        return "supervised" if run["start"] == "random" else OTHER
    if trained.method in weights.PER_PIXEL:
        return OTHER
    if trained.method is None or "target" not in run:
        return trained.method  # weights of another project, whose form may tell it
    target = run["target"]
    if target == "ema" and run.get("tau_schedule") == "constant" and run.get("tau_base") == 0:
        target = "copy"  # App. J: no target network, by a tau of 0
    return _DIALS.get((trained.method, target, trained.network.predictor.kind), OTHER)


def read(config: ml_collections.ConfigDict, given: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint in `config.checkpoint`, if it is given.

    Args:
      config: config of the job `paper`.
      given: data sets by their keys, in place of TFDS.

    Raises:
      UserError: it is not a checkpoint, or `config.method` is not its method.
    """
    if not config.checkpoint:
        return None
    trained = checkpoint.load_weights(config)
    trained = trained._replace(online_params={}, online_state={}, target_params={}, target_state={})
    require(
        not (trained.dataset and config.trained_on),
        f"config.trained_on={config.trained_on}: the checkpoint says that it was trained on "
        f"{trained.dataset}: leave it out",
    )
    dataset = trained.dataset or "unknown images"
    row = table10.of_dataset(dataset)
    if config.trained_on:
        try:
            row = table10.by_name(re.sub(r"[^a-z0-9]", "", config.trained_on.lower()))
        except UserError as error:
            raise UserError(f"config.trained_on={config.trained_on}: {error}") from error
    names = {source: key for key, source in given.items()}
    return Checkpoint(
        trained=trained,
        method=_checked_method(config.method, trained),
        data=row.key if row else names.get(dataset, dataset),
        data_name=row.name if row else dataset,
    )


def _checked_method(given: str | None, trained: weights.Trained) -> str:
    """The checkpoint's method; the user's word counts only where the checkpoint has none.

    Raises:
      UserError: they contradict each other, or there is neither.
    """
    own = method_of(trained)
    require(
        own or given,
        "config.method is needed, as the checkpoint does not say what trained it: give one of "
        f"{', '.join(METHODS)}",
    )
    require(
        not own or given in (None, own),
        f"config.method={given} contradicts the checkpoint, which was {dials(trained)}"
        f"{f' ({METHODS[own]})' if own in METHODS else ', a method without rows'}: leave it out",
    )
    return own or given or OTHER


def fits(need: Mapping[str, Any], source: Checkpoint) -> bool:
    """Whether a checkpoint is the network that a cell is about, its method aside."""
    network = source.trained.network
    if (network.depth, network.width) != (need["depth"], need["width"]):
        return False
    return need["method"] == "random" or source.data == need["data"]


def is_usable(need: Mapping[str, Any], source: Checkpoint, any_network: bool) -> bool:
    """Whether a cell may run on a checkpoint: never on one of a method of other rows."""
    if need["method"] != "random" and source.method != need["method"]:
        return any_network and source.method == OTHER
    return any_network or fits(need, source)


def departures_of(
    need: Mapping[str, Any], source: Checkpoint, wanted: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Where a checkpoint is not the network of a cell, in words.

    Args:
      need: network of the cell.
      source: the checkpoint.
      wanted: config of the page that trains the paper's network; None where only the architecture
        counts.
    """
    trained = source.trained
    departures = [] if fits(need, source) else [source.words]
    if trained.network.stem != "imagenet":
        departures.append(f"stem {trained.network.stem}")
    if wanted is None:
        return tuple(departures)
    if _is_foreign(trained):
        return (*departures, f"weights of {trained.origin}, whose recipe is unknown")
    own = _length(trained, wanted)
    if source.method != OTHER:  # its words have said that all further settings are others
        if trained.method == "supervised":
            wanted = _on_labels(wanted)
        own += _other_settings(trained, wanted, need["operations"])
    if own and need["words"]:
        own.append(f"the paper's network has {need['words']}")
    return (*departures, *own)


def _length(trained: weights.Trained, wanted: Mapping[str, Any]) -> list[str]:
    """Size, length and batch of a training, where they are not the paper's."""
    run, departures = trained.config, []
    if (trained.recipe or "").startswith("not published"):
        departures.append(f"recipe {trained.recipe}")
    if trained.image_size != wanted["image_size"]:
        departures.append(f"pre-trained at {trained.image_size} pixels")
    if run.get("num_steps"):
        departures.append(f"pre-trained for {run['num_steps']} steps")
    elif (run.get("num_epochs") or wanted["num_epochs"]) != wanted["num_epochs"]:
        departures.append(f"pre-trained for {run['num_epochs']:g} epochs")
    if (run.get("batch_size") or wanted["batch_size"]) != wanted["batch_size"]:
        departures.append(f"pre-trained at batch {run['batch_size']}")
    if trained.total_steps is None:
        departures.append("pre-trained for an unknown number of steps")
    elif trained.step < trained.total_steps:
        departures.append(f"pre-training at step {trained.step} of {trained.total_steps}")
    return departures


def _on_labels(page: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a supervised page, in the form in which a checkpoint has its own."""
    config = ml_collections.ConfigDict(page)
    config.dataset = "tfds:imagenet2012"  # which images they are is compared elsewhere
    data = recipes.data_of(config, None)
    (cell,) = cells_of(config)
    return {**saved.config_of(config, cell, data.cropping), "network": page["encoder"]}


def _other_settings(
    trained: weights.Trained, wanted: Mapping[str, Any], operations: Mapping[str, Any]
) -> list[str]:
    """All further settings that can change a number and are not the paper's, by section.

    Args:
      trained: the checkpoint. A key that its config lacks came later, and was at its default.
      wanted: the paper's config, in the same form.
      operations: names of operations that T must have, at any probability.
    """
    run = trained.config
    if trained.method == "supervised" and run["augmentation"] is None:
        return ["trained with unknown augmentations, crops, rate, length and batch"]
    own, papers = _compared(run), _compared(wanted)
    lacking = [name for name in operations if not run["augment"]["view1"].get(name)]
    by_section: dict[str, list[str]] = {}
    for key in sorted(own.keys() & papers.keys()):
        section, _, name = key.rpartition(".")
        if own[key] != papers[key] and name not in operations:
            changed = f"{name}={_text(own[key])} ({_text(papers[key])})"
            by_section.setdefault(section, []).append(changed)
    settings = [f"{section} {' '.join(names)}".strip() for section, names in by_section.items()]
    return settings + ([f"T without {', '.join(lacking)}"] if lacking else [])


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values by dotted key that are compared one by one."""
    apart = set(_APART)
    objective = config.get("objective", {}).get("name")
    apart |= {f"objective.{name}" for name in config.get("objective", {}) if name != objective}
    if objective:
        apart |= _OF_TARGET if config.get("target") == "online" else set()
        has_predictor = config["network"].get("predictor", {}).get("kind", "mlp") != "none"
        apart |= set() if has_predictor else _OF_PREDICTOR
    else:  # trained on labels: f alone
        apart |= {"network.projector", "network.predictor", "network.head_bias"}
        apart |= {"checkpoint", "benchmark", "start"}
    for column, values in config["augment"].items():
        if isinstance(values, Mapping):
            unused = [names for name, names in _OF_OPERATIONS.items() if values.get(name) == 0]
            apart |= {f"augment.{column}.{name}" for names in unused for name in names}
    return {
        key: value
        for key, value in checks.deciding(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in apart)
    }


def _text(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else str(value)
