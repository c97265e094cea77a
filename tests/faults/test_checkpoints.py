"""Damaged files of a checkpoint are harmless or refused; a short run of the fuzz."""

import numpy as np
import pytest

import tiny_checkpoints
from tests.faults import checkpoints as fuzz


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    rng = np.random.default_rng(0)
    tree = {"step": np.int32(6), "w": rng.normal(size=(40, 50)), "zeros": np.zeros(100)}
    record = {"config": {"seed": 3, "rate": 0.1, "name": "x", "none": None}}
    return tiny_checkpoints.write(tmp_path_factory.mktemp("run"), tree, record, (2, fuzz.STEP))


def outcome_of(outcomes, file, damage):
    return [o.result for o in outcomes if o.case.file == file and o.case.damage == damage]


@pytest.mark.slow
@pytest.mark.ci
def test_no_damaged_file_gives_other_values_or_a_traceback(workdir, capfd):
    outcomes = fuzz.fuzz(workdir, fuzz.STEP, rounds=2)
    assert not [o for o in outcomes if o.result == "lost"]
    assert "Traceback" not in capfd.readouterr().err
    for damage, times in (("deleted", 1), ("emptied", 1), ("truncated", 2), ("flipped", 2)):
        assert outcome_of(outcomes, "record/metadata", damage) == ["refused"] * times
    assert fuzz.table(outcomes).splitlines()[-1].endswith("| 0 |")
    # The step is as it was.
    assert fuzz.try_case(*untouched(workdir)).result == "survived"


def untouched(workdir):
    folder = workdir / "checkpoints" / str(fuzz.STEP)
    content = (folder / "record" / "metadata").read_bytes()
    read = fuzz.reader(workdir, fuzz.STEP)
    return folder, fuzz.Case("record/metadata", "none", content), read, read()


def test_other_values_and_tracebacks_count_as_lost(workdir):
    folder, case, read, (flat, config) = untouched(workdir)
    assert fuzz.try_case(folder, case, read, (flat, {**config, "seed": 1})).result == "lost"
    name = next(iter(flat))
    other = {**flat, name: flat[name] + 1}
    assert fuzz.try_case(folder, case, lambda: (other, config), (flat, config)).result == "lost"

    def fail():
        raise KeyError("config")

    assert fuzz.try_case(folder, case, fail, (flat, config)).words == "KeyError('config')"
