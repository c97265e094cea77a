"""The rows of an ablation table, trained, refused, diverged, and gone on with."""

import json
import pathlib

import ml_collections
import pytest

import tiny_checkpoints
import tiny_runs
from byol_jax import prepare, train
from byol_jax.errors import GuardError, Stopped, UserError
from byol_jax.jobs import ablate
from byol_jax.results.records import Record, read_results, write_results
from experiments import ablate as page


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_runs.write_npz(tmp_path_factory.mktemp("data") / "images.npz")


def row(number, dataset, numbers, **changes):
    values = {"num_steps": 2, "evaluation__at_end": True, "evaluation__draws": 2} | changes
    config = tiny_runs.tiny_config(dataset, **values)
    return {
        "row": number,
        "method": "byol",
        "name": f"row {number}",
        "numbers": numbers,
        "note": "",
        "config": config.to_dict(),
    }


def config_of(dataset, **changes):
    config = ml_collections.ConfigDict({"job": "ablate", "table": "5b", "base": "digits"})
    config.seeds, config.override = 1, ""
    config.rows = (
        row(1, dataset, {"top1": "0.3"}, tau_base=0.0, tau_schedule="constant"),
        row(2, dataset, {}, objective__name="info_nce", objective__info_nce__temperature=0.0),
    )
    config.update(changes)
    return config


def cells(workdir):
    """The cells of each row of table.md."""
    lines = [line for line in (workdir / "table.md").read_text().splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    ablate.run(config_of(dataset, seeds=2), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.ci
def test_paper_and_ours_stand_side_by_side(finished):
    header, rule, first, second = cells(finished)
    assert header == ["row", "what", "paper top1", "linear", "few labels", "kNN", "std"]
    assert {"".join(rule)[0]} == {"-"}
    assert first[:3] == ["1", "row 1", "0.3"]
    assert second == ["2", "row 2", "-", "refused", "-", "-", "-"]
    reason = "Row 2 is refused: config.objective.info_nce.temperature=0.0 "
    assert reason in (finished / "table.md").read_text()
    folder = finished / "table5b" / "digits-byol-row1"
    values = [
        record.value
        for seed in (1337, 1338)
        for record in read_results(folder / f"seed{seed}" / "results.json")
        if (record.network, record.protocol, record.metric) == ("online", "knn", "top1")
    ]
    mean, spread = sum(values) / 2, abs(values[0] - values[1]) / 2
    assert first[5] == f"{mean:.1f} +- {spread:.1f}"


@pytest.mark.slow
@pytest.mark.ci
def test_records_name_their_rows(finished):
    records = read_results(finished / "results.json")
    assert {record.network for record in records} == {"online"}
    assert {record.seed for record in records} == {1337, 1338}
    rows = {record.settings["paper_row"] for record in records}
    assert rows == {"1 (byol): row 1"}
    assert {record.settings["paper_numbers"]["top1"] for record in records} == {"0.3"}


@pytest.mark.slow
@pytest.mark.ci
def test_nothing_is_trained_twice_and_more_seeds_go_on(dataset, finished, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("trained again")

    before = cells(finished)
    with monkeypatch.context() as patch:
        patch.setattr(train, "pretrain", refuse)
        ablate.run(config_of(dataset, seeds=2), finished)
        assert cells(finished) == before
        with pytest.raises(GuardError, match="trained again"):
            ablate.run(config_of(dataset, seeds=3), finished)


@pytest.mark.slow
def test_a_row_that_diverges_says_so(dataset, tmp_path):
    numbers = {"top1": "72.5"}
    single = row(1, dataset, numbers, optimizer__base_learning_rate=1e38)
    ablate.run(config_of(dataset, rows=(single,)), tmp_path)
    assert cells(tmp_path)[2][3:] == ["- (1 of 1 diverged)", "-", "-", "-"]
    # And it is not tried again.
    ablate.run(config_of(dataset, rows=(single,)), tmp_path)


def test_a_collapse_is_marked(tmp_path):
    config = config_of("digits")
    single = config.rows[0]
    folder = tmp_path / "run"
    record = Record(
        *("std_sqrt_dim", 0.01, "1", "projection", "online", "digits", "test", 3, 2, 0, {})
    )
    write_results(folder / "results.json", [record])
    runs = [ablate.Run(0, ml_collections.ConfigDict(single["config"]), folder)]
    assert "0.01 collapsed" in ablate._table(config, runs, {}, {})


@pytest.mark.slow
def test_a_run_that_did_not_evaluate_itself_is_not_trained_again(dataset, tmp_path, monkeypatch):
    """As on ImageNet; once linear evaluation by SGD has run there, that is the number."""
    single = row(1, dataset, {}, evaluation__at_end=False, num_steps=1)
    ablate.run(config_of(dataset, rows=(single,)), tmp_path)
    assert cells(tmp_path)[2][2:] == ["- (1 of 1 not evaluated)", "-", "-", "-"]
    (folder,) = (tmp_path / "table5b").glob("*/*")
    shared = ("percent", "linear", "online", dataset, "test", 12, 1, 1337)
    records = [
        Record("top1", value, *shared, {"solver": solver})
        for solver, value in (("lbfgs", 60.0), ("sgd", 70.0))
    ]
    write_results(folder / "results.json", records)
    monkeypatch.setattr(train, "pretrain", lambda *given: pytest.fail("trained again"))
    ablate.run(config_of(dataset, rows=(single,)), tmp_path)
    assert cells(tmp_path)[2][2:] == ["70.0", "-", "-", "-"]


@pytest.mark.parametrize(
    ("error", "raised", "reason"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), GuardError, "RuntimeError: RESOURCE_EXHAUSTED"),
        (GuardError("disk full"), GuardError, "disk full"),
        (UserError("too small"), UserError, "too small"),
    ],
)
def test_a_row_that_fails_is_listed_and_the_others_go_on(
    tmp_path, monkeypatch, error, raised, reason
):
    config = config_of("digits", rows=(row(1, "digits", {}), row(3, "digits", {})))
    trained = []

    def pretrain(config, workdir):
        trained.append(workdir.parent.name)
        if len(trained) == 1:
            raise error

    monkeypatch.setattr(train, "pretrain", pretrain)
    with pytest.raises(raised, match="1 of 2 runs of table 5b failed: digits-byol-row1") as told:
        ablate.run(config, tmp_path)
    assert "\n" not in str(told.value)
    assert trained == ["digits-byol-row1", "digits-byol-row3"]
    text = (tmp_path / "table.md").read_text()
    assert f"digits-byol-row1, seed 1337 failed: {reason}" in text
    # Tried again, and listed no more.
    ablate.run(config, tmp_path)
    assert len(trained) == 4
    assert "failed" not in (tmp_path / "table.md").read_text()


def test_a_signal_ends_the_table(tmp_path, monkeypatch):
    def pretrain(config, workdir):
        raise Stopped(15, "saved")

    monkeypatch.setattr(train, "pretrain", pretrain)
    config = config_of("digits", rows=(row(1, "digits", {}), row(3, "digits", {})))
    with pytest.raises(Stopped):
        ablate.run(config, tmp_path)


def test_what_changes_no_number_is_the_same_run(tmp_path):
    config = page.get_config("table=5b,rows=2,base=digits")
    (run,) = ablate.plan(config, tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(run.config.to_dict()))
    config.override = "log_every=7,checkpoint_every=9,keep_checkpoints=1,data.threads=2,stop_at=5"
    ablate.plan(config, tmp_path)
    config.override = "batch_size=32"
    with pytest.raises(UserError, match=r"batch_size=64, now 32"):
        ablate.plan(config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"override": "num_stops=3"}, "config.override.*num_stops"),
        ({"override": "num_steps"}, "config.override.*'num_steps'"),
        ({"override": "batch_size=big"}, "batch_size='big'.*int"),
        ({"override": "batch_size=9"}, "table 5b.*batch_size=9"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        ablate.run(config_of(dataset, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_other_settings_in_the_same_workdir_are_refused(dataset, finished):
    before = (finished / "table.md").read_text()
    with pytest.raises(UserError, match="another --workdir"):
        ablate.run(config_of(dataset, override="num_steps=3"), finished)
    assert (finished / "table.md").read_text() == before
    assert json.loads((finished / "config.json").read_text())["job"] == "ablate"


def test_a_folder_of_an_earlier_version_is_the_same_run(tmp_path):
    """Its config.json has the objective's keys in their old places, and lacks later dials."""
    config = page.get_config("table=5b,rows=2,base=digits")
    (run,) = ablate.plan(config, tmp_path)
    old = json.loads(json.dumps(run.config.to_dict()))
    own = old["objective"]["info_nce"]
    old["objective"] = {"name": "info_nce", "normalization": "l2", "margin": 0.4, **own}
    old["objective"]["semi_hard"] = False
    del old["augment"]["small"], old["network"]["projector"]["output_norm"]
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(old))
    ablate.plan(config, tmp_path)
    old["objective"]["beta"] = 0.25
    (run.folder / "config.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="other settings"):
        ablate.plan(config, tmp_path)


def test_an_override_of_a_moved_key_names_the_new_one(tmp_path):
    config = page.get_config("table=5b,rows=2,base=digits")
    config.override = "objective.beta=0.5"
    with pytest.raises(UserError, match=r"config\.objective\.info_nce\.beta"):
        ablate.plan(config, tmp_path)


def test_a_row_with_labels_in_a_table_is_the_same_run_the_next_time(tmp_path):
    """The config.json of a run has the data set by its whole name."""
    config = page.get_config("table=5b,rows=2,base=digits")
    config.override = f"dataset=folder:{tmp_path},data.labels=x.csv"
    (run,) = ablate.plan(config, tmp_path)
    assert run.config.dataset == f"folder:{tmp_path},labels=x.csv"
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(run.config.to_dict()))
    ablate.plan(config, tmp_path)
    config.override = f"dataset=folder:{tmp_path},labels=x.csv"
    ablate.plan(config, tmp_path)
    config.override = f"dataset=folder:{tmp_path},labels=y.csv"
    with pytest.raises(UserError, match=r"other settings .*now folder:"):
        ablate.plan(config, tmp_path)


def damage(folder: pathlib.Path) -> None:
    """Empties the files of the newest of two checkpoints of a run."""
    tiny_checkpoints.save(folder, "digits", steps=(1, 2), total_steps=2)
    for file in (folder / "checkpoints" / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def test_a_damaged_checkpoint_fails_its_row_alone(dataset, tmp_path, monkeypatch):
    config = config_of(dataset, rows=(row(1, dataset, {}), row(3, dataset, {})))
    runs = ablate.plan(config, tmp_path)
    damage(runs[0].folder)
    trained, pretrain = [], train.pretrain

    def of_the_first(config, workdir):
        if workdir != runs[0].folder:
            trained.append(workdir)
        else:
            pretrain(config, workdir)

    monkeypatch.setattr(train, "pretrain", of_the_first)
    with pytest.raises(UserError, match=r"1 of 2 runs .*row1.*damaged") as told:
        ablate.run(config, tmp_path)
    assert "\n" not in str(told.value)
    assert trained == [runs[1].folder]


def test_a_row_may_skip_its_damaged_checkpoint(dataset, tmp_path, monkeypatch):
    config = config_of(dataset, rows=(row(1, dataset, {}),), override="skip_damaged=True")
    (run,) = ablate.plan(config, tmp_path)
    damage(run.folder)
    starts = []

    def pretrain(config, workdir):
        start = prepare.newest.to_continue(workdir / "checkpoints", config.skip_damaged)
        starts.append(start)

    monkeypatch.setattr(train, "pretrain", pretrain)
    ablate.run(config, tmp_path)
    assert starts == [1]
