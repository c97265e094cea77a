"""Records of checkpoints, and the checkpoints of a run one after the other."""

import shutil

import ml_collections
import pytest

import tiny_checkpoints
from byol_jax import weights
from byol_jax.errors import GuardError, UserError
from byol_jax.evals import checkpoint, follow
from byol_jax.results.records import read_results, validate, write_results
from byol_jax.runtime import checkpoints
from tiny_records import make_record


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 6 steps with checkpoints at 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("run")
    tiny_checkpoints.save(workdir, "digits", (2, 4, 6), 10)
    return workdir


def make_config(checkpoint, **changes):
    config = ml_collections.ConfigDict(
        {"checkpoint": str(checkpoint), "follow": True, "follow_seconds": 0.01, "follow_hours": 1.0}
    )
    config.update(changes)
    return config


def one_record(trained, protocol="test"):
    score = follow.Score(protocol, "top1", 50.0, {})
    return [follow.record(trained, "online", score, follow.Scored("digits", "test", 3))]


def copy_step(run, workdir, step):
    """As a run writes one: renamed into place when it is complete."""
    folder = workdir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(run / "checkpoints" / str(step), folder / f"{step}.partial")
    (folder / f"{step}.partial").rename(folder / str(step))


class Clock:
    """Time that passes in `sleep` alone, each call of which runs the next event."""

    def __init__(self, monkeypatch, *events):
        self.now, self.events = 0.0, list(events)
        monkeypatch.setattr(follow, "time", self)

    def monotonic(self):
        """As in `time`."""
        return self.now

    def sleep(self, seconds):
        """As in `time`, then the next event."""
        self.now += seconds
        if self.events:
            self.events.pop(0)()


def test_a_record_names_the_step_of_trained_networks_alone(run):
    trained = checkpoint.load_weights(make_config(run))
    assert (trained.step, trained.total_steps) == (6, 6)
    score, scored = follow.Score("p", "m", 1.0, {"a": 1}), follow.Scored("d", "test", 2)
    for network, step in (("online", 6), ("target", 6), ("random", None), ("pixels", None)):
        record = follow.record(trained, network, score, scored)
        validate(record)
        assert (record.network, record.checkpoint_step) == (network, step)
        assert (record.seed, record.unit, record.settings) == (1337, "percent", {"a": 1})


def test_one_checkpoint_is_evaluated_once(run, tmp_path):
    seen = []

    def evaluate(trained):
        seen.append(trained.step)
        return one_record(trained)

    for path in (run, run / "checkpoints" / "4", run):
        follow.for_each_checkpoint(make_config(path, follow=False), evaluate, tmp_path)
    assert seen == [6, 4, 6]
    records = read_results(tmp_path / "results.json")
    assert sorted(record.checkpoint_step for record in records) == [4, 6]
    assert (tmp_path / "config.json").exists()


def test_a_run_is_followed_from_before_its_first_checkpoint_to_its_end(run, tmp_path, monkeypatch):
    workdir, out = tmp_path / "run", tmp_path / "out"
    clock = Clock(
        monkeypatch,
        lambda: None,
        lambda: copy_step(run, workdir, 2),
        lambda: (workdir / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(),
        lambda: (copy_step(run, workdir, 4), copy_step(run, workdir, 6)),
    )
    written = []

    def evaluate(trained):
        path = out / "results.json"
        records = read_results(path) if path.exists() else []
        written.append((trained.step, [r.checkpoint_step for r in records]))
        return one_record(trained)

    follow.for_each_checkpoint(make_config(workdir), evaluate, out, [{"protocol": "test"}])
    # In order, and json is brought up to date after each.
    assert written == [(2, []), (4, [2]), (6, [2, 4])]
    assert not clock.events and clock.now == pytest.approx(0.04)


def test_what_was_evaluated_is_not_evaluated_again(run, tmp_path):
    trained = {step: weights.load(run / "checkpoints" / str(step)) for step in (2, 4)}
    write_results(tmp_path / "results.json", one_record(trained[2]))
    write_results(tmp_path / "results.json", one_record(trained[4], "another"))
    seen = []

    def evaluate(trained):
        seen.append(trained.step)
        return one_record(trained)

    for _ in range(2):  # and ends at once when all is done
        follow.for_each_checkpoint(make_config(run), evaluate, tmp_path, [{"protocol": "test"}])
        assert seen == [4, 6]


def test_a_step_that_was_deleted_meanwhile_is_left_out(run, tmp_path, monkeypatch, caplog):
    workdir = tmp_path / "run"
    for step in (2, 4, 6):
        copy_step(run, workdir, step)
    seen = []

    def evaluate(trained):
        seen.append(trained.step)
        shutil.rmtree(workdir / "checkpoints" / "4", ignore_errors=True)
        return one_record(trained)

    with caplog.at_level("INFO"):
        follow.for_each_checkpoint(make_config(workdir), evaluate, tmp_path / "out")
    assert seen == [2, 6]
    (line,) = (m for m in caplog.messages if "gone" in m)
    assert str(workdir / "checkpoints" / "4") in line


def test_a_step_that_is_being_deleted_is_left_out_and_a_damaged_one_refused(
    run, tmp_path, monkeypatch
):
    folder = tmp_path / "run" / "checkpoints"
    copy_step(run, tmp_path / "run", 2)
    copy_step(run, tmp_path / "run", 6)
    shutil.rmtree(folder / "2" / "state")
    with pytest.raises(UserError, match="2 is damaged"):
        follow.for_each_checkpoint(make_config(tmp_path / "run"), one_record, tmp_path / "out")
    monkeypatch.setattr(
        checkpoints.time, "sleep", lambda seconds: shutil.rmtree(folder / "2", ignore_errors=True)
    )
    follow.for_each_checkpoint(make_config(tmp_path / "run"), one_record, tmp_path / "out")
    (record,) = read_results(tmp_path / "out" / "results.json")
    assert record.checkpoint_step == 6


def test_following_ends_when_nothing_comes_any_more(run, tmp_path, monkeypatch, caplog):
    workdir = tmp_path / "run"
    clock = Clock(monkeypatch, *[lambda: None] * 50, lambda: copy_step(run, workdir, 2))
    config = make_config(workdir, follow_hours=1.0, follow_seconds=60.0)
    with caplog.at_level("INFO"):
        follow.for_each_checkpoint(config, one_record, tmp_path / "out")
    # Step 2 came after 51 minutes; an hour and a minute after it the end.
    assert clock.now == 60 * (51 + 61)
    (line,) = (m for m in caplog.messages if "no new checkpoint" in m)
    assert str(workdir / "checkpoints") in line and "1 hours" in line


def test_old_checkpoints_do_not_know_their_end(tmp_path, monkeypatch):
    tiny_checkpoints.save(tmp_path, "digits", (2,), 10, None)
    assert weights.load(tmp_path).total_steps is None
    clock = Clock(monkeypatch)
    config = make_config(tmp_path, follow_seconds=1800.0)
    follow.for_each_checkpoint(config, one_record, tmp_path / "out")
    assert clock.now == 3 * 1800


def test_one_step_cannot_be_followed(run, tmp_path):
    for path, key in ((run / "checkpoints" / "4", "config.follow"), ("", "config.checkpoint")):
        with pytest.raises(UserError, match=key):
            follow.for_each_checkpoint(make_config(path), one_record, tmp_path)


def test_several_processes_cannot_follow(run, tmp_path, monkeypatch):
    monkeypatch.setattr(follow.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"config\.follow .* 2"):
        follow.for_each_checkpoint(make_config(run), one_record, tmp_path)


def test_names_are_joined_by_a_plus():
    allowed = ("random", "target", "online")
    assert follow.chosen({"network": "online+random"}, "network", allowed) == ["online", "random"]
    for text in ("online+online", "offline", ""):
        with pytest.raises(UserError, match=r"config\.network='"):
            follow.chosen({"network": text}, "network", allowed)


def test_a_finished_step_has_a_record_of_every_protocol_and_network():
    config = make_config("run", dataset="")
    fields = {"protocol": "p", "network": "online", "split": "test", "solver": "sgd"}
    done = follow.finished(config, ["p"], ["online"], "test", solver="sgd")
    assert done == [fields]
    config.dataset = "digits"
    done = follow.finished(config, ["p", "q"], ["random", "online"], "test", solver="sgd")
    fields["dataset"] = "digits"
    assert len(done) == 4
    assert fields in done and {**fields, "protocol": "q", "network": "random"} in done


def test_a_network_that_was_not_asked_for_before_is_evaluated(run, tmp_path):
    """Steps count as done with all that is asked for; one record of no training is for each."""
    seen = []

    def evaluate(trained):
        seen.append(trained.step)
        score, scored = follow.Score("p", "top1", 50.0, {}), follow.Scored("digits", "test", 3)
        return [follow.record(trained, name, score, scored) for name in networks]

    config = make_config(run, dataset="digits")
    for networks in (["online"], ["random", "online"], ["random", "online"], ["random"]):
        done = follow.finished(config, ["p"], networks, "test")
        follow.for_each_checkpoint(config, evaluate, tmp_path, done)
    assert seen == [2, 4, 6] * 2


def test_other_settings_are_refused_even_where_every_step_is_done(run, tmp_path):
    """The first one that differs is named; what an earlier version did not write is none."""
    records = [
        record._replace(settings={"k": 20, "rates": [0.1, 0.2]})
        for step in (2, 4)
        for record in one_record(weights.load(run / "checkpoints" / str(step)))
    ]
    write_results(tmp_path / "results.json", records)

    def follow_with(seen, **settings):
        def evaluate(trained):
            seen.append(trained.step)
            return one_record(trained)

        config = make_config(run)
        known = lambda trained, record: settings if record.protocol == "test" else None  # noqa: E731
        follow.for_each_checkpoint(config, evaluate, tmp_path, [{"protocol": "test"}], known)

    seen = []
    before = (tmp_path / "results.json").read_text()
    for settings, words in (
        ({"new": 1, "k": 20, "rates": (0.1,)}, r"step 2 with rates=\[0.1, 0.2\].*rates=\[0.1\]"),
        ({"k": 7, "rates": (0.1,)}, "k=20.*k=7"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            follow_with(seen, **settings)
        assert "\n" not in str(caught.value) and "another --workdir" in str(caught.value)
    assert not seen and (tmp_path / "results.json").read_text() == before
    follow_with(seen, k=20, rates=(0.1, 0.2), new=1)
    assert seen == [6]


def test_numbers_are_reported_if_what_stands_beside_them_cannot_be_written(tmp_path, capsys):
    """As predictions, or the network of a fine-tuning, on a full disk."""
    record = make_record(n_examples=400, value=90.0)

    def save():
        with follow.numbers_first([record], tmp_path):
            raise GuardError("no space left on the disk of predictions.npz")

    with pytest.raises(GuardError, match=r"predictions.npz"):
        save()
    assert "90.0 +- 1.5" in capsys.readouterr().out
    (written,) = read_results(tmp_path / "results.json")
    assert written.value == 90.0
