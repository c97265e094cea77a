"""The folder in which results are kept that every run would otherwise compute again."""

import os
import pathlib

import jax


def folder(name: str) -> pathlib.Path:
    """`$XDG_CACHE_HOME/byol_jax/NAME`, by default in `~/.cache`; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache") / "byol_jax" / name


def keep_compilations() -> None:
    """Keeps compiled programs on disk, so that the next run of the same step starts at once.

    Does nothing if JAX's own variable JAX_COMPILATION_CACHE_DIR is set (an empty value turns the
    cache off), or if the folder cannot be made.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    path = folder("xla")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
