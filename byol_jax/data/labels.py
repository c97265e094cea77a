"""Labels of image files in a table: a CSV file of paths and labels."""

import csv
import posixpath
from collections.abc import Sequence
from typing import NamedTuple

from byol_jax.errors import UserError, require
from byol_jax.runtime import paths

# Names of the two columns; a first line that has one of each is a header.
_PATHS = ("path", "file", "filename", "file_name", "image", "image_path", "name")
_LABELS = ("label", "labels", "class", "category", "target")
# Files named in a message before the rest is abbreviated.
_NAMED = 3


class Table(NamedTuple):
    """Labels of files.

    Attributes:
      rank_of: the rank of its class, or -1 for none, for each file of the table.
      classes: the classes in their order: by number if all are integers, otherwise by word.
    """

    rank_of: dict[str, int]
    classes: tuple[str, ...]


def read(file: str, images: Sequence[str]) -> Table:
    """The labels in a CSV file of two columns, path and label.

    A header is optional; with one the columns may have any order, and others are not read. An empty
    label, or a negative number, is none.

    Args:
      file: path of the CSV file.
      images: paths of all images, relative to their folder, with `/`.

    Raises:
      UserError: the file cannot be read, has other columns, names a file that is not among the
        images, or gives one file two labels.
    """
    rows, has_header = _rows(file)
    known, label_of = {*images}, dict[str, str]()
    missing: list[str] = []
    for line, path, label in rows:
        name = posixpath.normpath(path)
        if name not in known:
            missing.append(path)
            continue
        before = label_of.setdefault(name, label)
        require(
            before == label,
            f"the table {file}, line {line}: {path} has the label {label!r}, and "
            f"{before!r} further up; remove one of them",
        )
    _check_found(file, rows, has_header, missing)
    words = {label for label in label_of.values() if label}
    try:
        numbers = {word: int(word) for word in words}
    except ValueError:
        classes = sorted(words)
    else:
        classes = sorted((w for w in words if numbers[w] >= 0), key=lambda w: (numbers[w], w))
        doubled = len(classes) - len({numbers[word] for word in classes})
        require(
            not doubled,
            f"the table {file}: a number is written in two ways, as in 1 and 01; write "
            "each class in one way",
        )
    ranks = {word: rank for rank, word in enumerate(classes)}
    require(ranks, f"the table {file} has no label; give lines PATH,LABEL")
    return Table({name: ranks.get(label, -1) for name, label in label_of.items()}, tuple(classes))


def _check_found(
    file: str, rows: Sequence[tuple[int, str, str]], has_header: bool, missing: Sequence[str]
) -> None:
    """Refuses entries without an image file; the first one alone is a header with other names."""
    if not has_header and len(rows) > 1 and missing == [rows[0][1]] and "." not in missing[0]:
        line, path, label = rows[0]
        raise UserError(
            f"the table {file}, line {line}: {path},{label} is no image file with its label, and "
            f"no known header, which has one of {', '.join(_PATHS)} and one of "
            f"{', '.join(_LABELS)}: rename its columns, or remove the line"
        )
    require(
        not missing,
        f"the table {file}: {len(missing)} of {len(rows)} entries have no image file in the "
        f"folder, such as {', '.join(missing[:_NAMED])}; give paths relative to the folder of the "
        "images, or remove these lines",
    )


def _rows(file: str) -> tuple[list[tuple[int, str, str]], bool]:
    """Line, path and label of each entry, and whether there is a header."""
    path = paths.outside(file, "labels")
    require(
        path.is_file(),
        f"the table {file}: there is no such file; give a CSV file with lines PATH,LABEL",
    )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"the table {file} is no readable CSV file ({error}); write lines PATH,LABEL in UTF-8"
        ) from error
    lines = [(number, row) for number, row in lines if any(row)]
    columns, has_header = (0, 1), False
    if lines:
        names = [cell.lower() for cell in lines[0][1]]
        path_columns = [names.index(name) for name in _PATHS if name in names]
        label_columns = [names.index(name) for name in _LABELS if name in names]
        if path_columns and label_columns:
            columns, lines = (path_columns[0], label_columns[0]), lines[1:]
            has_header = True
        else:
            wrong = next((number for number, row in lines if len(row) != 2), None)
            require(
                wrong is None,
                f"the table {file}, line {wrong}: this line has not two columns; write "
                "PATH,LABEL, or a first line with path and label among its names",
            )
    short = next((number for number, row in lines if len(row) <= max(columns)), None)
    require(
        short is None,
        f"the table {file}, line {short}: a column is missing; write a path and a label "
        "in each line",
    )
    return [(number, row[columns[0]], row[columns[1]]) for number, row in lines], has_header
