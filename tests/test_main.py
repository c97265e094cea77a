"""The program as users run it: exit codes and one-line messages."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import tiny_runs
from byol_jax import jobs

DIGITS = "--config=experiments/digits.py"
EVALUATE = "--config=experiments/evaluate.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--config=PAGE is needed, such as --config=digits: --help lists the pages"),
        (("--config=experiments/absent.py", "--workdir=x"), "--config=experiments/absent.py"),
        (("--config=digit:a=1", "--workdir=x"), "--config=digit: there is no such file"),
        (("--config", "digits", "--workdir=x", "--config.batch_sise=3"), "'batch_size'"),
        (("-config=byol:epoch=3", "--workdir=x"), "epochs=1000"),
        (("--config=digits:a=1", "--workdir=x"), "the page of --config takes no options"),
        ((DIGITS,), "--workdir="),
        ((DIGITS, "--workdir=gs://bucket/x"), "--workdir=gs://bucket/x"),
        ((DIGITS, "--workdir=x", "--config.batch_sise=3"), "'batch_size'"),
        ((DIGITS, "--workdir=x", "--config.optimizer.momentun=3"), "'momentum'"),
        ((DIGITS, "--workdir=x", "--config.batch_size=many"), "config.batch_size=many"),
        ((DIGITS, "--workdir=x", "--config.batch_size=2.5"), "config.batch_size=2.5"),
        ((DIGITS, "--workdir=x", "--config.tau_base=high"), "config.tau_base=high"),
        ((DIGITS, "--workdir=x", "--config.num_steps=few"), "config.num_steps=few"),
        ((DIGITS, "--workdir=x", "--config.batch_size=None"), "config.batch_size=None"),
        ((DIGITS, "--workdir=x", "--config.batch_sise=None"), "'batch_sise'"),
        ((DIGITS, "--workdir=x", "--config.optimizer=None"), "config.optimizer=None"),
        ((DIGITS, "--workdir=x", "--config.seed.of=None"), "'seed.of'"),
        (("--config=experiments/semi.py", "--workdir=x", "--config.num_epochs=1"), "sweep_epochs="),
        ((DIGITS, "--workdir=x", "--wrkdir=y"), ": workdir"),
        ((DIGITS, "--workdir=x", "stray"), "'stray'"),
        ((DIGITS, "--workdir=x", "--config.job=dance"), "config.job='dance'"),
        (("--config=experiments/byol.py:epoch=3", "--workdir=x"), "epochs=1000"),
        (("--config=experiments/byol.py:epochs=x", "--workdir=x"), "epochs"),
        (("--config=experiments/evaluate.py", "--workdir=x"), "config.checkpoint"),
        # Numbers that float32 cannot hold, of every job.
        ((DIGITS, "--workdir=x", "--config.tau_base=nan"), "config.tau_base=nan must be finite"),
        ((DIGITS, "--workdir=x", "--config.network.bn_eps=inf"), "config.network.bn_eps=inf must"),
        ((DIGITS, "--workdir=x", "--config.augment.view1.hue_max=1e39"), "hue_max=1e+39 must be"),
        (
            ("--config=linear", "--workdir=x", "--config.learning_rates=(0.1,1e999)"),
            "config.learning_rates=(0.1, inf) must be finite",
        ),
        (
            ("--config=evaluate", "--workdir=x", "--config.evaluation.knn_temperature=-inf"),
            "config.evaluation.knn_temperature=-inf must be finite",
        ),
        (
            (
                "--config=ablate:table=5b,base=digits",
                "--workdir=x",
                "--config.override=tau_base=nan",
            ),
            "config.override.tau_base=nan must be finite",
        ),
        (
            (
                DIGITS,
                "--workdir=x",
                "--config.optimizer.base_learning_rate=3e38",
                "--config.batch_size=1024",
            ),
            "config.optimizer.base_learning_rate=3e+38 makes a rate of 1.2e+39",
        ),
        ((DIGITS, "--workdir=x", "--config.num_steps=3000000000"), "config.num_steps=3000000000"),
        ((DIGITS, "--workdir=/dev/null"), "--workdir=/dev/null is a file"),
        ((DIGITS, "--workdir=/dev/null/x"), "cannot be made (Not a directory)"),
        ((DIGITS, "--workdir=/proc/x"), "--workdir=/proc/x cannot be made"),
        ((DIGITS, f"--workdir=/dev/shm/{'n' * 300}"), "(File name too long)"),
        ((DIGITS, "--workdir=~nobody-of-that-name/x"), "there is no user nobody-of-that-name"),
        ((DIGITS, "--workdir=file:///x"), "leave out file://"),
        ((DIGITS, "--workdir="), "--workdir=DIR is needed"),
        (("--config=~nobody-of-that-name/page.py", "--workdir=x"), "--config=~nobody-of-that-name"),
        ((DIGITS, "--workdir=x", "--config.dataset=folder:gs://a/b"), "can be mounted"),
        ((DIGITS, "--workdir=x", "--config.dataset=npz:~nobody-of-that-name/a"), "is no user"),
        ((DIGITS, "--workdir=x", "--config.init=~nobody-of-that-name/a"), "config.init=~nobody"),
        ((EVALUATE, "--workdir=x", "--config.checkpoint=gs://a/b"), "config.checkpoint=gs://a/b:"),
        (("--config=report", "--config.checkpoint=gs://a/b"), "config.checkpoint=gs://a/b:"),
        (("--config=compare", "--workdir=x", "--config.a=gs://a"), "config.a=gs://a:"),
        (("--config=operations", "--workdir=x", "--config.image=gs://a"), "config.image=gs://a:"),
        (("--config=embed", "--workdir=x", "--config.checkpoint=~/none"), "there is no such path"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(arguments, words):
    assert words in tiny_runs.refusal(*arguments)
    assert not (tiny_runs.ROOT / "x").exists()


# A page of each job that adds to a file of results.
PAGES = {
    "pretrain": "digits",
    "ablate": "ablate:table=5a",
    "paper": "paper:table=3",
    "finetune": "finetune",
    **{job: job for job in ("evaluate", "linear", "transfer", "transformations", "compare")},
    **{job: job for job in ("segmentation", "depth")},
}


@pytest.mark.parametrize("job", sorted(jobs.WITH_RESULTS))
@pytest.mark.parametrize("content", ["[{", None])
def test_results_that_cannot_be_added_to_are_refused_first(tmp_path, job, content):
    """Before the job asks for its checkpoint or reads an image."""
    path = tmp_path / "results.json"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    line = tiny_runs.refusal(f"--config={PAGES[job]}", f"--workdir={tmp_path}")
    assert line.startswith(f"error: {path} is ")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", ["cuda", "tpu", "cup"])
def test_a_platform_that_is_not_here_is_refused_first(tmp_path, name):
    command = tiny_runs.command(DIGITS, f"--workdir={tmp_path / 'run'}", "--config.dataset=absent")
    done = subprocess.run(
        command,
        cwd=tiny_runs.ROOT,
        env=os.environ | {"JAX_PLATFORMS": name},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert line.startswith(f"error: JAX_PLATFORMS={name}: ") and "JAX_PLATFORMS=cpu" in line
    assert not (tmp_path / "run").exists()


def test_a_file_of_flags_may_name_the_page(tmp_path):
    (tmp_path / "flags").write_text("--config=digits\n--config.batch_sise=3\n")
    assert "'batch_size'" in tiny_runs.refusal(f"--flagfile={tmp_path / 'flags'}", "--workdir=x")


def test_help_lists_jobs_pages_and_flags():
    done = tiny_runs.program("--help")
    assert done.returncode == 0, done.stderr
    usage, *lines = done.stdout.splitlines()
    assert usage.startswith("usage: python -m byol_jax.main --config=PAGE")
    listed = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert listed.keys() >= {*jobs.JOBS, "digits", "byol", "--workdir=", "--[no]largest_batch"}
    assert listed["digits"].startswith("The demonstration: BYOL on real scans")
    assert listed["--join_timeout="].endswith("(default: 300)")


def test_nobody_has_to_read_all_of_the_help():
    """As in `byol --help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = tiny_runs.command("--help")
    done = subprocess.run(
        command, cwd=tiny_runs.ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=300, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "arguments", "unset", "kept"),
    [
        ("finetune", ["num_steps=None"], ("num_steps",), {"num_epochs": 80.0}),
        ("digits", ["num_steps=7", "num_steps=None"], ("num_steps",), {"batch_size": 64}),
        ("digits", ["num_steps", "None"], ("num_steps",), {}),
        ("digits", ["num_steps=None", "num_steps=7"], (), {"num_steps": 7}),
        ("supervised", ["dataset=None", "image_size=None"], ("dataset", "image_size"), {}),
    ],
)
def test_none_leaves_a_key_open_again(page, arguments, unset, kept):
    """Of every page; None is no name of a data set, a folder or a network."""
    flags = [word if word == "None" else f"--config.{word}" for word in arguments]
    script = (
        "import json, sys; from byol_jax import main; main.parse(sys.argv); "
        "print(json.dumps(main._CONFIG.value.to_dict()), main._given())"
    )
    command = [sys.executable, "-c", script, f"--config=experiments/{page}.py", *flags]
    done = subprocess.run(
        command, cwd=tiny_runs.ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    config, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert [config[key] for key in unset] == [None] * len(unset)
    assert {key: config[key] for key in kept} == kept


def test_a_refused_run_writes_nothing(tmp_path):
    """Of all refusals the one in a process of its own, as users run it."""
    done = tiny_runs.program(DIGITS, f"--workdir={tmp_path / 'run'}", "--config.dataset=digit")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "digits" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_run_and_evaluate_from_another_folder(tmp_path):
    """Pages are found by path; a checkpoint is evaluated with its own config."""
    data = tiny_runs.write_npz(tmp_path / "images.npz")
    workdir = tmp_path / "run"
    done = tiny_runs.program(
        f"--config={tiny_runs.ROOT / 'experiments/digits.py'}",
        f"--workdir={workdir}",
        f"--config.dataset={data}",
        "--config.num_steps=2",
        *tiny_runs.TINY_FLAGS,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "img/s" in done.stderr
    done = tiny_runs.program(
        f"--config={tiny_runs.ROOT / 'experiments/evaluate.py'}",
        f"--config.checkpoint={workdir / 'checkpoints' / '2'}",
        f"--workdir={tmp_path / 'evaluation'}",
        "--config.evaluation.draws=2",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "online" in done.stdout
    records = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert {r["checkpoint_step"] for r in records if r["network"] == "online"} == {2}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_signals_save_and_the_same_command_continues(tmp_path, number, code):
    data = tiny_runs.write_npz(tmp_path / "images.npz")
    workdir = tmp_path / "run"
    arguments = (DIGITS, f"--workdir={workdir}", f"--config.dataset={data}", *tiny_runs.TINY_FLAGS)
    endless = tiny_runs.command(*arguments, "--config.num_steps=1000000", "--config.log_every=1")
    with subprocess.Popen(
        endless, cwd=tiny_runs.ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        log = workdir / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (log.exists() and log.read_text().count("\n") > 3):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no step within four minutes"
            time.sleep(0.1)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert str(workdir / "checkpoints") in errors
    assert "Traceback" not in errors
    (step,) = (int(p.name) for p in (workdir / "checkpoints").iterdir())
    shorter = (f"--config.num_steps={step + 1}", "--config.resume_changed=True")
    done = tiny_runs.program(*arguments, *shorter)
    assert done.returncode == 0, done.stderr
    assert tiny_runs.metrics(workdir)[-1]["step"] == step + 1


@pytest.mark.slow
@pytest.mark.ci
def test_guard_exits_with_3(tmp_path):
    data, workdir = tiny_runs.write_npz(tmp_path / "images.npz"), tmp_path / "run"
    done = tiny_runs.program(
        DIGITS,
        f"--workdir={workdir}",
        f"--config.dataset={data}",
        "--config.num_steps=6",
        "--config.optimizer.base_learning_rate=1e38",
        *tiny_runs.TINY_FLAGS,
    )
    assert done.returncode == 3, done.stderr
    (step,) = (workdir / "checkpoints").iterdir()
    assert str(step) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["cannot be read (No such file or directory)"]),
        (b"--flagfile=FILE\n", ["FILE names itself"]),
        (b"\xff\xfe", ["--flagfile: ", "utf-8"]),
    ],
)
def test_flag_files_that_cannot_be_read(tmp_path, content, words):
    """In a process of its own: flag files were read where the flags are defined."""
    file = tmp_path / "flags"
    if content is not None:
        file.write_bytes(content.replace(b"FILE", bytes(file)))
    done = tiny_runs.program(f"--flagfile={file}", "--workdir=x")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --flagfile")
    assert all(word.replace("FILE", str(file)) in line for word in words)


def test_flags_of_files_are_flags(tmp_path):
    """A file may name another one; what the command line gives later counts."""
    (tmp_path / "a").write_text(f"--config=digits\n--flagfile={tmp_path / 'b'}\n")
    (tmp_path / "b").write_text("# a comment\n--config.batch_size=0\n")
    flagfile = f"--flagfile={tmp_path / 'a'}"
    assert "config.batch_size=0" in tiny_runs.refusal(flagfile, f"--workdir={tmp_path / 'x'}")
    line = tiny_runs.refusal(flagfile, "--config.batch_size=-1", f"--workdir={tmp_path / 'x'}")
    assert "config.batch_size=-1" in line
