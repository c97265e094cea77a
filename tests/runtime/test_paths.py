import os
import pathlib
import pwd

import pytest

from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import paths


def without_home(monkeypatch):
    """As in a container: no HOME, and nobody in the list of users."""

    def nobody(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)


def test_a_tilde_is_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert paths.outside("~/runs/x") == pathlib.Path("/home/ada/runs/x")
    assert paths.outside("runs/~x") == pathlib.Path("runs/~x")
    assert paths.home() == pathlib.Path("/home/ada")


def test_a_tilde_with_a_name_is_that_users():
    root = pwd.getpwuid(0)
    assert paths.outside(f"~{root.pw_name}/x") == pathlib.Path(root.pw_dir) / "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "this is empty"),
        ("  ", "this is empty"),
        ("a\0b", "NUL byte"),
        ("gs://bucket/x", r"can be mounted as a folder \(docs/pods.md\)"),
        ("s3://bucket/x", "can be mounted"),
        ("file:///data", "leave out file://, as in /data"),
        ("~nobody-of-that-name/x", "there is no user nobody-of-that-name: .* or ./~nobody"),
        ("n" * 300, "File name too long"),
    ],
)
def test_what_is_no_path_is_refused_in_one_line(text, words):
    with pytest.raises(UserError, match=words) as caught:
        paths.outside(text, "--workdir")
    assert str(caught.value).startswith(f"--workdir={text}: ")
    assert "\n" not in str(caught.value)


def test_without_a_home_a_tilde_is_refused(monkeypatch):
    without_home(monkeypatch)
    assert paths.home() is None
    with pytest.raises(UserError, match=r"^this user has no home folder: give the whole path"):
        paths.outside("~/x")


def test_a_name_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = paths.outside("./~x")
    assert path == tmp_path / "~x"
    assert paths.outside(path) == path


def test_a_folder_is_probed_and_nothing_stays(tmp_path):
    paths.require_writable(tmp_path / "a" / "b", "--workdir")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "a").mkdir()
    paths.require_writable(tmp_path / "a", "--workdir")
    paths.require_writable(tmp_path / "a" / "b", "--workdir")
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]


def a_file(folder):
    (folder / "file").touch()
    return folder / "file", "is a file"


def below_a_file(folder):
    return a_file(folder)[0] / "x", "cannot be made .Not a directory"


def a_dangling_link(folder):
    (folder / "link").symlink_to(folder / "nothing")
    return folder / "link", "is a link to nothing, .*nothing"


def below_a_dangling_link(folder):
    return a_dangling_link(folder)[0] / "x", "cannot be made .File exists"


def too_long(folder):
    return folder / ("n" * 300), "File name too long"


def of_the_kernel(folder):  # not even root may make it
    return pathlib.Path("/proc/x"), "cannot be made .No such file or directory"


@pytest.mark.parametrize(
    "make",
    [a_file, below_a_file, a_dangling_link, below_a_dangling_link, too_long, of_the_kernel],
)
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, make):
    path, words = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=words) as caught:
        paths.require_writable(path, "--workdir")
    assert str(caught.value).startswith(f"--workdir={path} ")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_no_mistake(tmp_path, monkeypatch):
    def mkdir(*arguments, **keywords):
        raise OSError(28, os.strerror(28), str(tmp_path / "x"))

    monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)
    with pytest.raises(GuardError, match=r"no space left on the disk of .*; nothing was computed"):
        paths.require_writable(tmp_path / "x", "--workdir")
