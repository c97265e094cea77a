"""The job `embed`: the embeddings of a whole data set as files."""

import contextlib
import itertools
import logging
import os
import pathlib
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import __version__, encoder, weights
from byol_jax.augment import byol
from byol_jax.checks import at_least, check_keys, one_of
from byol_jax.data import crops, images, pipeline, sources, stored
from byol_jax.data.depth import to_record
from byol_jax.data.folder import parts_of
from byol_jax.data.images import ImageSet, Records
from byol_jax.errors import UserError, require
from byol_jax.evals import checkpoint
from byol_jax.jobs import outputs
from byol_jax.results import embeddings
from byol_jax.results.embeddings import Rows
from byol_jax.runtime import disk, metrics, paths

_logger = logging.getLogger(__name__)

RULES = {
    "network": one_of(encoder.NETWORKS),
    "image_size": at_least(1),
    "eval_crop": one_of(crops.EVALUATION_MODES),
    "batch_size": at_least(1),
    "format": one_of(("parquet", "npz")),
    "images_per_part": at_least(1),
}
# What may differ between two commands that write the same embeddings.
_MAY_DIFFER = ("byol_jax", "checkpoint")
# What parts of earlier versions do not say.
_LATER = ("labels_crc32", "depth")
_FOLDER, _NPZ, _UNREADABLE = "embeddings", "embeddings.npz", "unreadable.txt"
# Unreadable images that a message names.
_NAMED = 3


class Work(NamedTuple):
    """What is embedded, and how.

    Attributes:
      encode: the encoder.
      image_set: the images.
      name_of: function from an id to the name of the image.
      image_size: side of the crops in pixels.
      eval_crop: one of `crops.EVALUATION_MODES`.
      batch_size: images per call of the devices; batches start at its multiples.
    """

    encode: encoder.Encoder
    image_set: ImageSet
    name_of: Callable[[int], str]
    image_size: int
    eval_crop: str
    batch_size: int

    @property
    def size(self) -> int:
        """The number of images, unreadable ones included."""
        return self.image_set.size


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `embed`: writes `embeddings/part-NNNNN.parquet`, or `embeddings.npz`.

    Raises:
      UserError: for a config that does not fit, or files of another command in the workdir, before
        anything is computed; while it runs, more images than `stored.tolerated` cannot be read.
      Stopped: after SIGINT or SIGTERM.
    """
    check_keys(config, RULES)
    require(config.checkpoint, f"config.checkpoint is needed: {weights.KINDS}")
    count = jax.process_count()
    require(
        count == 1,
        f"the job embed is for one process, and there are {count}, which would all write the same "
        "files: start one",
    )
    encode = encoder.load_encoder(config.checkpoint, config.network)
    dataset, data_dir = checkpoint.dataset_of(config, encode.trained)
    dataset = dataset.rstrip("/")  # folder:DIR/ is folder:DIR
    image_set = sources.load(dataset, config.split, data_dir, decoding=encode.trained.decoding)
    work = Work(
        encode=encode,
        image_set=image_set,
        name_of=namer(dataset, image_set),
        image_size=config.image_size or encode.image_size,
        eval_crop=config.eval_crop or encode.trained.cropping.eval_crop,
        batch_size=min(config.batch_size, image_set.size),
    )
    about = {
        "checkpoint": config.checkpoint,
        "dataset": dataset,
        "split": config.split,
        **about_of(work),
    }
    if config.format == "npz":
        _write_npz(work, about, workdir, config.to_dict())
    else:
        about["images_per_part"] = config.images_per_part
        _write_parts(work, about, workdir, config.to_dict())


def namer(dataset: str, image_set: ImageSet) -> Callable[[int], str]:
    """Names of images by id.

    In a folder it is the file's path, relative to the folder, with `/`; elsewhere what messages
    call the record; and the id itself where images have no name.
    """
    records = image_set.images
    if not isinstance(records, Records):
        return str
    kind, _, argument = dataset.partition(":")
    if kind != "folder":
        return records.describe
    above = str(paths.outside(parts_of(argument)[0]) / "_").removesuffix("_")

    def relative(i: int) -> str:
        path = records.describe(i).removeprefix(above)
        # Parquet has UTF-8 alone, and file names are any bytes.
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    return relative


def about_of(work: Work) -> dict[str, Any]:
    """What decides the numbers, and what a reader of them has to know."""
    trained, image_set = work.encode.trained, work.image_set
    spec = trained.network
    if image_set.multi_label:
        _logger.info("%s has several classes per image: the labels stay empty", image_set.name)
    return {
        "byol_jax": __version__,
        "checkpoint_step": trained.step,
        "network": work.encode.name,
        "encoder": {
            "depth": spec.depth,
            "width": spec.width,
            "stem": spec.stem,
            "padding": spec.padding,
            "dim": work.encode.dim,
        },
        "origin": trained.origin,
        "licence": trained.licence,
        "weights_crc32": _crc_of_weights(work.encode),
        "images": work.size,
        "images_crc32": _crc_of_images(work),
        "labels_crc32": images.fingerprint(image_set).get("labels_crc32"),
        **to_record(image_set.depth),
        "classes": [] if image_set.multi_label else list(image_set.classes),
        "image_size": work.image_size,
        "eval_crop": work.eval_crop,
        "exif": trained.cropping.exif,
        "normalisation": {"mean": list(byol.IMAGENET_MEAN), "std": list(byol.IMAGENET_STD)},
    }


def _crc_of_weights(encode: encoder.Encoder) -> int:
    """Tells two trainings apart whose steps and settings are the same."""
    crc = 0
    for leaf in jax.tree.leaves((encode.params, encode.state)):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return crc


def _crc_of_images(work: Work) -> int | None:
    """Tells two states of a data set apart: by names and sizes of files, or by pixels.

    None for a set of TFDS, which has a version instead.
    """
    records = work.image_set.images
    if not isinstance(records, Records):
        return zlib.crc32(np.ascontiguousarray(records).data)
    if not work.image_set.name.startswith("folder:"):
        return None
    crc = 0
    for i in range(work.size):
        try:
            size = os.stat(records.describe(i)).st_size
        except OSError:
            size = -1  # unreadable, which the reader says
        crc = zlib.crc32(f"{work.name_of(i)} {size}\n".encode(), crc)
    return crc


def check_same(path: pathlib.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses a file of embeddings that another command wrote.

    Raises:
      UserError: names the first thing that differs.
    """
    outputs.check_same(path, old, new, "embeddings", _MAY_DIFFER, _LATER)


# ---------------------------------------------------------------- embeddings in order


def embedded(
    work: Work, ids: range, edges: int, advance: Callable[[int], None]
) -> Generator[tuple[Rows, int], None, None]:
    """Embeds images in order, a batch at a time.

    Batches start at multiples of their size, so that the numbers of an image do not depend on where
    a job began.

    Args:
      work: what is embedded.
      ids: the images.
      edges: images per part.
      advance: called after each batch with the number of embedded images; it may raise.

    Yields:
      Rows of one part, which may be none, and the id behind the last image that they cover. The
      last images are left out where they cannot be read.

    Raises:
      UserError: more images than `stored.tolerated` cannot be read.
    """
    apply = encoder.on_crops(work.encode, work.batch_size)
    batches = pipeline.evaluation_batches(
        work.image_set,
        image_size=work.image_size,
        mode=work.eval_crop,
        batch_size=work.batch_size,
        exif=work.encode.trained.cropping.exif,
        start=ids.start // work.batch_size * work.batch_size,
    )
    position = ids.start
    with contextlib.closing(batches):
        for batch in batches:
            end = min(int(batch["ids"][-1]) + 1, ids.stop)
            if end > position:
                rows = _rows(work, batch, apply(batch["images"]))
                advance(end)
                yield from _cut(rows, range(position, end), edges)
                position = end
            if end == ids.stop:
                break


def _rows(work: Work, batch: Mapping[str, np.ndarray], values: np.ndarray) -> Rows:
    ids, labels = batch["ids"].astype(np.int64), batch["labels"].astype(np.int64)
    if work.image_set.multi_label:
        labels = np.full(len(ids), -1)
    return Rows(ids, [work.name_of(i) for i in ids.tolist()], labels, values)


def _cut(rows: Rows, ids: range, edges: int) -> Iterator[tuple[Rows, int]]:
    """The rows of some images, in pieces that each belong to one part, and where these end."""
    start = ids.start
    while start < ids.stop:
        stop = min(ids.stop, (start // edges + 1) * edges)
        chosen = slice(*np.searchsorted(rows.ids, [start, stop]).tolist())
        yield rows.of(chosen), stop
        start = stop


def _until(pieces: Iterator[tuple[Rows, int]], stop: int) -> Iterator[Rows]:
    """Takes the pieces that end at `stop` or before; what follows is not computed yet."""
    for rows, end in pieces:
        yield rows
        if end == stop:
            return


# ---------------------------------------------------------------- files


def _write_parts(
    work: Work, about: Mapping[str, Any], workdir: pathlib.Path, config: Mapping[str, Any]
) -> None:
    """Writes the parts that the workdir lacks."""
    folder, edges = workdir / _FOLDER, about["images_per_part"]
    count = -(-work.size // edges)
    missing, left_out = _look(work, about, folder)
    if not missing:
        _name_unreadable(work, left_out, workdir)
        count = work.size - len(left_out)
        print(f"nothing to do: {folder} has all {count} embeddings", flush=True)
        return
    stored.check_readable(work.image_set)
    sources.announce(work.image_set)
    metrics.write_config(workdir, config)
    if len(missing) < count:
        _logger.info("%d of %d parts are in %s: going on", count - len(missing), count, folder)

    def stopped() -> str:
        done = sum(path_of(folder, part).exists() for part in range(count))
        return f"{done} of {count} parts are in {folder}; the same command goes on from there"

    kept = f"the parts in {folder} are complete"
    with (
        outputs.advancing(work.size, "embeddings", stopped) as advance,
        disk.writing(workdir, kept),
    ):
        for parts in _consecutive(missing):
            ids = range(parts.start * edges, min(parts.stop * edges, work.size))
            with contextlib.closing(embedded(work, ids, edges, advance)) as pieces:
                for part in parts:
                    path = path_of(folder, part)
                    embeddings.write_part(
                        path,
                        workdir / f"{path.name}.partial",
                        _until(pieces, min((part + 1) * edges, work.size)),
                        work.encode.dim,
                        about,
                    )
                    left_out += _left_out(work, path, part, edges)
                    _check_readable(work, left_out)
    _name_unreadable(work, left_out, workdir)
    rows = work.size - len(left_out)
    print(
        f"written: {folder}, {rows} embeddings of {work.encode.dim} numbers in {count} part(s); "
        f"to read them: pyarrow.parquet.read_table({str(folder)!r})",
        flush=True,
    )


def path_of(folder: pathlib.Path, part: int) -> pathlib.Path:
    """The file of a part."""
    return folder / f"part-{part:05d}.parquet"


def _look(
    work: Work, about: Mapping[str, Any], folder: pathlib.Path
) -> tuple[list[int], list[int]]:
    """The parts that a folder lacks, and the ids of unreadable images in those that it has.

    Raises:
      UserError: a part is of another command, or more images than `stored.tolerated` cannot be
        read.
    """
    for path in sorted(folder.glob("*.parquet")):
        check_same(path, embeddings.part_about(path), about)
    missing, left_out = [], []
    edges = about["images_per_part"]
    for part in range(-(-work.size // edges)):
        path = path_of(folder, part)
        if path.exists():
            left_out += _left_out(work, path, part, edges)
        else:
            missing.append(part)
    _check_readable(work, left_out)
    return missing, left_out


def _consecutive(numbers: Sequence[int]) -> Iterator[range]:
    """Runs of successive numbers: 0, 1, 4 -> range(0, 2), range(4, 5)."""
    for _, pairs in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run_of = [number for _, number in pairs]
        yield range(run_of[0], run_of[-1] + 1)


def _left_out(work: Work, path: pathlib.Path, part: int, edges: int) -> list[int]:
    """The ids of the images of a part that have no row in it."""
    ids = np.arange(part * edges, min((part + 1) * edges, work.size))
    return np.setdiff1d(ids, embeddings.part_ids(path)).tolist()


def _check_readable(work: Work, left_out: Sequence[int]) -> None:
    """Refuses a set by its unreadable images, those of earlier runs of the command included."""
    if len(left_out) > stored.tolerated(work.size):
        names = ", ".join(work.name_of(i) for i in left_out[:_NAMED])
        raise UserError(
            f"{len(left_out)} of {work.size} images of {work.image_set.name} cannot be read, more "
            f"than {stored.limit_of(work.size)}: {names}{', ...' * (len(left_out) > _NAMED)}; "
            "repair or remove them, and give another --workdir"
        )


def _name_unreadable(work: Work, left_out: Sequence[int], workdir: pathlib.Path) -> None:
    """Lists the images without an embedding in a file, if there are any."""
    path = workdir / _UNREADABLE
    if left_out:
        disk.write_text(path, "".join(f"{work.name_of(i)}\n" for i in sorted(left_out)))
        _logger.warning("%d image(s) have no embedding, see %s", len(left_out), path)
    else:
        path.unlink(missing_ok=True)  # of a part that was removed, and made again of repaired files


def _write_npz(
    work: Work, about: Mapping[str, Any], workdir: pathlib.Path, config: Mapping[str, Any]
) -> None:
    """Writes all embeddings as one file."""
    path = workdir / _NPZ
    if path.exists():
        check_same(path, embeddings.npz_about(path), about)
        print(f"nothing to do: {path} has all embeddings", flush=True)
        return
    stored.check_readable(work.image_set)
    sources.announce(work.image_set)
    metrics.write_config(workdir, config)
    with outputs.advancing(work.size, "embeddings", lambda: "nothing is written") as advance:
        pieces = embedded(work, range(work.size), work.size, advance)
        rows = embeddings.joined((piece for piece, _ in pieces), work.encode.dim)
    embeddings.write_npz(path, rows, about)
    left_out = np.setdiff1d(np.arange(work.size), rows.ids).tolist()
    _name_unreadable(work, left_out, workdir)
    print(
        f"written: {path}, {len(rows.ids)} embeddings of {work.encode.dim} numbers; to read them: "
        f"numpy.load({str(path)!r})['embeddings']",
        flush=True,
    )
