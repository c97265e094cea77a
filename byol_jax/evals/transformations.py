"""Which transformation was applied, read from h and from g(h): SimCLR section 4.2, Table 3.

Every image is drawn by the crop and T of the pre-training, but whether one operation of T is
applied, or how far it turns, is drawn apart: that is the label. It stands in its own place of T, so
the classes differ in it alone. An additional MLP on frozen features of those views predicts it.
"""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from byol_jax import keys, weights
from byol_jax.augment import byol, compose, simclr
from byol_jax.data import images, pipeline, sources, stored
from byol_jax.data.views import Reading, Stream, View
from byol_jax.errors import require
from byol_jax.evals import checkpoint, features, follow
from byol_jax.evals.probes import logistic, mlp
from byol_jax.evals.splits import Batches, check_disjoint, load_split
from byol_jax.results.records import Record
from byol_jax.runtime import spmd

_logger = logging.getLogger(__name__)


class Task(NamedTuple):
    """A row of Table 3.

    Attributes:
      title: what is predicted.
      operation: the probability of `compose.AugmentParams` that the label stands for.
      classes: how many.
    """

    title: str
    operation: str
    classes: int


TASKS: Mapping[str, Task] = {
    "grayscale": Task("colour or grayscale", "grayscale", 2),
    "rotation": Task("rotation", "rotate", 4),
    "noise": Task("original or corrupted", "noise", 2),
    "sobel": Task("original or Sobel filtered", "sobel", 2),
}
# Outputs of the network, and how the paper writes them.
REPRESENTATIONS: Mapping[str, str] = {"embedding": "h", "projection": "g(h)"}
# Views are scored in this epoch and fitted in those after it: no two draw alike.
_SCORED = range(1)


def draw_labels(
    task: str,
    ids: jax.Array,
    epochs: jax.Array,
    seed: jax.Array | int,
    shares: jax.Array | Sequence[float],
) -> jax.Array:
    """The label of each view: a function of seed, example and epoch, whatever device holds it.

    Args:
      task: one of `TASKS`.
      ids, epochs: int32 `[B]`.
      seed: of the job.
      shares: probabilities of the classes `[K]`.

    Returns:
      int32 `[B]`; for two classes 1 where the operation is applied, else quarters of a turn.
    """
    key = keys.named_key(seed, f"transformation/{task}")
    drawn = jax.vmap(compose.example_key, (None, 0, 0, None))(key, ids, epochs, 1)
    uniforms = jax.vmap(jax.random.uniform)(drawn)
    bounds = jnp.cumsum(jnp.asarray(shares))[:-1]
    return jnp.sum(uniforms[:, None] >= bounds, axis=1, dtype=jnp.int32)


def make_view(
    task: str, image: jax.Array, key: jax.Array, label: jax.Array, params: compose.AugmentParams
) -> jax.Array:
    """T with the task's operation as the label says; else as `compose.make_view`.

    Args:
      task: one of `TASKS`.
      image: `[S, S, 3]` in [0, 1].
      key: a PRNG key of this view alone.
      label: as of `draw_labels`.
      params: T; its probability of the operation is not read.

    Returns:
      The view `[S, S, 3]` in [0, 1], not yet normalised.
    """
    operation = TASKS[task].operation
    if task != "rotation":
        return compose.make_view(image, key, params._replace(**{operation: label}))
    # T draws its turns itself, so here it is made in two parts. Draws go by the names of the
    # operations: both parts together draw what the whole would.
    moves = compose.AugmentParams(
        crop=params.crop, flip=params.flip, color_jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0
    )
    turned = simclr.rotate_quarters(compose.make_view(image, key, moves), label)
    return compose.make_view(turned, key, params._replace(crop=None, flip=0.0, rotate=None))


def make_views(
    task: str,
    crops: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    epochs: jax.Array,
    seed: jax.Array | int,
    params: compose.AugmentParams,
) -> jax.Array:
    """`make_view` of a batch: uint8 `[B, S, S, 3]` -> normalised float32 `[B, S, S, 3]`."""
    drawn = jax.vmap(compose.example_key, (None, 0, 0, None))(
        keys.named_key(seed, "augment"), ids, epochs, 1
    )
    one = functools.partial(make_view, task, params=params)
    return byol.normalize(jax.vmap(one)(byol.to_float(crops), drawn, labels))


class Views(NamedTuple):
    """Features `[N, D]` of views, by the name of the output, and their labels int32 `[N]`."""

    values: dict[str, np.ndarray]
    labels: np.ndarray


@functools.lru_cache(maxsize=16)
def _forward(
    network: hk.TransformedWithState, task: str, outputs: tuple[str, ...]
) -> Callable[..., Any]:
    """One function for all passes of a task, so that it is compiled once."""

    def forward(
        batch: dict[str, jax.Array],
        seed: jax.Array,
        shares: jax.Array,
        view: compose.AugmentParams,
        params: features.Tree,
        state: features.Tree,
    ) -> dict[str, jax.Array]:
        ids, epochs = batch["ids"], batch["epochs"]
        labels = draw_labels(task, ids, epochs, seed, shares)
        views = make_views(task, batch["view1"], labels, ids, epochs, seed, view)
        named, _ = network.apply(params, state, None, views, False)
        return {**{name: named[name] for name in outputs}, "label": labels}

    return spmd.pmap(forward, devices=jax.local_devices())


class Source(NamedTuple):
    """Images, and how the pre-training crops and draws them.

    Attributes:
      image_set: of a split.
      image_size: side of the crops in pixels.
      cropping: T, and the boxes before it.
    """

    image_set: images.ImageSet
    image_size: int
    cropping: weights.Cropping


def extract(
    network: hk.TransformedWithState,
    params: features.Tree,
    state: features.Tree,
    source: Source,
    *,
    task: str,
    epochs: range,
    seed: int,
    shares: Sequence[float],
    outputs: Sequence[str],
    batch_size: int,
) -> Views:
    """Features of a view of every image in every one of these epochs, BatchNorm on its averages.

    Args:
      network: `siamese(spec)`, or the encoder alone.
      params, state: of it.
      source: the images, and T.
      task: one of `TASKS`.
      epochs: each draws all images anew.
      seed: of crops, labels and augmentation.
      shares: probabilities of the classes.
      outputs: names among those of the network.
      batch_size: views per call, over all local devices; less for fewer images.

    Raises:
      UserError: there are fewer images than devices, or too many that cannot be read.
    """
    size, devices = source.image_set.size, len(jax.local_devices())
    batch_size = max(min(batch_size, size) // devices, 1) * devices
    # Batches do not end where epochs do: what is before and behind is left out again.
    first, count = epochs.start * size // batch_size, len(epochs) * size
    cropping = source.cropping
    batches = pipeline.train_batches(
        source.image_set,
        Stream(seed, size, batch_size, start=first, stop=-(-epochs.stop * size // batch_size)),
        [View(source.image_size, cropping.area_range, cropping.aspect_range)],
        Reading(exif=cropping.exif),
    )
    forward = _forward(network, task, tuple(outputs))
    numbers = jax.tree.map(np.float32, (np.asarray(shares), source.cropping.view))
    shared = spmd.replicate((np.int32(seed), *numbers, params, state))
    found = []
    with contextlib.closing(batches):
        for batch in spmd.prefetch(batches, 1):
            out = forward(batch, *shared)
            found.append(jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), out))
    start = epochs.start * size - first * batch_size
    values = {
        name: np.concatenate([rows[name] for rows in found])[start : start + count]
        for name in (*outputs, "label")
    }
    labels = values.pop("label")
    return Views(values, labels)


def shares_of(task: str, probabilities: Mapping[str, float]) -> tuple[float, ...]:
    """Probabilities of a task's classes; the largest is chance."""
    if task == "rotation":
        return (0.25,) * 4
    return (1 - probabilities[task], probabilities[task])


def _chosen(
    config: ml_collections.ConfigDict, name: str, known: Sequence[str], example: str
) -> list[str]:
    """The names that a config joins by +."""
    words: list[str] = config[name].split("+")
    require(
        all(word in known for word in words) and len({*words}) == len(words),
        f"config.{name}={config[name]!r} must be one of {', '.join(known)}, or several, each "
        f"once, as in {example}",
    )
    return words


def check(config: ml_collections.ConfigDict) -> tuple[list[str], list[str], list[str]]:
    """Networks, tasks and representations of a config.

    Raises:
      UserError: for what no run could use, naming the key, its value and what would be right.
    """
    networks = _chosen(config, "network", checkpoint.NETWORKS, "random+online")
    tasks = _chosen(config, "tasks", [*TASKS], "grayscale+rotation")
    outputs = _chosen(config, "representations", [*REPRESENTATIONS], "embedding+projection")
    check_disjoint({f"config.{name}": config[name] for name in ("fit_split", "score_split")})
    for name in ("epochs_of_views", "num_epochs", "batch_size", "eval_batch_size"):
        require(config[name] >= 1, f"config.{name}={config[name]} must be at least 1")
    for name in ("image_size", "hidden_size"):
        value = config[name]
        require(value is None or value >= 1, f"config.{name}={value} must be at least 1")
    rate = config.learning_rate
    require(rate > 0, f"config.learning_rate={rate} must be above 0")
    for name, value in config.probabilities.items():
        require(
            0 < value < 1,
            f"config.probabilities.{name}={value} must be above 0 and below 1: with one class "
            "there is nothing to predict",
        )
    require(0 <= config.seed < 2**31, f"config.seed={config.seed} must be from 0 to 2**31 - 1")
    return networks, tasks, outputs


def _pretrained_with(trained: weights.Trained, task: str) -> dict[str, float]:
    """Probabilities of the task's operation in T and T' of the pre-training."""
    if trained.view2 is None:
        return {}
    operation = TASKS[task].operation
    return {
        name: float(getattr(view, operation) or 0)
        for name, view in (("T", trained.cropping.view), ("T'", trained.view2))
    }


def format_table(records: Sequence[Record]) -> str:
    """The records in the form of Table 3: a row for each task."""
    columns = dict.fromkeys((r.network, r.settings["representation"]) for r in records)
    rows = [["predicted", "in T", "chance", *map(" ".join, columns)]]
    for task in dict.fromkeys(r.settings["task"] for r in records):
        own = [r for r in records if r.settings["task"] == task]
        cells = {(r.network, r.settings["representation"]): r.value for r in own}
        settings = own[0].settings
        seen = f"{settings['pretrained_with']['T']:g}" if settings["pretrained_with"] else "-"
        numbers = [settings["chance"], *(cells[column] for column in columns)]
        rows.append([TASKS[task].title, seen, *(f"{number:.1f}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `transformations`: reads `config.checkpoint`, writes json, prints tables.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    networks, tasks, outputs = check(config)

    @functools.cache  # once, however many checkpoints of a run are followed
    def load(dataset: str, split: str, data_dir: str | None) -> images.ImageSet:
        image_set = sources.load(dataset, split, data_dir)
        stored.check_readable(image_set)
        return image_set

    def evaluate(trained: weights.Trained) -> list[Record]:
        require(
            trained.has_heads or "projection" not in outputs,
            "config.representations: this checkpoint was trained on labels and has no g: "
            "--config.representations=embedding",
        )
        cropping = trained.cropping
        dataset, data_dir = checkpoint.dataset_of(config, trained)
        image_size = config.image_size or trained.image_size
        fit, score = (
            Source(load(dataset, split, data_dir), image_size, cropping)
            for split in (config.fit_split, config.score_split)
        )

        def shuffled() -> Batches:
            return load_split(
                dataset,
                config.fit_split,
                image_size=image_size,
                eval_crop=cropping.eval_crop,
                data_dir=data_dir,
                exif=cropping.exif,
                batch_size=config.eval_batch_size,
            ).shuffled()

        chosen = {
            name: checkpoint.network_of(trained, name, image_size, shuffled) for name in networks
        }
        records = [
            record
            for name, network in chosen.items()
            for task in tasks
            for record in _evaluate(
                trained, name, network, task, fit, score, dataset, outputs, config
            )
        ]
        print(format_table(records), end="\n\n", flush=True)
        return records

    # Records are written together: the last one stands for all.
    done = {
        "protocol": protocol_of(tasks[-1], outputs[-1]),
        "network": max(networks, key=checkpoint.NETWORKS.index),
        "split": config.score_split,
    }
    done |= {"dataset": config.dataset} if config.dataset else {}
    follow.for_each_checkpoint(config, evaluate, workdir, **done)


def protocol_of(task: str, output: str) -> str:
    """As in `transformation/rotation/g(h)`."""
    return f"transformation/{task}/{REPRESENTATIONS[output]}"


def _evaluate(
    trained: weights.Trained,
    name: str,
    chosen: tuple[features.Tree, features.Tree],
    task: str,
    fit: Source,
    score: Source,
    dataset: str,
    outputs: Sequence[str],
    config: ml_collections.ConfigDict,
) -> list[Record]:
    """One task on one network: a pass over the views, and an MLP for each representation."""
    _logger.info("%s, %s network", TASKS[task].title, name)
    shares = shares_of(task, config.probabilities)
    draw = functools.partial(
        extract,
        checkpoint.siamese_of(trained),
        *chosen,
        task=task,
        seed=config.seed,
        shares=shares,
        outputs=outputs,
        batch_size=config.eval_batch_size,
    )
    fit_epochs = range(_SCORED.stop, _SCORED.stop + config.epochs_of_views)
    fitted, scored = draw(fit, epochs=fit_epochs), draw(score, epochs=_SCORED)
    operation = TASKS[task].operation
    view = {
        key: float(value)
        for key, value in fit.cropping.view._asdict().items()
        if key != operation and value is not None
    }
    records = []
    for output in outputs:
        values = fitted.values[output]
        hidden_size = config.hidden_size or values.shape[1]
        recipe: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_epochs": config.num_epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "seed": config.seed,
        }
        found = mlp.predict(
            (values, fitted.labels),
            (scored.values[output], scored.labels),
            classes=TASKS[task].classes,
            **recipe,
        )
        settings = {
            "classifier": "MLP with one hidden layer, ReLU",
            "solver": "adam",
            "schedule": "cosine to 0",
            **recipe,
            **logistic.STANDARDIZED,
            "task": task,
            "representation": REPRESENTATIONS[output],
            "features": values.shape[1],
            "chance": 100 * max(shares),
            "largest_share": 100 * float(np.bincount(scored.labels).max() / len(scored.labels)),
            "fit_top1": found.fit_top1,
            "pretrained_with": _pretrained_with(trained, task) or None,
            "view": view,
            "area_range": list(fit.cropping.area_range),
            "aspect_range": list(fit.cropping.aspect_range),
            "image_size": fit.image_size,
            "fit_split": config.fit_split,
            "fit_views": len(fitted.labels),
            "epochs_of_views": config.epochs_of_views,
            "reference": "SimCLR section 4.2, Table 3",
        }
        records.append(
            follow.record(
                trained,
                name,
                protocol=protocol_of(task, output),
                metric="top1",
                value=found.top1,
                dataset=dataset,
                split=config.score_split,
                n_examples=len(scored.labels),
                settings=settings,
            )
        )
    return records
