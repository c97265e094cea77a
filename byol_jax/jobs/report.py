"""The job `report`: one page of HTML that shows a run, `results/report.html.jinja`."""

import json
import logging
import pathlib
import shlex
from typing import Any, NamedTuple

import markupsafe
import ml_collections

import byol_jax
from byol_jax import weights
from byol_jax.augment import byol
from byol_jax.checks import at_least, changes_in, check_keys, flatten, one_of, within
from byol_jax.data import sources, stored
from byol_jax.data.images import ImageSet
from byol_jax.data.views import examples
from byol_jax.encoder import NETWORKS
from byol_jax.entries import OBJECTIVES
from byol_jax.errors import UserError, require
from byol_jax.evals import checkpoint
from byol_jax.jobs import pictures, representations
from byol_jax.jobs.embed import namer
from byol_jax.method import views_of
from byol_jax.results import curves, html, records, tables
from byol_jax.runtime import checkpoints, disk, processes

_logger = logging.getLogger(__name__)

FILE = "report.html"
RULES = {
    "network": one_of(NETWORKS),
    "points": within(1, representations.POINTS),
    "batch_size": at_least(1),
}
# Images whose views are shown, and views of each kind.
_IMAGES, _DRAWS = 6, 3
_TILE = 96  # side of a shown picture in pixels
# Below it, projections are nearly or wholly one point (docs/ablations.md).
_LOW, _COLLAPSED = 0.5, 0.05
# Share of a run in which the rank may fall from that of drawn weights.
_WARMUP = 0.1
# What the page tells of a run, in this order.
_SETTINGS = (
    *("dataset", "data.split", "image_size", "batch_size", "accumulate", "num_epochs", "num_steps"),
    *("network.depth", "network.width", "network.stem", "objective.name", "target", "tau_base"),
    *("optimizer.name", "optimizer.base_learning_rate", "optimizer.warmup_epochs"),
    *("optimizer.weight_decay", "data.area_min", "precision", "seed", "init"),
)
_PROTOCOLS = {
    "knn": "weighted nearest neighbours among frozen features; nothing is trained",
    "linear": "logistic regression on frozen features, its penalty chosen on training images",
    "linear/2-per-class": "logistic regression on two labels per class, mean over many draws",
    "projection": "spread of the projections (std x sqrt(d)): about 1 is healthy, 0 is a collapse",
}
_NETWORKS = {
    "pixels": "the raw pixels, for comparison",
    "random": "the same network untrained, with weights that the seed draws",
    "target": "the target network",
    "online": "the trained network, whose representation is kept",
}
_PAGES = {
    "protocols": "what each number means, and how it is measured",
    "own-data": "what to turn for your own images, and what to expect of loss, spread and rank",
    "outside": "the encoder in Python, embeddings of whole folders, files of a workdir",
    "export": "the encoder in PyTorch, timm, ONNX and TensorFlow",
    "deviations": "the paper, the authors' code, and what is done here",
}


class Options(NamedTuple):
    """What a report is made of; the defaults are those of experiments/report.py."""

    network: str = "online"
    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    points: int = representations.POINTS
    batch_size: int = 256


_DEFAULT = Options()


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `report.html` of `config.checkpoint` into `workdir`.

    Raises:
      UserError: the checkpoint is not one of a pre-training, its workdir has no metrics, or the
        images cannot be read.
    """
    require(config.checkpoint, "config.checkpoint is needed: the workdir of a run")
    check_keys(config, RULES)
    options = Options(**{name: config[name] for name in Options._fields})
    if processes.is_first_process():
        write(config.checkpoint, workdir, options)


def write(path: str, workdir: pathlib.Path, options: Options = _DEFAULT) -> pathlib.Path:
    """Writes `report.html` of a run into `workdir`, in place of an older one, which it says.

    Args:
      path: the run's workdir, or one step of its checkpoints.
      workdir: where the page goes.
      options: what it is made of.

    Raises:
      UserError: see `run`.
    """
    require(
        workdir.is_dir() or not workdir.exists(),
        f"--workdir={workdir} is a file: name a folder for the report",
    )
    require(
        not weights.is_single(path),
        f"config.checkpoint={path} is one network without the run that made it, and a report shows "
        "a run: give the workdir of one",
    )
    given = ml_collections.ConfigDict({"checkpoint": str(path)})
    trained = checkpoint.load_weights(given)
    require(
        trained.config.get("job") == "pretrain",
        f"config.checkpoint={path} is of the job {trained.config.get('job')!r}, and a report shows "
        "a pre-training: give the workdir of one",
    )
    checkpoint.check_networks(trained, [options.network])
    metrics_file = checkpoints.workdir_of(path) / "metrics.jsonl"
    require(
        metrics_file.is_file(),
        f"config.checkpoint={path}: there is no {metrics_file}, which a run writes as it goes: "
        "give the workdir of a run",
    )
    records.check_place(checkpoints.workdir_of(path))
    metrics = curves.until(curves.read(metrics_file), trained.step)
    require(
        metrics,
        f"config.checkpoint={path}: {metrics_file} holds no values up to step {trained.step}",
    )
    text = html.render(**_contents(trained, checkpoints.workdir_of(path), metrics, options))
    # Names of files may be any bytes, and a page is UTF-8.
    page = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    target = workdir / FILE
    is_new = not target.exists()
    disk.write_text(target, page)
    size = target.stat().st_size / 1e6
    print(f"{'written' if is_new else 'replaced'}: {target} ({size:.1f} MB)", flush=True)
    return target


def _contents(
    trained: weights.Trained, run_folder: pathlib.Path, metrics: curves.Metrics, options: Options
) -> dict[str, Any]:
    """All that the template asks for."""
    config = ml_collections.ConfigDict(dict(trained.config))
    recipe, changed = changes_in(trained.recipe or "")
    flat = flatten(trained.config)
    return {
        "title": f"{run_folder.resolve().name}: {trained.method} on {trained.dataset}",
        "subtitle": f"step {trained.step} of {trained.total_steps}, in {run_folder}",
        "cards": _cards(metrics, trained.step),
        "curves": _curves(trained, metrics),
        **_results(run_folder, trained),
        "evaluate": "python -m byol_jax.main --config=experiments/evaluate.py --config.checkpoint="
        f"{shlex.quote(str(run_folder))} --config.dataset=folder:LABELLED --workdir=DIR",
        "recipe": recipe,
        "changed": [{"key": key, "value": flat.get(key)} for key in changed],
        "settings": [{"key": key, "value": flat[key]} for key in _SETTINGS if key in flat],
        "config": json.dumps(trained.config, indent=2, sort_keys=True),
        "pages": [{"name": page, "words": words} for page, words in _PAGES.items()],
        "docs": _link,
        "version": byol_jax.__version__,
        **_images(trained, config, options),
    }


def _link(page: str) -> str:
    """A page of the documentation: a link where it is on this disk, otherwise its name."""
    name = f"docs/{page}.md"
    file = pathlib.Path(byol_jax.__file__).resolve().parents[1] / name
    if not file.is_file():
        return name
    return markupsafe.Markup('<a href="{}">{}</a>').format(file.as_uri(), name)


def _cards(metrics: curves.Metrics, step: int) -> list[dict[str, Any]]:
    """The last values, with a word on those that look wrong."""

    def last(name: str, split: str = "train") -> float | None:
        series = metrics.get((split, name))
        return None if series is None else float(series.values[-1])

    cards: list[dict[str, Any]] = [{"name": "finished updates", "value": step, "words": ""}]
    for name, title in (("loss", "loss"), ("probe_top1", "online probe, top-1 (%)")):
        if (value := last(name)) is not None:
            cards.append({"name": title, "value": f"{value:.4g}", "words": ""})
    if (spread := last("projection_std")) is not None:
        words = "healthy: the projections spread"
        if spread < _LOW:
            words = "low: projections share much; see its curve"
        if spread < _COLLAPSED:
            words = "collapsed: all images get nearly the same projection"
        bad = spread < _LOW
        cards.append({"name": "spread", "value": f"{spread:.2f}", "words": words, "bad": bad})
    if (rank := last("embedding_rank")) is not None:
        series = metrics["train", "embedding_rank"]
        # That of drawn weights, at the start, may be higher.
        highest = float(series.values[series.steps >= step * _WARMUP].max(initial=rank))
        bad = rank < highest / 2
        words = f"fell to less than half of its highest value, {highest:.1f}" if bad else ""
        cards.append({"name": "effective rank", "value": f"{rank:.1f}", "words": words, "bad": bad})
    if (value := last("knn_top1", "test")) is not None:
        cards.append({"name": "kNN, top-1 (%)", "value": f"{value:.1f}", "words": ""})
    return [{"bad": False, **card} for card in cards]


def _curves(trained: weights.Trained, metrics: curves.Metrics) -> list[dict[str, str]]:
    drawn = []
    for curve in curves.curves_of(trained.method or "byol"):
        svg = curves.draw(curve, metrics)
        if svg:
            drawn.append({"title": curve.title, "svg": svg, "healthy": curve.healthy})
    return drawn


def _results(run_folder: pathlib.Path, trained: weights.Trained) -> dict[str, Any]:
    """The tables of `results.json`, and what is in their rows and columns."""
    file = run_folder / "results.json"
    own = [
        record
        for record in (records.read_results(file) if file.is_file() else [])
        if record.checkpoint_step in (None, trained.step)
    ]
    protocols = dict.fromkeys(record.protocol for record in own)
    networks = {record.network for record in own}
    words = [
        {"name": name, "words": _PROTOCOLS.get(name, "see docs/protocols.md")} for name in protocols
    ]
    words += [{"name": name, "words": text} for name, text in _NETWORKS.items() if name in networks]
    return {"results": [block._asdict() for block in tables.blocks_of(own)], "protocols": words}


def _images(
    trained: weights.Trained, config: ml_collections.ConfigDict, options: Options
) -> dict[str, Any]:
    """What needs the images: views, neighbours, maps; or the reason why they are missing."""
    nothing = {"views": [], "neighbours": [], "maps": [], "missing": ""}
    try:
        dataset, data_dir = checkpoint.dataset_of(
            ml_collections.ConfigDict({"dataset": options.dataset, "data_dir": options.data_dir}),
            trained,
        )
        split = options.split or _split_of(config)
        shown = sources.load(dataset, split, data_dir, decoding=trained.decoding)
        stored.check_readable(shown)
        learnt = sources.load(dataset, config.data.split, data_dir, decoding=trained.decoding)
        contents = nothing | _views(learnt, config)
        contents |= representations.contents(
            trained,
            representations.Shown(
                images=shown,
                name_of=namer(dataset, shown),
                words=_sample(config, split, dataset),
                network=options.network,
                points=options.points,
                batch_size=options.batch_size,
            ),
        )
    except UserError as error:
        if options.dataset or options.data_dir or options.split:
            raise
        _logger.warning("report without images: %s", error)
        reason = f"Left out, because the images of the run cannot be read: {error}."
        hint = " Give --config.dataset= if they are elsewhere now."
        return nothing | {"missing": reason + hint}
    use = {"use_of_labels": _use_of_labels(trained), "views_of": dataset}
    return contents | use


def _use_of_labels(trained: weights.Trained) -> str:
    """What the training did with labels, in words that follow "the labels"."""
    entry = OBJECTIVES.get(trained.method or "")
    if entry is None:
        return ""  # an objective from outside
    if entry.needs_labels:
        return ", which the training learnt from"
    has_probe = trained.network.num_classes > 0
    return f", which the training did not use{' except in its online probe' if has_probe else ''}"


def _split_of(config: ml_collections.ConfigDict) -> str:
    """The scored images of a run that evaluates itself, otherwise those that it is trained on."""
    evaluation = config.evaluation
    split: str = evaluation.score_split if evaluation.at_end else config.data.split
    return split


def _sample(config: ml_collections.ConfigDict, split: str, dataset: str) -> str:
    """Which images these are, and whether the training has seen them, in words."""
    if dataset != config.dataset:
        return f"of the split {split} of {dataset}"
    shared = {*split.split("+")} & {*config.data.split.split("+")}
    return f"of the split {split}, which the training has {'seen' if shared else 'never seen'}"


def _views(image_set: ImageSet, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The first images of the run and views of them, as the job `views` draws them."""
    name_of = namer(image_set.name, image_set)
    ids, _ = examples(config.seed, image_set.size, 0, min(_IMAGES, image_set.size))
    drawn = pictures.draw(image_set, ids, _DRAWS, config)
    rows = []
    for i, views in zip(ids.tolist(), drawn, strict=True):
        whole = stored.picture(image_set, i, exif=config.data.exif)
        flat = views.reshape(-1, *views.shape[2:])
        rows.append(
            {
                "name": name_of(i),
                "image": None if whole is None else html.data_uri(html.shrunk(whole, _TILE)),
                "views": [html.data_uri(html.shrunk(view, _TILE)) for view in flat],
            }
        )
    columns = [view.params for view in views_of(config)[:2]]
    return {
        "views": rows,
        "draws": _DRAWS,
        "tiny": config.image_size <= 32,
        "dark_frames": byol.blur_radius(drawn[0, 0, 0]) > 0 and any(c.blur for c in columns),
        "solarized": " and ".join(
            name for name, c in zip(("T", "T'"), columns, strict=True) if c.solarize
        ),
    }
