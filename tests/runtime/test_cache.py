"""The folder of compiled programs, and the settings that choose it."""

import errno
import logging
import os
import pathlib

import jax
import pytest

from byol_jax.errors import UserError
from byol_jax.runtime import cache


@pytest.fixture(autouse=True)
def jax_cache():
    """JAX's own setting, put back afterwards."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_folder_is_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder("xla") == tmp_path / "byol_jax" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.folder("xla") == pathlib.Path.home() / ".cache" / "byol_jax" / "xla"


def test_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "byol_jax" / "xla")
    assert (tmp_path / "byol_jax" / "xla").is_dir()


@pytest.mark.parametrize("chosen", ["", "/elsewhere"])
def test_the_setting_of_the_user_stays(monkeypatch, tmp_path, chosen):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", chosen)
    cache.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] == chosen
    assert not list(tmp_path.iterdir())


def kept_nothing(caplog):
    """Whether nothing is kept, and one line says so."""
    with caplog.at_level(logging.INFO, "byol_jax"):
        cache.keep_compilations()
    (line,) = caplog.messages
    return jax.config.values["jax_compilation_cache_dir"] is None and line.startswith(
        "compiled programs are not kept (XDG_CACHE_HOME names another folder)"
    )


def test_a_folder_that_cannot_be_made_is_not_used(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_nothing(caplog)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("where", ["mkdir", "write"])
def test_a_folder_that_cannot_be_written_is_not_used(monkeypatch, tmp_path, caplog, number, where):
    def fail(*arguments, **settings):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if where == "mkdir":
        monkeypatch.setattr(pathlib.Path, "mkdir", fail)
    else:
        monkeypatch.setattr(cache.paths.tempfile, "NamedTemporaryFile", fail)
    assert kept_nothing(caplog)


def test_a_folder_of_another_user_is_not_used(monkeypatch, tmp_path, caplog):
    """That this user may not even look at."""
    lstat = os.lstat

    def refuse(path, *arguments, **settings):
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return lstat(path, *arguments, **settings)

    def make(*arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    monkeypatch.setattr(os, "lstat", refuse)
    monkeypatch.setattr(pathlib.Path, "mkdir", make)
    assert cache.folder("tfrecords") == tmp_path / "theirs" / "byol_jax" / "tfrecords"
    assert kept_nothing(caplog)


def test_without_a_home_nothing_is_kept_and_one_line_says_so(monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.paths, "home", lambda: None)
    monkeypatch.setenv("KERAS_HOME", "of the user")
    level = logging.getLogger("matplotlib").level
    with caplog.at_level(logging.INFO, "byol_jax"):
        cache.keep_compilations()
    logging.getLogger("matplotlib").setLevel(level)
    assert cache.folder("tfrecords") is None
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("no home folder")


def test_variables_may_have_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert cache.folder("xla") == tmp_path / "cache" / "byol_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", "~/compiled")
    cache.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "compiled")


def test_a_variable_that_names_nobody_is_refused(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-that-name/cache")
    with pytest.raises(UserError, match=r"^XDG_CACHE_HOME=~nobody-of-that-name/cache: there is no"):
        cache.keep_compilations()
