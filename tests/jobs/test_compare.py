"""Whether two results differ by more than chance, beside a permutation test."""

import numpy as np
import pytest

import tiny_runs
from byol_jax.jobs import compare
from byol_jax.results import ranked, scores
from byol_jax.results.records import read_results, validate
from experiments import compare as page
from tiny_records import make_record

COUNT = 60


def write(workdir, wrong, seed=0, **changes):
    """Predictions of which these images are wrong, in an order of their own."""
    order = np.random.default_rng(seed).permutation(COUNT)
    labels = np.arange(COUNT) % 7
    first = np.where(np.isin(np.arange(COUNT), wrong), (labels + 1) % 7, labels)
    classes = np.stack([first, (first + 3) % 7], axis=1)
    about = ranked.about_of(make_record(protocol="transfer/linear"))
    part = ranked.Ranked(order, labels[order], classes[order], about)
    ranked.write(workdir / ranked.FILE, part._replace(**changes))
    return workdir


def config_of(a, b):
    config = page.get_config()
    config.a, config.b = str(a), str(b)
    return config


def test_both_accuracies_what_one_alone_gets_right_and_the_p_value(tmp_path, capsys):
    """12 wrong and 4 wrong, 3 of them the same: 9 against 1, p = 2 (1 + 10) / 2^10."""
    a = write(tmp_path / "a", range(12))
    b = write(tmp_path / "b", [*range(3), 40], seed=1)
    compare.run(config_of(a, b / ranked.FILE), tmp_path / "out")
    (record,) = read_results(tmp_path / "out" / "results.json")
    validate(record)
    assert (record.metric, record.n_examples) == ("top1_difference", COUNT)
    assert record.value == pytest.approx(100 * (48 - 56) / COUNT)
    settings = record.settings
    assert settings["p_value"] == pytest.approx(22 / 1024)
    assert settings["significant"]
    assert [settings[name]["only_right"] for name in ("a", "b")] == [1, 9]
    assert [settings[name]["top1"] for name in ("a", "b")] == pytest.approx([80, 100 * 56 / 60])
    assert settings["a"]["standard_error"] == pytest.approx(100 * (0.8 * 0.2 / 60) ** 0.5)
    # Of the differences 1, -1 and 0 of single images.
    each = np.repeat([1, -1, 0], [1, 9, 50])
    assert settings["standard_error"] == pytest.approx(100 * each.std() / COUNT**0.5)
    printed = capsys.readouterr().out
    assert "80.0 +- 5.2" in printed and "93.3 +- 3.2" in printed
    assert "a - b: -13.3" in printed and "p = 0.0215 (significant" in printed


def test_two_names_of_a_data_set_are_both_told(tmp_path):
    """A set that was moved between two evaluations; ids and labels are what must be equal."""
    about = ranked.about_of(make_record(protocol="transfer/linear"))
    moved = write(tmp_path / "b", [], about={**about, "dataset": "npz:elsewhere.npz"})
    compare.run(config_of(write(tmp_path / "a", []), moved), tmp_path / "out")
    (record,) = read_results(tmp_path / "out" / "results.json")
    assert record.dataset == f"{about['dataset']} and npz:elsewhere.npz"


def test_equal_predictions_do_not_differ(tmp_path, capsys):
    a, b = write(tmp_path / "a", [1, 2]), write(tmp_path / "b", [1, 2], seed=1)
    compare.run(config_of(a, b), tmp_path / "out")
    (record,) = read_results(tmp_path / "out" / "results.json")
    assert (record.value, record.settings["p_value"]) == (0, 1)
    assert "a - b: +0.0" in capsys.readouterr().out


def test_another_comparison_is_another_record(tmp_path):
    names = [write(tmp_path / name, range(i)) for i, name in enumerate("abc")]
    for other in names[1:]:
        compare.run(config_of(names[0], other), tmp_path / "out")
        compare.run(config_of(names[0], other), tmp_path / "out")
    assert len(read_results(tmp_path / "out" / "results.json")) == 2


def test_the_exact_test_is_the_papers_permutation_test():
    """SimCLR App. B.8.1: predictions of each example exchanged at random, 100,000 times."""
    rng = np.random.default_rng(3)
    first, second = rng.random(300) < 0.8, rng.random(300) < 0.74
    difference = first.astype(int) - second
    signs = rng.choice([-1, 1], (100_000, 300)).astype(np.int8)
    null = np.abs(signs @ difference.astype(np.float32))
    expected = np.mean(null >= abs(difference.sum()) - 1e-3)
    assert 0.01 < expected < 0.5
    assert scores.compare(first, second).p_value == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": np.arange(1, COUNT + 1)}, "same images.*59 of them"),
        ({"labels": np.zeros(COUNT, int)}, "labels differ"),
        ({"about": ranked.about_of(make_record(split="valid"))}, "test and valid"),
    ],
)
def test_predictions_for_other_images_or_labels_are_refused(tmp_path, refused, changes, words):
    a, b = write(tmp_path / "a", [1]), write(tmp_path / "b", [2], **changes)
    refused(compare.run, config_of(a, b), words)


def test_what_is_not_there_or_no_file_of_predictions_is_refused(tmp_path, refused):
    a = write(tmp_path / "a", [1])
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "other.npz", ids=np.zeros(3))
    refused(compare.run, config_of("", a), "config.a is needed")
    refused(compare.run, config_of(a, ""), "config.b is needed")
    for name in ("text.npz", "other.npz", "absent.npz", "a/none"):
        refused(compare.run, config_of(a, tmp_path / name), name)


@pytest.mark.slow
@pytest.mark.ci
def test_the_program_compares(tmp_path):
    a, b = write(tmp_path / "a", [1]), write(tmp_path / "b", [2])
    page_path = "--config=experiments/compare.py"
    arguments = (page_path, f"--config.a={a}", f"--workdir={tmp_path / 'out'}")
    done = tiny_runs.program(*arguments, f"--config.b={b}")
    assert done.returncode == 0, done.stderr
    assert "not significant" in done.stdout
    done = tiny_runs.program(*arguments, f"--config.b={tmp_path}")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
