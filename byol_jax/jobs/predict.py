"""The job `predict`: masks or depths of one's own images, from a trained dense network."""

import collections
import concurrent.futures
import contextlib
import functools
import json
import logging
import pathlib
import zlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import __version__
from byol_jax.checks import at_least, check_keys
from byol_jax.data import folder, stored
from byol_jax.data.dense import files, targets
from byol_jax.errors import UserError, require
from byol_jax.evals.dense import saved, training, views
from byol_jax.evals.dense.saved import DenseTrained
from byol_jax.jobs import outputs
from byol_jax.results import dense_pictures
from byol_jax.runtime import disk, metrics, paths

_logger = logging.getLogger(__name__)

RULES = {"batch_size": at_least(1), "largest_side": at_least(32), "pictures": at_least(0)}
FOLDERS = {saved.SEGMENTATION: "masks", saved.DEPTH: "depth"}
_ABOUT, _UNREADABLE, _PICTURE = "predict.json", "unreadable.txt", "predictions.png"
# What may differ between two commands that write the same files.
_MAY_DIFFER = ("byol_jax", "checkpoint")
# Batches that are read ahead.
_AHEAD = 3


class Work(NamedTuple):
    """What is predicted.

    Attributes:
      trained: the network.
      root: folder of the images.
      names: paths of the images, relative to it.
      to: folder of the results.
      batch_size: images per call of the devices.
      largest: most pixels of a side in segmentation; a larger image is made smaller for it.
    """

    trained: DenseTrained
    root: pathlib.Path
    names: list[str]
    to: pathlib.Path
    batch_size: int
    largest: int

    def path_of(self, name: str) -> pathlib.Path:
        """The file for an image."""
        return self.to / pathlib.PurePosixPath(name).with_suffix(".png")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `predict`: writes `masks/NAME.png` or `depth/NAME.png` for each image of a folder.

    Raises:
      UserError: for a config that does not fit, or files of another command in the workdir, before
        anything is computed; or more images than `stored.tolerated` cannot be read.
      Stopped: after SIGINT or SIGTERM.
    """
    check_keys(config, RULES)
    require(config.checkpoint, "config.checkpoint is needed: the workdir of segmentation or depth")
    require(config.images, "config.images is needed: a folder of images")
    count = jax.process_count()
    require(
        count == 1,
        f"the job predict is for one process, and there are {count}, which would all write the "
        "same files: start one",
    )
    root = paths.outside(config.images, "config.images")
    require(root.is_dir(), f"config.images={config.images} is no folder: give one of images")
    names = folder.image_files(root)
    require(names, f"config.images={config.images} has no image: add some, or give another folder")
    try:
        trained = saved.load(config.checkpoint)
    except UserError as error:  # which knows the path alone
        raise UserError(str(error).replace("checkpoint=", "config.checkpoint=", 1)) from error
    work = Work(
        trained=trained,
        root=root,
        names=names,
        to=workdir / FOLDERS[trained.task],
        batch_size=config.batch_size,
        largest=config.largest_side,
    )
    _check_names(work)
    about = about_of(work, config.checkpoint)
    path = workdir / _ABOUT
    if path.exists():
        outputs.check_same(path, _read_about(path), about, "predictions", _MAY_DIFFER)
    elif work.to.exists() and any(work.to.iterdir()):
        raise UserError(
            f"{work.to} has files, and {path} is not there to say whose: give another --workdir, "
            "or move them away"
        )
    predict(work, about, workdir, config.to_dict(), config.pictures)


def _check_names(work: Work) -> None:
    """Refuses images whose results would have one name, and a result in place of an image.

    Raises:
      UserError: names two of them.
    """
    seen: dict[pathlib.Path, str] = {}
    for name in work.names:
        path = work.path_of(name)
        require(
            path not in seen,
            f"{work.root}/{seen.get(path)} and {work.root}/{name} would both become {path}: rename "
            "one of them",
        )
        seen[path] = name
    here = work.to.absolute()
    require(
        not here.is_relative_to(work.root.absolute()),
        f"--workdir={here.parent} is in config.images={work.root}, so that results would be "
        "images next time: give another --workdir",
    )


def about_of(work: Work, checkpoint: str) -> dict[str, Any]:
    """What decides the files, and what a reader of them has to know."""
    trained = work.trained
    is_depth = trained.task == saved.DEPTH
    crc = 0
    for leaf in jax.tree.leaves((trained.params, trained.state)):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    own: dict[str, Any] = (
        {"unit": "mm", "eval_crop": trained.eval_crop}
        if is_depth
        else {"classes": list(trained.classes), "largest_side": work.largest}
    )
    return {
        "byol_jax": __version__,
        "checkpoint": checkpoint,
        "checkpoint_step": trained.step,
        "task": trained.task,
        "weights_crc32": crc,
        "images": str(work.root.absolute()),
        **own,
    }


def _read_about(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} cannot be read: give another --workdir, or move it away")


def predict(
    work: Work,
    about: Mapping[str, Any],
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    pictures: int,
) -> None:
    """Writes the files that are missing, and a picture of the first ones.

    Args:
      work: the images and the network.
      about: what is written beside the files.
      workdir: where they go.
      config: of the job.
      pictures: images in the picture; 0 for none.
    """
    missing = [name for name in work.names if not work.path_of(name).exists()]
    if len(missing) < len(work.names):
        done = len(work.names) - len(missing)
        _logger.info("%d of %d images are done in %s", done, len(work.names), work.to)
    disk.write_text(workdir / _ABOUT, json.dumps(about, indent=2) + "\n")
    metrics.write_config(workdir, config)
    bad: dict[str, str] = {}
    deep, done = 0, len(work.names) - len(missing)

    def stopped() -> str:
        return f"{done} of {len(work.names)} are in {work.to}; the same command goes on from there"

    progress = outputs.advancing(len(work.names), "predictions", stopped)
    with progress as advance, contextlib.closing(_predicted(work, missing, bad)) as found:
        for name, _, values in found:
            path = work.path_of(name)
            if work.trained.task == saved.DEPTH:
                deep += bool(dense_pictures.write_depth(path, values))
            else:
                dense_pictures.write_mask(path, values)
            done += 1
            advance(done)
    _name_unreadable(work, bad, workdir)
    if deep:
        _logger.warning("%d images have depths above 65.535 m, which are written as that", deep)
    if pictures:
        _draw(work, workdir / _PICTURE, pictures)
    what = "depths in millimetres" if work.trained.task == saved.DEPTH else "masks"
    print(f"written: {work.to}, {len(work.names) - len(bad)} {what}", flush=True)


def _read(work: Work, name: str) -> views.Seen | str:
    """What the network sees of an image, or why it cannot be read."""
    try:
        image = _pixels(work, name)
    except OSError as error:
        return str(error) or type(error).__name__
    trained = work.trained
    if trained.frames:
        return views.for_depth(image, trained.frames)
    return views.for_segmentation(image, work.largest)


def _pixels(work: Work, name: str) -> np.ndarray:
    return files.pixels((work.root / name).read_bytes(), work.trained.decoding)


def _predicted(
    work: Work, names: list[str], bad: dict[str, str]
) -> Generator[tuple[str, views.Seen, np.ndarray], None, None]:
    """Each image with its classes or depths, in order; `bad` receives what cannot be read.

    Raises:
      UserError: more images than `stored.tolerated` cannot be read.
    """
    trained = work.trained
    apply = training.predictor(trained.program, trained.params, trained.state, work.batch_size)
    for batch in _batched(work, names, bad):
        found = apply(np.stack([seen.pixels for _, seen in batch]))
        for (name, seen), values in zip(batch, found, strict=True):
            if trained.frames:
                yield name, seen, views.depths_of(values, seen, trained.eval_crop)
            else:
                yield name, seen, views.classes_of(values, seen)


def _batched(
    work: Work, names: list[str], bad: dict[str, str]
) -> Iterator[list[tuple[str, views.Seen]]]:
    """Images that follow each other and have canvases of one size, in batches."""
    batch: list[tuple[str, views.Seen]] = []
    for name, seen in _read_ahead(work, names):
        if isinstance(seen, str):
            bad[name] = seen
            _logger.warning("%s/%s cannot be read and is left out: %s", work.root, name, seen)
            if len(bad) > stored.tolerated(len(work.names)):
                reasons = dict(enumerate(bad.values()))
                raise stored.refusal(
                    f"config.images={work.root}", [*bad].__getitem__, reasons, len(work.names)
                )
            continue
        if batch and batch[0][1].pixels.shape != seen.pixels.shape:
            yield batch
            batch = []
        batch.append((name, seen))
        if len(batch) == work.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_ahead(work: Work, names: list[str]) -> Iterator[tuple[str, views.Seen | str]]:
    """Images in order, read by threads that work ahead."""
    read = functools.partial(_read, work)
    waiting: collections.deque[tuple[str, concurrent.futures.Future[Any]]] = collections.deque()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        stack.callback(pool.shutdown, cancel_futures=True)
        for name in names:
            waiting.append((name, pool.submit(read, name)))
            if len(waiting) > _AHEAD * work.batch_size:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _name_unreadable(work: Work, bad: Mapping[str, str], workdir: pathlib.Path) -> None:
    """Lists the images without a result in a file, if there are any."""
    path = workdir / _UNREADABLE
    if bad:
        disk.write_text(path, "".join(f"{name}: {reason}\n" for name, reason in bad.items()))
        _logger.warning("%d image(s) have no result, see %s", len(bad), path)
    else:
        path.unlink(missing_ok=True)


def _draw(work: Work, path: pathlib.Path, count: int) -> None:
    """Draws the first images beside what was written of them."""
    examples: list[dense_pictures.Example] = []
    for name in work.names:
        file = work.path_of(name)
        if len(examples) < count and file.exists():
            values = targets.indices(file.read_bytes(), str(file))
            if work.trained.task == saved.DEPTH:
                values = values.astype(np.float32) / 1000
            examples.append(dense_pictures.Example(_pixels(work, name), values))
    if not examples:
        return
    if work.trained.task == saved.DEPTH:
        dense_pictures.draw_depths(path, examples)
    else:
        dense_pictures.draw_masks(path, examples, work.trained.classes)
