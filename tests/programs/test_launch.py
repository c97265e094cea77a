"""The launchers: their refusals, their commands, and their exit codes."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
POD = {"TPU_NAME": "byol", "ZONE": "us-central2-b", "TYPE": "v4-64"}
JOB = ("--config=experiments/byol.py:epochs=300", "--workdir=/mnt/it's shared")


def launch(script, *arguments, cwd=ROOT, **variables):
    return subprocess.run(
        [str(LAUNCH / script), *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)


@pytest.mark.parametrize("script", sorted(p.name for p in LAUNCH.glob("*.sh")))
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("local_cluster.sh", (), "usage: "),
        ("local_cluster.sh", ("two", "--config=x"), "usage: "),
        ("local_cluster.sh", ("0", "--config=x"), "usage: "),
        ("gpu.sh", ("--config=x",), "usage: "),
        ("slurm.sh", (), "usage: sbatch"),
        ("tpu_pod.sh", (), "create|install|run|follow|stop|delete"),
        ("tpu_pod.sh", ("--dry-run",), "create|install|run|follow|stop|delete"),
        ("tpu_pod.sh", ("destroy",), "create|install|run|follow|stop|delete"),
        ("tpu_pod.sh", ("run", "--config=x"), "--config=experiments/NAME.py --workdir=DIR"),
        ("tpu_pod.sh", ("delete", "all"), " all"),
        ("tpu_pod.sh", ("stop",), "TPU_NAME"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(script, arguments, words):
    done = launch(script, *arguments)
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_pod_of_no_type_is_not_created():
    done = launch("tpu_pod.sh", "--dry-run", "create", **POD | {"TYPE": ""})
    assert done.returncode == 2
    assert done.stderr.startswith("error: TYPE ")


def test_slurm_jobs_start_in_the_checkout(tmp_path):
    done = launch("slurm.sh", *JOB, cwd=tmp_path)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


def test_a_machine_without_gpu_is_refused(tmp_path):
    executable(tmp_path / "python", "exit 1")
    done = launch("gpu.sh", *JOB, PYTHON=str(tmp_path / "python"))
    assert done.returncode == 2
    assert str(tmp_path / "python") in done.stderr


@pytest.mark.parametrize("several", [(), ("--coordinator=a:1",)])
def test_the_gpus_of_a_machine_get_one_process(tmp_path, several):
    executable(tmp_path / "python", '[[ $1 == -c ]] || printf "%s\\n" "$@"')
    done = launch("gpu.sh", *JOB, *several, PYTHON=str(tmp_path / "python"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["-m", "byol_jax.main", *JOB, *several]


def test_slurm_starts_every_task_with_the_same_command(tmp_path):
    executable(tmp_path / "srun", 'printf "%s\\n" "$@"; exit 143')
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = launch("slurm.sh", *JOB, PATH=path, PYTHON="python3.11")
    assert done.returncode == 143
    options, _, program = done.stdout.partition("python3.11\n")
    assert all(option.startswith("--") for option in options.splitlines())
    assert program.splitlines() == ["-m", "byol_jax.main", *JOB]


def test_dry_runs_print_commands(tmp_path):
    """They run none of them: the stand-in for gcloud would leave a file."""
    executable(tmp_path / "gcloud", f"touch {tmp_path}/called")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]

    def dry(*arguments, **variables):
        done = launch("tpu_pod.sh", "--dry-run", *arguments, PATH=path, **POD, **variables)
        assert done.returncode == 0, done.stderr
        return [shlex.split(line) for line in done.stdout.splitlines()]

    place = ["byol", "--zone=us-central2-b"]
    (create,) = dry("create", OPTIONS="--spot --project=mine")
    assert create[:-3] == [*vm, "create", *place, "--accelerator-type=v4-64"]
    assert create[-3:] == ["--version=tpu-ubuntu2204-base", "--spot", "--project=mine"]
    assert dry("create", VERSION="v2-alpha-tpuv6e")[0][-1] == "--version=v2-alpha-tpuv6e"
    archive, copy, unpack = dry("install")
    assert archive[0] == "git"
    assert archive[-1] == "HEAD"
    assert copy[:5] == [*vm, "scp"]
    assert copy[-1] == unpack[-2] == "--worker=all"
    assert unpack[-1].endswith("'.[tpu]'")
    (start,) = dry("run", *JOB)
    assert start[:-1] == [*vm, "ssh", *place, "--worker=all"]
    (follow,) = dry("follow")
    assert follow[-2:] == ["--worker=0", "--command=tail -n 50 -F byol_jax/run.log"]
    (stop,) = dry("stop")
    assert stop[-2] == "--worker=all"
    assert dry("delete") == [[*vm, "delete", *place, "--quiet"]]
    assert not (tmp_path / "called").exists()


def test_a_worker_of_a_pod_runs_the_command_to_its_exit_code(tmp_path):
    """The command passes through two shells, in a home folder with a stand-in for Python."""
    home = tmp_path / "home"
    executable(home / "byol_jax" / ".venv" / "bin" / "python", 'printf "%s\\n" "$@"; kill -ABRT $$')
    (home / "byol_jax" / "launch").symlink_to(LAUNCH)
    gcloud = f'cd {home} && last="${{@: -1}}" && exec bash -c "${{last#--command=}}"'
    executable(tmp_path / "gcloud", gcloud)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = launch("tpu_pod.sh", "run", *JOB, PATH=path, **POD)
    assert done.returncode == 0, done.stderr
    log = home / "byol_jax" / "run.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "exit code" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = log.read_text().splitlines()
    assert lines[:4] == ["-m", "byol_jax.main", *JOB]
    assert any(line.startswith("stopped: process 0 ") for line in lines)
    assert lines[-1] == "exit code 3"


@pytest.mark.parametrize(
    ("ends", "code", "stopped"),
    [
        (("exit 0", "exit 0"), 0, ""),
        (("exit 3", "exit 2"), 2, ""),
        (("exit 0", "exit 1"), 1, ""),
        (("exit 143", "exit 130"), 130, ""),
        (("kill -ABRT $$", "exit 2"), 2, "stopped: process 0 "),
        (("kill -ABRT $$", "kill -KILL $$"), 3, "stopped: process 1 .*signal 9"),
        (("exit 143", "kill -KILL $$"), 3, "stopped: process 1 .*signal 9"),
    ],
)
def test_one_exit_code_for_all_processes(ends, code, stopped):
    starts = "".join(f"start bash -c {shlex.quote(end)}; " for end in ends)
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source launch/processes.sh; {starts} finish"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert re.search(stopped, done.stderr)
    assert done.stderr.count("stopped: ") == sum("kill" in end for end in ends)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_launchers_forward_signals_and_wait_until_processes_have_saved(tmp_path, number):
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, signal, sys, time\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "def save(number, frame):\n"
        "    time.sleep(0.5)\n"
        "    here.with_suffix('.saved').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "here.touch()\n"
        "time.sleep(60)\n"
    )
    names = [tmp_path / "0", tmp_path / "1"]
    starts = "".join(f"start {sys.executable} {program} {name}; " for name in names)
    with subprocess.Popen(
        # A shell cannot trap a SIGINT that it inherits as ignored, as in background jobs.
        [
            *("env", "--default-signal=INT", "bash", "-c"),
            f"set -euo pipefail; source launch/processes.sh; {starts} finish",
        ],
        cwd=ROOT,
    ) as process:
        deadline = time.monotonic() + 60
        while not all(name.exists() for name in names):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=60) == 143
    assert all(name.with_suffix(".saved").exists() for name in names)
