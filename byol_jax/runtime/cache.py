"""The folder in which results are kept that every run would otherwise compute again."""

import logging
import os
import pathlib
import tempfile

import jax

from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import paths

_logger = logging.getLogger(__name__)
_JAX = "JAX_COMPILATION_CACHE_DIR"


def folder(name: str) -> pathlib.Path | None:
    """`$XDG_CACHE_HOME/byol_jax/NAME`, by default in `~/.cache`; it need not exist.

    None where there is no home folder.

    Raises:
      UserError: the variable names no path, as `~nobody` does.
    """
    if root := os.environ.get("XDG_CACHE_HOME"):
        return paths.outside(root, "XDG_CACHE_HOME", look=False) / "byol_jax" / name
    home = paths.home()
    return home and home / ".cache" / "byol_jax" / name


def keep_compilations() -> None:
    """Keeps compiled programs on disk, so that the next run of the same step starts at once.

    Does nothing if JAX's own variable JAX_COMPILATION_CACHE_DIR is set (an empty value turns the
    cache off). A folder that cannot be made or written is no cache, and no error: a line of the log
    says so.

    Raises:
      UserError: a variable names no path.
    """
    given = jax.config.values["jax_compilation_cache_dir"]
    if given is not None:
        if given.startswith("~"):
            jax.config.update(
                "jax_compilation_cache_dir", str(paths.outside(given, _JAX, look=False))
            )
        return
    path = folder("xla")
    if path is None:
        _logger.info("no home folder: compiled programs are not kept (XDG_CACHE_HOME names one)")
        # One would say the same, the other make a folder `~` in the current one.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), ".keras"))
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        paths.require_writable(path, "XDG_CACHE_HOME")
    except (OSError, UserError, GuardError) as error:
        _logger.info(
            "compiled programs are not kept (XDG_CACHE_HOME names another folder): %s", error
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
