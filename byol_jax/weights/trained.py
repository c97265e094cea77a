"""`Trained`: two trained networks and what is known of their training, from any source."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from byol_jax.augment import compose
from byol_jax.data.depth import UNSEEN, Depth, of_record
from byol_jax.data.images import LARGEST, Decoding
from byol_jax.networks import siamese

# A haiku tree of numpy arrays: module path -> leaf -> value.
Tree = Mapping[str, Mapping[str, Any]]
# Licences of other people's weights.
NON_COMMERCIAL = "CC BY-NC 4.0"
UNKNOWN_LICENCE = "unknown: ask its authors"
# Jobs that train networks on a target per pixel.
PER_PIXEL = ("segmentation", "depth")


class Cropping(NamedTuple):
    """How a training made views of images; the defaults are App. C's.

    Attributes:
      view: T, the augmentations of view 1.
      area_range: smallest and largest share of the image's area in a random crop.
      aspect_range: smallest and largest width over height of a random crop.
      eval_crop: one of `crops.EVALUATION_MODES`.
      exif: whether images are turned as EXIF says.
      largest: megapixels above which an image counts as unreadable.
    """

    view: compose.AugmentParams = compose.AugmentParams()
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)
    eval_crop: str = "paper"
    exif: bool = False
    largest: float = LARGEST

    @property
    def decoding(self) -> Decoding:
        """How the training read stored images."""
        return Decoding(self.exif, self.largest)


class Trained(NamedTuple):
    """A trained pair of networks and what is needed to rebuild and judge it.

    Attributes:
      network: spec of both networks, without a mapped axis; `num_classes` counts the outputs of the
        online probe.
      has_heads: whether there are a projector and a predictor; a network that was trained on labels
        has neither.
      image_size: side of the training views in pixels.
      cropping: how views and evaluation crops are made.
      view2: T'; None where it is unknown, and then T is not the training's own either. A network
        that was trained on labels has one T, which stands for both.
      dataset: name of the training set, as in `config.dataset`; None if unknown.
      data_dir: folder of TFDS that the training read; None for the default one.
      seed: seed of the training.
      method: name of the objective, `supervised` for any training on labels, or a job of
        `PER_PIXEL`; None if unknown.
      recipe: the run's own words on who published its settings; None if unknown.
      step: number of finished updates; 0 if the source does not say.
      total_steps: number of updates in the whole run; None if unknown.
      online_params: parameters of the online network, as numpy arrays; or, as in the other trees,
        their shapes and types (`kinds.load`).
      online_state: BatchNorm averages of the online network.
      target_params: parameters of the target network; empty if there is no target.
      target_state: BatchNorm averages of the target network; empty if there is no target.
      config: the run's config as plain dicts. Only three readers need it: the saved identity of a
        training and the saved network of a fine-tuning copy its section `network`, and
        `jobs.pretrained` names its method and compares it with that of the papers' network. A
        source without a config gives the section `network`.
      origin: whose weights they are, or were trained from, in words; None if they are of this
        project alone.
      licence: terms of the origin; None if there is none.
      depth: how values of more than 8 bits became levels; unseen if the source does not say.
    """

    network: siamese.NetworkSpec
    has_heads: bool
    image_size: int
    cropping: Cropping
    view2: compose.AugmentParams | None
    dataset: str | None
    data_dir: str | None
    seed: int
    method: str | None
    recipe: str | None
    step: int
    total_steps: int | None
    online_params: Tree
    online_state: Tree
    target_params: Tree
    target_state: Tree
    config: Mapping[str, Any]
    origin: str | None = None
    licence: str | None = None
    depth: Depth = UNSEEN

    @property
    def decoding(self) -> Decoding:
        """How the images of its training were read."""
        return self.cropping.decoding._replace(depth=self.depth)


def terms_of(trained: Trained) -> dict[str, str]:
    """What a checkpoint that starts from these weights says of them; nothing of our own."""
    terms = {"origin": trained.origin, "licence": trained.licence}
    return {name: value for name, value in terms.items() if value}


def of_weights(
    network: siamese.NetworkSpec,
    section: Mapping[str, Any],
    trees: Mapping[str, Tree],
    *,
    image_size: int,
    step: int,
    method: str | None,
    origin: str | None,
    licence: str | None,
) -> Trained:
    """The networks of a file that does not say how they were trained.

    Evaluations see images as the paper's do: crops of App. C, its normalisation.

    Args:
      network: spec of both networks.
      section: the same as a section `network` of a config.
      trees: the fields of `Trained` that are trees; those of the target may be missing.
      image_size, step, method, origin, licence: as in `Trained`.
    """
    words = {module.partition("/")[0] for module in trees["online_params"]}
    arrays: dict[str, Any] = {"target_params": {}, "target_state": {}, **trees}
    return Trained(
        network=network,
        has_heads=not words.isdisjoint(siamese.HEADS),
        image_size=image_size,
        cropping=Cropping(),
        view2=None,
        dataset=None,
        data_dir=None,
        seed=0,
        method=method,
        recipe=None,
        step=step,
        total_steps=None,
        config={"network": dict(section), "data": {}},
        origin=origin,
        licence=licence,
        **arrays,
    )


def trained_of(
    record: Mapping[str, Any],
    step: int,
    online_params: Tree,
    online_state: Tree,
    target_params: Tree,
    target_state: Tree,
) -> Trained:
    """The networks of a run of this project, from what its checkpoints save.

    Args:
      record: JSON record of a checkpoint, with today's keys (`upgrade.upgrade`).
      step: number of finished updates.
      online_params, online_state: the online network.
      target_params, target_state: the target network; empty if there is none.

    Raises:
      UserError: the record's section `network` describes no network.
    """
    config = record["config"]
    data, columns = config["data"], config["augment"]
    # Networks that are trained on labels have no target network, and no heads of BYOL.
    is_supervised = config["job"] in ("finetune", *PER_PIXEL)
    if is_supervised and "view1" in columns:  # one T, which stands for both
        columns = {"view1": columns["view1"], "view2": columns["view1"]}
    return Trained(
        network=siamese.make_spec(config["network"], record["num_classes"]),
        has_heads=not is_supervised,
        image_size=config["image_size"],
        cropping=Cropping(
            view=compose.from_config(columns.get("view1", {})),
            area_range=(data["area_min"], data["area_max"]),
            aspect_range=(data["aspect_min"], data["aspect_max"]),
            eval_crop=data["eval_crop"],
            exif=data["exif"],
            largest=data.get("largest_image", LARGEST),  # which came later
        ),
        view2=compose.from_config(columns["view2"]) if "view2" in columns else None,
        dataset=config["dataset"],
        data_dir=config["data_dir"],
        seed=config["seed"],
        method=_method_of(config),
        recipe=config["recipe"],
        step=step,
        total_steps=record["total_steps"],
        online_params=online_params,
        online_state=online_state,
        target_params=target_params,
        target_state=target_state,
        config=config,
        origin=record.get("origin"),
        licence=record.get("licence"),
        depth=of_record(record),
    )


def _method_of(config: Mapping[str, Any]) -> str:
    job: str = config["job"]
    if job in PER_PIXEL:
        return job
    name: str = "supervised" if job == "finetune" else config["objective"]["name"]
    return name
