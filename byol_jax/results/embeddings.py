"""Files of embeddings: a folder of Parquet parts that are written as a stream, or one npz file."""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from byol_jax.errors import UserError
from byol_jax.runtime import disk

# Key of what a part says of itself, as JSON, in the metadata of its schema.
ABOUT = b"byol_jax"
# Rows of a row group, and so the most rows that wait in memory, but for the rest of a batch.
GROUP = 1000


class Rows(NamedTuple):
    """Embeddings of images, in the order of the set.

    Attributes:
      ids: places of the images in the set, int64 `[b]`.
      paths: names of the images.
      labels: int64 `[b]`; -1 = none.
      embeddings: float32 `[b, dim]`.
    """

    ids: np.ndarray
    paths: list[str]
    labels: np.ndarray
    embeddings: np.ndarray

    def of(self, chosen: slice) -> "Rows":
        """Some of the rows."""
        return Rows(
            self.ids[chosen], self.paths[chosen], self.labels[chosen], self.embeddings[chosen]
        )


def joined(parts: Iterable[Rows], dim: int) -> Rows:
    """All rows of some parts, which may be none, of embeddings of `dim` numbers."""
    empty = np.zeros(0, np.int64)
    parts = [Rows(empty, [], empty, np.zeros((0, dim), np.float32)), *parts]
    return Rows(
        np.concatenate([part.ids for part in parts]),
        [path for part in parts for path in part.paths],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
    )


def _groups(batches: Iterable[Rows], dim: int) -> Iterator[Rows]:
    """The same rows, `GROUP` or a few more at a time."""
    waiting: list[Rows] = []
    for rows in batches:
        waiting.append(rows)
        if sum(len(part.ids) for part in waiting) >= GROUP:
            group = joined(waiting, dim)
            waiting = []
            yield group
    if any(part.ids.size for part in waiting):
        yield joined(waiting, dim)


def _schema(dim: int, about: Mapping[str, Any]) -> Any:
    columns = {
        "path": pa.string(),
        "id": pa.int64(),
        "label": pa.int64(),
        "embedding": pa.list_(pa.float32(), dim),
    }
    return pa.schema(columns.items(), {ABOUT: json.dumps(about)})


def _table(rows: Rows, schema: Any) -> Any:
    values = pa.array(np.ascontiguousarray(rows.embeddings, np.float32).reshape(-1))
    columns = [
        pa.array(rows.paths, pa.string()),
        pa.array(rows.ids, pa.int64()),
        pa.array(rows.labels, pa.int64(), mask=rows.labels < 0),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_part(
    path: pathlib.Path,
    temporary: pathlib.Path,
    batches: Iterable[Rows],
    dim: int,
    about: Mapping[str, Any],
) -> None:
    """Writes a Parquet file row group by row group, and gives it its name once it is complete.

    A Parquet file cannot be read before it is closed.

    Args:
      path: the file.
      temporary: its name until then. It is in another folder of the same disk, as most programs
        read every file of a folder of Parquet.
      batches: the rows, in order; they may be none.
      dim: numbers per embedding.
      about: what the metadata of the schema says, as JSON.
    """
    schema = _schema(dim, about)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            # Floats repay neither a dictionary nor, byte by byte as they come, a compression.
            use_dictionary=["path"],
            use_byte_stream_split=["embedding.list.element"],
        ) as writer:
            for group in _groups(batches, dim):
                writer.write_table(_table(group, schema), row_group_size=len(group.ids))
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def part_about(path: pathlib.Path) -> dict[str, Any]:
    """What a part says of itself.

    Raises:
      UserError: it is no such file.
    """
    try:
        about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[ABOUT])
        return about
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise _foreign(path, error) from error


def part_ids(path: pathlib.Path) -> np.ndarray:
    """The ids of a part, int64."""
    return np.asarray(pq.read_table(path, columns=["id"])["id"].to_numpy())


def _foreign(path: pathlib.Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"{path} is no file of embeddings of this program ({reason}): give another --workdir, or "
        "move that file away"
    )


def write_npz(path: pathlib.Path, rows: Rows, about: Mapping[str, Any]) -> None:
    """Writes all rows as one file, which gets its name once it is complete."""
    with disk.replacing(path) as file:
        np.savez(
            file,
            embeddings=rows.embeddings,
            labels=rows.labels,
            paths=np.array(rows.paths, np.str_),
            ids=rows.ids,
            about=np.array(json.dumps(about)),
        )


def npz_about(path: pathlib.Path) -> dict[str, Any]:
    """What an npz file says of itself.

    Raises:
      UserError: it is no such file.
    """
    try:
        with np.load(path) as arrays:
            about: dict[str, Any] = json.loads(str(arrays["about"]))
            return about
    except Exception as error:  # numpy has many errors for damaged files
        raise _foreign(path, error) from error
