"""The folder of compiled programs, and the settings that choose it."""

import pathlib

import jax
import pytest

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


def test_a_folder_that_cannot_be_made_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] is None
