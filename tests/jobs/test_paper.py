"""The job `paper`: which cells of a table run, and what is printed of them."""

import json
import pathlib
import subprocess
import sys

import pytest

import tiny_checkpoints
from byol_jax.data.dense import sources as dense_sources
from byol_jax.errors import GuardError, Stopped, UserError
from byol_jax.jobs import overrides, paper, plans
from byol_jax.results import measures
from byol_jax.results.records import Record, read_results, write_results
from experiments import paper as page
from experiments import paper_tables

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A BYOL of TinyResNet 2x, of 6 steps on digits."""
    return str(tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "digits"))


def config_of(options: str, checkpoint: str | None = None, **changes):
    """CIFAR10's images are digits, and any network will do."""
    config = page.get_config(options)
    config.checkpoint = checkpoint
    config.update({"datasets": "CIFAR10=digits", "any_network": True, **changes})
    return config


class Jobs(dict):
    """Jobs that compute nothing: all write the same numbers, `values` by metric."""

    def __init__(self, errors=(), values=None):
        names = ("linear", "transfer", "finetune", "segmentation", "depth")
        super().__init__(dict.fromkeys(names, self.run))
        self.configs: list = []
        self.errors = dict(errors)
        self.values = values or {"top1": 75.04, "top5": 99}

    def run(self, config, workdir):
        """Records of one run, in a folder that the job of all jobs has made."""
        self.configs.append(config)
        if config.job in self.errors:
            raise self.errors[config.job]
        shared = {
            **{"protocol": f"{config.job} of the test", "network": "online"},
            **{"dataset": config.dataset, "split": "test", "n_examples": 350, "seed": 0},
            **{"checkpoint_step": 6, "settings": {"batch_size": config.get("batch_size")}},
        }
        records = [
            Record(metric, value, unit=measures.of(metric).unit, **shared)
            for metric, value in self.values.items()
        ]
        write_results(workdir / "results.json", records)


@pytest.fixture
def run(monkeypatch):
    """The job `paper`, with the jobs of its cells replaced."""

    def run(config, workdir, jobs):
        monkeypatch.setattr(paper, "job_of", jobs.__getitem__)
        paper.run(config, workdir)

    return run


def test_paper_ours_and_difference(tmp_path, checkpoint, capsys, run) -> None:
    config = config_of(
        "table=3,row=BYOL,cells=CIFAR10+Birdsnap",
        checkpoint,
        override="batch_size=16,eval_batch_size=32,num_steps=7,l2_grid=0.1+1",
    )
    jobs = Jobs()
    run(config, tmp_path / "table", jobs)
    transfer, finetune = jobs.configs
    assert (transfer.job, finetune.job) == ("transfer", "finetune")
    for job_config in jobs.configs:
        assert (job_config.dataset, job_config.benchmark, job_config.eval_batch_size) == (
            "digits",
            "cifar10",
            32,
        )
        assert (job_config.checkpoint, job_config.network, job_config.data_dir) == (
            checkpoint,
            "online",
            None,
        )
    assert (transfer.l2_grid, finetune.num_steps, finetune.batch_size) == ((0.1, 1), 7, 16)

    printed = capsys.readouterr().out.splitlines()
    departures = (
        "not the paper's settings: a BYOL ResNet-tiny (2x) trained on digits, stem small, "
        "pre-trained at 8 pixels, pre-trained for 6 steps, pre-trained at batch 8, data "
        "eval_crop=full (paper), network.predictor hidden_size=16 (4096), network.projector "
        "hidden_size=16 (4096) output_size=8 (256), optimizer base_learning_rate=4 (0.2) "
        "warmup_epochs=0.5 (10), digits instead of CIFAR-10"
    )
    counts = (
        "1,295 fitted images (Table 10 has 45,000), 143 validation images (Table 10 has 5,000), "
        "359 test images (Table 10 has 10,000), 350 of 359 test images scored"
    )
    assert [line.split(maxsplit=1)[0] for line in printed[:3]] == ["cell", "BYOL", "BYOL"]
    assert printed[1].split("CIFAR10")[1].split(maxsplit=3) == [
        *("91.3", "75.0", "-16.3"),
        f"transfer of the test top1, online of step 6, digits; {departures}, "
        f"l2_grid=0.1+1, {counts}",
    ]
    assert printed[2].split("CIFAR10")[1].split(maxsplit=3) == [
        *("97.8", "75.0", "-22.8"),
        f"finetune of the test top1, online of step 6, digits; {departures}, batch_size=16, "
        f"num_steps=7, {counts}",
    ]
    # Birdsnap is not in TFDS, and Table 13 says otherwise than Table 3.
    (reason,) = (i for i, line in enumerate(printed) if line.startswith("- "))
    assert "--config.folders='birdsnap=DIR'" in printed[reason]
    assert [line.strip() for line in printed[reason + 1 : reason + 3]] == [
        "BYOL (ours), linear: Birdsnap 57.2 (57.3 in Table 13)",
        "BYOL (ours), finetune: Birdsnap 76.3",
    ]

    records = read_results(tmp_path / "table" / "results.json")
    assert [(r.metric, r.value, r.settings["paper_value"]) for r in records] == [
        ("top1", 75.04, 91.3),
        ("top1", 75.04, 97.8),
    ]
    assert {r.settings["paper_table"] for r in records} == {"Table 3"}
    assert "num_steps=7" in records[1].settings["not_the_papers"]
    assert records[1].settings["batch_size"] == 16  # of the run's own record
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| BYOL (ours), linear, CIFAR10 | 91.3 | 75.0 | -16.3 | transfer" in " ".join(
        text.split()
    )
    assert "Birdsnap 76.3" in text

    # Again: everything is there.
    again = Jobs()
    run(config, tmp_path / "table", again)
    assert not again.configs
    assert capsys.readouterr().out.splitlines() == printed
    # Nor does what changes no number run anything.
    config.override += ",threads=3,log_every=7,checkpoint_every=9"
    config.override = config.override.replace("eval_batch_size=32", "eval_batch_size=8")
    run(config, tmp_path / "table", again)
    assert not again.configs
    assert capsys.readouterr().out.splitlines() == printed
    # Other settings do not go into the same folders.
    config.override = "batch_size=32,num_steps=7,l2_grid=0.1+1"
    with pytest.raises(UserError, match=r"batch_size=16, now 32.*--workdir"):
        run(config, tmp_path / "table", again)
    assert not again.configs


def test_two_metrics_of_one_run(tmp_path, checkpoint, capsys, run) -> None:
    """Table 7's first two rows on digits, without Table 10's check of the classes."""
    config = config_of("table=7,row=BYOL (ours) ResNet-200 (2x)", checkpoint)
    for cell in config.cells:
        cell["benchmark"] = cell["config"]["benchmark"] = "cifar10"
    run(config, tmp_path, Jobs())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("BYOL (ours) ResNet-200 (2x), linear, ImageNet, Top-1  ")
    assert lines[1].split("Top-1")[1].split()[:3] == ["79.6", "75.0", "-4.6"]
    assert "94.8 (94.9 in Table 9)  99.0        +4.2" in lines[2]
    assert len(read_results(tmp_path / "results.json")) == 2


DEPTH = {"pct1.25": 85.21, "pct1.25^2": 96.7, "pct1.25^3": 99.0, "rms": 0.5288, "rel": 0.1343}


def test_numbers_of_another_unit_where_less_is_better(tmp_path, checkpoint, capsys, run) -> None:
    """Table 4b's numbers in a cell of Table 3: what is printed of them depends on no page."""
    config = config_of("table=3,row=BYOL,cells=CIFAR10,protocol=linear", checkpoint)
    (cell,) = config.cells
    (printed,) = (c for c in paper_tables.TABLES["4b"] if c.row == "BYOL (ours)")
    cell["numbers"] = [number._asdict() for number in printed.numbers]
    run(config, tmp_path, Jobs(values=DEPTH))
    lines = capsys.readouterr().out.splitlines()[1:6]
    compared = [line.split("CIFAR10, ")[1].split("transfer of")[0].split("  ") for line in lines]
    assert [[*filter(None, map(str.strip, words))] for words in compared] == [
        ["pct. < 1.25", "84.6", "85.2", "+0.6"],
        ["pct. < 1.25^2", "96.7", "96.7", "+0.0"],
        ["pct. < 1.25^3", "99.1", "99.0", "-0.1"],
        ["rms", "0.541 m", "0.529 m", "-0.012 (better)"],
        ["rel", "0.129", "0.134", "+0.005 (worse)"],
    ]
    text = " ".join((tmp_path / "table.md").read_text().split())
    assert "rms | 0.541 m | 0.529 m | -0.012 (better) | transfer of the test rms," in text
    record = read_results(tmp_path / "results.json")[3]
    assert (record.metric, record.unit, record.settings["paper_value"]) == ("rms", "m", 0.541)


def test_runs_of_one_kind_and_network_are_two_records(tmp_path, checkpoint, run) -> None:
    config = config_of("table=7", checkpoint)
    for cell in config.cells:
        cell["benchmark"] = cell["config"]["benchmark"] = "cifar10"
    jobs = Jobs()
    run(config, tmp_path, jobs)
    # With any network the architectures share their runs: 4 protocols, 12 cells, 24 numbers.
    assert len(jobs.configs) == 4
    assert len(read_results(tmp_path / "results.json")) == 24


@pytest.mark.parametrize(
    ("error", "raised", "reason"),
    [
        (UserError("too small"), UserError, "too small"),
        (GuardError("not finite"), GuardError, "not finite"),
        # As JAX says that a device is out of memory.
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB\nmore"), GuardError, "RuntimeError: RESOURCE"),
    ],
)
def test_a_cell_that_fails_is_listed_and_the_others_go_on(
    tmp_path, checkpoint, capsys, run, error, raised, reason
) -> None:
    config = config_of("table=3,row=BYOL,cells=CIFAR10", checkpoint)
    with pytest.raises(raised, match=f"1 of 2 cells of table=3.*linear, CIFAR10: {reason}") as told:
        run(config, tmp_path, Jobs({"transfer": error}))
    assert "\n" not in str(told.value)
    printed = capsys.readouterr().out
    assert f"- failed: {reason}" in printed
    assert "BYOL (ours), linear: CIFAR10 91.3" in printed
    assert "BYOL (ours), finetune, CIFAR10   97.8  75.0" in printed
    assert f"- failed: {reason}" in (tmp_path / "table.md").read_text()


def test_guards_are_told_before_refusals(tmp_path, checkpoint, run) -> None:
    config = config_of("table=3,row=BYOL,cells=CIFAR10", checkpoint)
    with pytest.raises(GuardError, match=r"2 of 2.*no.*nor"):
        run(config, tmp_path, Jobs({"transfer": UserError("no"), "finetune": GuardError("nor")}))


@pytest.mark.parametrize("error", [Stopped(15, "saved"), KeyboardInterrupt()])
def test_a_signal_ends_the_table(tmp_path, checkpoint, run, error) -> None:
    jobs = Jobs({"transfer": error})
    with pytest.raises(type(error)):
        run(config_of("table=3,row=BYOL,cells=CIFAR10", checkpoint), tmp_path, jobs)
    assert len(jobs.configs) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("table=4a,protocol=detection", "BYOL (ours), detection: AP50 77.5"),
        ("table=11,protocol=detection", "RelPos [23], by [40]*, detection: AP50 66.8"),
        ("table=12,row=Color", "depth: NYU v2 76.8 / 93.5 / 97.7 / 0.444 m / 0.164"),
        ("table=lecture-detection", "SimSiam, base, detection: VOC 07 75.5 / 47.0 / 50.2"),
        # And every other row that nothing here makes.
        ("table=1,row=MoCo v2", "MoCo v2 [37] ResNet-50, linear: ImageNet 71.1"),
    ],
)
def test_what_is_not_here_is_printed_without_a_checkpoint(
    tmp_path, capsys, run, options, words
) -> None:
    run(config_of(options), tmp_path, Jobs())
    printed = capsys.readouterr().out
    assert words in printed
    assert words in (tmp_path / "table.md").read_text()
    assert "not here" in printed or "another method" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("table=4a", "BYOL (ours), segmentation: mIoU 76.3"),
        ("table=4b", "BYOL (ours), depth: NYU v2 84.6 / 96.7 / 99.1 / 0.541 m / 0.129"),
    ],
)
def test_dense_rows_need_a_checkpoint(tmp_path, capsys, run, options, words) -> None:
    config = config_of(options, any_network=False)
    with pytest.raises(UserError, match=r"give a BYOL ResNet-50 trained on ImageNet"):
        run(config, tmp_path, Jobs())
    assert words in capsys.readouterr().out


def test_masks_are_asked_for_with_the_key_that_names_them(
    tmp_path, checkpoint, capsys, run
) -> None:
    with pytest.raises(UserError, match=r"VOCtrainval.*--config\.folders='voc2012=DIR'"):
        run(config_of("table=4a,row=BYOL", checkpoint), tmp_path, Jobs())
    assert "BYOL (ours), detection: AP50 77.5" in capsys.readouterr().out


def test_depth_beside_the_papers(tmp_path, checkpoint, capsys, run, monkeypatch) -> None:
    """Table 4b, whose job is replaced: units, directions, and the frames that there are."""
    sizes = {"train+valid": 795, "test": 654}

    class Counted:
        def __init__(self, size):
            self.size = size

    def load(dataset, split, kind, **_):
        assert (dataset, kind) == ("nyu:/data/nyu.mat", "depth")
        return Counted(sizes[split])

    monkeypatch.setattr(dense_sources, "load", load)
    jobs = Jobs(values=DEPTH)
    config = config_of("table=4b", checkpoint, datasets="NYU=nyu:/data/nyu.mat")
    run(config, tmp_path, jobs)
    (job_config,) = jobs.configs  # the others are networks of other methods
    assert (job_config.job, job_config.dataset, job_config.data_dir) == (
        *("depth", "nyu:/data/nyu.mat", None),
    )
    assert (job_config.checkpoint, job_config.network) == (checkpoint, "online")
    printed = capsys.readouterr().out.splitlines()
    row = "BYOL (ours), depth, NYU v2, rms"
    (rms,) = (line for line in printed if line.startswith(row))
    assert "0.541 m" in rms and "0.529 m  -0.012 (better)" in rms
    assert "silent in the paper and chosen here: training frames" in rms
    # 795 frames are one of the two copies.
    assert "fitted images" not in rms and "350 of 654 test images scored" in rms
    assert "instead of NYU" not in rms
    # 1000 frames are none of them.
    sizes["train+valid"] = 1000
    run(config_of("table=4b", checkpoint, datasets=config.datasets), tmp_path / "again", jobs)
    printed = capsys.readouterr().out
    assert "1,000 fitted images (NYU Depth v2 has 795 or 47,584)" in printed


def test_only_networks_of_the_paper_unless_any_will_do(tmp_path, checkpoint, capsys, run) -> None:
    config = config_of("table=3,cells=CIFAR10", checkpoint, any_network=False)
    jobs = Jobs()
    with pytest.raises(UserError) as caught:
        run(config, tmp_path / "table", jobs)
    (line,) = str(caught.value).splitlines()
    assert "a BYOL ResNet-50" in line
    assert "a BYOL ResNet-tiny (2x) trained on digits (2 cells)" in line
    assert "table=simclr-B.5 (2 cells)" in line
    assert "row= (1 cells)" in line
    assert "SimCLR (repro), linear: CIFAR10 90.5" in capsys.readouterr().out
    assert not jobs.configs and not (tmp_path / "table").exists()
    # A method is never taken for another.
    config.any_network = True
    plans, _ = paper.plan_cells(config, tmp_path)
    assert {one.cell["row"] for one in plans} == {"BYOL (ours)"}


def test_a_network_from_scratch_needs_no_checkpoint(tmp_path, run) -> None:
    jobs = Jobs()
    run(config_of("table=3,row=Random init,cells=CIFAR10"), tmp_path, jobs)
    (job_config,) = jobs.configs
    assert (job_config.checkpoint, job_config.network, job_config.image_size) == (
        None,
        "random",
        224,
    )
    assert (job_config.encoder.depth, job_config.encoder.width) == ("50", 1.0)
    with pytest.raises(UserError, match=r"BYOL ResNet-50.*config\.checkpoint"):
        run(config_of("table=3,row=BYOL,cells=CIFAR10"), tmp_path, jobs)


@pytest.mark.parametrize(
    ("text", "current", "value"),
    [
        ("64", 1024, 64),
        ("2", 80.0, 2.0),
        ("true", False, True),
        ("0.1+1", (1.0,), (0.1, 1)),
        ("7", None, 7),
        ("full", None, "full"),
    ],
)
def test_an_override_has_the_type_of_what_it_replaces(text, current, value) -> None:
    parsed = overrides.typed("key", text, current)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(("text", "current"), [("many", 1), ("0.5", 1), ("maybe", True)])
def test_an_override_of_another_type_is_refused(text, current) -> None:
    with pytest.raises(UserError, match=rf"config\.override: key='{text}'"):
        overrides.typed("key", text, current)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"override": "batch_sise=4"}, "config.override.*'batch_sise'"),
        ({"override": "encoder=4"}, "config.override.*'encoder'"),
        ({"network": "random"}, "config.network='random'.*target"),
        ({"method": "swav"}, "config.method='swav'.*supervised"),
        ({"method": "simclr"}, "config.method=simclr.*objective.name=byol.*leave it out"),
        ({"checkpoint": "nowhere"}, "checkpoint=nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    tmp_path, checkpoint, changes, message, run
) -> None:
    config = config_of("table=3,row=BYOL", checkpoint)
    config.update(changes)
    jobs = Jobs()
    with pytest.raises(UserError, match=message):
        run(config, tmp_path, jobs)
    assert not jobs.configs


def test_table_10_is_what_is_there(tmp_path, capsys, run) -> None:
    config = page.get_config("table=10")
    config.data_dir = str(tmp_path / "none")
    run(config, tmp_path / "table", Jobs())
    printed = capsys.readouterr().out
    assert "1,281,167" in printed and "run `tfds build food101" in printed
    assert "1,281,167" in (tmp_path / "table" / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.ci
def test_a_table_end_to_end(tmp_path, checkpoint, capsys) -> None:
    """The job itself: App. E.2 on digits."""
    config = config_of(
        "table=3,row=BYOL,cells=CIFAR10,protocol=linear", checkpoint, override="l2_grid=0.01+1"
    )
    paper.run(config, tmp_path)
    (record,) = read_results(tmp_path / "results.json")
    (own,) = read_results(tmp_path / "transfer-cifar10" / "results.json")
    assert (record.value, record.settings["paper_value"]) == (own.value, 91.3)
    assert own.settings["l2"] in (0.01, 1) and own.n_examples == 359
    assert f"{own.value:.1f}  {own.value - 91.3:+10.1f}" in capsys.readouterr().out
    cell = json.loads((tmp_path / "transfer-cifar10" / "cell.json").read_text())
    assert (cell["config"]["l2_grid"], cell["checkpoint_step"]) == ([0.01, 1], 6)


@pytest.mark.slow
def test_fine_tuning_end_to_end(tmp_path, checkpoint) -> None:
    overrides = "num_steps=3,batch_size=16,learning_rates=0.1,sweep_weight_decays=0.0001"
    config = config_of(
        "table=3,row=BYOL,cells=CIFAR10,protocol=finetune", checkpoint, override=overrides
    )
    paper.run(config, tmp_path)
    (record,) = read_results(tmp_path / "results.json")
    assert record.settings["paper_value"] == 97.8
    assert record.settings["total_steps"] == 3


@pytest.mark.slow
@pytest.mark.ci
def test_the_program_says_in_one_line_why_nothing_can_run(tmp_path) -> None:
    command = [sys.executable, "-m", "byol_jax.main", "--config=experiments/paper.py:table=8"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'table'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: no cell of table=8 can be run: ")
    assert "give a BYOL ResNet-50 trained on ImageNet (byol.py:" in line
    assert "BYOL, finetune: 100% 77.7 / 93.9" in done.stdout
    assert not (tmp_path / "table").exists()


# ---------------------------------------------------------------- released networks


def test_a_released_network_is_a_row_of_an_ablation(run, tmp_path, capsys, monkeypatch):
    """The baseline is one run for all tables; a row that was not released names what trains it."""
    monkeypatch.setattr(plans, "_counts", lambda *_: ({"score_split": 350}, ""))
    (tmp_path / "files").mkdir()
    for name in ("baseline", "batchsize_64"):
        (tmp_path / "files" / f"res50x1_{name}.pkl").touch()
    changes = {"released": str(tmp_path / "files"), "datasets": "imagenet=digits"}
    jobs = Jobs()
    run(config_of("table=16", **changes), tmp_path / "out", jobs)
    files = [pathlib.Path(config.checkpoint).name for config in jobs.configs]
    assert files == ["res50x1_baseline.pkl", "res50x1_batchsize_64.pkl"]
    printed = capsys.readouterr().out
    assert "online of res50x1_batchsize_64.pkl, one of the authors' three seeds" in printed
    assert f"{tmp_path / 'files'} has no res50x1_batchsize_128.pkl" in printed
    run(config_of("table=14a", **changes), tmp_path / "out", jobs)
    assert len(jobs.configs) == 2
    printed = capsys.readouterr().out
    assert "its network was not released: ablate.py:table=14a,rows=1 trains it" in printed


def test_released_files_are_asked_for(tmp_path):
    config = config_of("table=17", datasets="imagenet=digits")
    with pytest.raises(UserError, match=r"no released checkpoint: .* --config\.released"):
        paper.run(config, tmp_path)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ("table=1", {"released": "."}, r"config\.released=\.: table=1 has no row of a released"),
        ("table=16", {"released": "nowhere"}, r"config\.released=nowhere is no folder"),
        ("table=1", {"trained_on": "ImageNet"}, r"config\.trained_on=ImageNet is for a checkpoint"),
    ],
)
def test_names_of_networks_that_nothing_reads(options, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        paper.run(config_of(options, **changes), tmp_path)


def test_a_checkpoint_beside_released_ones_alone(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"config\.checkpoint=.*: the rows of table=16 read the"):
        paper.run(config_of("table=16", checkpoint, released="."), tmp_path)


def test_the_data_of_a_checkpoint_that_says_it(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"config\.trained_on=DTD: the checkpoint says"):
        paper.run(config_of("table=1,row=BYOL", checkpoint, trained_on="DTD"), tmp_path)
