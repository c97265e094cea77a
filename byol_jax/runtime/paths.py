"""Paths of the outside: those that a user, a config or the environment names."""

import contextlib
import os
import pathlib
import tempfile

from byol_jax.errors import GuardError, UserError, require
from byol_jax.runtime import disk


def outside(text: str | os.PathLike[str], key: str = "", *, look: bool = True) -> pathlib.Path:
    """The path that a user means by a text: `~` and `~USER` are home folders.

    Texts are kept as they were given, in configs and records, and become paths where they are
    opened. So a comparison of two configs compares what was asked for.

    Args:
      text: a path; a bucket or another address is none.
      key: what gave it, as in `--workdir`, for the message; empty if the caller names it.
      look: whether a path that this user may not look at is refused.

    Raises:
      UserError: it is empty, an address, or below the home folder of nobody; or as `look` says.
    """
    text = os.fspath(text)
    if wrong := _why_no_path(text) or (_why_unusable(text) if look else ""):
        raise UserError(f"{key}={text}: {wrong}" if key else wrong)
    path = pathlib.Path(os.path.expanduser(text))
    # ./~x loses its dot in a path, and would be somebody's home the next time.
    return path.absolute() if str(path).startswith("~") else path


def _why_no_path(text: str) -> str:
    """Why a text is no path of a file or folder, and what to do; empty if it is one."""
    if not text.strip():
        return "this is empty: give a path"
    if "\0" in text:
        return "a path has no NUL byte: give another"
    if text.startswith("file://"):
        return f"this is an address: leave out file://, as in {text.removeprefix('file://')}"
    if "://" in text:
        return "this must be a path: a bucket can be mounted as a folder (docs/pods.md)"
    user = text.partition("/")[0]
    if user.startswith("~") and os.path.expanduser(user) == user:
        whose = f"there is no user {user[1:]}" if user[1:] else "this user has no home folder"
        return f"{whose}: give the whole path, or ./{user} for a name that begins with ~"
    return ""


def _why_unusable(text: str) -> str:
    """Why nothing can be at a path, and what to do; empty if something may be, or is."""
    try:
        os.lstat(os.path.expanduser(text))
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever needs it says so in better words
    except OSError as error:  # too long, a circle of links, below what this user may not open
        return f"this cannot be used ({error.strerror}): give another path"
    return ""


def home() -> pathlib.Path | None:
    """The user's home folder; None where there is none, as in many containers."""
    try:
        return pathlib.Path.home()
    except RuntimeError:
        return None


def require_writable(folder: pathlib.Path, key: str) -> None:
    """Refuses a folder that cannot be made or written, by making it and writing a file.

    Permissions alone do not tell: root may write anywhere but on a read-only disk. What did not
    exist before does not exist afterwards.

    Args:
      folder: the folder; it need not exist.
      key: what gave it, as in `--workdir`.

    Raises:
      GuardError: the disk is full, or has gone.
      UserError: the folder is a file, a link to nothing, below a file, on a read-only disk, ...
    """
    made: list[pathlib.Path] = []
    try:
        require(
            folder.is_dir() or not os.path.lexists(folder),
            f"{key}={folder} is {_kind_of(folder)}: give a folder, or a path where one can be made",
        )
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.append(path)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".byol_jax."):
            pass  # what is written into it may not fit: that is no mistake of the path
    except OSError as error:
        told = disk.explained(error, folder, "nothing was computed")
        if isinstance(told, GuardError) and not isinstance(error, FileNotFoundError):
            raise told from error
        reason = error.strerror or type(error).__name__
        work = "written" if os.path.isdir(folder) else "made"
        raise UserError(
            f"{key}={folder} cannot be {work} ({reason}): give another folder"
        ) from error
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # another process may have written into it
                path.rmdir()


def _kind_of(path: pathlib.Path) -> str:
    """What is at a path that is no folder."""
    if not path.is_symlink():
        return "a file"
    return f"a link to {'a file' if path.exists() else 'nothing'}, {os.readlink(path)}"
