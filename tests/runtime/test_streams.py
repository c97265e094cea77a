"""Standard streams that cannot be written, in processes of their own."""

import os
import subprocess
import sys

import pytest

import tiny_runs

SCRIPT = """
import os, sys
from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import streams
streams.guard()
try:
    {lines}
    print("numbers", flush=True)
except (GuardError, UserError) as error:
    print(type(error).__name__, error, file=sys.stderr)
print("more", flush=True)
sys.exit(0)
"""


def run(lines="pass", **streams):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(lines=lines)],
        cwd=tiny_runs.ROOT,
        text=True,
        check=False,
        **streams,
    )


def test_a_full_disk_of_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = run(stdout=full, stderr=subprocess.PIPE)
    (line,) = done.stderr.splitlines()
    assert line.startswith("GuardError no space left on the disk of standard output")
    assert done.returncode == 0


def test_a_reader_that_has_gone_is_one_line():
    reader, writer = os.pipe()
    os.close(reader)
    done = run(stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    (line,) = done.stderr.splitlines()
    assert line.startswith("UserError standard output cannot be written (Broken pipe)")
    assert done.returncode == 0


@pytest.mark.parametrize("number", [1, 2])
def test_a_closed_stream_takes_no_number_of_a_file(number):
    lines = f"assert os.open(os.devnull, os.O_RDONLY) > {number}"
    script = f"exec {number}>&-; exec {sys.executable} -c '{SCRIPT.format(lines=lines)}'"
    done = subprocess.run(
        ["sh", "-c", script], cwd=tiny_runs.ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_lost_of_messages_ends_nothing():
    with open("/dev/full", "w") as full:
        done = run("print('message', file=sys.stderr, flush=True)", stdout=-1, stderr=full)
    assert (done.returncode, done.stdout) == (0, "numbers\nmore\n")


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [("ascii", "/donn\\xe9es", "/donn\\xe9es"), ("utf-8", "/x\\udcff", "/x\\udcff")],
)
def test_what_an_encoding_lacks_is_written_as_an_escape(encoding, text, printed):
    lines = f"print('{text}'); print('{text}', file=sys.stderr)"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = run(lines, stdout=-1, stderr=-1, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{printed}\nnumbers\nmore\n")
    assert done.stderr == f"{printed}\n"
